//! A bare relay on the ring, the floor that the gateway's own cost is measured from: `relay LISTEN TARGET`.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use lockgate_ring::uring::{Config, Ring};
use lockgate_ring::{ConnId, Driver, Event, Wait, listen_socket, raise_open_files_limit};

/// Slots that one direction may keep from the pool before its source is paused.
const PINNED_MAX: usize = 64;

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut address = || -> io::Result<SocketAddr> {
        let text = arguments.next().unwrap_or_default();
        text.parse().map_err(|_| io::Error::other("usage: relay LISTEN TARGET (addresses with ports)"))
    };
    let (listen, target) = (address()?, address()?);
    raise_open_files_limit()?;
    let bundles = std::env::var_os("RELAY_NO_BUNDLES").is_none();
    let mut ring = Ring::new(Config { bundles, ..Config::default() })?;
    ring.listen(listen_socket(listen, 4096, true)?)?;
    let mut others: HashMap<ConnId, ConnId> = HashMap::new();
    let mut paused: Vec<ConnId> = Vec::new();
    let mut events = Vec::new();
    loop {
        ring.turn(Wait::Forever, &mut events)?;
        for event in events.drain(..) {
            step(&mut ring, &mut others, &mut paused, target, event)?;
        }
        paused.retain(|conn| {
            let full = others.get(conn).is_some_and(|other| ring.pinned(*other) > PINNED_MAX);
            if !full {
                ring.resume(*conn);
            }
            full
        });
    }
}

fn step(
    ring: &mut Ring,
    others: &mut HashMap<ConnId, ConnId>,
    paused: &mut Vec<ConnId>,
    target: SocketAddr,
    event: Event,
) -> io::Result<()> {
    match event {
        Event::Accepted { conn, .. } => {
            let other = ring.dial(target)?;
            others.insert(conn, other);
            others.insert(other, conn);
            ring.resume(conn);
            ring.resume(other);
        }
        Event::Received { conn, lease } => {
            if let Some(other) = others.get(&conn) {
                ring.send_slot(*other, &lease, 0..lease.len());
                if ring.pinned(*other) > PINNED_MAX && !paused.contains(&conn) {
                    ring.pause(conn);
                    paused.push(conn);
                }
            }
            ring.release(lease);
        }
        Event::EndOfStream { conn } | Event::Failed { conn, .. } | Event::Dialed { conn, result: Err(_) } => {
            ring.close(conn, true);
            if let Some(other) = others.get(&conn) {
                ring.close(*other, true);
            }
        }
        Event::Closed { conn } => {
            others.remove(&conn);
        }
        _ => {}
    }
    Ok(())
}

//! A bare relay on a driver, the floor that the gateway's own cost is measured from: `relay LISTEN TARGET [epoll]`.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;

use lockgate_ring::epoll::Poller;
use lockgate_ring::uring::Ring;
use lockgate_ring::{Config, ConnId, Driver, Event, Wait, listen_socket, raise_open_files_limit};

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
    let config = Config { bundles, ..Config::default() };
    match arguments.next().as_deref() {
        Some("epoll") => relay(Poller::new(config)?, listen, target),
        _ => relay(Ring::new(config)?, listen, target),
    }
}

fn relay(mut ring: impl Driver, listen: SocketAddr, target: SocketAddr) -> io::Result<()> {
    ring.listen(listen_socket(listen, 4096, true)?)?;
    let mut relay = Relay::default();
    let mut events = Vec::new();
    loop {
        ring.turn(Wait::Forever, &mut events)?;
        for event in events.drain(..) {
            relay.step(&mut ring, target, event)?;
        }
        let Relay { paused, others, .. } = &mut relay;
        paused.retain(|conn| {
            let full = others.get(conn).is_some_and(|other| ring.pinned(*other) > PINNED_MAX);
            if !full {
                ring.resume(*conn);
            }
            full
        });
    }
}

#[derive(Default)]
struct Relay {
    others: HashMap<ConnId, ConnId>,
    paused: Vec<ConnId>,
    ended: HashSet<ConnId>,
}

impl Relay {
    fn step(&mut self, ring: &mut impl Driver, target: SocketAddr, event: Event) -> io::Result<()> {
        match event {
            Event::Accepted { conn, .. } => {
                let other = ring.dial(target)?;
                self.others.insert(conn, other);
                self.others.insert(other, conn);
                ring.resume(conn);
                ring.resume(other);
            }
            Event::Received { conn, lease } => {
                if let Some(other) = self.others.get(&conn) {
                    ring.send_slot(*other, &lease, 0..lease.len());
                    if ring.pinned(*other) > PINNED_MAX && !self.paused.contains(&conn) {
                        ring.pause(conn);
                        self.paused.push(conn);
                    }
                }
                ring.release(lease);
            }
            Event::EndOfStream { conn } => {
                self.ended.insert(conn);
                match self.others.get(&conn) {
                    Some(other) if !self.ended.contains(other) => ring.finish(*other),
                    _ => self.close(ring, conn),
                }
            }
            Event::Failed { conn, .. } | Event::Dialed { conn, result: Err(_) } => self.close(ring, conn),
            Event::Closed { conn } => {
                self.others.remove(&conn);
                self.ended.remove(&conn);
            }
            _ => {}
        }
        Ok(())
    }

    fn close(&self, ring: &mut impl Driver, conn: ConnId) {
        ring.close(conn, true);
        if let Some(other) = self.others.get(&conn) {
            ring.close(*other, true);
        }
    }
}

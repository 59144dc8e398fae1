//! Receive bundles are young in the kernel, and a bundle that is read in the wrong order is somebody else's data:
//! a ring uses them only after it has seen them work.

use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::Ring;
use crate::conns::Phase;
use crate::{Config, Driver, Event, Wait};

const SLOTS: u16 = 8;
const SLOT_BYTES: u32 = 64;
/// Three slots and a half: later rounds begin at other slots, and some wrap around the end of the buffer ring.
const ROUND_BYTES: u8 = 3 * 64 + 32;
const ROUNDS: u8 = 8;
/// Far more than a working kernel needs.
const PATIENCE: Duration = Duration::from_millis(500);

/// Sends known bytes through a ring of its own and compares.
///
/// # Errors
/// When that ring can not be made.
pub(super) fn bundles_work() -> io::Result<bool> {
    let config = Config {
        slots: SLOTS,
        slot_bytes: SLOT_BYTES,
        entries: 8,
        connections_max: 1,
        bundles: true,
        ..Config::default()
    };
    let mut ring = Ring::with(config)?;
    if !ring.kernel.bundles() {
        return Ok(false);
    }
    let (ours, mut peer) = UnixStream::pair()?;
    let conn = ring.common.conns.insert(TcpStream::from(OwnedFd::from(ours)), Phase::Open)?;
    ring.resume(conn);
    for round in 0..ROUNDS {
        let sent: Vec<u8> = (0..ROUND_BYTES).map(|at| at ^ (round << 5)).collect();
        peer.write_all(&sent)?;
        if receive(&mut ring, sent.len())? != sent {
            return Ok(false);
        }
    }
    Ok(true)
}

fn receive(ring: &mut Ring, bytes: usize) -> io::Result<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    let mut events = Vec::new();
    let mut got = Vec::new();
    while got.len() < bytes && Instant::now() < until {
        ring.turn(Wait::Until(until), &mut events)?;
        for event in events.drain(..) {
            if let Event::Received { lease, .. } = event {
                got.extend_from_slice(ring.bytes(&lease));
                ring.release(lease);
            }
        }
    }
    Ok(got)
}

//! The contract against the real kernel, on loopback.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::*;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);

struct Rig {
    ring: Ring,
    address: SocketAddr,
    listener: ListenerId,
    events: Vec<Event>,
    deadline: Instant,
}

impl Rig {
    fn new(config: Config) -> Rig {
        let mut ring = Ring::new(config).unwrap();
        let socket = system::listen_socket("127.0.0.1:0".parse().unwrap(), 4096, false).unwrap();
        let address = socket.local_addr().unwrap();
        let listener = ring.listen(socket).unwrap();
        Rig { ring, address, listener, events: Vec::new(), deadline: Instant::now() + PATIENCE }
    }

    fn small(slots: u16, slot_bytes: u32) -> Rig {
        Rig::new(Config { slots, slot_bytes, ..Config::default() })
    }

    /// One turn that waits at most 20 ms.
    fn turn(&mut self) -> Vec<Event> {
        assert!(Instant::now() < self.deadline, "the test hangs: {:?}", self.ring.counts());
        self.ring.turn(Wait::Until(Instant::now() + Duration::from_millis(20)), &mut self.events).unwrap();
        std::mem::take(&mut self.events)
    }

    /// Turns until `f` returns something.
    fn until<T>(&mut self, mut f: impl FnMut(&mut Ring, Event) -> Option<T>) -> T {
        loop {
            let mut found = None;
            for event in self.turn() {
                let answer = f(&mut self.ring, event);
                if found.is_none() {
                    found = answer;
                }
            }
            if let Some(found) = found {
                return found;
            }
        }
    }

    /// Turns for a while; every event goes to `f`.
    fn for_a_while(&mut self, ms: u64, mut f: impl FnMut(&mut Ring, Event)) {
        let until = Instant::now() + Duration::from_millis(ms);
        while Instant::now() < until {
            for event in self.turn() {
                f(&mut self.ring, event);
            }
        }
    }

    fn accept(&mut self) -> ConnId {
        self.until(|_, event| match event {
            Event::Accepted { conn, .. } => Some(conn),
            event => panic!("{event:?}"),
        })
    }

    /// A connected pair: ours and the peer's.
    fn pair(&mut self) -> (ConnId, TcpStream) {
        let peer = TcpStream::connect(self.address).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        (self.accept(), peer)
    }

    fn wait_closed(&mut self, conn: ConnId) {
        self.until(|_, event| match event {
            Event::Closed { conn: closed } if closed == conn => Some(()),
            event => panic!("{event:?}"),
        });
    }

    fn assert_idle(&mut self) {
        // A cancel that came too late is no operation of a connection, but its completion may be under way.
        let counts = self.ring.counts();
        assert_eq!(counts.connections, 0);
        assert_eq!((counts.slots_in_use, counts.copy_buffers_in_use), (0, 0));
        assert_eq!(counts.in_flight, 2, "the accept and the waker");
        assert_eq!(self.ring.pool.available(), u32::from(self.ring.pool.slots()));
    }
}

/// Bytes that are different everywhere: a lost, doubled or moved one shows.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).take(len).collect()
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() >> 1).unwrap() % n
    }
}

/// A peer that writes everything, then reads everything to the end, both at once.
fn exchange(mut peer: TcpStream, bytes: Vec<u8>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut writer = peer.try_clone().unwrap();
        let writing = thread::spawn(move || {
            writer.write_all(&bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        writing.join().unwrap();
        got
    })
}

#[derive(Clone, Copy, Debug)]
enum Echo {
    Slot,
    Copy,
    /// Cut into pieces of these lengths, by turns out of the slot and as copies.
    Mixed(usize),
}

fn echo(ring: &mut Ring, conn: ConnId, lease: Lease, how: Echo) {
    match how {
        Echo::Slot => ring.send_slot(conn, &lease, 0..lease.len()),
        Echo::Copy => {
            let bytes = ring.bytes(&lease).to_vec();
            ring.send_copy(conn, &bytes);
        }
        Echo::Mixed(step) => {
            let mut at = 0;
            let mut copied = false;
            while at < lease.len() {
                let end = (at + step).min(lease.len());
                if copied {
                    let bytes = ring.bytes(&lease)[at..end].to_vec();
                    ring.send_copy(conn, &bytes);
                } else {
                    ring.send_slot(conn, &lease, at..end);
                }
                copied = !copied;
                at = end;
            }
        }
    }
    ring.release(lease);
}

/// Echoes to all peers until all have closed.
fn echo_until_closed(rig: &mut Rig, peers: usize, how: Echo) {
    let mut closed = 0;
    while closed < peers {
        for event in rig.turn() {
            match event {
                Event::Accepted { conn, .. } => rig.ring.resume(conn),
                Event::Received { conn, lease } => echo(&mut rig.ring, conn, lease, how),
                Event::EndOfStream { conn } => rig.ring.close(conn, true),
                Event::Closed { .. } => closed += 1,
                Event::Drained { .. } => {}
                event => panic!("{event:?}"),
            }
        }
    }
}

fn check_echo(config: Config, peers: usize, len: usize, how: Echo) {
    let mut rig = Rig::new(config);
    let exchanges: Vec<_> = (0..peers)
        .map(|n| {
            let bytes = pattern(u64::try_from(n).unwrap(), len);
            (bytes.clone(), exchange(TcpStream::connect(rig.address).unwrap(), bytes))
        })
        .collect();
    echo_until_closed(&mut rig, peers, how);
    for (sent, got) in exchanges {
        let got = got.join().unwrap();
        assert_eq!(got.len(), sent.len(), "{how:?}");
        assert!(got == sent, "{how:?}");
    }
    rig.assert_idle();
}

#[test]
fn echoes_come_back_whole() {
    for bundles in [false, true] {
        for how in [Echo::Slot, Echo::Copy, Echo::Mixed(1), Echo::Mixed(7), Echo::Mixed(4000)] {
            for len in [0, 1, 100, 16 << 10, 100_000] {
                check_echo(Config { bundles, ..Config::default() }, 2, len, how);
            }
        }
    }
}

#[test]
fn tiny_rings_and_pools_only_slow_things_down() {
    for (slots, slot_bytes, entries) in [(1, 1, 1024), (1, 64, 1024), (2, 512, 2), (3, 4096, 1), (4, 1024, 8)] {
        for bundles in [false, true] {
            let config = Config { slots, slot_bytes, entries, bundles, ..Config::default() };
            check_echo(config.clone(), 3, 2000, Echo::Slot);
            check_echo(config.clone(), 3, 2000, Echo::Mixed(3));
            check_echo(config, 30, 1000, Echo::Copy);
        }
    }
}

#[test]
fn many_connections_outlive_an_exhausted_pool() {
    let config = Config { slots: 8, slot_bytes: 2048, entries: 16, ..Config::default() };
    check_echo(config, 200, 50_000, Echo::Slot);
}

#[test]
fn gathers_longer_than_one_operation_keep_their_order() {
    let mut rig = Rig::small(256, 1 << 10);
    let (conn, mut peer) = rig.pair();
    let mut random = Random(1);
    let mut expected = Vec::new();
    for n in 0..1000 {
        let bytes = pattern(n, 1 + random.below(5000));
        rig.ring.send_copy(conn, &bytes);
        expected.extend(bytes);
        if random.below(10) == 0 {
            rig.turn();
        }
    }
    assert!(rig.ring.queued(conn) > 0);
    rig.ring.close(conn, true);
    let reading = thread::spawn(move || {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        got
    });
    rig.wait_closed(conn);
    assert!(reading.join().unwrap() == expected);
    rig.assert_idle();
}

#[test]
fn timing() {
    for _ in 0..5 {
        let t = Instant::now();
        let ring = Ring::new(Config::default()).unwrap();
        let a = t.elapsed();
        drop(ring);
        eprintln!("{a:?} {:?}", t.elapsed() - a);
    }
    for len in [0, 1, 100, 100_000] {
        let t = Instant::now();
        check_echo(Config::default(), 2, len, Echo::Slot);
        eprintln!("{len} {:?}", t.elapsed());
    }
}

//! The contract against the real kernel, on loopback.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
        assert_eq!(self.ring.common.pool.available(), u32::from(self.ring.common.pool.slots()));
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
        let mut got: Vec<u8> = Vec::new();
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
fn bundles_are_used_where_the_kernel_offers_them() {
    let offered = crate::probe().unwrap().bundles;
    assert_eq!(Ring::new(Config::default()).unwrap().bundles(), offered);
    assert!(!Ring::new(Config { bundles: false, ..Config::default() }).unwrap().bundles());
}

#[test]
fn senseless_sizes_are_refused() {
    let good = Config::default();
    for config in [
        Config { entries: 0, ..good.clone() },
        Config { slots: 0, ..good.clone() },
        Config { slot_bytes: 0, ..good.clone() },
        Config { connections_max: 0, ..good },
    ] {
        assert_eq!(Ring::new(config).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn tiny_rings_and_pools_only_slow_things_down() {
    for (slots, slot_bytes, entries) in [(1, 1, 1024), (1, 64, 1024), (2, 512, 2), (3, 4096, 1), (4, 1024, 8)]
    {
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
        let mut got: Vec<u8> = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        got
    });
    rig.wait_closed(conn);
    assert!(reading.join().unwrap() == expected);
    rig.assert_idle();
}

/// Closes without lingering, so that the other side is reset.
fn reset(peer: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let len = libc::socklen_t::try_from(size_of::<libc::linger>()).unwrap();
    // SAFETY: pointer and length name `linger`.
    let result = unsafe {
        libc::setsockopt(peer.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), len)
    };
    assert_eq!(result, 0);
}

/// Queues until a peer that does not read keeps a send in flight.
fn clog(rig: &mut Rig, conn: ConnId) {
    let mut last = 0;
    loop {
        while rig.ring.queued(conn) < 1 << 20 {
            rig.ring.send_copy(conn, &[7; 65_536]);
        }
        rig.for_a_while(30, |_, event| assert!(matches!(event, Event::Drained { .. }), "{event:?}"));
        if rig.ring.queued(conn) >= 1 << 20 && rig.ring.queued(conn) == last {
            return;
        }
        last = rig.ring.queued(conn);
    }
}

#[test]
fn a_pause_at_any_moment_loses_no_byte() {
    for (bundles, slots) in [(false, 256), (true, 256), (false, 3), (true, 3)] {
        let mut rig = Rig::new(Config { bundles, slots, slot_bytes: 2048, ..Config::default() });
        let (conn, peer) = rig.pair();
        let sent = pattern(3, 8 << 20);
        let exchange = exchange(peer, sent.clone());
        let mut got: Vec<u8> = Vec::new();
        let mut random = Random(u64::from(slots));
        let mut ended = false;
        rig.ring.resume(conn);
        while !ended {
            for _ in 0..random.below(4) {
                if random.below(2) == 0 { rig.ring.pause(conn) } else { rig.ring.resume(conn) }
            }
            let resumed = rig.ring.common.conns.get(conn).unwrap().wanted;
            let wait = if resumed { Wait::Until(Instant::now() + PATIENCE) } else { Wait::No };
            rig.ring.turn(wait, &mut rig.events).unwrap();
            for event in rig.events.drain(..) {
                match event {
                    Event::Received { lease, .. } => {
                        got.extend(rig.ring.bytes(&lease));
                        rig.ring.release(lease);
                    }
                    Event::EndOfStream { .. } => ended = true,
                    event => panic!("{event:?}"),
                }
            }
        }
        assert!(got == sent);
        rig.ring.close(conn, false);
        rig.wait_closed(conn);
        assert_eq!(exchange.join().unwrap(), b"");
        rig.assert_idle();
    }
}

#[test]
fn a_paused_connection_comes_to_rest() {
    let mut rig = Rig::small(16, 1024);
    let (conn, mut peer) = rig.pair();
    rig.for_a_while(50, |_, event| panic!("nothing was resumed: {event:?}"));
    rig.ring.resume(conn);
    peer.write_all(b"one").unwrap();
    rig.until(|ring, event| match event {
        Event::Received { lease, .. } => {
            assert_eq!(ring.bytes(&lease), b"one");
            ring.release(lease);
            Some(())
        }
        event => panic!("{event:?}"),
    });
    rig.ring.pause(conn);
    rig.turn();
    peer.write_all(b"two").unwrap();
    rig.for_a_while(50, |_, event| panic!("paused: {event:?}"));
    rig.ring.resume(conn);
    rig.until(|ring, event| match event {
        Event::Received { lease, .. } => {
            assert_eq!(ring.bytes(&lease), b"two");
            ring.release(lease);
            Some(())
        }
        event => panic!("{event:?}"),
    });
}

/// Relays 64 MiB to a slow reader, pausing the source when too much is queued or pinned.
#[test]
fn a_slow_reader_slows_its_source_down_in_flat_memory() {
    const BYTES: usize = 64 << 20;
    const PINNED_MAX: usize = 32;
    let mut rig =
        Rig::new(Config { queue_high_bytes: 256 << 10, queue_low_bytes: 64 << 10, ..Config::default() });
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = rig.ring.dial(target.local_addr().unwrap()).unwrap();
    let mut source = TcpStream::connect(rig.address).unwrap();
    let (mut accepted, mut dialed) = (None, false);
    while accepted.is_none() || !dialed {
        for event in rig.turn() {
            match event {
                Event::Accepted { conn, .. } => accepted = Some(conn),
                Event::Dialed { result, .. } => dialed = result.is_ok(),
                event => panic!("{event:?}"),
            }
        }
    }
    let from = accepted.unwrap();
    let bytes = pattern(5, BYTES);
    let expected = bytes.clone();
    let writing = thread::spawn(move || source.write_all(&bytes).unwrap());
    let reading = thread::spawn(move || {
        let (mut peer, _) = target.accept().unwrap();
        let mut got: Vec<u8> = Vec::with_capacity(BYTES);
        let mut part = vec![0; 1 << 20];
        loop {
            let len = peer.read(&mut part).unwrap();
            if len == 0 {
                return got;
            }
            got.extend(&part[..len]);
            if got.len().is_multiple_of(8) {
                thread::sleep(Duration::from_micros(300));
            }
        }
    });
    rig.ring.resume(from);
    let (mut peak, mut pauses, mut drained, mut ended) = (0, 0, 0, false);
    let mut paused = false;
    while !ended || rig.ring.queued(to) > 0 {
        for event in rig.turn() {
            match event {
                Event::Received { lease, .. } => {
                    rig.ring.send_slot(to, &lease, 0..lease.len());
                    rig.ring.release(lease);
                }
                Event::EndOfStream { .. } => ended = true,
                Event::Drained { conn } if conn == to => drained += 1,
                event => panic!("{event:?}"),
            }
        }
        peak = peak.max(rig.ring.pinned(to));
        let full = rig.ring.pinned(to) > PINNED_MAX;
        if full && !paused {
            rig.ring.pause(from);
            pauses += 1;
        } else if !full && paused {
            rig.ring.resume(from);
        }
        paused = full;
    }
    rig.ring.close(to, true);
    rig.ring.close(from, true);
    writing.join().unwrap();
    let mut closed = 0;
    while closed < 2 {
        closed += rig.turn().iter().filter(|event| matches!(event, Event::Closed { .. })).count();
    }
    assert!(reading.join().unwrap() == expected);
    assert!(pauses > 0 && drained > 0, "{pauses} pauses, drained {drained} times");
    assert!(peak <= 256, "{peak} slots pinned");
    assert_eq!(rig.ring.common.out.chunks_in_use(), 0);
    rig.assert_idle();
}

#[test]
fn a_held_pool_brings_receiving_to_rest() {
    let mut rig = Rig::small(8, 1024);
    let (conn, peer) = rig.pair();
    let sent = pattern(8, 100_000);
    let exchange = exchange(peer, sent.clone());
    let mut got: Vec<u8> = Vec::new();
    rig.ring.hold_pool(true);
    rig.ring.resume(conn);
    let mut take = |ring: &mut Ring, event| match event {
        Event::Received { lease, .. } => {
            got.extend(ring.bytes(&lease));
            ring.release(lease);
            None
        }
        Event::EndOfStream { .. } => Some(()),
        event => panic!("{event:?}"),
    };
    rig.for_a_while(100, |ring, event| assert!(take(ring, event).is_none()));
    assert_eq!(rig.ring.common.pool.available(), 0);
    rig.for_a_while(50, |_, event| panic!("held: {event:?}"));
    rig.ring.hold_pool(false);
    rig.until(&mut take);
    assert!(got == sent);
    rig.ring.close(conn, true);
    rig.wait_closed(conn);
    exchange.join().unwrap();
    rig.assert_idle();
}

#[test]
fn a_lease_keeps_its_bytes_while_others_come_and_go() {
    let mut rig = Rig::small(4, 256);
    let (held, mut held_peer) = rig.pair();
    held_peer.write_all(&pattern(1, 256)).unwrap();
    rig.ring.resume(held);
    let lease = rig.until(|_, event| match event {
        Event::Received { lease, .. } => Some(lease),
        event => panic!("{event:?}"),
    });
    let exchange = exchange(TcpStream::connect(rig.address).unwrap(), pattern(2, 100_000));
    echo_until_closed(&mut rig, 1, Echo::Slot);
    assert!(exchange.join().unwrap() == pattern(2, 100_000));
    assert_eq!(rig.ring.bytes(&lease), pattern(1, 256));
    rig.ring.bytes_mut(&lease)[0] = 0;
    assert_eq!(rig.ring.bytes(&lease)[0], 0);
    rig.ring.release(lease);
    rig.ring.close(held, false);
    rig.wait_closed(held);
    rig.assert_idle();
}

#[test]
fn close_with_flush_delivers_and_lingers_for_the_peer() {
    let mut rig = Rig::small(64, 4096);
    let (conn, mut peer) = rig.pair();
    // The peer is in the middle of sending: a plain close would reset it before it has read the answer.
    peer.write_all(&pattern(1, 100_000)).unwrap();
    let answer = pattern(2, 3 << 20);
    rig.ring.send_copy(conn, &answer);
    rig.ring.close(conn, true);
    rig.ring.send_copy(conn, b"too late");
    rig.ring.resume(conn);
    let reading = thread::spawn(move || {
        let mut got: Vec<u8> = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        peer.write_all(&pattern(1, 100_000)).unwrap();
        got
    });
    rig.wait_closed(conn);
    assert!(reading.join().unwrap() == answer);
    rig.assert_idle();
}

#[test]
fn the_linger_limit_cuts_a_peer_that_does_not_read() {
    let mut rig = Rig::new(Config { linger: Duration::from_millis(200), ..Config::default() });
    let (conn, peer) = rig.pair();
    clog(&mut rig, conn);
    let begun = Instant::now();
    rig.ring.close(conn, true);
    rig.wait_closed(conn);
    assert!(begun.elapsed() >= Duration::from_millis(190) && begun.elapsed() < Duration::from_secs(5));
    drop(peer);
    // One that reads all but never ends its own stream is cut as well.
    let (conn, peer) = rig.pair();
    rig.ring.close(conn, true);
    rig.wait_closed(conn);
    drop(peer);
    rig.assert_idle();
}

#[test]
fn close_without_flush_is_at_once_even_with_a_send_in_flight() {
    let mut rig = Rig::small(64, 4096);
    for flush_first in [false, true] {
        let (conn, peer) = rig.pair();
        rig.ring.resume(conn);
        clog(&mut rig, conn);
        assert!(rig.ring.common.out.chunks_in_use() > 0);
        let begun = Instant::now();
        if flush_first {
            rig.ring.close(conn, true);
            rig.for_a_while(30, |_, event| panic!("{event:?}"));
        }
        rig.ring.close(conn, false);
        rig.wait_closed(conn);
        assert!(begun.elapsed() < Duration::from_secs(2));
        drop(peer);
        rig.assert_idle();
    }
}

#[test]
fn finish_sends_the_end_behind_the_queue_and_receiving_goes_on() {
    let mut rig = Rig::small(64, 4096);
    let (conn, mut peer) = rig.pair();
    rig.ring.resume(conn);
    rig.ring.send_copy(conn, &[1; 100_000]);
    rig.ring.finish(conn);
    rig.ring.send_copy(conn, b"too late");
    let reading = thread::spawn(move || {
        let mut got: Vec<u8> = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        peer.write_all(b"still here").unwrap();
        got.len()
    });
    let mut got: Vec<u8> = Vec::new();
    rig.until(|ring, event| match event {
        Event::Received { lease, .. } => {
            got.extend(ring.bytes(&lease));
            ring.release(lease);
            None
        }
        Event::EndOfStream { .. } => Some(()),
        event => panic!("{event:?}"),
    });
    assert_eq!((reading.join().unwrap(), &*got), (100_000, &b"still here"[..]));
    rig.ring.close(conn, true);
    rig.wait_closed(conn);
    rig.assert_idle();
}

#[test]
fn a_reset_peer_fails_once_and_only_after_its_last_byte() {
    let mut rig = Rig::small(64, 4096);
    for sending in [false, true] {
        let (conn, mut peer) = rig.pair();
        peer.write_all(b"last words").unwrap();
        thread::sleep(Duration::from_millis(5));
        reset(peer);
        if sending {
            // The send meets the reset first; what came before is still to be had.
            rig.ring.send_copy(conn, &[0; 100_000]);
            rig.for_a_while(50, |_, event| assert!(!matches!(event, Event::Failed { .. })));
        }
        rig.ring.resume(conn);
        let mut got: Vec<u8> = Vec::new();
        rig.until(|ring, event| match event {
            Event::Received { lease, .. } => {
                got.extend(ring.bytes(&lease));
                ring.release(lease);
                None
            }
            Event::Failed { error, .. } => Some(error),
            event => panic!("{event:?}"),
        });
        assert_eq!(got, b"last words");
        assert_eq!(rig.ring.queued(conn), 0);
        rig.ring.send_copy(conn, b"into the void");
        rig.for_a_while(30, |_, event| panic!("{event:?}"));
        rig.ring.close(conn, true);
        rig.wait_closed(conn);
    }
    rig.assert_idle();
}

#[test]
fn dead_ids_touch_nobody() {
    let mut rig = Rig::small(64, 4096);
    let (old, peer) = rig.pair();
    rig.ring.resume(old);
    rig.ring.close(old, false);
    rig.wait_closed(old);
    drop(peer);
    let (new, mut peer) = rig.pair();
    assert_eq!(new.index, old.index);
    rig.ring.resume(old);
    rig.ring.send_copy(old, b"for somebody else");
    rig.ring.finish(old);
    rig.ring.close(old, false);
    rig.ring.pause(old);
    assert_eq!((rig.ring.queued(old), rig.ring.pinned(old)), (0, 0));
    // Completions of the former owner, had they come late.
    for kind in [Kind::Receive, Kind::Send, Kind::Connect, Kind::CancelReceive, Kind::CancelSend] {
        let token = Token::new(kind, old.index, old.generation).pack();
        let nop = io_uring::opcode::Nop::new().build().user_data(token);
        // SAFETY: a nop points to no memory.
        unsafe { rig.ring.kernel.push_raw(&nop) };
    }
    rig.for_a_while(30, |_, event| panic!("{event:?}"));
    rig.ring.send_copy(new, b"hello");
    rig.turn();
    let mut got = [0; 5];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
}

#[test]
fn a_dial_tells_how_it_ended() {
    let mut rig = Rig::small(64, 4096);
    // Refused.
    let gone = system::listen_socket("127.0.0.1:0".parse().unwrap(), 1, false).unwrap().local_addr().unwrap();
    let conn = rig.ring.dial(gone).unwrap();
    rig.ring.send_copy(conn, b"queued before the answer");
    let error = rig.until(|_, event| match event {
        Event::Dialed { result, .. } => Some(result.unwrap_err()),
        event => panic!("{event:?}"),
    });
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    rig.ring.close(conn, true);
    rig.wait_closed(conn);
    // Stands: what was queued and asked before goes ahead.
    let target = system::listen_socket("[::1]:0".parse().unwrap(), 1, false).unwrap();
    let conn = rig.ring.dial(target.local_addr().unwrap()).unwrap();
    rig.ring.resume(conn);
    rig.ring.send_copy(conn, b"early");
    rig.until(|_, event| match event {
        Event::Dialed { result: Ok(()), .. } => Some(()),
        event => panic!("{event:?}"),
    });
    let (mut peer, _) = target.accept().unwrap();
    rig.turn();
    let mut got = [0; 5];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"early");
    assert!(rig.ring.common.conns.get(conn).unwrap().stream.nodelay().unwrap());
    rig.ring.close(conn, false);
    rig.wait_closed(conn);
    // Hangs, because the backlog is full: the caller loses patience.
    let full = system::listen_socket("127.0.0.1:0".parse().unwrap(), 0, false).unwrap();
    let _first = TcpStream::connect(full.local_addr().unwrap()).unwrap();
    let conn = rig.ring.dial(full.local_addr().unwrap()).unwrap();
    rig.for_a_while(50, |_, event| panic!("{event:?}"));
    rig.ring.close(conn, true);
    rig.wait_closed(conn);
    rig.assert_idle();
}

#[test]
fn a_flood_is_accepted_up_to_the_limit_and_the_rest_refused() {
    let mut rig = Rig::new(Config { connections_max: 300, entries: 8, ..Config::default() });
    let peers: Vec<_> = (0..400).map(|_| TcpStream::connect(rig.address).unwrap()).collect();
    let (mut accepted, mut refused) = (Vec::new(), 0);
    while accepted.len() + refused < peers.len() {
        for event in rig.turn() {
            match event {
                Event::Accepted { conn, peer, .. } => {
                    assert!(peers.iter().any(|stream| stream.local_addr().unwrap() == peer));
                    accepted.push(conn);
                }
                Event::AcceptFailed { error, .. } => {
                    assert!(error.to_string().contains("300 connections"), "{error}");
                    refused += 1;
                }
                event => panic!("{event:?}"),
            }
        }
    }
    assert_eq!((accepted.len(), refused), (300, 100));
    let stream = &rig.ring.common.conns.get(accepted[0]).unwrap().stream;
    assert!(stream.nodelay().unwrap(), "inherited from the listener");
    for conn in &accepted {
        rig.ring.close(*conn, false);
    }
    let mut closed = 0;
    while closed < 300 {
        closed += rig.turn().len();
    }
    drop(peers);
    rig.pair();
}

#[test]
fn a_stopped_listener_accepts_no_more_and_frees_its_address() {
    let mut rig = Rig::small(4, 64);
    rig.ring.stop_listening(rig.listener);
    rig.for_a_while(30, |_, event| panic!("{event:?}"));
    assert!(TcpStream::connect(rig.address).is_err());
    let again = system::listen_socket(rig.address, 8, false).unwrap();
    rig.listener = rig.ring.listen(again).unwrap();
    rig.pair();
}

#[test]
fn wakers_lose_no_wake() {
    let mut rig = Rig::small(4, 64);
    let posted = Arc::new(AtomicU64::new(0));
    let wakers: Vec<_> = (0..4)
        .map(|_| {
            let (waker, posted) = (rig.ring.waker(), posted.clone());
            thread::spawn(move || {
                for n in 0..5000 {
                    posted.fetch_add(1, Ordering::Release);
                    waker.wake();
                    if n % 50 == 0 {
                        thread::sleep(Duration::from_micros(100));
                    }
                }
            })
        })
        .collect();
    let (mut seen, mut woken) = (0, 0);
    while seen < 20_000 {
        rig.ring.turn(Wait::Until(Instant::now() + PATIENCE), &mut rig.events).unwrap();
        for event in rig.events.drain(..) {
            assert!(matches!(event, Event::Woken));
            woken += 1;
            seen = posted.load(Ordering::Acquire);
        }
        assert!(Instant::now() < rig.deadline, "a wake was lost at {seen}");
    }
    assert!(woken > 10, "{woken}");
    for waker in wakers {
        waker.join().unwrap();
    }
    // Awake already: one event, whatever the number, and then none.
    rig.turn();
    let waker = rig.ring.waker();
    (0..100).for_each(|_| waker.wake());
    assert_eq!(rig.turn().len(), 1);
    assert_eq!(rig.turn().len(), 0);
    drop(rig);
    waker.wake();
}

#[test]
fn waits_end_in_time() {
    let mut rig = Rig::small(4, 64);
    for (wait, least, most) in [(0, 0, 20), (50, 50, 90)] {
        let begun = Instant::now();
        let until = Wait::Until(begun + Duration::from_millis(wait));
        rig.ring.turn(until, &mut rig.events).unwrap();
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(least) && took < Duration::from_millis(most), "{took:?}");
    }
    let begun = Instant::now();
    rig.ring.turn(Wait::No, &mut rig.events).unwrap();
    assert!(begun.elapsed() < Duration::from_millis(20));
    let waker = rig.ring.waker();
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(30));
        waker.wake();
    });
    rig.ring.turn(Wait::Forever, &mut rig.events).unwrap();
    assert!(matches!(rig.events[..], [Event::Woken]));
}

fn scratch_file(name: &str) -> (std::path::PathBuf, std::fs::File) {
    let path = std::env::temp_dir().join(format!("lockgate-ring-{}-{name}", std::process::id()));
    let file =
        std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    (path, file)
}

#[test]
fn files_are_written_where_and_as_told() {
    let mut rig = Rig::small(4, 64);
    let (path, file) = scratch_file("write");
    let file = rig.ring.open_file(file.into());
    let parts: Vec<_> = (0..64_u64).map(|n| pattern(n, 10_000)).collect();
    for (n, part) in parts.iter().enumerate().rev() {
        let n = u64::try_from(n).unwrap();
        rig.ring.write(file, n * 10_000, part.clone(), n);
    }
    let mut written = 0;
    while written < 64 {
        for event in rig.turn() {
            let Event::Written { token, result, buf } = event else { panic!("{event:?}") };
            result.unwrap();
            assert!(buf == parts[usize::try_from(token).unwrap()]);
            written += 1;
        }
    }
    rig.ring.sync(file, 99);
    rig.ring.write(file, 0, Vec::new(), 100);
    rig.ring.close_file(file);
    rig.ring.write(file, 0, vec![1], 101);
    rig.ring.sync(file, 102);
    let mut answers: Vec<(u64, bool)> = Vec::new();
    while answers.len() < 4 {
        answers.extend(rig.turn().into_iter().map(|event| match event {
            Event::Synced { token, result } => (token, result.is_ok()),
            Event::Written { token, result, .. } => (token, result.is_ok()),
            event => panic!("{event:?}"),
        }));
    }
    answers.sort_unstable();
    assert_eq!(answers, [(99, true), (100, true), (101, false), (102, false)]);
    assert_eq!(rig.ring.counts().files, 0);
    assert!(std::fs::read(&path).unwrap() == parts.concat());
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_failed_write_says_so_and_gives_the_buffer_back() {
    let mut rig = Rig::small(4, 64);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let full = rig.ring.open_file(full.into());
    rig.ring.write(full, 0, vec![1; 100], 7);
    rig.until(|_, event| match event {
        Event::Written { token: 7, result, buf } => {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
            assert_eq!(buf, [1; 100]);
            Some(())
        }
        event => panic!("{event:?}"),
    });
    let read_only = std::fs::File::open("/dev/null").unwrap();
    let read_only = rig.ring.open_file(read_only.into());
    rig.ring.write(read_only, 0, vec![1; 100], 8);
    rig.until(|_, event| match event {
        Event::Written { token: 8, result, .. } => Some(result.unwrap_err()),
        event => panic!("{event:?}"),
    });
}

#[test]
fn a_short_write_is_continued() {
    // A pipe takes what it has room for.
    let mut rig = Rig::small(4, 64);
    let (mut reader, writer) = io::pipe().unwrap();
    let file = rig.ring.open_file(writer.into());
    let bytes = pattern(1, 1 << 20);
    rig.ring.write(file, 0, bytes.clone(), 1);
    rig.ring.close_file(file);
    let reading = thread::spawn(move || {
        let mut got: Vec<u8> = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        got
    });
    rig.until(|_, event| match event {
        Event::Written { result: Ok(()), .. } => Some(()),
        event => panic!("{event:?}"),
    });
    assert!(reading.join().unwrap() == bytes);
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Runs a test of this module in a process of its own, because it changes or counts what a process has one of.
fn in_own_process(name: &str) {
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("uring::tests::{name}"), "--ignored", "--nocapture"])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn ten_thousand_connections_leak_nothing() {
    in_own_process("churn");
}

#[test]
#[ignore = "run by ten_thousand_connections_leak_nothing"]
fn churn() {
    let mut rig = Rig::new(Config { slots: 32, slot_bytes: 1024, ..Config::default() });
    rig.turn();
    let before = open_descriptors();
    let address = rig.address;
    let peers: Vec<_> = (0..2)
        .map(|n| {
            thread::spawn(move || {
                for round in 0..5000 {
                    let mut peer = TcpStream::connect(address).unwrap();
                    let _ = peer.write_all(&[n; 100]);
                    match round % 4 {
                        0 => reset(peer),
                        1 => drop(peer),
                        2 => drop(peer.shutdown(Shutdown::Write)),
                        _ => drop(peer.read(&mut [0; 50])),
                    }
                }
            })
        })
        .collect();
    let (mut closed, mut random, mut quiet_turns) = (0, Random(9), 0);
    while quiet_turns < 3 {
        let events = rig.turn();
        let over = peers.iter().all(JoinHandle::is_finished) && rig.ring.counts().connections == 0;
        quiet_turns = if over && events.is_empty() { quiet_turns + 1 } else { 0 };
        for event in events {
            match event {
                Event::Accepted { conn, .. } => match random.below(8) {
                    0 => rig.ring.close(conn, true),
                    1 => rig.ring.close(conn, false),
                    _ => rig.ring.resume(conn),
                },
                Event::Received { conn, lease } => {
                    echo(&mut rig.ring, conn, lease, Echo::Mixed(30));
                    if random.below(4) == 0 {
                        rig.ring.close(conn, random.below(2) == 0);
                    }
                }
                Event::EndOfStream { conn } | Event::Failed { conn, .. } => {
                    rig.ring.close(conn, random.below(2) == 0);
                }
                Event::Closed { .. } => closed += 1,
                event => panic!("{event:?}"),
            }
        }
    }
    peers.into_iter().for_each(|peer| peer.join().unwrap());
    // Some are reset before they are greeted.
    assert!(closed > 5_000, "{closed}");
    rig.assert_idle();
    assert_eq!(open_descriptors(), before);
}

#[test]
fn accepting_goes_on_after_descriptors_ran_out() {
    in_own_process("exhaustion");
}

#[test]
#[ignore = "run by accepting_goes_on_after_descriptors_ran_out"]
fn exhaustion() {
    let mut rig = Rig::small(4, 64);
    let peer = TcpStream::connect(rig.address).unwrap();
    let mut limit = system::limits(libc::RLIMIT_NOFILE).unwrap();
    let raised = limit;
    limit.rlim_cur = 3;
    // SAFETY: the pointer names `limit`.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    let mut failures = 0;
    rig.for_a_while(200, |_, event| match event {
        Event::AcceptFailed { error, .. } => {
            assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
            failures += 1;
        }
        event => panic!("{event:?}"),
    });
    assert!((2..=6).contains(&failures), "{failures}: it tries again, with rests");
    // SAFETY: the pointer names `raised`.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) }, 0);
    rig.until(|_, event| match event {
        Event::Accepted { .. } => Some(()),
        Event::AcceptFailed { .. } => None,
        event => panic!("{event:?}"),
    });
    drop(peer);
}

#[test]
fn a_ring_may_be_dropped_at_any_moment() {
    in_own_process("drops");
}

#[test]
#[ignore = "run by a_ring_may_be_dropped_at_any_moment"]
fn drops() {
    let before = open_descriptors();
    for round in 0..20 {
        let mut rig = Rig::small(8, 1024);
        let (clogged, clogged_peer) = rig.pair();
        clog(&mut rig, clogged);
        let (_, mut peer) = rig.pair();
        peer.write_all(&[1; 100_000]).unwrap();
        rig.ring.resume(clogged);
        let _ = rig.ring.dial(rig.address).unwrap();
        let (path, file) = scratch_file("drop");
        let file = rig.ring.open_file(file.into());
        rig.ring.write(file, 0, vec![1; 1 << 20], 1);
        rig.ring.sync(file, 2);
        for _ in 0..round % 3 {
            let _ = rig.ring.turn(Wait::No, &mut rig.events);
        }
        let begun = Instant::now();
        drop(rig);
        assert!(begun.elapsed() < DROP_WAIT, "everything could be cancelled");
        drop(clogged_peer);
        std::fs::remove_file(path).unwrap();
    }
    let until = Instant::now() + PATIENCE;
    while open_descriptors() != before {
        assert!(Instant::now() < until, "{} of {before} descriptors", open_descriptors());
        thread::sleep(Duration::from_millis(10));
    }
}

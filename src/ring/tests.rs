//! The contract against the real kernel, on loopback: every test runs on every driver.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Config, ConnId, Counts, Driver, Event, Lease, ListenerId, Wait, system};
use crate::common::Common;
use crate::epoll::{Poller, Readiness};
use crate::uring::{Flight, Ring};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest time that the drop of a driver may take when nothing hangs.
const DROP_WAIT: Duration = Duration::from_secs(2);

/// What the tests need of a driver beside the contract.
pub(crate) trait Tested: Driver {
    /// Of the module in which the tests are stamped on it.
    const NAME: &'static str;
    /// Operations in flight when there is no connection.
    const IDLE_IN_FLIGHT: usize;
    type Own: Default;

    fn make(config: Config) -> io::Result<Self>
    where
        Self: Sized;
    fn counts(&self) -> Counts;
    fn common(&self) -> &Common<Self::Own>;
}

impl Tested for Ring {
    const NAME: &'static str = "io_uring";
    /// The accept and the waker.
    const IDLE_IN_FLIGHT: usize = 2;
    type Own = Flight;

    fn make(config: Config) -> io::Result<Ring> {
        Ring::new(config)
    }
    fn counts(&self) -> Counts {
        Ring::counts(self)
    }
    fn common(&self) -> &Common<Flight> {
        &self.common
    }
}

impl Tested for Poller {
    const NAME: &'static str = "epoll";
    const IDLE_IN_FLIGHT: usize = 0;
    type Own = Readiness;

    fn make(config: Config) -> io::Result<Poller> {
        Poller::new(config)
    }
    fn counts(&self) -> Counts {
        Poller::counts(self)
    }
    fn common(&self) -> &Common<Readiness> {
        &self.common
    }
}

/// Makes a test of each function for each driver.
macro_rules! stamp {
    ($($(#[$attribute:meta])* $name:ident,)*) => {
        mod io_uring {
            $(#[test] $(#[$attribute])* fn $name() { super::$name::<super::Ring>(); })*
        }
        mod epoll {
            $(#[test] $(#[$attribute])* fn $name() { super::$name::<super::Poller>(); })*
        }
    };
}

stamp! {
    echoes_come_back_whole,
    senseless_sizes_are_refused,
    tiny_rings_and_pools_only_slow_things_down,
    many_connections_outlive_an_exhausted_pool,
    gathers_longer_than_one_operation_keep_their_order,
    a_pause_at_any_moment_loses_no_byte,
    a_paused_connection_comes_to_rest,
    what_is_idle_or_paused_ends_no_wait,
    bytes_behind_urgent_ones_are_not_left_lying,
    a_slow_reader_slows_its_source_down_in_flat_memory,
    a_held_pool_brings_receiving_to_rest,
    a_lease_keeps_its_bytes_while_others_come_and_go,
    close_with_flush_delivers_and_lingers_for_the_peer,
    the_linger_limit_cuts_a_peer_that_does_not_read,
    a_peer_that_never_stops_sending_is_cut_when_it_has_been_told,
    close_without_flush_is_at_once_even_with_a_send_in_flight,
    finish_sends_the_end_behind_the_queue_and_receiving_goes_on,
    a_reset_peer_fails_once_and_only_after_its_last_byte,
    dead_ids_touch_nobody,
    a_dial_tells_how_it_ended,
    a_flood_is_accepted_up_to_the_limit_and_the_rest_refused,
    a_stopped_listener_accepts_no_more_and_frees_its_address,
    wakers_lose_no_wake,
    waits_end_in_time,
    files_are_written_where_and_as_told,
    a_failed_write_says_so_and_gives_the_buffer_back,
    ten_thousand_connections_leak_nothing,
    #[ignore = "run by ten_thousand_connections_leak_nothing"]
    churn,
    accepting_goes_on_after_descriptors_ran_out,
    #[ignore = "run by accepting_goes_on_after_descriptors_ran_out"]
    exhaustion,
    a_ring_may_be_dropped_at_any_moment,
    #[ignore = "run by a_ring_may_be_dropped_at_any_moment"]
    drops,
}

pub(crate) struct Rig<D> {
    pub(crate) driver: D,
    address: SocketAddr,
    listener: ListenerId,
    events: Vec<Event>,
    deadline: Instant,
}

impl<D: Tested> Rig<D> {
    pub(crate) fn new(config: Config) -> Rig<D> {
        let mut driver = D::make(config).unwrap();
        let socket = system::listen_socket("127.0.0.1:0".parse().unwrap(), 4096, false).unwrap();
        let address = socket.local_addr().unwrap();
        let listener = driver.listen(socket).unwrap();
        Rig { driver, address, listener, events: Vec::new(), deadline: Instant::now() + PATIENCE }
    }

    pub(crate) fn small(slots: u16, slot_bytes: u32) -> Rig<D> {
        Rig::new(Config { slots, slot_bytes, ..Config::default() })
    }

    /// One turn that waits at most 20 ms.
    pub(crate) fn turn(&mut self) -> Vec<Event> {
        assert!(Instant::now() < self.deadline, "the test hangs: {:?}", self.driver.counts());
        self.driver.turn(Wait::Until(Instant::now() + Duration::from_millis(20)), &mut self.events).unwrap();
        std::mem::take(&mut self.events)
    }

    /// Turns until `f` returns something.
    pub(crate) fn until<T>(&mut self, mut f: impl FnMut(&mut D, Event) -> Option<T>) -> T {
        loop {
            let mut found = None;
            for event in self.turn() {
                let answer = f(&mut self.driver, event);
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
    pub(crate) fn for_a_while(&mut self, ms: u64, mut f: impl FnMut(&mut D, Event)) {
        let until = Instant::now() + Duration::from_millis(ms);
        while Instant::now() < until {
            for event in self.turn() {
                f(&mut self.driver, event);
            }
        }
    }

    pub(crate) fn accept(&mut self) -> ConnId {
        self.until(|_, event| match event {
            Event::Accepted { conn, .. } => Some(conn),
            event => panic!("{event:?}"),
        })
    }

    /// A connected pair: ours and the peer's.
    pub(crate) fn pair(&mut self) -> (ConnId, TcpStream) {
        let peer = TcpStream::connect(self.address).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        (self.accept(), peer)
    }

    pub(crate) fn wait_closed(&mut self, conn: ConnId) {
        self.until(|_, event| match event {
            Event::Closed { conn: closed } if closed == conn => Some(()),
            event => panic!("{event:?}"),
        });
    }

    pub(crate) fn assert_idle(&mut self) {
        // A cancel that came too late is no operation of a connection, but its completion may be under way.
        let counts = self.driver.counts();
        assert_eq!(counts.connections, 0);
        assert_eq!((counts.slots_in_use, counts.copy_buffers_in_use), (0, 0));
        assert_eq!(counts.in_flight, D::IDLE_IN_FLIGHT);
        assert_eq!(self.driver.common().pool.free(), self.driver.common().pool.slots());
    }
}

/// Bytes that are different everywhere: a lost, doubled or moved one shows.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
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

fn echo<D: Tested>(ring: &mut D, conn: ConnId, lease: Lease, how: Echo) {
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
fn echo_until_closed<D: Tested>(rig: &mut Rig<D>, peers: usize, how: Echo) {
    let mut closed = 0;
    while closed < peers {
        for event in rig.turn() {
            match event {
                Event::Accepted { conn, .. } => rig.driver.resume(conn),
                Event::Received { conn, lease } => echo(&mut rig.driver, conn, lease, how),
                Event::EndOfStream { conn } => rig.driver.close(conn, true),
                Event::Closed { .. } => closed += 1,
                Event::Drained { .. } => {}
                event => panic!("{event:?}"),
            }
        }
    }
}

fn check_echo<D: Tested>(config: Config, peers: usize, len: usize, how: Echo) {
    let mut rig = Rig::<D>::new(config);
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

fn echoes_come_back_whole<D: Tested>() {
    for bundles in [false, true] {
        for how in [Echo::Slot, Echo::Copy, Echo::Mixed(1), Echo::Mixed(7), Echo::Mixed(4000)] {
            for len in [0, 1, 100, 16 << 10, 100_000] {
                check_echo::<D>(Config { bundles, ..Config::default() }, 2, len, how);
            }
        }
    }
}

fn senseless_sizes_are_refused<D: Tested>() {
    let good = Config::default();
    for config in [
        Config { entries: 0, ..good.clone() },
        Config { slots: 0, ..good.clone() },
        Config { slot_bytes: 0, ..good.clone() },
        Config { connections_max: 0, ..good },
    ] {
        assert_eq!(D::make(config).err().unwrap().kind(), io::ErrorKind::InvalidInput);
    }
}

fn tiny_rings_and_pools_only_slow_things_down<D: Tested>() {
    for (slots, slot_bytes, entries) in [(1, 1, 1024), (1, 64, 1024), (2, 512, 2), (3, 4096, 1), (4, 1024, 8)]
    {
        for bundles in [false, true] {
            let config = Config { slots, slot_bytes, entries, bundles, ..Config::default() };
            check_echo::<D>(config.clone(), 3, 2000, Echo::Slot);
            check_echo::<D>(config.clone(), 3, 2000, Echo::Mixed(3));
            check_echo::<D>(config, 30, 1000, Echo::Copy);
        }
    }
}

fn many_connections_outlive_an_exhausted_pool<D: Tested>() {
    let config = Config { slots: 8, slot_bytes: 2048, entries: 16, ..Config::default() };
    check_echo::<D>(config, 200, 50_000, Echo::Slot);
}

fn gathers_longer_than_one_operation_keep_their_order<D: Tested>() {
    let mut rig = Rig::<D>::small(256, 1 << 10);
    let (conn, mut peer) = rig.pair();
    let mut random = Random(1);
    let mut expected = Vec::new();
    for n in 0..1000 {
        let bytes = pattern(n, 1 + random.below(5000));
        rig.driver.send_copy(conn, &bytes);
        expected.extend(bytes);
        if random.below(10) == 0 {
            rig.turn();
        }
    }
    assert!(rig.driver.queued(conn) > 0);
    rig.driver.close(conn, true);
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
fn clog<D: Tested>(rig: &mut Rig<D>, conn: ConnId) {
    let mut last = 0;
    loop {
        while rig.driver.queued(conn) < 1 << 20 {
            rig.driver.send_copy(conn, &[7; 65_536]);
        }
        rig.for_a_while(30, |_, event| assert!(matches!(event, Event::Drained { .. }), "{event:?}"));
        if rig.driver.queued(conn) >= 1 << 20 && rig.driver.queued(conn) == last {
            return;
        }
        last = rig.driver.queued(conn);
    }
}

fn a_pause_at_any_moment_loses_no_byte<D: Tested>() {
    for (bundles, slots) in [(false, 256), (true, 256), (false, 3), (true, 3)] {
        let mut rig = Rig::<D>::new(Config { bundles, slots, slot_bytes: 2048, ..Config::default() });
        let (conn, peer) = rig.pair();
        let sent = pattern(3, 8 << 20);
        let exchange = exchange(peer, sent.clone());
        let mut got: Vec<u8> = Vec::new();
        let mut random = Random(u64::from(slots));
        let mut ended = false;
        rig.driver.resume(conn);
        while !ended {
            for _ in 0..random.below(4) {
                if random.below(2) == 0 { rig.driver.pause(conn) } else { rig.driver.resume(conn) }
            }
            let resumed = rig.driver.common().conns.get(conn).unwrap().wanted;
            let wait = if resumed { Wait::Until(Instant::now() + PATIENCE) } else { Wait::No };
            rig.driver.turn(wait, &mut rig.events).unwrap();
            for event in rig.events.drain(..) {
                match event {
                    Event::Received { lease, .. } => {
                        got.extend(rig.driver.bytes(&lease));
                        rig.driver.release(lease);
                    }
                    Event::EndOfStream { .. } => ended = true,
                    event => panic!("{event:?}"),
                }
            }
        }
        assert!(got == sent);
        rig.driver.close(conn, false);
        rig.wait_closed(conn);
        assert_eq!(exchange.join().unwrap(), b"");
        rig.assert_idle();
    }
}

fn a_paused_connection_comes_to_rest<D: Tested>() {
    let mut rig = Rig::<D>::small(16, 1024);
    let (conn, mut peer) = rig.pair();
    rig.for_a_while(50, |_, event| panic!("nothing was resumed: {event:?}"));
    rig.driver.resume(conn);
    peer.write_all(b"one").unwrap();
    rig.until(|ring, event| match event {
        Event::Received { lease, .. } => {
            assert_eq!(ring.bytes(&lease), b"one");
            ring.release(lease);
            Some(())
        }
        event => panic!("{event:?}"),
    });
    rig.driver.pause(conn);
    rig.turn();
    peer.write_all(b"two").unwrap();
    rig.for_a_while(50, |_, event| panic!("paused: {event:?}"));
    rig.driver.resume(conn);
    rig.until(|ring, event| match event {
        Event::Received { lease, .. } => {
            assert_eq!(ring.bytes(&lease), b"two");
            ring.release(lease);
            Some(())
        }
        event => panic!("{event:?}"),
    });
}

/// Turns that find nothing last as long as they may; only too short a wait fails.
fn assert_at_rest<D: Tested>(rig: &mut Rig<D>) {
    rig.turn();
    let begun = Instant::now();
    for _ in 0..5 {
        let events = rig.turn();
        assert!(events.is_empty(), "{events:?}");
    }
    assert!(begun.elapsed() >= Duration::from_millis(5 * 19), "something ends every wait");
}

fn what_is_idle_or_paused_ends_no_wait<D: Tested>() {
    let mut rig = Rig::<D>::small(16, 1024);
    let (idle, _idle_peer) = rig.pair();
    rig.driver.resume(idle);
    let (resets, peer) = rig.pair();
    rig.driver.resume(resets);
    rig.turn();
    rig.driver.pause(resets);
    assert_at_rest(&mut rig);
    reset(peer);
    let (ends, mut peer) = rig.pair();
    peer.write_all(b"and").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    assert_at_rest(&mut rig);
    rig.driver.resume(resets);
    rig.driver.resume(ends);
    let mut seen = (false, false, false);
    while seen != (true, true, true) {
        for event in rig.turn() {
            match event {
                Event::Failed { conn, .. } if conn == resets => seen.0 = true,
                Event::Received { conn, lease } if conn == ends => {
                    assert_eq!(rig.driver.bytes(&lease), b"and");
                    rig.driver.release(lease);
                    seen.1 = true;
                }
                Event::EndOfStream { conn } if conn == ends => seen.2 = true,
                event => panic!("{event:?}"),
            }
        }
    }
    assert_at_rest(&mut rig);
}

fn bytes_behind_urgent_ones_are_not_left_lying<D: Tested>() {
    let mut rig = Rig::<D>::small(16, 1024);
    let (conn, mut peer) = rig.pair();
    peer.write_all(b"before").unwrap();
    // SAFETY: pointer and length name the byte.
    let sent = unsafe { libc::send(peer.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) };
    assert_eq!(sent, 1);
    peer.write_all(b"behind").unwrap();
    rig.driver.resume(conn);
    let mut got: Vec<u8> = Vec::new();
    rig.until(|driver, event| match event {
        Event::Received { lease, .. } => {
            got.extend(driver.bytes(&lease));
            driver.release(lease);
            (got.len() == 12).then_some(())
        }
        event => panic!("{event:?}"),
    });
    assert_eq!(got, b"beforebehind");
}

/// Relays 64 MiB to a slow reader, pausing the source when too much is queued or pinned.
fn a_slow_reader_slows_its_source_down_in_flat_memory<D: Tested>() {
    const BYTES: usize = 64 << 20;
    const PINNED_MAX: usize = 32;
    let mut rig =
        Rig::<D>::new(Config { queue_high_bytes: 256 << 10, queue_low_bytes: 64 << 10, ..Config::default() });
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = rig.driver.dial(target.local_addr().unwrap()).unwrap();
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
    // It reads nothing before the source was paused: what two kernels keep of a stream is less than all of it.
    let (held_back, is_held_back) = std::sync::mpsc::channel();
    let reading = thread::spawn(move || {
        let (mut peer, _) = target.accept().unwrap();
        is_held_back.recv().unwrap();
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
    rig.driver.resume(from);
    let (mut peak, mut pauses, mut drained, mut ended) = (0, 0, 0, false);
    let mut paused = false;
    while !ended || rig.driver.queued(to) > 0 {
        for event in rig.turn() {
            match event {
                Event::Received { lease, .. } => {
                    rig.driver.send_slot(to, &lease, 0..lease.len());
                    rig.driver.release(lease);
                }
                Event::EndOfStream { .. } => ended = true,
                Event::Drained { conn } if conn == to => drained += 1,
                event => panic!("{event:?}"),
            }
        }
        peak = peak.max(rig.driver.pinned(to));
        let full = rig.driver.pinned(to) > PINNED_MAX;
        if full && !paused {
            rig.driver.pause(from);
            pauses += 1;
            let _ = held_back.send(());
        } else if !full && paused {
            rig.driver.resume(from);
        }
        paused = full;
    }
    rig.driver.close(to, true);
    rig.driver.close(from, true);
    writing.join().unwrap();
    let mut closed = 0;
    while closed < 2 {
        closed += rig.turn().iter().filter(|event| matches!(event, Event::Closed { .. })).count();
    }
    assert!(reading.join().unwrap() == expected);
    assert!(pauses > 0 && drained > 0, "{pauses} pauses, drained {drained} times");
    assert!(peak <= 256, "{peak} slots pinned");
    assert_eq!(rig.driver.common().out.chunks_in_use(), 0);
    rig.assert_idle();
}

fn a_held_pool_brings_receiving_to_rest<D: Tested>() {
    let mut rig = Rig::<D>::small(8, 1024);
    let (conn, peer) = rig.pair();
    let sent = pattern(8, 100_000);
    let exchange = exchange(peer, sent.clone());
    let mut got: Vec<u8> = Vec::new();
    rig.driver.hold_pool(true);
    rig.driver.resume(conn);
    let mut take = |ring: &mut D, event| match event {
        Event::Received { lease, .. } => {
            got.extend(ring.bytes(&lease));
            ring.release(lease);
            None
        }
        Event::EndOfStream { .. } => Some(()),
        event => panic!("{event:?}"),
    };
    rig.for_a_while(100, |ring, event| assert!(take(ring, event).is_none()));
    assert_eq!(rig.driver.common().pool.available(), 0);
    rig.for_a_while(50, |_, event| panic!("held: {event:?}"));
    rig.driver.hold_pool(false);
    rig.until(&mut take);
    assert!(got == sent);
    rig.driver.close(conn, true);
    rig.wait_closed(conn);
    exchange.join().unwrap();
    rig.assert_idle();
}

fn a_lease_keeps_its_bytes_while_others_come_and_go<D: Tested>() {
    let mut rig = Rig::<D>::small(4, 256);
    let (held, mut held_peer) = rig.pair();
    held_peer.write_all(&pattern(1, 256)).unwrap();
    rig.driver.resume(held);
    let lease = rig.until(|_, event| match event {
        Event::Received { lease, .. } => Some(lease),
        event => panic!("{event:?}"),
    });
    let exchange = exchange(TcpStream::connect(rig.address).unwrap(), pattern(2, 100_000));
    echo_until_closed(&mut rig, 1, Echo::Slot);
    assert!(exchange.join().unwrap() == pattern(2, 100_000));
    assert_eq!(rig.driver.bytes(&lease), pattern(1, 256));
    rig.driver.bytes_mut(&lease)[0] = 0;
    assert_eq!(rig.driver.bytes(&lease)[0], 0);
    rig.driver.release(lease);
    rig.driver.close(held, false);
    rig.wait_closed(held);
    rig.assert_idle();
}

fn close_with_flush_delivers_and_lingers_for_the_peer<D: Tested>() {
    let mut rig = Rig::<D>::small(64, 4096);
    let (conn, mut peer) = rig.pair();
    // The peer is in the middle of sending: a plain close would reset it before it has read the answer.
    peer.write_all(&pattern(1, 100_000)).unwrap();
    let answer = pattern(2, 3 << 20);
    rig.driver.send_copy(conn, &answer);
    rig.driver.close(conn, true);
    rig.driver.send_copy(conn, b"too late");
    rig.driver.resume(conn);
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

fn the_linger_limit_cuts_a_peer_that_does_not_read<D: Tested>() {
    let mut rig = Rig::<D>::new(Config { linger: Duration::from_millis(200), ..Config::default() });
    let (conn, peer) = rig.pair();
    clog(&mut rig, conn);
    let begun = Instant::now();
    rig.driver.close(conn, true);
    rig.wait_closed(conn);
    assert!(begun.elapsed() >= Duration::from_millis(190) && begun.elapsed() < Duration::from_secs(5));
    drop(peer);
    // One that reads all but never ends its own stream is cut as well.
    let (conn, peer) = rig.pair();
    rig.driver.close(conn, true);
    rig.wait_closed(conn);
    drop(peer);
    rig.assert_idle();
}

fn a_peer_that_never_stops_sending_is_cut_when_it_has_been_told<D: Tested>() {
    let mut rig = Rig::<D>::small(64, 4096);
    let (conn, mut peer) = rig.pair();
    let mut writing = peer.try_clone().unwrap();
    let flood = thread::spawn(move || {
        let mut bytes = 0_usize;
        while let Ok(count) = writing.write(&[0; 65_536]) {
            bytes += count;
        }
        bytes
    });
    rig.driver.send_copy(conn, b"last words");
    let begun = Instant::now();
    rig.driver.close(conn, true);
    rig.wait_closed(conn);
    assert!(begun.elapsed() < Duration::from_secs(4), "the time limit is not waited for");
    let mut got = [0; 10];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"last words");
    assert!(flood.join().unwrap() > 1 << 20);
    rig.assert_idle();
}

fn close_without_flush_is_at_once_even_with_a_send_in_flight<D: Tested>() {
    let mut rig = Rig::<D>::small(64, 4096);
    for flush_first in [false, true] {
        let (conn, peer) = rig.pair();
        rig.driver.resume(conn);
        clog(&mut rig, conn);
        assert!(rig.driver.common().out.chunks_in_use() > 0);
        let begun = Instant::now();
        if flush_first {
            rig.driver.close(conn, true);
            rig.for_a_while(30, |_, event| panic!("{event:?}"));
        }
        rig.driver.close(conn, false);
        rig.wait_closed(conn);
        assert!(begun.elapsed() < Duration::from_secs(2));
        drop(peer);
        rig.assert_idle();
    }
}

fn finish_sends_the_end_behind_the_queue_and_receiving_goes_on<D: Tested>() {
    let mut rig = Rig::<D>::small(64, 4096);
    let (conn, mut peer) = rig.pair();
    rig.driver.resume(conn);
    rig.driver.send_copy(conn, &[1; 100_000]);
    rig.driver.finish(conn);
    rig.driver.send_copy(conn, b"too late");
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
    rig.driver.close(conn, true);
    rig.wait_closed(conn);
    rig.assert_idle();
}

fn a_reset_peer_fails_once_and_only_after_its_last_byte<D: Tested>() {
    let mut rig = Rig::<D>::small(64, 4096);
    for sending in [false, true] {
        let (conn, mut peer) = rig.pair();
        peer.write_all(b"last words").unwrap();
        thread::sleep(Duration::from_millis(5));
        reset(peer);
        if sending {
            // The send meets the reset first; what came before is still to be had.
            rig.driver.send_copy(conn, &[0; 100_000]);
            rig.for_a_while(50, |_, event| assert!(!matches!(event, Event::Failed { .. })));
        }
        rig.driver.resume(conn);
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
        assert_eq!(rig.driver.queued(conn), 0);
        rig.driver.send_copy(conn, b"into the void");
        rig.for_a_while(30, |_, event| panic!("{event:?}"));
        rig.driver.close(conn, true);
        rig.wait_closed(conn);
    }
    rig.assert_idle();
}

fn dead_ids_touch_nobody<D: Tested>() {
    let mut rig = Rig::<D>::small(64, 4096);
    let (old, peer) = rig.pair();
    rig.driver.resume(old);
    rig.driver.close(old, false);
    rig.wait_closed(old);
    drop(peer);
    let (new, mut peer) = rig.pair();
    assert_eq!(new.index, old.index);
    rig.driver.resume(old);
    rig.driver.send_copy(old, b"for somebody else");
    rig.driver.finish(old);
    rig.driver.close(old, false);
    rig.driver.pause(old);
    assert_eq!((rig.driver.queued(old), rig.driver.pinned(old)), (0, 0));
    rig.for_a_while(30, |_, event| panic!("{event:?}"));
    rig.driver.send_copy(new, b"hello");
    rig.turn();
    let mut got = [0; 5];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
}

fn a_dial_tells_how_it_ended<D: Tested>() {
    let mut rig = Rig::<D>::small(64, 4096);
    // Refused.
    let gone = system::listen_socket("127.0.0.1:0".parse().unwrap(), 1, false).unwrap().local_addr().unwrap();
    let conn = rig.driver.dial(gone).unwrap();
    rig.driver.send_copy(conn, b"queued before the answer");
    let error = rig.until(|_, event| match event {
        Event::Dialed { result, .. } => Some(result.unwrap_err()),
        event => panic!("{event:?}"),
    });
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    rig.driver.close(conn, true);
    rig.wait_closed(conn);
    // Stands: what was queued and asked before goes ahead.
    let target = system::listen_socket("[::1]:0".parse().unwrap(), 1, false).unwrap();
    let conn = rig.driver.dial(target.local_addr().unwrap()).unwrap();
    rig.driver.resume(conn);
    rig.driver.send_copy(conn, b"early");
    rig.until(|_, event| match event {
        Event::Dialed { result: Ok(()), .. } => Some(()),
        event => panic!("{event:?}"),
    });
    let (mut peer, _) = target.accept().unwrap();
    rig.turn();
    let mut got = [0; 5];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"early");
    assert!(rig.driver.common().conns.get(conn).unwrap().stream.nodelay().unwrap());
    rig.driver.close(conn, false);
    rig.wait_closed(conn);
    // Hangs, because the backlog is full: the caller loses patience.
    let full = system::listen_socket("127.0.0.1:0".parse().unwrap(), 0, false).unwrap();
    let _first = TcpStream::connect(full.local_addr().unwrap()).unwrap();
    let conn = rig.driver.dial(full.local_addr().unwrap()).unwrap();
    rig.for_a_while(50, |_, event| panic!("{event:?}"));
    rig.driver.close(conn, true);
    rig.wait_closed(conn);
    rig.assert_idle();
}

fn a_flood_is_accepted_up_to_the_limit_and_the_rest_refused<D: Tested>() {
    let mut rig = Rig::<D>::new(Config { connections_max: 300, entries: 8, ..Config::default() });
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
    let stream = &rig.driver.common().conns.get(accepted[0]).unwrap().stream;
    assert!(stream.nodelay().unwrap(), "inherited from the listener");
    for conn in &accepted {
        rig.driver.close(*conn, false);
    }
    let mut closed = 0;
    while closed < 300 {
        closed += rig.turn().len();
    }
    drop(peers);
    rig.pair();
}

fn a_stopped_listener_accepts_no_more_and_frees_its_address<D: Tested>() {
    let mut rig = Rig::<D>::small(4, 64);
    rig.driver.stop_listening(rig.listener);
    rig.for_a_while(30, |_, event| panic!("{event:?}"));
    assert!(TcpStream::connect(rig.address).is_err());
    let again = system::listen_socket(rig.address, 8, false).unwrap();
    rig.listener = rig.driver.listen(again).unwrap();
    rig.pair();
}

fn wakers_lose_no_wake<D: Tested>() {
    let mut rig = Rig::<D>::small(4, 64);
    let posted = Arc::new(AtomicU64::new(0));
    let wakers: Vec<_> = (0..4)
        .map(|_| {
            let (waker, posted) = (rig.driver.waker(), posted.clone());
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
        rig.driver.turn(Wait::Until(Instant::now() + PATIENCE), &mut rig.events).unwrap();
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
    let waker = rig.driver.waker();
    (0..100).for_each(|_| waker.wake());
    assert_eq!(rig.turn().len(), 1);
    assert_eq!(rig.turn().len(), 0);
    drop(rig);
    waker.wake();
}

fn waits_end_in_time<D: Tested>() {
    let mut rig = Rig::<D>::small(4, 64);
    for (wait, least, most) in [(0, 0, 20), (50, 50, 90)] {
        let begun = Instant::now();
        let until = Wait::Until(begun + Duration::from_millis(wait));
        rig.driver.turn(until, &mut rig.events).unwrap();
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(least) && took < Duration::from_millis(most), "{took:?}");
    }
    let begun = Instant::now();
    rig.driver.turn(Wait::No, &mut rig.events).unwrap();
    assert!(begun.elapsed() < Duration::from_millis(20));
    let waker = rig.driver.waker();
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(30));
        waker.wake();
    });
    rig.driver.turn(Wait::Forever, &mut rig.events).unwrap();
    assert!(matches!(rig.events[..], [Event::Woken]));
}

fn scratch_file(name: &str) -> (std::path::PathBuf, std::fs::File) {
    let path = std::env::temp_dir().join(format!("lockgate-ring-{}-{name}", std::process::id()));
    let file =
        std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    (path, file)
}

fn files_are_written_where_and_as_told<D: Tested>() {
    let mut rig = Rig::<D>::small(4, 64);
    let (path, file) = scratch_file("write");
    let file = rig.driver.open_file(file.into());
    let parts: Vec<_> = (0..200_u64).map(|n| pattern(n, 10_000)).collect();
    for (n, part) in parts.iter().enumerate().rev() {
        let n = u64::try_from(n).unwrap();
        rig.driver.write(file, n * 10_000, part.clone(), 0, n);
    }
    let mut written = 0;
    while written < 200 {
        for event in rig.turn() {
            let Event::Written { token, result, buf } = event else { panic!("{event:?}") };
            result.unwrap();
            assert!(buf == parts[usize::try_from(token).unwrap()]);
            written += 1;
        }
    }
    rig.driver.sync(file, 99);
    rig.driver.write(file, 0, Vec::new(), 0, 100);
    rig.driver.close_file(file);
    rig.driver.write(file, 0, vec![1], 0, 101);
    rig.driver.sync(file, 102);
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
    assert_eq!(rig.driver.counts().files, 0);
    assert!(std::fs::read(&path).unwrap() == parts.concat());
    std::fs::remove_file(path).unwrap();
}

fn a_failed_write_says_so_and_gives_the_buffer_back<D: Tested>() {
    let mut rig = Rig::<D>::small(4, 64);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let full = rig.driver.open_file(full.into());
    rig.driver.write(full, 0, vec![1; 100], 0, 7);
    rig.until(|_, event| match event {
        Event::Written { token: 7, result, buf } => {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
            assert_eq!(buf, [1; 100]);
            Some(())
        }
        event => panic!("{event:?}"),
    });
    let read_only = std::fs::File::open("/dev/null").unwrap();
    let read_only = rig.driver.open_file(read_only.into());
    rig.driver.write(read_only, 0, vec![1; 100], 0, 8);
    rig.until(|_, event| match event {
        Event::Written { token: 8, result, .. } => Some(result.unwrap_err()),
        event => panic!("{event:?}"),
    });
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Runs a test of this module in a process of its own, because it changes or counts what a process has one of.
fn in_own_process<D: Tested>(name: &str) {
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("tests::{}::{name}", D::NAME), "--ignored", "--nocapture"])
        .status()
        .unwrap();
    assert!(status.success());
}

fn ten_thousand_connections_leak_nothing<D: Tested>() {
    in_own_process::<D>("churn");
}

fn churn<D: Tested>() {
    let mut rig = Rig::<D>::new(Config { slots: 32, slot_bytes: 1024, ..Config::default() });
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
        let over = peers.iter().all(JoinHandle::is_finished) && rig.driver.counts().connections == 0;
        quiet_turns = if over && events.is_empty() { quiet_turns + 1 } else { 0 };
        for event in events {
            match event {
                Event::Accepted { conn, .. } => match random.below(8) {
                    0 => rig.driver.close(conn, true),
                    1 => rig.driver.close(conn, false),
                    _ => rig.driver.resume(conn),
                },
                Event::Received { conn, lease } => {
                    echo(&mut rig.driver, conn, lease, Echo::Mixed(30));
                    if random.below(4) == 0 {
                        rig.driver.close(conn, random.below(2) == 0);
                    }
                }
                Event::EndOfStream { conn } | Event::Failed { conn, .. } => {
                    rig.driver.close(conn, random.below(2) == 0);
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

fn accepting_goes_on_after_descriptors_ran_out<D: Tested>() {
    in_own_process::<D>("exhaustion");
}

fn exhaustion<D: Tested>() {
    let mut rig = Rig::<D>::small(4, 64);
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

fn a_ring_may_be_dropped_at_any_moment<D: Tested>() {
    in_own_process::<D>("drops");
}

fn drops<D: Tested>() {
    let before = open_descriptors();
    for round in 0..20 {
        let mut rig = Rig::<D>::small(8, 1024);
        let (clogged, clogged_peer) = rig.pair();
        clog(&mut rig, clogged);
        let (_, mut peer) = rig.pair();
        peer.write_all(&[1; 100_000]).unwrap();
        rig.driver.resume(clogged);
        let _ = rig.driver.dial(rig.address).unwrap();
        let (path, file) = scratch_file("drop");
        let file = rig.driver.open_file(file.into());
        rig.driver.write(file, 0, vec![1; 1 << 20], 0, 1);
        rig.driver.sync(file, 2);
        for _ in 0..round % 3 {
            let _ = rig.driver.turn(Wait::No, &mut rig.events);
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

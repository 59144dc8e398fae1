//! The contract over readiness, for hosts that forbid io_uring: [`Poller`].
//!
//! Every descriptor is watched from its first to its last moment, for edges: the kernel says once that something has
//! become possible, and the driver notes it until a call says that it is no longer. So a pause costs no system call, a
//! paused connection whose peer has gone does not keep the wait from waiting, and an idle one costs nothing. What is
//! noted and wanted is worked off in portions, so that one connection's flood fills only its share of a turn.
//!
//! No byte is ever the kernel's to read or write between two calls, so nothing of a connection is in flight, and a
//! close without flush is over at once. Files are the exception: a helper thread writes them (`epoll/disk.rs`).

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::common::{Closing, Common};
use crate::config::{Config, Counts};
use crate::conns::Phase;
use crate::outgoing::GATHER_MAX;
use crate::pool::Pool;
use crate::{ConnId, Driver, Event, FileId, Lease, ListenerId, Wait, Waker, system};

mod disk;
mod interest;
mod listeners;
mod progress;
#[cfg(test)]
mod tests;

use disk::Disk;
use interest::{Interest, Source};
use listeners::Listeners;

/// Most bytes that one connection receives in one turn: a fair share, and enough that the calls around it weigh little.
const TURN_BYTES_MAX: u32 = 64 << 10;
/// Most slots of one receive, and of one connection in one turn.
const TURN_SLOTS_MAX: usize = 16;
/// Most connections that one listener gets in one turn.
const ACCEPTS_MAX: usize = 64;
/// Most reports of one wait, whatever the configuration says.
const REPORTS_MAX: u32 = 4096;

/// How long a dropped poller waits for its file thread before it leaves it to itself: writes to a disk that hangs.
const DROP_WAIT: Duration = Duration::from_secs(2);

/// What is possible with a connection, as far as is known.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    readable: bool,
    writable: bool,
    /// A receive that does not fill its room has not found everything.
    more_than_bytes: bool,
    /// Stands in the line of those to receive from.
    lined_up: bool,
}

/// The readiness driver.
#[derive(Debug)]
pub struct Poller {
    interest: Interest,
    pub(crate) common: Common<Readiness>,
    listeners: Listeners,
    disk: Disk,
    waker: Waker,
    /// Not begun yet.
    dials: Vec<(ConnId, SocketAddr)>,
    /// There is something to be received, as far as is known, and it is wanted.
    line: Vec<ConnId>,
    /// Room for the vectors of one gather send.
    gather: Box<[libc::iovec]>,
    /// Slots of one receive, and receives of one connection in one turn.
    slots_at_once: usize,
    receives_max: usize,
    sleeps: u64,
}

impl Poller {
    /// A poller for the calling thread.
    ///
    /// # Errors
    /// When descriptors, memory or a thread cannot be had, or the sizes make no sense.
    pub fn new(config: Config) -> io::Result<Poller> {
        config.check()?;
        let mut pool = Pool::new(config.slots, config.slot_bytes)?;
        pool.open();
        let interest = Interest::new(usize::try_from(config.entries.min(REPORTS_MAX)).unwrap_or(1))?;
        let waker = Waker::new()?;
        let disk = Disk::new()?;
        interest.add(waker.fd(), Source::Bell)?;
        interest.add(disk.bell().fd(), Source::Bell)?;
        let share = usize::try_from(TURN_BYTES_MAX / config.slot_bytes).unwrap_or(1).clamp(1, TURN_SLOTS_MAX);
        let (slots_at_once, receives_max) = if config.bundles { (share, 1) } else { (1, share) };
        let no_vector = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Ok(Poller {
            interest,
            common: Common::new(config, pool),
            listeners: Listeners::default(),
            disk,
            waker,
            dials: Vec::new(),
            line: Vec::new(),
            gather: vec![no_vector; GATHER_MAX].into(),
            slots_at_once,
            receives_max,
            sleeps: 0,
        })
    }

    /// What the poller holds now.
    pub fn counts(&self) -> Counts {
        self.common.counts(self.disk.files(), self.disk.in_flight())
    }

    /// Turns wishes into calls: cuts what lingers too long, dials, sends, lines up who can have a slot again.
    fn prepare(&mut self) {
        if self.deadline().is_some() {
            self.pass_time(Instant::now());
        }
        for (id, address) in std::mem::take(&mut self.dials) {
            self.connect(id, address);
        }
        // What has more to send than one call takes goes to the end of the list and waits for the next turn.
        let mut list = std::mem::take(&mut self.common.dirty);
        for id in list.drain(..) {
            self.send(id);
        }
        if self.common.dirty.is_empty() {
            self.common.dirty = list;
        }
        // After the sends: each may have given slots back.
        for _ in 0..self.common.feedable() {
            if let Some(id) = self.common.feed() {
                self.line_up(id);
            }
        }
    }

    fn pass_time(&mut self, now: Instant) {
        self.listeners.wake_rested(now);
        while let Some(id) = self.common.lingered_out(now) {
            self.cut(id);
        }
    }

    /// Waits as told if there is nothing to do, and notes what has become possible.
    fn look(&mut self, wait: Wait) -> io::Result<()> {
        let busy = self.common.is_busy() || !self.line.is_empty() || self.listeners.any_ready();
        let deadline = match wait {
            _ if busy => Some(None),
            Wait::No => Some(None),
            Wait::Until(until) => Some(Some(self.deadline().map_or(until, |ours| ours.min(until)))),
            Wait::Forever => self.deadline().map(Some),
        };
        let now = Some(Duration::ZERO);
        let timeout = match deadline {
            None => None,
            Some(None) => now,
            Some(Some(until)) => Some(until.saturating_duration_since(Instant::now())),
        };
        let asleep = timeout != now && self.waker.sleep() && self.disk.bell().sleep();
        self.sleeps += u64::from(asleep);
        let found = self.interest.wait(if asleep { timeout } else { now })?;
        for at in 0..found {
            match self.interest.report(at) {
                Some((Source::Conn(id), ready)) => self.became(id, ready),
                Some((Source::Listener(id), _)) => self.listeners.ready(id),
                Some((Source::Bell, _)) | None => {}
            }
        }
        Ok(())
    }

    /// When the poller itself has something to do.
    fn deadline(&self) -> Option<Instant> {
        [self.common.deadline(), self.listeners.deadline()].into_iter().flatten().min()
    }

    /// Takes what can be had: wakes, results of files, connections, bytes.
    fn reap(&mut self) {
        if self.waker.rise() {
            self.common.ready.push(Event::Woken);
        }
        if self.disk.bell().rise() {
            self.disk.collect(&mut self.common.ready);
        }
        if self.listeners.any_ready() {
            self.accept();
        }
        // Whoever has more than its share is lined up again, for the next turn.
        let mut line = std::mem::take(&mut self.line);
        for id in line.drain(..) {
            self.receive(id);
        }
        if self.line.is_empty() {
            self.line = line;
        }
    }
}

impl Driver for Poller {
    fn listen(&mut self, socket: TcpListener) -> io::Result<ListenerId> {
        socket.set_nonblocking(true)?;
        system::prepare_stream(socket.as_raw_fd())?;
        self.listeners.add(&self.interest, socket)
    }

    fn stop_listening(&mut self, listener: ListenerId) {
        self.listeners.stop(&self.interest, listener);
    }

    fn dial(&mut self, address: SocketAddr) -> io::Result<ConnId> {
        let stream = TcpStream::from(system::stream_socket(&address)?);
        stream.set_nonblocking(true)?;
        system::prepare_stream(stream.as_raw_fd())?;
        system::probe_peer(stream.as_raw_fd())?;
        let id = self.common.conns.insert(stream, Phase::Dialing)?;
        self.dials.push((id, address));
        Ok(id)
    }

    fn resume(&mut self, conn: ConnId) {
        if self.common.want(conn, true) {
            self.line_up(conn);
        }
    }

    fn pause(&mut self, conn: ConnId) {
        self.common.want(conn, false);
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        self.common.pool.bytes(lease)
    }

    fn bytes_mut(&mut self, lease: &Lease) -> &mut [u8] {
        self.common.pool.bytes_mut(lease)
    }

    fn release(&mut self, lease: Lease) {
        self.common.pool.release(lease.slot);
    }

    fn send_slot(&mut self, conn: ConnId, lease: &Lease, range: Range<usize>) {
        self.common.send_slot(conn, lease, range);
    }

    fn send_copy(&mut self, conn: ConnId, bytes: &[u8]) {
        self.common.send_copy(conn, bytes);
    }

    fn finish(&mut self, conn: ConnId) {
        if self.common.finish(conn) {
            self.advance(conn);
        }
    }

    fn close(&mut self, conn: ConnId, flush: bool) {
        match self.common.close(conn, flush) {
            Closing::Nothing => {}
            Closing::Flush => {
                self.line_up(conn);
                self.common.mark_dirty(conn);
                self.advance(conn);
            }
            Closing::Cut => self.cut(conn),
        }
    }

    fn queued(&self, conn: ConnId) -> usize {
        self.common.queued(conn)
    }

    fn pinned(&self, conn: ConnId) -> usize {
        self.common.pinned(conn)
    }

    fn hold_pool(&mut self, hold: bool) {
        self.common.pool.hold(hold);
    }

    fn open_file(&mut self, file: OwnedFd) -> FileId {
        self.disk.open(file)
    }

    fn close_file(&mut self, file: FileId) {
        self.disk.close(file);
    }

    fn write(&mut self, file: FileId, offset: u64, buf: Vec<u8>, start: usize, token: u64) {
        let event = self.disk.write(file, offset, buf, start, token);
        self.common.ready.extend(event);
    }

    fn sync(&mut self, file: FileId, token: u64) {
        let event = self.disk.sync(file, token);
        self.common.ready.extend(event);
    }

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        self.common.conns.turn_begins();
        self.prepare();
        let result = self.look(wait);
        self.reap();
        self.common.hand_over(events);
        result
    }

    fn sleeps(&self) -> u64 {
        self.sleeps
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.disk.end(DROP_WAIT);
    }
}

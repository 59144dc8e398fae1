//! The contract over io_uring: [`Ring`].
//!
//! Soundness in one paragraph: the kernel reads and writes only slots of the [`pool`], copy buffers and slots
//! in the in-flight part of a [send queue](crate::outgoing), and buffers in the table of [file jobs](jobs). Each stays
//! where it is until the completion that ends the operation has been reaped. A ring that is dropped cancels all
//! and waits for it; if something does not end, that memory is leaked on purpose rather than freed under the
//! kernel's hands.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use io_uring::cqueue;

use crate::common::{Closing, Common};
use crate::config::{Config, Counts};
use crate::conns::Phase;
use crate::outgoing::Gathered;
use crate::pool::{self, Pool};
use crate::probe::{build, explain};
use crate::{ConnId, Driver, Event, FileId, Lease, ListenerId, Wait, Waker, system};

mod jobs;
mod kernel;
mod listeners;
mod progress;
mod selftest;
mod spin;
#[cfg(test)]
mod tests;
mod token;

use jobs::Jobs;
use kernel::{BATCH, Kernel};
use listeners::Listeners;
use token::{Kind, Token};

/// How long a dropped ring waits for the end of what is in flight before it leaks the memory concerned: writes to
/// a disk that hangs, in practice.
const DROP_WAIT: Duration = Duration::from_secs(2);

/// What of a connection is the kernel's.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    receiving: Receiving,
    connecting: bool,
}

/// The multishot receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Receiving {
    #[default]
    No,
    Armed,
    /// A cancel is under way; bytes may still come before its end is confirmed.
    Cancelling,
}

type Conn = crate::conns::Conn<Flight>;

impl Conn {
    fn is_in_flight(&self) -> bool {
        self.own.connecting || self.own.receiving != Receiving::No || self.queue.is_sending()
    }

    fn token(&self, kind: Kind, index: u32) -> Token {
        Token::new(kind, index, self.generation)
    }
}

/// The io_uring driver. It belongs to the thread that made it (the kernel enforces that: SINGLE_ISSUER).
#[derive(Debug)]
pub struct Ring {
    kernel: Kernel,
    pub(crate) common: Common<Flight>,
    listeners: Listeners,
    jobs: Jobs,
    waker: Waker,
    one_thread: PhantomData<*const ()>,
}

impl Ring {
    /// A ring for the calling thread.
    ///
    /// # Errors
    /// When the kernel forbids io_uring or is too old (the text says what to do), or the sizes make no sense.
    pub fn new(config: Config) -> io::Result<Ring> {
        config.check()?;
        let bundles = config.bundles && selftest::bundles_work()?;
        Ring::with(Config { bundles, ..config })
    }

    /// Whether receives fill several slots at a time: asked for, offered by the kernel, and tested.
    pub fn bundles(&self) -> bool {
        self.common.config.bundles
    }

    fn with(config: Config) -> io::Result<Ring> {
        let ring = build(config.entries).map_err(|error| explain(&error))?;
        let mut pool = Pool::new(config.slots, config.slot_bytes)?;
        let mut kernel = Kernel::new(ring, config.spin);
        pool.register(&kernel.submitter())?;
        let waker = Waker::new()?;
        kernel.watch(waker.fd(), Token::new(Kind::Wake, 0, 0));
        Ok(Ring {
            kernel,
            common: Common::new(config, pool),
            listeners: Listeners::default(),
            jobs: Jobs::default(),
            waker,
            one_thread: PhantomData,
        })
    }

    /// What the ring holds now.
    pub fn counts(&self) -> Counts {
        self.common.counts(self.jobs.files(), self.kernel.in_flight())
    }

    /// Turns wishes into operations: cuts what lingers too long, receives again where slots are, sends.
    fn prepare(&mut self) {
        if self.deadline().is_some() {
            self.pass_time(Instant::now());
        }
        for _ in 0..self.common.feedable() {
            if let Some(id) = self.common.feed() {
                self.receive(id);
            }
        }
        // What can not be sent for want of room goes to the end of the list and waits for the next turn.
        let mut list = std::mem::take(&mut self.common.dirty);
        for id in list.drain(..) {
            self.send(id);
        }
        if self.common.dirty.is_empty() {
            self.common.dirty = list;
        }
    }

    fn pass_time(&mut self, now: Instant) {
        self.listeners.wake_rested(&mut self.kernel, now);
        while let Some(id) = self.common.lingered_out(now) {
            self.cut(id);
        }
    }

    /// Arms the receive if the connection wants bytes and has none under way.
    fn receive(&mut self, id: ConnId) {
        let Some(conn) = self.common.conns.get_mut(id) else { return };
        if conn.can_receive() && conn.own.receiving == Receiving::No {
            conn.own.receiving = Receiving::Armed;
            let token = conn.token(Kind::Receive, id.index);
            self.kernel.receive(conn.fd(), pool::GROUP, self.common.config.bundles, token);
        }
    }

    /// Takes the receive back if one is under way.
    fn stop_receiving(&mut self, id: ConnId) {
        if let Some(conn) = self.common.conns.get_mut(id)
            && conn.own.receiving == Receiving::Armed
        {
            conn.own.receiving = Receiving::Cancelling;
            self.kernel.cancel(conn.token(Kind::Receive, id.index));
        }
    }

    /// Hands as much of the queue to the kernel as one operation takes.
    fn send(&mut self, id: ConnId) {
        let Common { conns, out, pool, dirty, .. } = &mut self.common;
        let Some(conn) = conns.get_mut(id) else { return };
        conn.dirty = false;
        if !conn.can_send() {
            return;
        }
        let Some(vectors) = self.kernel.vectors() else {
            conn.dirty = true;
            dirty.push(id);
            return;
        };
        let token = conn.token(Kind::Send, id.index);
        match out.gather(&mut conn.queue, pool, vectors) {
            Gathered::Nothing => {}
            // SAFETY: the piece is in flight from here on: its slot keeps its reference, its copy buffer stays out
            // of use and grows no more until `Outgoing::taken`, which only the completion calls.
            Gathered::One(at, len) => unsafe { self.kernel.send(conn.fd(), at, len, token) },
            // SAFETY: as above, for each piece.
            Gathered::Many(count) => unsafe { self.kernel.send_gather(conn.fd(), count, token) },
        }
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let busy = self.common.is_busy() || self.kernel.has_completions();
        let deadline = match wait {
            Wait::No => return self.kernel.enter(false, None),
            _ if busy => return self.kernel.enter(false, None),
            Wait::Until(until) => self.deadline().map_or(Some(until), |ours| Some(ours.min(until))),
            Wait::Forever => self.deadline(),
        };
        let timeout = deadline.map(|until| until.saturating_duration_since(Instant::now()));
        let wait = timeout != Some(Duration::ZERO) && self.waker.sleep();
        self.kernel.enter(wait, timeout.filter(|_| wait))
    }

    /// When the ring itself has something to do.
    fn deadline(&self) -> Option<Instant> {
        [self.common.deadline(), self.listeners.deadline()].into_iter().flatten().min()
    }

    fn reap(&mut self) {
        let mut batch = [const { MaybeUninit::uninit() }; BATCH];
        loop {
            let reaped = self.kernel.reap(&mut batch);
            if reaped.is_empty() {
                return;
            }
            for entry in reaped {
                self.complete(entry);
            }
        }
    }
}

impl Driver for Ring {
    fn listen(&mut self, socket: TcpListener) -> io::Result<ListenerId> {
        socket.set_nonblocking(false)?;
        system::prepare_stream(socket.as_raw_fd())?;
        Ok(self.listeners.add(&mut self.kernel, socket))
    }

    fn stop_listening(&mut self, listener: ListenerId) {
        self.listeners.stop(&mut self.kernel, listener);
    }

    fn dial(&mut self, address: SocketAddr) -> io::Result<ConnId> {
        let stream = TcpStream::from(system::stream_socket(&address)?);
        system::prepare_stream(stream.as_raw_fd())?;
        let fd = stream.as_raw_fd();
        system::probe_peer(fd)?;
        let id = self.common.conns.insert(stream, Phase::Dialing)?;
        let token = Token::new(Kind::Connect, id.index, id.generation);
        if !self.kernel.connect(fd, address, token) {
            self.common.conns.remove(id);
            return Err(io::Error::from(io::ErrorKind::WouldBlock));
        }
        if let Some(conn) = self.common.conns.get_mut(id) {
            conn.own.connecting = true;
        }
        Ok(id)
    }

    fn resume(&mut self, conn: ConnId) {
        if self.common.want(conn, true) {
            self.receive(conn);
        }
    }

    fn pause(&mut self, conn: ConnId) {
        if self.common.want(conn, false) {
            self.stop_receiving(conn);
        }
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
                self.receive(conn);
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
        self.jobs.open(file)
    }

    fn close_file(&mut self, file: FileId) {
        self.jobs.close(file);
    }

    fn write(&mut self, file: FileId, offset: u64, buf: Vec<u8>, start: usize, token: u64) {
        let event = self.jobs.write(&mut self.kernel, file, offset, buf, start, token);
        self.common.ready.extend(event);
    }

    fn sync(&mut self, file: FileId, token: u64) {
        let event = self.jobs.sync(&mut self.kernel, file, token);
        self.common.ready.extend(event);
    }

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        self.common.conns.turn_begins();
        self.prepare();
        let result = self.enter(wait);
        if self.waker.rise() {
            self.common.ready.push(Event::Woken);
        }
        self.reap();
        self.common.hand_over(events);
        result
    }

    fn sleeps(&self) -> u64 {
        self.kernel.sleeps()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let until = Instant::now() + DROP_WAIT;
        self.kernel.cancel_all();
        while self.kernel.in_flight() > 0 && Instant::now() < until {
            if self.kernel.enter(true, Some(DROP_WAIT / 100)).is_err() {
                break;
            }
            if !self.kernel.has_completions() {
                self.kernel.cancel_all();
            }
            self.discard_completions();
        }
        if self.kernel.in_flight() > 0 {
            self.common.pool.leak();
            std::mem::forget(std::mem::take(&mut self.common.out));
            std::mem::forget(std::mem::take(&mut self.jobs));
        }
    }
}

impl Ring {
    /// Reaps without regard to what it is, but for descriptors that must not leak.
    fn discard_completions(&mut self) {
        let mut batch = [const { MaybeUninit::uninit() }; BATCH];
        loop {
            let reaped = self.kernel.reap(&mut batch);
            if reaped.is_empty() {
                return;
            }
            for entry in reaped {
                let token = Token::unpack(entry.user_data());
                if token.is_some_and(|token| token.kind == Kind::Accept) && entry.result() >= 0 {
                    drop(accepted_stream(entry));
                }
            }
        }
    }
}

/// The socket that a successful accept made.
fn accepted_stream(entry: &cqueue::Entry) -> TcpStream {
    // SAFETY: the kernel has just made this descriptor for this completion, and the caller takes it once.
    TcpStream::from(unsafe { OwnedFd::from_raw_fd(entry.result()) })
}

//! The contract over io_uring: [`Ring`].
//!
//! Soundness in one paragraph: the kernel reads and writes only slots of the [`pool`], copy buffers and slots
//! in the in-flight part of a [send queue](outgoing), and buffers in the table of [file jobs](files). Each stays
//! where it is until the completion that ends the operation has been reaped. A ring that is dropped cancels all
//! and waits for it; if something does not end, that memory is leaked on purpose rather than freed under the
//! kernel's hands.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use io_uring::cqueue;

use crate::probe::{build, explain};
use crate::{ConnId, Driver, Event, FileId, Lease, ListenerId, Wait, Waker, system};

mod conns;
mod files;
mod kernel;
mod listeners;
mod map;
mod outgoing;
mod pool;
mod progress;
mod selftest;
#[cfg(test)]
mod tests;
mod token;

use conns::{Conns, Phase, Receiving};
use files::Files;
use kernel::{BATCH, Kernel};
use listeners::Listeners;
use outgoing::{Gathered, Outgoing};
use pool::Pool;
use token::{Kind, Token};

/// Sizes and limits of a [`Ring`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Slots of the receive pool. With the default slot size the pool is 4 MiB: it stays in the cache of one core,
    /// which makes the difference between 1.5 and 5 GiB/s in bulk. At most 32,768.
    pub slots: u16,
    /// Bytes of a slot: a TLS record with its overhead fits into two, and a full slot is worth a send.
    pub slot_bytes: u32,
    /// Entries of the submission queue, a power of two. What does not fit is submitted at once, which costs a
    /// system call and nothing else. The completion queue has four times as many.
    pub entries: u32,
    /// Most connections at a time, accepted and dialled together; the next is refused.
    pub connections_max: u32,
    /// How long [`Driver::close`] with flush may take before the connection is cut.
    pub linger: Duration,
    /// Above this many queued bytes a connection counts as full: [`Event::Drained`] will come.
    pub queue_high_bytes: usize,
    /// [`Event::Drained`] comes when no more than this is queued.
    pub queue_low_bytes: usize,
    /// Receive into several slots at a time where the kernel can (6.10 and later, tested when the ring is made): a
    /// third less processor time in bulk.
    pub bundles: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            slots: 256,
            slot_bytes: 16 << 10,
            entries: 1024,
            connections_max: 20_000,
            linger: Duration::from_secs(5),
            queue_high_bytes: 256 << 10,
            queue_low_bytes: 64 << 10,
            bundles: true,
        }
    }
}

/// How long a dropped ring waits for the end of what is in flight before it leaks the memory concerned: writes to
/// a disk that hangs, in practice.
const DROP_WAIT: Duration = Duration::from_secs(2);

/// What a ring holds, for logs, metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Connections whose [`Event::Closed`] has not come.
    pub connections: usize,
    /// Connections that wait for a slot.
    pub starved: usize,
    /// Files whose descriptor is open.
    pub files: usize,
    /// Slots under lease, queued for sending or withheld.
    pub slots_in_use: usize,
    /// Copy buffers with something in them.
    pub copy_buffers_in_use: usize,
    /// Operations of the kernel's, multishot ones counted once.
    pub in_flight: usize,
}

/// The io_uring driver. It belongs to the thread that made it (the kernel enforces that: SINGLE_ISSUER).
#[derive(Debug)]
pub struct Ring {
    kernel: Kernel,
    pool: Pool,
    out: Outgoing,
    conns: Conns,
    listeners: Listeners,
    files: Files,
    waker: Waker,
    config: Config,
    /// Found, and not yet handed over.
    ready: Vec<Event>,
    /// Have something to send.
    dirty: Vec<ConnId>,
    /// Found no slot, in the order in which they did.
    starved: VecDeque<ConnId>,
    /// Are flushed until then; the limit is the same for all, so the first is the next.
    lingering: VecDeque<(Instant, ConnId)>,
    one_thread: PhantomData<*const ()>,
}

impl Ring {
    /// A ring for the calling thread.
    ///
    /// # Errors
    /// When the kernel forbids io_uring or is too old (the text says what to do), or the sizes make no sense.
    pub fn new(config: Config) -> io::Result<Ring> {
        if config.entries == 0 || config.connections_max == 0 {
            let text = "a ring needs at least one submission entry and one connection";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let bundles = config.bundles && selftest::bundles_work()?;
        Ring::with(Config { bundles, ..config })
    }

    /// Whether receives fill several slots at a time: asked for, offered by the kernel, and tested.
    pub fn bundles(&self) -> bool {
        self.config.bundles
    }

    fn with(config: Config) -> io::Result<Ring> {
        let ring = build(config.entries).map_err(|error| explain(&error))?;
        let mut pool = Pool::new(config.slots, config.slot_bytes)?;
        let mut kernel = Kernel::new(ring);
        pool.register(&kernel.submitter())?;
        let waker = Waker::new()?;
        kernel.watch(waker.fd(), Token::new(Kind::Wake, 0, 0));
        Ok(Ring {
            kernel,
            pool,
            out: Outgoing::default(),
            conns: Conns::new(config.connections_max),
            listeners: Listeners::default(),
            files: Files::default(),
            waker,
            config,
            ready: Vec::new(),
            dirty: Vec::new(),
            starved: VecDeque::new(),
            lingering: VecDeque::new(),
            one_thread: PhantomData,
        })
    }

    /// What the ring holds now.
    pub fn counts(&self) -> Counts {
        Counts {
            connections: self.conns.len(),
            starved: self.starved.len(),
            files: self.files.len(),
            slots_in_use: self.pool.in_use(),
            copy_buffers_in_use: self.out.chunks_in_use(),
            in_flight: self.kernel.in_flight(),
        }
    }

    /// Turns wishes into operations: cuts what lingers too long, receives again where slots are, sends.
    fn prepare(&mut self) {
        if !self.lingering.is_empty() || self.listeners.deadline().is_some() {
            self.pass_time(Instant::now());
        }
        let hungry = self.starved.len().min(usize::try_from(self.pool.available()).unwrap_or(0));
        for _ in 0..hungry {
            if let Some(id) = self.starved.pop_front()
                && let Some(conn) = self.conns.get_mut(id)
            {
                conn.starved = false;
                self.receive(id);
            }
        }
        // What can not be sent for want of room goes to the end of the list and waits for the next turn.
        let mut list = std::mem::take(&mut self.dirty);
        for id in list.drain(..) {
            self.send(id);
        }
        if self.dirty.is_empty() {
            self.dirty = list;
        }
    }

    fn pass_time(&mut self, now: Instant) {
        self.listeners.wake_rested(&mut self.kernel, now);
        while let Some((until, id)) = self.lingering.front().copied() {
            let flushing = self.conns.get(id).is_some_and(|conn| conn.phase == Phase::Flushing);
            if flushing && until > now {
                return;
            }
            self.lingering.pop_front();
            if flushing {
                self.cut(id);
            }
        }
    }

    /// Arms the receive if the connection wants bytes and has none under way.
    fn receive(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.can_receive() {
            conn.receiving = Receiving::Armed;
            let token = conn.token(Kind::Receive, id.index);
            self.kernel.receive(conn.fd(), pool::GROUP, self.config.bundles, token);
        }
    }

    /// Hands as much of the queue to the kernel as one operation takes.
    fn send(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.dirty = false;
        if !conn.can_send() {
            return;
        }
        let Some(vectors) = self.kernel.vectors() else {
            conn.dirty = true;
            self.dirty.push(id);
            return;
        };
        let token = conn.token(Kind::Send, id.index);
        match self.out.gather(&mut conn.queue, &self.pool, vectors) {
            Gathered::Nothing => {}
            // SAFETY: the piece is in flight from here on: its slot keeps its reference, its copy buffer stays out
            // of use and grows no more until `Outgoing::taken`, which only the completion calls.
            Gathered::One(at, len) => unsafe { self.kernel.send(conn.fd(), at, len, token) },
            // SAFETY: as above, for each piece.
            Gathered::Many(count) => unsafe { self.kernel.send_gather(conn.fd(), count, token) },
        }
    }

    fn mark_dirty(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && !conn.dirty
            && conn.can_send()
        {
            conn.dirty = true;
            self.dirty.push(id);
        }
    }

    fn queue(&mut self, id: ConnId, add: impl FnOnce(&mut Outgoing, &mut outgoing::Queue, &mut Pool)) {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.takes_sends()) else { return };
        add(&mut self.out, &mut conn.queue, &mut self.pool);
        conn.above |= conn.queue.bytes() > self.config.queue_high_bytes;
        if !conn.dirty && conn.can_send() {
            conn.dirty = true;
            self.dirty.push(id);
        }
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let busy = !self.ready.is_empty() || !self.dirty.is_empty() || self.kernel.has_completions();
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
        let linger = self.lingering.front().map(|(until, _)| *until);
        match (linger, self.listeners.deadline()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
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
        // Accepted sockets inherit both, which saves two calls for each.
        system::set_option(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        system::set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
        Ok(self.listeners.add(&mut self.kernel, socket))
    }

    fn stop_listening(&mut self, listener: ListenerId) {
        self.listeners.stop(&mut self.kernel, listener);
    }

    fn dial(&mut self, address: SocketAddr) -> io::Result<ConnId> {
        let stream = TcpStream::from(system::stream_socket(&address)?);
        let fd = stream.as_raw_fd();
        system::dialing_options(fd)?;
        let id = self.conns.insert(stream, Phase::Dialing)?;
        let token = Token::new(Kind::Connect, id.index, id.generation);
        if !self.kernel.connect(fd, address, token) {
            self.conns.remove(id);
            return Err(io::Error::from(io::ErrorKind::WouldBlock));
        }
        if let Some(conn) = self.conns.get_mut(id) {
            conn.connecting = true;
        }
        Ok(id)
    }

    fn resume(&mut self, conn: ConnId) {
        let Some(found) = self.conns.get_mut(conn).filter(|conn| !conn.is_closing()) else { return };
        found.wanted = true;
        self.receive(conn);
    }

    fn pause(&mut self, conn: ConnId) {
        let Some(found) = self.conns.get_mut(conn).filter(|conn| !conn.is_closing()) else { return };
        found.wanted = false;
        if found.receiving == Receiving::Armed {
            found.receiving = Receiving::Cancelling;
            self.kernel.cancel(found.token(Kind::Receive, conn.index));
        }
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        self.pool.bytes(lease)
    }

    fn bytes_mut(&mut self, lease: &Lease) -> &mut [u8] {
        self.pool.bytes_mut(lease)
    }

    fn release(&mut self, lease: Lease) {
        self.pool.release(lease.slot);
    }

    fn send_slot(&mut self, conn: ConnId, lease: &Lease, range: Range<usize>) {
        debug_assert!(range.start <= range.end && range.end <= lease.len(), "beyond the lease");
        let start =
            u32::try_from(range.start).map_or(u32::MAX, |start| lease.range.start.saturating_add(start));
        let end = u32::try_from(range.end).map_or(u32::MAX, |end| lease.range.start.saturating_add(end));
        let range = start.min(lease.range.end)..end.min(lease.range.end);
        self.queue(conn, |out, queue, pool| out.push_slot(queue, pool, lease.slot, range));
    }

    fn send_copy(&mut self, conn: ConnId, bytes: &[u8]) {
        self.queue(conn, |out, queue, _| out.push_copy(queue, bytes));
    }

    fn finish(&mut self, conn: ConnId) {
        let Some(found) = self.conns.get_mut(conn).filter(|conn| !conn.is_closing()) else { return };
        found.finish = true;
        self.advance(conn);
    }

    fn close(&mut self, conn: ConnId, flush: bool) {
        let Some(found) = self.conns.get_mut(conn) else { return };
        let usable = !found.failed && found.send_error.is_none();
        match found.phase {
            Phase::Cutting => {}
            Phase::Flushing if flush => {}
            Phase::Open if flush && usable => {
                found.phase = Phase::Flushing;
                found.finish = true;
                found.wanted = true;
                self.lingering.push_back((Instant::now() + self.config.linger, conn));
                self.receive(conn);
                self.mark_dirty(conn);
                self.advance(conn);
            }
            Phase::Dialing | Phase::Open | Phase::Flushing => self.cut(conn),
        }
    }

    fn queued(&self, conn: ConnId) -> usize {
        self.conns.get(conn).map_or(0, |conn| conn.queue.bytes())
    }

    fn pinned(&self, conn: ConnId) -> usize {
        self.conns.get(conn).map_or(0, |conn| usize::try_from(conn.queue.pinned()).unwrap_or(0))
    }

    fn hold_pool(&mut self, hold: bool) {
        self.pool.hold(hold);
    }

    fn open_file(&mut self, file: OwnedFd) -> FileId {
        self.files.open(file)
    }

    fn close_file(&mut self, file: FileId) {
        self.files.close(file);
    }

    fn write(&mut self, file: FileId, offset: u64, buf: Vec<u8>, token: u64) {
        let event = self.files.write(&mut self.kernel, file, offset, buf, token);
        self.ready.extend(event);
    }

    fn sync(&mut self, file: FileId, token: u64) {
        let event = self.files.sync(&mut self.kernel, file, token);
        self.ready.extend(event);
    }

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        self.conns.turn_begins();
        self.prepare();
        let result = self.enter(wait);
        if self.waker.rise() {
            self.ready.push(Event::Woken);
        }
        self.reap();
        if events.is_empty() {
            std::mem::swap(events, &mut self.ready);
        } else {
            events.append(&mut self.ready);
        }
        self.conns.turn_ends();
        result
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
            self.pool.leak();
            std::mem::forget(std::mem::take(&mut self.out));
            std::mem::forget(std::mem::take(&mut self.files));
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

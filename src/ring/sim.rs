//! The contract in memory: [`Sim`] is a network, a disk and a clock of which one seed decides everything that the
//! contract leaves open.
//!
//! No socket, no thread, no real time. Peers are state machines ([`Peer`]) that run inside [`Driver::turn`] while the
//! owner waits; time goes from one thing on the agenda to the next. The same seed and the same owner give the same run
//! to the last byte ([`Sim::trace`] is the proof), so that what goes wrong once goes wrong again. A turn that would
//! wait for ever fails: nothing can come any more. So does every turn after the owner has broken the contract.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::{ConnId, Driver, Event, FileId, Lease, ListenerId, Moment, Wait, Waker};

mod agenda;
mod conns;
mod disk;
mod faults;
mod network;
mod pool;
mod progress;
mod random;
#[cfg(test)]
mod tests;
mod trace;
mod wire;

use agenda::{Agenda, What};
use conns::{Conns, Phase, Piece};
use disk::{Job, Work, no_such_file};
use pool::Pool;
use trace::Trace;
use wire::Link;

pub use disk::Disk;
pub use faults::Faults;
pub use random::Random;
pub use wire::{End, Peer, Wire};

/// The address of nobody.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Wall-clock time at which every simulation begins: the first second of 2026.
const WALL_BEGIN: Duration = Duration::from_secs(1_767_225_600);

/// Most things that happen while an owner waits once: more are a peer that runs in circles.
const HAPPENINGS_MAX: u32 = 1_000_000;

/// Sizes, limits and faults of a [`Sim`]. Those of the same name are as in
/// [`uring::Config`](crate::uring::Config).
#[derive(Debug, Clone)]
pub struct Config {
    /// Slots of the receive pool.
    pub slots: u16,
    /// Bytes of a slot.
    pub slot_bytes: u32,
    /// Most connections at a time.
    pub connections_max: u32,
    /// How long a flush may take.
    pub linger: Duration,
    /// Above this many queued bytes a connection counts as full.
    pub queue_high_bytes: usize,
    /// A full connection has drained at this.
    pub queue_low_bytes: usize,
    /// Bytes that a connection holds in each direction, on their way or not taken; each has up to this much.
    pub window_bytes_max: usize,
    /// What goes wrong.
    pub faults: Faults,
    /// Lines of a journal that are kept, for people.
    pub journal_lines: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            slots: 64,
            slot_bytes: 4096,
            connections_max: 1000,
            linger: Duration::from_secs(5),
            queue_high_bytes: 256 << 10,
            queue_low_bytes: 64 << 10,
            window_bytes_max: 64 << 10,
            faults: Faults::none(),
            journal_lines: 0,
        }
    }
}

/// What a simulation holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Connections whose [`Event::Closed`] has not come.
    pub connections: usize,
    /// Files that are open.
    pub files: usize,
    /// Slots under lease, queued for sending or withheld.
    pub slots_in_use: usize,
    /// Bytes queued to peers.
    pub queued_bytes: usize,
    /// Listeners that accept.
    pub listeners: usize,
}

/// Answers a dial.
type Host = Box<dyn FnMut() -> Box<dyn Peer>>;

/// The simulated driver; see the module.
pub struct Sim {
    config: Config,
    base: Instant,
    now_ns: u64,
    random: Random,
    agenda: Agenda,
    pool: Pool,
    conns: Conns,
    links: Vec<Link>,
    listeners: Vec<Listener>,
    hosts: HashMap<SocketAddr, Host>,
    /// Where each dial goes, until it has come to its end.
    dials: HashMap<ConnId, SocketAddr>,
    disk: Disk,
    jobs: Vec<Option<Job>>,
    waker: Waker,
    woken: bool,
    ready: Vec<Event>,
    told: u64,
    dirty: Vec<ConnId>,
    starved: VecDeque<ConnId>,
    trace: Trace,
    /// How the owner broke the contract.
    broken: Option<String>,
}

struct Listener {
    stopped: bool,
    /// Accepting rests after a failure.
    resting: bool,
    /// Those who knocked meanwhile.
    backlog: VecDeque<usize>,
}

impl Sim {
    /// A world that begins now, at its own time 0.
    ///
    /// # Errors
    /// When the process is out of descriptors: the waker is a real one.
    pub fn new(seed: u64, config: Config) -> io::Result<Sim> {
        Ok(Sim {
            base: Instant::now(),
            now_ns: 0,
            random: Random::new(seed),
            agenda: Agenda::default(),
            pool: Pool::new(config.slots, config.slot_bytes),
            conns: Conns::new(config.connections_max),
            links: Vec::new(),
            listeners: Vec::new(),
            hosts: HashMap::new(),
            dials: HashMap::new(),
            disk: Disk::default(),
            jobs: Vec::new(),
            waker: Waker::new()?,
            woken: false,
            ready: Vec::new(),
            told: 0,
            dirty: Vec::new(),
            starved: VecDeque::new(),
            trace: Trace::new(config.journal_lines),
            broken: None,
            config,
        })
    }

    /// The instant of the simulation's time 0.
    pub fn started(&self) -> Instant {
        self.base
    }

    /// Nanoseconds since time 0.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// A digest of everything that has happened.
    pub fn trace(&self) -> u64 {
        self.trace.digest()
    }

    /// What happened last, for people.
    pub fn journal(&self) -> impl Iterator<Item = &str> {
        self.trace.lines()
    }

    /// What is there now.
    pub fn counts(&self) -> Counts {
        Counts {
            connections: self.conns.len(),
            files: self.disk.open_files(),
            slots_in_use: self.pool.in_use(),
            queued_bytes: self.conns.all().map(|conn| conn.queued).sum(),
            listeners: self.listeners.iter().filter(|listener| !listener.stopped).count(),
        }
    }

    /// Events that the owner has been told.
    pub fn events_told(&self) -> u64 {
        self.told
    }

    /// The disk as it is now.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The machine stops here: the disk as the next start finds it.
    pub fn crash(mut self) -> Disk {
        for job in self.jobs.iter().flatten() {
            self.disk.tear(job, &mut self.random);
        }
        self.disk
    }

    /// A client that knocks at `at_ns`, coming from `address`.
    pub fn connect(&mut self, at_ns: u64, listener: ListenerId, address: SocketAddr, peer: Box<dyn Peer>) {
        let link = self.new_link(peer, address);
        self.agenda.add(at_ns, What::Knock { listener, link }, &mut self.random);
    }

    /// Whoever dials `address` meets a peer that `host` makes. Where there is no host, dials are refused.
    pub fn host(&mut self, address: SocketAddr, host: impl FnMut() -> Box<dyn Peer> + 'static) {
        self.hosts.insert(address, Box::new(host));
    }

    /// Runs `chore` at `at_ns`: what another thread would do (it may use the [`Waker`]).
    pub fn later(&mut self, at_ns: u64, chore: impl FnOnce() + 'static) {
        self.agenda.add(at_ns.max(self.now_ns), What::Chore(Box::new(chore)), &mut self.random);
    }

    fn misuse(&mut self, what: impl Into<String>) {
        self.broken.get_or_insert(what.into());
    }

    /// How long something takes that takes at most `most_ns`.
    fn draw_ns(&mut self, most_ns: u64) -> u64 {
        self.random.below(most_ns.saturating_add(1))
    }

    fn completion_ns(&mut self) -> u64 {
        let most_ns = self.config.faults.completion_ns_max;
        self.now_ns + self.draw_ns(most_ns)
    }

    /// Turns wishes into what is under way.
    fn prepare(&mut self) {
        self.feed_starved();
        for id in std::mem::take(&mut self.dirty) {
            self.send(id);
        }
    }

    /// Receives again where slots have come back.
    pub(super) fn feed_starved(&mut self) {
        for _ in 0..self.starved.len().min(self.pool.available()) {
            if let Some(id) = self.starved.pop_front()
                && let Some(conn) = self.conns.get_mut(id)
            {
                conn.starved = false;
                self.receive(id);
            }
        }
    }

    fn is_busy(&mut self) -> bool {
        self.woken |= self.waker.rise();
        self.woken || !self.ready.is_empty()
    }

    /// Lets everything happen that is due until `until_ns`.
    fn pass(&mut self, until_ns: u64) -> io::Result<()> {
        let mut happenings = 0;
        while let Some(at_ns) = self.agenda.next_ns().filter(|at_ns| *at_ns <= until_ns) {
            self.now_ns = self.now_ns.max(at_ns);
            if let Some(what) = self.agenda.pop(self.now_ns) {
                self.happen(what);
            }
            happenings += 1;
            if happenings > HAPPENINGS_MAX {
                return Err(io::Error::other("a peer runs in circles"));
            }
        }
        self.now_ns = self.now_ns.max(until_ns);
        Ok(())
    }

    /// Lets time pass until there is something for the owner, or the time that it named has come.
    fn idle(&mut self, deadline_ns: Option<u64>) -> io::Result<()> {
        if self.random.chance(self.config.faults.idle_turn) {
            return Ok(());
        }
        let mut happenings = 0;
        while !self.is_busy() {
            match (self.agenda.next_ns(), deadline_ns) {
                (Some(at_ns), Some(deadline_ns)) if at_ns > deadline_ns => return self.pass(deadline_ns),
                (None, Some(deadline_ns)) => return self.pass(deadline_ns),
                (None, None) => return Err(io::Error::other("it would wait for ever: nothing can come")),
                (Some(at_ns), _) => {
                    self.now_ns = self.now_ns.max(at_ns);
                    if let Some(what) = self.agenda.pop(self.now_ns) {
                        self.happen(what);
                    }
                }
            }
            happenings += 1;
            if happenings > HAPPENINGS_MAX {
                return Err(io::Error::other("a peer runs in circles"));
            }
        }
        Ok(())
    }

    fn offset_ns(&self, instant: Instant) -> u64 {
        u64::try_from(instant.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX)
    }

    fn queue(&mut self, id: ConnId, piece: Piece) {
        let high = self.config.queue_high_bytes;
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.takes_sends()) else { return };
        if let Piece::Slot { slot, .. } = &piece {
            self.pool.retain(*slot);
        }
        conn.push(piece);
        conn.above |= conn.queued > high;
        self.mark_dirty(id);
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

    fn note_call(&mut self, kind: u64, conn: ConnId, call: &'static str) {
        let words = [kind, u64::from(conn.index), u64::from(conn.generation)];
        self.trace.note(self.now_ns, &words, &[], || format!("    {call} {conn:?}"));
    }

    fn begin(&mut self, job: Job) {
        self.disk.job_begins(job.file);
        let faults = &self.config.faults;
        let (slow, slow_ns) = (faults.slow_write, faults.slow_write_ns_max);
        let mut at_ns = self.completion_ns();
        if self.random.chance(slow) {
            at_ns += self.draw_ns(slow_ns);
        }
        self.jobs.push(Some(job));
        self.agenda.add(at_ns, What::Disk(self.jobs.len() - 1), &mut self.random);
    }
}

impl Driver for Sim {
    /// The socket is not used: clients come with [`Sim::connect`].
    fn listen(&mut self, _socket: TcpListener) -> io::Result<ListenerId> {
        self.listeners.push(Listener { stopped: false, resting: false, backlog: VecDeque::new() });
        Ok(ListenerId(u32::try_from(self.listeners.len() - 1).unwrap_or(u32::MAX)))
    }

    fn stop_listening(&mut self, listener: ListenerId) {
        self.stop(listener);
    }

    fn dial(&mut self, address: SocketAddr) -> io::Result<ConnId> {
        if self.random.chance(self.config.faults.dial) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let id = self.conns.insert(Phase::Dialing)?;
        self.dials.insert(id, address);
        let faults = &self.config.faults;
        let (slow, slow_ns, latency_ns) = (faults.slow_dial, faults.slow_dial_ns_max, faults.latency_ns_max);
        let took_ns = if self.random.chance(slow) { slow_ns } else { latency_ns };
        let at_ns = self.now_ns + self.draw_ns(took_ns);
        self.agenda.add(at_ns, What::Dialed(id), &mut self.random);
        Ok(id)
    }

    fn resume(&mut self, conn: ConnId) {
        self.note_call(30, conn, "resume");
        let Some(found) = self.conns.get_mut(conn).filter(|conn| !conn.is_closing()) else { return };
        found.wanted = true;
        self.receive(conn);
    }

    fn pause(&mut self, conn: ConnId) {
        self.note_call(31, conn, "pause");
        let until_ns = self.completion_ns();
        let Some(found) = self.conns.get_mut(conn).filter(|conn| !conn.is_closing()) else { return };
        if std::mem::replace(&mut found.wanted, false) {
            found.pausing_until_ns = until_ns;
        }
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        self.pool.part(lease.slot, &lease.range)
    }

    fn bytes_mut(&mut self, lease: &Lease) -> &mut [u8] {
        self.pool.part_mut(lease.slot, &lease.range)
    }

    fn release(&mut self, lease: Lease) {
        if !self.pool.release(lease.slot) {
            self.misuse("a lease on a slot that nobody holds");
        }
    }

    fn send_slot(&mut self, conn: ConnId, lease: &Lease, range: Range<usize>) {
        if range.start > range.end || range.end > lease.len() {
            self.misuse("bytes beyond the lease's end were to be sent");
        }
        let place = |at: usize| {
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            lease.range.start.saturating_add(at).min(lease.range.end)
        };
        let range = place(range.start)..place(range.end);
        if !range.is_empty() {
            self.queue(conn, Piece::Slot { slot: lease.slot, range });
        }
    }

    fn send_copy(&mut self, conn: ConnId, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.queue(conn, Piece::Copy { bytes: bytes.to_vec(), start: 0 });
        }
    }

    fn finish(&mut self, conn: ConnId) {
        self.note_call(32, conn, "finish");
        let Some(found) = self.conns.get_mut(conn).filter(|conn| !conn.is_closing()) else { return };
        found.finish = true;
        self.advance(conn);
    }

    fn close(&mut self, conn: ConnId, flush: bool) {
        self.note_call(33 + u64::from(flush), conn, if flush { "close, flushing" } else { "close" });
        let linger_ns = u64::try_from(self.config.linger.as_nanos()).unwrap_or(u64::MAX);
        let Some(found) = self.conns.get_mut(conn) else { return };
        let usable = !found.failed && found.send_error.is_none();
        match found.phase {
            Phase::Cutting => {}
            Phase::Flushing if flush => {}
            Phase::Open if flush && usable => {
                found.phase = Phase::Flushing;
                found.finish = true;
                found.wanted = true;
                self.agenda.add(self.now_ns.saturating_add(linger_ns), What::Linger(conn), &mut self.random);
                self.receive(conn);
                self.mark_dirty(conn);
                self.advance(conn);
            }
            Phase::Dialing | Phase::Open | Phase::Flushing => self.cut(conn),
        }
    }

    fn queued(&self, conn: ConnId) -> usize {
        self.conns.get(conn).map_or(0, |conn| conn.queued)
    }

    fn pinned(&self, conn: ConnId) -> usize {
        self.conns.get(conn).map_or(0, conns::Conn::pinned)
    }

    fn hold_pool(&mut self, hold: bool) {
        self.pool.hold(hold);
    }

    fn open_file(&mut self, file: OwnedFd) -> FileId {
        self.disk.open(file)
    }

    fn close_file(&mut self, file: FileId) {
        self.disk.close(file);
    }

    fn write(&mut self, file: FileId, offset: u64, buf: Vec<u8>, start: usize, token: u64) {
        if start >= buf.len() {
            return self.ready.push(Event::Written { token, result: Ok(()), buf });
        }
        let Some(file) = self.disk.find(file) else {
            return self.ready.push(Event::Written { token, result: Err(no_such_file()), buf });
        };
        let bytes = buf.get(start..).unwrap_or_default();
        self.trace.note(self.now_ns, &[12, offset, token], bytes, || {
            format!("Write {token}: {} bytes at {offset}", bytes.len())
        });
        let fails = self.random.chance(self.config.faults.write);
        let fails_at = fails.then(|| self.random.length(0, buf.len() - start));
        self.begin(Job { file, token, work: Work::Write { offset, buf, start, done: 0, fails_at } });
    }

    fn sync(&mut self, file: FileId, token: u64) {
        let Some(file) = self.disk.find(file) else {
            return self.ready.push(Event::Synced { token, result: Err(no_such_file()) });
        };
        let fails = self.random.chance(self.config.faults.sync);
        self.begin(Job { file, token, work: Work::Sync { fails } });
    }

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        if let Some(broken) = &self.broken {
            return Err(io::Error::other(format!("the owner broke the contract: {broken}")));
        }
        self.conns.turn_begins();
        self.prepare();
        let turn_ns = self.config.faults.turn_ns_max;
        let cost_ns = 1 + self.draw_ns(turn_ns);
        self.pass(self.now_ns + cost_ns)?;
        if !self.is_busy() {
            match wait {
                Wait::No => {}
                Wait::Until(until) => self.idle(Some(self.offset_ns(until)))?,
                Wait::Forever => self.idle(None)?,
            }
        }
        if self.is_busy() && self.woken {
            self.woken = false;
            self.ready.push(Event::Woken);
        }
        self.note_events();
        self.told += u64::try_from(self.ready.len()).unwrap_or(0);
        events.append(&mut self.ready);
        self.conns.turn_ends();
        Ok(())
    }

    fn sleeps(&self) -> u64 {
        0
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn now(&self) -> Moment {
        let passed = Duration::from_nanos(self.now_ns);
        Moment { instant: self.base + passed, wall: UNIX_EPOCH + WALL_BEGIN + passed }
    }
}

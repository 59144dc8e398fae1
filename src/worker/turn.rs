//! The turn loop: what a worker is, what it waits for, and which part of it each event concerns.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use lockgate_bridge::{Counters, Inbox, Notice, Order, Outlet, Snapshot};
use lockgate_lane::{Answer, Judge, ListenerRules, Outbox};
use lockgate_recording::{Record, SessionId, Time};
use lockgate_ring::epoll::Poller;
use lockgate_ring::uring::Ring;
use lockgate_ring::{Config, Driver, DriverKind, Event, ListenerId, Moment, Wait, Waker};

use crate::accept::TurnedAway;
use crate::admission::Admission;
use crate::cancel::{Courier, Requester};
use crate::ids::{self, Entropy, Ids};
use crate::keys::Keys;
use crate::mail::Mail;
use crate::recorder::{Recorder, Turn};
use crate::salts::Salts;
use crate::seating::Seating;
use crate::session::{Job, Owner, Owners, Session};
use crate::table::{Key, Table};
use crate::timers::{Timer, Timers};
use crate::tls::{Front, Scratch};
use crate::{Limits, ListenerSetup, Setup};

/// Facts of statements seen before, for all sessions of a worker, in bytes.
const FACTS_BYTES_MAX: usize = 64 << 20;
/// Orders taken in one turn: a flood of them does not keep sessions waiting.
const ORDERS_MAX: usize = 256;
/// Connections beside those of sessions: cancel requests under way, and refused ones being closed.
const SPARE_CONNECTIONS: u32 = 256;
/// How soon notices that did not fit into the mailbox are tried again, in nanoseconds.
const MAIL_AGAIN_NS: u64 = 10_000_000;
/// How long the last notices are tried, in turns of a millisecond.
const FAREWELL_TRIES: u32 = 5_000;

/// One worker: everything it owns. The other files are its parts, each an `impl` of its own.
pub(crate) struct Worker<D: Driver> {
    pub ring: D,
    pub index: u32,
    pub workers: u32,
    pub listeners: Vec<Listening>,
    pub lane_limits: Arc<lockgate_lane::Limits>,
    pub limits: Limits,
    pub snapshot: Arc<Snapshot>,
    pub inbox: Inbox<Order>,
    pub mail: Mail,
    pub peers: Vec<Outlet<Order>>,
    pub counters: Arc<Counters>,
    pub clock: Clock,
    /// The moment of this turn.
    pub now: Time,
    pub mode: Mode,

    pub sessions: Table<Session>,
    pub couriers: Table<Courier>,
    pub owners: Owners,
    pub admission: Admission,
    pub seating: Seating,
    pub turned_away: TurnedAway,
    pub keys: Keys,
    pub salts: Salts,
    pub timers: Timers,
    pub ids: Ids,
    pub entropy: Entropy,
    pub recorder: Recorder,
    /// Sessions with commands that wait for their records.
    pub gated: Vec<Key>,
    /// Sessions with more to do than one turn's share, or more to record than the disk takes.
    pub line: Vec<Key>,
    /// Cancel requests that another worker or process has been asked to carry out.
    pub passed_on: HashMap<u64, Requester>,
    /// Another process of this gateway has sessions too.
    pub siblings: bool,
    pub last_ticket: u64,
    /// Length of the open records when they were last looked at.
    pub recorded_len: usize,

    pub judge: Judge,
    pub outbox: Outbox,
    /// Answers and jobs that the actions at hand gave rise to.
    pub answers: VecDeque<Answer>,
    pub jobs: VecDeque<Job>,
    /// Who asked for the cancel that the lane at hand is being told of.
    pub requesters: Vec<Requester>,
    pub plain: Vec<u8>,
    pub cipher: Scratch,
    pub copies: Vec<u8>,
    pub staged: crate::send::Staged,
}

/// A listener. It keeps its place when it is closed: sessions that came through it remember the place.
#[derive(Debug)]
pub(crate) struct Listening {
    pub address: SocketAddr,
    /// Its sockets, closed ones included: a connection may have come in before they were.
    pub sockets: Vec<ListenerId>,
    pub open: bool,
    pub rules: Arc<ListenerRules>,
    pub tls: Option<Arc<Front>>,
}

/// How long the worker goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Running,
    /// Another process serves those who come; sessions end by themselves.
    HandedOver,
    /// Nobody comes in; sessions end when they are idle.
    Draining,
    /// Every session has been cut.
    Stopping,
}

/// Turns the driver's time into that of lanes and records, and back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub started: Instant,
}

impl Clock {
    fn time(self, now: Moment) -> Time {
        let monotonic = now.instant.saturating_duration_since(self.started).as_nanos();
        let wall = now.wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        Time {
            monotonic_ns: u64::try_from(monotonic).unwrap_or(u64::MAX),
            wall_us: u64::try_from(wall).unwrap_or(u64::MAX),
        }
    }

    /// The same moment for the driver; one that no clock will ever show is a wait without end.
    fn wait_until(self, monotonic_ns: u64) -> Wait {
        let instant = self.started.checked_add(Duration::from_nanos(monotonic_ns));
        instant.map_or(Wait::Forever, Wait::Until)
    }
}

/// See [`crate::run`].
pub(crate) fn run(mut setup: Setup) -> io::Result<()> {
    if let Some(core) = setup.core {
        pin(setup.index, core);
    }
    let outlet = setup.outlet.clone();
    let worker = setup.index;
    let wake = std::mem::replace(&mut setup.wake, Box::new(|_| ()));
    let config = ring_config(&setup.limits, setup.spin);
    let result = match setup.driver {
        DriverKind::IoUring => Ring::new(config).and_then(|ring| work(ring, setup, wake)),
        DriverKind::Epoll => Poller::new(config).and_then(|poller| work(poller, setup, wake)),
    };
    if let Err(error) = &result {
        tracing::error!(worker, %error, "the worker has failed");
    }
    farewell(&outlet, worker);
    result
}

fn work<D: Driver>(driver: D, setup: Setup, wake: Box<dyn FnOnce(Waker) + Send>) -> io::Result<()> {
    wake(driver.waker());
    Worker::new(driver, setup, lockgate_ring::random)?.turns()
}

/// The driver's limits follow the worker's: a session has two connections, a cancel request one more.
fn ring_config(limits: &Limits, spin: Duration) -> Config {
    Config {
        connections_max: limits.sessions_max.saturating_mul(2).saturating_add(SPARE_CONNECTIONS),
        queue_high_bytes: crate::throttle::QUEUE_BYTES_HIGH,
        spin,
        ..Config::default()
    }
}

/// The last notice; it is tried for seconds, because control waits for it.
fn farewell(outlet: &Outlet<Notice>, worker: u32) {
    let mut notice = Notice::Stopped { worker };
    for _ in 0..FAREWELL_TRIES {
        match outlet.send(notice) {
            Ok(()) => return,
            Err(back) => notice = back,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A worker that cannot be pinned runs all the same, only slower.
fn pin(worker: u32, core: usize) {
    if let Err(error) = lockgate_ring::pin_current_thread(core) {
        tracing::warn!(worker, core, %error, "the worker cannot be pinned to its core");
    }
}

impl<D: Driver> Worker<D> {
    pub(crate) fn new(ring: D, setup: Setup, source: ids::Source) -> io::Result<Worker<D>> {
        // Two series never share ids, not even in two processes at one time.
        let ids = Ids::new(source, setup.recording.start.worker)?;
        setup.counters.io_uring.set(u64::from(setup.driver == DriverKind::IoUring));
        let clock = Clock { started: setup.started };
        let now = clock.time(ring.now());
        let mut worker = Worker {
            ring,
            index: setup.index,
            workers: setup.workers,
            listeners: Vec::with_capacity(setup.listeners.len()),
            lane_limits: setup.lane_limits,
            limits: setup.limits,
            snapshot: setup.snapshot,
            inbox: setup.inbox,
            mail: Mail::new(setup.outlet),
            peers: setup.peers,
            counters: setup.counters,
            clock,
            now,
            mode: Mode::Running,
            sessions: Table::new(),
            couriers: Table::new(),
            owners: Owners::default(),
            admission: Admission::new(setup.limits),
            seating: Seating::default(),
            turned_away: TurnedAway::default(),
            keys: Keys::default(),
            salts: Salts::default(),
            timers: Timers::default(),
            ids,
            entropy: Entropy::new(source),
            recorder: Recorder::new(setup.index, setup.recording, source),
            gated: Vec::new(),
            line: Vec::new(),
            passed_on: HashMap::new(),
            siblings: false,
            last_ticket: 0,
            recorded_len: 0,
            judge: Judge::new(FACTS_BYTES_MAX),
            outbox: Outbox::default(),
            answers: VecDeque::new(),
            jobs: VecDeque::new(),
            requesters: Vec::new(),
            plain: Vec::new(),
            cipher: Scratch::default(),
            copies: Vec::new(),
            staged: Default::default(),
        };
        for ListenerSetup { address, socket, rules, tls } in setup.listeners {
            worker.listen(address, vec![socket], rules, tls)?;
        }
        worker.announce_epoch();
        Ok(worker)
    }

    /// Turns until everything is over.
    pub(crate) fn turns(&mut self) -> io::Result<()> {
        let mut events = Vec::new();
        while !self.is_over() {
            self.turn(&mut events)?;
        }
        self.recorder.outcome()
    }

    /// One turn.
    pub(crate) fn turn(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.commit();
        let wait = self.wait();
        self.ring.turn(wait, events)?;
        let now = self.clock.time(self.ring.now());
        // Never the moment of the turn before: lanes tell turns apart by it.
        let later_ns = self.now.monotonic_ns.saturating_add(1);
        self.now = Time { monotonic_ns: now.monotonic_ns.max(later_ns), ..now };
        self.counters.turns.add(1);
        self.counters.sleeps.set(self.ring.sleeps());
        let line = std::mem::take(&mut self.line);
        self.take_orders();
        for event in events.drain(..) {
            self.dispatch(event);
        }
        self.serve(line);
        self.expire();
        self.mail.retry();
        let counted = std::mem::take(&mut self.outbox.counts);
        self.counters.commands.add(counted.commands);
        self.counters.commands_denied.add(counted.denied);
        self.counters.cells_masked.add(counted.cells_masked);
        self.counters.facts_hits.set(self.judge.facts.hits());
        self.counters.facts_misses.set(self.judge.facts.misses());
        Ok(())
    }

    /// What the recording needs before the ring is entered: so everything leaves in one call.
    fn commit(&mut self) {
        self.end_if_recording_is_down();
        self.end_if_drained();
        if self.mode == Mode::Stopping && self.sessions.is_empty() && self.couriers.is_empty() {
            self.recorder.begin_end(self.now);
        }
        let gated = !self.gated.is_empty();
        let Worker { recorder, ring, outbox, counters, mail, now, .. } = self;
        recorder.pump(ring, &mut outbox.records, gated, &mut Turn { now: *now, counters, mail });
        self.recorded_len = self.outbox.records.len();
        self.end_if_recording_is_down();
        // Sessions that ended here made room for others.
        self.run_jobs();
    }

    /// The one place that decides how long the worker sleeps.
    fn wait(&self) -> Wait {
        if !self.line.is_empty() && !self.is_recording_behind() {
            return Wait::No;
        }
        let mail = self.mail.is_waiting().then(|| self.now.monotonic_ns + MAIL_AGAIN_NS);
        let next = [self.timers.next_ns(), self.recorder.deadline_ns(), mail].into_iter().flatten().min();
        match next {
            Some(at_ns) if at_ns <= self.now.monotonic_ns => Wait::No,
            Some(at_ns) => self.clock.wait_until(at_ns),
            None => Wait::Forever,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.mode == Mode::Stopping && self.recorder.is_done() && !self.mail.is_waiting()
    }

    fn take_orders(&mut self) {
        for _ in 0..ORDERS_MAX {
            match self.inbox.take() {
                Some(order) => self.obey(order),
                None => return,
            }
        }
        // More may be there, and no further wake comes for them.
        self.ring.waker().wake();
    }

    /// The dispatcher.
    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Accepted { listener, conn, peer } => self.accepted(listener, conn, peer),
            Event::AcceptFailed { error, .. } => self.accept_failed(&error),
            Event::Dialed { conn, result } => match self.owners.get(conn) {
                Some(Owner::Session(key, _)) => self.dialed(key, conn, result),
                Some(Owner::Courier(key)) => self.courier_dialed(key, conn, result),
                Some(Owner::TurnedAway) | None => self.ring.close(conn, false),
            },
            Event::Received { conn, lease } => {
                match self.owners.get(conn) {
                    Some(Owner::Session(key, side)) => self.received(key, side, &lease),
                    Some(Owner::Courier(key)) => self.courier_received(key, &lease),
                    Some(Owner::TurnedAway) | None => {}
                }
                self.ring.release(lease);
            }
            Event::EndOfStream { conn } => match self.owners.get(conn) {
                Some(Owner::Session(key, side)) => self.ended(key, side),
                Some(Owner::Courier(key)) => self.courier_over(key, None),
                Some(Owner::TurnedAway) | None => self.ring.close(conn, false),
            },
            Event::Failed { conn, error } => match self.owners.get(conn) {
                Some(Owner::Session(key, side)) => self.failed(key, side, conn, &error.to_string()),
                Some(Owner::Courier(key)) => self.courier_over(key, Some(&error.to_string())),
                Some(Owner::TurnedAway) | None => self.ring.close(conn, false),
            },
            Event::Drained { conn } => {
                if let Some(Owner::Session(key, _)) = self.owners.get(conn) {
                    self.throttle(key);
                }
            }
            Event::Closed { conn } => match self.owners.take(conn) {
                Some(Owner::Session(key, side)) => self.closed(key, side, conn),
                Some(Owner::Courier(key)) => self.courier_closed(key, conn),
                Some(Owner::TurnedAway) => self.refused(),
                None => {}
            },
            Event::Written { token, result, buf } => self.recording_written(token, result, buf),
            Event::Synced { result, .. } => self.recorder.synced_event(&mut self.ring, result),
            Event::Woken => {}
        }
        self.run_jobs();
    }

    fn recording_written(&mut self, token: u64, result: io::Result<()>, buf: Vec<u8>) {
        let Worker { recorder, ring, counters, mail, now, .. } = self;
        recorder.written_event(ring, token, result, buf, &mut Turn { now: *now, counters, mail });
        self.end_if_recording_is_down();
        self.open_gates();
    }

    /// Another share for each session that had more to do, behind those that have just said something. Nobody gets
    /// one while the recording is behind, and who is first stays first.
    fn serve(&mut self, line: Vec<Key>) {
        let mut line = line.into_iter();
        while !self.is_recording_behind()
            && let Some(key) = line.next()
        {
            if let Some(session) = self.sessions.get_mut(key) {
                session.in_line = false;
                session.awaits_disk = false;
            }
            self.go_on(key);
            self.run_jobs();
        }
        let mut left: Vec<Key> = line.collect();
        left.append(&mut self.line);
        self.line = left;
    }

    fn is_recording_behind(&self) -> bool {
        self.recorder.is_behind(&self.outbox.records)
    }

    fn expire(&mut self) {
        while let Some(timer) = self.timers.pop(self.now.monotonic_ns) {
            match timer {
                Timer::Lane(key) => self.lane_deadline(key),
                Timer::Connect(key) => self.connect_deadline(key),
                Timer::Seat(key) => self.seat_deadline(key),
                Timer::Seats => self.seats_again(),
                Timer::Cancel(key) => self.cancel_deadline(key),
                Timer::Courier(key) => self.courier_over(key, Some("it took too long")),
                Timer::Strain(key) => self.strain_deadline(key),
                Timer::Drain => self.drain_deadline(),
            }
            self.run_jobs();
        }
    }

    /// Notes that this worker judges by its snapshot, in the recording and to control.
    pub(crate) fn announce_epoch(&mut self) {
        let epoch = self.snapshot.epoch;
        self.counters.epoch.set(epoch);
        self.outbox.records.push(SessionId(0), self.now, &Record::EpochAdopted { epoch });
        self.recorded_len = self.outbox.records.len();
        self.mail.send(Notice::Adopted { worker: self.index, epoch });
    }
}

//! The one task that decides: it takes events and workers' notices, publishes snapshots and sends orders.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockgate_bridge::{Ending, Inbox, Notice, Order, Snapshot};
use lockgate_lane::SaltRequest;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until, timeout_at};
use tracing::{debug, error, info, warn};

use crate::doors::{Door, Work};
use crate::publish::Publisher;
use crate::recordings::{self, Place};
use crate::reload::{Host, Reloading};
use crate::run::RunFolder;
use crate::siblings::CANCELS_MAX;
use crate::status::Status;
use crate::succession::{Asker, HandOver};
use crate::systemd::Notifier;
use crate::{Bell, Event, Reply, Setup, TargetSetup, WorkerLink, catalog, health, identity};

/// How long the first snapshot waits for the targets' catalogs: a client that connects the moment the gateway is up
/// should not be refused for names that are about to be known.
pub(crate) const FIRST_CATALOGS_MAX: Duration = Duration::from_secs(5);
/// How often orders that found a full mailbox are sent again.
const AGAIN: Duration = Duration::from_millis(5);
/// Passwords salted at once: workers' cores are for sessions.
const SALTS_AT_ONCE: usize = 2;

/// Sets everything going; must be called within the runtime.
pub(crate) fn spawn(
    setup: Setup,
    events: mpsc::Sender<Event>,
    incoming: mpsc::Receiver<Event>,
    first: oneshot::Sender<Arc<Snapshot>>,
) -> io::Result<Status> {
    let names = setup.targets.iter().map(|target| target.target.name.clone());
    let status = Status::new(setup.workers.len(), names);
    let targets = setup.targets.iter().enumerate();
    let watched: Vec<Watched> =
        targets.map(|(id, target)| Watched::begin(id, target.clone(), &events)).collect();
    for target in &watched {
        target.count_literals(&status);
    }
    let random = |_| io::Error::other("the operating system gives no random numbers");
    let users = identity::derive(setup.users).map_err(random)?;
    let decoy_key = identity::random().map_err(random)?;
    let place = Place { root: setup.recordings, series: setup.series, segment_bytes: setup.segment_bytes };
    let mut desk = Desk {
        waiting: (0..setup.targets.len()).collect(),
        last_target: setup.targets.len(),
        watched,
        publisher: Publisher::new(users, setup.policies, setup.targets, decoy_key, setup.workers.len()),
        workers: setup.workers.into_iter().map(Post::new).collect(),
        status: status.clone(),
        place: Arc::new(place),
        segments: HashSet::new(),
        salting: Arc::new(Semaphore::new(SALTS_AT_ONCE)),
        events,
        told: HashSet::new(),
        drain_timeout: setup.drain_timeout,
        handover_timeout: setup.handover_timeout,
        started: setup.started,
        shutdown: Shutdown::No,
        doors: setup.doors,
        work: setup.work,
        unconfigured: (0, None),
        host: setup.host,
        reloading: None,
        reload_waiters: Vec::new(),
        reload_due: false,
        asker: None,
        hand_over: HandOver::No,
        announced: false,
        end_due: false,
        run: Arc::new(RunFolder::open(&setup.run)?),
        lock: Some(setup.lock),
        admin: None,
        admin_rest: Arc::default(),
        any_siblings: false,
        cancels_in: HashMap::new(),
        cancels_out: Arc::new(Semaphore::new(CANCELS_MAX)),
        last_ticket: 0,
        notifier: Notifier::from_env(),
        pings: 0,
    };
    if let Some(socket) = setup.admin {
        desk.serve_admin(socket);
    }
    let signals = Signals::new()?;
    tokio::spawn(desk.run(incoming, setup.notices, setup.bell, signals, first));
    Ok(status)
}

/// The task's state. The other files of this crate are its parts, each an `impl` of its own.
pub(crate) struct Desk {
    pub publisher: Publisher,
    pub workers: Vec<Post>,
    pub status: Status,
    pub place: Arc<Place>,
    /// Segments that are being made, by worker and number.
    segments: HashSet<(u32, u64)>,
    salting: Arc<Semaphore>,
    pub events: mpsc::Sender<Event>,
    /// Targets of which nothing has been heard yet.
    pub waiting: HashSet<usize>,
    pub watched: Vec<Watched>,
    /// The id that was given last.
    pub last_target: usize,
    /// Warnings that were logged: a catalog that changes often repeats them. At most one for each mask and target.
    told: HashSet<String>,
    pub drain_timeout: Duration,
    pub handover_timeout: Duration,
    started: Instant,
    pub shutdown: Shutdown,

    /// Where clients come in; empty before they may, and when another process has taken over.
    pub doors: Vec<Door>,
    pub work: Work,
    /// How many workers have not taken their settings yet, and who waits for them.
    pub unconfigured: (usize, Option<Reply>),
    pub host: Arc<dyn Host>,
    pub reloading: Option<Reloading>,
    /// Who waits for the end of a reload.
    pub reload_waiters: Vec<Reply>,
    /// A reload was asked for while another process was to take over.
    pub reload_due: bool,
    /// Who asked to take over while a reload was under way.
    pub asker: Option<Asker>,
    pub hand_over: HandOver,
    /// This process has said that it serves.
    pub announced: bool,
    /// The end was asked for while another process was to take over.
    pub end_due: bool,
    pub run: Arc<RunFolder>,
    /// The data folder's.
    pub lock: Option<File>,
    /// The admin port's socket, kept for a successor.
    pub admin: Option<TcpListener>,
    pub admin_rest: Arc<Notify>,
    /// What workers were told of other processes.
    pub any_siblings: bool,
    /// Cancel requests of other processes that workers are at, by ticket.
    pub cancels_in: HashMap<u64, Reply>,
    pub cancels_out: Arc<Semaphore>,
    pub last_ticket: u64,
    pub notifier: Notifier,
    pub pings: u64,
}

/// One target whose catalog and addresses are being followed.
pub(crate) struct Watched {
    pub id: usize,
    /// Tells the one who reads the catalog of another setup.
    pub setup: watch::Sender<TargetSetup>,
    pub tasks: Vec<JoinHandle<()>>,
}

/// How far the gateway's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shutdown {
    No,
    /// Another process serves; sessions here end by themselves.
    HandedOver,
    Draining,
    Stopping,
}

/// One worker's mailbox, and the orders that found it full.
pub(crate) struct Post {
    pub link: WorkerLink,
    waiting: VecDeque<Order>,
    /// The worker has ended: it takes nothing more.
    gone: bool,
}

impl Post {
    fn new(link: WorkerLink) -> Post {
        Post { link, waiting: VecDeque::new(), gone: false }
    }

    /// Sends, or keeps for later. Only the newest snapshot is worth keeping.
    pub(crate) fn send(&mut self, order: Order) {
        if self.gone {
            return;
        }
        if matches!(order, Order::Adopt(_)) {
            self.waiting.retain(|waiting| !matches!(waiting, Order::Adopt(_)));
        }
        self.waiting.push_back(order);
        self.flush();
    }

    /// Nothing is sent or kept any more.
    fn end(&mut self) {
        self.gone = true;
        self.waiting.clear();
    }

    /// Whether orders arrive.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Sends what was kept, in order.
    fn flush(&mut self) {
        while let Some(order) = self.waiting.pop_front() {
            if let Err(order) = self.link.outlet.send(order) {
                self.waiting.push_front(order);
                return;
            }
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    succeed: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            succeed: signal(SignalKind::user_defined2())?,
        })
    }
}

impl Desk {
    async fn run(
        mut self,
        mut incoming: mpsc::Receiver<Event>,
        notices: Inbox<Notice>,
        bell: Arc<Bell>,
        mut signals: Signals,
        first: oneshot::Sender<Arc<Snapshot>>,
    ) {
        self.wait_for_catalogs(&mut incoming).await;
        // Workers are made with the first snapshot; from the second on they are told.
        if let Some(snapshot) = self.publish() {
            let _ = first.send(snapshot);
        }
        let (mut again, mut pulse) = (ticks(), health::pulse(&self.notifier));
        loop {
            tokio::select! {
                event = incoming.recv() => {
                    let Some(event) = event else { return };
                    self.event(event);
                    // What came meanwhile goes into the same snapshot.
                    while let Ok(event) = incoming.try_recv() {
                        self.event(event);
                    }
                    self.finish_reload();
                    self.publish_to_all();
                }
                () = bell.0.notified() => while let Some(notice) = notices.take() {
                    self.notice(notice);
                },
                _ = again.tick(), if self.workers.iter().any(|worker| !worker.waiting.is_empty()) => {
                    self.workers.iter_mut().for_each(Post::flush);
                }
                _ = signals.terminate.recv() => self.end("SIGTERM"),
                _ = signals.interrupt.recv() => {
                    info!(signal = "SIGINT", "asked to end");
                    self.stop();
                }
                _ = signals.hangup.recv() => self.reload("SIGHUP"),
                _ = signals.succeed.recv() => self.start_successor(),
                _ = pulse.tick() => self.look_after(),
                () = until(self.reload_deadline()) => {
                    self.finish_reload();
                    self.publish_to_all();
                }
            }
        }
    }

    async fn wait_for_catalogs(&mut self, incoming: &mut mpsc::Receiver<Event>) {
        let deadline = tokio::time::Instant::now() + FIRST_CATALOGS_MAX;
        while !self.waiting.is_empty() {
            match timeout_at(deadline, incoming.recv()).await {
                Ok(Some(event)) => self.event(event),
                Ok(None) | Err(_) => return,
            }
        }
    }

    pub(crate) fn event(&mut self, event: Event) {
        match event {
            Event::Catalog { target, read } => self.catalog_read(target, read),
            Event::CatalogConfirmed { target } => self.status.target(target, |state| {
                if state.catalog_failure.take().is_some() {
                    info!(target = %state.name, "the target's catalog can be read again");
                }
            }),
            Event::CatalogFailed { target, error } => {
                self.heard_of(target);
                self.status.target(target, |state| {
                    if state.catalog_failure.as_ref() != Some(&error) {
                        warn!(target = %state.name, %error, "the target's catalog cannot be read; trying again");
                    }
                    state.catalog_failure = Some(error);
                });
            }
            Event::Addresses { target, host, addresses } => {
                self.status.target(target, |state| state.resolved(host, addresses.len()));
                self.publisher.addresses(target, host, addresses);
            }
            Event::AddressesFailed { target, host, error } => self.status.target(target, |state| {
                if state.address_failures.get(&host) != Some(&error) {
                    warn!(target = %state.name, %error, "the target's addresses stay as they were; trying again");
                }
                state.address_failures.insert(host, error);
            }),
            Event::Answer { worker, order } => self.answer(worker, order),
            Event::Recording { worker, failure } => self.recording(worker, failure),
            Event::Reloaded(loaded) => self.reloaded(loaded),
            Event::Reload { why, done } => {
                self.reload_waiters.extend(done);
                self.reload(why);
            }
            Event::ReloadedEverywhere => self.reloaded_everywhere(),
            Event::Open { doors, admin, done } => self.open(doors, admin, done),
            Event::Announce { predecessor, done } => self.announce(predecessor, done),
            Event::Announced { done } => {
                if self.shutdown == Shutdown::No {
                    self.notifier.say("READY=1\nSTATUS=serving");
                }
                let _ = done.send(Ok(()));
                if std::mem::take(&mut self.reload_due) {
                    self.reload("asked before this process served");
                }
            }
            Event::TakeOver { reply } => self.asked_to_give(reply),
            Event::Rest { done } => self.rest(done),
            Event::NotHandedOver { reason } => self.not_handed_over(&reason),
            Event::HandedOver { pid, done } => {
                let _ = done.send(self.handed_over(pid));
            }
            Event::SuccessorFailed { error } => {
                error!(error, "no process could be started to take over; this one goes on");
            }
            Event::Cancel { request, done } => self.cancel_here(request, done),
            Event::Siblings { drainers } => self.siblings(drainers),
            Event::WorkerFailed { worker, reason } => {
                self.notifier.say(&format!("STATUS=worker {worker} has failed: {reason}"));
                self.status.worker(worker, |state| state.failed = Some(reason));
                self.drain();
            }
            Event::Drain => self.drain(),
            Event::Stop => self.stop(),
        }
    }

    fn catalog_read(&mut self, target: usize, read: catalog::Read) {
        self.heard_of(target);
        self.status.target(target, |state| {
            let version = read.catalog.version();
            info!(target = %state.name, version, columns = read.columns.len(), "read the target's catalog");
            state.catalog_version = version;
            state.catalog_failure = None;
        });
        self.publisher.catalog(target, read);
    }

    /// What is new goes to every worker.
    fn publish_to_all(&mut self) {
        if let Some(snapshot) = self.publish() {
            self.tell_all(|| Order::Adopt(Arc::clone(&snapshot)));
        }
    }

    fn publish(&mut self) -> Option<Arc<Snapshot>> {
        let published = self.publisher.publish()?;
        for warning in published.warnings {
            if !self.told.contains(&warning) {
                warn!("{warning}");
                self.told.insert(warning);
            }
        }
        let snapshot = published.snapshot;
        info!(epoch = snapshot.epoch, pairs = snapshot.standings.len(), "published");
        {
            let mut state = self.status.state();
            state.epoch = snapshot.epoch;
            state.published = Instant::now();
        }
        Some(snapshot)
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Adopted { worker, epoch } => {
                debug!(worker, epoch, "adopted");
                self.status.worker(worker, |state| state.epoch = epoch);
            }
            Notice::Configured { worker } => {
                debug!(worker, "configured");
                self.configured();
            }
            Notice::Pong { worker, number } => {
                debug!(worker, number, "turns");
                self.status.worker(worker, |state| state.asked = None);
            }
            Notice::CancelElsewhere { worker, ticket, request } => {
                self.cancel_elsewhere(worker, ticket, request);
            }
            Notice::CancelDone { ticket } => self.cancelled_here(ticket),
            Notice::SegmentWanted { worker, number } => {
                if self.segments.insert((worker, number)) {
                    let place = Arc::clone(&self.place);
                    tokio::spawn(recordings::provide(place, worker, number, self.events.clone()));
                }
            }
            Notice::RecordingFailed { worker, error } => self.recording(worker, Some(error)),
            Notice::Salt { worker, ticket, request } => self.salt(worker, ticket, request),
            Notice::Stopped { worker } => {
                info!(worker, "worker stopped");
                self.status.worker(worker, |state| state.stopped = true);
                let post = usize::try_from(worker).ok().and_then(|worker| self.workers.get_mut(worker));
                post.into_iter().for_each(Post::end);
            }
        }
    }

    fn answer(&mut self, worker: u32, order: Order) {
        if let Order::Segment { number, .. } = &order {
            self.segments.remove(&(worker, *number));
        }
        if let Some(post) = usize::try_from(worker).ok().and_then(|worker| self.workers.get_mut(worker)) {
            post.send(order);
        }
    }

    fn recording(&self, worker: u32, failure: Option<String>) {
        self.status.worker(worker, |state| {
            match (&failure, &state.recording) {
                (Some(reason), before) if before.as_ref() != Some(reason) => error!(
                    worker,
                    reason,
                    "the recording fails: as soon as the worker has nowhere to record to, it forwards no command"
                ),
                (None, Some(_)) => info!(worker, "the worker can record again"),
                _ => {}
            }
            state.recording = failure;
        });
    }

    fn salt(&self, worker: u32, ticket: u64, request: SaltRequest) {
        let (salting, events) = (Arc::clone(&self.salting), self.events.clone());
        tokio::spawn(async move {
            let Ok(_permit) = salting.acquire_owned().await else { return };
            if let Ok(key) = spawn_blocking(move || identity::salted(&request)).await {
                let _ = events.send(Event::Answer { worker, order: Order::Salted { ticket, key } }).await;
            }
        });
    }

    fn end(&mut self, why: &str) {
        info!(signal = why, "asked to end");
        match self.shutdown {
            // Whoever ends one gateway to have another sees no gap between the two.
            Shutdown::No if self.is_handing_over() && !self.end_due => {
                self.end_due = true;
                info!(
                    "another process is about to take over: draining when it has, or has failed to; a second signal cuts"
                );
            }
            Shutdown::No if !self.end_due => self.drain(),
            Shutdown::HandedOver => self.drain(),
            _ => self.stop(),
        }
    }

    pub(crate) fn drain(&mut self) {
        if self.shutdown >= Shutdown::Draining {
            return;
        }
        self.shutdown = Shutdown::Draining;
        self.status.state().draining = true;
        self.notifier.say("STOPPING=1\nSTATUS=draining: sessions end when they are idle");
        let deadline_ns = self.deadline_ns(self.drain_timeout);
        info!(
            seconds = self.drain_timeout.as_secs(),
            "draining: no new clients; a second signal cuts what is left"
        );
        if !self.is_handing_over() {
            // Who comes now is refused: nobody will ever accept.
            self.doors.clear();
        }
        self.tell_all(|| Order::Drain { deadline_ns, ending: Ending::WhenIdle });
    }

    /// A moment from now on, as workers count.
    pub(crate) fn deadline_ns(&self, within: Duration) -> u64 {
        u64::try_from((self.started.elapsed() + within).as_nanos()).unwrap_or(u64::MAX)
    }

    fn stop(&mut self) {
        self.shutdown = Shutdown::Stopping;
        self.status.state().draining = true;
        self.notifier.say("STOPPING=1\nSTATUS=stopping: sessions are cut");
        info!("stopping: cutting every session");
        self.doors.clear();
        self.tell_all(|| Order::Stop);
    }

    pub(crate) fn tell_all(&mut self, order: impl Fn() -> Order) {
        self.workers.iter_mut().for_each(|worker| worker.send(order()));
    }
}

/// A moment that may never come.
async fn until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn ticks() -> Interval {
    let mut ticks = interval(AGAIN);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

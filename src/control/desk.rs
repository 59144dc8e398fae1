//! The one task that decides: it takes events and workers' notices, publishes snapshots and sends orders.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lockgate_bridge::{Inbox, Notice, Order, Snapshot};
use lockgate_lane::SaltRequest;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout_at};
use tracing::{debug, error, info, warn};

use crate::admin::{self, Admin};
use crate::publish::Publisher;
use crate::recordings::{self, Place};
use crate::status::Status;
use crate::{Bell, Event, Setup, WorkerLink, catalog, identity, resolve};

/// How long the first snapshot waits for the targets' catalogs: a client that connects the moment the gateway is up
/// should not be refused for names that are about to be known.
const FIRST_CATALOGS_MAX: Duration = Duration::from_secs(5);
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
) -> io::Result<()> {
    let names = setup.targets.iter().map(|target| target.target.name.clone());
    let status = Status::new(setup.workers.len(), names);
    for (index, target) in setup.targets.iter().enumerate() {
        tokio::spawn(catalog::watch(index, target.clone(), events.clone()));
        for (place, host) in target.hosts.iter().enumerate() {
            match resolve::literal(&host.name, host.port) {
                Some(_) => status.target(index, |target| target.resolved(place, 1)),
                None => {
                    tokio::spawn(resolve::watch(index, place, host.name.clone(), host.port, events.clone()));
                }
            }
        }
    }
    if let Some(socket) = setup.admin {
        let counters = setup.workers.iter().map(|worker| Arc::clone(&worker.counters)).collect();
        let admin = Admin { status: status.clone(), counters, started: SystemTime::now() };
        tokio::spawn(async move {
            if let Err(error) = admin::serve(socket, admin).await {
                error!(%error, "the admin port has failed; sessions go on");
            }
        });
    }
    let random = |_| io::Error::other("the operating system gives no random numbers");
    let users = identity::derive(setup.users).map_err(random)?;
    let decoy_key = identity::random().map_err(random)?;
    let desk = Desk {
        waiting: (0..setup.targets.len()).collect(),
        publisher: Publisher::new(users, setup.policies, setup.targets, decoy_key, setup.workers.len()),
        workers: setup.workers.into_iter().map(Post::new).collect(),
        status,
        place: Arc::new(Place { root: setup.recordings, segment_bytes: setup.segment_bytes }),
        segments: HashSet::new(),
        salting: Arc::new(Semaphore::new(SALTS_AT_ONCE)),
        events,
        told: HashSet::new(),
        drain_timeout: setup.drain_timeout,
        started: setup.started,
        shutdown: Shutdown::No,
    };
    let signals = Signals::new()?;
    tokio::spawn(desk.run(incoming, setup.notices, setup.bell, signals, first));
    Ok(())
}

struct Desk {
    publisher: Publisher,
    workers: Vec<Post>,
    status: Status,
    place: Arc<Place>,
    /// Segments that are being made, by worker and number.
    segments: HashSet<(u32, u64)>,
    salting: Arc<Semaphore>,
    events: mpsc::Sender<Event>,
    /// Targets of which nothing has been heard yet.
    waiting: HashSet<usize>,
    /// Warnings that were logged: a catalog that changes often repeats them. At most one for each mask and target.
    told: HashSet<String>,
    drain_timeout: Duration,
    started: Instant,
    shutdown: Shutdown,
}

/// How far the gateway's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shutdown {
    No,
    Draining,
    Stopping,
}

/// One worker's mailbox, and the orders that found it full.
struct Post {
    link: WorkerLink,
    waiting: VecDeque<Order>,
}

impl Post {
    fn new(link: WorkerLink) -> Post {
        Post { link, waiting: VecDeque::new() }
    }

    /// Sends, or keeps for later. Only the newest snapshot is worth keeping.
    fn send(&mut self, order: Order) {
        if matches!(order, Order::Adopt(_)) {
            self.waiting.retain(|waiting| !matches!(waiting, Order::Adopt(_)));
        }
        self.waiting.push_back(order);
        self.flush();
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
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
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
        let mut again = ticks();
        loop {
            tokio::select! {
                event = incoming.recv() => {
                    let Some(event) = event else { return };
                    self.event(event);
                    // What came meanwhile goes into the same snapshot.
                    while let Ok(event) = incoming.try_recv() {
                        self.event(event);
                    }
                    if let Some(snapshot) = self.publish() {
                        self.tell_all(|| Order::Adopt(Arc::clone(&snapshot)));
                    }
                }
                () = bell.0.notified() => while let Some(notice) = notices.take() {
                    self.notice(notice);
                },
                _ = again.tick(), if self.workers.iter().any(|worker| !worker.waiting.is_empty()) => {
                    self.workers.iter_mut().for_each(Post::flush);
                }
                _ = signals.terminate.recv() => self.end("SIGTERM"),
                _ = signals.interrupt.recv() => self.end("SIGINT"),
                _ = signals.hangup.recv() => {
                    warn!("SIGHUP: reloading is not supported yet; restart the gateway to change its configuration");
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

    fn event(&mut self, event: Event) {
        match event {
            Event::Catalog { target, read } => self.catalog_read(target, read),
            Event::CatalogConfirmed { target } => self.status.target(target, |state| {
                if state.catalog_failure.take().is_some() {
                    info!(target = %state.name, "the target's catalog can be read again");
                }
            }),
            Event::CatalogFailed { target, error } => {
                self.waiting.remove(&target);
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
            Event::Drain => self.drain(),
            Event::Stop => self.stop(),
        }
    }

    fn catalog_read(&mut self, target: usize, read: catalog::Read) {
        self.waiting.remove(&target);
        self.status.target(target, |state| {
            let version = read.catalog.version();
            info!(target = %state.name, version, columns = read.columns.len(), "read the target's catalog");
            state.catalog_version = version;
            state.catalog_failure = None;
        });
        self.publisher.catalog(target, read);
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
                    "the recording has failed: the worker forwards no command until it can record again"
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
            Shutdown::No => self.drain(),
            Shutdown::Draining | Shutdown::Stopping => self.stop(),
        }
    }

    fn drain(&mut self) {
        if self.shutdown >= Shutdown::Draining {
            return;
        }
        self.shutdown = Shutdown::Draining;
        self.status.state().draining = true;
        let deadline = self.started.elapsed() + self.drain_timeout;
        let deadline_ns = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        info!(
            seconds = self.drain_timeout.as_secs(),
            "draining: no new clients; a second signal cuts what is left"
        );
        self.tell_all(|| Order::Drain { deadline_ns });
    }

    fn stop(&mut self) {
        self.shutdown = Shutdown::Stopping;
        self.status.state().draining = true;
        info!("stopping: cutting every session");
        self.tell_all(|| Order::Stop);
    }

    fn tell_all(&mut self, order: impl Fn() -> Order) {
        self.workers.iter_mut().for_each(|worker| worker.send(order()));
    }
}

fn ticks() -> Interval {
    let mut ticks = interval(AGAIN);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

//! From a checked configuration to a serving gateway, and back down: log, probe, folders, certificates, recordings,
//! control, workers, wait.

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime};

use lockgate_bridge::{Counters, Inbox, LateWake, Notice, Order, Outlet, Snapshot, mailbox};
use lockgate_control::{Bell, Control, WorkerLink};
use lockgate_lane::ListenerTls;
use lockgate_recording::{SeriesStart, Time, create_segment, recover, segment_path};
use lockgate_ring::DriverKind;
use lockgate_worker::{ListenerSetup, RecordingSetup, Segment};
use tracing::{error, info, warn};

use crate::config::{Config, Limits};
use crate::folders::DataDir;
use crate::tls;

/// Orders that a worker has not taken yet, at most.
const ORDERS_MAX: usize = 1024;
/// Notices that control has not taken yet, at most, for each worker.
const NOTICES_MAX: usize = 1024;
/// Connections that the kernel completes before a worker accepts them.
const BACKLOG: u32 = 1024;

/// Why a gateway could not start, or had to end.
#[derive(Debug)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure(text)
    }
}

/// Serves until it is told to end.
pub fn serve(config: Config) -> Result<(), Failure> {
    let started = Instant::now();
    info!(version = env!("CARGO_PKG_VERSION"), config = %config.file.display(), "starting");
    config.warnings.iter().for_each(|warning| warn!("{warning}"));
    raise_open_files_limit();
    let driver = config.driver.settle()?;
    let data_dir = DataDir::take(&config.data_dir)?;
    let listeners = listeners(&config)?;
    let admin = config
        .admin
        .map(|bind| bound(lockgate_ring::listen_socket(bind, BACKLOG, false), &bind))
        .transpose()?;
    let recordings = recordings(&config, &data_dir.recordings(), started)?;
    let wiring = Wiring::new(config.workers);
    let (control, snapshot) = lockgate_control::start(lockgate_control::Setup {
        targets: config.targets.clone(),
        users: config.users.clone(),
        policies: config.policies,
        admin,
        recordings: data_dir.recordings(),
        segment_bytes: config.segment_bytes,
        drain_timeout: config.limits.drain_timeout,
        started,
        notices: wiring.notices,
        bell: wiring.bell,
        workers: wiring.links,
    })
    .map_err(|error| Failure(format!("control cannot start: {error}")))?;
    let limits = WorkerLimits::new(&config.limits, config.workers, driver);
    let parts = wiring.posts.into_iter().zip(listeners).zip(recordings);
    let setups = parts.map(|((post, listeners), recording)| {
        limits.setup(post, listeners, recording, &snapshot, &wiring.outlet, &wiring.peers, started)
    });
    let crew = Crew::start(setups.collect())?;
    info!(workers = config.workers, %driver, "serving");
    let ended = crew.wait(&control);
    control.finish();
    drop(data_dir);
    ended
}

fn raise_open_files_limit() {
    match lockgate_ring::raise_open_files_limit() {
        Ok(limit) if limit < 4096 => {
            warn!(
                limit,
                "few files may be open, and a session takes two; raise the limit (ulimit -n, LimitNOFILE)"
            );
        }
        Ok(_) => {}
        Err(error) => warn!(%error, "the limit of open files cannot be raised"),
    }
}

fn bound<T>(socket: io::Result<T>, address: &impl fmt::Display) -> Result<T, Failure> {
    socket.map_err(|error| {
        let help = match error.kind() {
            io::ErrorKind::AddrInUse => "; something else listens there, another gateway perhaps",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
            io::ErrorKind::AddrNotAvailable => "; no interface of this machine has the address",
            _ => "",
        };
        Failure(format!("{address} cannot be bound: {error}{help}"))
    })
}

/// Every worker's own sockets, by worker.
fn listeners(config: &Config) -> Result<Vec<Vec<ListenerSetup>>, Failure> {
    let own = own_certificate(config)?;
    // All of them before the first is bound: a wildcard and an address of one port may well stand beside each other.
    config.listeners.iter().try_for_each(|listener| refuse_foreign(listener.bind))?;
    let mut by_worker: Vec<Vec<ListenerSetup>> = (0..config.workers).map(|_| Vec::new()).collect();
    for listener in &config.listeners {
        let rules = Arc::new(listener.rules.clone());
        let tls = match listener.rules.tls {
            ListenerTls::Off => None,
            _ => listener.tls.clone().or_else(|| own.clone()),
        };
        let mut address = listener.bind;
        for sockets in &mut by_worker {
            let socket = bound(lockgate_ring::listen_socket(address, BACKLOG, true), &address)?;
            // The first socket of port 0 finds a port, the others share it.
            address = socket.local_addr().unwrap_or(address);
            sockets.push(ListenerSetup { socket, rules: Arc::clone(&rules), tls: tls.clone() });
        }
        info!(%address, tls = ?listener.rules.tls, auth = ?listener.rules.auth, "listening");
    }
    Ok(by_worker)
}

/// SO_REUSEPORT would let a second gateway of the same user share the port, and take some of its clients.
fn refuse_foreign(bind: std::net::SocketAddr) -> Result<(), Failure> {
    match bind.port() {
        0 => Ok(()),
        _ => bound(TcpListener::bind(bind), &bind).map(drop),
    }
}

/// The certificate that the gateway makes itself, if some listener needs it.
fn own_certificate(config: &Config) -> Result<Option<Arc<rustls::ServerConfig>>, Failure> {
    let needed = config
        .listeners
        .iter()
        .any(|listener| listener.rules.tls != ListenerTls::Off && listener.tls.is_none());
    if !needed {
        return Ok(None);
    }
    let (server, made) = tls::own_certificate(&config.data_dir)?;
    let (certificate, _) = tls::own_paths(&config.data_dir);
    if made {
        info!(certificate = %certificate.display(), "made a self-signed certificate");
    }
    Ok(Some(server))
}

/// Every worker's recording: what is there is recovered, and the next segment made.
fn recordings(config: &Config, root: &Path, started: Instant) -> Result<Vec<RecordingSetup>, Failure> {
    let mut boot = [0; 8];
    lockgate_ring::random(&mut boot)
        .map_err(|error| Failure(format!("the operating system gives no random numbers: {error}")))?;
    let (boot, now) = (u64::from_ne_bytes(boot), now(started));
    // At once: a segment is written whole before it is used, which takes a disk its time.
    let made: Vec<io::Result<RecordingSetup>> = thread::scope(|scope| {
        let series: Vec<_> = (0..config.workers)
            .map(|worker| scope.spawn(move || recording(config, root, worker, boot, now)))
            .collect();
        let died = |_| Err(io::Error::other("the thread that recovered it died"));
        series.into_iter().map(|series| series.join().unwrap_or_else(died)).collect()
    });
    made.into_iter()
        .map(|made| {
            made.map_err(|error| Failure(format!("the recording {} cannot go on: {error}", root.display())))
        })
        .collect()
}

fn recording(config: &Config, root: &Path, worker: u32, boot: u64, now: Time) -> io::Result<RecordingSetup> {
    let recovery = recover(root, worker)?;
    for alarm in &recovery.alarms {
        error!(worker, "the recording is damaged: {alarm}");
    }
    if let Some(crash) = &recovery.crash {
        warn!(
            worker,
            segment = crash.segment,
            blocks = crash.valid_blocks,
            cut_bytes = crash.cut_bytes,
            sessions = crash.sessions.len(),
            "the recording did not end cleanly; it goes on in a new segment"
        );
    }
    let number = recovery.next_segment;
    let file = create_segment(root, worker, number, config.segment_bytes)?;
    let path = segment_path(root, worker, number).display().to_string();
    Ok(RecordingSetup {
        start: SeriesStart { worker, node: 0, boot, recovery, now },
        segment: Segment { number, file: file.into(), path },
        durability: config.durability,
    })
}

fn now(started: Instant) -> Time {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time {
        monotonic_ns: u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX),
        wall_us: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
    }
}

/// All mailboxes: each worker's, and control's.
struct Wiring {
    notices: Inbox<Notice>,
    bell: Arc<Bell>,
    outlet: Outlet<Notice>,
    peers: Vec<Outlet<Order>>,
    links: Vec<WorkerLink>,
    posts: Vec<Post>,
}

/// One worker's end of its mailbox.
struct Post {
    index: u32,
    inbox: Inbox<Order>,
    wake: Arc<LateWake>,
    counters: Arc<Counters>,
}

impl Wiring {
    fn new(workers: u32) -> Wiring {
        let bell = Arc::new(Bell::default());
        let notices_max = NOTICES_MAX.saturating_mul(usize::try_from(workers).unwrap_or(1));
        let (outlet, notices) = mailbox(notices_max, bell.clone());
        let mut wiring =
            Wiring { notices, bell, outlet, peers: Vec::new(), links: Vec::new(), posts: Vec::new() };
        for index in 0..workers {
            let wake = Arc::new(LateWake::default());
            let counters = Arc::new(Counters::default());
            let (outlet, inbox) = mailbox(ORDERS_MAX, wake.clone());
            wiring.peers.push(outlet.clone());
            wiring.links.push(WorkerLink { outlet, counters: Arc::clone(&counters) });
            wiring.posts.push(Post { index, inbox, wake, counters });
        }
        wiring
    }
}

/// What every worker's limits are.
struct WorkerLimits {
    workers: u32,
    driver: DriverKind,
    cores: usize,
    lane: Arc<lockgate_lane::Limits>,
    own: lockgate_worker::Limits,
}

impl WorkerLimits {
    fn new(limits: &Limits, workers: u32, driver: DriverKind) -> WorkerLimits {
        let share = |total: u32| total.div_ceil(workers.max(1));
        let connect_ns_max = u64::try_from(limits.connect_timeout.as_nanos()).unwrap_or(u64::MAX);
        WorkerLimits {
            workers,
            driver,
            cores: thread::available_parallelism().map_or(1, usize::from),
            lane: Arc::new(limits.lane.clone()),
            own: lockgate_worker::Limits {
                sessions_max: share(limits.sessions_max),
                unauthenticated_max: share(limits.unauthenticated_max),
                unauthenticated_per_address_max: share(limits.unauthenticated_per_address_max),
                connect_ns_max,
                cancel_ns_max: connect_ns_max,
            },
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a worker is made of that many parts, each once")]
    fn setup(
        &self,
        post: Post,
        listeners: Vec<ListenerSetup>,
        recording: RecordingSetup,
        snapshot: &Arc<Snapshot>,
        outlet: &Outlet<Notice>,
        peers: &[Outlet<Order>],
        started: Instant,
    ) -> lockgate_worker::Setup {
        let wake = post.wake;
        lockgate_worker::Setup {
            index: post.index,
            workers: self.workers,
            driver: self.driver,
            core: usize::try_from(post.index).ok().map(|index| index % self.cores),
            listeners,
            snapshot: Arc::clone(snapshot),
            inbox: post.inbox,
            outlet: outlet.clone(),
            peers: peers.to_vec(),
            counters: post.counters,
            lane_limits: Arc::clone(&self.lane),
            limits: self.own,
            recording,
            started,
            wake: Box::new(move |waker| wake.fill(waker)),
        }
    }
}

/// The workers' threads.
struct Crew {
    threads: Vec<JoinHandle<()>>,
    ended: std::sync::mpsc::Receiver<(u32, Option<String>)>,
}

/// Says that a worker's thread has ended, even if it panicked.
struct Farewell {
    worker: u32,
    ended: Sender<(u32, Option<String>)>,
    result: Option<io::Result<()>>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let failure = match self.result.take() {
            Some(Ok(())) => None,
            Some(Err(error)) => Some(error.to_string()),
            None => Some(String::from("it panicked; the log has the panic's message")),
        };
        let _ = self.ended.send((self.worker, failure));
    }
}

impl Crew {
    fn start(setups: Vec<lockgate_worker::Setup>) -> Result<Crew, Failure> {
        let (sender, ended) = channel();
        let mut threads = Vec::with_capacity(setups.len());
        for setup in setups {
            let farewell = Farewell { worker: setup.index, ended: sender.clone(), result: None };
            let thread = thread::Builder::new()
                .name(format!("worker-{}", setup.index))
                .spawn(move || {
                    let mut farewell = farewell;
                    farewell.result = Some(lockgate_worker::run(setup));
                })
                .map_err(|error| Failure(format!("a worker's thread cannot be had: {error}")))?;
            threads.push(thread);
        }
        Ok(Crew { threads, ended })
    }

    /// Waits for all to end. One that fails takes the others down in good order: what it served is gone, and a gateway
    /// that only half serves hides it.
    fn wait(self, control: &Control) -> Result<(), Failure> {
        let mut failures = Vec::new();
        while let Ok((worker, failure)) = self.ended.recv() {
            if let Some(failure) = failure {
                error!(worker, failure, "a worker has failed; the gateway ends");
                failures.push(format!("worker {worker} failed: {failure}"));
                control.drain();
            }
        }
        for thread in self.threads {
            let _ = thread.join();
        }
        match failures.is_empty() {
            true => {
                info!("ended");
                Ok(())
            }
            false => Err(Failure(failures.join("; "))),
        }
    }
}

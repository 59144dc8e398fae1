//! From a checked configuration to a serving gateway, and back down: log, probe, folders, certificates, recordings,
//! control, workers, wait.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use lockgate_bridge::{Counters, Inbox, LateWake, Notice, Order, Outlet, Snapshot, mailbox};
use lockgate_control::{Bell, Control, Door, TakeOver, Work, WorkerLink};
use lockgate_recording::Time;
use lockgate_ring::DriverKind;
use lockgate_worker::{ListenerSetup, RecordingSetup};
use tracing::{error, info, warn};

use crate::config::Config;
use crate::driver::DriverChoice;
use crate::folders::DataDir;
use crate::host::{self, Host};
use crate::listeners;
use crate::series::{self, Beginning};

/// Orders that a worker has not taken yet, at most.
const ORDERS_MAX: usize = 1024;
/// Notices that control has not taken yet, at most, for each worker.
const NOTICES_MAX: usize = 1024;

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

/// Serves until it is told to end, with `driver` in place of the configuration's if it is given. With `take_over`, in
/// the place of the gateway that serves with the same data folder, if one does.
pub fn serve(config: Config, driver: Option<DriverChoice>, take_over: bool) -> Result<(), Failure> {
    let started = Instant::now();
    info!(version = env!("CARGO_PKG_VERSION"), config = %config.file.display(), "starting");
    config.warnings.iter().for_each(|warning| warn!("{warning}"));
    lockgate_ring::map_large_blocks();
    let open_files = raise_open_files_limit();
    let driver = driver.unwrap_or(config.driver).settle()?;
    let mut ground = Ground::of(&config, take_over)?;
    let (held, recordings) = recordings(&config, &ground.folder.recordings(), started)?;
    let work = host::work(&config, config.workers, open_files);
    let host = Arc::new(Host::new(&config, open_files));
    // Whoever takes over accepts nobody before the other one has stopped: neither its workers nor its admin port.
    let later = ground.predecessor.is_some();
    let (now, then) = if later { (Vec::new(), ground.doors) } else { (ground.doors, Vec::new()) };
    let (admin, admin_then) = if later { (None, ground.admin) } else { (ground.admin, None) };
    let shares = listeners::shares(&now, config.workers);
    let shares = shares.map_err(|error| Failure(format!("sockets cannot be duplicated: {error}")))?;
    let wiring = Wiring::new(config.workers);
    let (control, snapshot) = lockgate_control::start(lockgate_control::Setup {
        targets: config.targets,
        users: config.users,
        policies: config.policies,
        admin,
        doors: now,
        work: work.clone(),
        host,
        run: DataDir::run(&config.data_dir),
        lock: ground.lock,
        recordings: ground.folder.recordings(),
        series: held.numbers.clone(),
        segment_bytes: config.segment_bytes,
        drain_timeout: config.limits.drain_timeout,
        handover_timeout: config.limits.handover_timeout,
        started,
        notices: wiring.notices,
        bell: wiring.bell,
        workers: wiring.links,
    })
    .map_err(|error| Failure(format!("control cannot start: {error}")))?;
    let gang = Gang {
        workers: config.workers,
        driver,
        spin: config.spin,
        work,
        snapshot,
        outlet: wiring.outlet,
        peers: wiring.peers,
        started,
    };
    let parts = wiring.posts.into_iter().zip(shares).zip(recordings);
    let setups = parts.map(|((post, listeners), recording)| gang.setup(post, listeners, recording));
    let crew = Crew::start(setups.collect())?;
    let stands = stand(&control, ground.predecessor.take(), then, admin_then, config.workers);
    match &stands {
        // Told to end before it had begun: whoever serves goes on to.
        Ok(()) if control.is_ending() => {}
        Ok(()) => info!(workers = config.workers, %driver, "serving"),
        Err(_) => control.stop(),
    }
    let ended = crew.wait(&control);
    control.finish();
    drop(held);
    stands.and(ended)
}

/// What a process stands on: the data folder, and the sockets where clients come in.
struct Ground {
    folder: DataDir,
    lock: File,
    doors: Vec<Door>,
    admin: Option<TcpListener>,
    predecessor: Option<TakeOver>,
}

impl Ground {
    fn of(config: &Config, take_over: bool) -> Result<Ground, Failure> {
        let asked = match take_over {
            true => TakeOver::ask(&DataDir::run(&config.data_dir))?,
            false => None,
        };
        let Some(mut predecessor) = asked else {
            if take_over {
                info!("no gateway serves with this data_dir: there is nothing to take over");
            }
            let (folder, lock) = DataDir::take(&config.data_dir)?;
            let doors = listeners::doors(config, Vec::new(), &[])?;
            let admin = config.admin.map(listeners::admin).transpose()?;
            return Ok(Ground { folder, lock, doors, admin, predecessor: None });
        };
        info!(pid = predecessor.pid, "taking over");
        let folder = DataDir::taken_over(&config.data_dir)?;
        let lock = predecessor.lock.try_clone();
        let lock = lock.map_err(|error| Failure(format!("the lock cannot be duplicated: {error}")))?;
        let doors = listeners::doors(config, std::mem::take(&mut predecessor.listeners), &[])?;
        let handed = predecessor.admin.take();
        let same = |socket: &TcpListener| socket.local_addr().ok() == config.admin;
        let admin = match config.admin {
            Some(bind) => Some(handed.filter(same).map_or_else(|| listeners::admin(bind), Ok)?),
            None => None,
        };
        Ok(Ground { folder, lock, doors, admin, predecessor: Some(predecessor) })
    }
}

/// Waits until the workers judge, and takes the predecessor's place if there is one.
fn stand(
    control: &Control,
    predecessor: Option<TakeOver>,
    mut doors: Vec<Door>,
    admin: Option<TcpListener>,
    workers: u32,
) -> Result<(), Failure> {
    control.workers_judge()?;
    if control.is_ending() {
        return Ok(());
    }
    let pid = predecessor.as_ref().map(|predecessor| predecessor.pid);
    let mut reload_due = false;
    if let Some(mut predecessor) = predecessor {
        let failed = |error: io::Error| Failure(format!("the other gateway goes on serving: {error}"));
        predecessor.ready().map_err(failed)?;
        for door in &mut doors {
            // From here on whoever comes in by a new socket is accepted. Without it there are fewer to accept.
            if let Err(error) = listeners::extend(door, workers) {
                warn!(error, "some workers go without a socket of their own");
            }
        }
        control.open(doors, admin)?;
        reload_due = predecessor.serving().map_err(failed)?;
    }
    control.announce(pid).map_err(|error| Failure(format!("no successor could ever ask: {error}")))?;
    if reload_due {
        control.reload();
    }
    Ok(())
}

/// How many files may be open; it is as high as the hard limit lets it be.
fn raise_open_files_limit() -> u64 {
    lockgate_ring::raise_open_files_limit().unwrap_or_else(|error| {
        warn!(%error, "the limit of open files cannot be raised");
        u64::MAX
    })
}

/// Every worker's recording: what is there is recovered, and the next segment made.
fn recordings(
    config: &Config,
    root: &Path,
    started: Instant,
) -> Result<(series::Held, Vec<RecordingSetup>), Failure> {
    let mut boot = [0; 8];
    lockgate_ring::random(&mut boot)
        .map_err(|error| Failure(format!("the operating system gives no random numbers: {error}")))?;
    let beginning = Beginning {
        root,
        boot: u64::from_ne_bytes(boot),
        now: now(started),
        segment_bytes: config.segment_bytes,
        durability: config.durability,
    };
    series::take(beginning, usize::try_from(config.workers).unwrap_or(usize::MAX))
        .map_err(|error| Failure(format!("the recording {} cannot go on: {error}", root.display())))
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

/// What all workers have in common.
struct Gang {
    workers: u32,
    driver: DriverKind,
    spin: Duration,
    work: Work,
    snapshot: Arc<Snapshot>,
    outlet: Outlet<Notice>,
    peers: Vec<Outlet<Order>>,
    started: Instant,
}

impl Gang {
    fn setup(
        &self,
        post: Post,
        listeners: Vec<ListenerSetup>,
        recording: RecordingSetup,
    ) -> lockgate_worker::Setup {
        let wake = post.wake;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        lockgate_worker::Setup {
            index: post.index,
            workers: self.workers,
            driver: self.driver,
            spin: self.spin,
            core: usize::try_from(post.index).ok().map(|index| index % cores),
            listeners,
            snapshot: Arc::clone(&self.snapshot),
            inbox: post.inbox,
            outlet: self.outlet.clone(),
            peers: self.peers.clone(),
            counters: post.counters,
            lane_limits: Arc::clone(&self.work.lane_limits),
            limits: self.work.limits,
            recording,
            started: self.started,
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
                control.worker_failed(worker, failure);
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

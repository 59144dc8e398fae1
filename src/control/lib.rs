//! The control plane: it reads catalogs, publishes what workers judge by, makes the files they record into, and says
//! how they are. With this crate no worker ever waits for any of that.
//!
//! One task, the [`desk`], owns what is published; the others (one per target for its catalog, one for names, the
//! admin port) only send it events. What the desk decides goes to workers as orders; what it knows is kept in
//! [`status`] for the admin port.

#![forbid(unsafe_code)]

mod admin;
mod attach;
mod catalog;
mod desk;
mod doors;
pub mod handover;
mod health;
mod identity;
#[cfg(test)]
mod live_tests;
mod metrics;
pub mod policies;
mod publish;
mod recordings;
mod reload;
mod resolve;
mod run;
mod siblings;
mod status;
mod succession;
mod systemd;
pub mod target_tls;
mod text;

use std::fmt;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockgate_bridge::{
    Counters, DestinationTls, Inbox, Notice, Order, Outlet, Queue, SessionsMax, Snapshot, Wake,
};
use lockgate_lane::{CancelRequest, Identity, Secret, Target};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc, oneshot};

pub use doors::{Door, Work};
pub use handover::TakeOver;
pub use policies::Policies;
pub use reload::{Host, Reload};

/// Threads of the runtime: nothing here is in a session's way, so two are many.
const RUNTIME_THREADS: usize = 2;
/// Threads for what blocks: files, names, password hashing.
const BLOCKING_THREADS: usize = 8;
/// Events that tasks may have sent and the desk not yet taken.
const EVENTS_MAX: usize = 1024;

/// Everything control is made of.
pub struct Setup {
    /// Targets, in the order of the configuration.
    pub targets: Vec<TargetSetup>,
    /// Local identities.
    pub users: Vec<UserSetup>,
    /// Compiled policies.
    pub policies: Policies,
    /// The admin port's socket, bound and listening; `None` also where [`Control::open`] is to bring it.
    pub admin: Option<TcpListener>,
    /// Where clients come in; the workers have their shares already. Empty where [`Control::open`] is to bring them.
    pub doors: Vec<Door>,
    /// What the workers work under.
    pub work: Work,
    /// Loads the configuration anew and starts successors.
    pub host: Arc<dyn Host>,
    /// The folder where the processes of this gateway meet.
    pub run: PathBuf,
    /// The lock on the data folder, for a successor.
    pub lock: File,
    /// Folder of all recordings.
    pub recordings: PathBuf,
    /// The series that each worker records into.
    pub series: Vec<u32>,
    /// Bytes of one segment file.
    pub segment_bytes: u64,
    /// Time that sessions get to end when the gateway is told to.
    pub drain_timeout: Duration,
    /// Time that sessions get to end by themselves when another process has taken over.
    pub handover_timeout: Duration,
    /// The process' start: the zero of every monotonic time.
    pub started: Instant,
    /// What workers say.
    pub notices: Inbox<Notice>,
    /// What rings when they do; the notices' mailbox was made with it.
    pub bell: Arc<Bell>,
    /// The workers, by index.
    pub workers: Vec<WorkerLink>,
}

/// One target.
#[derive(Debug, Clone)]
pub struct TargetSetup {
    /// What lanes need of it.
    pub target: Arc<Target>,
    /// Where it may be, in the order in which it is tried.
    pub hosts: Vec<TargetHost>,
    /// Who reads its catalog.
    pub catalog: Account,
    /// Time between two looks at its catalog: what changes behind the gateway's back is found within it.
    pub catalog_poll: Duration,
    /// How many sessions it may have.
    pub sessions_max: SessionsMax,
    /// Who may wait for one of them to end.
    pub queue: Queue,
}

/// One of a target's hosts.
#[derive(Debug, Clone)]
pub struct TargetHost {
    /// Its name or IP address, without brackets.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// How TLS to it is begun; `None` exactly for `TargetTls::Disable`.
    pub tls: Option<DestinationTls>,
}

/// An account on a target.
#[derive(Debug, Clone)]
pub struct Account {
    /// Role.
    pub user: String,
    /// Its password, if it needs one.
    pub password: Option<Secret>,
}

/// One local identity.
#[derive(Debug, Clone)]
pub struct UserSetup {
    /// Who.
    pub identity: Arc<Identity>,
    /// What proves it; `None`: its certificate alone does.
    pub password: Option<Secret>,
    /// The name that its certificate bears.
    pub certificate_name: Arc<str>,
    /// How many sessions it may have.
    pub sessions_max: SessionsMax,
}

/// One worker as control sees it.
#[derive(Debug)]
pub struct WorkerLink {
    /// Orders to it.
    pub outlet: Outlet<Order>,
    /// What it counts.
    pub counters: Arc<Counters>,
}

/// Rings when a notice was put into control's mailbox.
#[derive(Debug, Default)]
pub struct Bell(Notify);

impl Wake for Bell {
    fn wake(&self) {
        self.0.notify_one();
    }
}

/// The running control plane.
pub struct Control {
    runtime: Runtime,
    events: mpsc::Sender<Event>,
    status: status::Status,
    run: run::RunFolder,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}

/// What the desk is told by the other tasks.
#[derive(Debug)]
enum Event {
    /// A target's catalog was read.
    Catalog { target: usize, read: catalog::Read },
    /// A target's catalog is still as it was read.
    CatalogConfirmed { target: usize },
    /// A target's catalog cannot be read.
    CatalogFailed { target: usize, error: String },
    /// The name of one of a target's hosts was resolved.
    Addresses { target: usize, host: usize, addresses: Vec<std::net::SocketAddr> },
    /// The name of one of a target's hosts cannot be resolved.
    AddressesFailed { target: usize, host: usize, error: String },
    /// A worker's question was answered.
    Answer { worker: u32, order: Order },
    /// Whether a worker has files to record into.
    Recording { worker: u32, failure: Option<String> },
    /// A configuration was loaded anew, or refused with all its mistakes.
    Reloaded(Result<Box<reload::Derived>, Vec<String>>),
    /// Load the configuration anew; `done` hears when it holds, or is refused.
    Reload { why: &'static str, done: Option<Reply> },
    /// What was reloaded here holds in the other processes of this gateway, too, as far as they can be reached.
    ReloadedEverywhere,
    /// The same, of a process that begins to serve.
    Announced { done: oneshot::Sender<io::Result<()>> },
    /// Accept clients on these.
    Open { doors: Vec<Door>, admin: Option<TcpListener>, done: Reply },
    /// This process serves: say so. It has taken over from the process of this id, if any.
    Announce { predecessor: Option<u32>, done: oneshot::Sender<io::Result<()>> },
    /// A process asks to take over.
    TakeOver { reply: oneshot::Sender<Result<Vec<succession::Gift>, String>> },
    /// The process that is to take over stands: accept no more.
    Rest { done: Reply },
    /// The process that was to take over does not, and why.
    NotHandedOver { reason: String },
    /// The process of this id has taken over; whether it is to reload is the answer.
    HandedOver { pid: u32, done: oneshot::Sender<bool> },
    /// A process could not be started to take over.
    SuccessorFailed { error: String },
    /// Another process asks to cancel.
    Cancel { request: CancelRequest, done: Reply },
    /// Processes of this gateway that drain.
    Siblings { drainers: Vec<u32> },
    /// A worker's thread has ended before its time.
    WorkerFailed { worker: u32, reason: String },
    /// Accept no more and end sessions when they are idle.
    Drain,
    /// Cut every session now.
    Stop,
}

/// Somebody waits for something to be done.
type Reply = oneshot::Sender<()>;

/// Starts control on threads of its own. Returns when the first snapshot can be published: every target's catalog has
/// been read, or could not be, or let itself be waited for too long.
///
/// From here on SIGTERM drains (a second one stops), SIGINT stops, SIGHUP reloads and SIGUSR2 starts a successor.
///
/// # Errors
/// When threads, signal handlers or the admin port cannot be had.
pub fn start(setup: Setup) -> io::Result<(Control, Arc<Snapshot>)> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("control")
        .enable_all()
        .build()?;
    let (events, incoming) = mpsc::channel(EVENTS_MAX);
    let (first, snapshot) = oneshot::channel();
    let run = run::RunFolder::open(&setup.run)?;
    let context = runtime.enter();
    let status = desk::spawn(setup, events.clone(), incoming, first)?;
    drop(context);
    let snapshot = snapshot
        .blocking_recv()
        .map_err(|_| io::Error::other("control ended before it had anything to publish"))?;
    Ok((Control { runtime, events, status, run }, snapshot))
}

/// How long all workers may take to begin, or to do what they are told, when they have nothing else to do.
const WORKERS_MAX: Duration = Duration::from_secs(30);

impl Control {
    /// Waits until every worker judges, or until the gateway is told to end.
    ///
    /// # Errors
    /// One has failed, or takes too long; which and why.
    pub fn workers_judge(&self) -> Result<(), String> {
        let deadline = Instant::now() + WORKERS_MAX;
        loop {
            let missing = {
                let state = self.status.state();
                if state.draining {
                    return Ok(());
                }
                let ended = |worker: &&status::WorkerState| worker.stopped || worker.failed.is_some();
                if state.workers.iter().any(|worker| ended(&worker)) {
                    return Err(String::from("a worker has failed"));
                }
                state.workers.iter().filter(|worker| worker.epoch == 0).count()
            };
            match missing {
                0 => return Ok(()),
                _ if Instant::now() > deadline => return Err(format!("{missing} workers do not begin")),
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// It has been told to end.
    pub fn is_ending(&self) -> bool {
        self.status.state().draining
    }

    /// Accepts clients on these doors, and answers on the admin port. Returns when the workers have begun to.
    ///
    /// # Errors
    /// They have not within a time that is long enough.
    pub fn open(&self, doors: Vec<Door>, admin: Option<TcpListener>) -> Result<(), String> {
        let (done, opened) = oneshot::channel();
        let event = Event::Open { doors, admin, done };
        let sent = self.events.blocking_send(event).is_ok();
        let opened = self.runtime.block_on(async { tokio::time::timeout(WORKERS_MAX, opened).await });
        match (sent, opened) {
            (true, Ok(Ok(()))) => Ok(()),
            _ => Err(String::from("the workers do not begin to accept")),
        }
    }

    /// Says that this process serves: to the service manager, and to whoever may want to take over from it one day.
    ///
    /// # Errors
    /// The socket for that cannot be had.
    pub fn announce(&self, predecessor: Option<u32>) -> io::Result<()> {
        let (done, announced) = oneshot::channel();
        let gone = |()| io::Error::other("control has ended");
        self.events.blocking_send(Event::Announce { predecessor, done }).map_err(|_| gone(()))?;
        announced.blocking_recv().map_err(|_| gone(()))?
    }

    /// Loads the configuration anew, as SIGHUP does.
    pub fn reload(&self) {
        let _ = self.events.blocking_send(Event::Reload { why: "asked", done: None });
    }

    /// A worker's thread has ended before its time: everything ends in good order, and says why.
    pub fn worker_failed(&self, worker: u32, reason: String) {
        let _ = self.events.blocking_send(Event::WorkerFailed { worker, reason });
    }

    /// Tells every worker to end its sessions as they become idle, at the latest after the configured time.
    pub fn drain(&self) {
        let _ = self.events.blocking_send(Event::Drain);
    }

    /// Tells every worker to cut its sessions now.
    pub fn stop(&self) {
        let _ = self.events.blocking_send(Event::Stop);
    }

    /// Ends control, when no worker is left.
    pub fn finish(self) {
        self.run.leave();
        self.runtime.shutdown_timeout(Duration::from_secs(2));
    }
}

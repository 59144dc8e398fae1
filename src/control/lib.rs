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
mod identity;
#[cfg(test)]
mod live_tests;
mod metrics;
pub mod policies;
mod publish;
mod recordings;
mod resolve;
mod status;
pub mod target_tls;
mod text;

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockgate_bridge::{
    Counters, DestinationTls, Inbox, Notice, Order, Outlet, Queue, SessionsMax, Snapshot, Wake,
};
use lockgate_lane::{Identity, Secret, Target};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc, oneshot};

pub use policies::Policies;

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
    /// The admin port's socket, bound and listening.
    pub admin: Option<TcpListener>,
    /// Folder of all recordings.
    pub recordings: PathBuf,
    /// Bytes of one segment file.
    pub segment_bytes: u64,
    /// Time that sessions get to end when the gateway is told to.
    pub drain_timeout: Duration,
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
    pub hosts: Vec<Host>,
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
pub struct Host {
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
    /// What proves it.
    pub password: Secret,
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
    drain_timeout: Duration,
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
    /// Accept no more and end sessions when they are idle.
    Drain,
    /// Cut every session now.
    Stop,
}

/// Starts control on threads of its own. Returns when the first snapshot can be published: every target's catalog has
/// been read, or could not be, or let itself be waited for too long.
///
/// From here on SIGTERM and SIGINT drain (a second one stops), and SIGHUP does nothing but say so.
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
    let drain_timeout = setup.drain_timeout;
    let context = runtime.enter();
    desk::spawn(setup, events.clone(), incoming, first)?;
    drop(context);
    let snapshot = snapshot
        .blocking_recv()
        .map_err(|_| io::Error::other("control ended before it had anything to publish"))?;
    Ok((Control { runtime, events, drain_timeout }, snapshot))
}

impl Control {
    /// Tells every worker to end its sessions as they become idle, at the latest after the configured time.
    pub fn drain(&self) {
        let _ = self.events.blocking_send(Event::Drain);
    }

    /// Tells every worker to cut its sessions now.
    pub fn stop(&self) {
        let _ = self.events.blocking_send(Event::Stop);
    }

    /// How long a drain may take.
    pub fn drain_timeout(&self) -> Duration {
        self.drain_timeout
    }

    /// Ends control, when no worker is left.
    pub fn finish(self) {
        self.runtime.shutdown_timeout(Duration::from_secs(2));
    }
}

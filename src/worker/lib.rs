//! The data plane: one pinned thread with its own driver, listeners, sessions and recording. With this crate no byte
//! passes between a client and a target but through a lane, and no command before its record is as safe as
//! configured.
//!
//! A [`run`] owns everything it touches: it shares no memory with another worker but the counters of
//! [`lockgate_bridge::Seats`], takes no lock, and meets control and its peers in mailboxes only. What it does is one loop (`turn.rs`):
//!
//! ```text
//!   reap the ring ─► take orders ─► feed lanes, carry out their actions ─► due timers ─► commit the recording
//!        ▲                                                                                     │
//!        └──────────────────────── submit everything in the next turn's one call ◄─────────────┘
//! ```

#![forbid(unsafe_code)]

mod accept;
mod act;
mod admission;
mod binding;
mod cancel;
mod feed;
mod holder;
mod ids;
mod keys;
mod mail;
mod orders;
mod recorder;
mod salts;
mod seating;
mod send;
mod session;
mod table;
#[cfg(test)]
mod tests;
mod throttle;
mod timers;
mod tls;
mod turn;
mod upstream;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockgate_bridge::{Counters, Inbox, Notice, Order, Outlet, ServerTls, Snapshot};
pub use lockgate_bridge::{Durability, Limits};
use lockgate_lane::ListenerRules;
use lockgate_recording::SeriesStart;
use lockgate_ring::{DriverKind, Waker};

/// Everything a worker is made of.
pub struct Setup {
    /// This worker, from 0.
    pub index: u32,
    /// How many workers there are.
    pub workers: u32,
    /// How it reaches the kernel.
    pub driver: DriverKind,
    /// How long it looks for work before it sleeps.
    pub spin: Duration,
    /// The core to run on; `None`: wherever the scheduler puts it.
    pub core: Option<usize>,
    /// Its own listening sockets (`SO_REUSEPORT`); several may have one address.
    pub listeners: Vec<ListenerSetup>,
    /// What to judge by at first.
    pub snapshot: Arc<Snapshot>,
    /// Orders from control and from other workers.
    pub inbox: Inbox<Order>,
    /// Notices to control.
    pub outlet: Outlet<Notice>,
    /// Every worker's mailbox, by index; its own is not used.
    pub peers: Vec<Outlet<Order>>,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Limits of its lanes.
    pub lane_limits: Arc<lockgate_lane::Limits>,
    /// Its own limits.
    pub limits: Limits,
    /// Where and how safely it records.
    pub recording: RecordingSetup,
    /// The process' start: the zero of every monotonic time.
    pub started: Instant,
    /// Called once, on the worker's thread, with its driver's waker, before the first turn.
    pub wake: Box<dyn FnOnce(Waker) + Send>,
}

/// One listening socket.
#[derive(Debug)]
pub struct ListenerSetup {
    /// What it listens on: sockets of one address are one listener.
    pub address: SocketAddr,
    /// Bound and listening.
    pub socket: TcpListener,
    /// What it demands.
    pub rules: Arc<ListenerRules>,
    /// TLS with clients; `None` exactly when the rules say that there is none.
    pub tls: Option<ServerTls>,
}

/// Where and how safely a worker records.
#[derive(Debug)]
pub struct RecordingSetup {
    /// Where its series goes on. Which series that is has nothing to do with the worker's index.
    pub start: SeriesStart,
    /// The first segment file.
    pub segment: Segment,
    /// When a command may be forwarded.
    pub durability: Durability,
}

/// A segment file: pre-allocated, all zero, open for writing. As in [`Order::Segment`].
#[derive(Debug)]
pub struct Segment {
    /// Its number in the series.
    pub number: u64,
    /// The file.
    pub file: OwnedFd,
    /// The same past the page cache, where the file system can.
    pub direct: Option<OwnedFd>,
    /// Where it is, for messages.
    pub path: String,
}

/// Runs a worker on the calling thread until [`Order::Stop`], or until a [`Order::Drain`] has ended; the last thing
/// it does is [`Notice::Stopped`].
///
/// # Errors
/// The driver cannot be made, a listener cannot be taken, or the driver itself fails.
pub fn run(setup: Setup) -> io::Result<()> {
    turn::run(setup)
}

//! The only words both planes know: snapshot, order, notice, mailbox, counters. With this crate neither plane can
//! wait for the other, nor change what the other reads.

pub mod counters;
pub mod mailbox;
pub mod snapshot;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use lockgate_lane::{CancelRequest, SaltRequest};

pub use counters::Counters;
pub use mailbox::{Inbox, Outlet, mailbox};
pub use snapshot::{Admission, Snapshot};

/// What a worker is told, by control or by another worker.
#[derive(Debug)]
pub enum Order {
    /// Judge by this from the top of the next turn on.
    Adopt(Arc<Snapshot>),
    /// The next segment file of this worker's recording: pre-allocated, empty, `path` for messages.
    Segment { number: u64, file: OwnedFd, path: String },
    /// No further segment can be had (disk full, say): recording stops, and with it every command.
    SegmentFailed { error: String },
    /// A CancelRequest that landed on another worker; its secret names this one. When it is done (or nothing
    /// comes of it), `CancelDone` goes back to `from`.
    Cancel { request: CancelRequest, from: u32, ticket: u64 },
    /// What became of a cancel request sent with `ticket`: its client connection may close.
    CancelDone { ticket: u64 },
    /// The answer to [`Notice::Salt`].
    Salted { ticket: u64, key: [u8; 32] },
    /// Accept no more; end sessions when they are idle, all of them at `deadline_ns` (monotonic).
    Drain { deadline_ns: u64 },
    /// Cut every session now.
    Stop,
}

/// What control is told by a worker.
#[derive(Debug)]
pub enum Notice {
    /// The worker judges by this epoch now.
    Adopted { worker: u32, epoch: u64 },
    /// The next segment is needed (asked for ahead of time).
    SegmentWanted { worker: u32, number: u64 },
    /// Writing the recording failed; the worker forwards no further command before a new segment stands.
    RecordingFailed { worker: u32, error: String },
    /// Derive a salted password; `Order::Salted` with the ticket answers.
    Salt { worker: u32, ticket: u64, request: SaltRequest },
    /// All sessions are gone and the recording is written: the worker's thread ends.
    Stopped { worker: u32 },
}

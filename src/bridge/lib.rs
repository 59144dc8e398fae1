//! The only words both planes know: snapshot, order, notice, mailbox, counters. With this crate neither plane can
//! wait for the other, nor change what the other reads.

#![forbid(unsafe_code)]

pub mod counters;
pub mod mailbox;
pub mod seats;
pub mod snapshot;

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use lockgate_lane::{CancelRequest, SaltRequest};

pub use counters::Counters;
pub use mailbox::{Inbox, LateWake, Outlet, Wake, mailbox};
pub use seats::Seats;
pub use snapshot::{Admission, Destination, DestinationTls, Place, Queue, SessionsMax, Snapshot};

/// What a worker is told, by control or by another worker.
#[derive(Debug)]
pub enum Order {
    /// Judge by this from the top of the next turn on.
    Adopt(Arc<Snapshot>),
    /// The next segment file of this worker's recording: pre-allocated and empty.
    Segment {
        /// Its number in the worker's series.
        number: u64,
        /// Open for writing.
        file: OwnedFd,
        /// Where it is, for messages.
        path: String,
    },
    /// No further segment can be had (disk full, say): recording stops, and with it every command.
    SegmentFailed {
        /// What happened, and to which file.
        error: String,
    },
    /// A CancelRequest that landed on another worker; its secret names this one. When it is done (or nothing
    /// comes of it), `CancelDone` goes back to `from`.
    Cancel {
        /// As it came.
        request: CancelRequest,
        /// The worker that the request landed on.
        from: u32,
        /// That worker's name for it.
        ticket: u64,
    },
    /// What became of a cancel request: its client connection may close.
    CancelDone {
        /// As in [`Order::Cancel`].
        ticket: u64,
    },
    /// The answer to [`Notice::Salt`].
    Salted {
        /// As in the notice.
        ticket: u64,
        /// The salted password.
        key: SaltedKey,
    },
    /// A seat has become free that somebody on this worker has waited for longest.
    SeatFree,
    /// Accept no more; end sessions when they are idle, all of them at `deadline_ns`.
    Drain {
        /// Monotonic, counted from the process' start as all times of a worker.
        deadline_ns: u64,
    },
    /// Cut every session now.
    Stop,
}

/// What control is told by a worker.
#[derive(Debug)]
pub enum Notice {
    /// The worker judges by this epoch now.
    Adopted {
        /// Who says so.
        worker: u32,
        /// The epoch of the snapshot it took.
        epoch: u64,
    },
    /// The next segment is needed (asked for ahead of time).
    SegmentWanted {
        /// Who needs it.
        worker: u32,
        /// Its number in the worker's series.
        number: u64,
    },
    /// Writing the recording failed; the worker forwards no further command before a new segment stands.
    RecordingFailed {
        /// Whose recording.
        worker: u32,
        /// What happened.
        error: String,
    },
    /// Derive a salted password; `Order::Salted` with the ticket answers.
    Salt {
        /// Who asks.
        worker: u32,
        /// The worker's name for the question.
        ticket: u64,
        /// Whose password, with what salt.
        request: SaltRequest,
    },
    /// All sessions are gone and the recording is written: the worker's thread ends.
    Stopped {
        /// Which.
        worker: u32,
    },
}

/// A salted password: as good as the password itself, so it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SaltedKey(pub [u8; 32]);

impl fmt::Debug for SaltedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaltedKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_print_no_key() {
        let order = Order::Salted { ticket: 1, key: SaltedKey([0xab; 32]) };
        assert_eq!(format!("{order:?}"), "Salted { ticket: 1, key: SaltedKey }");
    }
}

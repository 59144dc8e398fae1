//! The only words both planes know: snapshot, settings, order, notice, mailbox, counters. With this crate neither plane can
//! wait for the other, nor change what the other reads.

#![forbid(unsafe_code)]

pub mod counters;
pub mod mailbox;
pub mod seats;
pub mod settings;
pub mod snapshot;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use lockgate_lane::{CancelRequest, SaltRequest, SaltedKey};

pub use counters::Counters;
pub use mailbox::{Inbox, LateWake, Outlet, Wake, mailbox};
pub use seats::Seats;
pub use settings::{Durability, Limits, ListenerSettings, ServerTls, Settings};
pub use snapshot::{Admission, Destination, DestinationTls, Place, Queue, SessionsMax, Snapshot};

/// What a worker is told, by control or by another worker.
#[derive(Debug)]
pub enum Order {
    /// Judge by this from the top of the next turn on.
    Adopt(Arc<Snapshot>),
    /// Work under these limits and listen where they say; [`Notice::Configured`] answers.
    Configure(Box<Settings>),
    /// The next segment file of this worker's recording: pre-allocated and empty.
    Segment {
        /// Its number in the worker's series.
        number: u64,
        /// Open for writing.
        file: OwnedFd,
        /// The same past the page cache, where the file system can.
        direct: Option<OwnedFd>,
        /// Where it is, for messages.
        path: String,
    },
    /// No further segment can be had (disk full, say): recording stops, and with it every command.
    SegmentFailed {
        /// What happened, and to which file.
        error: String,
    },
    /// A CancelRequest that landed elsewhere; its secret names this worker. When it is done (or nothing comes of it),
    /// `from` is told.
    Cancel {
        /// As it came.
        request: CancelRequest,
        /// Who passed it on.
        from: CancelFrom,
        /// That one's name for it.
        ticket: u64,
    },
    /// A cancel request that this worker passed on has had what effect it could.
    CancelDone {
        /// As in [`Order::Cancel`], or in [`Notice::CancelElsewhere`].
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
    /// Another process of this gateway has sessions too, or none has any more: whether a cancel key that nobody here
    /// knows may be somebody's.
    Siblings {
        /// There is one.
        any: bool,
    },
    /// Accept no more; end sessions, all of them at `deadline_ns`. A later order of this kind may only be harder.
    Drain {
        /// Monotonic, counted from the process' start as all times of a worker.
        deadline_ns: u64,
        /// Which sessions end before that.
        ending: Ending,
    },
    /// Say that you turn: [`Notice::Pong`] answers.
    Ping {
        /// The question's name.
        number: u64,
    },
    /// Cut every session now.
    Stop,
}

/// Who passed a cancel request on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelFrom {
    /// Another worker, which waits for [`Order::CancelDone`].
    Worker(u32),
    /// Control, for another process; it waits for [`Notice::CancelDone`].
    Control,
}

/// Which sessions a drain ends before its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// None: their clients leave by themselves. Another process serves those who come.
    ByThemselves,
    /// Those that are idle.
    WhenIdle,
}

/// The worker that a cancel key's secret names: its first four bytes, big-endian, modulo the number of workers. `None`:
/// the secret is too short to be one of ours.
pub fn worker_of(secret: &[u8], workers: u32) -> Option<u32> {
    let head: [u8; 4] = secret.first_chunk().copied()?;
    u32::from_be_bytes(head).checked_rem(workers)
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
    /// The worker works under the settings it was last given.
    Configured {
        /// Who says so.
        worker: u32,
    },
    /// The answer to [`Order::Ping`].
    Pong {
        /// Who says so.
        worker: u32,
        /// As in the order.
        number: u64,
    },
    /// A cancel request whose key is nobody's here: another process may know it. [`Order::CancelDone`] answers.
    CancelElsewhere {
        /// Who asks.
        worker: u32,
        /// The worker's name for the question.
        ticket: u64,
        /// As it came.
        request: CancelRequest,
    },
    /// A cancel request that control passed on has had what effect it could.
    CancelDone {
        /// As in [`Order::Cancel`].
        ticket: u64,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_names_the_worker() {
        assert_eq!(worker_of(&[0, 0, 0, 5, 9, 9], 4), Some(1));
        assert_eq!(worker_of(&[0xff, 0xff, 0xff, 0xff], 2), Some(1));
        assert_eq!(worker_of(&[1, 2, 3], 4), None);
        assert_eq!(worker_of(&[0, 0, 0, 5], 0), None);
    }

    #[test]
    fn orders_print_no_key() {
        let order = Order::Salted { ticket: 1, key: SaltedKey([0xab; 32]) };
        assert_eq!(format!("{order:?}"), "Salted { ticket: 1, key: SaltedKey }");
    }
}

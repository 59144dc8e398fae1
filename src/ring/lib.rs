//! The kernel behind one contract: a worker that holds a [`Driver`] can not lose a completion, free a buffer
//! the kernel still owns, or block.
//!
//! # The calling contract
//!
//! One thread owns one driver: it makes it, uses it and drops it. It repeats: [`Driver::turn`] (submit what was
//! asked, wait if asked, reap), then for each [`Event`] it does what it wants with the other calls. Calls only
//! queue; nothing reaches the kernel before the next `turn` (unless the submission queue is full: then what is
//! in it goes ahead).
//!
//! * Every connection starts with [`Event::Accepted`] or [`Driver::dial`] and ends with exactly one
//!   [`Event::Closed`], which comes after [`Driver::close`] and only when nothing of it is in flight. After
//!   `Closed` the id is dead; a call with a dead id does nothing. Events that a turn had found before the call
//!   of `close` are in its list already: their leases are still to be released.
//! * An id's index serves another connection only after the turn behind the one that told `Closed`: owners may keep
//!   a table by index.
//! * Receiving starts with [`Driver::resume`]. Each [`Event::Received`] hands over a [`Lease`] on a part of a
//!   slot of the pool; the owner must give it back with [`Driver::release`]. A slot returns to the pool when its
//!   leases and all sends out of it are done. No byte that the kernel received is ever dropped: bytes that
//!   arrive while a pause is under way are still delivered, and when sending fails, [`Event::Failed`] comes
//!   after the last byte that could be received.
//! * Sends of one connection leave in the order in which they were queued, whatever mix of slots and copies.
//!   What is queued before [`Event::Dialed`] leaves after it.
//! * When the pool runs dry, or is [held](Driver::hold_pool), receiving connections stall and go on by themselves
//!   when slots return.
//!
//! * Time is the driver's: deadlines are instants of [`Driver::now`], which is the real clock's but in a simulation.
//!
//! Implementations: [`uring::Ring`] (io_uring), [`epoll::Poller`] (readiness, for hosts that forbid io_uring), and the
//! `sim` module's simulator, in memory and seeded, for tests (feature `sim`).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::{Instant, SystemTime};

mod accepting;
mod common;
mod config;
mod conns;
pub mod epoll;
mod files;
mod map;
mod outgoing;
mod pool;
mod probe;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod system;
#[cfg(test)]
mod tests;
pub mod uring;
mod waker;

pub use config::{Config, Counts, DriverKind};
pub use probe::{ProbeError, Report, probe};
pub use system::{listen_socket, map_large_blocks, pin_current_thread, raise_open_files_limit, random};
pub use waker::Waker;

/// One connection of a driver. Ids are never reused while anything may still refer to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// Place in the driver's table: small, dense, good for indexing.
    pub index: u32,
    /// Which of the connections that had this place.
    pub generation: u32,
}

/// One listener of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u32);

/// One file handed to a driver for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId(pub u32);

/// The right to the received bytes `range` of one pool slot, until [`Driver::release`].
#[derive(Debug)]
#[must_use = "a lease that is not released keeps its slot for ever"]
pub struct Lease {
    slot: u16,
    range: Range<u32>,
}

impl Lease {
    /// Bytes received.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Never true of a lease that came with [`Event::Received`].
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

/// What a turn found.
#[derive(Debug)]
pub enum Event {
    /// A peer connected. Nothing is received from it before [`Driver::resume`].
    Accepted {
        /// Where it knocked.
        listener: ListenerId,
        /// Its id from now on.
        conn: ConnId,
        /// Its address.
        peer: SocketAddr,
    },
    /// Accepting failed (out of descriptors, too many connections); the driver goes on accepting by itself.
    AcceptFailed {
        /// The listener concerned.
        listener: ListenerId,
        /// Why.
        error: io::Error,
    },
    /// An outgoing connection stands, or could not be made (then [`Driver::close`] is still due).
    Dialed {
        /// The connection that [`Driver::dial`] named.
        conn: ConnId,
        /// What the kernel said.
        result: io::Result<()>,
    },
    /// Bytes came.
    Received {
        /// From whom.
        conn: ConnId,
        /// The bytes, to be [released](Driver::release).
        lease: Lease,
    },
    /// The peer will send nothing more. What was queued to it still goes out.
    EndOfStream {
        /// The connection.
        conn: ConnId,
    },
    /// Receiving or sending failed; the connection is of no further use and waits for [`Driver::close`].
    Failed {
        /// The connection.
        conn: ConnId,
        /// What the kernel said.
        error: io::Error,
    },
    /// What was queued has fallen to the low mark after having been above the high mark.
    Drained {
        /// The connection.
        conn: ConnId,
    },
    /// Nothing of this connection is in flight any more and its descriptor is closed.
    Closed {
        /// The connection; its id is dead.
        conn: ConnId,
    },
    /// A file write is done (whole or failed); the buffer comes back for reuse.
    Written {
        /// As given to [`Driver::write`].
        token: u64,
        /// `Ok` when every byte was taken.
        result: io::Result<()>,
        /// The buffer, unchanged.
        buf: Vec<u8>,
    },
    /// A file sync is done.
    Synced {
        /// As given to [`Driver::sync`].
        token: u64,
        /// What the kernel said.
        result: io::Result<()>,
    },
    /// Somebody used the [`Waker`].
    Woken,
}

/// The contract; see the crate's documentation.
pub trait Driver {
    /// Begins to accept on a bound, listening socket.
    fn listen(&mut self, socket: TcpListener) -> io::Result<ListenerId>;
    /// Accepts no more. Whom the kernel has accepted before it heard of that still comes as [`Event::Accepted`]: the
    /// connection stands, and only its owner may end it. The socket is closed when nothing of it is in flight.
    fn stop_listening(&mut self, listener: ListenerId);
    /// Begins to connect; [`Event::Dialed`] tells. There is no time limit but the kernel's: the caller closes
    /// what takes too long.
    fn dial(&mut self, address: SocketAddr) -> io::Result<ConnId>;
    /// Receives from now on (idempotent).
    fn resume(&mut self, conn: ConnId);
    /// Stops receiving (idempotent); what is already received is still delivered.
    fn pause(&mut self, conn: ConnId);
    /// The bytes of a lease.
    fn bytes(&self, lease: &Lease) -> &[u8];
    /// The bytes of a lease, to be changed in place before they are sent.
    fn bytes_mut(&mut self, lease: &Lease) -> &mut [u8];
    /// Gives a lease back.
    fn release(&mut self, lease: Lease);
    /// Queues `range` of a lease's bytes (relative to the lease) to go out of the slot itself, without a copy, as long
    /// as all queues together keep less than half of the pool. Bytes beyond the lease's end are not there to be sent.
    fn send_slot(&mut self, conn: ConnId, lease: &Lease, range: Range<usize>);
    /// Queues a copy of `bytes`.
    fn send_copy(&mut self, conn: ConnId, bytes: &[u8]);
    /// Sends FIN when all that is queued has gone out. Nothing can be queued after it.
    fn finish(&mut self, conn: ConnId);
    /// Ends the connection: with `flush`, what is queued goes out first, then FIN, and what the peer still sends
    /// is thrown away until it ends too (a reset would destroy what it has not read yet), all up to the driver's
    /// limits on lingering; without, what is queued is discarded. No further event but [`Event::Closed`] comes.
    /// Closing again without `flush` cuts a flush short.
    fn close(&mut self, conn: ConnId, flush: bool);
    /// Bytes queued and not yet taken by the kernel.
    fn queued(&self, conn: ConnId) -> usize;
    /// Pool slots that the connection's send queue keeps from the pool.
    fn pinned(&self, conn: ConnId) -> usize;
    /// While held, no slot goes back to the kernel, so that all receiving comes to rest.
    fn hold_pool(&mut self, hold: bool);
    /// Takes a file for writing at explicit offsets.
    fn open_file(&mut self, file: OwnedFd) -> FileId;
    /// Closes the file when nothing of it is in flight.
    fn close_file(&mut self, file: FileId);
    /// Writes the bytes of `buf` from `start` on at `offset`; [`Event::Written`] with `token` tells. The file may be one
    /// that takes whole pages of aligned memory only.
    fn write(&mut self, file: FileId, offset: u64, buf: Vec<u8>, start: usize, token: u64);
    /// `fdatasync`; [`Event::Synced`] with `token` tells. It covers the writes whose [`Event::Written`] came
    /// before this call, and no others.
    fn sync(&mut self, file: FileId, token: u64);
    /// Submits what was queued, waits as told if nothing has happened yet, and appends what it found. It may
    /// return with nothing found. An error means that the driver itself is broken.
    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()>;
    /// Turns so far that slept.
    fn sleeps(&self) -> u64;
    /// A handle with which any thread ends this driver's wait.
    fn waker(&self) -> Waker;
    /// What time it is. No system call where the kernel shares its clocks with processes.
    fn now(&self) -> Moment {
        Moment { instant: Instant::now(), wall: SystemTime::now() }
    }
}

/// A moment by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Never goes back; deadlines are of this clock.
    pub instant: Instant,
    /// What a wall clock shows.
    pub wall: SystemTime,
}

/// How long a turn may wait when there is nothing to do.
#[derive(Debug, Clone, Copy)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until then at the latest.
    Until(Instant),
    /// For ever.
    Forever,
}

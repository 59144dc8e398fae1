//! What a driver is told when it is made, and what it tells of itself.

use std::fmt;
use std::io;
use std::time::Duration;

/// Sizes and limits of a driver.
#[derive(Debug, Clone)]
pub struct Config {
    /// Slots of the receive pool: as many connections can say something in one turn. In bulk only 32 of them go round,
    /// which stay in the cache of one core. At most 32,768.
    pub slots: u16,
    /// Bytes of a slot: a TLS record with its overhead fits into two, and a full slot is worth a send.
    pub slot_bytes: u32,
    /// For io_uring: entries of the submission queue, a power of two. What does not fit is submitted at once, which
    /// costs a system call and nothing else. The completion queue has four times as many. For epoll: most things
    /// that one turn hears of; the next turn hears of the others.
    pub entries: u32,
    /// Most connections at a time, accepted and dialled together; the next is refused.
    pub connections_max: u32,
    /// How long [`Driver::close`](crate::Driver::close) with flush may take before the connection is cut.
    pub linger: Duration,
    /// How many bytes of the peer's are thrown away meanwhile. One that sends more is read from no more, and is cut when
    /// it has been sent what was queued: else a result that nobody wants would cost as much as one that somebody does.
    pub linger_bytes_max: u32,
    /// Above this many queued bytes a connection counts as full: [`Event::Drained`](crate::Event::Drained) will come.
    pub queue_high_bytes: usize,
    /// [`Event::Drained`](crate::Event::Drained) comes when no more than this is queued.
    pub queue_low_bytes: usize,
    /// Receive into several slots at a time: a third less processor time in bulk. With io_uring where the kernel can
    /// (6.10 and later, tested when the ring is made), with epoll everywhere.
    pub bundles: bool,
    /// With io_uring: how long a turn that may wait looks for something to have happened before it sleeps, while that
    /// pays. Zero: not at all.
    pub spin: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            slots: 256,
            slot_bytes: 16 << 10,
            entries: 1024,
            connections_max: 20_000,
            linger: Duration::from_secs(5),
            linger_bytes_max: 1 << 20,
            queue_high_bytes: 256 << 10,
            queue_low_bytes: 64 << 10,
            bundles: true,
            spin: Duration::ZERO,
        }
    }
}

impl Config {
    /// # Errors
    /// When the sizes make no sense; the pool's are checked where it is made.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.entries == 0 || self.connections_max == 0 {
            let text = "a driver needs at least one entry and one connection";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(())
    }
}

/// What a driver holds, for logs, metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Connections whose [`Event::Closed`](crate::Event::Closed) has not come.
    pub connections: usize,
    /// Connections that wait for a slot.
    pub starved: usize,
    /// Files whose descriptor is open.
    pub files: usize,
    /// Slots under lease, queued for sending or withheld.
    pub slots_in_use: usize,
    /// Copy buffers with something in them.
    pub copy_buffers_in_use: usize,
    /// Operations that somebody else carries out: the kernel (multishot ones counted once), or the thread that
    /// writes files.
    pub in_flight: usize,
}

/// The drivers that stand on a real kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverKind {
    /// [`uring::Ring`](crate::uring::Ring).
    IoUring,
    /// [`epoll::Poller`](crate::epoll::Poller).
    Epoll,
}

impl DriverKind {
    /// The name that configuration, log and metrics use.
    pub fn name(self) -> &'static str {
        match self {
            DriverKind::IoUring => "io_uring",
            DriverKind::Epoll => "epoll",
        }
    }
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

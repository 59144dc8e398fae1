//! Ending a driver's wait from another thread, at no cost to a driver that is awake.
//!
//! One word says where the driver is: running, asleep or woken. A wake of a running driver only writes the word
//! (the driver looks at it before it sleeps); the eventfd is written once for each sleep that has to end.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const RUNNING: u8 = 0;
const ASLEEP: u8 = 1;
const WOKEN: u8 = 2;

#[derive(Debug)]
struct Bell {
    state: AtomicU8,
    /// Never read: the driver watches for writes (an edge), so the count is of no interest. At one write a
    /// nanosecond it would be full after 584 years.
    eventfd: OwnedFd,
}

/// Wakes one driver from any thread. Cheap to clone; many wakes before a turn are one
/// [`Event::Woken`](crate::Event::Woken). It may outlive its driver: then it does nothing.
#[derive(Debug, Clone)]
pub struct Waker {
    bell: Arc<Bell>,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Waker> {
        // SAFETY: eventfd takes no pointer.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor and nobody else knows it.
        let eventfd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Waker { bell: Arc::new(Bell { state: AtomicU8::new(RUNNING), eventfd }) })
    }

    /// Ends the driver's wait, or keeps it from waiting next time. What the calling thread wrote before is
    /// visible to the driver's thread when it sees the event.
    pub fn wake(&self) {
        if self.bell.state.swap(WOKEN, Ordering::AcqRel) == ASLEEP {
            self.ring();
        }
    }

    fn ring(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the pointer and the length name `one`, which outlives the call. A failure can only be a full
        // counter, and then the driver has been woken already.
        let _ = unsafe { libc::write(self.bell.eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.bell.eventfd.as_raw_fd()
    }

    /// The driver is about to wait; `false`: it must not, somebody woke it.
    pub(crate) fn sleep(&self) -> bool {
        self.bell.state.compare_exchange(RUNNING, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The driver runs (again); `true`: somebody woke it since it last asked.
    pub(crate) fn rise(&self) -> bool {
        self.bell.state.load(Ordering::Relaxed) != RUNNING
            && self.bell.state.swap(RUNNING, Ordering::AcqRel) == WOKEN
    }
}

//! The epoll instance: what is watched, and what a wait reported.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::ConnId;
use crate::conns::INDEX_MAX;

/// What a report is about, in the 64 bits that the kernel carries for each descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Conn(ConnId),
    Listener(u32),
    /// One of the eventfds: that the wait has ended is all it has to say.
    Bell,
}

const KIND_SHIFT: u32 = 60;
const INDEX_SHIFT: u32 = 32;
const CONN: u64 = 1;
const LISTENER: u64 = 2;
const BELL: u64 = 3;

impl Source {
    fn pack(self) -> u64 {
        match self {
            Source::Conn(ConnId { index, generation }) => {
                (CONN << KIND_SHIFT) | (u64::from(index & INDEX_MAX) << INDEX_SHIFT) | u64::from(generation)
            }
            Source::Listener(listener) => (LISTENER << KIND_SHIFT) | u64::from(listener),
            Source::Bell => BELL << KIND_SHIFT,
        }
    }

    fn unpack(bits: u64) -> Source {
        let low = u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0);
        match bits >> KIND_SHIFT {
            CONN => {
                let index = u32::try_from((bits >> INDEX_SHIFT) & u64::from(INDEX_MAX)).unwrap_or(0);
                Source::Conn(ConnId { index, generation: low })
            }
            LISTENER => Source::Listener(low),
            _ => Source::Bell,
        }
    }
}

/// What has become possible.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The end, an error or urgent bytes: a receive that does not fill its room has not found everything.
    pub(super) more_than_bytes: bool,
}

impl Ready {
    fn new(events: u32) -> Ready {
        let has = |flags: i32| events & flags.unsigned_abs() != 0;
        let over = has(libc::EPOLLHUP | libc::EPOLLERR);
        let more_than_bytes = over || has(libc::EPOLLRDHUP | libc::EPOLLPRI);
        Ready {
            readable: more_than_bytes || has(libc::EPOLLIN),
            writable: over || has(libc::EPOLLOUT),
            more_than_bytes,
        }
    }
}

pub(super) struct Interest {
    epoll: OwnedFd,
    reports: Box<[libc::epoll_event]>,
}

impl Interest {
    /// Waits report at most `reports_max` descriptors at a time.
    pub(super) fn new(reports_max: usize) -> io::Result<Interest> {
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor and nobody else knows it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        let nothing = libc::epoll_event { events: 0, u64: 0 };
        Ok(Interest { epoll, reports: vec![nothing; reports_max].into() })
    }

    /// Reports, from now on, whenever something new happens to the descriptor (an edge), and once what holds already.
    pub(super) fn add(&self, fd: RawFd, source: Source) -> io::Result<()> {
        let events = match source {
            Source::Conn(_) => libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLPRI,
            Source::Listener(_) | Source::Bell => libc::EPOLLIN,
        };
        let events = (events | libc::EPOLLET).cast_unsigned();
        let mut wanted = libc::epoll_event { events, u64: source.pack() };
        // SAFETY: the pointer names `wanted`, which outlives the call.
        let result =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut wanted) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Reports no more. A descriptor that is closed needs this only if somebody else has a copy of it.
    pub(super) fn remove(&self, fd: RawFd) {
        // SAFETY: the kernel reads no event for this operation. It fails only if the descriptor is not watched.
        let _ =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    /// Waits for something to happen, for ever without a timeout; returns how much has.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let room = i32::try_from(self.reports.len()).unwrap_or(i32::MAX);
        let at = self.reports.as_mut_ptr();
        // SAFETY: `at` and `room` name `reports`, which is ours to write.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), at, room, milliseconds(timeout)) };
        usize::try_from(count).or_else(|_| match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            error => Err(error),
        })
    }

    /// What the last wait reported at this place.
    pub(super) fn report(&self, at: usize) -> Option<(Source, Ready)> {
        // The kernel's structure is packed: its fields are copied out, never referred to.
        let libc::epoll_event { events, u64: source } = *self.reports.get(at)?;
        Some((Source::unpack(source), Ready::new(events)))
    }
}

impl std::fmt::Debug for Interest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interest").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

/// As epoll_wait takes it. Rounded up: a wait that ends early would be begun again and again. (The call that takes
/// nanoseconds, epoll_pwait2, is younger than kernels and profiles on which this driver is needed.)
fn milliseconds(timeout: Option<Duration>) -> i32 {
    match timeout {
        None => -1,
        Some(timeout) => i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_survive_the_kernel() {
        let conn = |index, generation| Source::Conn(ConnId { index, generation });
        for source in [
            conn(0, 0),
            conn(INDEX_MAX, u32::MAX),
            conn(9_999, 7),
            Source::Listener(0),
            Source::Listener(u32::MAX),
            Source::Bell,
        ] {
            assert_eq!(Source::unpack(source.pack()), source);
        }
    }

    #[test]
    fn waits_are_rounded_up() {
        for (timeout, expected) in [
            (None, -1),
            (Some(Duration::ZERO), 0),
            (Some(Duration::from_nanos(1)), 1),
            (Some(Duration::from_micros(1001)), 2),
            (Some(Duration::MAX), i32::MAX),
        ] {
            assert_eq!(milliseconds(timeout), expected);
        }
    }
}

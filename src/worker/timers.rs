//! Deadlines, the earliest first; one that no longer matters is found out when it comes up, not searched for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::table::Key;

/// What a deadline is about. The owner decides at the time whether it still means anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A session's lane wanted to be called.
    Lane(Key),
    /// A session must stand.
    Connect(Key),
    /// A session has waited long enough for its seat.
    Seat(Key),
    /// Whoever waits for a seat looks again.
    Seats,
    /// A client that asked to cancel has waited long enough.
    Cancel(Key),
    /// A connection that delivers a cancel request must be done.
    Courier(Key),
    /// A client may be unable to take what is queued to it.
    Strain(Key),
    /// A drain is over.
    Drain,
}

/// All deadlines of a worker, in nanoseconds of the monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(u64, Timer)>>,
}

impl Timers {
    pub(crate) fn arm(&mut self, at_ns: u64, timer: Timer) {
        self.heap.push(Reverse((at_ns, timer)));
    }

    /// The earliest deadline there is.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at_ns, _))| *at_ns)
    }

    /// A deadline that has passed.
    pub(crate) fn pop(&mut self, now_ns: u64) -> Option<Timer> {
        if self.next_ns()? > now_ns {
            return None;
        }
        self.heap.pop().map(|Reverse((_, timer))| timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_come_in_order_and_never_early() {
        let mut timers = Timers::default();
        timers.arm(30, Timer::Drain);
        let mut table = crate::table::Table::new();
        let key = table.insert(()).unwrap();
        timers.arm(10, Timer::Lane(key));
        timers.arm(20, Timer::Cancel(key));
        assert_eq!(timers.next_ns(), Some(10));
        assert_eq!(timers.pop(9), None);
        assert_eq!(timers.pop(10), Some(Timer::Lane(key)));
        assert_eq!(timers.pop(25), Some(Timer::Cancel(key)));
        assert_eq!(timers.pop(25), None);
        assert_eq!(timers.pop(30), Some(Timer::Drain));
        assert_eq!(timers.next_ns(), None);
    }
}

//! Limits on sessions that hold over all workers: a count that they share, and the order of those who wait.
//!
//! These counters are the one memory that workers share. They are atomics and no locks: nobody ever waits for another
//! worker to be done with them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Nobody waits.
const NOBODY: u64 = u64::MAX;

/// The sessions of one target or of one identity, on all workers, and who waits to become one of them.
///
/// How many there may be is the snapshot's to say: a limit that changes holds for whoever comes from then on. A worker
/// that frees a seat rouses the worker whose waiter has waited longest (see [`Seats::next`]); whoever comes to wait makes
/// that known first and then looks again whether a seat is free. One of both sees the other, so no seat stays empty
/// while somebody waits for it; that is why every access here is sequentially consistent.
#[derive(Debug)]
pub struct Seats {
    taken: AtomicU32,
    waiting: AtomicU32,
    tickets: AtomicU64,
    /// By worker: the ticket of the first that waits there.
    fronts: Box<[AtomicU64]>,
}

impl Seats {
    /// Empty seats, for that many workers.
    pub fn new(workers: usize) -> Seats {
        Seats {
            taken: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            tickets: AtomicU64::new(0),
            fronts: (0..workers).map(|_| AtomicU64::new(NOBODY)).collect(),
        }
    }

    /// Takes a seat if fewer than `max` are taken; it is to be given back with [`Seats::free`].
    pub fn take(&self, max: u32) -> bool {
        raise(&self.taken, max)
    }

    /// Gives a seat back.
    pub fn free(&self) {
        self.taken.fetch_sub(1, Ordering::SeqCst);
    }

    /// Seats taken.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::SeqCst)
    }

    /// Begins to wait if fewer than `max` do: the ticket, or nothing. It ends with [`Seats::leave`].
    pub fn wait(&self, max: u32) -> Option<u64> {
        raise(&self.waiting, max).then(|| self.tickets.fetch_add(1, Ordering::SeqCst))
    }

    /// Somebody waits no more.
    pub fn leave(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Makes known who is the first to wait on a worker.
    pub fn show(&self, worker: u32, ticket: Option<u64>) {
        if let Some(front) = usize::try_from(worker).ok().and_then(|worker| self.fronts.get(worker)) {
            front.store(ticket.unwrap_or(NOBODY), Ordering::SeqCst);
        }
    }

    /// The worker whose waiter has waited longest.
    pub fn next(&self) -> Option<u32> {
        if self.waiting() == 0 {
            return None;
        }
        let fronts = self.fronts.iter().map(|front| front.load(Ordering::SeqCst));
        let (worker, _) =
            fronts.enumerate().filter(|(_, ticket)| *ticket != NOBODY).min_by_key(|(_, ticket)| *ticket)?;
        u32::try_from(worker).ok()
    }
}

fn raise(count: &AtomicU32, max: u32) -> bool {
    let more = |count: u32| count.checked_add(1).filter(|more| *more <= max);
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn no_more_seats_are_taken_than_there_are_by_however_many_at_once() {
        let seats = Arc::new(Seats::new(4));
        let takers: Vec<_> = (0..4)
            .map(|_| {
                let seats = Arc::clone(&seats);
                thread::spawn(move || {
                    for _ in 0..10_000 {
                        if seats.take(3) {
                            assert!(seats.taken() <= 3);
                            seats.free();
                        }
                    }
                })
            })
            .collect();
        takers.into_iter().for_each(|taker| taker.join().unwrap());
        assert_eq!(seats.taken(), 0);
    }

    #[test]
    fn a_limit_that_falls_below_what_is_taken_lets_nobody_in() {
        let seats = Seats::new(1);
        assert!(seats.take(2) && seats.take(2) && !seats.take(2));
        seats.free();
        assert!(!seats.take(1), "one is still taken");
        seats.free();
        assert!(seats.take(1));
        assert!(seats.take(u32::MAX), "no limit");
    }

    #[test]
    fn whoever_came_first_is_next() {
        let seats = Seats::new(3);
        assert_eq!(seats.next(), None);
        let (first, second) = (seats.wait(2).unwrap(), seats.wait(2).unwrap());
        assert_eq!(seats.wait(2), None, "two may wait");
        seats.show(2, Some(first));
        seats.show(0, Some(second));
        assert_eq!(seats.next(), Some(2));
        seats.show(2, None);
        seats.leave();
        assert_eq!(seats.next(), Some(0));
        seats.show(0, None);
        seats.leave();
        assert_eq!((seats.next(), seats.waiting()), (None, 0));
    }
}

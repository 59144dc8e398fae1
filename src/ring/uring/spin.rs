//! Looking for something to have happened before sleeping: to be woken takes longer than most answers of a near server,
//! and who runs on the core meanwhile leaves its caches cold.

use std::time::Duration;

/// Failures in a row, counted against what went well, after which spinning rests.
const CREDIT_MAX: u32 = 8;
/// With more completions since the last wait there is no spinning: several peers are at work, so that a wait is for
/// whoever is next, and a wake-up serves more than one. Whoever runs meanwhile may be one of them.
const FEW: usize = 2;
/// Waits for which it rests.
const REST: u32 = 64;

/// Whether and how long to spin: as long as about half of it finds something.
#[derive(Debug)]
pub(super) struct Spin {
    most: Duration,
    credit: u32,
    /// Waits until it is tried again.
    rest: u32,
}

impl Spin {
    pub(super) fn new(most: Duration) -> Spin {
        Spin { most, credit: 1, rest: 0 }
    }

    /// How long to spin in this wait, with so many completions since the last.
    pub(super) fn time(&mut self, completions: usize) -> Option<Duration> {
        if completions > FEW {
            return None;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        (!self.most.is_zero()).then_some(self.most)
    }

    /// What came of it.
    pub(super) fn learn(&mut self, found: bool) {
        if found {
            self.credit = (self.credit + 1).min(CREDIT_MAX);
        } else if self.credit > 0 {
            self.credit -= 1;
        } else {
            self.rest = REST;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rests_when_it_finds_nothing_and_is_tried_again() {
        let mut spin = Spin::new(Duration::from_micros(60));
        let mut spun = 0;
        for _ in 0..10 * REST {
            if spin.time(1).is_some() {
                spun += 1;
                spin.learn(false);
            }
        }
        assert!((5..=12).contains(&spun), "{spun}");
        while spin.time(1).is_none() {}
        for _ in 0..100 {
            spin.learn(true);
            assert!(spin.time(1).is_some());
            assert!(spin.time(FEW + 1).is_none());
        }
        for _ in 0..CREDIT_MAX {
            spin.learn(false);
            assert!(spin.time(1).is_some(), "some failures after many finds");
        }
        spin.learn(false);
        assert!(spin.time(1).is_none());
        assert!(Spin::new(Duration::ZERO).time(1).is_none());
    }
}

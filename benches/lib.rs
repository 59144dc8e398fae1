//! What is measured: one table of bodies, which criterion times (`time.rs`) and callgrind counts (`main.rs`).
//!
//! A body is set up once and called many times. Every call does the same work and says whether it came out as it should,
//! so that a body which no longer does what its name says is an error and not a good figure. Inputs are made by a fixed
//! rule: no clock, no randomness, no order of a hash table is in them.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::hint::black_box;

mod codecs;
mod facts;
mod lane;
mod mask;
mod messages;
mod recording;
mod ring;
mod verdict;

/// Does its work once; the result tells whether it came out as it should.
pub type Body = Box<dyn FnMut() -> bool>;

/// What setting up gives.
pub type Setup = Result<Body, Box<dyn Error>>;

/// How much one call of a body does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// So many of what the name says.
    Items(u64),
    /// So many bytes go in.
    Bytes(u64),
}

/// A body, and what it is called.
pub struct Bench {
    /// `crate/what`
    pub name: &'static str,
    /// What a call does.
    pub work: Work,
    /// Not measured.
    pub set_up: fn() -> Setup,
}

/// Calls before the first that is measured: buffers have their size then, and caches hold what they will.
const WARM_CALLS: usize = 3;

impl Bench {
    /// A body that has been called a few times.
    ///
    /// # Errors
    /// It cannot be set up, or does not do its work.
    pub fn warm(&self) -> Setup {
        let mut body = (self.set_up)()?;
        for _ in 0..WARM_CALLS {
            self.check(body())?;
        }
        Ok(body)
    }

    /// # Errors
    /// The body said that it did not come out as it should.
    pub fn check(&self, well: bool) -> Result<(), Box<dyn Error>> {
        match well {
            true => Ok(()),
            false => Err(format!("{}: the work did not come out as it should", self.name).into()),
        }
    }
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").field("name", &self.name).field("work", &self.work).finish_non_exhaustive()
    }
}

/// All that is measured.
pub fn all() -> impl Iterator<Item = &'static Bench> {
    let parts = [
        codecs::BENCHES,
        facts::BENCHES,
        verdict::BENCHES,
        mask::BENCHES,
        recording::BENCHES,
        lane::BENCHES,
        ring::BENCHES,
    ];
    parts.into_iter().flatten()
}

/// One call of a body. Callgrind finds this function by its name and counts inside of it alone.
#[inline(never)]
pub fn measured(body: &mut Body) -> bool {
    black_box(body())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_body_does_its_work() {
        for bench in all() {
            let mut body = bench.warm().unwrap_or_else(|error| panic!("{}: {error}", bench.name));
            assert!(measured(&mut body), "{}", bench.name);
        }
    }

    #[test]
    fn names_are_unique_and_have_two_parts() {
        let names: BTreeSet<_> = all().map(|bench| bench.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(names.iter().all(|name| name.split('/').count() == 2));
    }
}

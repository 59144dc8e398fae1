//! Session ids and the randomness that lanes are given.

use lockgate_recording::SessionId;
use zeroize::Zeroize;

/// Bytes of entropy a lane gets.
pub(crate) const ENTROPY: usize = 96;

/// Lanes served by one call to the operating system.
const LANES: usize = 32;

/// Where random bytes come from: the operating system's generator, or a seed in tests.
pub(crate) type Source = fn(&mut [u8]) -> std::io::Result<()>;

/// Random bytes fetched ahead; each is handed out once and wiped here.
pub(crate) struct Entropy {
    source: Source,
    pool: Box<[u8; ENTROPY * LANES]>,
    used: usize,
}

impl Entropy {
    pub(crate) fn new(source: Source) -> Entropy {
        Entropy { source, pool: Box::new([0; ENTROPY * LANES]), used: ENTROPY * LANES }
    }

    /// The next bytes. `Err`: the operating system gave none, and then nothing may go on.
    pub(crate) fn take(&mut self) -> std::io::Result<[u8; ENTROPY]> {
        if self.used >= self.pool.len() {
            (self.source)(self.pool.as_mut_slice())?;
            self.used = 0;
        }
        let mut taken = [0; ENTROPY];
        if let Some(next) = self.pool.get_mut(self.used..self.used + ENTROPY) {
            taken.copy_from_slice(next);
            next.zeroize();
        }
        self.used += ENTROPY;
        Ok(taken)
    }
}

impl Drop for Entropy {
    fn drop(&mut self) {
        self.pool.zeroize();
    }
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy")
    }
}

/// Makes session ids: 24 random bits for this start of this worker, 8 bits of the worker's number, 32 bits of a
/// counter from 1. Two starts of one worker share ids with a chance of one in 16 million each; after four billion
/// sessions new random bits are drawn.
#[derive(Debug)]
pub(crate) struct Ids {
    source: Source,
    boot: u64,
    worker: u64,
    counter: u32,
}

impl Ids {
    pub(crate) fn new(source: Source, worker: u32) -> std::io::Result<Ids> {
        let worker = u64::from(worker) & 0xff;
        Ok(Ids { source, boot: boot(source)?, worker, counter: 0 })
    }

    pub(crate) fn next(&mut self) -> std::io::Result<SessionId> {
        self.counter = match self.counter.checked_add(1) {
            Some(counter) => counter,
            None => {
                self.boot = boot(self.source)?;
                1
            }
        };
        Ok(SessionId(self.boot << 40 | self.worker << 32 | u64::from(self.counter)))
    }
}

fn boot(source: Source) -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    // Three of eight bytes: the rest stays zero.
    if let Some(random) = bytes.get_mut(5..) {
        source(random)?;
    }
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(bytes: &mut [u8]) -> std::io::Result<()> {
        for (byte, value) in bytes.iter_mut().zip((1..=250u8).cycle()) {
            *byte = value;
        }
        Ok(())
    }

    #[test]
    fn ids_tell_start_worker_and_count() {
        let mut ids = Ids::new(counting, 3).unwrap();
        assert_eq!(ids.next().unwrap(), SessionId(0x0102_0303_0000_0001));
        assert_eq!(ids.next().unwrap(), SessionId(0x0102_0303_0000_0002));
        ids.counter = u32::MAX;
        assert_eq!(ids.next().unwrap(), SessionId(0x0102_0303_0000_0001));
    }

    #[test]
    fn entropy_is_handed_out_once_and_wiped() {
        let mut entropy = Entropy::new(counting);
        let first = entropy.take().unwrap();
        let second = entropy.take().unwrap();
        assert_ne!(first, second);
        assert!(entropy.pool[..2 * ENTROPY].iter().all(|byte| *byte == 0));
        for _ in 2..=LANES {
            entropy.take().unwrap();
        }
        assert_eq!(entropy.used, ENTROPY, "fetched again");
    }

    #[test]
    fn without_randomness_nothing_goes_on() {
        fn none(_: &mut [u8]) -> std::io::Result<()> {
            Err(std::io::Error::other("no entropy"))
        }
        assert!(Entropy::new(none).take().is_err());
        assert!(Ids::new(none, 0).is_err());
    }
}

//! What may go wrong, and how often.

use super::random::Random;

/// How a simulated world behaves. Chances are in a thousand, of the thing that they name; times in nanoseconds.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Bytes arrive after at most this long; each connection has its own share of it.
    pub latency_ns_max: u64,
    /// What the driver was asked to do ends after at most this long.
    pub completion_ns_max: u64,
    /// A turn takes at most this long.
    pub turn_ns_max: u64,
    /// Of connections: every transfer is of one byte.
    pub bytewise: u32,
    /// Of transfers: less is moved than could be.
    pub split: u32,
    /// Of turns: they end with nothing found.
    pub idle_turn: u32,
    /// Of transfers: they take up to [`Faults::stall_ns_max`].
    pub stall: u32,
    /// The longest stall.
    pub stall_ns_max: u64,
    /// Of connections: they are reset after some bytes.
    pub reset: u32,
    /// Of connections: after some bytes nothing arrives any more, and nobody is told.
    pub silence: u32,
    /// Resets and silences come within this many bytes.
    pub trouble_bytes_max: u64,
    /// Of accepts: there is no descriptor for it.
    pub accept: u32,
    /// Of dials: they cannot be begun.
    pub dial: u32,
    /// Of dials: nobody listens.
    pub refusal: u32,
    /// Of dials: they take up to [`Faults::slow_dial_ns_max`].
    pub slow_dial: u32,
    /// The longest that a dial takes.
    pub slow_dial_ns_max: u64,
    /// Of writes: they fail, after some bytes.
    pub write: u32,
    /// Of writes: they take up to [`Faults::slow_write_ns_max`].
    pub slow_write: u32,
    /// The longest that a write takes.
    pub slow_write_ns_max: u64,
    /// Of syncs: they fail.
    pub sync: u32,
}

impl Faults {
    /// Everything in one piece and at once.
    pub fn none() -> Faults {
        Faults {
            latency_ns_max: 0,
            completion_ns_max: 0,
            turn_ns_max: 1_000,
            bytewise: 0,
            split: 0,
            idle_turn: 0,
            stall: 0,
            stall_ns_max: 0,
            reset: 0,
            silence: 0,
            trouble_bytes_max: 0,
            accept: 0,
            dial: 0,
            refusal: 0,
            slow_dial: 0,
            slow_dial_ns_max: 0,
            write: 0,
            slow_write: 0,
            slow_write_ns_max: 0,
            sync: 0,
        }
    }

    /// Nothing fails, but all that the contract leaves open is made use of: transfers of any length, any order, any
    /// time. How much of each, the seed draws.
    pub fn calm(random: &mut Random) -> Faults {
        let latencies_ns = [0, 2_000, 50_000, 2_000_000];
        let mut draw = |of: &[u64]| of.get(random.length(0, of.len() - 1)).copied().unwrap_or(0);
        Faults {
            latency_ns_max: draw(&latencies_ns),
            completion_ns_max: draw(&latencies_ns),
            turn_ns_max: draw(&[1_000, 50_000, 1_000_000]).max(1),
            bytewise: u32::try_from(draw(&[0, 0, 100, 300])).unwrap_or(0),
            split: u32::try_from(draw(&[0, 200, 600, 900])).unwrap_or(0),
            idle_turn: u32::try_from(draw(&[0, 20, 100])).unwrap_or(0),
            stall: u32::try_from(draw(&[0, 2, 20])).unwrap_or(0),
            stall_ns_max: 300_000_000,
            slow_dial: 100,
            slow_dial_ns_max: 500_000_000,
            slow_write: u32::try_from(draw(&[0, 0, 100])).unwrap_or(0),
            slow_write_ns_max: 200_000_000,
            ..Faults::none()
        }
    }

    /// A calm world whose network breaks.
    #[must_use]
    pub fn with_network(self, random: &mut Random) -> Faults {
        let mut draw = |most: u64| u32::try_from(random.below(most)).unwrap_or(0);
        Faults {
            reset: draw(250),
            silence: draw(60),
            accept: draw(150),
            dial: draw(60),
            refusal: draw(150),
            stall_ns_max: 20_000_000_000,
            slow_dial_ns_max: 20_000_000_000,
            trouble_bytes_max: if random.chance(500) { 1_500 } else { 60_000 },
            ..self
        }
    }

    /// A world whose disk fails.
    #[must_use]
    pub fn with_disk(self, random: &mut Random) -> Faults {
        let mut draw = |most: u64| u32::try_from(random.below(most)).unwrap_or(0);
        Faults {
            write: draw(120),
            slow_write: draw(80),
            sync: draw(300),
            slow_write_ns_max: if random.chance(300) { 25_000_000_000 } else { 500_000_000 },
            ..self
        }
    }
}

//! How much of a client's work is done in one turn, so that a flood of it holds nobody else up.

use lockgate_recording::Time;

use crate::Outbox;

/// Units of work in a turn's share: some fifty commands, or five hundred messages that are none, or 512 KiB of COPY
/// data. That is a fraction of a millisecond, and enough that the turn itself costs little beside it.
const SHARE_UNITS: u64 = 512;
/// A command is judged and recorded, and its text may have to be parsed.
const COMMAND_UNITS: u64 = 9;
/// What is recorded is copied, hashed and written: a microsecond for this much.
const RECORDED_BYTES_UNIT: usize = 1024;

/// What is left of a turn's share.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// When it was last refilled: the moment of that turn.
    at_ns: u64,
    left: u64,
}

/// How far the counts were.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    commands: u64,
    recorded: usize,
}

impl Work {
    pub(super) fn of(out: &Outbox) -> Work {
        Work { commands: out.counts.commands, recorded: out.records.len() }
    }
}

impl Share {
    /// A call in a turn: if it is the first of it, there is a new share.
    pub(super) fn refill_at(&mut self, now: Time) {
        if now.monotonic_ns != self.at_ns {
            *self = Share { at_ns: now.monotonic_ns, left: SHARE_UNITS };
        }
    }

    pub(super) fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// One message was dealt with; `before` is how far the counts were then.
    pub(super) fn spend(&mut self, before: Work, out: &Outbox) {
        let commands = out.counts.commands.saturating_sub(before.commands);
        let recorded = out.records.len().saturating_sub(before.recorded) / RECORDED_BYTES_UNIT;
        let units = 1 + commands * (COMMAND_UNITS - 1) + u64::try_from(recorded).unwrap_or(u64::MAX);
        self.left = self.left.saturating_sub(units);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(monotonic_ns: u64) -> Time {
        Time { monotonic_ns, ..Time::default() }
    }

    #[test]
    fn a_share_lasts_a_turn() {
        let mut out = Outbox::default();
        let mut share = Share::default();
        share.refill_at(at(7));
        let mut commands = 0;
        while !share.is_spent() {
            let before = Work::of(&out);
            out.counts.commands += 1;
            share.spend(before, &out);
            commands += 1;
        }
        assert_eq!(commands, SHARE_UNITS.div_ceil(COMMAND_UNITS));
        share.refill_at(at(7));
        assert!(share.is_spent(), "it is still the same turn");
        share.refill_at(at(8));
        assert!(!share.is_spent());
    }

    #[test]
    fn what_is_recorded_counts() {
        let mut out = Outbox::default();
        let mut share = Share::default();
        share.refill_at(at(1));
        let before = Work::of(&out);
        let stream = vec![0; 4 << 20];
        let copied = lockgate_recording::Record::Copied { command: 1, inward: true, stream: &stream };
        out.records.push(lockgate_recording::SessionId(1), at(1), &copied);
        share.spend(before, &out);
        assert!(share.is_spent());
    }
}

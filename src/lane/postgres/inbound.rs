//! Bytes of one side that could not be dealt with yet.
//!
//! `released ≤ decided ≤ received`: `start` marks what was released of `carry`; what is not decided stays.

use std::ops::Range;

use crate::{Outbox, Side};

/// Undecided bytes of one side, in order.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    carry: Vec<u8>,
    start: usize,
}

/// Where the bytes that a step looks at stand.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// In the current input, from this offset on: they may be forwarded without a copy.
    Input(usize),
    /// In the carry: they are copied out.
    Carry,
}

/// What a step made of the bytes it saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// This many are decided (more than none).
    Consumed(usize),
    /// Nothing can be said before this many are there.
    Need(usize),
    /// Nothing more is taken for now.
    Blocked,
}

impl Inbound {
    /// Bytes held.
    pub(super) fn len(&self) -> usize {
        self.carry.len().saturating_sub(self.start)
    }

    /// Runs `step` over what is held and then over `input` until it wants more than there is; keeps the rest.
    pub(super) fn drive(&mut self, input: &[u8], mut step: impl FnMut(&[u8], Origin) -> Step) {
        let mut offset = 0;
        while self.len() > 0 {
            match step(self.carry.get(self.start..).unwrap_or_default(), Origin::Carry) {
                Step::Consumed(count) => self.release(count),
                Step::Need(wanted) if offset < input.len() => {
                    let take = wanted.saturating_sub(self.len()).max(1);
                    let end = offset.saturating_add(take).min(input.len());
                    self.carry.extend_from_slice(input.get(offset..end).unwrap_or_default());
                    offset = end;
                }
                Step::Need(_) => return,
                Step::Blocked => break,
            }
        }
        while self.len() == 0 && offset < input.len() {
            match step(input.get(offset..).unwrap_or_default(), Origin::Input(offset)) {
                Step::Consumed(count) => offset = offset.saturating_add(count),
                Step::Need(_) | Step::Blocked => break,
            }
        }
        self.carry.extend_from_slice(input.get(offset..).unwrap_or_default());
    }

    fn release(&mut self, count: usize) {
        self.start = self.start.saturating_add(count);
        if self.start >= self.carry.len() {
            self.carry.clear();
            self.start = 0;
            if self.carry.capacity() > KEPT_BYTES_MAX {
                self.carry = Vec::new();
            }
        } else if self.start > self.carry.len() / 2 {
            self.carry.drain(..self.start);
            self.start = 0;
        }
    }
}

/// An empty carry keeps at most this much memory: what a session costs while nothing happens.
const KEPT_BYTES_MAX: usize = 4096;

/// Passes a range of what a step sees on to a side as it is.
pub(super) fn relay(out: &mut Outbox, to: Side, bytes: &[u8], origin: Origin, range: Range<usize>) {
    match origin {
        Origin::Input(base) => {
            out.forward(to, base.saturating_add(range.start)..base.saturating_add(range.end));
        }
        Origin::Carry => {
            let bytes = bytes.get(range).unwrap_or_default();
            out.send(to, |arena| arena.extend_from_slice(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A toy protocol: a length byte, then that many bytes.
    fn messages(cuts: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut inbound = Inbound::default();
        let mut seen = Vec::new();
        for cut in cuts {
            inbound.drive(cut, |bytes, _| match bytes.first() {
                None => Step::Need(1),
                Some(&length) => {
                    let total = usize::from(length) + 1;
                    if bytes.len() < total {
                        return Step::Need(total);
                    }
                    seen.push(bytes[1..total].to_vec());
                    Step::Consumed(total)
                }
            });
        }
        assert_eq!(inbound.len(), 0);
        seen
    }

    #[test]
    fn every_split_gives_the_same_messages() {
        let stream = b"\x03abc\x00\x01d\x05efghi";
        let whole = messages(&[stream]);
        assert_eq!(whole.len(), 4);
        for a in 0..=stream.len() {
            for b in a..=stream.len() {
                assert_eq!(messages(&[&stream[..a], &stream[a..b], &stream[b..]]), whole, "{a} {b}");
            }
        }
    }

    #[test]
    fn what_is_blocked_is_kept_in_order() {
        let mut inbound = Inbound::default();
        inbound.drive(b"ab", |_, _| Step::Blocked);
        inbound.drive(b"cd", |_, _| Step::Blocked);
        let mut seen = Vec::new();
        inbound.drive(b"ef", |bytes, _| {
            seen.push(bytes[0]);
            Step::Consumed(1)
        });
        assert_eq!(seen, b"abcdef");
    }
}

//! The receive pool: slots with a count of leases and sends. A slot that nobody holds is overwritten, so that
//! whoever still reads it shows.

use std::ops::Range;

use super::random::Random;
use crate::Lease;

/// What a slot holds that is nobody's.
const POISON: u8 = 0xdd;

pub(super) struct Pool {
    slots: Vec<Slot>,
    free: Vec<u16>,
    held: bool,
    withheld: Vec<u16>,
    slot_bytes: usize,
}

struct Slot {
    bytes: Box<[u8]>,
    refs: u32,
}

impl Pool {
    pub(super) fn new(slots: u16, slot_bytes: u32) -> Pool {
        let slot_bytes = usize::try_from(slot_bytes).unwrap_or(1).max(1);
        let slot = || Slot { bytes: vec![POISON; slot_bytes].into(), refs: 0 };
        Pool {
            slots: (0..slots).map(|_| slot()).collect(),
            free: (0..slots).collect(),
            held: false,
            withheld: Vec::new(),
            slot_bytes,
        }
    }

    pub(super) fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    pub(super) fn available(&self) -> usize {
        self.free.len()
    }

    pub(super) fn in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// A free slot, any of them, with one reference.
    pub(super) fn take(&mut self, random: &mut Random) -> Option<u16> {
        let last = self.free.len().checked_sub(1)?;
        let slot = self.free.swap_remove(random.length(0, last));
        self.retain(slot);
        Some(slot)
    }

    /// Puts received bytes into a slot; the lease is on them.
    pub(super) fn fill(&mut self, slot: u16, start: usize, bytes: impl Iterator<Item = u8>) -> Lease {
        let mut end = start;
        let room = self.slots.get_mut(usize::from(slot)).and_then(|slot| slot.bytes.get_mut(start..));
        for (to, from) in room.into_iter().flatten().zip(bytes) {
            *to = from;
            end += 1;
        }
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Lease { slot, range: place(start)..place(end) }
    }

    pub(super) fn retain(&mut self, slot: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(slot)) {
            slot.refs += 1;
        }
    }

    /// `false`: nobody held it.
    pub(super) fn release(&mut self, number: u16) -> bool {
        let Some(slot) = self.slots.get_mut(usize::from(number)).filter(|slot| slot.refs > 0) else {
            return false;
        };
        slot.refs -= 1;
        if slot.refs == 0 {
            slot.bytes.fill(POISON);
            if self.held {
                self.withheld.push(number);
            } else {
                self.free.push(number);
            }
        }
        true
    }

    pub(super) fn hold(&mut self, hold: bool) {
        self.held = hold;
        if !hold {
            self.free.append(&mut self.withheld);
        }
    }

    pub(super) fn part(&self, slot: u16, range: &Range<u32>) -> &[u8] {
        let Some(slot) = self.slots.get(usize::from(slot)).filter(|slot| slot.refs > 0) else { return &[] };
        slot.bytes.get(places(range)).unwrap_or_default()
    }

    pub(super) fn part_mut(&mut self, slot: u16, range: &Range<u32>) -> &mut [u8] {
        let slot = self.slots.get_mut(usize::from(slot)).filter(|slot| slot.refs > 0);
        slot.and_then(|slot| slot.bytes.get_mut(places(range))).unwrap_or_default()
    }
}

fn places(range: &Range<u32>) -> Range<usize> {
    let place = |at: u32| usize::try_from(at).unwrap_or(usize::MAX);
    place(range.start)..place(range.end)
}

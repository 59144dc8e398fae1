//! The receive pool: slots that are either to be filled or to be read, never both.
//!
//! Who fills them is decided once. With [`Pool::register`] it is the kernel, in the order in which it got them: a slot
//! is its own from [`Pool::provide`] until a completion names it ([`Pool::take`]). With [`Pool::open`] it is the driver
//! itself ([`Pool::vectors`], [`Pool::take_next`]), the slot that came back last first, for it is the likeliest to be
//! in the cache. While slots come back full one after the other only a few go round: bulk then stays in the cache, a
//! turn has an end, and whoever says little is not behind megabytes. A slot that is taken has a reference count (leases and queued sends) of at least one until the last
//! [`Pool::release`] gives it back. So a count above zero is the proof, checked by every access, that nobody writes
//! into the slot.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::Lease;
use crate::map::Map;

/// The only buffer group of a ring.
pub(crate) const GROUP: u16 = 0;

#[derive(Debug)]
pub(crate) struct Pool {
    /// Buffer ring first, then the slots.
    map: Map,
    slots_at: usize,
    slot_bytes: u32,
    ring_mask: u16,
    /// The kernel fills the slots.
    registered: bool,
    /// Where the next slot is provided; shown to the kernel with each one.
    tail: u16,
    /// Which slot stands where in the ring, to follow a bundle from its first slot to the next. In a pool that is not
    /// the kernel's: the free slots, the next one last.
    order: Box<[u16]>,
    place: Box<[u16]>,
    refs: Box<[u32]>,
    /// Slots that can be filled, less those in completions not yet reaped.
    available: u32,
    held: bool,
    fill: Fill,
    /// Free, and not to be filled for now.
    withheld: Vec<u16>,
}

const PAGE_BYTES: usize = 4096;

/// As many slots go round while bulk is received.
const BULK_SLOTS: u32 = 32;
/// Bulk begins when so many more slots came full than not, and is over when as many more came otherwise.
const FULL_MAX: u32 = 64;

/// How full slots come back.
#[derive(Debug, Default)]
struct Fill {
    /// From 0, nearly empty, to [`FULL_MAX`].
    full: u32,
    bulk: bool,
}

impl Fill {
    /// Whether bulk is over now.
    fn note(&mut self, full: bool) -> bool {
        self.full = if full { (self.full + 1).min(FULL_MAX) } else { self.full.saturating_sub(1) };
        let bulk = if self.bulk { self.full > 0 } else { self.full == FULL_MAX };
        std::mem::replace(&mut self.bulk, bulk) && !bulk
    }
}

impl Pool {
    pub(crate) fn new(slots: u16, slot_bytes: u32) -> io::Result<Pool> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "the pool's size is out of range");
        let ring_entries = slots.checked_next_power_of_two().filter(|n| *n <= 1 << 15).ok_or_else(invalid)?;
        if slots == 0 || slot_bytes == 0 {
            return Err(invalid());
        }
        let ring_bytes = usize::from(ring_entries) * size_of::<BufRingEntry>();
        let slots_at = ring_bytes.next_multiple_of(PAGE_BYTES);
        let slot_len = usize::try_from(slot_bytes).map_err(|_| invalid())?;
        let bytes = usize::from(slots).checked_mul(slot_len).ok_or_else(invalid)? + slots_at;
        Ok(Pool {
            map: Map::new(bytes)?,
            slots_at,
            slot_bytes,
            ring_mask: ring_entries - 1,
            registered: false,
            tail: 0,
            order: vec![0; usize::from(ring_entries)].into(),
            place: vec![0; usize::from(slots)].into(),
            refs: vec![0; usize::from(slots)].into(),
            available: 0,
            held: false,
            fill: Fill::default(),
            withheld: Vec::with_capacity(usize::from(slots)),
        })
    }

    /// Shows the buffer ring to the kernel and fills it.
    pub(crate) fn register(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        let Some(base) = self.map.at(0, self.slots_at) else {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        };
        let address = base.as_ptr().expose_provenance() as u64;
        // SAFETY: the mapping begins with the ring's entries, is page-aligned, and outlives the kernel's use: the
        // ring is closed before the pool is dropped.
        unsafe { submitter.register_buf_ring_with_flags(address, self.ring_mask + 1, GROUP, 0) }?;
        self.registered = true;
        self.open();
        Ok(())
    }

    /// All slots can be filled from now on.
    pub(crate) fn open(&mut self) {
        self.withheld.extend((0..self.slots()).rev());
        self.refill();
    }

    /// Gives the memory up for good: the kernel may still write into it.
    pub(crate) fn leak(&mut self) {
        self.map.leak();
    }

    pub(crate) fn slots(&self) -> u16 {
        u16::try_from(self.refs.len()).unwrap_or(u16::MAX)
    }

    pub(crate) fn slot_bytes(&self) -> u32 {
        self.slot_bytes
    }

    /// Slots that can be filled now.
    pub(crate) fn available(&self) -> u32 {
        self.available
    }

    /// Slots that nobody holds, and that are in no completion not yet reaped.
    #[cfg(test)]
    pub(crate) fn free(&self) -> u16 {
        u16::try_from(self.withheld.len()).unwrap_or(u16::MAX)
            + u16::try_from(self.available).unwrap_or(u16::MAX)
    }

    /// Slots that somebody holds a lease on or sends from.
    pub(crate) fn in_use(&self) -> usize {
        self.refs.iter().filter(|refs| **refs > 0).count()
    }

    /// As many slots may be there to be filled.
    fn available_max(&self) -> u32 {
        match (self.held, self.fill.bulk) {
            (true, _) => 0,
            (false, true) => BULK_SLOTS,
            (false, false) => u32::MAX,
        }
    }

    /// Has withheld slots filled, as far as that is wanted: in each turn, for others may be kept for long.
    pub(crate) fn refill(&mut self) {
        while self.available < self.available_max()
            && let Some(slot) = self.withheld.pop()
        {
            self.provide(slot);
        }
    }

    /// The slot can be filled from here on.
    fn provide(&mut self, slot: u16) {
        if !self.registered {
            if let Some(next) = usize::try_from(self.available).ok().and_then(|at| self.order.get_mut(at)) {
                *next = slot;
                self.available += 1;
            }
            return;
        }
        let place = self.tail & self.ring_mask;
        let Some(address) = self.address(slot) else { return };
        let entry_at = usize::from(place) * size_of::<BufRingEntry>();
        let Some(entry) = self.map.at(entry_at, size_of::<BufRingEntry>()) else { return };
        // SAFETY: the entry lies inside the mapping and is aligned (16 bytes from a page's start); the kernel only
        // reads entries, and only below the tail, which does not include this one yet.
        let entry = unsafe { &mut *entry.cast::<BufRingEntry>().as_ptr() };
        entry.set_addr(address.as_ptr().expose_provenance() as u64);
        entry.set_len(self.slot_bytes);
        entry.set_bid(slot);
        if let Some(order) = self.order.get_mut(usize::from(place)) {
            *order = slot;
        }
        if let Some(at) = self.place.get_mut(usize::from(slot)) {
            *at = place;
        }
        self.tail = self.tail.wrapping_add(1);
        self.available += 1;
        self.publish();
    }

    fn publish(&mut self) {
        let Some(base) = self.map.at(0, size_of::<BufRingEntry>()) else { return };
        // SAFETY: the pointer is the ring's first entry, as the function asks.
        let tail = unsafe { BufRingEntry::tail(base.cast().as_ptr()) };
        // SAFETY: the tail is an aligned u16 inside the mapping, which kernel and we access atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// A completion says that this slot was filled with `len` bytes: it is ours, with one reference.
    pub(crate) fn take(&mut self, slot: u16, len: u32) {
        if let Some(refs) = self.refs.get_mut(usize::from(slot)) {
            debug_assert_eq!(*refs, 0);
            *refs += 1;
            self.available = self.available.saturating_sub(1);
        }
        if self.fill.note(len == self.slot_bytes) {
            self.refill();
        }
    }

    /// Names the memory of the slots that are to be filled next, as many as there are; returns how many. What is
    /// received into them is to be [taken](Pool::take_next) before anything else is asked of the pool.
    pub(crate) fn vectors(&self, vectors: &mut [libc::iovec]) -> usize {
        let free = usize::try_from(self.available).ok().and_then(|free| self.order.get(..free));
        let mut count = 0;
        for (vector, slot) in vectors.iter_mut().zip(free.unwrap_or_default().iter().rev()) {
            let Some(address) = self.address(*slot) else { break };
            vector.iov_base = address.as_ptr().cast();
            vector.iov_len = usize::try_from(self.slot_bytes).unwrap_or(0);
            count += 1;
        }
        count
    }

    /// The next slot has been filled with `len` bytes: it is taken, with one reference.
    pub(crate) fn take_next(&mut self, len: u32) -> Option<u16> {
        let next = usize::try_from(self.available.checked_sub(1)?).ok()?;
        let slot = *self.order.get(next)?;
        self.take(slot, len);
        Some(slot)
    }

    /// The slot that a bundle fills after this one.
    pub(crate) fn following(&self, slot: u16) -> Option<u16> {
        let place = self.place.get(usize::from(slot))?.wrapping_add(1) & self.ring_mask;
        self.order.get(usize::from(place)).copied()
    }

    pub(crate) fn lease(slot: u16, len: u32) -> Lease {
        Lease { slot, range: 0..len }
    }

    pub(crate) fn retain(&mut self, slot: u16) {
        if let Some(refs) = self.refs.get_mut(usize::from(slot)) {
            *refs += 1;
        }
    }

    pub(crate) fn release(&mut self, slot: u16) {
        let Some(refs) = self.refs.get_mut(usize::from(slot)) else { return };
        debug_assert!(*refs > 0, "released more often than retained");
        if *refs == 0 {
            return;
        }
        *refs -= 1;
        if *refs > 0 {
            return;
        }
        if self.available < self.available_max() {
            self.provide(slot);
        } else {
            self.withheld.push(slot);
        }
    }

    pub(crate) fn hold(&mut self, hold: bool) {
        self.held = hold;
        self.refill();
    }

    fn address(&self, slot: u16) -> Option<NonNull<u8>> {
        let len = usize::try_from(self.slot_bytes).ok()?;
        self.map.at(self.slots_at + usize::from(slot) * len, len)
    }

    /// Where a range of a slot lies; the bytes there are stable while the slot has references.
    pub(crate) fn part(&self, slot: u16, range: &Range<u32>) -> Option<(NonNull<u8>, usize)> {
        if self.refs.get(usize::from(slot)).is_none_or(|refs| *refs == 0)
            || range.start > range.end
            || range.end > self.slot_bytes
        {
            return None;
        }
        let start = usize::try_from(range.start).ok()?;
        let len = usize::try_from(range.end - range.start).ok()?;
        // SAFETY: start ≤ slot_bytes, so the result is inside the slot or one past it.
        Some((unsafe { self.address(slot)?.add(start) }, len))
    }

    pub(crate) fn bytes(&self, lease: &Lease) -> &[u8] {
        let Some((at, len)) = self.part(lease.slot, &lease.range) else { return &[] };
        // SAFETY: `part` made sure that the range lies in a slot with references, which the kernel does not write
        // into; whoever writes goes through `bytes_mut`, which borrows the pool exclusively.
        unsafe { std::slice::from_raw_parts(at.as_ptr(), len) }
    }

    pub(crate) fn bytes_mut(&mut self, lease: &Lease) -> &mut [u8] {
        let Some((at, len)) = self.part(lease.slot, &lease.range) else { return &mut [] };
        // SAFETY: as in `bytes`, and the exclusive borrow of the pool keeps every other slice of it away. The
        // kernel may read these bytes for a send under way; it copes with any content.
        unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_out_of_reach_when_it_is_to_be_filled() {
        let mut pool = Pool::new(4, 64).unwrap();
        let lease = Pool::lease(2, 10);
        assert_eq!(pool.bytes(&lease), b"", "nobody holds it");
        pool.take(2, 10);
        assert_eq!(pool.bytes(&lease).len(), 10);
        pool.bytes_mut(&lease).fill(7);
        assert_eq!(pool.bytes(&lease), [7; 10]);
        assert_eq!(pool.bytes(&Lease { slot: 2, range: 60..65 }), b"", "beyond the slot");
        assert_eq!(pool.bytes(&Lease { slot: 4, range: 0..1 }), b"", "beyond the pool");
        pool.release(2);
        assert_eq!(pool.bytes(&lease), b"");
        assert_eq!(pool.bytes_mut(&lease), b"");
    }

    #[test]
    fn a_held_pool_keeps_what_comes_back() {
        let mut pool = Pool::new(4, 64).unwrap();
        for slot in 0..4 {
            pool.provide(slot);
        }
        pool.take(0, 64);
        pool.retain(0);
        pool.hold(true);
        pool.release(0);
        assert_eq!((pool.available(), pool.in_use()), (3, 1));
        pool.release(0);
        assert_eq!((pool.available(), pool.in_use()), (3, 0));
        pool.hold(false);
        assert_eq!((pool.available(), pool.in_use()), (4, 0));
    }

    #[test]
    fn bundles_follow_the_order_of_the_ring() {
        let mut pool = Pool::new(4, 64).unwrap();
        pool.registered = true;
        for slot in [2, 0, 3, 1] {
            pool.provide(slot);
        }
        let mut slots = vec![2];
        while slots.len() < 5 {
            slots.extend(pool.following(*slots.last().unwrap()));
        }
        assert_eq!(slots, [2, 0, 3, 1, 2]);
    }

    #[test]
    fn a_pool_of_ones_own_gives_out_what_came_back_last() {
        let mut pool = Pool::new(4, 64).unwrap();
        pool.open();
        let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 3];
        assert_eq!(pool.vectors(&mut vectors), 3);
        let first = pool.take_next(1).unwrap();
        assert_eq!(vectors[0].iov_base, pool.address(first).unwrap().as_ptr().cast());
        let second = pool.take_next(1).unwrap();
        assert_eq!(vectors[1].iov_base, pool.address(second).unwrap().as_ptr().cast());
        pool.release(first);
        assert_eq!(pool.take_next(1), Some(first));
        pool.take_next(1).unwrap();
        pool.take_next(1).unwrap();
        assert_eq!((pool.take_next(1), pool.vectors(&mut vectors)), (None, 0), "all are taken");
        pool.release(second);
        assert_eq!((pool.available(), pool.take_next(1)), (1, Some(second)));
    }

    #[test]
    fn in_bulk_few_slots_go_round() {
        let mut pool = Pool::new(100, 64).unwrap();
        pool.open();
        let mut taken: Vec<u16> = (0..100).map_while(|_| pool.take_next(64)).collect();
        assert_eq!((taken.len(), pool.available()), (100, 0), "what is there may be filled");
        taken.drain(..).for_each(|slot| pool.release(slot));
        assert_eq!((pool.available(), pool.in_use()), (BULK_SLOTS, 0));
        let kept: Vec<_> = (0..BULK_SLOTS).map(|_| pool.take_next(64).unwrap()).collect();
        pool.refill();
        assert_eq!(pool.available(), BULK_SLOTS, "others go round for those that are kept");
        kept.into_iter().for_each(|slot| pool.release(slot));
        for _ in 0..FULL_MAX {
            let slot = pool.take_next(63).unwrap();
            pool.release(slot);
        }
        assert_eq!((pool.available(), pool.in_use()), (100, 0), "bulk is over, and all are there again");
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for (slots, slot_bytes) in [(0, 64), (4, 0), (u16::MAX, 64), (u16::MAX, u32::MAX)] {
            assert!(Pool::new(slots, slot_bytes).is_err());
        }
    }
}

//! What waits to be sent: per connection a queue of pieces, each a part of a pool slot or of a copy buffer.
//!
//! Pieces and copy buffers of all connections live in two shared tables with free lists, so that an idle
//! connection holds none and a busy one allocates none once the tables have grown.

use std::ops::Range;

use crate::Lease;
use crate::pool::Pool;

/// Most pieces of one gather send; the kernel allows 1024. A result of many masked values is made of many.
pub(crate) const GATHER_MAX: usize = 512;

/// Copy buffers for short messages: with one message queued on each of 10,000 connections, 20 MiB.
const CHUNK_SMALL_BYTES: usize = 2 << 10;
/// Copy buffers for long or many messages: one TLS record.
const CHUNK_LARGE_BYTES: usize = 16 << 10;
/// Free copy buffers kept of each size: 0.5 MiB and 4 MiB. What a burst needed beyond goes back to the heap.
const CHUNKS_KEPT: usize = 256;

/// A part of a slot this short that follows copied bytes is copied to them: that costs less than a piece more in
/// the gather, and a row with a few masked values becomes one piece.
const JOIN_BYTES_MAX: u32 = 256;

/// All queues together keep at most the pool divided by this: so that there is always something to receive into,
/// however many peers do not read.
const PINNED_PART: u16 = 2;

/// No piece.
const NONE: u32 = u32::MAX;

/// Pieces of one slot, or of one copy buffer, may follow one another in a queue, with others between them. The
/// last of them is the `owner`: it gives the slot's reference, or the copy buffer, back when it leaves.
#[derive(Debug, Clone, Copy)]
enum Source {
    Slot { slot: u16, owner: bool },
    Chunk { chunk: u32, owner: bool },
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    next: u32,
    offset: u32,
    len: u32,
    source: Source,
}

/// One connection's queue. The first `in_flight` pieces are the kernel's to read: they stay as they are until
/// [`Outgoing::taken`].
#[derive(Debug)]
pub(crate) struct Queue {
    head: u32,
    tail: u32,
    /// The last piece out of a slot, for as long as it is queued.
    last_slot: u32,
    /// The last piece out of a copy buffer, for as long as it is queued.
    last_chunk: u32,
    pieces: u32,
    in_flight: u32,
    pinned: u32,
    bytes: usize,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue {
            head: NONE,
            tail: NONE,
            last_slot: NONE,
            last_chunk: NONE,
            pieces: 0,
            in_flight: 0,
            pinned: 0,
            bytes: 0,
        }
    }
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces == 0
    }

    pub(crate) fn is_sending(&self) -> bool {
        self.in_flight > 0
    }

    /// Bytes queued, those in flight included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Slots kept from the pool.
    pub(crate) fn pinned(&self) -> u32 {
        self.pinned
    }

    fn tail_is_free(&self) -> bool {
        self.pieces > self.in_flight
    }
}

/// What to send next.
pub(crate) enum Gathered {
    Nothing,
    One(*const u8, u32),
    Many(usize),
}

#[derive(Debug)]
pub(crate) struct Outgoing {
    pieces: Vec<Piece>,
    free_pieces: u32,
    chunks: Chunks,
    /// Slots that queues keep from the pool.
    pinned: u32,
}

impl Default for Outgoing {
    fn default() -> Outgoing {
        Outgoing { pieces: Vec::new(), free_pieces: NONE, chunks: Chunks::default(), pinned: 0 }
    }
}

impl Outgoing {
    /// Copy buffers in use.
    pub(crate) fn chunks_in_use(&self) -> usize {
        self.chunks.in_use()
    }

    /// Queues a part of a slot; a copy of it, where that is cheaper or too many slots are kept already.
    pub(crate) fn push_slot(&mut self, queue: &mut Queue, pool: &mut Pool, slot: u16, range: Range<u32>) {
        let len = range.end.saturating_sub(range.start);
        if len == 0 {
            return;
        }
        let joins = len <= JOIN_BYTES_MAX && queue.tail == queue.last_chunk && queue.tail != NONE;
        if joins || self.pinned >= u32::from(pool.slots() / PINNED_PART) {
            self.push_copy(queue, pool.bytes(&Lease { slot, range }));
            return;
        }
        queue.bytes += usize::try_from(len).unwrap_or(0);
        if queue.tail_is_free() && self.extend_slot(queue.tail, slot, range.start, len) {
            return;
        }
        let mut joined = false;
        if let Some(last) = self.piece_mut(queue.last_slot)
            && let Source::Slot { slot: before, owner } = &mut last.source
            && *before == slot
        {
            *owner = false;
            joined = true;
        }
        if !joined {
            pool.retain(slot);
            queue.pinned += 1;
            self.pinned += 1;
        }
        let source = Source::Slot { slot, owner: true };
        queue.last_slot = self.append(queue, Piece { next: NONE, offset: range.start, len, source });
    }

    fn extend_slot(&mut self, tail: u32, slot: u16, offset: u32, len: u32) -> bool {
        match self.piece_mut(tail) {
            Some(piece)
                if matches!(piece.source, Source::Slot { slot: same, .. } if same == slot)
                    && piece.offset + piece.len == offset =>
            {
                piece.len += len;
                true
            }
            _ => false,
        }
    }

    /// Queues a copy of `bytes`: behind the last copied bytes if there is room, else in fresh buffers. Bytes that
    /// the kernel reads are not touched, for they lie before the buffer's filled end.
    pub(crate) fn push_copy(&mut self, queue: &mut Queue, bytes: &[u8]) {
        queue.bytes += bytes.len();
        let mut large = queue.last_chunk != NONE;
        let mut rest = self.extend_chunk(queue, bytes);
        while !rest.is_empty() {
            large |= rest.len() > CHUNK_SMALL_BYTES;
            let chunk = self.chunks.take(large);
            let added = self.chunks.fill(chunk, 0, rest);
            self.append_chunk(queue, chunk, 0, added);
            rest = rest.get(added..).unwrap_or_default();
        }
    }

    fn extend_chunk<'a>(&mut self, queue: &mut Queue, bytes: &'a [u8]) -> &'a [u8] {
        let last_is_free = queue.last_chunk == queue.tail && queue.tail_is_free();
        let Some(last) = self.pieces.get_mut(place(queue.last_chunk)) else { return bytes };
        let Source::Chunk { chunk, owner } = &mut last.source else { return bytes };
        let (chunk, filled) = (*chunk, last.offset + last.len);
        let added = self.chunks.fill(chunk, place(filled), bytes);
        if last_is_free {
            last.len += u32::try_from(added).unwrap_or(0);
        } else if added > 0 {
            *owner = false;
            self.append_chunk(queue, chunk, filled, added);
        }
        bytes.get(added..).unwrap_or_default()
    }

    fn append_chunk(&mut self, queue: &mut Queue, chunk: u32, offset: u32, len: usize) {
        let len = u32::try_from(len).unwrap_or(0);
        let source = Source::Chunk { chunk, owner: true };
        queue.last_chunk = self.append(queue, Piece { next: NONE, offset, len, source });
    }

    /// Marks as in flight what fits into one send, and tells where it lies.
    pub(crate) fn gather(&mut self, queue: &mut Queue, pool: &Pool, vectors: &mut [libc::iovec]) -> Gathered {
        let mut at = queue.head;
        let mut count = 0;
        for vector in vectors.iter_mut().take(GATHER_MAX) {
            let Some(piece) = self.piece(at) else { break };
            let Some((base, len)) = self.locate(piece, pool) else { break };
            vector.iov_base = base.cast_mut().cast();
            vector.iov_len = len;
            count += 1;
            at = piece.next;
        }
        queue.in_flight = u32::try_from(count).unwrap_or(0);
        match (count, vectors.first(), self.piece(queue.head)) {
            (0, ..) | (_, None, _) | (_, _, None) => Gathered::Nothing,
            (1, Some(first), Some(piece)) => Gathered::One(first.iov_base.cast_const().cast(), piece.len),
            _ => Gathered::Many(count),
        }
    }

    fn locate(&self, piece: &Piece, pool: &Pool) -> Option<(*const u8, usize)> {
        match piece.source {
            Source::Slot { slot, .. } => {
                let (at, len) = pool.part(slot, &(piece.offset..piece.offset + piece.len))?;
                Some((at.as_ptr().cast_const(), len))
            }
            Source::Chunk { chunk, .. } => {
                let start = place(piece.offset);
                let bytes = self.chunks.get(chunk)?.get(start..start.checked_add(place(piece.len))?)?;
                Some((bytes.as_ptr(), bytes.len()))
            }
        }
    }

    /// The send in flight is over; the kernel took `bytes` of it.
    pub(crate) fn taken(&mut self, queue: &mut Queue, pool: &mut Pool, bytes: usize) {
        queue.in_flight = 0;
        let mut rest = bytes;
        while rest > 0
            && let Some(piece) = self.piece_mut(queue.head)
        {
            let len = usize::try_from(piece.len).unwrap_or(0);
            if rest < len {
                let part = u32::try_from(rest).unwrap_or(0);
                piece.offset += part;
                piece.len -= part;
                queue.bytes -= rest;
                return;
            }
            rest -= len;
            self.pop(queue, pool);
        }
    }

    /// Throws away what the kernel does not read: everything, or everything behind the send in flight.
    pub(crate) fn discard(&mut self, queue: &mut Queue, pool: &mut Pool) {
        let mut kept = Queue { in_flight: queue.in_flight, ..Queue::default() };
        let mut rest = std::mem::take(queue);
        while let Some(piece) = self.piece(rest.head).copied() {
            let stays = kept.pieces < kept.in_flight;
            if stays {
                self.keep(&mut rest, &mut kept, piece);
            } else {
                self.hand_down(&kept, rest.head, piece.source);
                self.pop(&mut rest, pool);
            }
        }
        *queue = kept;
        queue.pinned = rest.pinned;
    }

    /// Moves the first piece from one queue to the end of the other.
    fn keep(&mut self, from: &mut Queue, to: &mut Queue, piece: Piece) {
        let at = from.head;
        from.head = piece.next;
        from.pieces -= 1;
        if let Some(piece) = self.piece_mut(at) {
            piece.next = NONE;
        }
        match self.piece_mut(to.tail) {
            Some(tail) => tail.next = at,
            None => to.head = at,
        }
        to.tail = at;
        to.pieces += 1;
        to.bytes += place(piece.len);
        match piece.source {
            Source::Slot { .. } => to.last_slot = at,
            Source::Chunk { .. } => to.last_chunk = at,
        }
    }

    /// A piece is about to go. If an earlier one of its run stays, that one becomes the owner.
    fn hand_down(&mut self, kept: &Queue, going: u32, source: Source) {
        let heir = match source {
            Source::Slot { owner: true, .. } => kept.last_slot,
            Source::Chunk { owner: true, .. } => kept.last_chunk,
            _ => return,
        };
        let Some(heir) = self.piece_mut(heir) else { return };
        match (&mut heir.source, source) {
            (Source::Slot { slot, owner }, Source::Slot { slot: same, .. }) if *slot == same && !*owner => {
                *owner = true;
            }
            (Source::Chunk { chunk, owner }, Source::Chunk { chunk: same, .. })
                if *chunk == same && !*owner =>
            {
                *owner = true;
            }
            _ => return,
        }
        if let Some(Piece { source: Source::Slot { owner, .. } | Source::Chunk { owner, .. }, .. }) =
            self.piece_mut(going)
        {
            *owner = false;
        }
    }

    fn piece(&self, at: u32) -> Option<&Piece> {
        self.pieces.get(place(at))
    }

    fn piece_mut(&mut self, at: u32) -> Option<&mut Piece> {
        self.pieces.get_mut(place(at))
    }

    fn append(&mut self, queue: &mut Queue, piece: Piece) -> u32 {
        let at = self.free_pieces;
        let at = match self.piece_mut(at) {
            Some(free) => {
                let next_free = free.next;
                *free = piece;
                self.free_pieces = next_free;
                at
            }
            None => {
                self.pieces.push(piece);
                u32::try_from(self.pieces.len() - 1).unwrap_or(NONE)
            }
        };
        match self.piece_mut(queue.tail) {
            Some(tail) => tail.next = at,
            None => queue.head = at,
        }
        queue.tail = at;
        queue.pieces += 1;
        at
    }

    /// Takes the first piece out of the queue.
    fn pop(&mut self, queue: &mut Queue, pool: &mut Pool) {
        let at = queue.head;
        let free = self.free_pieces;
        let Some(piece) = self.piece_mut(at) else { return };
        let gone = *piece;
        piece.next = free;
        self.free_pieces = at;
        queue.head = gone.next;
        queue.pieces -= 1;
        queue.bytes -= usize::try_from(gone.len).unwrap_or(0);
        if queue.pieces == 0 {
            queue.tail = NONE;
        }
        if queue.last_slot == at {
            queue.last_slot = NONE;
        }
        if queue.last_chunk == at {
            queue.last_chunk = NONE;
        }
        match gone.source {
            Source::Slot { slot, owner: true } => {
                queue.pinned -= 1;
                self.pinned -= 1;
                pool.release(slot);
            }
            Source::Chunk { chunk, owner: true } => self.chunks.give_back(chunk),
            Source::Slot { owner: false, .. } | Source::Chunk { owner: false, .. } => {}
        }
    }
}

/// An index from a table's number; [`NONE`] finds nothing.
fn place(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Copy buffers by number; their memory does not move while the table grows.
#[derive(Debug, Default)]
struct Chunks {
    all: Vec<Box<[u8]>>,
    free_small: Vec<u32>,
    free_large: Vec<u32>,
    /// Numbers without a buffer.
    vacant: Vec<u32>,
}

impl Chunks {
    fn in_use(&self) -> usize {
        self.all.len() - self.free_small.len() - self.free_large.len() - self.vacant.len()
    }

    fn get(&self, chunk: u32) -> Option<&[u8]> {
        self.all.get(place(chunk)).map(|chunk| &**chunk)
    }

    fn take(&mut self, large: bool) -> u32 {
        let (free, bytes) = if large {
            (&mut self.free_large, CHUNK_LARGE_BYTES)
        } else {
            (&mut self.free_small, CHUNK_SMALL_BYTES)
        };
        if let Some(chunk) = free.pop() {
            return chunk;
        }
        let fresh = vec![0; bytes].into_boxed_slice();
        if let Some(chunk) = self.vacant.pop()
            && let Some(empty) = self.all.get_mut(place(chunk))
        {
            *empty = fresh;
            return chunk;
        }
        self.all.push(fresh);
        u32::try_from(self.all.len() - 1).unwrap_or(NONE)
    }

    /// Copies as much of `bytes` as fits behind the first `filled` bytes; returns how much.
    fn fill(&mut self, chunk: u32, filled: usize, bytes: &[u8]) -> usize {
        let Some(chunk) = self.all.get_mut(place(chunk)) else { return 0 };
        let Some(room) = chunk.get_mut(filled..) else { return 0 };
        let len = room.len().min(bytes.len());
        if let (Some(to), Some(from)) = (room.get_mut(..len), bytes.get(..len)) {
            to.copy_from_slice(from);
        }
        len
    }

    fn give_back(&mut self, chunk: u32) {
        let Some(buf) = self.all.get_mut(place(chunk)) else { return };
        let free = if buf.len() == CHUNK_LARGE_BYTES { &mut self.free_large } else { &mut self.free_small };
        if free.len() < CHUNKS_KEPT {
            free.push(chunk);
        } else {
            *buf = Box::default();
            self.vacant.push(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rig {
        out: Outgoing,
        pool: Pool,
        queue: Queue,
        vectors: Vec<libc::iovec>,
        expected: Vec<u8>,
        got: Vec<u8>,
    }

    impl Rig {
        /// A pool whose first four slots are leased and full of different bytes.
        fn new() -> Rig {
            Rig::with_slots(8)
        }

        fn with_slots(slots: u16) -> Rig {
            let mut pool = Pool::new(slots, 4096).unwrap();
            for slot in 0..4_u16 {
                pool.take(slot, 4096);
                for (at, byte) in pool.bytes_mut(&Pool::lease(slot, 4096)).iter_mut().enumerate() {
                    *byte = u8::try_from((at * 7 + usize::from(slot) * 61) % 251).unwrap();
                }
            }
            let vector = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
            Rig {
                out: Outgoing::default(),
                pool,
                queue: Queue::default(),
                vectors: vec![vector; GATHER_MAX],
                expected: Vec::new(),
                got: Vec::new(),
            }
        }

        fn slot(&mut self, slot: u16, range: Range<u32>) {
            let lease = Lease { slot, range: range.clone() };
            self.expected.extend(self.pool.bytes(&lease));
            self.out.push_slot(&mut self.queue, &mut self.pool, slot, range);
        }

        fn copy(&mut self, bytes: &[u8]) {
            self.expected.extend(bytes);
            self.out.push_copy(&mut self.queue, bytes);
        }

        /// What the next send would carry.
        fn gather(&mut self) -> Vec<u8> {
            let mut bytes = Vec::new();
            match self.out.gather(&mut self.queue, &self.pool, &mut self.vectors) {
                Gathered::Nothing => {}
                // SAFETY: the piece is queued, so its memory is there.
                Gathered::One(at, len) => bytes.extend(unsafe { std::slice::from_raw_parts(at, place(len)) }),
                Gathered::Many(count) => {
                    for vector in &self.vectors[..count] {
                        let at = vector.iov_base.cast_const().cast::<u8>();
                        // SAFETY: as above.
                        bytes.extend(unsafe { std::slice::from_raw_parts(at, vector.iov_len) });
                    }
                }
            }
            bytes
        }

        fn taken(&mut self, bytes: &[u8]) {
            self.got.extend(bytes);
            self.out.taken(&mut self.queue, &mut self.pool, bytes.len());
        }

        fn finish(mut self) {
            while !self.queue.is_empty() {
                let bytes = self.gather();
                assert!(!bytes.is_empty());
                self.taken(&bytes);
            }
            assert!(self.got == self.expected);
            self.assert_empty();
        }

        fn assert_empty(mut self) {
            assert_eq!((self.queue.bytes(), self.queue.pinned(), self.out.pinned), (0, 0, 0));
            assert_eq!(self.out.chunks_in_use(), 0);
            for slot in 0..4 {
                self.pool.release(slot);
            }
            assert_eq!(self.pool.in_use(), 0);
        }
    }

    /// A mix of everything, taken by the kernel in portions of up to `portion` bytes, with new pieces in between.
    fn check_order(portion: usize) {
        let mut rig = Rig::new();
        for n in 0..400_u32 {
            let slot = u16::try_from(n / 3 % 4).unwrap();
            let start = n * 13 % 3000;
            rig.slot(slot, start..start + [1, 200, 257, 1000][place(n % 4)]);
            rig.copy(&vec![
                u8::try_from(n % 256).unwrap();
                place([0, 1, 5, 3000, 20_000, 100][place(n % 6)])
            ]);
            if n % 5 == 0 {
                let bytes = rig.gather();
                rig.copy(b"behind the send in flight");
                rig.slot(slot, 0..300);
                let portion = bytes.len().min(portion);
                rig.taken(&bytes[..portion]);
            }
        }
        rig.finish();
    }

    #[test]
    fn order_survives_any_portion() {
        for portion in [0, 1, 7, 255, 2048, 16_384, 100_000, usize::MAX] {
            check_order(portion);
        }
    }

    #[test]
    fn parts_of_one_slot_pin_it_once() {
        let mut rig = Rig::new();
        for start in (0..4096).step_by(512) {
            rig.slot(0, start..start + 300);
            rig.copy(b"masked");
        }
        assert_eq!(rig.queue.pinned(), 1);
        rig.slot(1, 0..300);
        rig.slot(0, 0..300);
        assert_eq!(rig.queue.pinned(), 3, "one run each");
        rig.finish();
    }

    #[test]
    fn half_of_the_pool_is_never_kept() {
        let mut rig = Rig::with_slots(6);
        for slot in 0..4 {
            rig.slot(slot, 0..4096);
        }
        assert_eq!(rig.queue.pinned(), 3);
        let mut other = Queue::default();
        rig.out.push_slot(&mut other, &mut rig.pool, 3, 0..4096);
        assert_eq!((other.pinned(), other.bytes()), (0, 4096), "it counts whoever keeps them");
        rig.out.discard(&mut other, &mut rig.pool);
        let bytes = rig.gather();
        rig.taken(&bytes[..4096]);
        rig.slot(3, 0..4096);
        assert_eq!(rig.queue.pinned(), 3);
        rig.finish();
    }

    #[test]
    fn neighbours_become_one_piece() {
        let mut rig = Rig::new();
        rig.slot(0, 0..300);
        rig.slot(0, 300..4096);
        assert_eq!(rig.queue.pieces, 1);
        rig.copy(b"a");
        rig.copy(b"b");
        rig.slot(1, 0..JOIN_BYTES_MAX);
        rig.copy(b"c");
        assert_eq!(rig.queue.pieces, 2, "a short part joins the copies around it");
        rig.slot(1, 0..JOIN_BYTES_MAX + 1);
        assert_eq!(rig.queue.pieces, 3);
        rig.finish();
    }

    #[test]
    fn copies_beside_a_send_in_flight_share_its_buffer() {
        let mut rig = Rig::new();
        for n in 0..500_u32 {
            rig.copy(&n.to_le_bytes());
            let bytes = rig.gather();
            rig.copy(b"x");
            rig.taken(&bytes);
            assert!(rig.out.chunks_in_use() <= 2);
        }
        rig.finish();
    }

    #[test]
    fn discarding_keeps_what_is_in_flight_and_nothing_else() {
        for in_flight in [false, true] {
            for first in 0..3 {
                let mut rig = Rig::new();
                for part in 0..first {
                    rig.slot(0, part * 1000..part * 1000 + 500);
                    rig.copy(b"in flight, perhaps");
                }
                let bytes = if in_flight { rig.gather() } else { Vec::new() };
                rig.slot(0, 3000..3500);
                rig.copy(b"behind");
                rig.slot(1, 0..500);
                rig.out.discard(&mut rig.queue, &mut rig.pool);
                assert_eq!(rig.queue.bytes(), bytes.len());
                assert_eq!(rig.queue.pinned(), u32::from(!bytes.is_empty()));
                rig.taken(&bytes);
                assert!(rig.queue.is_empty());
                rig.assert_empty();
            }
        }
    }

    #[test]
    fn a_burst_of_copies_goes_back_to_the_heap() {
        let mut rig = Rig::new();
        rig.copy(&vec![1; 3 * CHUNKS_KEPT * CHUNK_LARGE_BYTES]);
        assert_eq!(rig.out.chunks_in_use(), 3 * CHUNKS_KEPT);
        let sizes = |rig: &Rig| rig.out.chunks.all.iter().map(|chunk| chunk.len()).sum::<usize>();
        rig.out.discard(&mut rig.queue, &mut rig.pool);
        assert_eq!(sizes(&rig), CHUNKS_KEPT * CHUNK_LARGE_BYTES);
        rig.copy(&vec![1; 2 * CHUNKS_KEPT * CHUNK_LARGE_BYTES]);
        rig.out.discard(&mut rig.queue, &mut rig.pool);
        assert_eq!(sizes(&rig), CHUNKS_KEPT * CHUNK_LARGE_BYTES);
        assert_eq!(rig.out.chunks.all.len(), 3 * CHUNKS_KEPT, "numbers are used again");
    }
}

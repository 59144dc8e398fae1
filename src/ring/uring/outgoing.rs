//! What waits to be sent: per connection a queue of pieces, each a part of a pool slot or of a copy buffer.
//!
//! Pieces and copy buffers of all connections live in two shared tables with free lists, so that an idle
//! connection holds none and a busy one allocates none once the tables have grown.

use std::ops::Range;

use super::kernel::GATHER_MAX;
use super::pool::Pool;

/// Copy buffers for short messages: with one message queued on each of 10,000 connections, 20 MiB.
const CHUNK_SMALL_BYTES: usize = 2 << 10;
/// Copy buffers for long or many messages: one TLS record.
const CHUNK_LARGE_BYTES: usize = 16 << 10;
/// Free copy buffers kept of each size: 0.5 MiB and 4 MiB. What a burst needed beyond goes back to the heap.
const CHUNKS_KEPT: usize = 256;

/// No piece.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
enum Source {
    /// `owner`: this piece holds the run's reference on the slot (see [`Outgoing::push_slot`]).
    Slot {
        slot: u16,
        owner: bool,
    },
    Chunk(u32),
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
pub(super) struct Queue {
    head: u32,
    tail: u32,
    /// The last piece out of a slot, for as long as it is queued.
    last_slot: u32,
    pieces: u32,
    in_flight: u32,
    pinned: u32,
    bytes: usize,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { head: NONE, tail: NONE, last_slot: NONE, pieces: 0, in_flight: 0, pinned: 0, bytes: 0 }
    }
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces == 0
    }

    pub(super) fn is_sending(&self) -> bool {
        self.in_flight > 0
    }

    /// Bytes queued, those in flight included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Slots kept from the pool.
    pub(super) fn pinned(&self) -> u32 {
        self.pinned
    }

    fn tail_is_free(&self) -> bool {
        self.pieces > self.in_flight
    }
}

/// What to send next.
pub(super) enum Gathered {
    Nothing,
    One(*const u8, u32),
    Many(usize),
}

#[derive(Debug)]
pub(super) struct Outgoing {
    pieces: Vec<Piece>,
    free_pieces: u32,
    chunks: Chunks,
}

impl Default for Outgoing {
    fn default() -> Outgoing {
        Outgoing { pieces: Vec::new(), free_pieces: NONE, chunks: Chunks::default() }
    }
}

impl Outgoing {
    /// Copy buffers in use.
    pub(super) fn chunks_in_use(&self) -> usize {
        self.chunks.in_use()
    }

    /// Queues a part of a slot. Parts of one slot that follow one another (with copies between them or not) hold
    /// one reference together, which the last of them gives back.
    pub(super) fn push_slot(&mut self, queue: &mut Queue, pool: &mut Pool, slot: u16, range: Range<u32>) {
        let len = range.end.saturating_sub(range.start);
        if len == 0 {
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

    /// Queues a copy of `bytes`: into the last copy buffer if the kernel does not read it, else into new ones.
    pub(super) fn push_copy(&mut self, queue: &mut Queue, bytes: &[u8]) {
        let mut rest = bytes;
        if queue.tail_is_free() {
            rest = self.extend_chunk(queue.tail, rest);
        }
        while !rest.is_empty() {
            let large = rest.len() > CHUNK_SMALL_BYTES || queue.tail_is_free();
            let chunk = self.chunks.take(large);
            let len = self.chunks.fill(chunk, 0, rest);
            let Ok(piece_len) = u32::try_from(len) else { return };
            self.append(queue, Piece { next: NONE, offset: 0, len: piece_len, source: Source::Chunk(chunk) });
            rest = rest.get(len..).unwrap_or_default();
        }
        queue.bytes += bytes.len();
    }

    fn extend_chunk<'a>(&mut self, tail: u32, bytes: &'a [u8]) -> &'a [u8] {
        let Some(&Piece { offset, len, source: Source::Chunk(chunk), .. }) = self.piece(tail) else {
            return bytes;
        };
        let filled = usize::try_from(offset + len).unwrap_or(usize::MAX);
        let added = self.chunks.fill(chunk, filled, bytes);
        if let Some(piece) = self.piece_mut(tail) {
            piece.len += u32::try_from(added).unwrap_or(0);
        }
        bytes.get(added..).unwrap_or_default()
    }

    /// Marks as in flight what fits into one send, and tells where it lies.
    pub(super) fn gather(
        &mut self,
        queue: &mut Queue,
        pool: &Pool,
        vectors: &mut [libc::iovec; GATHER_MAX],
    ) -> Gathered {
        let mut at = queue.head;
        let mut count = 0;
        for vector in vectors.iter_mut() {
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
            Source::Chunk(chunk) => {
                let start = usize::try_from(piece.offset).ok()?;
                let len = usize::try_from(piece.len).ok()?;
                let bytes = self.chunks.get(chunk)?.get(start..start.checked_add(len)?)?;
                Some((bytes.as_ptr(), bytes.len()))
            }
        }
    }

    /// The send in flight is over; the kernel took `bytes` of it.
    pub(super) fn taken(&mut self, queue: &mut Queue, pool: &mut Pool, bytes: usize) {
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

    /// Throws away what the kernel does not read: all, or all behind the send in flight.
    pub(super) fn discard(&mut self, queue: &mut Queue, pool: &mut Pool) {
        if queue.in_flight == 0 {
            while queue.pieces > 0 {
                self.pop(queue, pool);
            }
            return;
        }
        let mut last = queue.head;
        for _ in 1..queue.in_flight {
            last = self.piece(last).map_or(NONE, |piece| piece.next);
        }
        let Some(kept) = self.piece_mut(last) else { return };
        let mut behind = Queue {
            head: std::mem::replace(&mut kept.next, NONE),
            tail: queue.tail,
            pieces: queue.pieces - queue.in_flight,
            ..Queue::default()
        };
        queue.tail = last;
        queue.pieces = queue.in_flight;
        self.keep_reference(queue, &behind);
        while behind.pieces > 0 {
            let bytes = self.piece(behind.head).map_or(0, |piece| piece.len);
            behind.bytes = usize::try_from(bytes).unwrap_or(0);
            behind.pinned = queue.pinned;
            queue.bytes -= behind.bytes;
            self.pop(&mut behind, pool);
            queue.pinned = behind.pinned;
        }
        queue.last_slot = NONE;
    }

    /// A run of pieces of one slot may be cut in two: the reference that the last one held moves to the part that
    /// stays.
    fn keep_reference(&mut self, queue: &Queue, behind: &Queue) {
        let mut stays = None;
        let mut at = queue.head;
        while let Some(piece) = self.piece(at) {
            if let Source::Slot { slot, .. } = piece.source {
                stays = Some((at, slot, piece.source));
            }
            at = piece.next;
        }
        let Some((last, slot, Source::Slot { owner: false, .. })) = stays else { return };
        let mut at = behind.head;
        while let Some(piece) = self.piece_mut(at) {
            if let Source::Slot { slot: same, owner } = &mut piece.source
                && *same == slot
                && *owner
            {
                *owner = false;
                break;
            }
            at = piece.next;
        }
        if let Some(piece) = self.piece_mut(last) {
            piece.source = Source::Slot { slot, owner: true };
        }
    }

    fn piece(&self, at: u32) -> Option<&Piece> {
        self.pieces.get(usize::try_from(at).ok()?)
    }

    fn piece_mut(&mut self, at: u32) -> Option<&mut Piece> {
        self.pieces.get_mut(usize::try_from(at).ok()?)
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
        match gone.source {
            Source::Slot { slot, owner: true } => {
                queue.pinned -= 1;
                pool.release(slot);
            }
            Source::Slot { owner: false, .. } => {}
            Source::Chunk(chunk) => self.chunks.give_back(chunk),
        }
    }
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
        self.all.get(usize::try_from(chunk).ok()?).map(|chunk| &**chunk)
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
            && let Some(place) = usize::try_from(chunk).ok().and_then(|at| self.all.get_mut(at))
        {
            *place = fresh;
            return chunk;
        }
        self.all.push(fresh);
        u32::try_from(self.all.len() - 1).unwrap_or(NONE)
    }

    /// Copies as much of `bytes` as fits behind the first `filled` bytes; returns how much.
    fn fill(&mut self, chunk: u32, filled: usize, bytes: &[u8]) -> usize {
        let Some(chunk) = usize::try_from(chunk).ok().and_then(|at| self.all.get_mut(at)) else { return 0 };
        let Some(room) = chunk.get_mut(filled..) else { return 0 };
        let len = room.len().min(bytes.len());
        if let (Some(to), Some(from)) = (room.get_mut(..len), bytes.get(..len)) {
            to.copy_from_slice(from);
        }
        len
    }

    fn give_back(&mut self, chunk: u32) {
        let Some(place) = usize::try_from(chunk).ok().and_then(|at| self.all.get_mut(at)) else { return };
        let free =
            if place.len() == CHUNK_LARGE_BYTES { &mut self.free_large } else { &mut self.free_small };
        if free.len() < CHUNKS_KEPT {
            free.push(chunk);
        } else {
            *place = Box::default();
            self.vacant.push(chunk);
        }
    }
}

//! The gateway's ends of connections: the same life as in the io_uring driver, without a kernel.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use super::pool::Pool;
use crate::ConnId;

/// The life of a connection; the drawing stands in `uring/conns.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Dialing,
    Open,
    Flushing,
    Cutting,
}

/// What waits to be sent, in order.
pub(super) enum Piece {
    Slot { slot: u16, range: Range<u32> },
    Copy { bytes: Vec<u8>, start: usize },
}

impl Piece {
    pub(super) fn len(&self) -> usize {
        match self {
            Piece::Slot { range, .. } => range.len(),
            Piece::Copy { bytes, start } => bytes.len() - start,
        }
    }
}

pub(super) struct Conn {
    pub(super) generation: u32,
    pub(super) phase: Phase,
    /// The connection behind it; `None` while there is none (dialling).
    pub(super) link: Option<usize>,
    /// A connect is under way.
    pub(super) connecting: bool,
    /// The owner wants bytes.
    pub(super) wanted: bool,
    /// A pause is under way until then: bytes still come.
    pub(super) pausing_until_ns: u64,
    /// A receive has something to find.
    pub(super) delivering: bool,
    pub(super) starved: bool,
    pub(super) ended: bool,
    pub(super) failed: bool,
    pub(super) dirty: bool,
    pub(super) above: bool,
    pub(super) finish: bool,
    pub(super) finished: bool,
    pub(super) send_error: Option<i32>,
    pub(super) queue: VecDeque<Piece>,
    /// Bytes in `queue`.
    pub(super) queued: usize,
    /// Bytes at the front of `queue` that are under way; 0: no send is.
    pub(super) sending: usize,
    /// Which send it is.
    pub(super) send_number: u64,
    /// The send waits until the peer makes room.
    pub(super) send_waits: bool,
}

impl Conn {
    fn new(generation: u32, phase: Phase) -> Conn {
        Conn {
            generation,
            phase,
            link: None,
            connecting: phase == Phase::Dialing,
            wanted: false,
            pausing_until_ns: 0,
            delivering: false,
            starved: false,
            ended: false,
            failed: false,
            dirty: false,
            above: false,
            finish: false,
            finished: false,
            send_error: None,
            queue: VecDeque::new(),
            queued: 0,
            sending: 0,
            send_number: 0,
            send_waits: false,
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Flushing | Phase::Cutting)
    }

    pub(super) fn takes_sends(&self) -> bool {
        !self.is_closing() && !self.finish && !self.failed && self.send_error.is_none()
    }

    pub(super) fn can_send(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Flushing)
            && self.send_error.is_none()
            && self.sending == 0
            && !self.queue.is_empty()
    }

    pub(super) fn can_receive(&self, now_ns: u64) -> bool {
        matches!(self.phase, Phase::Open | Phase::Flushing)
            && (self.wanted || now_ns < self.pausing_until_ns)
            && !self.ended
            && !self.starved
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.connecting || self.delivering || self.sending > 0
    }

    pub(super) fn push(&mut self, piece: Piece) {
        self.queued += piece.len();
        self.queue.push_back(piece);
    }

    /// Takes `count` bytes off the front, as the kernel would read them now.
    pub(super) fn take(&mut self, count: usize, pool: &mut Pool) -> Vec<u8> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count
            && let Some(piece) = self.queue.front_mut()
        {
            let len = piece.len().min(count - taken.len());
            match piece {
                Piece::Slot { slot, range } => {
                    let end = range.start + u32::try_from(len).unwrap_or(0);
                    taken.extend_from_slice(pool.part(*slot, &(range.start..end)));
                    range.start = end;
                }
                Piece::Copy { bytes, start } => {
                    taken.extend_from_slice(bytes.get(*start..*start + len).unwrap_or_default());
                    *start += len;
                }
            }
            if piece.len() == 0 {
                self.drop_front(pool);
            }
        }
        self.queued = self.queued.saturating_sub(taken.len());
        taken
    }

    fn drop_front(&mut self, pool: &mut Pool) {
        if let Some(Piece::Slot { slot, .. }) = self.queue.pop_front() {
            pool.release(slot);
        }
    }

    /// Throws away everything that is not under way.
    pub(super) fn discard(&mut self, pool: &mut Pool) {
        let mut before = 0;
        let kept = self.queue.iter().take_while(|piece| {
            let stays = before < self.sending;
            before += piece.len();
            stays
        });
        let kept = kept.count();
        for piece in self.queue.drain(kept..) {
            if let Piece::Slot { slot, .. } = piece {
                pool.release(slot);
            }
        }
        self.queued = self.queue.iter().map(Piece::len).sum();
    }

    /// Slots that the queue keeps from the pool, runs of one counted once.
    pub(super) fn pinned(&self) -> usize {
        let mut slots: Vec<u16> = Vec::new();
        for piece in &self.queue {
            if let Piece::Slot { slot, .. } = piece
                && slots.last() != Some(slot)
            {
                slots.push(*slot);
            }
        }
        slots.len()
    }
}

/// Connections by id. An index serves again only when its owner has dealt with the end.
pub(super) struct Conns {
    entries: Vec<Entry>,
    free: Vec<u32>,
    retired: Vec<u32>,
    told: Vec<u32>,
    max: u32,
}

struct Entry {
    generation: u32,
    conn: Option<Conn>,
}

impl Conns {
    pub(super) fn new(max: u32) -> Conns {
        Conns { entries: Vec::new(), free: Vec::new(), retired: Vec::new(), told: Vec::new(), max }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.iter().filter(|entry| entry.conn.is_some()).count()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Conn> {
        self.entries.iter().filter_map(|entry| entry.conn.as_ref())
    }

    pub(super) fn insert(&mut self, phase: Phase) -> io::Result<ConnId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
                if index >= self.max {
                    let text = format!("{} connections are open, which is the limit", self.max);
                    return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
                }
                self.entries.push(Entry { generation: 0, conn: None });
                index
            }
        };
        let Some(entry) = usize::try_from(index).ok().and_then(|at| self.entries.get_mut(at)) else {
            return Err(io::Error::from(io::ErrorKind::OutOfMemory));
        };
        entry.conn = Some(Conn::new(entry.generation, phase));
        Ok(ConnId { index, generation: entry.generation })
    }

    pub(super) fn get(&self, id: ConnId) -> Option<&Conn> {
        let entry = self.entries.get(usize::try_from(id.index).ok()?)?;
        entry.conn.as_ref().filter(|conn| conn.generation == id.generation)
    }

    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        let entry = self.entries.get_mut(usize::try_from(id.index).ok()?)?;
        entry.conn.as_mut().filter(|conn| conn.generation == id.generation)
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<Conn> {
        let entry = self.entries.get_mut(usize::try_from(id.index).ok()?)?;
        if entry.generation != id.generation {
            return None;
        }
        let conn = entry.conn.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.retired.push(id.index);
        Some(conn)
    }

    pub(super) fn turn_begins(&mut self) {
        self.free.append(&mut self.told);
    }

    pub(super) fn turn_ends(&mut self) {
        self.told.append(&mut self.retired);
    }
}

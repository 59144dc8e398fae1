//! The open block: where lanes put records.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::FixedState;

use crate::codec::{Encoder, put_at};
use crate::layout::{BLOCK_HEADER_BYTES, PAYLOAD_BYTES_MAX};
use crate::paged::PagedBuf;
use crate::record::{Columns, FRAGMENT, Record, SessionId, Time, VARINT_BYTES_MAX};

/// A record whose body may be longer is written in pieces: several of one fit into a block, and none is ever
/// larger than one.
const BODY_BYTES_MAX: usize = 256 << 10;
/// Most bytes of one record in all its pieces; instead of a longer one a [`Record::Gap`] says so. Far above what
/// the lanes' own limits let through.
pub const RECORD_BYTES_MAX: usize = 256 << 20;
/// No record's head (length, type, session, counter, time) is longer.
const HEAD_BYTES_MAX: usize = 4 + 1 + 8 + 10 + 10 + 10;

/// Most buffers that are kept for later blocks: as many as wait while the disk is slower for a moment.
const SPARES_MAX: usize = 4;

const _: () = assert!(2 * (BODY_BYTES_MAX + HEAD_BYTES_MAX) < PAYLOAD_BYTES_MAX);

/// The open block: records go in, nothing comes out before a [`Writer`](crate::Writer) seals it.
///
/// A worker has one for its whole life and lends it to its lanes; it must not be replaced while sessions are open,
/// because it counts the records of each. What is pushed beyond one block's size waits in further blocks: the
/// owner watches [`len`](Draft::len) and feeds no lane while it is above its limit.
///
/// Every record of an open session gets the session's next counter: 1 is its `SessionOpened`, and the last is its
/// `SessionClosed`. Records outside (a failed log-in; session zero) get 0, so that what peers do before they are
/// authenticated costs no memory here.
#[derive(Default)]
pub struct Draft {
    open: Part,
    /// Parts before `open` that are full.
    full: VecDeque<Part>,
    /// Parts that were closed so far, in this draft's life.
    closed: u64,
    bytes_full: usize,
    /// What written blocks were in.
    spares: Vec<Vec<u8>>,
    counters: HashMap<SessionId, u64, FixedState>,
}

/// The records of one block to be, with room for the block's header in front.
#[derive(Default)]
pub(crate) struct Part {
    /// Empty, or [`BLOCK_HEADER_BYTES`] bytes of room and the records.
    pub(crate) buf: PagedBuf,
    pub(crate) records: u32,
    /// Time of the last record.
    last: Time,
    /// What [`Draft::mark`] says once this part's last record is in.
    pub(crate) mark: u64,
}

impl Part {
    /// A block whose write failed, to be sealed once more.
    pub(crate) fn again(buf: PagedBuf, records: u32, mark: u64) -> Part {
        Part { buf, records, mark, last: Time::default() }
    }

    pub(crate) fn payload_bytes(&self) -> usize {
        self.buf.len().saturating_sub(BLOCK_HEADER_BYTES)
    }

    /// Makes room for a body of at most `bound` bytes and writes what stands before it; `body` writes the rest.
    #[inline]
    pub(crate) fn put(&mut self, head: Head, bound: usize, body: impl FnOnce(&mut Encoder<'_>)) {
        self.buf.reserve(BLOCK_HEADER_BYTES + HEAD_BYTES_MAX + bound);
        if self.buf.len() == 0 {
            self.buf.vec().extend_from_slice(&[0; BLOCK_HEADER_BYTES]);
        }
        let start = self.buf.vec().len();
        let mut out = Encoder::new(self.buf.vec());
        out.u32(0);
        out.u8(head.kind);
        out.u64(head.session.0);
        out.varint(head.counter);
        out.step(self.last.monotonic_ns, head.at.monotonic_ns);
        out.step(self.last.wall_us, head.at.wall_us);
        body(&mut out);
        let len = u32::try_from(self.buf.vec().len().saturating_sub(start + 4)).unwrap_or(u32::MAX);
        put_at(self.buf.vec(), start, &len.to_le_bytes());
        self.last = head.at;
        self.records += 1;
    }
}

/// What stands before every record's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Head {
    pub(crate) kind: u8,
    pub(crate) session: SessionId,
    pub(crate) counter: u64,
    pub(crate) at: Time,
}

impl Draft {
    /// Encodes one record at the end of the block.
    #[inline]
    pub fn push(&mut self, session: SessionId, at: Time, record: &Record<'_>) {
        let bound = record.size_bound();
        if bound > BODY_BYTES_MAX {
            return self.push_large(session, at, record);
        }
        let head = Head { kind: record.kind(), session, counter: self.count(session, record), at };
        self.put(head, bound, |out| record.encode(out));
    }

    /// [`Draft::push`] of a [`Record::Columns`].
    #[inline]
    pub fn push_columns(&mut self, session: SessionId, at: Time, command: u64, columns: &Columns) {
        let encoded = columns.encoded();
        let bound = VARINT_BYTES_MAX + encoded.len();
        if bound > BODY_BYTES_MAX {
            let columns = columns.decode().unwrap_or_default();
            return self.push_large(session, at, &Record::Columns { command, columns });
        }
        let kind = Record::Columns { command, columns: Vec::new() }.kind();
        let head = Head { kind, session, counter: self.count_next(session), at };
        self.put(head, bound, |out| {
            out.varint(command);
            out.raw(encoded);
        });
    }

    /// Bytes that wait to be sealed.
    pub fn len(&self) -> usize {
        self.bytes_full + self.open.payload_bytes()
    }

    /// No record waits to be sealed.
    pub fn is_empty(&self) -> bool {
        self.open.records == 0 && self.full.is_empty()
    }

    /// Every record that was pushed so far is written as soon as [`Writer::written`](crate::Writer::written) has
    /// reached this.
    pub fn mark(&self) -> u64 {
        self.closed + u64::from(self.open.records > 0)
    }

    /// Sessions that are open now.
    pub fn sessions(&self) -> usize {
        self.counters.len()
    }

    /// The sessions that are open now, as the record that carries them into the next segment.
    pub(crate) fn push_carried(&mut self, at: Time) {
        let mut sessions: Vec<_> =
            self.counters.iter().map(|(session, counter)| (*session, *counter)).collect();
        sessions.sort_unstable();
        self.push(SessionId::NONE, at, &Record::Carried { sessions });
    }

    /// Payload of the next block to be sealed, in bytes.
    pub(crate) fn next_payload_bytes(&self) -> usize {
        self.full.front().unwrap_or(&self.open).payload_bytes()
    }

    /// Takes the next block to be sealed.
    pub(crate) fn take(&mut self) -> Option<Part> {
        if let Some(part) = self.full.pop_front() {
            self.bytes_full = self.bytes_full.saturating_sub(part.payload_bytes());
            return Some(part);
        }
        (self.open.records > 0).then(|| self.close())
    }

    /// Keeps the buffer of a written block for a later one: memory that was used is cheaper than new memory.
    pub(crate) fn keep(&mut self, buf: Vec<u8>) {
        if self.spares.len() < SPARES_MAX {
            self.spares.push(buf);
        }
    }

    fn close(&mut self) -> Part {
        self.closed += 1;
        let spare = self.spares.pop().unwrap_or_default();
        let next = Part { buf: PagedBuf::new(spare), ..Part::default() };
        let mut part = std::mem::replace(&mut self.open, next);
        part.mark = self.closed;
        part
    }

    #[inline]
    fn put(&mut self, head: Head, bound: usize, body: impl FnOnce(&mut Encoder<'_>)) {
        if self.open.payload_bytes() + HEAD_BYTES_MAX + bound > PAYLOAD_BYTES_MAX {
            let part = self.close();
            self.bytes_full += part.payload_bytes();
            self.full.push_back(part);
        }
        self.open.put(head, bound, body);
    }

    /// The counter of a session's next record. Only open sessions are counted, so only they take memory.
    #[inline]
    fn count(&mut self, session: SessionId, record: &Record<'_>) -> u64 {
        match record {
            Record::SessionOpened { .. } => {
                self.counters.insert(session, 1);
                1
            }
            Record::SessionClosed { .. } => self.counters.remove(&session).map_or(0, |last| last + 1),
            _ => self.count_next(session),
        }
    }

    #[inline]
    fn count_next(&mut self, session: SessionId) -> u64 {
        self.counters.get_mut(&session).map_or(0, |last| {
            *last += 1;
            *last
        })
    }

    /// Streams may be cut anywhere and become several records; anything else becomes fragments.
    #[cold]
    fn push_large(&mut self, session: SessionId, at: Time, record: &Record<'_>) {
        // What the records' other fields take is far below this.
        const STRETCH: usize = BODY_BYTES_MAX / 2;
        match *record {
            Record::Rows { command, stream } => {
                for stream in stream.chunks(STRETCH) {
                    self.push(session, at, &Record::Rows { command, stream });
                }
            }
            Record::Copied { command, inward, stream } => {
                for stream in stream.chunks(STRETCH) {
                    self.push(session, at, &Record::Copied { command, inward, stream });
                }
            }
            _ => self.push_fragments(session, at, record),
        }
    }

    fn push_fragments(&mut self, session: SessionId, at: Time, record: &Record<'_>) {
        let mut whole = Vec::new();
        record.encode(&mut Encoder::new(&mut whole));
        if whole.len() > RECORD_BYTES_MAX {
            let (name, len) = (record.name(), whole.len());
            let reason = format!("a {name} record of {len} bytes is over the format's {RECORD_BYTES_MAX}");
            return self.push(session, at, &Record::Gap { reason: &reason });
        }
        let mut left = whole.len();
        for bytes in whole.chunks(BODY_BYTES_MAX) {
            left = left.saturating_sub(bytes.len());
            let counter = if left == 0 { self.count(session, record) } else { self.count_next(session) };
            let head = Head { kind: FRAGMENT, session, counter, at };
            self.put(head, bytes.len() + 2, |out| {
                out.u8(record.kind());
                out.u8(u8::from(left == 0));
                out.raw(bytes);
            });
        }
    }
}

/// Shows sizes only: what is recorded belongs into no log.
impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Part {{ {} records, {} bytes }}", self.records, self.payload_bytes())
    }
}

/// Shows sizes only: what is recorded belongs into no log.
impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft")
            .field("bytes", &self.len())
            .field("mark", &self.mark())
            .field("sessions", &self.sessions())
            .finish()
    }
}

//! One worker's series: seals drafts into blocks, says where each goes, keeps the chain. No I/O.

use std::collections::VecDeque;
use std::fmt;

use crate::codec::put_at;
use crate::draft::{Draft, Head, Part};
use crate::layout::{
    ALIGNMENT, BLOCK_HEADER_BYTES, BlockHeader, Hash, PAGE_BYTES, PAGED_BYTES_MIN, SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN, SegmentHeader, block_value,
};
use crate::paged::PagedBuf;
use crate::record::{Record, SessionId, Time};

/// Where a series goes on.
#[derive(Debug, Clone)]
pub struct SeriesStart {
    /// Index of the worker.
    pub worker: u32,
    /// Which gateway.
    pub node: u64,
    /// Which run of it; random.
    pub boot: u64,
    /// What [`recover`](crate::recover()) found; [`Recovery::default`](crate::Recovery) for a series that begins.
    pub recovery: crate::Recovery,
    /// When recovery was.
    pub now: Time,
}

/// Bytes to be written at an offset of the current segment's file.
#[must_use = "what is sealed and not written is lost"]
#[derive(PartialEq, Eq)]
pub struct Write {
    /// Holds the bytes; it comes back with [`Writer::acknowledged`] or [`Writer::failed`].
    pub buf: Vec<u8>,
    /// They begin here and go up to the end.
    pub start: usize,
    /// Where in the file.
    pub offset: u64,
    /// Names this write.
    pub token: u64,
    /// The segment is complete with this write: its file is to be closed afterwards, and the next one is needed.
    pub last: bool,
}

impl Write {
    /// What is to be written.
    pub fn bytes(&self) -> &[u8] {
        self.buf.get(self.start..).unwrap_or_default()
    }

    /// Whole pages of memory become whole pages of the file: it can be written past the page cache.
    pub fn is_paged(&self) -> bool {
        let bytes = self.bytes();
        bytes.as_ptr().addr().is_multiple_of(PAGE_BYTES)
            && bytes.len().is_multiple_of(PAGE_BYTES)
            && self.offset.is_multiple_of(PAGE_BYTES as u64)
    }
}

/// Shows sizes only: what is recorded belongs into no log.
impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, Write { offset, token, last, .. }) = (self.bytes().len(), self);
        write!(f, "Write {{ {bytes} bytes at {offset}, token {token}, last {last} }}")
    }
}

/// Why a segment could not be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentRefused {
    /// A block of the largest size must fit, and offsets must not overflow.
    Size,
    /// The last one is still in use.
    Busy,
    /// Its number is not [`Writer::next_segment`].
    Number,
}

impl fmt::Display for SegmentRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SegmentRefused::Size => {
                write!(f, "a segment must have from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX} bytes")
            }
            SegmentRefused::Busy => f.write_str("the segment before it is still in use"),
            SegmentRefused::Number => f.write_str("it is not the next segment of the series"),
        }
    }
}

impl std::error::Error for SegmentRefused {}

/// One worker's series of segments.
///
/// # The calling contract
///
/// At most one write is in flight. The owner repeats:
///
/// 1. When [`needs_segment`](Writer::needs_segment), it hands over the next file with
///    [`begin_segment`](Writer::begin_segment) and carries out the [`Write`] it gets. It asks for files ahead of
///    time, whenever [`wants_segment`](Writer::wants_segment).
/// 2. [`seal`](Writer::seal) gives the next `Write`, or `None`: nothing is due, or a write is in flight, or a
///    segment is needed.
/// 3. When a write is done, [`acknowledged`](Writer::acknowledged) or [`failed`](Writer::failed), with the
///    buffer; then 1. again.
///
/// What was pushed before [`Draft::mark`] said `m` is in the file once [`written`](Writer::written) is at least
/// `m`; in `os` durability a command leaves no earlier.
///
/// After a failed write nothing more goes to that file. The next segment begins with a `Gap`, goes on from the
/// last block that was acknowledged, and repeats the block that failed: the verifier passes over whatever of it
/// reached the old file.
#[derive(Debug)]
pub struct Writer {
    worker: u32,
    node: u64,
    boot: u64,
    /// Number of the next segment to be begun.
    next_segment: u64,
    /// Number of the next block.
    next_block: u64,
    /// The chain's value after all that is acknowledged.
    head: Hash,
    segment: Option<Segment>,
    in_flight: Option<InFlight>,
    token: u64,
    /// Blocks that go before any draft: `Recovered`, `Gap`, and the block whose write failed.
    urgent: VecDeque<Part>,
    /// The segment's `Carried` record is due.
    carry: bool,
    written: u64,
    /// The buffer of the block that was written last.
    spare: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Segment {
    salt: u64,
    size: u64,
    offset: u64,
}

struct InFlight {
    token: u64,
    /// The chain's value when this is written.
    value: Hash,
    next_block: u64,
    offset: u64,
    last: bool,
    /// Of the buffer's bytes.
    start: usize,
    /// What it takes to seal the block once more; `None`: a header or a last block.
    content: Option<Content>,
}

#[derive(Clone, Copy)]
struct Content {
    len: usize,
    records: u32,
    mark: u64,
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InFlight {{ token {}, last {} }}", self.token, self.last)
    }
}

impl Writer {
    /// Goes on where recovery says. After a crash, the first block to be sealed is the `Recovered` record.
    pub fn new(start: SeriesStart) -> Writer {
        let SeriesStart { worker, node, boot, recovery, now } = start;
        let mut writer = Writer {
            worker,
            node,
            boot,
            next_segment: recovery.next_segment,
            next_block: recovery.next_block,
            head: recovery.chain_head,
            segment: None,
            in_flight: None,
            token: 0,
            urgent: VecDeque::new(),
            carry: false,
            written: 0,
            spare: None,
        };
        if let Some(record) = recovery.record() {
            writer.urge(now, &record);
        }
        writer
    }

    /// Number of the segment to ask for.
    pub fn next_segment(&self) -> u64 {
        self.next_segment
    }

    /// It is time to ask for the next segment: there is none, or the current one is three quarters full.
    pub fn wants_segment(&self) -> bool {
        self.segment.as_ref().is_none_or(|segment| segment.offset / 3 >= segment.size / 4)
    }

    /// Nothing can be sealed before [`begin_segment`](Writer::begin_segment).
    pub fn needs_segment(&self) -> bool {
        self.segment.is_none() && self.in_flight.is_none()
    }

    /// Everything whose [`Draft::mark`] was at most this is written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// A write is in flight.
    pub fn is_busy(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Number of the next block, and the chain's value before it.
    pub fn head(&self) -> (u64, Hash) {
        (self.next_block, self.head)
    }

    /// Begins a segment of `size` bytes, all of them zero, with a random `salt` of its own. The header must be
    /// acknowledged before anything is sealed, or a crash could leave blocks in a file without a header.
    pub fn begin_segment(
        &mut self,
        number: u64,
        size: u64,
        salt: u64,
        now: Time,
    ) -> Result<Write, SegmentRefused> {
        if !self.needs_segment() {
            return Err(SegmentRefused::Busy);
        }
        if number != self.next_segment {
            return Err(SegmentRefused::Number);
        }
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&size) {
            return Err(SegmentRefused::Size);
        }
        let header = SegmentHeader {
            alignment: ALIGNMENT,
            worker: self.worker,
            node: self.node,
            boot: self.boot,
            number,
            size,
            salt,
            first_block: self.next_block,
            begun: now,
            previous: self.head,
        };
        self.next_segment += 1;
        self.segment = Some(Segment { salt, size, offset: 0 });
        self.carry = true;
        let (value, offset, next_block) = (header.value(), header.blocks_offset(), self.next_block);
        Ok(self.launch(
            header.encode(),
            InFlight { token: 0, value, next_block, offset, last: false, start: 0, content: None },
        ))
    }

    /// The next block to be written, if one is due and possible.
    pub fn seal(&mut self, draft: &mut Draft, now: Time) -> Option<Write> {
        if self.in_flight.is_some() || (self.urgent.is_empty() && draft.is_empty()) {
            return None;
        }
        self.segment.as_ref()?;
        if let Some(spare) = self.spare.take() {
            draft.keep(spare);
        }
        if self.carry && self.urgent.is_empty() {
            self.carry = false;
            draft.push_carried(now);
        }
        let payload = self.urgent.front().map_or_else(|| draft.next_payload_bytes(), Part::payload_bytes);
        if !self.fits(payload) {
            return self.finish(now);
        }
        let part = self.urgent.pop_front().or_else(|| draft.take())?;
        self.seal_part(part, now)
    }

    /// Completes the current segment with its last block, for a clean end: to be called when
    /// [`seal`](Writer::seal) has nothing more and nothing is in flight.
    pub fn finish(&mut self, now: Time) -> Option<Write> {
        if self.in_flight.is_some() {
            return None;
        }
        self.seal_block(PagedBuf::default(), 0, true, None, now)
    }

    /// A write is done. Anything but the token in flight is ignored.
    pub fn acknowledged(&mut self, token: u64, buf: Vec<u8>) {
        let Some(done) = self.in_flight.take_if(|flight| flight.token == token) else { return };
        self.head = done.value;
        self.next_block = done.next_block;
        if let Some(content) = done.content {
            self.written = self.written.max(content.mark);
        }
        match &mut self.segment {
            Some(segment) if !done.last => segment.offset = done.offset,
            _ => self.segment = None,
        }
        self.spare = done.content.map(|_| buf);
    }

    /// A write failed: the segment is given up, and the next one begins with a `Gap` that says why and the block
    /// once more. Anything but the token in flight is ignored.
    pub fn failed(&mut self, token: u64, buf: Vec<u8>, reason: &str, now: Time) {
        let Some(failed) = self.in_flight.take_if(|flight| flight.token == token) else { return };
        self.segment = None;
        if let Some(content) = failed.content {
            let mut buf = PagedBuf::again(buf, failed.start);
            buf.truncate(content.len);
            self.urgent.push_front(Part::again(buf, content.records, content.mark));
        }
        let later = std::mem::take(&mut self.urgent);
        self.urge(now, &Record::Gap { reason });
        self.urgent.extend(later);
    }

    fn urge(&mut self, now: Time, record: &Record<'_>) {
        let mut part = Part::default();
        let head = Head { kind: record.kind(), session: SessionId::NONE, counter: 0, at: now };
        part.put(head, record.size_bound(), |out| record.encode(out));
        self.urgent.push_back(part);
    }

    /// A block with this payload and the last block both fit.
    fn fits(&self, payload: usize) -> bool {
        self.segment
            .as_ref()
            .is_some_and(|segment| end(segment.offset, payload) + BLOCK_HEADER_BYTES as u64 <= segment.size)
    }

    fn seal_part(&mut self, part: Part, now: Time) -> Option<Write> {
        let content = Content { len: part.buf.len(), records: part.records, mark: part.mark };
        self.seal_block(part.buf, part.records, false, Some(content), now)
    }

    /// `buf` has room for the header in front (or is empty): nothing is copied.
    fn seal_block(
        &mut self,
        mut buf: PagedBuf,
        records: u32,
        last: bool,
        content: Option<Content>,
        now: Time,
    ) -> Option<Write> {
        let segment = self.segment.as_ref()?;
        if buf.len() == 0 {
            buf.reserve(BLOCK_HEADER_BYTES);
            buf.vec().extend_from_slice(&[0; BLOCK_HEADER_BYTES]);
        }
        let payload = buf.bytes().get(BLOCK_HEADER_BYTES..)?;
        let offset = end(segment.offset, payload.len());
        let header = BlockHeader {
            last,
            paged: payload.len() >= PAGED_BYTES_MIN,
            salt: segment.salt,
            number: self.next_block,
            payload_bytes: u32::try_from(payload.len()).ok()?,
            records,
            sealed: now,
            previous: self.head,
            root: *blake3::hash(payload).as_bytes(),
            payload_crc: crc32c::crc32c(payload),
        }
        .encode();
        put_at(buf.bytes_mut(), 0, &header);
        let (buf, start) = buf.into_parts(usize::try_from(offset - segment.offset).ok()?);
        let (value, next_block) = (block_value(&header), self.next_block + 1);
        Some(self.launch(buf, InFlight { token: 0, value, next_block, offset, last, start, content }))
    }

    fn launch(&mut self, buf: Vec<u8>, flight: InFlight) -> Write {
        self.token += 1;
        let token = self.token;
        let offset = self.segment.as_ref().map_or(0, |segment| segment.offset);
        let InFlight { last, start, .. } = flight;
        self.in_flight = Some(InFlight { token, ..flight });
        Write { buf, start, offset, token, last }
    }
}

/// Where a block ends that begins at `offset`.
fn end(offset: u64, payload: usize) -> u64 {
    let alignment = if payload >= PAGED_BYTES_MIN { PAGE_BYTES as u64 } else { u64::from(ALIGNMENT) };
    (offset + BLOCK_HEADER_BYTES as u64 + payload as u64).next_multiple_of(alignment)
}

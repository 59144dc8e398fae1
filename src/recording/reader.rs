//! Bytes of one segment file to blocks: checks all of a block before any of it is believed, never panics, holds
//! at most one window of the file.

use std::fs::File;
use std::io;

use crate::codec::Malformed;
use crate::layout::{
    ALIGNMENT, BLOCK_BYTES_MAX, BLOCK_HEADER_BYTES, BLOCK_MAGIC, BlockHeader, Hash, SEGMENT_HEADER_BYTES,
    SegmentHeader, block_value,
};

/// Bytes read at once: room for any block and the next header.
const WINDOW_BYTES: usize = 2 << 20;
const _: () = assert!(WINDOW_BYTES > BLOCK_BYTES_MAX + BLOCK_HEADER_BYTES);

/// Something with bytes at offsets.
pub trait Source {
    /// Bytes there are.
    fn size(&self) -> io::Result<u64>;
    /// Reads at `offset`; 0 only at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl Source for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buf, offset)
    }
}

impl Source for &[u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        Ok(buf.iter_mut().zip(rest).map(|(to, from)| *to = *from).count())
    }
}

/// How much is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// CRCs, numbers, chain, padding.
    Structure,
    /// The records' hashes as well.
    Everything,
}

/// What a file is.
#[derive(Debug)]
pub(crate) enum Opened<S> {
    /// All zeros: made, and never begun.
    Unused,
    /// A segment.
    Segment(SegmentReader<S>),
    /// Something else, and why; blocks may still be found in it.
    Headless(SegmentReader<S>, &'static str),
}

/// A block that stands.
#[derive(Debug)]
pub(crate) struct Block<'a> {
    pub(crate) offset: u64,
    pub(crate) header: BlockHeader,
    pub(crate) payload: &'a [u8],
}

/// What comes next in a segment.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    Block(Block<'a>),
    /// What stands from `offset` on is wrong, yet a block stands behind it.
    Damage {
        offset: u64,
        block: Option<u64>,
        what: String,
    },
    End(End),
}

/// Where the valid blocks end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// Just behind the last valid block.
    pub(crate) offset: u64,
    /// The last block says that it is the last.
    pub(crate) sealed: bool,
    /// From `offset` to the last byte that is not zero.
    pub(crate) torn_bytes: u64,
    /// What is wrong with the bytes at `offset`, if there are any.
    pub(crate) why: &'static str,
}

/// Reads the blocks of one segment in order.
#[derive(Debug)]
pub(crate) struct SegmentReader<S> {
    window: Window<S>,
    /// `None`: unreadable.
    header: Option<SegmentHeader>,
    salt: Option<u64>,
    alignment: u16,
    /// No block lies beyond.
    end: u64,
    offset: u64,
    /// Number of the next block and the chain's value before it; `None` after damage.
    next: Option<(u64, Hash)>,
    /// Damage at this offset is told already.
    told: Option<u64>,
    sealed: bool,
    over: bool,
    depth: Depth,
}

/// What a look at one place found.
enum Look {
    Block(BlockHeader, Hash),
    Nothing(&'static str),
}

impl<S: Source> SegmentReader<S> {
    pub(crate) fn open(source: S, depth: Depth) -> io::Result<Opened<S>> {
        let size = source.size()?;
        let mut window = Window { source, size, buf: Vec::new(), base: 0 };
        let decoded = match window.get(0, SEGMENT_HEADER_BYTES)?.first_chunk() {
            Some(bytes) => SegmentHeader::decode(bytes),
            None => Err("the file is shorter than a segment header"),
        };
        let mut reader = SegmentReader {
            window,
            header: None,
            salt: None,
            alignment: ALIGNMENT,
            end: size,
            offset: 0,
            next: None,
            told: None,
            sealed: false,
            over: false,
            depth,
        };
        match decoded {
            Ok(header) => {
                reader.salt = Some(header.salt);
                reader.alignment = header.alignment;
                reader.end = size.min(header.size);
                reader.offset = header.blocks_offset();
                reader.next = Some((header.first_block, header.value()));
                reader.header = Some(header);
                Ok(Opened::Segment(reader))
            }
            Err(_) if reader.window.torn(0, size)? == 0 => Ok(Opened::Unused),
            Err(why) => Ok(Opened::Headless(reader, why)),
        }
    }

    pub(crate) fn header(&self) -> Option<&SegmentHeader> {
        self.header.as_ref()
    }

    /// Bytes of the file.
    pub(crate) fn size(&self) -> u64 {
        self.window.size
    }

    /// What comes next; nothing after [`Step::End`].
    pub(crate) fn step(&mut self) -> io::Result<Option<Step<'_>>> {
        if self.over {
            return Ok(None);
        }
        let offset = self.offset;
        if self.sealed {
            return self.finish("bytes that are not zero stand behind the last block").map(Some);
        }
        let (header, value) = match self.settle(offset)? {
            (Look::Block(header, value), _) => (header, value),
            (Look::Nothing(why), found) => return self.pass_over(found, why).map(Some),
        };
        if self.told != Some(offset)
            && let Some(what) = self.misfit(offset, &header)?
        {
            self.told = Some(offset);
            return Ok(Some(Step::Damage { offset, block: Some(header.number), what }));
        }
        self.next = header.number.checked_add(1).map(|number| (number, value));
        self.salt = Some(header.salt);
        self.sealed = header.last;
        self.offset = header.end(offset, self.alignment);
        let payload = self.window.get(offset + BLOCK_HEADER_BYTES as u64, header.payload_bytes as usize)?;
        Ok(Some(Step::Block(Block { offset, header, payload })))
    }

    /// What stands at the offset; if that is no valid block, where the next one stands, if there is one.
    fn settle(&mut self, offset: u64) -> io::Result<(Look, Option<u64>)> {
        let look = self.look(offset)?;
        if matches!(look, Look::Block(..)) {
            return Ok((look, None));
        }
        let found = self.scan(offset)?;
        if found.is_none() {
            return Ok((look, None));
        }
        // A gateway that is running may have written both since the first look.
        self.window.forget();
        Ok((self.look(offset)?, found))
    }

    /// No valid block stands at the offset: goes to the next one there is.
    fn pass_over(&mut self, found: Option<u64>, why: &'static str) -> io::Result<Step<'_>> {
        let Some(found) = found else { return self.finish(why) };
        let (offset, block) = (self.offset, self.next.take().map(|(number, _)| number));
        self.offset = found;
        Ok(Step::Damage { offset, block, what: format!("{why}; the next block stands at {found}") })
    }

    fn finish(&mut self, why: &'static str) -> io::Result<Step<'_>> {
        self.over = true;
        let torn_bytes = self.window.torn(self.offset, self.window.size)?;
        Ok(Step::End(End { offset: self.offset, sealed: self.sealed, torn_bytes, why }))
    }

    /// A block whose header and CRCs stand.
    fn look(&mut self, offset: u64) -> io::Result<Look> {
        let bytes = self.window.get(offset, BLOCK_HEADER_BYTES)?;
        let Some(bytes) = bytes.first_chunk::<BLOCK_HEADER_BYTES>().copied() else {
            return Ok(Look::Nothing("the file ends where a block should begin"));
        };
        let salt = self.salt.unwrap_or_else(|| stored_salt(&bytes));
        let header = match BlockHeader::decode(&bytes, salt) {
            Ok(header) => header,
            Err(why) => return Ok(Look::Nothing(why)),
        };
        let end = header.end(offset, self.alignment);
        if end > self.end {
            return Ok(Look::Nothing("the file ends inside a block"));
        }
        // All of it at once: what is looked at afterwards is in the window.
        let whole = self.window.get(offset, usize::try_from(end - offset).unwrap_or(BLOCK_BYTES_MAX))?;
        let payload = whole.get(BLOCK_HEADER_BYTES..).unwrap_or_default();
        let payload = payload.get(..header.payload_bytes as usize).unwrap_or_default();
        if crc32c::crc32c(payload) != header.payload_crc {
            return Ok(Look::Nothing("the records' CRC-32C does not fit"));
        }
        Ok(Look::Block(header, block_value(&bytes)))
    }

    /// What does not fit about a block that stands.
    fn misfit(&mut self, offset: u64, header: &BlockHeader) -> io::Result<Option<String>> {
        if let Some((number, value)) = self.next {
            if header.number != number {
                return Ok(Some(format!("block {} stands where block {number} belongs", header.number)));
            }
            if header.previous != value {
                return Ok(Some("the chain's value does not fit what stands before".to_owned()));
            }
        }
        let payload_bytes = header.payload_bytes as usize;
        let records = offset + BLOCK_HEADER_BYTES as u64;
        if self.depth == Depth::Everything
            && *blake3::hash(self.window.get(records, payload_bytes)?).as_bytes() != header.root
        {
            return Ok(Some("the hash of its records does not fit".to_owned()));
        }
        let padding = header.end(offset, self.alignment) - records - payload_bytes as u64;
        let padding = usize::try_from(padding).unwrap_or_default();
        let padding = self.window.get(records + payload_bytes as u64, padding)?;
        let clean = padding.iter().all(|byte| *byte == 0);
        Ok((!clean).then(|| "its padding is not zero".to_owned()))
    }

    /// The first valid block behind `offset`.
    fn scan(&mut self, offset: u64) -> io::Result<Option<u64>> {
        let step = u64::from(self.alignment);
        let mut at = (offset + 1).next_multiple_of(step);
        while at < self.end {
            let candidates = self.window.candidates(at, step)?;
            for found in candidates.places {
                if matches!(self.look(found)?, Look::Block(..)) {
                    return Ok(Some(found));
                }
            }
            at = candidates.until;
        }
        Ok(None)
    }
}

fn stored_salt(header: &[u8; BLOCK_HEADER_BYTES]) -> u64 {
    header.get(8..16).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Places where a block might begin.
struct Candidates {
    places: Vec<u64>,
    /// Looked at up to here.
    until: u64,
}

/// A stretch of the file in memory.
struct Window<S> {
    source: S,
    size: u64,
    buf: Vec<u8>,
    base: u64,
}

impl<S> std::fmt::Debug for Window<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Window {{ {} of {} at {} }}", self.buf.len(), self.size, self.base)
    }
}

impl<S: Source> Window<S> {
    /// The bytes at `offset`, at most `len`, fewer only at the end of the file.
    fn get(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let end = offset.saturating_add(len as u64).min(self.size);
        if offset < self.base || end > self.base + self.buf.len() as u64 {
            self.fill(offset, len)?;
        }
        let start = usize::try_from(offset.saturating_sub(self.base)).unwrap_or(usize::MAX);
        let rest = self.buf.get(start..).unwrap_or_default();
        Ok(rest.get(..len).unwrap_or(rest))
    }

    /// What was read may be out of date.
    fn forget(&mut self) {
        self.buf.clear();
        self.base = 0;
    }

    fn fill(&mut self, offset: u64, len: usize) -> io::Result<()> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        self.buf.resize(len.max(WINDOW_BYTES).min(left), 0);
        self.base = offset;
        let mut filled = 0;
        while let Some(rest) = self.buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.source.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if filled < self.buf.len() {
            // The file became shorter since it was opened.
            self.size = offset + filled as u64;
            self.buf.truncate(filled);
        }
        Ok(())
    }

    /// From `from` to the last byte before `to` that is not zero, in bytes.
    fn torn(&mut self, from: u64, to: u64) -> io::Result<u64> {
        let (mut at, mut torn) = (from, 0);
        while at < to {
            let left = usize::try_from(to - at).unwrap_or(usize::MAX);
            let chunk = self.get(at, left.min(WINDOW_BYTES))?;
            if chunk.is_empty() {
                break;
            }
            if let Some(last) = last_set(chunk) {
                torn = at - from + last as u64 + 1;
            }
            at += chunk.len() as u64;
        }
        Ok(torn)
    }

    fn candidates(&mut self, at: u64, step: u64) -> io::Result<Candidates> {
        let chunk = self.get(at, WINDOW_BYTES / 2)?;
        let until = at + (chunk.len() as u64).max(1).next_multiple_of(step);
        let places = match last_set(chunk) {
            None => Vec::new(),
            Some(_) => (at..until)
                .step_by(usize::try_from(step).unwrap_or(usize::MAX))
                .zip(chunk.chunks(usize::try_from(step).unwrap_or(usize::MAX)))
                .filter_map(|(place, bytes)| bytes.starts_with(&BLOCK_MAGIC).then_some(place))
                .collect(),
        };
        Ok(Candidates { places, until })
    }
}

/// Index of the last byte that is not zero.
fn last_set(bytes: &[u8]) -> Option<usize> {
    const LANE: usize = 64;
    let (lanes, rest) = bytes.as_chunks::<LANE>();
    if let Some(at) = rest.iter().rposition(|byte| *byte != 0) {
        return Some(lanes.len() * LANE + at);
    }
    let lane = lanes.iter().rposition(|lane| lane.iter().fold(0, |all, byte| all | byte) != 0)?;
    let at = lanes.get(lane)?.iter().rposition(|byte| *byte != 0)?;
    Some(lane * LANE + at)
}

/// Why a record could not be read.
pub(crate) fn told(error: Malformed, kind: u8) -> String {
    format!("a record of type {kind} cannot be decoded: {error}")
}

//! The headers of segments and blocks, and the sizes everything else is bounded by.

use crate::codec::{Decoder, Encoder, put_at};
use crate::record::Time;

/// Version of the format; a reader refuses any other.
pub const VERSION: u16 = 1;
/// Blocks begin at multiples of this many bytes. Small, because in `os` durability a group commit may be one
/// command of some 250 bytes and padding to 512 would double it; 64 is a cache line, and half a block header.
/// Large blocks end at a page all the same ([`PAGED_BYTES_MIN`]), where padding costs little, so that they can be
/// written past the page cache.
pub const ALIGNMENT: u16 = 64;
/// Most that a reader accepts as alignment.
pub const ALIGNMENT_MAX: u16 = 4096;
/// A page, and at least a block of any device: what direct writes are multiples of, in the file and in memory.
pub const PAGE_BYTES: usize = 4096;
/// A block with at least this many bytes of records takes whole pages.
pub const PAGED_BYTES_MIN: usize = 64 << 10;
/// Bytes of a segment header; the first block begins at the next multiple of the alignment.
pub const SEGMENT_HEADER_BYTES: usize = 256;
/// Bytes of a block header.
pub const BLOCK_HEADER_BYTES: usize = 128;
/// Most bytes of records in one block: what a reader holds in memory.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Most bytes of one block, header and padding included.
pub const BLOCK_BYTES_MAX: usize = BLOCK_HEADER_BYTES + PAYLOAD_BYTES_MAX + ALIGNMENT_MAX as usize;
/// Bytes of a segment file unless configured otherwise.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Fewest bytes of a segment file: any block must fit into an empty one.
pub const SEGMENT_BYTES_MIN: u64 =
    (ALIGNMENT_MAX as u64) + (BLOCK_BYTES_MAX as u64) + (BLOCK_HEADER_BYTES as u64);
/// Most bytes of a segment file that a reader accepts: bounds the offsets it computes with.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 40;

const SEGMENT_MAGIC: [u8; 8] = *b"LGSEG\r\n\x1a";
pub(crate) const BLOCK_MAGIC: [u8; 4] = *b"LGBK";
/// BLAKE3 for the chain and the blocks' roots.
const HASH_BLAKE3: u8 = 1;
const FLAG_LAST: u16 = 1;
const FLAG_PAGED: u16 = 2;

const _: () = assert!(BLOCK_HEADER_BYTES.is_multiple_of(ALIGNMENT as usize));
const _: () = assert!(SEGMENT_HEADER_BYTES.is_multiple_of(ALIGNMENT as usize));
const _: () = assert!(SEGMENT_BYTES >= SEGMENT_BYTES_MIN && SEGMENT_BYTES <= SEGMENT_BYTES_MAX);

/// A value of the chain: BLAKE3 of a segment or block header, each of which contains the value before it.
pub type Hash = [u8; 32];

/// What stands at the beginning of a segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Blocks begin at multiples of this.
    pub alignment: u16,
    /// Index of the worker.
    pub worker: u32,
    /// Which gateway.
    pub node: u64,
    /// Which run of it: monotonic clocks compare only within one.
    pub boot: u64,
    /// Number of the segment in the worker's series.
    pub number: u64,
    /// Bytes of the whole file.
    pub size: u64,
    /// Random; every block of the segment repeats it, so that neither an older file's bytes nor anything a client
    /// sends can pass for a block.
    pub salt: u64,
    /// Number of the segment's first block.
    pub first_block: u64,
    /// When the segment was begun.
    pub begun: Time,
    /// Chain value of what stands before in the series.
    pub previous: Hash,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut buf = Vec::with_capacity(usize::from(self.alignment).max(SEGMENT_HEADER_BYTES));
        let mut out = Encoder::new(&mut buf);
        out.raw(&SEGMENT_MAGIC);
        out.u16(VERSION);
        out.u16(self.alignment);
        out.u32(self.worker);
        out.u64(self.node);
        out.u64(self.boot);
        out.u64(self.number);
        out.u64(self.size);
        out.u64(self.salt);
        out.u64(self.first_block);
        out.u64(self.begun.monotonic_ns);
        out.u64(self.begun.wall_us);
        out.u8(HASH_BLAKE3);
        out.raw(&[0; 15]);
        out.raw(&self.previous);
        buf.resize(SEGMENT_HEADER_BYTES, 0);
        put_crc(&mut buf);
        buf
    }

    pub(crate) fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Result<SegmentHeader, &'static str> {
        let short = |_| "the segment header ends early";
        let mut from = Decoder::new(bytes);
        if from.array().map_err(short)? != SEGMENT_MAGIC {
            return Err("the segment header's magic is wrong");
        }
        if !crc_fits(bytes) {
            return Err("the segment header's CRC-32C does not fit");
        }
        if from.u16().map_err(short)? != VERSION {
            return Err("the segment has a version of the format that this program does not read");
        }
        let header = SegmentHeader {
            alignment: from.u16().map_err(short)?,
            worker: from.u32().map_err(short)?,
            node: from.u64().map_err(short)?,
            boot: from.u64().map_err(short)?,
            number: from.u64().map_err(short)?,
            size: from.u64().map_err(short)?,
            salt: from.u64().map_err(short)?,
            first_block: from.u64().map_err(short)?,
            begun: Time { monotonic_ns: from.u64().map_err(short)?, wall_us: from.u64().map_err(short)? },
            previous: {
                if from.array::<16>().map_err(short)?
                    != [HASH_BLAKE3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
                {
                    return Err("the segment header names algorithms that this program does not know");
                }
                from.array().map_err(short)?
            },
        };
        header.sound()?;
        let reserved = from.take(from.len().saturating_sub(4)).map_err(short)?;
        if reserved.iter().any(|byte| *byte != 0) {
            return Err("the segment header's reserved bytes are not zero");
        }
        Ok(header)
    }

    fn sound(&self) -> Result<(), &'static str> {
        if !self.alignment.is_power_of_two() || self.alignment < ALIGNMENT || self.alignment > ALIGNMENT_MAX {
            return Err("the segment header's alignment is not a power of two from 64 to 4096");
        }
        if self.size > SEGMENT_BYTES_MAX {
            return Err("the segment header's size is over the format's limit");
        }
        Ok(())
    }

    /// Offset of the first block.
    pub(crate) fn blocks_offset(&self) -> u64 {
        (SEGMENT_HEADER_BYTES as u64).next_multiple_of(u64::from(self.alignment))
    }

    /// The chain's value after this header.
    pub fn value(&self) -> Hash {
        *blake3::hash(&self.encode()).as_bytes()
    }
}

/// What stands at the beginning of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockHeader {
    /// The segment ends with this block.
    pub last: bool,
    /// The block ends where a page of the file ends.
    pub paged: bool,
    /// The segment's salt.
    pub salt: u64,
    /// Counts the blocks of the series.
    pub number: u64,
    /// Bytes of records.
    pub payload_bytes: u32,
    /// How many records.
    pub records: u32,
    /// When the block was sealed.
    pub sealed: Time,
    /// Chain value of what stands before.
    pub previous: Hash,
    /// BLAKE3 of the records.
    pub root: Hash,
    /// CRC-32C of the records.
    pub payload_crc: u32,
}

impl BlockHeader {
    pub(crate) fn encode(&self) -> [u8; BLOCK_HEADER_BYTES] {
        let mut buf = Vec::with_capacity(BLOCK_HEADER_BYTES);
        let mut out = Encoder::new(&mut buf);
        out.raw(&BLOCK_MAGIC);
        out.u16(VERSION);
        out.u16(if self.last { FLAG_LAST } else { 0 } | if self.paged { FLAG_PAGED } else { 0 });
        out.u64(self.salt);
        out.u64(self.number);
        out.u32(self.payload_bytes);
        out.u32(self.records);
        out.u64(self.sealed.monotonic_ns);
        out.u64(self.sealed.wall_us);
        out.raw(&self.previous);
        out.raw(&self.root);
        out.u32(self.payload_crc);
        let mut bytes = [0; BLOCK_HEADER_BYTES];
        put_at(&mut bytes, 0, &buf);
        put_crc(&mut bytes);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; BLOCK_HEADER_BYTES], salt: u64) -> Result<BlockHeader, &'static str> {
        let short = |_| "the block header ends early";
        let mut from = Decoder::new(bytes);
        if from.array().map_err(short)? != BLOCK_MAGIC {
            return Err("no block begins here");
        }
        if !crc_fits(bytes) {
            return Err("the block header's CRC-32C does not fit");
        }
        if from.u16().map_err(short)? != VERSION {
            return Err("the block has a version of the format that this program does not read");
        }
        let flags = from.u16().map_err(short)?;
        let header = BlockHeader {
            last: flags & FLAG_LAST != 0,
            paged: flags & FLAG_PAGED != 0,
            salt: from.u64().map_err(short)?,
            number: from.u64().map_err(short)?,
            payload_bytes: from.u32().map_err(short)?,
            records: from.u32().map_err(short)?,
            sealed: Time { monotonic_ns: from.u64().map_err(short)?, wall_us: from.u64().map_err(short)? },
            previous: from.array().map_err(short)?,
            root: from.array().map_err(short)?,
            payload_crc: from.u32().map_err(short)?,
        };
        if header.salt != salt {
            return Err("the block carries another segment's salt");
        }
        if flags & !(FLAG_LAST | FLAG_PAGED) != 0 || from.take(8).map_err(short)? != [0; 8] {
            return Err("the block header's reserved bytes are not zero");
        }
        if header.payload_bytes as usize > PAYLOAD_BYTES_MAX {
            return Err("the block is longer than the format allows");
        }
        Ok(header)
    }

    /// Where the block ends that begins at `offset`, padding included.
    pub(crate) fn end(&self, offset: u64, alignment: u16) -> u64 {
        let alignment = if self.paged { PAGE_BYTES as u64 } else { u64::from(alignment) };
        (offset + BLOCK_HEADER_BYTES as u64 + u64::from(self.payload_bytes)).next_multiple_of(alignment)
    }
}

/// The chain's value after a block whose header has these bytes.
pub(crate) fn block_value(header: &[u8; BLOCK_HEADER_BYTES]) -> Hash {
    *blake3::hash(header).as_bytes()
}

/// Puts the CRC-32C of all bytes but the last four into the last four.
fn put_crc(header: &mut [u8]) {
    let body = header.len().saturating_sub(4);
    let crc = crc32c::crc32c(header.get(..body).unwrap_or_default());
    put_at(header, body, &crc.to_le_bytes());
}

fn crc_fits(header: &[u8]) -> bool {
    header
        .split_last_chunk::<4>()
        .is_some_and(|(body, stored)| crc32c::crc32c(body) == u32::from_le_bytes(*stored))
}

//! The on-disk format of recordings: who holds this crate can not write a block that does not verify, nor read
//! one that does not.
//!
//! No sockets, no threads, no clock. A worker owns one [`Writer`] and one [`Draft`]; records are encoded straight
//! into the open block, [`Writer::seal`] makes it a group commit (header, CRC-32C, chain) and tells where it goes;
//! the worker writes it through its ring. Byte by byte: `FORMAT.md`.

#![forbid(unsafe_code)]

mod codec;
mod draft;
mod entries;
mod files;
#[doc(hidden)]
pub mod fuzzing;
mod layout;
mod paged;
mod reader;
mod record;
mod recover;
mod rows;
mod series;
mod verify;
mod writer;

pub use codec::Malformed;
pub use draft::{Draft, RECORD_BYTES_MAX};
pub use entries::Entry;
pub use files::{SegmentFile, create_segment, segment_path, series_dir, workers};
pub use layout::{
    ALIGNMENT, ALIGNMENT_MAX, BLOCK_BYTES_MAX, BLOCK_HEADER_BYTES, BlockHeader, Hash, PAGED_BYTES_MIN,
    PAYLOAD_BYTES_MAX, SEGMENT_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES,
    SegmentHeader, VERSION,
};
pub use record::{Column, Columns, CommandKind, Record, Ruling, SessionId, Time};
pub use recover::{Crash, Recovery, recover};
pub use rows::{Cells, copied, rows};
pub use series::{Problem, Tail, read_series};
pub use verify::{Report, SeriesReport, verify};
pub use writer::{SegmentRefused, SeriesStart, Write, Writer};

#[cfg(test)]
mod tests;

//! What a series is worth after a crash, and where it goes on.

use crate::layout::Hash;
use crate::record::{Record, SessionId};

/// Where a series goes on, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Number of the segment to begin.
    pub next_segment: u64,
    /// Number of its first block.
    pub next_block: u64,
    /// The chain's value before it.
    pub chain_head: Hash,
    /// The series did not end cleanly: this becomes the first record.
    pub crash: Option<Crash>,
}

/// What a crash left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Crash {
    /// The segment that was being written.
    pub segment: u64,
    /// Its valid blocks.
    pub valid_blocks: u64,
    /// Bytes after them that are not zero, up to the last such byte.
    pub cut_bytes: u64,
    /// Sessions that were open and are over.
    pub sessions: Vec<SessionId>,
}

impl Recovery {
    pub(crate) fn record(&self) -> Option<Record<'static>> {
        self.crash.as_ref().map(|crash| Record::Recovered {
            segment: crash.segment,
            valid_blocks: crash.valid_blocks,
            cut_bytes: crash.cut_bytes,
            sessions: crash.sessions.clone(),
        })
    }
}

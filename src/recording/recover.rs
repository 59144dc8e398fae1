//! What a series is worth after a crash, and where it goes on.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::entries::Entry;
use crate::layout::Hash;
use crate::reader::Depth;
use crate::record::{Record, SessionId};
use crate::series::{Ending, Place, Position, Problem, Series, Visitor};

/// Where a series goes on, and what was found. The default is a series that begins.
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
    /// Damage that no crash explains. The files stay as they are, the series goes on behind all that is readable,
    /// and verification will always tell; somebody must look at it.
    pub alarms: Vec<Problem>,
}

/// What a crash left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Crash {
    /// The segment that was being written.
    pub segment: u64,
    /// Its valid blocks.
    pub valid_blocks: u64,
    /// Bytes behind them, up to the last that is not zero. They stay in the file and count no more.
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

/// Finds where a worker's series goes on: behind the last block that is valid. Changes no file; a torn tail stays
/// where it is, and the series goes on in a new segment whose first record tells of it. Reads the last segments
/// only, back to one that carries the list of open sessions. A folder that is not there is a new series.
pub fn recover(root: &Path, worker: u32) -> io::Result<Recovery> {
    let series = Series::list(root, worker)?;
    let Some(last) = series.segments.last() else { return Ok(Recovery::default()) };
    for from in (0..series.segments.len()).rev() {
        let mut survey =
            Survey { entered: series.segments.get(from).map(|first| first.number), ..Survey::default() };
        let (position, ending) = series.walk(from, Depth::Everything, &mut survey)?;
        if from == 0 || (survey.carried && position.is_some()) {
            return Ok(survey.conclude(last.number, position, ending));
        }
    }
    Ok(Recovery::default())
}

/// Which sessions are open, from the last segments.
#[derive(Debug, Default)]
struct Survey {
    /// Number of the first segment that is walked.
    entered: Option<u64>,
    /// It has the list of open sessions, or says that there are none.
    carried: bool,
    open: BTreeSet<SessionId>,
    alarms: Vec<Problem>,
}

impl Visitor for Survey {
    fn entry(&mut self, place: Place<'_>, entry: &Entry<'_>) {
        match &entry.record {
            Record::SessionOpened { .. } => {
                self.open.insert(entry.session);
            }
            Record::SessionClosed { .. } => {
                self.open.remove(&entry.session);
            }
            Record::Carried { sessions } => {
                self.open = sessions.iter().map(|(session, _)| *session).collect();
                self.carried |= self.entered == Some(place.segment);
            }
            Record::Recovered { .. } => {
                self.open.clear();
                self.carried |= self.entered == Some(place.segment);
            }
            _ => {}
        }
    }

    fn problem(&mut self, problem: Problem) {
        self.alarms.push(problem);
    }
}

impl Survey {
    fn conclude(self, last_segment: u64, position: Option<Position>, ending: Ending) -> Recovery {
        let clean = ending.sealed && self.open.is_empty();
        let Position { next_block, value } = position.unwrap_or_default();
        Recovery {
            next_segment: last_segment.saturating_add(1),
            next_block,
            chain_head: value,
            crash: (!clean).then(|| Crash {
                segment: last_segment,
                valid_blocks: ending.blocks,
                cut_bytes: ending.torn_bytes,
                sessions: self.open.into_iter().collect(),
            }),
            alarms: self.alarms,
        }
    }
}

//! Checks everything a recording says of itself, and says what it found.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use crate::entries::Entry;
use crate::files;
use crate::layout::{Hash, SegmentHeader};
use crate::reader::{Block, Depth};
use crate::record::{Record, SessionId};
use crate::series::{Place, Problem, Series, Tail, Visitor};

/// Most problems of one series that are listed; the rest is counted.
const PROBLEMS_MAX: usize = 1000;

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// One for each worker.
    pub series: Vec<SeriesReport>,
}

impl Report {
    /// Nothing is wrong anywhere.
    pub fn ok(&self) -> bool {
        self.series.iter().all(|series| series.problems.is_empty())
    }
}

/// What a verification found in one worker's series.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeriesReport {
    /// Index of the worker.
    pub worker: u32,
    /// Segments that were begun.
    pub segments: u64,
    /// Segments that were made and never begun.
    pub unused: u64,
    /// Number of the first block that is there.
    pub first_block: u64,
    /// Number of the block that would be next.
    pub next_block: u64,
    /// Blocks that stand.
    pub blocks: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of the records.
    pub payload_bytes: u64,
    /// Sessions that opened.
    pub sessions: u64,
    /// Of them, those that are still open.
    pub open: u64,
    /// Those that a crash ended.
    pub crashed: u64,
    /// The chain's last value.
    pub head: Hash,
    /// What stands behind valid blocks.
    pub tails: Vec<Tail>,
    /// What is wrong, in order.
    pub problems: Vec<Problem>,
    /// Problems beyond those listed.
    pub problems_more: u64,
}

/// Verifies every worker's series below `root`. Fails only where files cannot be read; what is wrong with them is in
/// the report.
pub fn verify(root: &Path) -> io::Result<Report> {
    let series = files::workers(root)?.into_iter().map(|worker| verify_series(root, worker));
    Ok(Report { series: series.collect::<io::Result<_>>()? })
}

fn verify_series(root: &Path, worker: u32) -> io::Result<SeriesReport> {
    let series = Series::list(root, worker)?;
    let report = SeriesReport {
        worker,
        segments: series.segments.len() as u64,
        unused: series.unused,
        ..SeriesReport::default()
    };
    let mut check = Check { report, sessions: HashMap::new(), strangers: true, begun: false };
    let (position, _) = series.walk(0, Depth::Everything, &mut check)?;
    let mut report = check.report;
    report.open = check.sessions.len() as u64;
    if let Some(position) = position {
        report.next_block = position.next_block;
        report.head = position.value;
    }
    Ok(report)
}

struct Check {
    report: SeriesReport,
    /// Open sessions and their last counters.
    sessions: HashMap<SessionId, u64>,
    /// A session may be in the middle when it is seen first: what stood before is not there (retention, damage).
    strangers: bool,
    begun: bool,
}

impl Visitor for Check {
    fn segment(&mut self, header: &SegmentHeader) {
        if !self.begun {
            self.begun = true;
            self.report.first_block = header.first_block;
            self.strangers = header.first_block > 0;
        }
    }

    fn block(&mut self, block: &Block<'_>) {
        self.report.blocks += 1;
        self.report.records += u64::from(block.header.records);
        self.report.payload_bytes += u64::from(block.header.payload_bytes);
    }

    fn entry(&mut self, place: Place<'_>, entry: &Entry<'_>) {
        let problem = self.follow(entry);
        self.report_at(place, problem);
    }

    fn piece(&mut self, place: Place<'_>, session: SessionId, counter: u64) {
        let problem = self.counted(session, counter);
        self.report_at(place, problem);
    }

    fn problem(&mut self, problem: Problem) {
        self.sessions.clear();
        self.strangers = true;
        self.report(problem);
    }

    fn tail(&mut self, tail: Tail) {
        self.report.tails.push(tail);
    }
}

impl Check {
    fn report_at(&mut self, place: Place<'_>, problem: Option<String>) {
        if let Some(what) = problem {
            let (path, block) = (place.path.to_owned(), Some(place.block));
            self.report(Problem { path, block, offset: place.offset, what });
        }
    }

    fn report(&mut self, problem: Problem) {
        if self.report.problems.len() < PROBLEMS_MAX {
            self.report.problems.push(problem);
        } else {
            self.report.problems_more += 1;
        }
    }

    /// What does not fit about a record, given those before it.
    fn follow(&mut self, entry: &Entry<'_>) -> Option<String> {
        match &entry.record {
            Record::Recovered { sessions, .. } => {
                self.sessions.clear();
                self.report.crashed += sessions.len() as u64;
                None
            }
            Record::Carried { sessions } => self.carried(sessions),
            Record::SessionOpened { .. } => self.opened(entry),
            Record::SessionClosed { .. } => {
                let problem = self.counted(entry.session, entry.counter);
                self.sessions.remove(&entry.session);
                problem
            }
            _ => self.counted(entry.session, entry.counter),
        }
    }

    fn opened(&mut self, entry: &Entry<'_>) -> Option<String> {
        self.report.sessions += 1;
        let before = self.sessions.insert(entry.session, entry.counter);
        match (before, entry.counter) {
            (None, 1) => None,
            (Some(_), _) => Some(format!("session {} opens twice", entry.session)),
            (None, counter) => Some(format!("session {} opens with record {counter}", entry.session)),
        }
    }

    fn counted(&mut self, session: SessionId, counter: u64) -> Option<String> {
        match self.sessions.get_mut(&session) {
            Some(last) => {
                let due = last.wrapping_add(1);
                *last = counter;
                (counter != due)
                    .then(|| format!("session {session} goes on with record {counter} where {due} is due"))
            }
            None if counter == 0 => None,
            None if self.strangers => {
                self.sessions.insert(session, counter);
                None
            }
            None => Some(format!("session {session} has record {counter} and was not opened")),
        }
    }

    /// The record says which sessions are open here: nobody may be missing, nobody else may be.
    fn carried(&mut self, carried: &[(SessionId, u64)]) -> Option<String> {
        let told: HashMap<SessionId, u64> = carried.iter().copied().collect();
        let fits = if self.strangers {
            self.sessions.iter().all(|(session, counter)| told.get(session) == Some(counter))
        } else {
            self.sessions == told
        };
        self.sessions = told;
        self.strangers = false;
        (!fits).then(|| "the sessions that it says are open are not those that are".to_owned())
    }
}

//! All segments of one worker in order: follows the chain from file to file, passes over what was given up, and
//! says what does not fit.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::draft::Head;
use crate::entries::{Entry, Joiner, Raws};
use crate::files;
use crate::layout::{Hash, SegmentHeader};
use crate::reader::{Block, Depth, End, Opened, SegmentReader, Step, told};
use crate::record::{Record, SessionId};

/// Something that is wrong with a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// In which file.
    pub path: PathBuf,
    /// In or before which block, if that is known.
    pub block: Option<u64>,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What.
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: offset {}", self.path.display(), self.offset)?;
        if let Some(block) = self.block {
            write!(f, ", block {block}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Bytes behind the last valid block of a segment, and blocks there that count no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// In which file.
    pub path: PathBuf,
    /// Where the valid blocks end, in bytes.
    pub offset: u64,
    /// How many bytes, up to the last that is not zero.
    pub bytes: u64,
    /// Of them, blocks whose write was reported as failed: the next segment repeats them.
    pub repeated_blocks: u64,
}

/// Where a record stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) path: &'a Path,
    pub(crate) segment: u64,
    pub(crate) block: u64,
    pub(crate) offset: u64,
}

/// What a walk over a series tells, in order.
pub(crate) trait Visitor {
    fn segment(&mut self, _header: &SegmentHeader) {}
    fn block(&mut self, _block: &Block<'_>) {}
    fn entry(&mut self, place: Place<'_>, entry: &Entry<'_>);
    /// A piece of a record that is not its last: the record's entry comes with that.
    fn piece(&mut self, _place: Place<'_>, _session: SessionId, _counter: u64) {}
    /// Sessions' counters can not be followed across this.
    fn problem(&mut self, problem: Problem);
    fn tail(&mut self, _tail: Tail) {}
}

/// Where a walk stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Position {
    pub(crate) next_block: u64,
    pub(crate) value: Hash,
}

/// One file of a series.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    /// `None`: unreadable.
    pub(crate) header: Option<SegmentHeader>,
    opening: Opening,
}

/// What a segment's first record says of the time before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// There is no block.
    Nothing,
    /// Nothing particular.
    Regular,
    /// A write had failed.
    Gap,
    /// The gateway had ended without completing a segment.
    Recovered { segment: u64, valid_blocks: u64, cut_bytes: u64 },
}

/// How a segment's walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ending {
    pub(crate) blocks: u64,
    pub(crate) sealed: bool,
    pub(crate) torn_bytes: u64,
}

/// The files of a series; those that were never begun are only counted.
#[derive(Debug)]
pub(crate) struct Series {
    worker: u32,
    pub(crate) segments: Vec<Segment>,
    pub(crate) unused: u64,
}

impl Series {
    pub(crate) fn list(root: &Path, worker: u32) -> io::Result<Series> {
        let mut series = Series { worker, segments: Vec::new(), unused: 0 };
        for (number, path) in files::segments(root, worker)? {
            match SegmentReader::open(File::open(&path)?, Depth::Structure)? {
                Opened::Unused => series.unused += 1,
                Opened::Segment(mut reader) => {
                    let opening = opening(&mut reader)?;
                    let header = reader.header().cloned();
                    series.segments.push(Segment { number, path, header, opening });
                }
                Opened::Headless(..) => {
                    series.segments.push(Segment { number, path, header: None, opening: Opening::Nothing });
                }
            }
        }
        Ok(series)
    }

    /// Walks the segments from index `from` on. The result is where the series goes on (`None`: nothing was
    /// readable) and how the last segment ended.
    pub(crate) fn walk(
        &self,
        from: usize,
        depth: Depth,
        visitor: &mut dyn Visitor,
    ) -> io::Result<(Option<Position>, Ending)> {
        let mut walk = Walk { series: self, depth, visitor, joiner: Joiner::default(), position: None };
        let mut ending = Ending::default();
        for index in from..self.segments.len() {
            ending = walk.segment(index)?;
        }
        Ok((walk.position, ending))
    }

    fn after(&self, index: usize) -> &[Segment] {
        self.segments.get(index + 1..).unwrap_or_default()
    }
}

fn opening<S: crate::reader::Source>(reader: &mut SegmentReader<S>) -> io::Result<Opening> {
    let Some(Step::Block(block)) = reader.step()? else { return Ok(Opening::Nothing) };
    let Some(Ok(raw)) = Raws::new(block.payload).next() else { return Ok(Opening::Regular) };
    let record = Record::decode(raw.head.kind, raw.body);
    Ok(match record {
        Ok(Record::Gap { .. }) => Opening::Gap,
        Ok(Record::Recovered { segment, valid_blocks, cut_bytes, .. }) => {
            Opening::Recovered { segment, valid_blocks, cut_bytes }
        }
        _ => Opening::Regular,
    })
}

struct Walk<'a> {
    series: &'a Series,
    depth: Depth,
    visitor: &'a mut dyn Visitor,
    joiner: Joiner,
    position: Option<Position>,
}

impl Walk<'_> {
    fn segment(&mut self, index: usize) -> io::Result<Ending> {
        let Some(segment) = self.series.segments.get(index) else { return Ok(Ending::default()) };
        match SegmentReader::open(File::open(&segment.path)?, self.depth)? {
            Opened::Unused => Ok(Ending::default()),
            Opened::Headless(reader, why) => self.headless(segment, index, reader, why),
            Opened::Segment(reader) => {
                let Some(header) = reader.header().cloned() else { return Ok(Ending::default()) };
                self.check_header(segment, &header, reader.size());
                let next = self.series.after(index).iter().find_map(|next| next.header.as_ref());
                let given_up = next.is_some_and(|next| {
                    next.previous == header.previous && next.first_block == header.first_block
                });
                if !given_up {
                    self.enter(segment, &header);
                }
                self.visitor.segment(&header);
                let stop = next.map_or(u64::MAX, |next| next.first_block);
                self.blocks(segment, index, reader, stop, given_up)
            }
        }
    }

    /// The chain goes from the file before into this one.
    fn enter(&mut self, segment: &Segment, header: &SegmentHeader) {
        if let Some(position) = self.position {
            if position.next_block != header.first_block {
                let (first, next) = (header.first_block, position.next_block);
                self.problem(
                    segment,
                    None,
                    0,
                    format!("it begins with block {first} where block {next} belongs"),
                );
            } else if position.value != header.previous {
                self.problem(
                    segment,
                    None,
                    0,
                    "the chain's value does not fit the segment before it".to_owned(),
                );
            }
        }
        self.position = Some(Position { next_block: header.first_block, value: header.value() });
    }

    fn check_header(&mut self, segment: &Segment, header: &SegmentHeader, size: u64) {
        if header.number != segment.number {
            let what = format!("the file is named {} and says that it is {}", segment.number, header.number);
            self.problem(segment, None, 0, what);
        }
        if header.worker != self.series.worker {
            self.problem(segment, None, 0, format!("it belongs to worker {}", header.worker));
        }
        if size > header.size {
            let what = format!("the file has {size} bytes and says that it has {}", header.size);
            self.problem(segment, None, header.size, what);
        }
    }

    fn headless(
        &mut self,
        segment: &Segment,
        index: usize,
        mut reader: SegmentReader<File>,
        why: &'static str,
    ) -> io::Result<Ending> {
        let mut ending = Ending::default();
        while let Some(step) = reader.step()? {
            match step {
                Step::Block(block) => {
                    if ending.blocks == 0 {
                        self.problem(segment, None, 0, format!("{why}, yet blocks stand in the file"));
                    }
                    ending.blocks += 1;
                    self.take(segment, &block);
                }
                Step::Damage { .. } => {}
                Step::End(end) => ending.torn_bytes = end.torn_bytes,
            }
        }
        if ending.blocks == 0 {
            // A header that was being written when the gateway ended, or whose write failed.
            self.visitor.tail(tail(segment, 0, ending.torn_bytes, 0));
            self.check_ending(segment, index, ending, 0, 0, why);
        }
        Ok(ending)
    }

    fn blocks(
        &mut self,
        segment: &Segment,
        index: usize,
        mut reader: SegmentReader<File>,
        stop: u64,
        given_up: bool,
    ) -> io::Result<Ending> {
        let mut ending = Ending::default();
        let mut repeated = 0;
        let mut valid_until = 0;
        while let Some(step) = reader.step()? {
            match step {
                Step::Block(block) if given_up || block.header.number >= stop => repeated += 1,
                Step::Block(block) => {
                    ending.blocks += 1;
                    ending.sealed = block.header.last;
                    self.take(segment, &block);
                }
                Step::Damage { offset, block, what } => {
                    self.joiner.forget();
                    self.position = None;
                    self.problem(segment, block, offset, what);
                }
                Step::End(end) => {
                    valid_until = end.offset;
                    self.end(segment, index, &mut ending, end, repeated);
                }
            }
        }
        if given_up && ending.blocks + repeated > 0 {
            self.problem(
                segment,
                None,
                valid_until,
                "blocks stand in a segment that was given up".to_owned(),
            );
        }
        Ok(ending)
    }

    fn end(&mut self, segment: &Segment, index: usize, ending: &mut Ending, end: End, repeated: u64) {
        ending.torn_bytes = end.torn_bytes;
        if end.sealed && end.torn_bytes > 0 {
            self.problem(segment, None, end.offset, end.why.to_owned());
        } else if repeated > 0 || end.torn_bytes > 0 {
            self.visitor.tail(tail(segment, end.offset, end.torn_bytes, repeated));
        }
        self.check_ending(segment, index, *ending, repeated, end.offset, end.why);
    }

    /// A segment may end without its last block only where a crash or a failed write ended it, and what came after
    /// says so.
    fn check_ending(
        &mut self,
        segment: &Segment,
        index: usize,
        ending: Ending,
        repeated: u64,
        offset: u64,
        why: &str,
    ) {
        if ending.sealed && repeated == 0 {
            return;
        }
        let opening = self.series.after(index).iter().map(|next| next.opening);
        let opening = opening.into_iter().find(|opening| *opening != Opening::Nothing);
        let what = match opening {
            None | Some(Opening::Gap | Opening::Nothing) if repeated <= 1 => return,
            Some(Opening::Recovered { segment: crashed, valid_blocks, cut_bytes }) if repeated <= 1 => {
                if crashed != segment.number
                    || (valid_blocks, cut_bytes) == (ending.blocks, ending.torn_bytes)
                {
                    return;
                }
                format!(
                    "recovery found {valid_blocks} blocks and cut {cut_bytes} bytes; there are {} and {}",
                    ending.blocks, ending.torn_bytes
                )
            }
            Some(Opening::Regular) => format!("the segment ends without its last block ({why})"),
            _ => {
                format!("{repeated} blocks stand where the next segment begins: one at most can have failed")
            }
        };
        self.joiner.forget();
        self.problem(segment, None, offset, what);
    }

    fn take(&mut self, segment: &Segment, block: &Block<'_>) {
        let value = crate::layout::block_value(&block.header.encode());
        self.position = Some(Position { next_block: block.header.number.wrapping_add(1), value });
        self.visitor.block(block);
        let place = Place {
            path: &segment.path,
            segment: segment.number,
            block: block.header.number,
            offset: block.offset,
        };
        let mut records = 0u32;
        let mut malformed = None;
        for raw in Raws::new(block.payload) {
            records += 1;
            let head = raw.as_ref().map_or(Head::default(), |raw| raw.head);
            match raw.and_then(|raw| self.joiner.join(raw)) {
                Ok(Some(entry)) => self.visitor.entry(place, &entry),
                Ok(None) => self.visitor.piece(place, head.session, head.counter),
                Err(error) => malformed = Some(told(error, head.kind)),
            }
        }
        if records != block.header.records && malformed.is_none() {
            malformed =
                Some(format!("it has {records} records and says that it has {}", block.header.records));
        }
        if let Some(what) = malformed {
            self.problem(segment, Some(block.header.number), block.offset, what);
        }
    }

    fn problem(&mut self, segment: &Segment, block: Option<u64>, offset: u64, what: String) {
        self.visitor.problem(Problem { path: segment.path.clone(), block, offset, what });
    }
}

fn tail(segment: &Segment, offset: u64, bytes: u64, repeated_blocks: u64) -> Tail {
    Tail { path: segment.path.clone(), offset, bytes, repeated_blocks }
}

/// Reads every record of a worker's series in order, as far as it can be read; the problems found on the way come
/// back. Checks structure, not hashes: that is for [`verify`](crate::verify()).
pub fn read_series(
    root: &Path,
    worker: u32,
    on_entry: &mut dyn FnMut(&Entry<'_>),
) -> io::Result<Vec<Problem>> {
    struct Read<'a> {
        on_entry: &'a mut dyn FnMut(&Entry<'_>),
        problems: Vec<Problem>,
    }
    impl Visitor for Read<'_> {
        fn entry(&mut self, _: Place<'_>, entry: &Entry<'_>) {
            (self.on_entry)(entry);
        }
        fn problem(&mut self, problem: Problem) {
            self.problems.push(problem);
        }
    }
    let mut read = Read { on_entry, problems: Vec::new() };
    Series::list(root, worker)?.walk(0, Depth::Structure, &mut read)?;
    Ok(read.problems)
}

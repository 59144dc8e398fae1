//! The worker's recording: group commits through the ring, one in flight and one filling, into segment files
//! that control makes ahead of time.
//!
//! ```text
//!   lanes ──push──► Draft ──seal──► write in flight ──Written──► mark reached: gates open
//!                     │  one block filling │  one block flying
//!                     ├ behind: who adds much waits for its turn
//!                     └ above the most: the pool is held, nobody is read from
//!   large blocks that nobody waits for go past the page cache, while the disk keeps up; all others through it
//!   a write fails, takes too long, or no segment can be had ──► down: sessions end, no command passes
//!   the next segment's header is written ──► up again (its first block is a Gap)
//! ```

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use lockgate_bridge::{Counters, Notice};
use lockgate_recording::{Draft, PAGED_BYTES_MIN, Time, Write, Writer};
use lockgate_ring::{Driver, FileId};

use crate::mail::Mail;
use crate::{Durability, RecordingSetup, Segment, ids};

/// A block is written when it has this many bytes: what a write costs besides its bytes is little by then.
const BLOCK_BYTES: usize = 256 << 10;
/// A block is written when its first record is this old, so that a reader of the recording is never far behind.
const BLOCK_AGE_NS: u64 = 20_000_000;
/// With this many bytes not written the disk is slower than the peers: those who add much to it wait, one after the
/// other, and nobody else has to.
const BACKLOG_BYTES_BEHIND: usize = 1 << 20;
/// With this many bytes not written nobody is read from any more.
const BACKLOG_BYTES_MAX: usize = 16 << 20;
/// Up to here the disk keeps up, and large blocks go past the page cache; above, they go where they go faster.
const BACKLOG_BYTES_DIRECT: usize = 1 << 20;
/// Reading goes on when the backlog has fallen to this.
const BACKLOG_BYTES_LOW: usize = 8 << 20;
/// A write that takes longer has failed, whatever becomes of it; and so has control if no segment came in this time.
const WRITE_NS_MAX: u64 = 10_000_000_000;
/// While there is no segment, control is asked again this often.
const ASK_AGAIN_NS: u64 = 1_000_000_000;
/// At the end: how long to wait for a segment or a write before what is not written is given up.
const FINISH_NS_MAX: u64 = 15_000_000_000;

const _: () = assert!(BLOCK_BYTES < BACKLOG_BYTES_BEHIND && BACKLOG_BYTES_BEHIND < BACKLOG_BYTES_LOW);
const _: () = assert!(BACKLOG_BYTES_LOW < BACKLOG_BYTES_MAX);

/// What every call of the recorder needs of its worker.
pub(crate) struct Turn<'a> {
    pub now: Time,
    pub counters: &'a Counters,
    pub mail: &'a mut Mail,
}

/// One worker's recording.
#[derive(Debug)]
pub(crate) struct Recorder {
    writer: Writer,
    worker: u32,
    durability: Durability,
    source: ids::Source,
    /// The segment being written.
    file: Option<FileId>,
    /// The same past the page cache, where that is possible.
    direct: Option<FileId>,
    /// It was tried, and the disk would not.
    never_direct: bool,
    /// The large block in flight.
    flight: Option<Flight>,
    pace: Pace,
    /// The one after it, if it is here already.
    next: Option<Segment>,
    /// Number of the segment that control was asked for, and when.
    asked: Option<(u64, u64)>,
    /// Why the segment that was asked for cannot be had; it may be asked for long before it is needed.
    refused: Option<String>,
    /// Since when there is none to write into.
    missing_since_ns: Option<u64>,
    /// When the oldest record that waits came.
    waiting_since_ns: Option<u64>,
    /// When the write in flight was begun.
    launched_ns: u64,
    /// The write in flight completes its segment.
    last: bool,
    /// Why nothing can be recorded.
    down: Option<String>,
    /// `down` is news.
    alarm: bool,
    holding: bool,
    end: End,
    /// Bytes that were given up at the end, if it could not be written.
    lost: Option<usize>,
}

/// What is to be known of a large block's write when it ends.
#[derive(Debug, Clone, Copy)]
struct Flight {
    direct: bool,
    offset: u64,
    start: usize,
    bytes: usize,
}

/// What large blocks take either way, in nanoseconds for each KiB; 0: not known yet.
#[derive(Debug, Default)]
struct Pace {
    direct: u64,
    cached: u64,
}

impl Pace {
    fn learn(&mut self, direct: bool, bytes: usize, took_ns: u64) {
        let now = took_ns / u64::try_from(bytes >> 10).unwrap_or(1).max(1);
        let Pace { direct: one, cached: other } = self;
        let (known, untried) = if direct { (one, other) } else { (other, one) };
        *known = if *known == 0 { now } else { (*known * 3 + now) / 4 };
        // What was slow once may not be any more: after some hundreds of blocks it is tried again.
        *untried -= *untried / 64;
    }

    fn favours_direct(&self) -> bool {
        self.direct <= self.cached
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// What waits is being written.
    Finishing {
        until_ns: u64,
    },
    /// The last block of all is in flight.
    Closing {
        until_ns: u64,
    },
    Syncing {
        until_ns: u64,
        file: FileId,
    },
    Done,
}

impl Recorder {
    pub(crate) fn new(worker: u32, setup: RecordingSetup, source: ids::Source) -> Recorder {
        let RecordingSetup { start, segment, durability } = setup;
        Recorder {
            writer: Writer::new(start),
            worker,
            durability,
            source,
            file: None,
            direct: None,
            never_direct: false,
            flight: None,
            pace: Pace::default(),
            next: Some(segment),
            asked: None,
            refused: None,
            missing_since_ns: None,
            waiting_since_ns: None,
            launched_ns: 0,
            last: false,
            down: None,
            alarm: false,
            holding: false,
            end: End::Open,
            lost: None,
        }
    }

    /// From now on commands are forwarded by this rule.
    pub(crate) fn set_durability(&mut self, durability: Durability) {
        self.durability = durability;
    }

    /// Why nothing can be recorded, and therefore no command may pass.
    pub(crate) fn down(&self) -> Option<&str> {
        self.down.as_deref()
    }

    /// Whether the recording went down since this was last asked.
    pub(crate) fn take_alarm(&mut self) -> bool {
        std::mem::take(&mut self.alarm)
    }

    /// Whether bytes whose records go up to `mark` must wait.
    pub(crate) fn must_wait(&self, mark: u64) -> bool {
        self.durability == Durability::Os && mark > self.writer.written()
    }

    /// The mark up to which everything is written.
    pub(crate) fn written(&self) -> u64 {
        self.writer.written()
    }

    /// Much waits for the disk: who adds much waits for it, too.
    pub(crate) fn is_behind(&self, draft: &Draft) -> bool {
        self.holding || draft.len() > BACKLOG_BYTES_BEHIND
    }

    /// When the recorder wants a turn though nothing else happens.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        let write = self.writer.is_busy().then(|| self.launched_ns + WRITE_NS_MAX);
        let write = write.or(self.missing_since_ns.map(|since| since + WRITE_NS_MAX));
        let age = if self.writer.is_busy() || self.file.is_none() {
            None
        } else {
            self.waiting_since_ns.map(|since| since + BLOCK_AGE_NS)
        };
        // While a write is stuck there may be nothing to ask for.
        let missing =
            self.down.is_some() && self.next.is_none() && self.writer.needs_segment() && self.goes_on();
        let ask = self.asked.filter(|_| missing).map(|(_, at_ns)| at_ns + ASK_AGAIN_NS);
        let end = match self.end {
            End::Finishing { until_ns } | End::Closing { until_ns } | End::Syncing { until_ns, .. } => {
                Some(until_ns)
            }
            End::Open | End::Done => None,
        };
        [write.filter(|_| self.down.is_none()), age, ask, end].into_iter().flatten().min()
    }

    /// A segment file came from control.
    pub(crate) fn supply(&mut self, segment: Segment) {
        self.next = Some(segment);
        self.refused = None;
    }

    /// No segment can be had. That matters when the one at hand is full: see [`Recorder::pump`].
    pub(crate) fn refuse(&mut self, error: &str) {
        self.refused = Some(format!("there is no file to record into: {error}"));
    }

    /// The end of a turn: begins what is due. `gated`: commands wait for their records.
    pub(crate) fn pump<D: Driver>(
        &mut self,
        ring: &mut D,
        draft: &mut Draft,
        gated: bool,
        turn: &mut Turn<'_>,
    ) {
        let (now, counters) = (turn.now, turn.counters);
        self.watch(turn);
        self.begin_segment(ring, now, turn.mail);
        self.miss(now, turn.mail);
        self.ask(now, turn.mail);
        if draft.is_empty() {
            self.waiting_since_ns = None;
        } else if self.waiting_since_ns.is_none() {
            self.waiting_since_ns = Some(now.monotonic_ns);
        }
        if self.is_due(draft, now, gated)
            && let Some(write) = self.writer.seal(draft, now)
        {
            self.waiting_since_ns = (!draft.is_empty()).then_some(now.monotonic_ns);
            let calm = !gated && (draft.len() <= BACKLOG_BYTES_DIRECT || self.pace.favours_direct());
            self.launch(ring, write, calm, now, counters);
        }
        self.finish(ring, draft, now, counters);
        self.hold(ring, draft, counters);
    }

    /// A write is done.
    pub(crate) fn written_event<D: Driver>(
        &mut self,
        ring: &mut D,
        token: u64,
        result: io::Result<()>,
        buf: Vec<u8>,
        turn: &mut Turn<'_>,
    ) {
        let flight = self.flight.take();
        let refused = flight.filter(|flight| flight.direct);
        match result {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && refused.is_some() => {
                self.never_direct = true;
                self.close_direct(ring);
                tracing::warn!(
                    worker = self.worker,
                    "the recording's disk takes no direct writes: all go through the page cache"
                );
                if let (Some(file), Some(Flight { offset, start, .. })) = (self.file, refused) {
                    ring.write(file, offset, buf, start, token);
                }
            }
            Ok(()) => {
                if let Some(Flight { direct, bytes, .. }) = flight {
                    self.pace.learn(direct, bytes, turn.now.monotonic_ns.saturating_sub(self.launched_ns));
                }
                self.writer.acknowledged(token, buf);
                if self.down.take().is_some() {
                    tracing::warn!(worker = self.worker, "recording goes on");
                }
                if std::mem::take(&mut self.last) {
                    self.complete(ring, turn.now);
                }
            }
            Err(error) => {
                turn.counters.recording_failures.add(1);
                let why = error.to_string();
                self.writer.failed(token, buf, &why, turn.now);
                self.last = false;
                if let End::Closing { until_ns } = self.end {
                    self.end = End::Finishing { until_ns };
                }
                self.close_direct(ring);
                if let Some(file) = self.file.take() {
                    ring.close_file(file);
                }
                self.fail(format!("writing the recording failed: {why}"), turn.mail);
            }
        }
    }

    /// A sync is done.
    pub(crate) fn synced_event<D: Driver>(&mut self, ring: &mut D, result: io::Result<()>) {
        if let Err(error) = result {
            // The next thing that matters on that file would be another sync, and none is ever tried again.
            tracing::error!(worker = self.worker, %error, "the kernel could not bring a segment to the disk");
        }
        if let End::Syncing { file, .. } = self.end {
            ring.close_file(file);
            self.end = End::Done;
        }
    }

    /// No more records come: write all, complete the segment, sync.
    pub(crate) fn begin_end(&mut self, now: Time) {
        if self.end == End::Open {
            self.end = End::Finishing { until_ns: now.monotonic_ns + FINISH_NS_MAX };
        }
    }

    /// Everything is written and synced, or given up.
    pub(crate) fn is_done(&self) -> bool {
        self.end == End::Done
    }

    /// What became of it, once it is done.
    ///
    /// # Errors
    /// The end could not be written.
    pub(crate) fn outcome(&self) -> io::Result<()> {
        match self.lost {
            None => Ok(()),
            Some(bytes) => Err(io::Error::other(format!(
                "the end of the recording could not be written, {bytes} bytes of it are lost: {}",
                self.down.as_deref().unwrap_or("it took too long")
            ))),
        }
    }

    fn is_due(&self, draft: &Draft, now: Time, gated: bool) -> bool {
        let old = self.waiting_since_ns.is_some_and(|since| now.monotonic_ns >= since + BLOCK_AGE_NS);
        !self.writer.is_busy()
            && (gated || old || draft.len() >= BLOCK_BYTES || matches!(self.end, End::Finishing { .. }))
    }

    /// Something may still have to be written: behind the last block of all no segment begins, or the next start would
    /// take its header for what a crash left.
    fn goes_on(&self) -> bool {
        matches!(self.end, End::Open | End::Finishing { .. })
    }

    /// Puts the next segment in place of a full or failed one.
    fn begin_segment<D: Driver>(&mut self, ring: &mut D, now: Time, mail: &mut Mail) {
        if !self.writer.needs_segment() || !self.goes_on() {
            return;
        }
        let Some(Segment { number, file, direct, path }) = self.next.take() else { return };
        match self.try_begin(number, file, now) {
            Ok((write, file)) => {
                let id = ring.open_file(file);
                self.file = Some(id);
                self.direct = direct.filter(|_| !self.never_direct).map(|file| ring.open_file(file));
                self.asked = None;
                self.launched_ns = now.monotonic_ns;
                ring.write(id, write.offset, write.buf, write.start, write.token);
            }
            Err(error) => self.fail(format!("segment {path} is of no use: {error}"), mail),
        }
    }

    /// Without a segment nothing can be recorded: as soon as it is known that none comes, or none has come in time.
    fn miss(&mut self, now: Time, mail: &mut Mail) {
        if !self.writer.needs_segment() || !self.goes_on() || self.down.is_some() {
            self.missing_since_ns = None;
            return;
        }
        let since = *self.missing_since_ns.get_or_insert(now.monotonic_ns);
        let late = now.monotonic_ns >= since + WRITE_NS_MAX;
        let why = late.then(|| String::from("no file to record into has come"));
        if let Some(why) = self.refused.clone().or(why) {
            self.missing_since_ns = None;
            self.fail(why, mail);
        }
    }

    fn try_begin(&mut self, number: u64, file: OwnedFd, now: Time) -> io::Result<(Write, OwnedFd)> {
        let file = File::from(file);
        let size = file.metadata()?.len();
        let mut salt = [0; 8];
        (self.source)(&mut salt)?;
        let write = self
            .writer
            .begin_segment(number, size, u64::from_ne_bytes(salt), now)
            .map_err(io::Error::other)?;
        Ok((write, OwnedFd::from(file)))
    }

    /// Asks for the next segment ahead of time; again and again while there is none at all.
    fn ask(&mut self, now: Time, mail: &mut Mail) {
        let number = self.writer.next_segment();
        if !self.writer.wants_segment() || self.next.is_some() || !self.goes_on() {
            return;
        }
        let again = self.writer.needs_segment();
        let due = self.asked.is_none_or(|(asked, at_ns)| {
            asked != number || (again && now.monotonic_ns >= at_ns + ASK_AGAIN_NS)
        });
        if due {
            self.asked = Some((number, now.monotonic_ns));
            mail.send(Notice::SegmentWanted { worker: self.worker, number });
        }
    }

    /// `calm`: nobody waits for this write, and the disk keeps up.
    fn launch<D: Driver>(&mut self, ring: &mut D, write: Write, calm: bool, now: Time, counters: &Counters) {
        let Some(cached) = self.file else { return };
        let bytes = write.bytes().len();
        let direct = self.direct.filter(|_| write.is_paged() && calm);
        counters.recording_bytes.add(u64::try_from(bytes).unwrap_or(u64::MAX));
        counters.recording_blocks.add(1);
        self.launched_ns = now.monotonic_ns;
        self.last = write.last;
        let Write { offset, start, .. } = write;
        let flight = Flight { direct: direct.is_some(), offset, start, bytes };
        self.flight = (bytes >= PAGED_BYTES_MIN).then_some(flight);
        ring.write(direct.unwrap_or(cached), write.offset, write.buf, write.start, write.token);
    }

    /// The segment has its last block: bring it to the disk and let go of it.
    fn complete<D: Driver>(&mut self, ring: &mut D, now: Time) {
        self.close_direct(ring);
        let Some(file) = self.file.take() else { return };
        ring.sync(file, u64::from(file.0));
        if let End::Closing { .. } = self.end {
            self.end = End::Syncing { until_ns: now.monotonic_ns + FINISH_NS_MAX, file };
        } else {
            ring.close_file(file);
        }
    }

    fn close_direct<D: Driver>(&mut self, ring: &mut D) {
        if let Some(direct) = self.direct.take() {
            ring.close_file(direct);
        }
    }

    /// The clean end: when nothing is left to seal, the last block.
    fn finish<D: Driver>(&mut self, ring: &mut D, draft: &Draft, now: Time, counters: &Counters) {
        let until_ns = match self.end {
            End::Finishing { until_ns } | End::Closing { until_ns } | End::Syncing { until_ns, .. } => {
                until_ns
            }
            End::Open | End::Done => return,
        };
        let hopeless = self.down.is_some() && self.next.is_none() && !self.writer.is_busy();
        if now.monotonic_ns >= until_ns || hopeless {
            self.lost = Some(draft.len());
            self.end = End::Done;
            return;
        }
        if draft.is_empty()
            && matches!(self.end, End::Finishing { .. })
            && let Some(write) = self.writer.finish(now)
        {
            self.end = End::Closing { until_ns };
            self.launch(ring, write, false, now, counters);
        }
    }

    /// A write that takes too long counts as failed for everybody who waits for it.
    fn watch(&mut self, turn: &mut Turn<'_>) {
        let late = self.writer.is_busy() && turn.now.monotonic_ns >= self.launched_ns + WRITE_NS_MAX;
        if late && self.down.is_none() {
            turn.counters.recording_failures.add(1);
            self.fail(String::from("a write of the recording does not end"), turn.mail);
        }
    }

    fn fail(&mut self, error: String, mail: &mut Mail) {
        tracing::error!(worker = self.worker, error, "recording has stopped; no command passes");
        if self.down.is_none() {
            self.alarm = true;
            mail.send(Notice::RecordingFailed { worker: self.worker, error: error.clone() });
        }
        self.down = Some(error);
    }

    /// Stops all receiving while too much waits for the disk.
    fn hold<D: Driver>(&mut self, ring: &mut D, draft: &Draft, counters: &Counters) {
        if !self.holding && draft.len() > BACKLOG_BYTES_MAX {
            self.holding = true;
            counters.recording_stalls.add(1);
            ring.hold_pool(true);
        } else if self.holding && draft.len() <= BACKLOG_BYTES_LOW {
            self.holding = false;
            ring.hold_pool(false);
        }
    }
}

#[cfg(test)]
mod tests;

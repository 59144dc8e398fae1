//! The recorder over a driver that does what the test says.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use lockgate_bridge::{Inbox, Wake, mailbox};
use lockgate_recording::{
    Record, Recovery, SEGMENT_BYTES_MIN, SegmentFile, SeriesStart, SessionId, create_segment, verify,
};
use lockgate_ring::{ConnId, Event, Lease, ListenerId, Wait, Waker};

use super::*;

/// Files only. Writes wait until [`Fake::carry_out`].
#[derive(Default)]
struct Fake {
    files: Vec<Option<File>>,
    writes: Vec<(FileId, u64, Vec<u8>, usize, u64)>,
    syncs: Vec<FileId>,
    held: bool,
}

impl Fake {
    /// Does the write in flight, as the recorder is to hear of it.
    fn carry_out(&mut self) -> Option<(u64, Vec<u8>)> {
        assert!(self.writes.len() <= 1, "one write in flight");
        let (file, offset, buf, start, token) = self.writes.pop()?;
        let file = self.files[usize::try_from(file.0).unwrap()].as_ref().expect("an open file");
        file.write_all_at(&buf[start..], offset).unwrap();
        Some((token, buf))
    }
}

impl Driver for Fake {
    fn open_file(&mut self, file: OwnedFd) -> FileId {
        self.files.push(Some(File::from(file)));
        FileId(u32::try_from(self.files.len()).unwrap() - 1)
    }
    fn close_file(&mut self, file: FileId) {
        let open = self.files[usize::try_from(file.0).unwrap()].take();
        assert!(open.is_some(), "closed once");
    }
    fn write(&mut self, file: FileId, offset: u64, buf: Vec<u8>, start: usize, token: u64) {
        self.writes.push((file, offset, buf, start, token));
    }
    fn sync(&mut self, file: FileId, _token: u64) {
        self.syncs.push(file);
    }
    fn hold_pool(&mut self, hold: bool) {
        assert_ne!(self.held, hold, "said once");
        self.held = hold;
    }

    fn listen(&mut self, _: TcpListener) -> io::Result<ListenerId> {
        unreachable()
    }
    fn stop_listening(&mut self, _: ListenerId) {
        unreachable()
    }
    fn dial(&mut self, _: SocketAddr) -> io::Result<ConnId> {
        unreachable()
    }
    fn resume(&mut self, _: ConnId) {
        unreachable()
    }
    fn pause(&mut self, _: ConnId) {
        unreachable()
    }
    fn bytes(&self, _: &Lease) -> &[u8] {
        unreachable()
    }
    fn bytes_mut(&mut self, _: &Lease) -> &mut [u8] {
        unreachable()
    }
    fn release(&mut self, _: Lease) {
        unreachable()
    }
    fn send_slot(&mut self, _: ConnId, _: &Lease, _: Range<usize>) {
        unreachable()
    }
    fn send_copy(&mut self, _: ConnId, _: &[u8]) {
        unreachable()
    }
    fn finish(&mut self, _: ConnId) {
        unreachable()
    }
    fn close(&mut self, _: ConnId, _: bool) {
        unreachable()
    }
    fn queued(&self, _: ConnId) -> usize {
        unreachable()
    }
    fn pinned(&self, _: ConnId) -> usize {
        unreachable()
    }
    fn turn(&mut self, _: Wait, _: &mut Vec<Event>) -> io::Result<()> {
        unreachable()
    }
    fn sleeps(&self) -> u64 {
        unreachable()
    }
    fn waker(&self) -> Waker {
        unreachable()
    }
}

fn unreachable() -> ! {
    panic!("the recorder has no business with connections")
}

struct Nobody;
impl Wake for Nobody {
    fn wake(&self) {}
}

struct Bench {
    folder: tempfile::TempDir,
    ring: Fake,
    draft: Draft,
    recorder: Recorder,
    counters: Counters,
    mail: Mail,
    notices: Inbox<Notice>,
    now: Time,
    segment_bytes: u64,
}

fn no_random(_: &mut [u8]) -> io::Result<()> {
    Ok(())
}

impl Bench {
    fn new(durability: Durability) -> Bench {
        Bench::with(durability, SEGMENT_BYTES_MIN)
    }

    fn with(durability: Durability, segment_bytes: u64) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let now = Time { monotonic_ns: 1_000, wall_us: 1 };
        let start = SeriesStart { worker: 0, node: 1, boot: 2, recovery: Recovery::default(), now };
        let segment = segment_of(&folder, 0, segment_bytes);
        let (outlet, notices) = mailbox(64, Arc::new(Nobody) as Arc<dyn Wake>);
        let recorder = Recorder::new(0, RecordingSetup { start, segment, durability }, no_random);
        Bench {
            folder,
            ring: Fake::default(),
            draft: Draft::default(),
            recorder,
            counters: Counters::default(),
            mail: Mail::new(outlet),
            notices,
            now,
            segment_bytes,
        }
    }

    fn push(&mut self, bytes: usize) {
        let text = "x".repeat(bytes);
        self.draft.push(SessionId(0), self.now, &Record::Gap { reason: &text });
    }

    fn pump(&mut self, gated: bool) {
        let Bench { recorder, ring, draft, counters, mail, now, .. } = self;
        recorder.pump(ring, draft, gated, &mut Turn { now: *now, counters, mail });
    }

    fn later(&mut self, by_ns: u64) {
        self.now.monotonic_ns += by_ns;
    }

    /// The write in flight ends well; `false`: there was none.
    fn written(&mut self) -> bool {
        let Some((token, buf)) = self.ring.carry_out() else { return false };
        self.tell(token, Ok(()), buf);
        true
    }

    fn fails(&mut self) {
        let (_, _, buf, _, token) = self.ring.writes.pop().expect("a write in flight");
        self.tell(token, Err(io::Error::other("no space left on device")), buf);
    }

    fn tell(&mut self, token: u64, result: io::Result<()>, buf: Vec<u8>) {
        let Bench { recorder, ring, counters, mail, now, .. } = self;
        recorder.written_event(ring, token, result, buf, &mut Turn { now: *now, counters, mail });
    }

    fn notices(&self) -> Vec<String> {
        std::iter::from_fn(|| self.notices.take())
            .map(|notice| match notice {
                Notice::SegmentWanted { number, .. } => format!("wanted {number}"),
                Notice::RecordingFailed { .. } => String::from("failed"),
                other => format!("{other:?}"),
            })
            .collect()
    }

    /// Supplies whatever segment is asked for.
    fn supply(&mut self) {
        for notice in self.notices() {
            if let Some(number) = notice.strip_prefix("wanted ") {
                let segment = segment_of(&self.folder, number.parse().unwrap(), self.segment_bytes);
                self.recorder.supply(segment);
            }
        }
    }

    /// Ends the recording and verifies it.
    fn end(mut self) {
        self.recorder.begin_end(self.now);
        for _ in 0..1_000 {
            self.pump(false);
            self.supply();
            self.written();
            while self.ring.syncs.pop().is_some() {
                self.recorder.synced_event(&mut self.ring, Ok(()));
            }
            if self.recorder.is_done() {
                let report = verify(self.folder.path()).unwrap();
                assert!(report.ok(), "{report:?}");
                assert!(self.draft.is_empty());
                self.recorder.outcome().unwrap();
                return;
            }
        }
        panic!("the recording does not end");
    }
}

fn segment(folder: &tempfile::TempDir, number: u64) -> Segment {
    segment_of(folder, number, SEGMENT_BYTES_MIN)
}

fn segment_of(folder: &tempfile::TempDir, number: u64, bytes: u64) -> Segment {
    let SegmentFile { file, direct } = create_segment(folder.path(), 0, number, bytes).unwrap();
    Segment { number, file: file.into(), direct: direct.map(Into::into), path: String::from("a segment") }
}

#[test]
fn a_block_is_written_when_it_is_full_or_old_or_waited_for() {
    let check = |bytes: usize, gated: bool, later_ns: u64, due: bool| {
        let mut bench = Bench::new(Durability::Os);
        bench.pump(false);
        assert!(bench.written(), "the header");
        bench.push(bytes);
        bench.pump(false);
        bench.later(later_ns);
        bench.pump(gated);
        let what = format!("{bytes} bytes, gated {gated}, after {later_ns} ns");
        assert_eq!(bench.ring.writes.len(), usize::from(due), "{what}");
        if !due && bytes > 0 {
            let deadline = bench.recorder.deadline_ns().unwrap();
            assert_eq!(deadline, 1_000 + BLOCK_AGE_NS, "{what}");
        }
    };
    check(100, false, 0, false);
    check(100, false, BLOCK_AGE_NS - 1, false);
    check(100, false, BLOCK_AGE_NS, true);
    check(100, true, 0, true);
    check(BLOCK_BYTES, false, 0, true);
    check(0, false, 0, false);
}

#[test]
fn a_command_waits_for_its_record_and_no_longer() {
    let mut bench = Bench::new(Durability::Os);
    bench.pump(true);
    bench.push(100);
    let mark = bench.draft.mark();
    assert!(bench.recorder.must_wait(mark));
    bench.written();
    assert!(bench.recorder.must_wait(mark), "only the header is written");
    bench.pump(true);
    bench.push(100);
    let later = bench.draft.mark();
    assert!(bench.recorder.must_wait(mark), "in flight");
    bench.written();
    assert!(!bench.recorder.must_wait(mark));
    assert!(bench.recorder.must_wait(later), "came after the seal");
    bench.pump(true);
    bench.written();
    assert!(!bench.recorder.must_wait(later));
    bench.end();
}

#[test]
fn async_waits_for_nothing() {
    let mut bench = Bench::new(Durability::Async);
    bench.push(100);
    assert!(!bench.recorder.must_wait(bench.draft.mark()));
}

#[test]
fn a_failed_write_is_news_once_and_the_next_segment_goes_on() {
    let mut bench = Bench::new(Durability::Os);
    bench.pump(false);
    bench.written();
    bench.push(100);
    let mark = bench.draft.mark();
    bench.pump(true);
    bench.fails();
    assert!(bench.recorder.down().is_some_and(|why| why.contains("no space left")));
    assert!(bench.recorder.take_alarm());
    assert!(!bench.recorder.take_alarm());
    assert!(bench.recorder.must_wait(mark));
    bench.pump(true);
    assert_eq!(bench.notices(), ["failed", "wanted 1"]);
    bench.later(ASK_AGAIN_NS);
    bench.pump(true);
    bench.supply();
    bench.pump(true);
    assert!(bench.recorder.down().is_some(), "before the header is written nothing is known");
    assert!(bench.written());
    assert!(bench.recorder.down().is_none());
    while bench.recorder.must_wait(mark) {
        bench.pump(true);
        assert!(bench.written(), "the block comes once more");
    }
    bench.end();
}

#[test]
fn a_write_that_does_not_end_counts_as_failed() {
    let mut bench = Bench::new(Durability::Async);
    bench.pump(false);
    bench.later(WRITE_NS_MAX - 1);
    bench.pump(false);
    assert!(!bench.recorder.take_alarm());
    assert_eq!(bench.recorder.deadline_ns(), Some(1_000 + WRITE_NS_MAX));
    bench.later(1);
    bench.pump(false);
    assert!(bench.recorder.take_alarm());
    assert!(bench.written(), "it ends after all");
    assert!(bench.recorder.down().is_none());
    bench.end();
}

#[test]
fn a_backlog_holds_the_pool_until_it_is_written() {
    let mut bench = Bench::new(Durability::Async);
    bench.pump(false);
    while bench.draft.len() <= BACKLOG_BYTES_BEHIND {
        assert!(!bench.recorder.is_behind(&bench.draft));
        bench.push(100_000);
    }
    bench.pump(false);
    assert!(bench.recorder.is_behind(&bench.draft) && !bench.ring.held, "only who adds much has to wait");
    while bench.draft.len() <= BACKLOG_BYTES_MAX {
        bench.push(100_000);
    }
    bench.pump(false);
    assert!(bench.ring.held);
    assert_eq!(bench.counters.recording_stalls.get(), 1);
    while bench.draft.len() > BACKLOG_BYTES_LOW {
        assert!(bench.ring.held);
        bench.written();
        bench.supply();
        bench.pump(false);
    }
    assert!(!bench.ring.held);
    bench.end();
}

#[test]
fn segments_are_asked_for_ahead_of_time_and_once() {
    let mut bench = Bench::new(Durability::Async);
    let mut asked = Vec::new();
    for _ in 0..200 {
        bench.push(BLOCK_BYTES);
        bench.pump(false);
        bench.written();
        for notice in bench.notices() {
            let number = notice.strip_prefix("wanted ").expect("nothing failed").parse().unwrap();
            bench.recorder.supply(segment(&bench.folder, number));
            asked.push(number);
        }
    }
    assert!(asked.len() > 3);
    assert_eq!(asked, (1..=u64::try_from(asked.len()).unwrap()).collect::<Vec<_>>());
    assert_eq!(bench.counters.recording_stalls.get(), 0);
    bench.end();
}

#[test]
fn without_a_segment_the_recording_is_down_and_asks_again() {
    let mut bench = Bench::new(Durability::Async);
    bench.pump(false);
    bench.written();
    bench.push(100);
    bench.pump(true);
    bench.fails();
    bench.pump(false);
    bench.recorder.refuse("disk full");
    assert_eq!(bench.notices(), ["failed", "wanted 1"]);
    bench.later(ASK_AGAIN_NS - 1);
    bench.pump(false);
    assert!(bench.notices().is_empty());
    bench.later(1);
    bench.pump(false);
    assert_eq!(bench.notices(), ["wanted 1"]);
}

/// A segment that is full, and the next of which control has only this to say.
fn filled(answer: impl Fn(&mut Recorder)) -> Bench {
    let mut bench = Bench::new(Durability::Async);
    for _ in 0..1_000 {
        bench.push(BLOCK_BYTES);
        bench.pump(false);
        for notice in bench.notices() {
            assert_eq!(notice, "wanted 1");
            answer(&mut bench.recorder);
            bench.pump(false);
            assert_eq!(bench.recorder.down(), None, "there is room in the segment at hand");
        }
        if !bench.written() || bench.recorder.writer.needs_segment() {
            break;
        }
    }
    bench
}

#[test]
fn a_refusal_ahead_of_time_counts_when_the_segment_is_full() {
    let mut bench = filled(|recorder| recorder.refuse("disk full"));
    bench.pump(false);
    assert!(bench.recorder.down().is_some_and(|why| why.contains("disk full")));
    assert!(bench.recorder.take_alarm());
    assert_eq!(bench.notices()[0], "failed");
    bench.recorder.supply(segment(&bench.folder, 1));
    bench.pump(false);
    bench.written();
    assert_eq!(bench.recorder.down(), None);
    bench.end();
}

#[test]
fn a_segment_that_does_not_come_counts_as_refused() {
    let mut bench = filled(|_| ());
    bench.pump(false);
    assert_eq!(bench.recorder.down(), None);
    assert_eq!(bench.recorder.deadline_ns(), Some(bench.now.monotonic_ns + WRITE_NS_MAX));
    bench.later(WRITE_NS_MAX - 1);
    bench.pump(false);
    assert_eq!(bench.recorder.down(), None);
    bench.later(1);
    bench.pump(false);
    assert!(bench.recorder.down().is_some());
    assert!(bench.recorder.take_alarm());
}

#[test]
fn behind_the_last_block_no_segment_begins() {
    let mut bench = Bench::new(Durability::Os);
    bench.pump(false);
    bench.written();
    bench.recorder.supply(segment(&bench.folder, 1));
    bench.recorder.begin_end(bench.now);
    for _ in 0..10 {
        bench.pump(false);
        bench.written();
    }
    assert_eq!(bench.ring.files.len(), 2, "of the first; the segment at hand stays unused");
    bench.end();
}

#[test]
fn an_end_without_a_disk_gives_up() {
    let mut bench = Bench::new(Durability::Async);
    bench.pump(false);
    bench.push(100);
    bench.recorder.begin_end(bench.now);
    bench.pump(false);
    assert!(!bench.recorder.is_done(), "a write is in flight");
    bench.later(FINISH_NS_MAX);
    bench.pump(false);
    assert!(bench.recorder.is_done());
    assert!(bench.recorder.outcome().is_err());
}

/// The bytes of the block in flight, and whether they go past the page cache.
fn flight(bench: &Bench) -> (usize, bool) {
    let (file, _, buf, start, _) = bench.ring.writes.first().expect("a write in flight");
    (buf.len() - start, Some(*file) == bench.recorder.direct)
}

#[test]
fn large_blocks_that_nobody_waits_for_go_past_the_page_cache() {
    let mut bench = Bench::new(Durability::Os);
    bench.pump(false);
    assert!(bench.recorder.direct.is_some(), "the file system of the test's folder takes direct writes");
    assert!(bench.written(), "the header");
    let mut check = |bytes: usize, gated: bool, expected: bool, what: &str| {
        bench.push(bytes);
        bench.pump(false);
        bench.later(BLOCK_AGE_NS);
        bench.pump(gated);
        let (written, direct) = flight(&bench);
        assert!(written >= bytes);
        assert_eq!(direct, expected, "{what}");
        assert!(bench.written());
    };
    check(PAGED_BYTES_MIN, false, false, "it does not begin at a page");
    check(PAGED_BYTES_MIN, false, true, "it begins where one ended");
    check(PAGED_BYTES_MIN, true, false, "a command waits for it");
    check(200_000, false, true, "larger");
    check(100, false, false, "small");
    check(PAGED_BYTES_MIN, false, false, "it does not begin at a page again");
    bench.end();
}

#[test]
fn a_disk_that_takes_no_direct_write_gets_the_same_block_otherwise() {
    let mut bench = Bench::new(Durability::Async);
    bench.pump(false);
    bench.written();
    for round in 0..4 {
        bench.push(PAGED_BYTES_MIN);
        bench.pump(false);
        bench.later(BLOCK_AGE_NS);
        bench.pump(false);
        if flight(&bench).1 {
            assert_eq!(round, 1, "never again");
            let (_, _, buf, _, token) = bench.ring.writes.pop().unwrap();
            bench.tell(token, Err(io::Error::from(io::ErrorKind::InvalidInput)), buf);
            assert!(!flight(&bench).1);
        }
        assert!(bench.written());
    }
    assert!(bench.recorder.down().is_none());
    assert_eq!(bench.notices(), [""; 0]);
    bench.end();
}

#[test]
fn a_backlog_goes_where_blocks_go_faster() {
    let mut bench = Bench::with(Durability::Async, 64 << 20);
    bench.pump(false);
    bench.written();
    // Beside each block several wait.
    let mut ways = Vec::new();
    for _ in 0..1_000 {
        while bench.draft.len() <= BACKLOG_BYTES_DIRECT + (2 << 20) {
            bench.push(PAGED_BYTES_MIN);
        }
        bench.pump(false);
        bench.supply();
        if bench.ring.writes.is_empty() {
            continue;
        }
        let (bytes, direct) = flight(&bench);
        // The cache is four times as fast.
        bench.later(u64::try_from(bytes).unwrap() * if direct { 4 } else { 1 });
        if bytes >= PAGED_BYTES_MIN {
            ways.push(direct);
        }
        bench.written();
        bench.ring.syncs.clear();
    }
    let direct = ways.iter().filter(|direct| **direct).count();
    assert!(
        (1..ways.len() / 10).contains(&direct),
        "{direct} of {} past the cache: tried now and then",
        ways.len()
    );
    bench.end();
}

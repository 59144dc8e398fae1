//! Whole series on disk: round trips, crashes, truncation and damage at every byte.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use crate::codec::put_at;
use crate::draft::RECORD_BYTES_MAX;
use crate::entries::{Joiner, Raws};
use crate::layout::PAGE_BYTES;
use crate::*;

const SIZE: u64 = SEGMENT_BYTES_MIN.next_multiple_of(4096);
const SESSION: SessionId = SessionId(0xfeed_0000_0000_0001);

/// What random or fixed records borrow from.
#[derive(Debug, Clone)]
struct Pool {
    texts: Vec<String>,
    blobs: Vec<Option<Vec<u8>>>,
    numbers: Vec<u64>,
}

impl Pool {
    fn fixed() -> Pool {
        Pool {
            texts: ["ada", "", "grüße\n\u{1b}[31m", "SELECT 1"].map(String::from).to_vec(),
            blobs: vec![Some(vec![0, 255, 10]), None, Some(vec![])],
            numbers: vec![0, 1, 127, 128, u64::from(u32::MAX), u64::MAX],
        }
    }
    fn text(&self, at: usize) -> &str {
        &self.texts[at % self.texts.len()]
    }
    fn number(&self, at: usize) -> u64 {
        self.numbers[at % self.numbers.len()]
    }
    fn blob(&self, at: usize) -> &[u8] {
        self.blobs[at % self.blobs.len()].as_deref().unwrap_or_default()
    }
    fn small(&self, at: usize) -> u32 {
        u32::try_from(self.number(at) & u64::from(u32::MAX)).unwrap()
    }
}

fn record(kind: u8, pool: &Pool) -> Record<'_> {
    let (text, number) = (|at| pool.text(at), |at| pool.number(at));
    let texts = || pool.texts.iter().map(String::as_str).collect::<Vec<_>>();
    match kind {
        1 => Record::SessionOpened {
            user: text(0),
            groups: texts(),
            method: text(1),
            client: text(2),
            client_tls: text(3),
            target: text(4),
            database: text(5),
            target_user: text(6),
            target_pid: pool.small(0),
            application: text(7),
            epoch: number(1),
        },
        2 => Record::LoginFailed { user: text(0), database: text(1), client: text(2), reason: text(3) },
        3 => Record::Command {
            command: number(0),
            kind: [CommandKind::Query, CommandKind::Parse, CommandKind::Copy][pool.texts.len() % 3],
            name: text(0),
            statement: pool.blob(0),
            parameters: pool.blobs.iter().map(Option::as_deref).collect(),
            parameter_types: (0..pool.numbers.len()).map(|at| pool.small(at)).collect(),
            formats: pool.blob(1).to_vec(),
        },
        4 => Record::Verdict {
            command: number(0),
            ruling: [Ruling::Allow, Ruling::Deny, Ruling::Hold, Ruling::Refuse][pool.texts.len() % 4],
            rule: text(0),
            reason: text(1),
            epoch: number(1),
            effects: texts(),
        },
        5 => Record::Columns {
            command: number(0),
            columns: (0..pool.texts.len())
                .map(|at| Column {
                    name: text(at),
                    type_oid: pool.small(at),
                    format: 1,
                    table_oid: pool.small(at + 1),
                    attribute: -3,
                })
                .collect(),
        },
        6 => Record::Rows { command: number(0), stream: pool.blob(0) },
        7 => Record::Copied { command: number(0), inward: number(1) % 2 == 1, stream: pool.blob(0) },
        8 => Record::Masked { command: number(0), rule: text(0), place: text(1), cells: number(2) },
        9 => Record::Completed { command: number(0), tag: text(0), rows: number(1), bytes: number(2) },
        10 => Record::Failed { command: number(0), severity: text(0), sqlstate: text(1), message: text(2) },
        11 => Record::Notice { severity: text(0), sqlstate: text(1), message: text(2) },
        12 => Record::Notification { channel: text(0), payload: text(1) },
        13 => Record::Cancelled { client: text(0) },
        14 => Record::SessionClosed {
            reason: text(0),
            fault: text(1),
            commands: number(0),
            bytes_in: number(1),
            bytes_out: number(2),
            rows: number(3),
        },
        15 => Record::EpochAdopted { epoch: number(0) },
        16 => Record::Gap { reason: text(0) },
        17 => Record::Recovered {
            segment: number(0),
            valid_blocks: number(1),
            cut_bytes: number(2),
            sessions: pool.numbers.iter().map(|number| SessionId(*number)).collect(),
        },
        _ => Record::Carried {
            sessions: pool.numbers.iter().map(|number| (SessionId(!number), *number)).collect(),
        },
    }
}

fn at(ms: u64) -> Time {
    Time { monotonic_ns: ms * 1_000_000, wall_us: 1_790_000_000_000_000 + ms * 1000 }
}

/// Debug form of what a draft holds: session, counter, time, record.
fn drained(draft: &mut Draft) -> Vec<String> {
    let mut joiner = Joiner::default();
    let mut found = Vec::new();
    while let Some(part) = draft.take() {
        assert!(part.payload_bytes() <= PAYLOAD_BYTES_MAX);
        let raws: Result<Vec<_>, _> = Raws::new(&part.buf.bytes()[BLOCK_HEADER_BYTES..]).collect();
        let raws = raws.unwrap();
        assert_eq!(raws.len(), part.records as usize);
        for raw in raws {
            if let Some(entry) = joiner.join(raw).unwrap() {
                found.push(format!("{:?}", (entry.session, entry.counter, entry.at, entry.record)));
            }
        }
    }
    found
}

#[test]
fn every_record_comes_back_as_it_was_pushed() {
    let pool = Pool::fixed();
    let mut draft = Draft::default();
    let mut expected = Vec::new();
    // 1 opens the session, 14 ends it, and what follows is outside.
    for (counter, kind) in (1..).zip(1..=18) {
        let record = record(kind, &pool);
        assert_eq!(record.kind(), kind);
        draft.push(SESSION, at(u64::from(kind)), &record);
        let counter = if kind > 14 { 0u64 } else { counter };
        expected.push(format!("{:?}", (SESSION, counter, at(u64::from(kind)), record)));
    }
    assert_eq!(drained(&mut draft), expected);
    assert!(draft.is_empty());
}

#[test]
fn time_may_stand_still_or_go_back() {
    let mut draft = Draft::default();
    let times =
        [at(5), at(5), at(3), Time::default(), Time { monotonic_ns: u64::MAX, wall_us: u64::MAX }, at(1)];
    for time in times {
        draft.push(SESSION, time, &Record::EpochAdopted { epoch: 1 });
    }
    let expected: Vec<_> = times
        .iter()
        .map(|time| format!("{:?}", (SESSION, 0u64, time, Record::EpochAdopted { epoch: 1 })))
        .collect();
    assert_eq!(drained(&mut draft), expected);
}

#[test]
fn a_cut_record_is_malformed_wherever_it_is_cut() {
    let pool = Pool::fixed();
    for kind in 1..=18 {
        let mut body = Vec::new();
        record(kind, &pool).encode(&mut crate::codec::Encoder::new(&mut body));
        assert!(record(kind, &pool).size_bound() >= body.len(), "kind {kind}");
        for len in 0..body.len() {
            assert!(Record::decode(kind, &body[..len]).is_err(), "kind {kind} cut at {len}");
        }
        body.push(0);
        assert_eq!(Record::decode(kind, &body), Err(Malformed::Excess), "kind {kind}");
    }
    for kind in [0, 19, 20, 255] {
        assert_eq!(Record::decode(kind, &[]), Err(Malformed::Case));
    }
}

#[test]
fn a_count_that_promises_more_than_there_is_allocates_nothing() {
    // A Carried record of 2^60 sessions.
    let body = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
    assert_eq!(Record::decode(18, &body), Err(Malformed::Short));
}

#[test]
fn what_is_larger_than_a_block_is_cut_and_joined() {
    let big: Vec<u8> = (0..5_000_000u32).map(|at| at.to_le_bytes()[0]).collect();
    let mut draft = Draft::default();
    draft.push(SESSION, at(1), &record(1, &Pool::fixed()));
    let command = Record::Command {
        command: 1,
        kind: CommandKind::Execute,
        name: "s",
        statement: &big[..2_000_000],
        parameters: vec![Some(&big), None],
        parameter_types: vec![17, 17],
        formats: vec![1, 1],
    };
    draft.push(SESSION, at(2), &command);
    draft.push(SESSION, at(3), &Record::Rows { command: 1, stream: &big });
    draft.push(SESSION, at(4), &Record::Completed { command: 1, tag: "x", rows: 1, bytes: 2 });
    assert!(draft.len() > 12_000_000);
    let found = drained(&mut draft);
    assert!(found[1].contains(&format!("{command:?}")));
    let mut joined = Vec::new();
    draft.push(SESSION, at(3), &Record::Rows { command: 1, stream: &big });
    while let Some(part) = draft.take() {
        for raw in Raws::new(&part.buf.bytes()[BLOCK_HEADER_BYTES..]) {
            let raw = raw.unwrap();
            if let Ok(Record::Rows { stream, .. }) = Record::decode(raw.head.kind, raw.body) {
                joined.extend_from_slice(stream);
            }
        }
    }
    assert_eq!(joined, big);
    assert!(found.last().unwrap().contains("Completed"));
}

#[test]
fn a_record_over_the_limit_leaves_a_gap_that_says_so() {
    let big = vec![7; RECORD_BYTES_MAX];
    let mut draft = Draft::default();
    draft.push(
        SESSION,
        at(2),
        &Record::Command {
            command: 1,
            kind: CommandKind::Query,
            name: "",
            statement: &big,
            parameters: vec![],
            parameter_types: vec![],
            formats: vec![],
        },
    );
    let found = drained(&mut draft);
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("Gap") && found[0].contains("Command record of 268435"), "{found:?}");
}

#[test]
fn what_happens_before_authentication_costs_no_memory() {
    let mut draft = Draft::default();
    for session in 0..1000 {
        draft.push(SessionId(session), at(1), &record(2, &Pool::fixed()));
        draft.push(SessionId(session), at(1), &record(14, &Pool::fixed()));
    }
    assert_eq!(draft.sessions(), 0);
    assert!(drained(&mut draft).iter().all(|entry| entry.contains(", 0, Time")));
}

/// A worker that writes a series into files, one write after the other.
struct Rig {
    root: PathBuf,
    writer: Writer,
    draft: Draft,
    file: Option<File>,
    ms: u64,
    /// Every write that was done: file number, offset, bytes.
    journal: Vec<(u64, u64, Vec<u8>)>,
}

impl Rig {
    fn start(root: &Path) -> Rig {
        let recovery = recover(root, 0).unwrap();
        let start = SeriesStart { worker: 0, node: 7, boot: 8, recovery, now: at(0) };
        Rig {
            root: root.to_owned(),
            writer: Writer::new(start),
            draft: Draft::default(),
            file: None,
            ms: 0,
            journal: Vec::new(),
        }
    }

    fn now(&mut self) -> Time {
        self.ms += 1;
        at(self.ms)
    }

    fn begin(&mut self) -> Write {
        let number = self.writer.next_segment();
        self.file = Some(create_segment(&self.root, 0, number, SIZE).unwrap().file);
        let now = self.now();
        self.writer.begin_segment(number, SIZE, 0x5a17_0000 + number, now).unwrap()
    }

    fn write(&mut self, write: Write) {
        self.file.as_ref().unwrap().write_all_at(write.bytes(), write.offset).unwrap();
        self.journal.push((self.writer.next_segment() - 1, write.offset, write.bytes().to_vec()));
        self.writer.acknowledged(write.token, write.buf);
    }

    /// The write in flight fails after `landed` of its bytes have reached the file.
    fn fail(&mut self, write: Write, landed: usize) {
        self.file.as_ref().unwrap().write_all_at(&write.bytes()[..landed], write.offset).unwrap();
        let now = self.now();
        self.writer.failed(write.token, write.buf, "no space left on device", now);
    }

    fn next(&mut self) -> Option<Write> {
        if self.writer.needs_segment() {
            return Some(self.begin());
        }
        let now = self.now();
        self.writer.seal(&mut self.draft, now)
    }

    fn flush(&mut self) {
        let mark = self.draft.mark();
        while let Some(write) = self.next() {
            self.write(write);
        }
        assert!(self.writer.written() >= mark && self.draft.is_empty());
    }

    fn push(&mut self, session: SessionId, record: &Record<'_>) {
        let now = self.now();
        self.draft.push(session, now, record);
    }

    /// One session with one command; each call of `flush` is a block.
    fn session(&mut self, session: SessionId, close: bool) {
        let pool = Pool::fixed();
        self.push(session, &record(1, &pool));
        self.flush();
        for kind in [3, 4, 5, 6, 8, 9] {
            self.push(session, &record(kind, &pool));
        }
        self.flush();
        if close {
            self.push(session, &record(14, &pool));
            self.flush();
        }
    }

    fn finish(&mut self) {
        self.flush();
        let now = self.now();
        let write = self.writer.finish(now).unwrap();
        self.write(write);
        assert!(self.writer.needs_segment());
    }
}

fn path(root: &Path, number: u64) -> PathBuf {
    segment_path(root, 0, number)
}

/// Cuts the zeros at the end of a file: a shorter file is read faster, and one without its zeros is valid.
fn trim(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap();
    let len = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let len = len.next_multiple_of(64);
    fs::write(path, &bytes[..len]).unwrap();
    len
}

fn checked(root: &Path) -> SeriesReport {
    let report = verify(root).unwrap();
    assert!(report.ok(), "{:#?}", report.series[0].problems);
    report.series.into_iter().next().unwrap()
}

fn entries(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let problems = read_series(root, 0, &mut |entry| {
        found.push(format!("{:?}", (entry.session, entry.counter, entry.record.name())));
    });
    assert_eq!(problems.unwrap(), []);
    found
}

#[test]
fn a_clean_series_verifies_and_goes_on_without_a_recovery_record() {
    let dir = TempDir::new().unwrap();
    for run in 1..=3 {
        let mut rig = Rig::start(dir.path());
        rig.session(SessionId(run), true);
        rig.finish();
        let series = checked(dir.path());
        assert_eq!((series.segments, series.sessions, series.open, series.crashed), (run, run, 0, 0));
        assert_eq!((series.next_block, series.head), rig.writer.head());
        assert_eq!(series.tails, []);
        let recovery = recover(dir.path(), 0).unwrap();
        assert_eq!((recovery.crash, recovery.alarms), (None, vec![]));
        assert_eq!((recovery.next_block, recovery.chain_head), rig.writer.head());
    }
}

#[test]
fn a_crash_closes_the_sessions_that_were_open() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(dir.path());
    rig.session(SessionId(1), true);
    rig.session(SessionId(2), false);
    assert_eq!(checked(dir.path()).open, 1);
    let mut rig = Rig::start(dir.path());
    rig.push(SessionId::NONE, &Record::EpochAdopted { epoch: 1 });
    rig.finish();
    let series = checked(dir.path());
    assert_eq!((series.open, series.crashed), (0, 1));
    assert!(entries(dir.path()).iter().any(|entry| entry.contains("Recovered")));
    assert_eq!(recover(dir.path(), 0).unwrap().crash, None);
}

#[test]
fn a_full_segment_is_completed_and_the_next_one_carries_the_sessions() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(dir.path());
    rig.session(SESSION, false);
    let stream = vec![7; 300_000];
    for _ in 0..12 {
        rig.push(SESSION, &Record::Rows { command: 1, stream: &stream });
        rig.flush();
    }
    let series = checked(dir.path());
    assert!(series.segments >= 3, "{series:?}");
    assert_eq!((series.sessions, series.open), (1, 1));
    // Recovery finds the session though only the last segment is read.
    let last = recover(dir.path(), 0).unwrap();
    assert_eq!(last.crash.as_ref().unwrap().sessions, [SESSION]);
    for number in 0..series.segments - 1 {
        fs::remove_file(path(dir.path(), number)).unwrap();
    }
    assert_eq!(recover(dir.path(), 0).unwrap(), last);
    // What is left after retention took the beginning still verifies.
    assert_eq!(checked(dir.path()).segments, 1);
}

#[test]
fn a_segment_that_is_missing_in_the_middle_shows() {
    let dir = TempDir::new().unwrap();
    for run in 1..=3 {
        let mut rig = Rig::start(dir.path());
        rig.session(SessionId(run), true);
        rig.finish();
    }
    fs::remove_file(path(dir.path(), 1)).unwrap();
    let report = verify(dir.path()).unwrap();
    assert!(report.series[0].problems[0].what.contains("it begins with block"), "{report:?}");
    fs::copy(path(dir.path(), 0), path(dir.path(), 1)).unwrap();
    assert!(!verify(dir.path()).unwrap().ok());
}

#[test]
fn a_failed_write_loses_nothing_whatever_part_of_it_landed() {
    // Which of the writes fails: 0 and 5 are segment headers.
    for failing in 0..6 {
        for part in 0..4 {
            let dir = TempDir::new().unwrap();
            let mut rig = Rig::start(dir.path());
            let mut writes = 0;
            for round in 0..3 {
                let session = SessionId(round + 1);
                rig.push(session, &record(1, &Pool::fixed()));
                rig.push(session, &record(3, &Pool::fixed()));
                let mark = rig.draft.mark();
                while let Some(write) = rig.next() {
                    if writes == failing {
                        let landed = write.bytes().len() * part / 3;
                        rig.fail(write, landed);
                        assert!(rig.writer.needs_segment() && rig.writer.written() < mark);
                    } else {
                        rig.write(write);
                    }
                    writes += 1;
                }
                assert_eq!(rig.writer.written(), mark);
            }
            let series = checked(dir.path());
            assert_eq!((series.sessions, series.open), (3, 3), "write {failing}, part {part}");
            let found = entries(dir.path());
            for session in 1..=3 {
                for counter in 1..=2 {
                    let wanted = format!("(SessionId({session}), {counter},");
                    assert_eq!(
                        found.iter().filter(|entry| entry.starts_with(&wanted)).count(),
                        1,
                        "{found:?}"
                    );
                }
            }
            if failing < writes {
                assert_eq!(found.iter().filter(|entry| entry.contains("Gap")).count(), 1);
            }
            drop(rig);
            Rig::start(dir.path()).finish();
            assert_eq!(checked(dir.path()).crashed, 3);
        }
    }
}

#[test]
fn a_failure_while_going_on_after_a_failure_is_survived() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(dir.path());
    rig.session(SESSION, false);
    rig.push(SESSION, &record(9, &Pool::fixed()));
    for landed in [0, 64, 256] {
        let write = rig.next().unwrap();
        let landed = landed.min(write.bytes().len());
        rig.fail(write, landed);
    }
    rig.flush();
    let gaps = entries(dir.path()).iter().filter(|entry| entry.contains("Gap")).count();
    assert_eq!(gaps, 3);
    assert_eq!(checked(dir.path()).open, 1);
}

#[test]
fn an_answer_to_another_write_is_ignored() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(dir.path());
    rig.push(SESSION, &record(1, &Pool::fixed()));
    let write = rig.next().unwrap();
    rig.writer.acknowledged(write.token + 1, Vec::new());
    rig.writer.failed(write.token + 1, Vec::new(), "stale", at(9));
    assert!(rig.writer.is_busy() && rig.writer.seal(&mut rig.draft, at(9)).is_none());
    rig.write(write);
    rig.flush();
    assert_eq!(checked(dir.path()).sessions, 1);
}

#[test]
fn segments_of_the_wrong_size_or_number_are_refused() {
    let mut writer = Rig::start(TempDir::new().unwrap().path()).writer;
    let mut check = |number, size, refused| {
        assert_eq!(writer.begin_segment(number, size, 1, at(1)).unwrap_err(), refused);
    };
    check(0, SEGMENT_BYTES_MIN - 1, SegmentRefused::Size);
    check(0, u64::MAX, SegmentRefused::Size);
    check(1, SIZE, SegmentRefused::Number);
    let _ = writer.begin_segment(0, SIZE, 1, at(1)).unwrap();
    assert_eq!(writer.begin_segment(1, SIZE, 1, at(1)).unwrap_err(), SegmentRefused::Busy);
}

#[test]
fn a_segment_file_is_zeroed_private_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let file = create_segment(dir.path(), 3, 12, SIZE).unwrap().file;
    let path = dir.path().join("w003/0000000012.lgr");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(file.metadata().unwrap().len(), SIZE);
    assert!(fs::read(&path).unwrap().iter().all(|byte| *byte == 0));
    // Another size is configured, and then the first again.
    assert_eq!(create_segment(dir.path(), 3, 12, SIZE * 2).unwrap().file.metadata().unwrap().len(), SIZE * 2);
    drop(create_segment(dir.path(), 3, 12, SIZE).unwrap());
    let file = create_segment(dir.path(), 3, 12, SIZE).unwrap().file;
    file.write_all_at(b"x", SIZE - 1).unwrap();
    let used = create_segment(dir.path(), 3, 12, SIZE).unwrap_err();
    assert_eq!(used.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(workers(dir.path()).unwrap(), [3]);
    // A spare that was never begun is neither a problem nor a crash.
    file.write_all_at(b"\0", SIZE - 1).unwrap();
    assert_eq!(recover(dir.path(), 3).unwrap(), Recovery::default());
    assert_eq!(verify(dir.path()).unwrap().series[0].unused, 1);
}

#[test]
fn columns_that_were_encoded_before_are_recorded_alike() {
    let long = "n".repeat(1000);
    for count in [0, 1, 3, 400] {
        let column = |number: u32| Column {
            name: if count > 3 { &long } else { "c" },
            type_oid: 20 + number,
            format: 1,
            table_oid: 70_000 + number,
            attribute: -2,
        };
        let columns: Vec<Column<'_>> = (0..count).map(column).collect();
        let (mut one, mut other) = (Draft::default(), Draft::default());
        for draft in [&mut one, &mut other] {
            draft.push(SessionId(5), at(1), &Record::Notification { channel: "c", payload: "p" });
        }
        one.push_columns(SessionId(5), at(2), 9, &Columns::new(&columns));
        other.push(SessionId(5), at(2), &Record::Columns { command: 9, columns });
        assert_eq!(one.take().unwrap().buf.bytes(), other.take().unwrap().buf.bytes(), "{count} columns");
    }
}

#[test]
fn large_blocks_take_whole_pages_and_their_padding_is_checked() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(dir.path());
    let header = rig.begin();
    rig.write(header);
    let text = "x".repeat(PAGED_BYTES_MIN);
    let mut ends = Vec::new();
    for round in 0..8 {
        let at = rig.now();
        rig.draft.push(
            SessionId::NONE,
            at,
            &Record::Gap { reason: if round % 4 == 3 { "small" } else { &text } },
        );
        let write = rig.next().unwrap();
        ends.push((write.is_paged(), write.offset + write.bytes().len() as u64));
        rig.write(write);
    }
    let paged: Vec<bool> = ends.iter().map(|(paged, _)| *paged).collect();
    // The first of each stretch begins behind something small.
    assert_eq!(paged, [false, true, true, false, false, true, true, false]);
    for (round, (_, end)) in ends.iter().enumerate() {
        assert_eq!(end.is_multiple_of(PAGE_BYTES as u64), round % 4 != 3, "block {round}");
    }
    trim(&path(dir.path(), 0));
    assert!(verify(dir.path()).unwrap().ok());
    let file = File::options().write(true).open(path(dir.path(), 0)).unwrap();
    file.write_all_at(b"x", ends[1].1 - 1).unwrap();
    assert!(!verify(dir.path()).unwrap().ok(), "the last byte of a block's padding");
}

/// Sessions and blocks that are whole in the first `len` bytes of the only segment.
fn survivors(journal: &[(u64, u64, Vec<u8>)], len: u64) -> u64 {
    // Padding may be missing: its zeros read as the zeros behind.
    journal.iter().skip(1).filter(|(_, offset, bytes)| offset + bytes.len() as u64 <= len).count() as u64
}

#[test]
fn a_file_cut_at_any_byte_recovers_all_whole_blocks() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(dir.path());
    rig.session(SessionId(1), true);
    rig.session(SessionId(2), false);
    let whole_len = trim(&path(dir.path(), 0));
    let whole = fs::read(path(dir.path(), 0)).unwrap();
    for len in 0..=whole_len {
        // Once with the file short, once with zeros in place of what did not arrive.
        for zeros in [false, true] {
            let mut bytes = whole[..len].to_vec();
            if zeros {
                bytes.resize(whole_len, 0);
            }
            fs::write(path(dir.path(), 0), &bytes).unwrap();
            checked(dir.path());
            let recovery = recover(dir.path(), 0).unwrap();
            assert_eq!(recovery.alarms, []);
            assert!(recovery.next_block >= survivors(&rig.journal, len as u64), "cut at {len}");
        }
        if len % 37 == 0 {
            let mut next = Rig::start(dir.path());
            next.session(SessionId(3), true);
            next.finish();
            assert_eq!(checked(dir.path()).open, 0, "cut at {len}");
            fs::remove_file(path(dir.path(), next.writer.next_segment() - 1)).unwrap();
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_shows() {
    let dir = TempDir::new().unwrap();
    for run in 1..=2 {
        let mut rig = Rig::start(dir.path());
        rig.session(SessionId(run), true);
        rig.finish();
        trim(&path(dir.path(), run - 1));
    }
    checked(dir.path());
    for number in 0..2 {
        let whole = fs::read(path(dir.path(), number)).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(path(dir.path(), number), &bytes).unwrap();
            let report = verify(dir.path()).unwrap();
            // The very last block of all cannot be told from one that was being written: it shows as a tail.
            let shows = !report.ok() || (number == 1 && !report.series[0].tails.is_empty());
            assert!(shows, "segment {number}, byte {at}");
            let last = whole.len() - BLOCK_HEADER_BYTES;
            assert!(!report.ok() || at >= last, "segment {number}, byte {at}");
            for problem in &report.series[0].problems {
                assert!(problem.path.starts_with(dir.path()) && !problem.what.is_empty());
            }
        }
        fs::write(path(dir.path(), number), &whole).unwrap();
    }
    // Behind the last block, in the zeros.
    let mut bytes = fs::read(path(dir.path(), 0)).unwrap();
    bytes.resize(bytes.len() + 4096, 0);
    *bytes.last_mut().unwrap() = 1;
    fs::write(path(dir.path(), 0), &bytes).unwrap();
    assert!(!verify(dir.path()).unwrap().ok());
}

#[test]
fn damage_in_the_middle_is_an_alarm_and_never_cut() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(dir.path());
    rig.session(SessionId(1), true);
    rig.session(SessionId(2), false);
    let (next_block, head) = rig.writer.head();
    let (_, offset, _) = rig.journal[2];
    let file = File::options().write(true).open(path(dir.path(), 0)).unwrap();
    file.write_all_at(b"oops", offset + 200).unwrap();
    let recovery = recover(dir.path(), 0).unwrap();
    assert_eq!((recovery.next_block, recovery.chain_head), (next_block, head));
    assert_eq!(
        (recovery.alarms.len(), recovery.alarms[0].offset, recovery.alarms[0].block),
        (1, offset, Some(1))
    );
    assert_eq!(recovery.crash.as_ref().unwrap().sessions, [SessionId(2)]);
    // The series goes on, and still says what is wrong, once.
    let mut next = Rig::start(dir.path());
    next.session(SessionId(3), true);
    next.finish();
    let report = verify(dir.path()).unwrap();
    assert_eq!(report.series[0].problems.len(), 1, "{report:#?}");
    assert_eq!(recover(dir.path(), 0).unwrap().alarms, []);
}

#[test]
fn rewriting_a_block_with_fitting_crcs_breaks_the_chain() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(dir.path());
    rig.session(SESSION, true);
    rig.finish();
    let (_, offset, block) = rig.journal[2].clone();
    let salt = 0x5a17_0000;
    let header = BlockHeader::decode(block.first_chunk().unwrap(), salt).unwrap();
    let forge = |change: &dyn Fn(&mut BlockHeader, &mut [u8])| {
        let mut block = block.clone();
        let mut header = header.clone();
        let payload = BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + header.payload_bytes as usize;
        change(&mut header, &mut block[payload.clone()]);
        header.payload_crc = crc32c::crc32c(&block[payload]);
        put_at(&mut block, 0, &header.encode());
        let file = File::options().write(true).open(path(dir.path(), 0)).unwrap();
        file.write_all_at(&block, offset).unwrap();
        verify(dir.path()).unwrap().series[0].problems[0].what.clone()
    };
    let check = |what: String, expected: &str| assert!(what.contains(expected), "{what}");
    check(forge(&|_, payload| payload[40] ^= 1), "hash of its records");
    check(forge(&|header, _| header.records += 1), "says that it has");
    check(forge(&|header, _| header.number += 1), "stands where block 1 belongs");
    check(forge(&|header, _| header.previous[0] ^= 1), "does not fit what stands before");
    check(forge(&|header, _| header.sealed.wall_us += 1), "does not fit what stands before");
}

#[test]
fn a_record_left_out_shows_by_its_counter() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(dir.path());
    rig.push(SESSION, &record(1, &Pool::fixed()));
    rig.flush();
    // A second draft has lost count.
    rig.draft = Draft::default();
    rig.push(SESSION, &record(1, &Pool::fixed()));
    rig.push(SESSION, &record(9, &Pool::fixed()));
    rig.push(SESSION, &record(9, &Pool::fixed()));
    rig.flush();
    let report = verify(dir.path()).unwrap();
    assert!(report.series[0].problems[0].what.contains("opens twice"), "{report:?}");
}

#[test]
fn a_record_in_pieces_survives_a_failed_write_and_ends_with_a_crash() {
    let big: Vec<u8> = (0..3_000_000u32).map(|at| at.to_le_bytes()[0]).collect();
    let command = |command| Record::Command {
        command,
        kind: CommandKind::Query,
        name: "",
        statement: &big,
        parameters: vec![],
        parameter_types: vec![],
        formats: vec![],
    };
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(dir.path());
    rig.session(SESSION, false);
    // Some of its pieces are in one segment, a Gap stands in between, the others are in the next ones.
    rig.push(SESSION, &command(1));
    let write = rig.next().unwrap();
    rig.write(write);
    let write = rig.next().unwrap();
    rig.fail(write, 100);
    rig.flush();
    // Of the second only the first pieces arrive.
    rig.push(SESSION, &command(2));
    while let Some(write) = rig.next() {
        let data = !write.last && write.offset > 0;
        rig.write(write);
        if data {
            break;
        }
    }
    let mut next = Rig::start(dir.path());
    next.session(SessionId(9), true);
    next.finish();
    assert_eq!((checked(dir.path()).open, checked(dir.path()).crashed), (0, 1));
    let (mut whole, mut gaps) = (Vec::new(), 0);
    let problems = read_series(dir.path(), 0, &mut |entry| match entry.record {
        Record::Command { command, statement, .. } if entry.session == SESSION && statement.len() > 100 => {
            whole.push(command);
            assert!(statement == big);
        }
        Record::Gap { .. } => gaps += 1,
        _ => {}
    });
    assert_eq!((problems.unwrap(), whole, gaps), (vec![], vec![1], 1));
}

/// A file that grows while it is read.
struct Growing<'a> {
    before: &'a [u8],
    after: &'a [u8],
    reads: std::cell::Cell<u32>,
}

impl crate::reader::Source for Growing<'_> {
    fn size(&self) -> std::io::Result<u64> {
        self.after.size()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.reads.set(self.reads.get() + 1);
        if self.reads.get() == 1 { self.before.read_at(buf, offset) } else { self.after.read_at(buf, offset) }
    }
}

#[test]
fn blocks_that_arrive_while_the_file_is_read_are_no_damage() {
    use crate::reader::{Depth, Opened, SegmentReader, Step};
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(dir.path());
    rig.push(SESSION, &record(1, &Pool::fixed()));
    let stream = vec![9; 100_000];
    for _ in 0..8 {
        rig.push(SESSION, &Record::Rows { command: 1, stream: &stream });
        rig.flush();
    }
    // Made longer than what is read at once, so that the later blocks are read later than the earlier ones.
    let mut after = fs::read(path(dir.path(), 0)).unwrap();
    after.resize(4 << 20, 0);
    let first = usize::try_from(rig.journal[2].1).unwrap();
    let mut before = after.clone();
    before[first + 50_000..first + 60_000].fill(0);
    let growing = Growing { before: &before, after: &after, reads: std::cell::Cell::new(0) };
    let Ok(Opened::Segment(mut reader)) = SegmentReader::open(growing, Depth::Everything) else {
        panic!("no segment");
    };
    let mut blocks = 0;
    while let Some(step) = reader.step().unwrap() {
        match step {
            Step::Block(_) => blocks += 1,
            Step::Damage { what, .. } => panic!("{what}"),
            Step::End(end) => assert_eq!(end.torn_bytes, 0),
        }
    }
    assert_eq!(blocks, 8);
}

/// What was written once must be readable for ever, so the bytes of a fixed session are stored. After a deliberate
/// change of the format (and its version): `LOCKGATE_BLESS=1 cargo test -p lockgate-recording`.
#[test]
fn the_format_does_not_drift() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(dir.path());
    rig.session(SESSION, true);
    rig.push(SessionId::NONE, &Record::EpochAdopted { epoch: 2 });
    rig.finish();
    trim(&path(dir.path(), 0));
    let written = fs::read(path(dir.path(), 0)).unwrap();
    let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/session.lgr");
    if std::env::var_os("LOCKGATE_BLESS").is_some() {
        fs::write(&stored, &written).unwrap();
    }
    assert!(fs::read(&stored).unwrap() == written, "the bytes of a recording have changed");
}

#[test]
fn the_corpus_is_read_without_panic() {
    let corpus = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap();
    let mut read = 0;
    for file in corpus {
        crate::fuzzing::fuzz(&fs::read(file.unwrap().path()).unwrap());
        read += 1;
    }
    assert!(read >= 5);
}

#[test]
fn the_reader_bears_mutations() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(dir.path());
    rig.session(SESSION, true);
    rig.finish();
    let whole_len = trim(&path(dir.path(), 0));
    let whole = fs::read(path(dir.path(), 0)).unwrap();
    crate::fuzzing::fuzz(&whole);
    let mut seed = 1u64;
    for _ in 0..3000 {
        let mut bytes = whole.clone();
        for _ in 0..4 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = usize::try_from(seed >> 33).unwrap() % whole_len;
            bytes[at] = seed.to_le_bytes()[2];
        }
        bytes.truncate(usize::try_from(seed >> 40).unwrap() % whole_len + 1);
        crate::fuzzing::fuzz(&bytes);
        crate::fuzzing::fuzz(&bytes[bytes.len().min(256 + 128)..]);
    }
}

fn pool() -> impl Strategy<Value = Pool> {
    let texts = prop::collection::vec(".{0,20}", 1..6);
    let blobs = prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..300)), 1..6);
    let numbers = prop::collection::vec(any::<u64>(), 1..6);
    (texts, blobs, numbers).prop_map(|(texts, blobs, numbers)| Pool { texts, blobs, numbers })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_records_round_trip(
        records in prop::collection::vec((1u8..=18, pool(), any::<u64>(), any::<u64>()), 1..40),
    ) {
        let mut draft = Draft::default();
        let mut expected = Vec::new();
        for (kind, pool, monotonic_ns, wall_us) in &records {
            let at = Time { monotonic_ns: *monotonic_ns, wall_us: *wall_us };
            draft.push(SESSION, at, &record(*kind, pool));
            expected.push(format!("{:?})", (at, record(*kind, pool))).replacen('(', "", 1));
        }
        let found = drained(&mut draft);
        prop_assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert!(found.ends_with(expected.strip_suffix(')').unwrap()), "{} {}", found, expected);
        }
    }

    #[test]
    fn a_crash_at_any_write_keeps_all_that_was_acknowledged(
        sizes in prop::collection::vec(0usize..200_000, 1..25),
        crash in 0usize..30,
        torn in 0.0f64..1.0,
    ) {
        let dir = TempDir::new().unwrap();
        let mut rig = Rig::start(dir.path());
        let stream = vec![3; 200_000];
        rig.push(SESSION, &record(1, &Pool::fixed()));
        let (mut writes, mut marks, mut crashed) = (0, Vec::new(), false);
        'run: for size in sizes {
            rig.push(SESSION, &Record::Rows { command: 1, stream: &stream[..size] });
            marks.push((rig.draft.mark(), size));
            while let Some(write) = rig.next() {
                if writes == crash {
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss,
                        reason = "a share of a length")]
                    let landed = (write.bytes().len() as f64 * torn) as usize;
                    rig.file.as_ref().unwrap().write_all_at(&write.bytes()[..landed], write.offset).unwrap();
                    crashed = true;
                    break 'run;
                }
                writes += 1;
                rig.write(write);
            }
        }
        let written = rig.writer.written();
        let mut kept = marks.iter().filter(|(mark, _)| *mark <= written).count();
        checked(dir.path());
        if crashed {
            let mut next = Rig::start(dir.path());
            next.session(SessionId(9), true);
            next.finish();
            prop_assert_eq!(checked(dir.path()).open, 0);
        }
        read_series(dir.path(), 0, &mut |entry| {
            if matches!(entry.record, Record::Rows { .. }) && entry.session == SESSION {
                kept = kept.saturating_sub(1);
            }
        }).unwrap();
        prop_assert_eq!(kept, 0);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        crate::fuzzing::fuzz(&bytes);
    }
}

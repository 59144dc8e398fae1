//! The tool as its users run it, on recordings that the crate wrote.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use lockgate_recording::{
    Column, CommandKind, Draft, Record, Ruling, SEGMENT_BYTES_MIN, SeriesStart, SessionId, Time, Writer,
    create_segment, recover, segment_path,
};
use tempfile::TempDir;

const AGENT: SessionId = SessionId(0xa1b2_0000_0000_0001);
const CRASHED: SessionId = SessionId(0xa1c3_0000_0000_0002);

fn at(ms: u64) -> Time {
    Time { monotonic_ns: ms * 1_000_000, wall_us: 1_795_254_312_000_000 + ms * 1000 }
}

fn data_row(cells: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = u16::try_from(cells.len()).unwrap().to_be_bytes().to_vec();
    for cell in cells {
        let len = cell.map_or(-1, |cell| i32::try_from(cell.len()).unwrap());
        body.extend_from_slice(&len.to_be_bytes());
        body.extend_from_slice(cell.unwrap_or_default());
    }
    let len = u32::try_from(body.len() + 4).unwrap();
    [&b"D"[..], &len.to_be_bytes(), &body].concat()
}

fn opened(user: &'static str, target: &'static str) -> Record<'static> {
    Record::SessionOpened {
        user,
        groups: vec!["ai-agents", "staff"],
        method: "scram-sha-256",
        client: "127.0.0.1:50001",
        client_tls: "TLSv1.3",
        target,
        database: "orders_db",
        target_user: "orders_app",
        target_pid: 4711,
        application: "psql\x1b[2J",
        epoch: 3,
    }
}

/// An agent's session: rows with a mask, a refusal, parameters, COPY, a notice.
fn agent_session(draft: &mut Draft) {
    let mut ms = 0;
    let mut push = |record: Record<'_>| {
        ms += 10;
        draft.push(AGENT, at(ms), &record);
    };
    push(opened("agent-7", "orders"));
    push(Record::Command {
        command: 1,
        kind: CommandKind::Execute,
        name: "s1",
        statement: b"SELECT id, email\n  FROM customers -- \x1b]0;owned\x07",
        parameters: vec![Some(&[0, 0, 0, 42]), None, Some(b"plain"), Some(&[7])],
        parameter_types: vec![23, 25, 25, 0],
        formats: vec![1, 0, 0, 1],
    });
    push(Record::Verdict {
        command: 1,
        ruling: Ruling::Allow,
        rule: "support/read",
        reason: "support reads customers",
        epoch: 3,
        effects: vec!["read customers"],
    });
    let column = |name, type_oid, format| Column { name, type_oid, format, table_oid: 16385, attribute: 1 };
    push(Record::Columns { command: 1, columns: vec![column("id", 23, 1), column("email", 25, 0)] });
    let mut stream = data_row(&[Some(&[0, 0, 0, 7]), Some("a***@example.org".as_bytes())]);
    stream.extend(data_row(&[Some(&[0, 0, 1, 0]), None]));
    stream.extend(data_row(&[Some(&[0, 0, 0, 9]), Some(b"\x1b[31mred")]));
    for stretch in stream.chunks(7) {
        push(Record::Rows { command: 1, stream: stretch });
    }
    push(Record::Masked { command: 1, rule: "support/mask-email", place: "customers.email", cells: 2 });
    push(Record::Completed { command: 1, tag: "SELECT 3", rows: 3, bytes: 120 });
    let query = |command, statement| Record::Command {
        command,
        kind: CommandKind::Query,
        name: "",
        statement,
        parameters: vec![],
        parameter_types: vec![],
        formats: vec![],
    };
    push(query(2, b"DROP TABLE customers"));
    push(Record::Verdict {
        command: 2,
        ruling: Ruling::Deny,
        rule: "support/no-ddl",
        reason: "agents change no schema",
        epoch: 3,
        effects: vec!["drop customers"],
    });
    push(Record::Failed {
        command: 2,
        severity: "ERROR",
        sqlstate: "42501",
        message: "refused by support/no-ddl",
    });
    push(Record::Notice { severity: "NOTICE", sqlstate: "00000", message: "hello\u{202e}" });
    push(query(3, b"COPY t FROM STDIN"));
    push(Record::Copied { command: 3, inward: true, stream: b"d\0\0\0\x081\t2\nd\0\0" });
    push(Record::Copied { command: 3, inward: true, stream: b"\0\x05x" });
    push(Record::Completed { command: 3, tag: "COPY 2", rows: 2, bytes: 0 });
    push(Record::SessionClosed {
        reason: "client said goodbye",
        fault: "",
        commands: 3,
        bytes_in: 2048,
        bytes_out: 120,
        rows: 5,
    });
}

/// Writes what `fill` pushes as one run of the gateway, which ends cleanly or not.
fn run(root: &Path, clean: bool, fill: impl FnOnce(&mut Draft)) {
    let recovery = recover(root, 0).unwrap();
    let mut writer = Writer::new(SeriesStart { worker: 0, node: 1, boot: 2, recovery, now: at(0) });
    let mut draft = Draft::default();
    fill(&mut draft);
    let (number, size) = (writer.next_segment(), SEGMENT_BYTES_MIN);
    let file = create_segment(root, 0, number, size).unwrap().file;
    let mut next = Some(writer.begin_segment(number, size, 99 + number, at(1)).unwrap());
    while let Some(write) = next {
        file.write_all_at(write.bytes(), write.offset).unwrap();
        let last = write.last;
        writer.acknowledged(write.token, write.buf);
        next = if last {
            None
        } else {
            writer.seal(&mut draft, at(2)).or_else(|| clean.then(|| writer.finish(at(3))).flatten())
        };
    }
}

fn recordings() -> TempDir {
    let dir = TempDir::new().unwrap();
    run(dir.path(), true, agent_session);
    run(dir.path(), false, |draft| {
        draft.push(CRASHED, at(5000), &opened("ada", "orders"));
        let failed = Record::LoginFailed {
            user: "mallory\n",
            database: "orders",
            client: "127.0.0.1:6",
            reason: "wrong password",
        };
        draft.push(SessionId(5), at(6000), &failed);
    });
    run(dir.path(), true, |draft| {
        draft.push(SessionId::NONE, at(7000), &Record::EpochAdopted { epoch: 4 });
    });
    dir
}

fn replay(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate-replay"));
    command.args(args).arg(dir).output().unwrap()
}

fn stdout(dir: &Path, args: &[&str]) -> String {
    let output = replay(dir, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "control characters: {text:?}");
    text
}

fn told(output: &Output, code: i32, what: &[&str]) {
    assert_eq!(output.status.code(), Some(code));
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    for what in what {
        assert!(text.contains(what), "{what:?} is not in {text}");
    }
}

#[test]
fn list_has_every_session_with_its_outcome() {
    let dir = recordings();
    let text = stdout(dir.path(), &["list"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    let has = |line: &str, cells: &[&str]| {
        for cell in cells {
            assert!(line.contains(cell), "{cell:?} is not in {line}");
        }
    };
    has(lines[0], &["session", "started", "duration", "denied", "outcome"]);
    has(
        lines[1],
        &[
            "a1b2000000000001",
            "2026-11-21T09:45:12.010000Z",
            "agent-7",
            "ai-agents,staff",
            "orders",
            "127.0.0.1:50001",
            "closed: client said goodbye",
            "|        3 |      1 |    5 |",
        ],
    );
    has(lines[2], &["a1c3000000000002", "ada", "crashed"]);
    has(lines[3], &["0000000000000005", "mallory\\n", "login failed: wrong password"]);
}

#[test]
fn list_as_json_has_an_object_on_each_line() {
    let dir = recordings();
    let text = stdout(dir.path(), &["list", "--json"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("{\"session\":\"a1b2000000000001\",\"worker\":0,\"started\":\"2026-11-21T"));
    assert!(lines[0].contains("\"groups\":[\"ai-agents\",\"staff\"]"), "{}", lines[0]);
    assert!(lines[0].ends_with("\"outcome\":\"closed\",\"reason\":\"client said goodbye\",\"fault\":\"\"}"));
    assert!(lines[2].contains("\"user\":\"mallory\\u000a\""), "{}", lines[2]);
}

#[test]
fn show_is_a_transcript() {
    let dir = recordings();
    let text = stdout(dir.path(), &["show", "a1b2"]);
    let expected = include_str!("transcript.txt");
    assert_eq!(text, expected, "\n{text}");
}

#[test]
fn show_leaves_out_what_it_is_told_to_and_says_so() {
    let dir = recordings();
    let text = stdout(dir.path(), &["show", "A1B2", "--rows", "1", "--cell", "5"]);
    assert!(text.contains("(3 rows, the first 1 shown; --rows 0 shows all)"), "{text}");
    assert!(text.contains("a***@… (+11)"), "{text}");
    assert!(!text.contains(" 256 |"), "{text}");
    let all = stdout(dir.path(), &["show", "a1b2", "--rows", "0", "--cell", "0"]);
    assert!(all.contains("a***@example.org") && all.contains(" 256 |"));
}

#[test]
fn show_finds_by_prefix_or_last() {
    let dir = recordings();
    assert!(
        stdout(dir.path(), &["show", "last"])
            .contains("mallory\\n to orders from 127.0.0.1:6: wrong password")
    );
    assert!(stdout(dir.path(), &["show", "a1c"]).contains("The gateway ended before the session did."));
    told(&replay(dir.path(), &["show", "a1"]), 1, &["2 sessions begin with a1", "lockgate-replay list"]);
    told(
        &replay(dir.path(), &["show", "\x1b[1m"]),
        1,
        &["no session begins with \\u{1b}[1m", "lockgate-replay list"],
    );
}

#[test]
fn play_takes_its_time_within_bounds() {
    let dir = recordings();
    let text = stdout(dir.path(), &["show", "a1b2"]);
    let begun = Instant::now();
    assert_eq!(stdout(dir.path(), &["play", "a1b2", "--speed", "0.5"]), text);
    // 10 ms between records, played half as fast.
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(stdout(dir.path(), &["play", "a1b2", "--speed", "0.001", "--max-pause", "1ms"]), text);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    for (option, value) in
        [("--speed", "0"), ("--speed", "nan"), ("--max-pause", "2"), ("--max-pause", "x s")]
    {
        told(&replay(dir.path(), &["play", "a1b2", option, value]), 2, &["for example"]);
    }
}

#[test]
fn verify_says_what_there_is() {
    let dir = recordings();
    let text = stdout(dir.path(), &["verify"]);
    assert_eq!(
        text.lines().last(),
        Some("verified: 1 worker, 3 segments, 6 blocks, 34 records, 2 sessions"),
        "{text}"
    );
    assert!(
        text.contains("0 still open, 1 ended by a crash") && text.contains("last chain value "),
        "{text}"
    );
}

#[test]
fn verify_tells_torn_tails_and_names_what_is_wrong() {
    let dir = recordings();
    let path = segment_path(dir.path(), 0, 2);
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    // The last block of all is cut: a torn write.
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    file.write_all_at(&[0; 100], end - 99).unwrap();
    let text = stdout(dir.path(), &["verify"]);
    assert!(text.contains("torn tail: ") && text.contains("0000000002.lgr: offset "), "{text}");
    // A byte in the first block: damage.
    file.write_all_at(b"x", 256 + 140).unwrap();
    let output = replay(dir.path(), &["verify"]);
    told(&output, 1, &["PROBLEM ", "w000/0000000002.lgr: offset 256, block 3: "]);
    let last = String::from_utf8(output.stdout).unwrap().lines().last().map(str::to_owned);
    assert_eq!(last.as_deref(), Some("NOT verified: 1 problem"));
    told(&replay(dir.path(), &["list"]), 0, &["the recordings have 1 problem", "lockgate-replay verify"]);
    // A file that is gone.
    fs::remove_file(segment_path(dir.path(), 0, 1)).unwrap();
    told(&replay(dir.path(), &["verify"]), 1, &["it begins with block", "NOT verified"]);
}

#[test]
fn what_is_not_there_is_told() {
    let dir = TempDir::new().unwrap();
    let missing = dir.path().join("nothing");
    for args in [&["list"][..], &["show", "last"], &["play", "last"], &["verify"]] {
        told(&replay(&missing, args), 1, &["there is no such folder", "data_dir"]);
    }
    told(&replay(dir.path(), &["verify"]), 1, &["NOT verified: ", "nothing to verify"]);
    told(&replay(dir.path(), &["show", "last"]), 1, &["has no session"]);
}

#[test]
fn every_command_has_a_page_of_help_with_examples() {
    for command in ["list", "show", "play", "verify"] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_lockgate-replay")).args([command, "--help"]).output().unwrap();
        told(&output, 0, &["Examples:", "var/recordings"]);
    }
}

//! The server dies in every state of the conversation, at every byte: what the client hears, what is recorded.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use lockgate_codecs::postgres::frontend::{self, Named};
use lockgate_codecs::postgres::{backend, frame, write};
use lockgate_recording::{
    Record, Recovery, SEGMENT_BYTES_MIN, SeriesStart, Time, Writer, read_series, segment_path, series_dir,
    verify,
};

use super::expect::Awaited;
use super::legality::ClientState;
use super::tests::{
    READ_ONLY, bind, columns, complete, describe, empty, error, execute, idle, masked, message, new, parse,
    query, row, settings, show, standing, sync,
};
use super::{Lane, Phase};
use crate::rig::{Rig, Settings, salted, server_welcome};
use crate::{SessionAttrs, Side, TargetTls, Verifier, scram};

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// FIN.
    Ends,
    /// RST.
    Breaks,
    /// A FATAL error of its own, then FIN.
    Says,
}

const DEATHS: [Death; 3] = [Death::Ends, Death::Breaks, Death::Says];

/// Sent by either side, whole.
enum Line {
    Client(Vec<u8>),
    Server(Vec<u8>),
    /// Somebody sends the session's cancel key.
    Cancel,
}
use Line::{Client, Server};

fn name_of(awaited: Awaited, copying_out: bool, state: ClientState) -> String {
    format!("{awaited:?}{} {state:?}", if copying_out { " copying" } else { "" })
}

/// The row and column of the lane's tables where it stands.
fn state(rig: &Rig) -> Option<String> {
    let crate::Lane::Postgres(lane) = &rig.lane;
    let Lane { phase: Phase::Session(session), .. } = &**lane else { return None };
    Some(name_of(session.expects.awaited(), session.answers.is_copying_out(), session.state))
}

fn die(rig: &mut Rig, death: Death) {
    match death {
        Death::Ends => rig.hang_up(Side::Server, ""),
        Death::Breaks => rig.hang_up(Side::Server, "Connection reset by peer"),
        Death::Says => {
            rig.server(&error("FATAL", "57P01"));
            rig.hang_up(Side::Server, "");
        }
    }
}

/// What is recorded, read back from a file as `lockgate-replay` reads it: one line for each record.
fn recorded(rig: &mut Rig) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let now = Time { monotonic_ns: 9, wall_us: 9 };
    let start = SeriesStart { worker: 0, node: 0, boot: 0, recovery: Recovery::default(), now };
    std::fs::create_dir_all(series_dir(folder.path(), 0)).unwrap();
    let file = std::fs::File::create_new(segment_path(folder.path(), 0, 0)).unwrap();
    file.set_len(SEGMENT_BYTES_MIN).unwrap();
    let mut writer = Writer::new(start);
    let mut next = Some(writer.begin_segment(0, SEGMENT_BYTES_MIN, 1, now).unwrap());
    while let Some(write) = next {
        file.write_all_at(write.bytes(), write.offset).unwrap();
        writer.acknowledged(write.token, write.buf);
        next = writer.seal(rig.records(), now).or_else(|| writer.finish(now));
    }
    let report = verify(folder.path()).unwrap();
    assert!(report.ok(), "{report:?}");
    let mut lines = Vec::new();
    read_series(folder.path(), 0, &mut |entry| {
        let line = match &entry.record {
            // The writer's own.
            Record::Carried { .. } => return,
            Record::Command { command, .. } => format!("command {command}"),
            Record::Completed { command, .. } => format!("completed {command}"),
            Record::Failed { command, severity, sqlstate, .. } => {
                format!("failed {command} {severity} {sqlstate}")
            }
            Record::SessionClosed { reason, fault, .. } => format!("closed by {fault}: {reason}"),
            Record::LoginFailed { reason, .. } => format!("no session: {reason}"),
            other => other.name().to_owned(),
        };
        lines.push(line);
    })
    .unwrap();
    lines
}

/// Commands of a record that have no end.
fn endless(lines: &[String]) -> Vec<&str> {
    let number = |line: &str| line.split(' ').nth(1).unwrap_or_default().to_owned();
    let ended = |command: &str| {
        let ends = |line: &&String| line.starts_with("completed") || line.starts_with("failed");
        lines.iter().filter(ends).any(|line| number(line) == number(command))
    };
    lines.iter().map(String::as_str).filter(|line| line.starts_with("command") && !ended(line)).collect()
}

/// Whole messages, and what of another one stands behind them.
fn whole(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut behind = bytes;
    while let Ok(Some(message)) = frame::split(behind) {
        behind = message.behind;
    }
    bytes.split_at(bytes.len() - behind.len())
}

fn check_client(case: &str, death: Death, got: &[u8], unharmed: &[u8]) {
    let (messages, cut) = whole(got);
    if !cut.is_empty() {
        assert!(
            unharmed.starts_with(got),
            "{case}: something follows half a message: {}",
            got.escape_ascii()
        );
        return;
    }
    let shown = show(messages);
    let fatal: Vec<_> = shown.iter().filter(|line| line.starts_with("E FATAL")).collect();
    let expected = match death {
        Death::Ends => "E FATAL 08006 the target closed the connection unexpectedly",
        Death::Breaks => "E FATAL 08006 the connection to the target broke: Connection reset by peer",
        Death::Says => "E FATAL 57P01 server says no",
    };
    assert_eq!(fatal, [expected], "{case}: {shown:?}");
    assert_eq!(shown.last().map(String::as_str), Some(expected), "{case}");
}

/// Plays some lines, the last of which stops at a byte.
fn played(settings: &Settings, lines: &[Line], cut: Option<usize>) -> Rig {
    let mut rig = standing(settings);
    for (index, line) in lines.iter().enumerate() {
        let cut = cut.filter(|_| index + 1 == lines.len());
        match line {
            Client(bytes) => rig.client(bytes),
            Server(bytes) => rig.server(&bytes[..cut.unwrap_or(bytes.len())]),
            Line::Cancel => rig.cancel(),
        }
        assert!(rig.closed.is_none(), "line {index}: {:?}", rig.closed);
    }
    rig
}

/// Kills the server of a conversation everywhere: between its lines, and at every byte of its own.
fn kill_everywhere(name: &str, settings: &Settings, lines: &[Line], seen: &mut BTreeMap<String, usize>) {
    let unharmed = played(settings, lines, None).take_client();
    for upto in 0..=lines.len() {
        let bytes = match lines.get(upto.wrapping_sub(1)) {
            Some(Server(bytes)) => bytes.len(),
            _ => 1,
        };
        for cut in 1..=bytes {
            for death in DEATHS {
                // A server that still speaks ends its messages first.
                let at_boundary = match lines.get(upto.wrapping_sub(1)) {
                    Some(Server(bytes)) => whole(&bytes[..cut]).1.is_empty(),
                    _ => true,
                };
                // Within one, FIN and RST take turns.
                let turn = if cut % 2 == 0 { Death::Ends } else { Death::Breaks };
                if !at_boundary && death != turn {
                    continue;
                }
                let case = format!("{name}: {death:?} behind byte {cut} of line {upto}");
                let mut rig = played(settings, &lines[..upto], Some(cut));
                *seen.entry(state(&rig).expect(&case)).or_default() += 1;
                die(&mut rig, death);
                let reason = rig.closed.clone();
                assert!(reason.is_some(), "{case}: the session goes on");
                check_client(&case, death, &rig.take_client(), &unharmed);
                // Nothing follows the end.
                rig.client(&query("SELECT 'after the end'"));
                rig.server(&idle(b'I'));
                rig.hang_up(Side::Client, "");
                assert_eq!((rig.take_client().len(), rig.closed.clone()), (0, reason.clone()), "{case}");
                // Reading a file back takes milliseconds: not for every byte.
                if !at_boundary && cut % 16 != 0 {
                    continue;
                }
                let lines = recorded(&mut rig);
                assert_eq!(
                    lines.last().unwrap(),
                    &format!("closed by server: {}", reason.unwrap()),
                    "{case}"
                );
                assert_eq!(endless(&lines), Vec::<&str>::new(), "{case}: {lines:?}");
            }
        }
    }
}

fn copy_response(kind: u8) -> Vec<u8> {
    message(kind, &[0, 0, 1, 0, 0])
}

fn copy_data(text: &[u8]) -> Vec<u8> {
    message(frontend::COPY_DATA, text)
}

fn parameters() -> Vec<u8> {
    message(backend::PARAMETER_DESCRIPTION, &[0, 0])
}

fn function_call() -> Vec<u8> {
    let mut out = Vec::new();
    write::message(&mut out, frontend::FUNCTION_CALL, |body| {
        body.u32(42).i16(0).i16(0).i16(0);
    });
    out
}

fn simple_conversations() -> Vec<(&'static str, Vec<Line>)> {
    let (one, two) = (row(&[Some(b"1")]), row(&[None]));
    vec![
        ("idle", vec![Server(message(backend::PARAMETER_STATUS, b"TimeZone\0UTC\0"))]),
        (
            "query",
            vec![
                Client(query("SELECT 1; SELECT 2")),
                Server([columns(&[0]), one.clone(), two.clone(), complete("SELECT 2")].concat()),
                Server([columns(&[0]), one.clone(), complete("SELECT 1"), idle(b'I')].concat()),
            ],
        ),
        (
            "query that fails",
            vec![Client(query("SELECT 1/0")), Server([error("ERROR", "22012"), idle(b'I')].concat())],
        ),
        ("empty query", vec![Client(query("")), Server([message(b'I', b""), idle(b'I')].concat())]),
        (
            "in a transaction, then in one that has failed",
            vec![
                Client(query("BEGIN")),
                Server([complete("BEGIN"), idle(b'T')].concat()),
                Client(query("SELECT 1/0")),
                Server([error("ERROR", "22012"), idle(b'E')].concat()),
                Client(query("ROLLBACK")),
                Server([complete("ROLLBACK"), idle(b'I')].concat()),
            ],
        ),
        (
            "while a cancel runs",
            vec![
                Client(query("SELECT pg_sleep(9)")),
                Line::Cancel,
                Server([error("ERROR", "57014"), idle(b'I')].concat()),
            ],
        ),
        (
            "copy in",
            vec![
                Client(query("COPY t FROM STDIN")),
                Client(copy_data(b"sent before it was asked for\n")),
                Server(copy_response(backend::COPY_IN)),
            ],
        ),
        (
            "copy in to its end",
            vec![
                Client(query("COPY t FROM STDIN")),
                Server(copy_response(backend::COPY_IN)),
                Client(copy_data(b"1\n")),
                Client(copy_data(b"2\n")[..4].to_vec()),
                Client(copy_data(b"2\n")[4..].to_vec()),
                Client(empty(frontend::COPY_DONE)),
                Server([complete("COPY 2"), idle(b'I')].concat()),
            ],
        ),
        (
            "copy out",
            vec![
                Client(query("COPY t TO STDOUT")),
                Server([copy_response(backend::COPY_OUT), copy_data(b"1\n"), copy_data(b"2\n")].concat()),
                Server([empty(backend::COPY_DONE), complete("COPY 2"), idle(b'I')].concat()),
            ],
        ),
        (
            "copy both",
            vec![
                Client(query("START_REPLICATION 0/0")),
                Server([copy_response(backend::COPY_BOTH), copy_data(b"w1")].concat()),
                Client(copy_data(b"r1")),
                Client(empty(frontend::COPY_DONE)),
                Server([copy_data(b"w2"), empty(backend::COPY_DONE)].concat()),
                Server([complete("COPY 0"), idle(b'I')].concat()),
            ],
        ),
        (
            "function call",
            vec![
                Client(function_call()),
                Server([message(backend::FUNCTION_RESULT, &[0, 0, 0, 2, b'4', b'2']), idle(b'I')].concat()),
            ],
        ),
    ]
}

fn extended_conversations() -> Vec<(&'static str, Vec<Line>)> {
    let whole = [
        parse("s", "SELECT $1"),
        describe(Named::Statement, "s"),
        bind("p", "s", &[]),
        describe(Named::Portal, "p"),
        execute("p"),
        message(frontend::CLOSE, b"Pp\0"),
    ]
    .concat();
    let answers = [
        message(backend::PARSE_COMPLETE, b""),
        parameters(),
        columns(&[0]),
        message(backend::BIND_COMPLETE, b""),
        columns(&[0]),
        row(&[Some(b"1")]),
        complete("SELECT 1"),
        message(backend::CLOSE_COMPLETE, b""),
        idle(b'I'),
    ]
    .concat();
    let quick = |name: &str| [parse(name, "SELECT 1"), bind("", name, &[]), execute("")].concat();
    let quick_answers = [
        message(backend::PARSE_COMPLETE, b""),
        message(backend::BIND_COMPLETE, b""),
        row(&[Some(b"1")]),
        complete("SELECT 1"),
    ]
    .concat();
    vec![
        ("extended", vec![Client([whole.clone(), sync()].concat()), Server(answers)]),
        (
            "suspended",
            vec![
                Client([quick("a"), empty(frontend::FLUSH)].concat()),
                Server(
                    [
                        message(backend::PARSE_COMPLETE, b""),
                        message(backend::BIND_COMPLETE, b""),
                        row(&[Some(b"1")]),
                        message(backend::PORTAL_SUSPENDED, b""),
                    ]
                    .concat(),
                ),
                Client([execute(""), sync()].concat()),
                Server([complete("SELECT 0"), idle(b'I')].concat()),
            ],
        ),
        (
            "pipeline of three, of which the second fails and the third is not sent yet",
            vec![
                Client([quick("a"), sync(), quick("b"), quick("c"), sync()].concat()),
                Client(quick("d")),
                Server([quick_answers.clone(), idle(b'I')].concat()),
                Server([error("ERROR", "42601"), idle(b'I')].concat()),
            ],
        ),
        (
            "an error before its Sync",
            vec![
                Client([quick("a"), empty(frontend::FLUSH)].concat()),
                Server(error("ERROR", "42601")),
                Client(quick("b")),
                Client(sync()),
                Server(idle(b'I')),
            ],
        ),
        (
            "copy in, extended",
            vec![
                Client([parse("", "COPY t FROM STDIN"), bind("", "", &[]), execute(""), sync()].concat()),
                Server(
                    [
                        message(backend::PARSE_COMPLETE, b""),
                        message(backend::BIND_COMPLETE, b""),
                        copy_response(backend::COPY_IN),
                    ]
                    .concat(),
                ),
                Client([copy_data(b"1\n"), empty(frontend::COPY_DONE), sync()].concat()),
                Server([complete("COPY 1"), idle(b'I')].concat()),
            ],
        ),
    ]
}

/// Where a stand-in's error is expected instead of what was refused.
fn refused_conversations() -> Vec<(&'static str, Vec<Line>)> {
    let drop = || [parse("", "DROP TABLE t"), bind("", "", &[]), execute("")].concat();
    vec![
        (
            "refused query",
            vec![Client(query("DROP TABLE t")), Server([error("ERROR", "42601"), idle(b'I')].concat())],
        ),
        (
            "refused pipeline",
            vec![
                Client(drop()),
                Client(quickly_refused()),
                Client(sync()),
                Server([error("ERROR", "42601"), idle(b'I')].concat()),
            ],
        ),
    ]
}

fn quickly_refused() -> Vec<u8> {
    [parse("x", "DROP TABLE u"), empty(frontend::FLUSH)].concat()
}

#[test]
fn a_server_that_dies_anywhere_in_a_session_is_told_and_recorded() {
    let mut seen = BTreeMap::new();
    for (name, lines) in simple_conversations().into_iter().chain(extended_conversations()) {
        kill_everywhere(name, &Settings::default(), &lines, &mut seen);
    }
    for (name, lines) in refused_conversations() {
        kill_everywhere(name, &settings(READ_ONLY), &lines, &mut seen);
    }
    let rows =
        [columns(&[1, 2]), row(&[Some(b"1"), Some(b"bo@example.com")]), complete("SELECT 1"), idle(b'I')];
    let lines = [Client(query("SELECT * FROM customers")), Server(rows.concat())];
    kill_everywhere("masked", &masked(), &lines, &mut seen);
    let limits = crate::Limits { statement_bytes_max: 32, ..crate::Limits::default() };
    let long = query(&format!("SELECT '{}'", "x".repeat(40)));
    let lines = [Client(long[..20].to_vec()), Client(long[20..].to_vec()), Server(error("ERROR", "42601"))];
    kill_everywhere("too long a query", &Settings { limits, ..Settings::default() }, &lines, &mut seen);

    // Every row of the server's table has been died in, and every state of the client's.
    for awaited in Awaited::ALL {
        let row = format!("{awaited:?} ");
        assert!(seen.keys().any(|state| state.starts_with(&row)), "{awaited:?} is missing: {seen:?}");
    }
    for state in ClientState::ALL {
        let column = format!(" {state:?}");
        assert!(seen.keys().any(|seen| seen.ends_with(&column)), "{state:?} is missing: {seen:?}");
    }
    assert!(seen.keys().any(|state| state.contains("copying")), "{seen:?}");
}

// ----- before the session stands -------------------------------------------------------------------------------------

fn authentication(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    backend::write_authentication(&mut out, kind, data);
    out
}

/// The server's half of SCRAM with the lane, whose entropy is always the same.
fn scram_lines() -> Vec<Vec<u8>> {
    let verifier = Arc::new(Verifier::derive(b"target-secret", vec![9; 16], 16));
    let mut rig = logged_in(&Settings::default());
    let mut lines = vec![authentication(10, b"SCRAM-SHA-256\0\0")];
    rig.server(&lines[0]);
    let sent = rig.take_server();
    let (_, first) = frontend::sasl_initial(&sent[frame::HEADER_BYTES..]).unwrap();
    let (server, challenge) = scram::Server::begin(verifier, scram::Offer::Unbound, first, &[4; 18]).unwrap();
    lines.push(authentication(11, challenge.as_bytes()));
    rig.server(&lines[1]);
    let sent = rig.take_server();
    let last = server.finish(&sent[frame::HEADER_BYTES..]).unwrap();
    lines.push(authentication(12, last.as_bytes()));
    lines.push(server_welcome(b"1234"));
    rig.server(&lines[2..].concat());
    assert!(rig.key.is_some(), "the session stands: {:?}", rig.closed);
    lines
}

fn logged_in(settings: &Settings) -> Rig {
    let mut rig = new(settings);
    rig.log_in(&[]);
    rig.take_server();
    rig.to_client.clear();
    rig
}

fn start_ups() -> Vec<(&'static str, TargetTls, Vec<Vec<u8>>)> {
    let proven = |ask: Vec<u8>| vec![ask, server_welcome(b"1234")];
    vec![
        ("no proof", TargetTls::Disable, vec![server_welcome(b"1234")]),
        ("MD5", TargetTls::Disable, proven(authentication(5, b"salt"))),
        ("SCRAM", TargetTls::Disable, scram_lines()),
        (
            "TLS, cleartext",
            TargetTls::Require,
            [vec![b"S".to_vec()], proven(authentication(3, b""))].concat(),
        ),
    ]
}

#[test]
fn a_server_that_dies_before_the_session_stands_gives_way_to_the_next() {
    for (name, target_tls, lines) in start_ups() {
        for upto in 0..=lines.len() {
            let bytes = upto.checked_sub(1).map_or(1, |last| lines[last].len());
            for cut in 1..=bytes {
                for addresses in [1, 2] {
                    let case = format!("{name}, {addresses} addresses, byte {cut} of line {upto}");
                    let mut rig = logged_in(&Settings { target_tls, addresses, ..Settings::default() });
                    for (index, line) in lines[..upto].iter().enumerate() {
                        let cut = if index + 1 == upto { cut } else { line.len() };
                        rig.server(&line[..cut]);
                    }
                    if rig.key.is_some() {
                        continue;
                    }
                    assert_eq!(
                        rig.take_client(),
                        b"",
                        "{case}: the client hears nothing of a start-up that may fail"
                    );
                    rig.hang_up(Side::Server, "");
                    let told = "the server closed the connection unexpectedly";
                    if addresses == 1 {
                        let message = format!("target \"t\" cannot be reached: 127.0.0.1:0: {told}");
                        assert_eq!(show(&rig.take_client()), [format!("E FATAL 08001 {message}")], "{case}");
                        assert_eq!(
                            recorded(&mut rig).last().unwrap(),
                            &format!("no session: {message}"),
                            "{case}"
                        );
                    } else {
                        assert_eq!(rig.dialed, [0, 1], "{case}");
                        if target_tls != TargetTls::Disable {
                            rig.server(b"S");
                        }
                        rig.server(&server_welcome(b"5678"));
                        let (_, key) = rig.key.clone().expect(&case);
                        assert_ne!(key, b"5678");
                        let greeted = show(&rig.take_client());
                        assert_eq!(greeted.last().unwrap(), "Z I", "{case}");
                        assert_eq!(
                            greeted.iter().filter(|line| line.starts_with('S')).count(),
                            2,
                            "{case}: {greeted:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_server_that_dies_while_its_tls_or_a_salt_is_awaited_gives_way_to_the_next() {
    let settings = Settings { target_tls: TargetTls::Require, addresses: 2, ..Settings::default() };
    let mut rig = new(&settings);
    rig.tls_hangs = true;
    rig.log_in(&[]);
    rig.server(b"S");
    rig.hang_up(Side::Server, "TLS: the stream was cut off");
    assert_eq!(rig.dialed, [0, 1]);

    let lines = scram_lines();
    let mut rig = logged_in(&Settings { addresses: 2, ..Settings::default() });
    rig.salts = Some(Vec::new());
    rig.server(&lines[0]);
    rig.server(&lines[1]);
    let asked = rig.salts.take().unwrap();
    assert_eq!(asked.len(), 1);
    rig.hang_up(Side::Server, "");
    assert_eq!(rig.dialed, [0, 1]);
    rig.take_server();
    rig.answer(salted(&asked[0]));
    assert_eq!(
        rig.take_server(),
        b"",
        "an answer that was meant for the first server does not go to the second"
    );
    rig.server(&server_welcome(b"1234"));
    assert!(rig.key.is_some(), "{:?}", rig.closed);
}

#[test]
fn a_server_that_starts_up_shuts_down_or_refuses_is_told_as_it_says() {
    for (code, next) in [
        ("57P03", true),
        ("57P01", true),
        ("57P02", true),
        ("53300", false),
        ("3D000", false),
        ("28P01", false),
    ] {
        for addresses in [1, 2] {
            let mut rig = logged_in(&Settings { addresses, ..Settings::default() });
            // What a server says behind its last word is nobody's business.
            rig.server(&[error("FATAL", code), idle(b'I')].concat());
            let told = show(&rig.take_client());
            let code = if code == "28P01" { "08004" } else { code };
            if next && addresses == 2 {
                assert_eq!((told.len(), &rig.dialed[..]), (0, &[0, 1][..]), "{code}");
            } else {
                assert!(told.len() == 1 && told[0].starts_with(&format!("E FATAL {code} ")), "{told:?}");
            }
        }
    }
}

#[test]
fn addresses_are_tried_in_order_until_one_will_do() {
    let posture = |standby: &str| {
        let mut out = authentication(0, b"");
        for (name, value) in [
            ("client_encoding", "UTF8"),
            ("in_hot_standby", standby),
            ("default_transaction_read_only", "off"),
        ] {
            write::message(&mut out, backend::PARAMETER_STATUS, |body| {
                body.string(name.as_bytes()).string(value.as_bytes());
            });
        }
        backend::write_backend_key_data(&mut out, 7, b"1234");
        [out, idle(b'I')].concat()
    };
    let dialed = |attrs: SessionAttrs, servers: &[&str]| {
        let settings = Settings { attrs, addresses: servers.len(), ..Settings::default() };
        let mut rig = new(&settings);
        rig.unreachable =
            servers.iter().enumerate().filter(|(_, server)| **server == "down").map(|(at, _)| at).collect();
        rig.log_in(&[]);
        while rig.key.is_none() && rig.closed.is_none() {
            let server = servers[*rig.dialed.last().unwrap()];
            rig.take_server();
            rig.server(&posture(server));
        }
        let told = show(&rig.take_client()).last().cloned().unwrap_or_default();
        (rig.dialed.clone(), told)
    };
    let (standby, primary) = ("on", "off");
    let check = |attrs: SessionAttrs, servers: &[&str], expected: &[usize], told: &str| {
        assert_eq!(dialed(attrs, servers), (expected.to_vec(), told.to_owned()), "{attrs:?} {servers:?}");
    };
    use SessionAttrs as A;
    check(A::Any, &["down", standby, primary], &[0, 1], "Z I");
    check(A::ReadWrite, &["down", standby, primary], &[0, 1, 2], "Z I");
    check(A::Primary, &[standby, primary], &[0, 1], "Z I");
    check(A::Standby, &[primary, standby], &[0, 1], "Z I");
    check(A::ReadOnly, &[primary, standby], &[0, 1], "Z I");
    check(A::PreferStandby, &[primary, standby], &[0, 1], "Z I");
    check(A::PreferStandby, &[primary, "down"], &[0, 1, 0], "Z I");
    check(
        A::ReadWrite,
        &[standby, "down"],
        &[0, 1],
        "E FATAL 08001 target \"t\" cannot be reached: 127.0.0.1:0: session is read-only; 127.0.0.1:1: Connection refused",
    );
    check(
        A::PreferStandby,
        &["down", "down"],
        &[0, 1, 0, 1],
        "E FATAL 08001 target \"t\" cannot be reached: 127.0.0.1:0: Connection refused; 127.0.0.1:1: Connection refused",
    );
}

#[test]
fn a_server_that_does_not_say_of_what_kind_it_is_will_not_do() {
    let mut rig = logged_in(&Settings { attrs: SessionAttrs::Standby, addresses: 1, ..Settings::default() });
    rig.server(&server_welcome(b"1234"));
    assert!(rig.closed.is_some(), "it does not say what it is");
    assert!(rig.take_client().windows(14).any(|part| part == b"in_hot_standby"));
}

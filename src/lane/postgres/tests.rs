//! Conversations with the lane, each of them also cut at every byte.

use std::sync::Arc;

use lockgate_codecs::postgres::frontend::{self, Named};
use lockgate_codecs::postgres::{backend, frame, startup, write};
use lockgate_facts::postgres::Catalog;

use crate::rig::{MASKED_TABLE, PASSWORD, Rig, Settings, ready, server_welcome};
use crate::{
    Action, Answer, ClientCertificate, ClientTls, Dialed, HolderNames, Limits, ListenerAuth, ListenerRules,
    ListenerTls, SaltedKey, Secret, Side, TargetTls,
};

pub(super) const READ_ONLY: &str =
    "policy p for group \"g\" on target \"t\" { allow transaction allow set on * }";

pub(super) fn settings(policy: &str) -> Settings {
    Settings { policy: policy.to_owned(), ..Settings::default() }
}

pub(super) fn standing(settings: &Settings) -> Rig {
    Rig::standing(settings, Arc::new(Catalog::empty())).expect("a rig")
}

pub(super) fn new(settings: &Settings) -> Rig {
    Rig::new(settings, Arc::new(Catalog::empty())).expect("a rig")
}

/// Messages as text: type, then what matters of the body.
pub(super) fn show(mut bytes: &[u8]) -> Vec<String> {
    let mut shown = Vec::new();
    while let Some(message) = frame::split(bytes).expect("well-formed") {
        let kind = char::from(message.kind);
        shown.push(match message.kind {
            backend::ERROR if message.body.first() == Some(&b'S') => {
                let report = backend::report(message.body).expect("a report");
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                format!("E {} {} {}", text(report.severity), text(report.code), text(report.message))
            }
            _ => format!("{kind} {}", message.body.escape_ascii()),
        });
        bytes = message.behind;
    }
    assert!(bytes.is_empty(), "half a message: {}", bytes.escape_ascii());
    shown
}

pub(super) fn query(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frontend::write_query(&mut out, text.as_bytes());
    out
}

pub(super) fn parse(name: &str, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frontend::write_parse(&mut out, name.as_bytes(), text.as_bytes());
    out
}

pub(super) fn bind(portal: &str, statement: &str, result_formats: &[i16]) -> Vec<u8> {
    let mut out = Vec::new();
    write::message(&mut out, frontend::BIND, |body| {
        body.string(portal.as_bytes()).string(statement.as_bytes()).i16(0).i16(0);
        body.i16(i16::try_from(result_formats.len()).unwrap());
        for format in result_formats {
            body.i16(*format);
        }
    });
    out
}

pub(super) fn describe(what: Named, name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frontend::write_describe(&mut out, what, name.as_bytes());
    out
}

pub(super) fn execute(portal: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write::message(&mut out, frontend::EXECUTE, |body| {
        body.string(portal.as_bytes()).i32(0);
    });
    out
}

pub(super) fn empty(kind: u8) -> Vec<u8> {
    let mut out = Vec::new();
    frontend::write_empty(&mut out, kind);
    out
}

pub(super) fn sync() -> Vec<u8> {
    empty(frontend::SYNC)
}

pub(super) fn complete(tag: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write::message(&mut out, backend::COMMAND_COMPLETE, |body| {
        body.string(tag.as_bytes());
    });
    out
}

pub(super) fn idle(status: u8) -> Vec<u8> {
    let mut out = Vec::new();
    ready(&mut out, status);
    out
}

pub(super) fn row(cells: &[Option<&[u8]>]) -> Vec<u8> {
    let mut out = Vec::new();
    write::message(&mut out, backend::DATA_ROW, |body| {
        body.i16(i16::try_from(cells.len()).unwrap());
        for cell in cells {
            match cell {
                None => body.i32(-1),
                Some(bytes) => body.i32(i32::try_from(bytes.len()).unwrap()).bytes(bytes),
            };
        }
    });
    out
}

/// Columns of the masked table by attribute number; 0 is a column of no table. All of type text.
pub(super) fn columns(attributes: &[i16]) -> Vec<u8> {
    let mut out = Vec::new();
    write::message(&mut out, backend::ROW_DESCRIPTION, |body| {
        body.i16(i16::try_from(attributes.len()).unwrap());
        for attribute in attributes {
            let table = if *attribute == 0 { 0 } else { MASKED_TABLE };
            body.string(b"c").u32(table).i16(*attribute).u32(25).i16(-1).i32(-1).i16(0);
        }
    });
    out
}

pub(super) fn error(severity: &str, code: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let text = backend::ErrorText { severity, code, message: "server says no", detail: "", hint: "" };
    backend::write_error(&mut out, &text);
    out
}

pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write::message(&mut out, kind, |writer| {
        writer.bytes(body);
    });
    out
}

/// One line of a conversation.
enum Line {
    Client(Vec<u8>),
    Server(Vec<u8>),
}
use Line::{Client, Server};

/// Plays a conversation whole and once for every cut of every line; each must give the same bytes on both sides.
fn play(settings: &Settings, lines: &[Line]) -> (Vec<String>, Vec<String>) {
    let run = |cut: Option<(usize, usize)>, single: bool| {
        let mut rig = standing(settings);
        for (index, line) in lines.iter().enumerate() {
            let (side, bytes) = match line {
                Client(bytes) => (Side::Client, bytes),
                Server(bytes) => (Side::Server, bytes),
            };
            match cut {
                Some((cut_line, at)) if cut_line == index => {
                    rig.receive(side, &bytes[..at]);
                    rig.receive(side, &bytes[at..]);
                }
                _ if single => bytes.iter().for_each(|byte| rig.receive(side, &[*byte])),
                _ => rig.receive(side, bytes),
            }
        }
        (rig.take_client(), rig.take_server(), rig.closed)
    };
    let whole = run(None, false);
    assert_eq!(run(None, true), whole, "byte by byte");
    for (index, line) in lines.iter().enumerate() {
        let (Client(bytes) | Server(bytes)) = line;
        for at in 1..bytes.len() {
            assert_eq!(run(Some((index, at)), false), whole, "line {index} cut at {at}");
        }
    }
    (show(&whole.0), show(&whole.1))
}

// ----- start-up --------------------------------------------------------------------------------------------------

#[test]
fn a_session_stands_after_both_handshakes() {
    let mut rig = new(&Settings::default());
    rig.log_in(&[(b"application_name", b"psql")]);
    let sent = rig.take_server();
    let startup::First::Startup(start) = startup::parse(&sent).unwrap() else { panic!("no start-up") };
    assert_eq!(
        start.parameters,
        [(&b"user"[..], &b"app"[..]), (b"database", b"db"), (b"application_name", b"psql")],
        "the target's own account, never the client's"
    );
    rig.server(&server_welcome(b"1234"));
    let seen = show(&rig.take_client());
    assert!(
        seen.iter().any(|line| line.starts_with("K \\x00\\x00\\x00M")),
        "the server's process id: {seen:?}"
    );
    assert!(!seen.iter().any(|line| line.contains("1234")), "the server's key stays here: {seen:?}");
    assert_eq!(seen.last().unwrap(), "Z I");
    let (process_id, key) = rig.key.clone().unwrap();
    assert_eq!((process_id, key.len()), (77, 4));
    assert_eq!(u32::from_be_bytes(key.try_into().unwrap()) % 3, 1, "the key names the worker");
    rig.cancel();
    assert_eq!(rig.cancelled, [(77, b"1234".to_vec())]);
}

#[test]
fn what_is_logged_of_a_session_holds_no_secret() {
    let mut rig = new(&Settings::default());
    rig.log_in(&[]);
    rig.server(&server_welcome(b"1234"));
    let shown = format!("{:?}", rig.lane);
    let register = Action::RegisterKey { process_id: 77, secret: Secret::new(b"1234".to_vec()) };
    let cancel = Action::CancelUpstream { process_id: 77, secret: Secret::new(b"1234".to_vec()) };
    let salted = Answer::Salted { number: 0, key: SaltedKey(*b"12341234123412341234123412341234") };
    for shown in [shown, format!("{register:?}"), format!("{cancel:?}"), format!("{salted:?}")] {
        assert!(!shown.contains("49, 50, 51, 52"), "the server's key: {shown}");
        assert!(!shown.contains("90, 90, 90, 90"), "what secrets come from: {shown}");
    }
}

#[test]
fn start_up_may_be_cut_anywhere() {
    let mut packet = Vec::new();
    startup::write_startup(
        &mut packet,
        startup::Version { major: 3, minor: 0 },
        &[(b"user", b"u"), (b"database", b"t")],
    );
    for at in 1..packet.len() {
        let mut rig = new(&Settings::default());
        rig.client(&packet[..at]);
        rig.client(&packet[at..]);
        rig.prove(PASSWORD);
        let welcome = server_welcome(b"1234");
        welcome.iter().for_each(|byte| rig.server(&[*byte]));
        assert_eq!(show(&rig.take_client()).last().unwrap(), "Z I");
    }
}

#[test]
fn a_wrong_password_is_refused_and_nothing_is_dialed() {
    let mut rig = new(&Settings::default());
    let mut packet = Vec::new();
    startup::write_startup(&mut packet, startup::Version { major: 3, minor: 0 }, &[(b"user", b"u")]);
    rig.client(&packet);
    rig.prove(b"guess");
    assert_eq!(show(&rig.take_client()), ["E FATAL 28P01 password authentication failed for user \"u\""]);
    assert!(rig.take_server().is_empty());
    assert!(rig.closed.is_some());
}

#[test]
fn requests_for_encryption_are_answered_and_bytes_behind_them_end_the_connection() {
    let ssl = |out: &mut Vec<u8>| startup::write_ssl_request(out);
    let gss = [0, 0, 0, 8, 4, 210, 22, 48];
    let mut rig = new(&Settings::default());
    rig.client(&gss);
    let mut request = Vec::new();
    ssl(&mut request);
    rig.client(&request);
    assert_eq!((rig.take_client(), rig.tls.as_slice()), (b"NS".to_vec(), &[Side::Client][..]));
    let off = ListenerRules::new(ListenerTls::Off, ListenerAuth::Scram);
    let mut rig = new(&Settings { rules: off, ..Settings::default() });
    rig.client(&request);
    assert_eq!(rig.take_client(), b"N");
    for late in [&request[..], &gss[..]] {
        let mut rig = new(&Settings::default());
        let mut stuffed = late.to_vec();
        stuffed.extend_from_slice(&request);
        rig.client(&stuffed);
        assert!(rig.closed.is_some() && rig.tls.is_empty(), "bytes in clear text behind {late:?}");
    }
    let mut rig = new(&Settings::default());
    rig.client(&request);
    rig.client(&request);
    assert!(rig.closed.is_some(), "a second SSLRequest");
}

#[test]
fn a_listener_that_requires_tls_accepts_nothing_else() {
    let rules = ListenerRules::new(ListenerTls::Required, ListenerAuth::Scram);
    let mut rig = new(&Settings { rules, ..Settings::default() });
    let mut packet = Vec::new();
    startup::write_startup(&mut packet, startup::Version { major: 3, minor: 0 }, &[(b"user", b"u")]);
    rig.client(&packet);
    assert_eq!(show(&rig.take_client()), ["E FATAL 28000 this listener accepts only connections with TLS"]);
}

#[test]
fn after_direct_tls_encryption_is_not_asked_for_again() {
    let rules = ListenerRules::new(ListenerTls::Required, ListenerAuth::Scram);
    let mut rig = new(&Settings { rules: rules.clone(), ..Settings::default() });
    rig.lane.tls_began();
    rig.log_in(&[]);
    assert!(!rig.take_server().is_empty(), "a session inside TLS");
    let mut rig = new(&Settings { rules, ..Settings::default() });
    rig.lane.tls_began();
    let mut request = Vec::new();
    startup::write_ssl_request(&mut request);
    rig.client(&request);
    assert!(rig.closed.is_some());
}

#[test]
fn a_password_in_clear_text_is_taken_inside_tls_only() {
    let rules = ListenerRules::new(ListenerTls::Optional, ListenerAuth::Password);
    let mut packet = Vec::new();
    startup::write_startup(&mut packet, startup::Version { major: 3, minor: 0 }, &[(b"user", b"u")]);
    let mut rig = new(&Settings { rules: rules.clone(), ..Settings::default() });
    rig.client(&packet);
    assert!(rig.closed.is_some());
    for (password, accepted) in [(PASSWORD, true), (&b"guess"[..], false)] {
        let mut rig = new(&Settings { rules: rules.clone(), ..Settings::default() });
        let mut request = Vec::new();
        startup::write_ssl_request(&mut request);
        rig.client(&request);
        rig.client(&packet);
        let mut proof = Vec::new();
        frontend::write_password(&mut proof, password);
        rig.client(&proof);
        assert_eq!(rig.closed.is_none(), accepted);
        assert_eq!(rig.take_server().is_empty(), !accepted);
    }
}

fn shows(names: &[&str]) -> ClientTls {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = Some(HolderNames { subject: String::from("CN=shown"), names });
    ClientTls { end_point: Some(vec![1; 32]), certificate }
}

/// What a client of these rules that shows this in TLS (or comes without) is told when it says who it is.
fn greeted(rules: &ListenerRules, client_tls: Option<ClientTls>) -> Vec<String> {
    let mut rig = new(&Settings { rules: rules.clone(), ..Settings::default() });
    if let Some(client_tls) = client_tls {
        rig.client_tls = client_tls;
        let mut request = Vec::new();
        startup::write_ssl_request(&mut request);
        rig.client(&request);
        rig.take_client();
    }
    let mut packet = Vec::new();
    startup::write_startup(&mut packet, startup::Version { major: 3, minor: 0 }, &[(b"user", b"u")]);
    rig.client(&packet);
    show(&rig.take_client())
}

#[test]
fn a_certificate_is_demanded_and_must_be_the_users() {
    let rules = |auth, client_certificate| ListenerRules {
        client_certificate,
        ..ListenerRules::new(ListenerTls::Optional, auth)
    };
    let missing = "E FATAL 28000 connection requires a valid client certificate";
    let wrong = "E FATAL 28000 certificate authentication failed for user \"u\"";
    let (asks, lets_in) = (r"R \x00\x00\x00\nSCRAM", r"R \x00\x00\x00\x00");
    let nothing = ClientTls::default();
    for (auth, asked, shown, told) in [
        (ListenerAuth::Scram, ClientCertificate::Off, Some(nothing.clone()), asks),
        (ListenerAuth::Scram, ClientCertificate::Optional, None, asks),
        (ListenerAuth::Scram, ClientCertificate::Optional, Some(nothing.clone()), asks),
        (ListenerAuth::Scram, ClientCertificate::Optional, Some(shows(&["u"])), asks),
        (ListenerAuth::Scram, ClientCertificate::Optional, Some(shows(&["x"])), wrong),
        (ListenerAuth::Scram, ClientCertificate::Required, None, missing),
        (ListenerAuth::Scram, ClientCertificate::Required, Some(nothing.clone()), missing),
        (ListenerAuth::Scram, ClientCertificate::Required, Some(shows(&["x", "u"])), asks),
        (ListenerAuth::Scram, ClientCertificate::Required, Some(shows(&[])), wrong),
        (ListenerAuth::Certificate, ClientCertificate::Required, None, missing),
        (ListenerAuth::Certificate, ClientCertificate::Required, Some(nothing), missing),
        (ListenerAuth::Certificate, ClientCertificate::Required, Some(shows(&["x"])), wrong),
        (ListenerAuth::Certificate, ClientCertificate::Required, Some(shows(&["u"])), lets_in),
        // No configuration says this, and yet nobody comes in without a proof.
        (ListenerAuth::Certificate, ClientCertificate::Off, None, missing),
    ] {
        let found = greeted(&rules(auth, asked), shown.clone());
        assert!(
            found.first().is_some_and(|first| first.starts_with(told)),
            "{auth:?} {asked:?} {shown:?}: {found:?}"
        );
    }
}

#[test]
fn newer_minor_versions_and_unknown_options_are_negotiated_down() {
    let mut rig = new(&Settings::default());
    let mut packet = Vec::new();
    startup::write_startup(
        &mut packet,
        startup::Version { major: 3, minor: 9999 },
        &[(b"user", b"u"), (b"_pq_.test", b"1")],
    );
    rig.client(&packet);
    assert_eq!(show(&rig.take_client())[0], r"v \x00\x03\x00\x02\x00\x00\x00\x01_pq_.test\x00");
    rig.prove(PASSWORD);
    rig.server(&server_welcome(&[7; 32]));
    assert_eq!(rig.key.clone().unwrap().1.len(), 32, "protocol 3.2 has long keys");
    let mut rig = new(&Settings::default());
    let mut packet = Vec::new();
    startup::write_startup(&mut packet, startup::Version { major: 2, minor: 0 }, &[]);
    rig.client(&packet);
    assert!(show(&rig.take_client())[0].starts_with("E FATAL 0A000"));
}

#[test]
fn the_server_is_asked_for_tls_as_configured_and_a_no_is_an_error() {
    let with_tls = Settings { target_tls: TargetTls::VerifyFull, ..Settings::default() };
    let mut rig = new(&with_tls);
    rig.log_in(&[]);
    assert_eq!(rig.take_server(), [0, 0, 0, 8, 4, 210, 22, 47]);
    rig.server(b"S");
    assert_eq!(rig.tls, [Side::Server]);
    assert!(matches!(startup::parse(&rig.take_server()), Ok(startup::First::Startup(_))));
    for refusal in [&b"N"[..], b"SX", b"E", b"\x16"] {
        let mut rig = new(&with_tls);
        rig.log_in(&[]);
        rig.server(refusal);
        assert!(rig.closed.is_some() && rig.tls.is_empty(), "{refusal:?}");
    }
}

#[test]
fn servers_may_ask_for_every_supported_proof() {
    let ask = |kind: u32, data: &[u8], tls: TargetTls| {
        let mut rig = new(&Settings { target_tls: tls, ..Settings::default() });
        rig.log_in(&[]);
        if tls != TargetTls::Disable {
            rig.server(b"S");
        }
        rig.take_server();
        rig.to_client.clear();
        let mut out = Vec::new();
        backend::write_authentication(&mut out, kind, data);
        rig.server(&out);
        rig
    };
    assert_eq!(show(&ask(3, b"", TargetTls::Require).take_server()), [r"p target-secret\x00"]);
    assert!(ask(3, b"", TargetTls::Disable).closed.is_some(), "never in clear text");
    assert_eq!(
        show(&ask(5, b"salt", TargetTls::Disable).take_server()),
        [r"p md53ad14fed5b1cd014517a515d409b9a49\x00"]
    );
    let scram = show(&ask(10, b"SCRAM-SHA-256\0\0", TargetTls::Disable).take_server());
    assert!(scram[0].starts_with(r"p SCRAM-SHA-256\x00"), "{scram:?}");
    assert!(ask(7, b"", TargetTls::Disable).closed.is_some(), "GSSAPI is not spoken");
    assert!(ask(10, b"OTHER\0\0", TargetTls::Disable).closed.is_some());
    let mut early = ask(10, b"SCRAM-SHA-256\0\0", TargetTls::Disable);
    early.server(&server_welcome(b"1234"));
    assert!(early.closed.is_some(), "a server that says OK in the middle of SCRAM has proven nothing");
}

#[test]
fn a_refused_credential_is_not_told_to_the_client_and_other_refusals_are() {
    for (code, expected) in [
        (
            "28P01",
            "E FATAL 08004 target \"t\" does not accept the credential that Lockgate has for it (28P01)",
        ),
        ("53300", "E FATAL 53300 server says no"),
    ] {
        let mut rig = new(&Settings::default());
        rig.log_in(&[]);
        rig.to_client.clear();
        rig.server(&error("FATAL", code));
        assert_eq!(show(&rig.take_client()), [expected]);
    }
}

#[test]
fn start_up_parameters_are_judged() {
    let mut rig =
        new(&settings("policy p for group \"g\" on target \"t\" { allow set on application_name }"));
    rig.log_in(&[(b"application_name", b"x"), (b"options", b"-c work_mem=1GB")]);
    let told = show(&rig.take_client());
    assert!(
        told.last().unwrap().starts_with("E FATAL 42501 Lockgate refused this command by rule"),
        "{told:?}"
    );
    assert!(rig.take_server().is_empty());
}

#[test]
fn a_silent_client_is_cut_off_in_time() {
    let mut rig = new(&Settings::default());
    rig.wait(Limits::default().login_ns_max - 1);
    assert!(rig.closed.is_none());
    rig.wait(1);
    assert!(rig.closed.is_some());
    let mut rig = standing(&Settings::default());
    rig.wait(u64::MAX / 2);
    assert!(rig.closed.is_none(), "a session that stands has no such deadline");
}

// ----- simple queries --------------------------------------------------------------------------------------------

#[test]
fn an_allowed_query_passes_as_it_came_and_so_does_its_answer() {
    let answer = [columns(&[0]), row(&[Some(b"1")]), row(&[None]), complete("SELECT 2"), idle(b'I')].concat();
    let (client, server) = play(&Settings::default(), &[Client(query("SELECT 1")), Server(answer.clone())]);
    assert_eq!(server, show(&query("SELECT 1")));
    assert_eq!(client, show(&answer));
}

#[test]
fn a_denied_query_never_leaves_and_its_stand_ins_error_is_replaced() {
    let lines = [
        Client(query("DROP TABLE sales.orders")),
        Server([error("ERROR", "42601"), idle(b'E')].concat()),
        Client(query("COMMIT")),
        Server([complete("ROLLBACK"), idle(b'I')].concat()),
    ];
    let (client, server) = play(&settings(READ_ONLY), &lines);
    assert_eq!(server, [r"Q lockgate refused command 0000000000000abc/1\x00", r"Q COMMIT\x00"]);
    assert!(client[0].starts_with("E ERROR 42501 Lockgate refused this command by rule"), "{client:?}");
    assert_eq!(client[1..], ["Z E", r"C ROLLBACK\x00", "Z I"]);
}

#[test]
fn a_fatal_error_in_a_refusals_place_is_the_servers_own() {
    let mut rig = standing(&settings(READ_ONLY));
    rig.client(&query("DROP TABLE t"));
    rig.server(&error("FATAL", "57P01"));
    assert_eq!(show(&rig.take_client()), ["E FATAL 57P01 server says no"]);
    rig.hang_up(Side::Server, "");
    assert!(rig.take_client().is_empty(), "the client has been told already");
}

#[test]
fn a_statement_that_is_too_long_is_skipped_and_the_session_stays_in_step() {
    let limits = Limits { statement_bytes_max: 40, ..Limits::default() };
    let settings = Settings { limits, ..Settings::default() };
    let lines = [
        Client(query(&"x".repeat(100))),
        Server([error("ERROR", "42601"), idle(b'I')].concat()),
        Client(query("SELECT 1")),
    ];
    let (client, server) = play(&settings, &lines);
    assert!(client[0].starts_with("E ERROR 54000 a message of 101 bytes"), "{client:?}");
    assert_eq!(server, [r"Q lockgate refused command 0000000000000abc/1\x00", r"Q SELECT 1\x00"]);
}

#[test]
fn what_is_not_legal_closes_with_a_protocol_error() {
    for (name, bytes) in [
        ("password", message(b'p', b"x\0")),
        ("unknown type", message(b'!', b"")),
        ("a Sync with a body", message(b'S', b"x")),
        ("length 3", vec![b'Q', 0, 0, 0, 3]),
        ("negative length", vec![b'Q', 255, 255, 255, 255]),
        ("no zero", message(b'Q', b"SELECT 1")),
        ("two strings", message(b'Q', b"SELECT 1\0DROP TABLE x\0")),
        ("endless Describe", vec![b'D', 0x7f, 255, 255, 255]),
        ("endless CopyDone", vec![b'c', 0x7f, 255, 255, 255]),
        ("endless CopyFail", vec![b'f', 0x7f, 255, 255, 255]),
    ] {
        let mut rig = standing(&Settings::default());
        rig.client(&bytes);
        let told = show(&rig.take_client());
        assert!(told.last().is_some_and(|last| last.starts_with("E FATAL 08P01")), "{name}: {told:?}");
        assert!(rig.take_server().is_empty(), "{name}");
        assert!(rig.closed.is_some(), "{name}");
        rig.client(&query("SELECT 1"));
        assert!(rig.take_server().is_empty(), "{name}: a dead lane sends nothing");
    }
}

#[test]
fn a_server_that_answers_what_was_not_asked_is_cut_off() {
    for bytes in [
        idle(b'I'),
        row(&[]),
        complete("X"),
        message(b'1', b""),
        message(b'G', b"\0\0\0"),
        message(b'R', b"\0\0\0\0"),
    ] {
        let mut rig = standing(&Settings::default());
        rig.server(&bytes);
        assert!(rig.closed.is_some(), "{}", bytes.escape_ascii());
        assert!(show(&rig.take_client())[0].starts_with("E FATAL 08P01 the target broke the protocol"));
    }
}

#[test]
fn notices_notifications_and_parameters_pass_at_any_time() {
    let mut rig = standing(&Settings::default());
    let notification = message(b'A', b"\0\0\0\x09chan\0load\0");
    let status = message(b'S', b"TimeZone\0UTC\0");
    let all = [notification, status].concat();
    rig.server(&all);
    assert_eq!(rig.take_client(), all);
    rig.server(&message(b'S', b"client_encoding\0SJIS\0"));
    assert!(rig.closed.is_some(), "an encoding in which SQL cannot be read");
}

#[test]
fn nothing_is_put_into_a_message_that_was_cut() {
    let row = row(&[Some(b"a cell of some length")]);
    for cut in 0..=row.len() {
        let mut rig = standing(&Settings::default());
        rig.client(&query("SELECT 1"));
        rig.server(&columns(&[1]));
        rig.take_client();
        rig.server(&row[..cut]);
        rig.hang_up(Side::Server, "");
        let heard = rig.take_client();
        let whole = cut < frame::HEADER_BYTES || cut == row.len();
        let passed = if cut < frame::HEADER_BYTES { 0 } else { cut };
        assert_eq!(heard[..passed], row[..passed]);
        // The beginning of an error would pass for the rest of the row.
        assert_eq!(heard.len() > passed, whole, "cut at {cut}: {}", heard.escape_ascii());
    }
}

#[test]
fn terminate_reaches_the_server() {
    let mut rig = standing(&Settings::default());
    rig.client(&empty(frontend::TERMINATE));
    assert_eq!(show(&rig.take_server()), ["X "]);
    assert!(rig.closed.is_some() && rig.take_client().is_empty());
}

// ----- the extended protocol -------------------------------------------------------------------------------------

#[test]
fn a_pipeline_goes_on_at_sync_and_not_before() {
    let mut rig = standing(&Settings::default());
    let front = [parse("", "SELECT 1"), bind("", "", &[]), execute("")].concat();
    rig.client(&front);
    assert!(rig.take_server().is_empty());
    rig.client(&sync());
    assert_eq!(rig.take_server(), [front.clone(), sync()].concat());
    rig.client(&[parse("", "SELECT 2"), empty(frontend::FLUSH)].concat());
    assert_eq!(show(&rig.take_server()).len(), 2, "or at Flush");
    let long = parse("", &"SELECT 3 ".repeat(10_000));
    rig.client(&long);
    assert_eq!(rig.take_server(), long, "or when it is full");
}

#[test]
fn nobody_is_idle_whose_pipeline_has_no_sync_yet() {
    let settings = settings(READ_ONLY);
    let mut rig = standing(&settings);
    assert!(rig.lane.is_idle());
    rig.client(&[parse("", "BEGIN"), bind("", "", &[]), execute("")].concat());
    assert!(!rig.lane.is_idle(), "it is held");
    rig.client(&empty(frontend::FLUSH));
    let answers = [empty(backend::PARSE_COMPLETE), empty(backend::BIND_COMPLETE), complete("SET")].concat();
    rig.server(&answers);
    assert!(!rig.lane.is_idle(), "everything is answered and nothing is committed");
    rig.client(&sync());
    assert!(!rig.lane.is_idle());
    rig.server(&idle(b'I'));
    assert!(rig.lane.is_idle());

    rig.client(&[parse("", "DROP TABLE t"), empty(frontend::FLUSH)].concat());
    rig.server(&error("ERROR", "42601"));
    assert!(!rig.lane.is_idle(), "what follows up to Sync is skipped");
    rig.client(&sync());
    rig.server(&idle(b'I'));
    assert!(rig.lane.is_idle());

    rig.client(&[parse("s", "BEGIN"), empty(frontend::FLUSH), query("BEGIN")].concat());
    rig.server(&[empty(backend::PARSE_COMPLETE), complete("BEGIN"), idle(b'I')].concat());
    assert!(rig.lane.is_idle(), "a Query ends what stood open");
}

#[test]
fn answers_are_matched_one_by_one() {
    let asked = [
        parse("s", "SELECT 1"),
        describe(Named::Statement, "s"),
        bind("p", "s", &[]),
        describe(Named::Portal, "p"),
        execute("p"),
        execute("p"),
        message(b'C', b"Ss\0"),
        sync(),
    ]
    .concat();
    let answered = [
        message(b'1', b""),
        message(b't', b"\0\0"),
        columns(&[0]),
        message(b'2', b""),
        columns(&[0]),
        row(&[Some(b"1")]),
        message(b's', b""),
        row(&[Some(b"2")]),
        complete("SELECT 1"),
        message(b'3', b""),
        idle(b'I'),
    ]
    .concat();
    let (client, server) = play(&Settings::default(), &[Client(asked.clone()), Server(answered.clone())]);
    assert_eq!(server, show(&asked));
    assert_eq!(client, show(&answered));
}

#[test]
fn a_denied_pipeline_leaves_no_trace_of_its_harmless_half() {
    let asked = [
        parse("a", "BEGIN"),
        bind("", "a", &[]),
        execute(""),
        parse("b", "DROP TABLE t"),
        bind("", "b", &[]),
        execute(""),
        sync(),
        parse("c", "COMMIT"),
        bind("", "c", &[]),
        execute(""),
        sync(),
    ]
    .concat();
    let answered = [
        error("ERROR", "42601"),
        idle(b'I'),
        message(b'1', b""),
        message(b'2', b""),
        complete("COMMIT"),
        idle(b'I'),
    ]
    .concat();
    let (client, server) = play(&settings(READ_ONLY), &[Client(asked), Server(answered)]);
    assert_eq!(server[0], r"P lockgate_refused\x00lockgate refused command 0000000000000abc/2\x00\x00\x00");
    assert_eq!(server[1], "S ");
    assert_eq!(server.len(), 6, "{server:?}");
    assert!(client[0].starts_with("E ERROR 42501"), "{client:?}");
    assert_eq!(client[1], "Z I");
    assert_eq!(client.len(), 6, "{client:?}");
}

#[test]
fn what_the_server_would_skip_is_not_even_sent() {
    let mut rig = standing(&Settings::default());
    rig.client(&[parse("s", "SELECT nonsense"), empty(frontend::FLUSH)].concat());
    rig.take_server();
    rig.server(&error("ERROR", "42703"));
    rig.client(&[bind("", "s", &[]), execute(""), query("SELECT 1")].concat());
    assert!(rig.take_server().is_empty());
    rig.client(&sync());
    assert_eq!(show(&rig.take_server()), ["S "]);
    rig.server(&idle(b'I'));
    assert_eq!(show(&rig.take_client()), ["E ERROR 42703 server says no", "Z I"]);
    assert!(rig.closed.is_none());
}

#[test]
fn a_parse_that_failed_is_taken_back() {
    let policy = settings(READ_ONLY);
    let mut rig = standing(&policy);
    rig.client(&[parse("s", "BEGIN"), sync()].concat());
    rig.server(&[message(b'1', b""), idle(b'I')].concat());
    // The name is taken: the server keeps the first statement, and so must the lane.
    rig.client(&[parse("s", "COMMIT"), sync()].concat());
    rig.server(&[error("ERROR", "42P05"), idle(b'I')].concat());
    rig.client(&[message(b'C', b"Snope\0"), bind("", "s", &[]), execute(""), sync()].concat());
    rig.server(&[message(b'3', b""), message(b'2', b""), complete("BEGIN"), idle(b'T')].concat());
    assert!(rig.closed.is_none());
    assert_eq!(show(&rig.take_client()).last().unwrap(), "Z T");
}

#[test]
fn a_portal_that_was_never_bound_is_unknown() {
    let mut rig = standing(&settings(READ_ONLY));
    rig.client(&[execute("ghost"), sync()].concat());
    let sent = show(&rig.take_server());
    assert!(sent[0].starts_with("P lockgate_refused"), "{sent:?}");
    let mut rig = standing(&Settings::default());
    rig.client(&[execute("ghost"), sync()].concat());
    assert_eq!(show(&rig.take_server()), [r"E ghost\x00\x00\x00\x00\x00", "S "]);
}

#[test]
fn an_error_at_sync_is_passed_on() {
    let asked = [parse("", "SELECT 1"), bind("", "", &[]), execute(""), sync()].concat();
    let answered =
        [message(b'1', b""), message(b'2', b""), complete("X"), error("ERROR", "23503"), idle(b'I')].concat();
    let (client, _) = play(&Settings::default(), &[Client(asked), Server(answered.clone())]);
    assert_eq!(client, show(&answered));
}

// ----- masks -----------------------------------------------------------------------------------------------------

pub(super) fn masked() -> Settings {
    Settings { masked: true, ..Settings::default() }
}

#[test]
fn masked_columns_are_masked_in_simple_queries() {
    let answer = |value: &[u8]| {
        [columns(&[1, 2, 0]), row(&[Some(b"7"), Some(value), None]), complete("SELECT 1"), idle(b'I')]
            .concat()
    };
    let lines = [Client(query("SELECT 1")), Server(answer(b"bo@example.com"))];
    let (client, _) = play(&masked(), &lines);
    assert_eq!(client, show(&answer(b"[REDACTED]")));
}

#[test]
fn masked_columns_are_masked_when_a_statement_was_described_once_and_runs_often() {
    let lines = [
        Client([parse("s", "SELECT 1"), describe(Named::Statement, "s"), sync()].concat()),
        Server([message(b'1', b""), message(b't', b"\0\0"), columns(&[2]), idle(b'I')].concat()),
        Client([bind("", "s", &[1]), execute(""), sync()].concat()),
        Server(
            [message(b'2', b""), row(&[Some(b"bo@example.com")]), complete("SELECT 1"), idle(b'I')].concat(),
        ),
        Client([bind("", "s", &[0]), execute(""), sync()].concat()),
        Server(
            [message(b'2', b""), row(&[Some(b"al@example.com")]), complete("SELECT 1"), idle(b'I')].concat(),
        ),
    ];
    let (client, server) = play(&masked(), &lines);
    assert!(!client.iter().any(|line| line.contains("example")), "{client:?}");
    assert_eq!(client.iter().filter(|line| line.contains("[REDACTED]")).count(), 2, "{client:?}");
    assert_eq!(
        server.iter().filter(|line| line.starts_with('D')).count(),
        1,
        "nothing is asked twice: {server:?}"
    );
}

#[test]
fn where_nobody_described_the_rows_lockgate_asks_and_keeps_the_answer() {
    let lines = [
        Client([parse("", "SELECT 1"), bind("", "", &[]), execute(""), sync()].concat()),
        Server(
            [
                message(b'1', b""),
                message(b'2', b""),
                columns(&[2]),
                row(&[Some(b"bo@example.com")]),
                complete("SELECT 1"),
                idle(b'I'),
            ]
            .concat(),
        ),
    ];
    let (client, server) = play(&masked(), &lines);
    assert_eq!(server[2], r"D P\x00");
    assert_eq!(client.len(), 5, "{client:?}");
    assert!(client[2].contains("[REDACTED]"), "{client:?}");
}

/// What FETCH and EXECUTE return is what their name means at that moment, whatever was described before.
#[test]
fn a_described_fetch_or_execute_is_described_again_each_time_it_runs() {
    let run = |statement: &str| {
        let mut rig = standing(&masked());
        let simple = |rig: &mut Rig, text: &str| {
            rig.client(&query(text));
            rig.server(&[complete("X"), idle(b'T')].concat());
        };
        simple(&mut rig, "PREPARE n AS SELECT 1");
        simple(&mut rig, "DECLARE n CURSOR FOR SELECT 1");
        rig.client(&[parse("s", statement), describe(Named::Statement, "s"), sync()].concat());
        rig.server(&[message(b'1', b""), message(b't', b"\0\0"), columns(&[1]), idle(b'T')].concat());
        for text in ["DEALLOCATE n", "CLOSE n", "PREPARE n AS SELECT 2", "DECLARE n CURSOR FOR SELECT 2"] {
            simple(&mut rig, text);
        }
        rig.take_client();
        rig.take_server();
        rig.client(&[bind("", "s", &[]), execute(""), sync()].concat());
        let asked = show(&rig.take_server());
        assert_eq!(asked[1], r"D P\x00", "{statement}: {asked:?}");
        let rows =
            [columns(&[2]), row(&[Some(b"bo@example.com")]), complete("SELECT 1"), idle(b'T')].concat();
        rig.server(&[message(b'2', b""), rows].concat());
        let seen = show(&rig.take_client());
        assert!(seen[1].contains("[REDACTED]"), "{statement}: {seen:?}");
        // Bound first, redefined after: what the portal says of its columns would be the old truth.
        rig.client(&[bind("p", "s", &[]), sync()].concat());
        rig.server(&[message(b'2', b""), idle(b'T')].concat());
        simple(&mut rig, "CLOSE n");
        rig.take_server();
        rig.client(&[execute("p"), sync()].concat());
        assert!(show(&rig.take_server())[0].starts_with("P lockgate_refused"), "{statement}");
    };
    run("FETCH 1 FROM n");
    run("EXECUTE n");
}

#[test]
fn a_declared_cursor_is_executed_as_the_portal_it_is() {
    let mut rig = standing(&masked());
    rig.client(&query("DECLARE k CURSOR FOR SELECT 1"));
    rig.server(&[complete("DECLARE CURSOR"), idle(b'T')].concat());
    rig.take_client();
    rig.take_server();
    rig.client(&[execute("k"), sync()].concat());
    assert_eq!(show(&rig.take_server()), [r"D Pk\x00", r"E k\x00\x00\x00\x00\x00", "S "]);
    let rows = [columns(&[2]), row(&[Some(b"bo@example.com")]), message(b's', b""), idle(b'T')].concat();
    rig.server(&rows);
    let seen = show(&rig.take_client());
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen[0].contains("[REDACTED]") && rig.closed.is_none(), "{seen:?}");
}

#[test]
fn rows_that_nothing_described_or_that_are_too_long_never_pass() {
    let mut rig = standing(&masked());
    rig.client(&query("SELECT 1"));
    rig.server(&row(&[Some(b"bo@example.com")]));
    assert!(rig.closed.is_some());
    assert!(!rig.take_client().windows(7).any(|part| part == b"example"));
    let limits = Limits { row_bytes_max: 64, ..Limits::default() };
    let mut rig = standing(&Settings { limits, ..masked() });
    rig.client(&query("SELECT 1"));
    rig.server(&[columns(&[2]), row(&[Some(&[b'x'; 100])])].concat());
    assert!(rig.closed.is_some());
    assert!(!rig.take_client().windows(7).any(|part| part == b"xxxxxxx"));
}

#[test]
fn a_row_that_contradicts_its_description_never_passes() {
    let mut rig = standing(&masked());
    rig.client(&query("SELECT 1"));
    rig.server(&[columns(&[2]), row(&[Some(b"a"), Some(b"bo@example.com")])].concat());
    assert!(rig.closed.is_some());
    assert!(!rig.take_client().windows(7).any(|part| part == b"example"));
}

// ----- ends ------------------------------------------------------------------------------------------------------

#[test]
fn a_server_that_dies_is_told_to_the_client() {
    let mut rig = standing(&Settings::default());
    rig.client(&query("SELECT 1"));
    rig.hang_up(Side::Server, "");
    assert_eq!(show(&rig.take_client()), ["E FATAL 08006 the target closed the connection unexpectedly"]);
    let mut rig = new(&Settings::default());
    rig.hang_up(Side::Client, "");
    assert!(rig.take_client().is_empty() && rig.closed.is_some());
}

#[test]
fn an_unasked_answer_changes_nothing() {
    let mut rig = standing(&Settings::default());
    rig.answer(Answer::Dialed(Dialed::Exhausted));
    rig.answer(Answer::Salted { number: 0, key: SaltedKey([0; 32]) });
    assert!(rig.closed.is_none());
    rig.client(&query("SELECT 1"));
    assert_eq!(show(&rig.take_server()), [r"Q SELECT 1\x00"]);
}

#[test]
fn a_flood_takes_many_turns_and_loses_nothing() {
    let mut rig = standing(&Settings::default());
    let flood: Vec<u8> = (0..1000).flat_map(|number| query(&format!("SELECT {number}"))).collect();
    rig.one_turn(Side::Client, &flood);
    let first = show(&rig.take_server()).len();
    assert!((1..100).contains(&first), "{first} commands in one turn");
    assert!(rig.lane.is_unfinished());
    let mut all = first;
    let mut turns = 1;
    while rig.lane.is_unfinished() {
        rig.go_on();
        let more = show(&rig.take_server()).len();
        assert!(more <= first + 1, "{more} in a later turn");
        all += more;
        turns += 1;
    }
    assert_eq!(all, 1000);
    assert!(turns > 10, "{turns}");
}

#[test]
fn a_client_that_has_left_has_its_last_commands_carried_out() {
    let mut rig = standing(&Settings::default());
    let flood: Vec<u8> = (0..200).flat_map(|number| query(&format!("SELECT {number}"))).collect();
    rig.one_turn(Side::Client, &[&flood[..], b"Q\0\0\0\x20SELECT"].concat());
    rig.hang_up(Side::Client, "");
    assert_eq!(rig.closed, None);
    while rig.lane.is_unfinished() {
        rig.go_on();
    }
    assert_eq!(show(&rig.take_server()).len(), 200);
    assert!(rig.closed.is_some(), "of what is left, nothing can come of it");
}

#[test]
fn a_client_whose_connection_breaks_behind_its_last_word_is_waited_for_no_more() {
    let mut rig = standing(&Settings::default());
    rig.one_turn(Side::Client, &query("SELECT 1").repeat(200));
    rig.hang_up(Side::Client, "");
    rig.hang_up(Side::Client, "reset");
    assert!(rig.closed.is_some() && !rig.lane.is_unfinished());
}

#[test]
fn who_stands_in_line_gets_its_share_there() {
    let mut rig = standing(&Settings::default());
    rig.one_turn(Side::Client, &query("SELECT 1").repeat(200));
    let first = show(&rig.take_server()).len();
    rig.wait(1);
    rig.one_turn(Side::Client, &query("SELECT 2"));
    rig.one_turn(Side::Server, &idle(b'I'));
    assert!(rig.take_server().is_empty(), "others come first");
    rig.go_on();
    assert!(show(&rig.take_server()).len() >= first);
}

#[test]
fn a_client_waits_when_much_is_unanswered_and_the_server_is_asked_to_answer() {
    let mut rig = standing(&Settings::default());
    let long = "x".repeat(8 << 20);
    for number in 0..12 {
        rig.client(&parse("", &format!("SELECT '{long}{number}'")));
    }
    let sent = rig.take_server();
    let kinds: String = show(&sent).iter().filter_map(|message| message.chars().next()).collect();
    assert_eq!(kinds, "PPPPH", "four of 8 MiB are enough, and the fifth waits");
    assert!(rig.lane.held_bytes() > 0);
    rig.server(b"1\0\0\0\x04");
    let kinds: String =
        show(&rig.take_server()).iter().filter_map(|message| message.chars().next()).collect();
    assert_eq!(kinds, "PH", "one is answered, one goes on");
    for _ in 0..11 {
        rig.server(b"1\0\0\0\x04");
    }
    assert_eq!(rig.lane.held_bytes(), 0);
    assert_eq!(rig.closed, None);
}

#[test]
fn a_long_name_costs_what_it_is_long() {
    let mut rig = standing(&Settings::default());
    for number in 0..6 {
        let name = format!("{number}{}", "n".repeat(15 << 20));
        rig.client(&parse(&name, "SELECT 1"));
        rig.client(&sync());
        rig.server(b"1\0\0\0\x04");
        let mut end = Vec::new();
        ready(&mut end, b'I');
        rig.server(&end);
    }
    let passed = rig.take_server().len() / (15 << 20);
    assert_eq!(passed, 4, "that many fit into 64 MiB");
}

/// A session on a replication connection.
fn replicating(settings: &Settings) -> Rig {
    let mut rig = new(settings);
    rig.log_in(&[(b"replication", b"true")]);
    rig.server(&server_welcome(b"1234"));
    rig.take_client();
    rig.take_server();
    rig
}

fn begin_stream(rig: &mut Rig) {
    rig.client(&query("START_REPLICATION PHYSICAL 0/0"));
    assert!(!rig.take_server().is_empty(), "START_REPLICATION goes on");
    rig.server(&message(backend::COPY_BOTH, b"\0\0\0"));
    rig.server(&message(backend::COPY_DATA, b"wal"));
}

/// The server's end of a stream at the end of a timeline: the client has not asked for it, and a result follows.
#[test]
fn a_timeline_that_ends_is_followed_by_a_result_and_the_session_goes_on() {
    let mut rig = replicating(&Settings::default());
    for _ in 0..2 {
        begin_stream(&mut rig);
        rig.server(&message(frontend::COPY_DONE, b""));
        rig.client(&message(frontend::COPY_DATA, b"status, sent before the end was seen"));
        rig.client(&message(frontend::COPY_DONE, b""));
        rig.take_client();
        let mut behind = message(backend::ROW_DESCRIPTION, b"\0\0");
        behind.extend(message(backend::DATA_ROW, b"\0\0"));
        behind.extend(message(backend::COMMAND_COMPLETE, b"START_STREAMING\0"));
        behind.extend(message(backend::COMMAND_COMPLETE, b"START_REPLICATION\0"));
        ready(&mut behind, b'I');
        rig.server(&behind);
        assert_eq!(rig.take_client(), behind);
        assert_eq!(rig.closed, None);
        rig.take_server();
    }
}

#[test]
fn a_stream_that_the_client_ends_goes_on_until_the_server_ends_it_too() {
    let mut rig = replicating(&Settings::default());
    begin_stream(&mut rig);
    rig.take_client();
    rig.client(&message(frontend::COPY_DONE, b""));
    let mut rest = message(backend::COPY_DATA, b"more");
    rest.extend(message(frontend::COPY_DONE, b""));
    rest.extend(message(backend::COMMAND_COMPLETE, b"START_REPLICATION\0"));
    ready(&mut rest, b'I');
    rig.server(&rest);
    assert_eq!(rig.take_client(), rest);
    rig.client(&query("IDENTIFY_SYSTEM"));
    assert!(!rig.take_server().is_empty() && rig.closed.is_none());
}

#[test]
fn commands_of_replication_are_judged_as_such_on_a_replication_connection_only() {
    let policy = "policy p for group \"g\" on target \"t\" { allow replicate }";
    let mut rig = replicating(&settings(policy));
    rig.client(&query("IDENTIFY_SYSTEM"));
    assert_eq!(rig.take_server(), query("IDENTIFY_SYSTEM"));
    let mut rig = replicating(&settings(policy));
    for refused in ["BASE_BACKUP", "START_REPLICATION 0/0", "DROP_REPLICATION_SLOT x", "identify_system"] {
        rig.client(&query(refused));
        let sent = rig.take_server();
        assert!(sent.starts_with(b"Q") && sent != query(refused), "{refused} is refused");
        let mut error = Vec::new();
        let text =
            backend::ErrorText { severity: "ERROR", code: "0A000", message: "no", detail: "", hint: "" };
        backend::write_error(&mut error, &text);
        ready(&mut error, b'I');
        rig.server(&error);
        let told = show(&rig.take_client());
        assert!(told.first().is_some_and(|first| first.starts_with("E ERROR 42501")), "{refused}: {told:?}");
    }
    let mut rig = standing(&settings(policy));
    rig.client(&query("IDENTIFY_SYSTEM"));
    assert_ne!(rig.take_server(), query("IDENTIFY_SYSTEM"), "SQL that nobody understands");
}

#[test]
fn under_a_mask_nothing_is_replicated() {
    let masked = Settings { masked: true, ..Settings::default() };
    for stream in ["BASE_BACKUP", "START_REPLICATION SLOT x LOGICAL 0/0", "START_REPLICATION 0/0"] {
        let mut rig = replicating(&masked);
        rig.client(&query("IDENTIFY_SYSTEM"));
        assert_eq!(rig.take_server(), query("IDENTIFY_SYSTEM"));
        let mut rig = replicating(&masked);
        rig.client(&query(stream));
        let sent = rig.take_server();
        assert!(sent.starts_with(b"Q") && sent != query(stream), "{stream}");
    }
}

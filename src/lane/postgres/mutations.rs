//! Mutated messages in each direction: no panic, nothing forbidden passes, nothing follows the end.
//!
//! `LOCKGATE_MUTATIONS` says how many messages each way; a sample runs without it.

use std::sync::Arc;

use lockgate_codecs::postgres::{backend, frame, frontend, write};
use lockgate_facts::postgres::Catalog;

use crate::Side;
use crate::rig::{MASKED_TABLE, Rig, Settings, ready};

const SAMPLE: u64 = 20_000;

/// xorshift64*: the same messages for one seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// Changes one thing, or a few: a bit, a byte, a length, an end, a repetition.
fn mutate(message: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        if message.is_empty() {
            return;
        }
        let at = random.below(message.len());
        match random.below(7) {
            0 => message[at] ^= 1 << random.below(8),
            1 => message[at] = random.byte(),
            2 => message.truncate(at),
            3 => message.insert(at, random.byte()),
            4 => drop(message.remove(at)),
            5 if message.len() >= 5 => {
                message[1 + random.below(4)] = [0, 1, 4, 5, 0x7f, 0x80, 0xff][random.below(7)]
            }
            _ => {
                let tail = message[at..].to_vec();
                message.extend_from_slice(&tail);
            }
        }
    }
}

/// Whether a statement among these messages drops a table. (The words may stand in a name or a comment.)
fn drops(mut server: &[u8]) -> bool {
    while let Ok(Some(message)) = frame::split(server) {
        let text = match message.kind {
            frontend::QUERY => frontend::query(message.body).unwrap_or_default(),
            frontend::PARSE => frontend::parse(message.body).map(|parse| parse.text).unwrap_or_default(),
            _ => b"",
        };
        let text = String::from_utf8_lossy(text);
        if text.split(';').any(|statement| statement.trim_start().starts_with("DROP TABLE")) {
            return true;
        }
        server = message.behind;
    }
    false
}

fn count() -> u64 {
    std::env::var("LOCKGATE_MUTATIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(SAMPLE)
}

fn rig() -> Rig {
    let policy = "policy p for group \"g\" on target \"t\" { allow transaction allow set on * allow copy_in, insert on * }";
    let settings = Settings { policy: policy.to_owned(), masked: true, ..Settings::default() };
    Rig::standing(&settings, Arc::new(Catalog::empty())).unwrap()
}

fn play(seeds: &[Vec<u8>], side: Side, prepare: impl Fn(&mut Rig)) {
    let mut random = Random(0x10c6_a7e5);
    let mut ends = 0_u64;
    let mut current = rig();
    prepare(&mut current);
    for _ in 0..count() {
        let mut message = seeds[random.below(seeds.len())].clone();
        mutate(&mut message, &mut random);
        let cut = random.below(message.len() + 1);
        for part in [&message[..cut], &message[cut..]] {
            let was_closed = current.closed.is_some();
            current.receive(side, part);
            let (client, server) = (current.take_client(), current.take_server());
            assert!(!was_closed || (client.is_empty() && server.is_empty()), "bytes after the end");
            assert!(!drops(&server), "{} passed as {}", message.escape_ascii(), server.escape_ascii());
        }
        // A session that goes on is left after a while: what it waits for would never come.
        if current.closed.is_some() || random.below(8) == 0 {
            ends += u64::from(current.closed.is_some());
            current = rig();
            prepare(&mut current);
        }
    }
    assert!(ends > 0, "mutations that never end a session reach nothing");
}

fn of(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

#[test]
fn mutated_messages_of_a_client_end_in_protocol_errors_at_worst() {
    let mut seeds: Vec<Vec<u8>> =
        ["SELECT 1", "DROP TABLE t", "BEGIN", "SELECT 1; DROP TABLE t", "COPY t FROM STDIN"]
            .iter()
            .flat_map(|text| {
                [
                    of(|out| frontend::write_query(out, text.as_bytes())),
                    of(|out| frontend::write_parse(out, b"", text.as_bytes())),
                ]
            })
            .collect();
    seeds.push(of(|out| frontend::write_describe(out, frontend::Named::Portal, b"")));
    for kind in [frontend::SYNC, frontend::FLUSH, frontend::COPY_DONE] {
        seeds.push(of(|out| frontend::write_empty(out, kind)));
    }
    for (kind, body) in [
        (frontend::BIND, &b"\0\0\0\x01\0\x01\0\x01\0\0\0\x02ab\0\0"[..]),
        (frontend::EXECUTE, b"\0\0\0\0\x01"),
        (frontend::CLOSE, b"S\0"),
        (frontend::FUNCTION_CALL, b"\0\0\0\x05\0\0\0\0\0\0"),
        (frontend::COPY_DATA, b"DROP TABLE"),
        (frontend::COPY_FAIL, b"no\0"),
    ] {
        seeds.push(of(|out| {
            write::message(out, kind, |writer| {
                writer.bytes(body);
            });
        }));
    }
    // COPY data that the server never asked for does not pass either.
    play(&seeds, Side::Client, |_| ());
}

#[test]
fn mutated_messages_of_a_server_end_in_protocol_errors_at_worst() {
    let mut seeds = vec![of(|out| ready(out, b'I'))];
    let error = backend::ErrorText { severity: "ERROR", code: "42601", message: "no", detail: "", hint: "" };
    seeds.push(of(|out| backend::write_error(out, &error)));
    let column =
        [&b"\0\x01c\0"[..], &MASKED_TABLE.to_be_bytes(), b"\0\x02\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0"]
            .concat();
    for (kind, body) in [
        (backend::ROW_DESCRIPTION, column.as_slice()),
        (backend::DATA_ROW, b"\0\x01\0\0\0\x0ebo@example.com"),
        (backend::COMMAND_COMPLETE, b"SELECT 1\0"),
        (backend::PARAMETER_STATUS, b"client_encoding\0UTF8\0"),
        (backend::NOTIFICATION, b"\0\0\0\x01c\0p\0"),
        (backend::COPY_IN, b"\0\0\0"),
        (backend::COPY_OUT, b"\0\0\0"),
        (backend::COPY_DATA, b"row"),
        (backend::COPY_DONE, b""),
        (backend::PARSE_COMPLETE, b""),
        (backend::BIND_COMPLETE, b""),
        (backend::PARAMETER_DESCRIPTION, b"\0\x01\0\0\0\x17"),
        (backend::NO_DATA, b""),
        (backend::PORTAL_SUSPENDED, b""),
        (backend::EMPTY_QUERY, b""),
    ] {
        seeds.push(of(|out| {
            write::message(out, kind, |writer| {
                writer.bytes(body);
            });
        }));
    }
    play(&seeds, Side::Server, |rig| {
        rig.client(&of(|out| frontend::write_query(out, b"SELECT 1")));
        rig.client(&of(|out| frontend::write_parse(out, b"", b"SELECT 1")));
        rig.client(&of(|out| frontend::write_describe(out, frontend::Named::Statement, b"")));
        rig.client(&of(|out| frontend::write_empty(out, frontend::SYNC)));
    });
}

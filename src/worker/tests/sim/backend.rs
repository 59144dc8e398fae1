//! A PostgreSQL backend as a function of the messages it gets: the simulated server answers with it, and the client
//! knows from it what must come back.

use std::collections::BTreeMap;

use lockgate_codecs::postgres::backend::{self as wire, ErrorText};
use lockgate_codecs::postgres::frontend::{self, Named};
use lockgate_codecs::postgres::write;

use crate::tests::server::message;

/// The table that every row is of; its second column is masked where anything is.
pub(super) const TABLE: u32 = 4711;
/// What a masked cell looks like.
pub(super) const REDACTED: &[u8] = b"[REDACTED]";

/// What a statement of the scripts does.
enum Sql {
    Rows { count: usize, bytes: usize },
    Fail,
    Sleep,
    Begin,
    Commit,
    Rollback,
    CopyIn,
    CopyOut { count: usize, bytes: usize },
    Unparsable,
}

/// The marker that every statement of the scripts carries.
pub(super) fn marker(sql: &str) -> Option<&str> {
    let at = sql.match_indices('m').map(|(at, _)| at).find(|at| {
        sql.get(at + 1..at + 7).is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
    })?;
    sql.get(at..at + 7)
}

fn read(sql: &str) -> Sql {
    let number = |word: usize| {
        let mut words = sql.split([' ', ',']).filter(|word| !word.is_empty());
        words.nth(word).and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    match sql.split(' ').next() {
        Some("SELECT") if sql.contains("'fail'") => Sql::Fail,
        Some("SELECT") if sql.contains("'sleep'") => Sql::Sleep,
        Some("SELECT") => Sql::Rows { count: number(2), bytes: number(3) },
        Some("BEGIN") => Sql::Begin,
        Some("COMMIT") => Sql::Commit,
        Some("ROLLBACK") => Sql::Rollback,
        Some("COPY") if sql.contains("STDIN") => Sql::CopyIn,
        Some("COPY") => Sql::CopyOut { count: number(6), bytes: number(7) },
        _ => Sql::Unparsable,
    }
}

/// What is to be done next with a backend.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Go,
    /// It sleeps until [`Backend::wake`].
    Sleep,
    Bye,
}

#[derive(Clone)]
pub(super) struct Backend {
    status: u8,
    skipping: bool,
    pub(super) copying: Option<Digest>,
    pub(super) statements: BTreeMap<Vec<u8>, String>,
    portals: BTreeMap<Vec<u8>, Portal>,
}

#[derive(Clone)]
struct Portal {
    sql: String,
    digest: Digest,
    sent: usize,
}

/// Of whatever a command was made of: it shows in the answer, so that nothing can be lost on its way.
#[derive(Clone, Copy)]
pub(super) struct Digest(u64);

impl Digest {
    fn of(bytes: &[u8]) -> Digest {
        let mut digest = Digest(0xcbf2_9ce4_8422_2325);
        digest.add(bytes);
        digest
    }
    fn add(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            let word = u64::from_le_bytes(word) ^ (part.len() as u64) << 60;
            self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        }
    }
}

impl Backend {
    pub(super) fn new() -> Backend {
        Backend {
            status: b'I',
            skipping: false,
            copying: None,
            statements: BTreeMap::new(),
            portals: BTreeMap::new(),
        }
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        self.status != b'I'
    }

    /// Takes a message and appends the answer; `executed` hears of every statement that is carried out.
    pub(super) fn message(
        &mut self,
        kind: u8,
        body: &[u8],
        out: &mut Vec<u8>,
        executed: &mut dyn FnMut(&str),
    ) -> Next {
        if kind == frontend::TERMINATE {
            return Next::Bye;
        }
        if self.copying.is_some() {
            self.copy(kind, body, out);
            return Next::Go;
        }
        if self.skipping && kind != frontend::SYNC {
            return Next::Go;
        }
        match kind {
            frontend::QUERY => return self.query(frontend::query(body).unwrap(), out, executed),
            frontend::PARSE => self.parse(frontend::parse(body).unwrap(), out),
            frontend::BIND => self.bind(frontend::bind(body).unwrap(), out),
            frontend::DESCRIBE => self.describe(body, out),
            frontend::EXECUTE => self.execute(frontend::execute(body).unwrap(), out, executed),
            frontend::CLOSE => {
                match frontend::named(body, "Close").unwrap() {
                    (Named::Statement, name) => drop(self.statements.remove(name)),
                    (Named::Portal, name) => drop(self.portals.remove(name)),
                }
                out.extend(message(wire::CLOSE_COMPLETE, b""));
            }
            frontend::SYNC => {
                self.skipping = false;
                self.ready(out);
            }
            frontend::FLUSH => {}
            other => panic!("a backend got message {other}"),
        }
        Next::Go
    }

    /// A sleep ends: it was cancelled.
    pub(super) fn wake(&mut self, out: &mut Vec<u8>) {
        self.error("57014", "canceling statement due to user request", out);
        self.ready(out);
    }

    fn ready(&mut self, out: &mut Vec<u8>) {
        if self.status == b'I' {
            self.portals.clear();
        }
        out.extend(message(wire::READY_FOR_QUERY, &[self.status]));
    }

    fn error(&mut self, code: &str, text: &str, out: &mut Vec<u8>) {
        let error = ErrorText { severity: "ERROR", code, message: text, detail: "", hint: "" };
        wire::write_error(out, &error);
        if self.status == b'T' {
            self.status = b'E';
        }
    }

    fn query(&mut self, text: &[u8], out: &mut Vec<u8>, executed: &mut dyn FnMut(&str)) -> Next {
        let text = std::str::from_utf8(text).unwrap();
        let digest = Digest::of(text.as_bytes());
        for sql in text.split("; ") {
            if let Err((code, why)) = self.may_run(sql) {
                self.error(code, why, out);
                break;
            }
            executed(sql);
            match read(sql) {
                Sql::Sleep => return Next::Sleep,
                Sql::CopyIn => {
                    self.copying = Some(digest);
                    out.extend(message(wire::COPY_IN, &[0, 0, 1, 0, 0]));
                    return Next::Go;
                }
                Sql::CopyOut { count, bytes } => {
                    out.extend(message(wire::COPY_OUT, &[0, 0, 1, 0, 0]));
                    for row in 0..count {
                        out.extend(message(wire::COPY_DATA, &cell(digest, row, bytes)));
                    }
                    out.extend(message(wire::COPY_DONE, b""));
                    out.extend(message(wire::COMMAND_COMPLETE, format!("COPY {count}\0").as_bytes()));
                }
                Sql::Rows { .. } => {
                    describe_rows(out);
                    self.run(sql, digest, 0, 0, out);
                }
                _ => {
                    if self.run(sql, digest, 0, 0, out).is_none() {
                        break;
                    }
                }
            }
        }
        self.ready(out);
        Next::Go
    }

    fn may_run(&self, sql: &str) -> Result<(), (&'static str, &'static str)> {
        match read(sql) {
            Sql::Unparsable => Err(("42601", "syntax error")),
            Sql::Commit | Sql::Rollback => Ok(()),
            _ if self.status == b'E' => Err(("25P02", "current transaction is aborted")),
            _ => Ok(()),
        }
    }

    /// Runs what needs no conversation; the result is how many rows were sent, `None` after an error.
    fn run(
        &mut self,
        sql: &str,
        digest: Digest,
        from: usize,
        most: usize,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let tag = match read(sql) {
            Sql::Rows { count, bytes } => {
                let to = if most == 0 { count } else { count.min(from + most) };
                if digest.0.is_multiple_of(5) {
                    let notice = b"SNOTICE\0VNOTICE\0C00000\0Mby the way\0\0";
                    out.extend(message(wire::NOTICE, notice));
                }
                for row in from..to {
                    data_row(digest, row, bytes, out);
                }
                if most > 0 && to - from == most {
                    out.extend(message(wire::PORTAL_SUSPENDED, b""));
                    return Some(to);
                }
                format!("SELECT {}", to - from)
            }
            Sql::Begin => {
                self.status = b'T';
                String::from("BEGIN")
            }
            Sql::Commit if self.status == b'T' => {
                self.status = b'I';
                out.extend(message(wire::PARAMETER_STATUS, b"application_name\0sim\0"));
                String::from("COMMIT")
            }
            Sql::Commit | Sql::Rollback => {
                self.status = b'I';
                String::from("ROLLBACK")
            }
            _ => {
                self.error("22012", "division by zero", out);
                return None;
            }
        };
        out.extend(message(wire::COMMAND_COMPLETE, format!("{tag}\0").as_bytes()));
        Some(0)
    }

    fn skip_after(&mut self, code: &str, why: &str, out: &mut Vec<u8>) {
        self.error(code, why, out);
        self.skipping = true;
    }

    fn parse(&mut self, parse: frontend::Parse<'_>, out: &mut Vec<u8>) {
        let sql = std::str::from_utf8(parse.text).unwrap();
        if let Err((code, why)) = self.may_run(sql) {
            return self.skip_after(code, why, out);
        }
        self.statements.insert(parse.name.to_vec(), sql.to_owned());
        out.extend(message(wire::PARSE_COMPLETE, b""));
    }

    fn bind(&mut self, bind: frontend::Bind<'_>, out: &mut Vec<u8>) {
        let Some(sql) = self.statements.get(bind.statement).cloned() else {
            return self.skip_after("26000", "there is no such statement", out);
        };
        if let Err((code, why)) = self.may_run(&sql) {
            return self.skip_after(code, why, out);
        }
        let mut digest = Digest::of(sql.as_bytes());
        digest.add(bind.parameters);
        self.portals.insert(bind.portal.to_vec(), Portal { sql, digest, sent: 0 });
        out.extend(message(wire::BIND_COMPLETE, b""));
    }

    fn describe(&mut self, body: &[u8], out: &mut Vec<u8>) {
        let sql = match frontend::named(body, "Describe").unwrap() {
            (Named::Statement, name) => {
                let Some(sql) = self.statements.get(name).cloned() else {
                    return self.skip_after("26000", "there is no such statement", out);
                };
                out.extend(message(wire::PARAMETER_DESCRIPTION, &[0, 0]));
                sql
            }
            (Named::Portal, name) => match self.portals.get(name) {
                Some(portal) => portal.sql.clone(),
                None => return self.skip_after("34000", "there is no such portal", out),
            },
        };
        match read(&sql) {
            Sql::Rows { .. } | Sql::Fail => describe_rows(out),
            _ => out.extend(message(wire::NO_DATA, b"")),
        }
    }

    fn execute(&mut self, (name, most): (&[u8], i32), out: &mut Vec<u8>, executed: &mut dyn FnMut(&str)) {
        let Some(Portal { sql, digest, sent }) = self.portals.get(name).cloned() else {
            return self.skip_after("34000", "there is no such portal", out);
        };
        if let Err((code, why)) = self.may_run(&sql) {
            return self.skip_after(code, why, out);
        }
        executed(&sql);
        match self.run(&sql, digest, sent, usize::try_from(most).unwrap(), out) {
            None => self.skipping = true,
            Some(sent) => {
                if let Some(portal) = self.portals.get_mut(name) {
                    portal.sent = sent;
                }
            }
        }
    }

    fn copy(&mut self, kind: u8, body: &[u8], out: &mut Vec<u8>) {
        let Some(digest) = &mut self.copying else { return };
        match kind {
            frontend::COPY_DATA => digest.add(body),
            frontend::COPY_DONE => {
                let tag = format!("COPY {}\0", digest.0 % 1_000_000_007);
                self.copying = None;
                out.extend(message(wire::COMMAND_COMPLETE, tag.as_bytes()));
                self.ready(out);
            }
            frontend::COPY_FAIL => {
                self.copying = None;
                self.error("57014", "COPY from stdin failed", out);
                self.ready(out);
            }
            other => panic!("a backend got message {other} while it copies"),
        }
    }
}

fn describe_rows(out: &mut Vec<u8>) {
    write::message(out, wire::ROW_DESCRIPTION, |body| {
        body.i16(2);
        for (name, attribute) in [(&b"id"[..], 1), (b"secret", 2)] {
            body.string(name).u32(TABLE).i16(attribute).u32(25).i16(-1).i32(-1).i16(0);
        }
    });
}

fn cell(digest: Digest, row: usize, bytes: usize) -> Vec<u8> {
    let mut own = digest;
    own.add(&row.to_le_bytes());
    (0..bytes).map(|at| b'a' + u8::try_from((own.0 >> (at % 50)) % 26).unwrap()).collect()
}

fn data_row(digest: Digest, row: usize, bytes: usize, out: &mut Vec<u8>) {
    write_row(&[format!("{row}").as_bytes(), &cell(digest, row, bytes)], out);
}

fn write_row(cells: &[&[u8]], out: &mut Vec<u8>) {
    write::message(out, wire::DATA_ROW, |body| {
        body.i16(i16::try_from(cells.len()).unwrap());
        for cell in cells {
            body.i32(i32::try_from(cell.len()).unwrap()).bytes(cell);
        }
    });
}

/// A row as a client may see it where its second column is masked.
pub(super) fn masked(row: &[u8]) -> Vec<u8> {
    let length = usize::try_from(u32::from_be_bytes(row[7..11].try_into().unwrap())).unwrap();
    let mut out = Vec::new();
    write_row(&[&row[11..11 + length], REDACTED], &mut out);
    out
}

//! The workloads: what is asked, how often, and the data it is asked of.

use clap::ValueEnum;
use lockgate_client::wire;

use crate::script::{KEY, KEY_FIRST, KEYS, Parts, Rows, SERIAL, Script, Slotted};

/// Commands in flight at once where they are pipelined.
const PIPELINE: u64 = 16;
/// Rows of one COPY towards the server.
const COPY_ROWS: u32 = 10_000;
const DOCUMENTS: u32 = 20_000;
/// So many times all documents are about a gigabyte.
const DOCUMENTS_TIMES: u32 = 50;
const POINT: &str = "SELECT aid, email, balance FROM accounts WHERE aid = ";

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Workload {
    /// One row by its key, simple protocol: the statement's text names the key.
    PointSimple,
    /// One row by its key, extended protocol, parsed each time: Parse, Bind, Describe, Execute, Sync.
    PointExtended,
    /// One row by its key, prepared once: Bind, Describe, Execute, Sync.
    PointPrepared,
    /// One row by its key, prepared once, 16 commands for each Sync.
    PointPipelined,
    /// One row by its key; no statement's text was ever seen before.
    PointFresh,
    /// Connect, ask once, leave.
    Churn,
    /// Connect inside TLS, ask once, leave.
    ChurnTls,
    /// A result of 100,000 short rows.
    Rows,
    /// A result of 100,000 short rows with two protected columns.
    RowsMasked,
    /// A result of a gigabyte, in rows of a kilobyte.
    Gigabyte,
    /// A result of a gigabyte, in rows of a kilobyte, with two protected columns.
    GigabyteMasked,
    /// COPY of 10,000 rows to the server.
    CopyIn,
    /// COPY of 100,000 rows from the server.
    CopyOut,
    /// Ask once, then hold the connection and say nothing.
    Idle,
}

/// The tables, made once on the server itself. Each of the two protected columns has a twin that bears the same text and
/// is not protected, so that what a mask costs is seen on equal bytes.
pub fn tables() -> Vec<String> {
    let contact = |column: &str| format!("'u' || i || '@example.com' AS {column}");
    let card = |column: &str| format!("'4000-1234-' || lpad((i % 10000)::text, 4, '0') AS {column}");
    let columns = [contact("email"), card("card"), contact("contact"), card("reference")].join(", ");
    let keys = |count: u32| format!("generate_series({KEY_FIRST}, {}) i", KEY_FIRST + count - 1);
    [
        format!(
            "CREATE TABLE accounts AS SELECT i AS aid, {columns}, 1000000 + i AS balance FROM {}",
            keys(KEYS)
        ),
        "ALTER TABLE accounts ADD PRIMARY KEY (aid)".into(),
        format!(
            "CREATE TABLE documents AS SELECT i AS id, {columns}, repeat(md5(i::text), 30) AS body FROM {}",
            keys(DOCUMENTS)
        ),
        "CREATE TABLE exports AS SELECT aid, contact, reference, balance FROM accounts".into(),
        "CREATE UNLOGGED TABLE intake (aid int, contact text, reference text, balance int)".into(),
        "VACUUM (ANALYZE) accounts, documents, exports".into(),
    ]
    .into()
}

impl Workload {
    /// As on the command line and in reports.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// One sentence.
    pub fn what(self) -> String {
        self.to_possible_value()
            .and_then(|value| value.get_help().map(ToString::to_string))
            .unwrap_or_default()
    }

    /// Whether each exchange has a connection of its own.
    pub fn reconnects(self) -> bool {
        matches!(self, Workload::Churn | Workload::ChurnTls)
    }

    /// Whether clients speak TLS whatever the command line says.
    pub fn tls(self) -> bool {
        self == Workload::ChurnTls
    }

    /// Exchanges that make a round, where one takes so long that a round is not told by time.
    pub fn exchanges(self) -> Option<u32> {
        match self {
            Workload::Rows | Workload::RowsMasked => Some(5),
            Workload::Gigabyte | Workload::GigabyteMasked => Some(1),
            _ => None,
        }
    }

    /// Each connection asks once ahead of the round, and is silent in it.
    pub fn rests(self) -> bool {
        self == Workload::Idle
    }

    /// What counts is bytes, not commands.
    pub fn is_bulk(self) -> bool {
        self.exchanges().is_some() || matches!(self, Workload::CopyIn | Workload::CopyOut)
    }

    /// What is to be done on the server itself ahead of each round.
    pub fn tidy(self) -> Option<&'static str> {
        (self == Workload::CopyIn).then_some("TRUNCATE intake")
    }

    /// What a connection asks; `masked`: protected columns are masked on the way.
    pub fn script(self, masked: bool, seed: u64) -> Script {
        Script::new(self.parts(masked, seed), seed)
    }

    fn parts(self, masked: bool, seed: u64) -> Parts {
        match self {
            Workload::PointSimple | Workload::Churn | Workload::ChurnTls => {
                point(wire::query(&format!("{POINT}{KEY}")), masked)
            }
            Workload::PointFresh => {
                let columns = format!("aid, email, balance AS b{SERIAL}");
                point(wire::query(&format!("SELECT {columns} FROM accounts WHERE aid = {KEY}")), masked)
            }
            Workload::PointExtended => {
                let parse = wire::parse("", &format!("{POINT}$1"));
                point([parse, wire::bind("", KEY), wire::execute(), wire::sync()].concat(), masked)
            }
            Workload::PointPrepared => prepared(1, masked, seed),
            Workload::PointPipelined => prepared(PIPELINE, masked, seed),
            Workload::Rows => table("aid, contact, reference, balance FROM accounts", KEYS, false),
            Workload::RowsMasked => table("aid, email, card, balance FROM accounts", KEYS, masked),
            Workload::Gigabyte => documents("d.id, d.contact, d.reference, d.body", false),
            Workload::GigabyteMasked => documents("d.id, d.email, d.card, d.body", masked),
            Workload::CopyIn => copy_in(),
            Workload::CopyOut => {
                let request = wire::query("COPY exports TO STDOUT");
                Parts { rows_expected: u64::from(KEYS), ..plain(request, Rows::Any) }
            }
            Workload::Idle => plain(wire::query("SELECT 1"), Rows::Any),
        }
    }
}

fn plain(request: Vec<u8>, rows: Rows) -> Parts {
    Parts { prepare: None, request, copy: Vec::new(), rows, commands: 1, rows_expected: 1 }
}

fn point(request: Vec<u8>, masked: bool) -> Parts {
    let email = if masked { String::from("*******@example.com") } else { format!("u{KEY}@example.com") };
    let row = wire::row(&[KEY.as_bytes(), email.as_bytes(), format!("1{KEY}").as_bytes()]);
    plain(request, Rows::Point(Slotted::new(row)))
}

/// The statement's name is the connection's own: a pooler hands the server's session on, with all that was prepared in it.
fn prepared(commands: u64, masked: bool, seed: u64) -> Parts {
    let name = format!("point_{seed:016x}");
    let one = [wire::bind(&name, KEY), wire::execute()].concat();
    let all = one.repeat(usize::try_from(commands).unwrap_or(1));
    let prepare = [wire::parse(&name, &format!("{POINT}$1")), wire::sync()].concat();
    let request = [all, wire::sync()].concat();
    Parts { prepare: Some(prepare), commands, rows_expected: commands, ..point(request, masked) }
}

fn table(columns: &str, rows: u32, masked: bool) -> Parts {
    let request = wire::query(&format!("SELECT {columns}"));
    Parts { rows_expected: u64::from(rows), ..plain(request, Rows::Table { cells: 4, masked }) }
}

fn documents(columns: &str, masked: bool) -> Parts {
    let from = format!("{columns} FROM documents d CROSS JOIN generate_series(1, {DOCUMENTS_TIMES})");
    table(&from, DOCUMENTS * DOCUMENTS_TIMES, masked)
}

fn copy_in() -> Parts {
    let line =
        |number: u32| format!("{number}\tu{number}@example.com\t4000-1234-0001\t1{number}\n").into_bytes();
    let lines: Vec<Vec<u8>> = (KEY_FIRST..KEY_FIRST + COPY_ROWS).map(line).collect();
    let chunks: Vec<Vec<u8>> = lines.chunks(200).map(<[Vec<u8>]>::concat).collect();
    let copy = wire::copy(chunks.iter().map(Vec::as_slice));
    Parts { copy, rows_expected: 0, ..plain(wire::query("COPY intake FROM STDIN"), Rows::Any) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_has_a_name_a_sentence_and_a_request() {
        for workload in Workload::value_variants() {
            assert!(!workload.name().is_empty() && !workload.what().is_empty());
            assert!(!workload.script(true, 1).next().is_empty(), "{}", workload.name());
        }
    }

    #[test]
    fn requests_keep_their_length_whatever_the_key() {
        for workload in [Workload::PointSimple, Workload::PointPipelined, Workload::PointFresh] {
            let mut script = workload.script(false, 3);
            let first = script.next();
            let length = first.len();
            script.sent(first);
            assert_eq!(script.next().len(), length);
        }
    }
}

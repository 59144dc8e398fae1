//! Input that means harm: depth, size, broken bytes, and mutations of good statements.

use crate::check::{check, spelled, understand, understand_as};
use lockgate_facts::postgres::{Reading, fuzzing};
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Generous: a debug build on a busy machine. Anything quadratic takes minutes.
const SLOW: Duration = Duration::from_secs(30);

fn timed(sql: &str) -> Vec<String> {
    let start = Instant::now();
    let found = spelled(&understand(sql));
    assert!(start.elapsed() < SLOW, "{} bytes took {:?}", sql.len(), start.elapsed());
    found
}

#[test]
fn depth_is_no_recursion() {
    let n = 200_000;
    let reads = ["read public.orders".to_owned()];
    assert_eq!(timed(&format!("SELECT 'a'{} FROM orders", "||'a'".repeat(n))), reads);
    assert_eq!(timed(&format!("SELECT 1 FROM orders{}", " UNION ALL SELECT 1".repeat(n))), reads);
    assert_eq!(timed(&format!("SELECT 1 FROM orders{}", " CROSS JOIN orders".repeat(n))), reads);
    assert_eq!(timed(&format!("SELECT id{} FROM orders", "::int".repeat(n))), reads);
    for (open, close) in
        [("(", ")"), ("(SELECT ", ")"), ("CASE WHEN true THEN ", " END"), ("NOT ", ""), ("f(", ")")]
    {
        let sql = format!("SELECT {}1{}", open.repeat(n), close.repeat(n));
        assert!(timed(&sql).contains(&"unknown".to_owned()), "{open}");
    }
}

#[test]
fn size_is_linear() {
    let reads = ["read public.orders".to_owned()];
    let list = ", 12345678".repeat(60_000);
    assert_eq!(timed(&format!("SELECT id FROM orders WHERE id IN (1{list})")), reads);
    assert_eq!(timed(&"SELECT id FROM orders;".repeat(20_000)), reads);
    let ctes: Vec<String> = (0..20_000).map(|n| format!("c{n} AS (SELECT 1)")).collect();
    let uses: Vec<String> = (0..20_000).map(|n| format!("c{n}")).collect();
    timed(&format!("WITH {} SELECT 1 FROM {}", ctes.join(", "), uses.join(", ")));
    let tables = "orders, ".repeat(30_000);
    let of = "orders, ".repeat(30_000);
    timed(&format!("SELECT 1 FROM {tables} orders FOR UPDATE OF {of} orders"));
    let long = format!("SELECT 1 /*{}*/", "x".repeat(17 << 20));
    assert_eq!(timed(&long), ["unknown"]);
}

#[test]
fn what_is_no_text_is_unknown() {
    for bytes in
        [&b"SELECT '\xff'"[..], b"SELECT 1\0DELETE FROM customers", b"\xef\xbb\xbfSELECT 1", b"SELECT \xc3"]
    {
        assert_eq!(spelled(&understand_as(bytes, &Reading::new())), ["unknown"], "{bytes:?}");
    }
    let understood = understand("SELECT 1 FROM");
    assert_eq!(understood.facts.unknown, ["syntax error at end of input at character 14"]);
    check(r"SELECT E'\xff'", "unknown");
}

#[test]
fn strings_are_read_as_the_session_reads_them() {
    let off = Reading { standard_conforming_strings: false, ..Reading::new() };
    let sql = br"SELECT '\'' ; DELETE FROM customers; --' ";
    assert_eq!(spelled(&understand_as(sql, &off)), ["delete public.customers"]);
    assert!(spelled(&understand_as(sql, &Reading::new())).is_empty(), "one string");
    let sql = br"SELECT '\'; DELETE FROM customers; --' AS msg";
    assert!(spelled(&understand_as(sql, &off)).is_empty(), "one string");
    assert_eq!(spelled(&understand_as(sql, &Reading::new())), ["delete public.customers"]);
}

/// Pieces that a mutation puts together.
#[test]
fn the_corpus_gets_an_answer_wherever_it_is_cut() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut seen = 0;
    for file in fs::read_dir(folder).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        (0..bytes.len()).step_by(7).for_each(|end| fuzzing::understand(&bytes[..end]));
        fuzzing::understand(&bytes);
        seen += 1;
    }
    assert!(seen > 0, "the corpus is gone");
}

const PIECES: &[&str] = &[
    "SELECT ",
    "DELETE FROM ",
    "customers",
    " WHERE ",
    "id",
    " = ",
    "1",
    "'",
    "\"",
    "$$",
    "--",
    "/*",
    "*/",
    ";",
    "(",
    ")",
    ",",
    "WITH x AS (",
    "GRANT SELECT ON ",
    "ALL FUNCTIONS IN SCHEMA public",
    " TO PUBLIC",
    "INSERT INTO ",
    "VALUES ",
    "MERGE INTO ",
    "COPY ",
    " FROM STDIN",
    "ALTER TABLE ",
    "ADD COLUMN c int",
    "CREATE ",
    "TABLE ",
    "json_table(",
    "xmltable(",
    "::int[]",
    " OVER (",
    "\\",
    "E'",
    "U&'",
    "\u{e9}",
    ".",
    "*",
    "SET ",
    "ROW(",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql ",
    "BEGIN ATOMIC ",
    "END",
    "EXPLAIN ",
    "PREPARE p AS ",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzzing::understand(&bytes);
    }

    #[test]
    fn any_mixture_gets_an_answer(picks in prop::collection::vec(0..PIECES.len(), 0..40)) {
        let sql: String = picks.iter().map(|pick| PIECES[*pick]).collect();
        fuzzing::understand(sql.as_bytes());
        let _ = understand(&sql);
    }
}

//! That a text is never answered with what another of its shape does, unless both do the same.

use crate::check::{catalog, spelled};
use lockgate_facts::postgres::{Cache, Reading};
use proptest::prelude::*;
use std::fs;
use std::path::Path;

/// The text with other digits, wherever there is one: in names and strings as well.
fn with_other_digits(text: &[u8], mut seed: u64) -> Vec<u8> {
    let digit = |byte: &u8| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Few values, so that names and numbers meet.
        if byte.is_ascii_digit() && seed >> 62 != 0 {
            b"0123456789"[usize::try_from(seed >> 40).unwrap() % 10]
        } else {
            *byte
        }
    };
    text.iter().map(digit).collect()
}

/// What a cache that knows `text` says of texts that differ in their digits is what one says that knows nothing. Gives
/// how many were answered from what was known.
fn check(text: &[u8], reading: &Reading, seeds: u64) -> u64 {
    let mut warm = Cache::new(1 << 20);
    warm.understand(text, catalog(), reading);
    for seed in 0..seeds {
        let other = with_other_digits(text, seed);
        let known = warm.understand(&other, catalog(), reading);
        let fresh = Cache::new(1 << 20).understand(&other, catalog(), reading);
        assert_eq!(
            format!("{known:?}"),
            format!("{fresh:?}"),
            "{:?} after {:?}",
            String::from_utf8_lossy(&other),
            String::from_utf8_lossy(text),
        );
    }
    warm.hits()
}

#[test]
fn statements_that_differ_in_their_keys_are_read_once() {
    let reading = Reading::new();
    for text in [
        "SELECT total FROM orders WHERE id = 4711",
        "UPDATE orders SET total = 10 WHERE id IN (1, 22, 333)",
        "DELETE FROM orders WHERE id BETWEEN 15 AND 20",
        "SELECT id FROM orders ORDER BY 1 LIMIT 10 OFFSET 200",
        "INSERT INTO orders (id, total) VALUES (1, 99), (2, 5)",
    ] {
        assert_eq!(check(text.as_bytes(), &reading, 20), 20, "{text}");
    }
}

#[test]
fn what_depends_on_a_number_is_read_each_time() {
    let mut cache = Cache::new(1 << 20);
    let mut read = |sql: &str| spelled(&cache.understand(sql.as_bytes(), catalog(), &Reading::new()));
    assert_ne!(read("SELECT lo_get(16401)"), read("SELECT lo_get(16402)"), "another large object");
    assert_ne!(read("SELECT 1 FROM \"t 1\""), read("SELECT 1 FROM \"t 2\""), "another table");
    for text in [
        "SELECT lo_unlink(16401)",
        "COMMENT ON LARGE OBJECT 16401 IS NULL",
        "SET work_mem = 4096",
        "FETCH 10 FROM c",
    ] {
        check(text.as_bytes(), &Reading::new(), 50);
    }
}

#[test]
fn the_corpus_is_read_alike_with_and_without_what_is_known() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut hits = 0;
    for file in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        for statement in text.split(';') {
            hits += check(statement.as_bytes(), &Reading::new(), 3);
        }
    }
    assert!(hits > 0, "nothing was ever answered by its shape");
}

/// Whatever a number may stand in, beside or behind.
const PIECES: &[&str] = &[
    "\"t 1\" ",
    "\"1\" ",
    "JOIN ",
    "SELECT ",
    "FROM ",
    "orders ",
    "customers ",
    "WHERE ",
    "id ",
    "= ",
    "1",
    "12",
    "345678901",
    "3456789012",
    "0",
    " ",
    ",",
    "(",
    ")",
    ";",
    "'",
    "\"",
    "$",
    "$$",
    "$1",
    "--",
    "-",
    "/",
    "*",
    "/*",
    "*/",
    "\n",
    "\\",
    ".",
    "..",
    ":",
    "::",
    "float(24)",
    "FLOAT",
    "int4",
    "numeric(1,2)",
    "lo_get(",
    "lo_create(",
    "setval(",
    "set_config(",
    "E'",
    "U&'",
    "B'1'",
    "0x1",
    "1e5",
    "1_0",
    "x1",
    "_1",
    "\u{e9}",
    "t.1",
    "[1]",
    "[1:2]",
    "ORDER BY 1 ",
    "LIMIT 1 ",
    "FETCH FIRST 2 ROWS ONLY ",
    "GROUP BY 2 ",
    "DELETE FROM ",
    "INSERT INTO ",
    "VALUES (1)",
    "UPDATE ",
    "SET id = 1 ",
    "COPY ",
    "TO STDOUT ",
    "EXPLAIN ",
    "PREPARE p1 AS ",
    "EXECUTE p1(1)",
    "FETCH 3 FROM c1",
    "AS ",
    "a1 ",
    "%",
    "@",
    "#",
    "|",
    "^1",
    "TABLESAMPLE system(1) ",
    "interval(3) ",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 20_000 } else { 200_000 }))]

    #[test]
    fn no_text_is_answered_with_another(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 1..14),
        conforming in any::<bool>(),
    ) {
        let reading = Reading { standard_conforming_strings: conforming, ..Reading::new() };
        check(format!("SELECT {}", pieces.concat()).as_bytes(), &reading, 4);
        check(format!("SELECT 1 FROM {}", pieces.concat()).as_bytes(), &reading, 4);
        check(pieces.concat().as_bytes(), &reading, 2);
    }
}

//! What a statement does: seen before, never seen, and PostgreSQL's raw parser alone, which the bar is set by.

use std::error::Error;
use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;

use lockgate_facts::postgres::{Cache, Catalog, Reading, Understood};

use crate::{Bench, Setup, Work};

/// A catalog of a PostgreSQL 15, as `COPY … TO STDOUT` wrote it: `@@name` before the rows of each query.
const ANSWERS: &str = include_str!("../src/facts/tests/postgres/catalog-15.tsv");

/// Statements of one call. No two of a body's are the same: each ends in a number of its own.
const STATEMENTS: usize = 64;
/// A row by its key.
pub(crate) const POINT: &str = "SELECT id, name, email FROM customers WHERE id = ";
/// Two tables, conditions of several kinds, an order.
const JOIN: &str = "SELECT c.name, o.id, sum(o.total) AS total, count(*) FROM customers AS c \
     JOIN orders AS o ON o.customer_id = c.id \
     WHERE o.placed BETWEEN date '2026-01-01' AND date '2026-06-30' AND c.email LIKE '%example%' \
     AND c.household_id IN (1, 2, 3, 5, 8) AND o.total > 100.50 \
     GROUP BY c.name, o.id HAVING count(*) > 1 ORDER BY total DESC NULLS LAST LIMIT 20 OFFSET ";

/// Bytes of facts that are kept.
pub(crate) const FACTS_BYTES_MAX: usize = 1 << 20;

pub(crate) const BENCHES: &[Bench] = &[
    Bench { name: "facts/hit_point", work: Work::Items(1), set_up: || hit(POINT) },
    Bench { name: "facts/hit_shape", work: Work::Items(STATEMENTS as u64), set_up: || hit_shape(POINT) },
    Bench { name: "facts/hit_join", work: Work::Items(1), set_up: || hit(JOIN) },
    Bench {
        name: "facts/raw_parse_point",
        work: Work::Items(STATEMENTS as u64),
        set_up: || raw_parse(POINT),
    },
    Bench { name: "facts/miss_point", work: Work::Items(STATEMENTS as u64), set_up: || miss(POINT) },
    Bench { name: "facts/raw_parse_join", work: Work::Items(STATEMENTS as u64), set_up: || raw_parse(JOIN) },
    Bench { name: "facts/miss_join", work: Work::Items(STATEMENTS as u64), set_up: || miss(JOIN) },
];

/// A text of which no two are the same, not even by their shape: the number has too many digits for that.
pub(crate) struct Fresh {
    head: &'static str,
    text: String,
    number: u64,
}

impl Fresh {
    pub(crate) fn new(head: &'static str) -> Fresh {
        Fresh { head, text: String::new(), number: 0 }
    }

    pub(crate) fn next(&mut self) -> &str {
        self.number += 1;
        self.text.clear();
        self.text.push_str(self.head);
        // A String takes whatever is written to it.
        let _ = write!(self.text, "{:010}", self.number);
        &self.text
    }
}

/// What the statements' names mean.
pub(crate) fn catalog() -> Result<Arc<Catalog>, Box<dyn Error>> {
    let mut tables: Vec<Vec<Vec<Option<String>>>> = Vec::new();
    for line in ANSWERS.lines() {
        match (line.starts_with("@@"), tables.last_mut()) {
            (false, Some(table)) => table.push(line.split('\t').map(cell).collect()),
            _ => tables.push(Vec::new()),
        }
    }
    Ok(Arc::new(Catalog::build(1, &tables)?))
}

fn cell(text: &str) -> Option<String> {
    if text == "\\N" {
        return None;
    }
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next().map(|escaped| match escaped {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            })),
            c => out.push(c),
        }
    }
    Some(out)
}

fn is_understood(understood: &Understood) -> bool {
    understood.facts.unknown.is_empty() && !understood.facts.pairs.is_empty()
}

fn hit(head: &'static str) -> Setup {
    let (catalog, reading) = (catalog()?, Reading::new());
    let mut cache = Cache::new(FACTS_BYTES_MAX);
    let text = Fresh::new(head).next().to_owned();
    let mut misses = 1;
    cache.understand(text.as_bytes(), &catalog, &reading);
    Ok(Box::new(move || {
        let understood = cache.understand(black_box(text.as_bytes()), &catalog, &reading);
        let missed = cache.misses() - std::mem::replace(&mut misses, cache.misses());
        is_understood(&understood) && missed == 0
    }))
}

/// Each text has a key of its own, and all do the same.
fn hit_shape(head: &'static str) -> Setup {
    let (catalog, reading) = (catalog()?, Reading::new());
    let mut cache = Cache::new(FACTS_BYTES_MAX);
    let texts: Vec<String> = (1000..1000 + STATEMENTS).map(|key| format!("{head}{key}")).collect();
    cache.understand(format!("{head}9999").as_bytes(), &catalog, &reading);
    Ok(Box::new(move || {
        texts
            .iter()
            .all(|text| is_understood(&cache.understand(black_box(text.as_bytes()), &catalog, &reading)))
            && cache.misses() == 1
    }))
}

fn miss(head: &'static str) -> Setup {
    let (catalog, reading) = (catalog()?, Reading::new());
    let mut cache = Cache::new(FACTS_BYTES_MAX);
    let mut fresh = Fresh::new(head);
    Ok(Box::new(move || {
        (0..STATEMENTS).all(|_| is_understood(&cache.understand(fresh.next().as_bytes(), &catalog, &reading)))
            && cache.hits() == 0
    }))
}

fn raw_parse(head: &'static str) -> Setup {
    let mut fresh = Fresh::new(head);
    Ok(Box::new(move || (0..STATEMENTS).all(|_| black_box(pg_raw_parse::parse(fresh.next())).is_ok())))
}

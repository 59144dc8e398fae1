//! The helper that the cases use: a statement, and its pairs as the policy language spells them.

use lockgate_facts::postgres::{Cache, Catalog, Reading, Understood};
use lockgate_policy_dsl::{Effect, Object, Pair};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

/// As `COPY … TO STDOUT` wrote it: `@@name` before the rows of each query.
const ANSWERS: &str = include_str!("catalog-15.tsv");

static CATALOG: LazyLock<Arc<Catalog>> = LazyLock::new(|| Arc::new(catalog_of(ANSWERS)));

pub fn catalog() -> &'static Arc<Catalog> {
    &CATALOG
}

pub fn catalog_of(answers: &str) -> Catalog {
    let mut tables: Vec<Vec<Vec<Option<String>>>> = Vec::new();
    for line in answers.lines() {
        match line.strip_prefix("@@") {
            Some(_) => tables.push(Vec::new()),
            None => tables.last_mut().unwrap().push(line.split('\t').map(cell).collect()),
        }
    }
    Catalog::build(1, &tables).unwrap()
}

fn cell(text: &str) -> Option<String> {
    if text == "\\N" {
        return None;
    }
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next().unwrap() {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                other => out.push(other),
            },
            c => out.push(c),
        }
    }
    Some(out)
}

pub fn understand_as(sql: &[u8], reading: &Reading) -> Rc<Understood> {
    Cache::new(1 << 20).understand(sql, catalog(), reading)
}

pub fn understand(sql: &str) -> Rc<Understood> {
    understand_as(sql.as_bytes(), &Reading::new())
}

/// The pairs as the corpus spells them, sorted, each once.
pub fn spelled(understood: &Understood) -> Vec<String> {
    let mut all: Vec<String> = understood.facts.pairs.iter().map(pair).collect();
    all.sort();
    all.dedup();
    all
}

pub fn pair(pair: &Pair) -> String {
    let effect = effect(pair.effect);
    match &pair.object {
        Object::None => effect,
        Object::Qualified { schema, name } => format!("{effect} {schema}.{name}"),
        Object::Unresolved { name } => format!("{effect} ?.{name}"),
        Object::Kind { kind, name } => format!("{effect} {kind} {name}").trim_end().to_owned(),
        Object::Word(word) => format!("{effect} {word}"),
    }
}

fn effect(effect: Effect) -> String {
    let mut out = String::new();
    for c in format!("{effect:?}").chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Checks the whole set of pairs of one string, `; `-separated; reasons come with a failure.
#[track_caller]
pub fn check(sql: &str, expected: &str) {
    check_as(sql, &Reading::new(), expected);
}

#[track_caller]
pub fn check_as(sql: &str, reading: &Reading, expected: &str) {
    let understood = understand_as(sql.as_bytes(), reading);
    let mut wanted: Vec<&str> = expected.split("; ").filter(|pair| !pair.is_empty()).collect();
    wanted.sort_unstable();
    assert_eq!(spelled(&understood), wanted, "{sql}\n  {:?}", understood.facts.unknown);
    let unknown = understood.facts.pairs.iter().any(|pair| pair.effect == Effect::Unknown);
    assert_eq!(unknown, !understood.facts.unknown.is_empty(), "{sql}: unknown comes with a reason");
}

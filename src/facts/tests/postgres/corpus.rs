//! The corpus' commands, offline, when `LOCKGATE_CORPUS` names its folder: how many are read exactly, and that none is
//! read as less than it is.

use crate::check::{catalog, pair, spelled};
use lockgate_facts::postgres::{Cache, Change, Reading, SearchPath, Understood};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

/// A session as a lane would follow it, as far as facts need one.
#[derive(Default)]
struct Session {
    reading: Reading,
    statements: HashMap<String, Rc<Understood>>,
    portals: HashMap<String, Rc<Understood>>,
    found: BTreeSet<String>,
}

impl Session {
    fn add(&mut self, understood: Option<Rc<Understood>>) {
        match understood {
            Some(understood) => self.found.extend(understood.facts.pairs.iter().map(pair)),
            None => drop(self.found.insert("unknown".into())),
        }
    }

    fn run(&mut self, cache: &mut Cache, sql: &[u8]) -> Rc<Understood> {
        let understood = cache.understand(sql, catalog(), &self.reading);
        self.found.extend(spelled(&understood));
        for change in &understood.changes {
            match change {
                Change::Prepare { name, statement } => {
                    self.statements.insert(name.to_string(), statement.clone());
                }
                Change::Execute { name } => self.add(self.statements.get(&**name).cloned()),
                Change::Deallocate { name: Some(name) } => drop(self.statements.remove(&**name)),
                Change::Declare { name, statement } => {
                    self.portals.insert(name.to_string(), statement.clone());
                }
                Change::Fetch { name } => self.add(self.portals.get(&**name).cloned()),
                Change::SearchPath(path) => self.reading.search_path = path.clone(),
                Change::SearchPathReset => self.reading.search_path = SearchPath::Default,
                Change::Touched(touched) => self.reading.overlay = self.reading.overlay.with(touched),
                _ => {}
            }
        }
        // What the server would report as ParameterStatus.
        let text = String::from_utf8_lossy(sql).to_ascii_lowercase();
        if text.contains("standard_conforming_strings") && text.contains("off") {
            self.reading.standard_conforming_strings = false;
        }
        if ["rollback", "commit", "reset", "discard"].iter().any(|word| text.starts_with(word)) {
            self.reading.standard_conforming_strings = true;
        }
        understood
    }
}

/// `\xNN` and `\\`.
fn escaped(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        (out, rest) = match (first, tail) {
            (b'\\', [b'x', a, b, tail @ ..]) => {
                let digits = std::str::from_utf8(&[*a, *b]).map(str::to_owned).unwrap();
                out.push(u8::from_str_radix(&digits, 16).unwrap());
                (out, tail)
            }
            (b'\\', [b'\\', tail @ ..]) => {
                out.push(b'\\');
                (out, tail)
            }
            (byte, tail) => {
                out.push(*byte);
                (out, tail)
            }
        };
    }
    out
}

fn built(parts: &[toml::Value]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        match part {
            toml::Value::String(text) => out.extend_from_slice(text.as_bytes()),
            other => {
                let pair = other.as_array().unwrap();
                let count = usize::try_from(pair[1].as_integer().unwrap()).unwrap();
                out.extend(pair[0].as_str().unwrap().as_bytes().repeat(count));
            }
        }
    }
    out
}

fn query(table: &toml::Table) -> Option<Vec<u8>> {
    let text = |key: &str| table.get(key).and_then(toml::Value::as_str);
    text("sql")
        .map(|sql| sql.as_bytes().to_vec())
        .or_else(|| text("sql_esc").map(escaped))
        .or_else(|| table.get("build").and_then(toml::Value::as_array).map(|parts| built(parts)))
}

/// Runs a case; false when it has parts that only a server or a lane can show.
fn run(case: &toml::Table, session: &mut Session) -> bool {
    let mut cache = Cache::new(1 << 20);
    if case.contains_key("setup") || case.get("min_version").and_then(toml::Value::as_integer) > Some(15) {
        return false;
    }
    if let Some(sql) = query(case) {
        session.run(&mut cache, &sql);
        return true;
    }
    for step in case.get("steps").and_then(toml::Value::as_array).into_iter().flatten() {
        let step = step.as_table().unwrap();
        let text = |key: &str| step.get(key).and_then(toml::Value::as_str);
        if let Some(sql) = query(step) {
            session.run(&mut cache, &sql);
        } else if let Some(sql) = text("parse") {
            let understood = session.run(&mut cache, sql.as_bytes());
            if understood.statements > 1 {
                session.add(None);
            }
            session.statements.insert(text("name").unwrap_or("").into(), understood);
        } else if step.contains_key("bind") {
            let understood = session.statements.get(text("statement").unwrap_or("")).cloned();
            session.add(understood.clone());
            understood.and_then(|one| session.portals.insert(text("portal").unwrap_or("").into(), one));
        } else if ["startup", "raw", "raw_first", "cancel", "fastpath"]
            .iter()
            .any(|key| step.contains_key(*key))
        {
            return false;
        }
    }
    true
}

#[test]
fn nothing_in_the_corpus_is_read_as_less_than_it_is() {
    let Ok(folder) = std::env::var("LOCKGATE_CORPUS") else {
        return println!("skipped: LOCKGATE_CORPUS does not name the corpus' folder");
    };
    let text = std::fs::read_to_string(format!("{folder}/commands.toml")).unwrap();
    let file: toml::Table = text.parse().unwrap();
    let (mut exact, mut unknown, mut more, mut skipped) = (0, 0, 0, 0);
    let mut less = Vec::new();
    for case in file["case"].as_array().unwrap() {
        let case = case.as_table().unwrap();
        let id = case["id"].as_str().unwrap();
        let mut session = Session::default();
        if !run(case, &mut session) {
            skipped += 1;
            continue;
        }
        let wanted = case["effects"].as_array().unwrap().iter().map(|pair| pair.as_str().unwrap().to_owned());
        let wanted: BTreeSet<String> = wanted.collect();
        let missing: Vec<&String> = wanted.difference(&session.found).collect();
        let extra: Vec<&String> = session.found.difference(&wanted).collect();
        match (missing.is_empty(), extra.is_empty()) {
            (true, true) => exact += 1,
            // Either verdict is right: the statement is only a burden.
            _ if case.get("either").and_then(toml::Value::as_array).is_some_and(|all| all.len() == 3) => {
                unknown += 1
            }
            _ if session.found.contains("unknown") => {
                unknown += 1;
                println!("unknown {id}: missing {missing:?} extra {extra:?}");
            }
            (true, false) => {
                more += 1;
                println!("more    {id}: {extra:?}");
            }
            (false, _) => {
                println!("LESS    {id}: missing {missing:?} extra {extra:?}");
                less.push(id.to_owned());
            }
        }
    }
    println!("exact {exact}, unknown {unknown}, more {more}, less {}, skipped {skipped}", less.len());
    assert!(less.is_empty(), "read as less than they are: {less:?}");
}

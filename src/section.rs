//! Reads tables of the configuration by the table of keys and gathers every mistake with its key and line.

use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockgate_lane::Secret;
use toml::de::{DeTable, DeValue};

use crate::keys::{self, Absent, Key, Kind};
use crate::{secrets, values};

/// Most hosts of one target: each has its turn before a client hears that none will do.
const HOSTS_MAX: usize = 16;

/// Something that is not as it must be, or (as a warning) probably not as it was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Line of the file, from 1; 0 where there is none.
    pub line: usize,
    /// The key, such as `target[0].tls`; empty for the file as a whole.
    pub path: String,
    /// What is wrong and what to write.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.text)
    }
}

/// One reading of one file: its text, its folder, and what was found wrong so far.
#[derive(Debug)]
pub struct Reading<'a> {
    text: &'a str,
    folder: &'a Path,
    mistakes: RefCell<Vec<Mistake>>,
    warnings: RefCell<Vec<Mistake>>,
}

impl<'a> Reading<'a> {
    /// Begins.
    pub fn new(text: &'a str, folder: &'a Path) -> Reading<'a> {
        Reading { text, folder, mistakes: RefCell::default(), warnings: RefCell::default() }
    }

    /// The file as TOML; mistakes of syntax are noted and nothing comes of it then.
    pub fn parse(&self) -> Option<DeTable<'a>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            // The message only: the line itself may hold what somebody took for a place for a password.
            let line = error.span().map_or(0, |span| self.line_of(span.start));
            self.note(line, "", error.message());
        }
        errors.is_empty().then(|| table.into_inner())
    }

    /// Notes a mistake.
    pub fn note(&self, line: usize, path: &str, text: impl Into<String>) {
        self.mistakes.borrow_mut().push(Mistake { line, path: path.to_owned(), text: text.into() });
    }

    /// Everything found: mistakes and warnings, in the order of the file.
    pub fn finish(self) -> (Vec<Mistake>, Vec<Mistake>) {
        let mut mistakes = self.mistakes.into_inner();
        let mut warnings = self.warnings.into_inner();
        mistakes.sort_by_key(|mistake| mistake.line);
        warnings.sort_by_key(|warning| warning.line);
        (mistakes, warnings)
    }

    fn line_of(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }
}

/// One table of the file, or one that is not there and gives defaults.
#[derive(Debug)]
pub struct Section<'a> {
    reading: &'a Reading<'a>,
    /// As the table of keys names it: `target.catalog`.
    table: String,
    /// As messages name it: `target[0].catalog`.
    path: String,
    line: usize,
    entries: Option<&'a DeTable<'a>>,
}

impl<'a> Section<'a> {
    /// The file's top.
    pub fn top(reading: &'a Reading<'a>, entries: &'a DeTable<'a>) -> Section<'a> {
        let section =
            Section { reading, table: String::new(), path: String::new(), line: 0, entries: Some(entries) };
        section.refuse_unknown();
        section
    }

    /// Notes a mistake about one of this section's keys.
    pub fn mistake(&self, name: &str, text: impl Into<String>) {
        self.reading.note(self.line(name), &self.path_of(name), text);
    }

    /// Notes a warning about one of this section's keys.
    pub fn warning(&self, name: &str, text: impl Into<String>) {
        let warning = Mistake { line: self.line(name), path: self.path_of(name), text: text.into() };
        self.reading.warnings.borrow_mut().push(warning);
    }

    /// Whether the file has the key.
    pub fn has(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    /// Whether the file has a list under the key, be it empty.
    pub fn is_list(&self, name: &str) -> bool {
        self.entry(name).is_some_and(|(_, value)| value.is_array())
    }

    /// Text, a name or a choice, as the table of keys says.
    pub fn text(&self, name: &str) -> Option<String> {
        self.scalar(name, |kind, text| match kind {
            Kind::Choice(words) => choice(words, text),
            Kind::Name => values::name(text),
            _ if text.is_empty() => Err(String::from("it is empty")),
            _ => Ok(text.to_owned()),
        })
    }

    /// A whole number.
    pub fn integer(&self, name: &str) -> Option<u64> {
        self.scalar(name, |kind, text| {
            let value = text.parse::<u64>().map_err(|_| format!("{text} is not a whole number"))?;
            match kind {
                Kind::Integer(min, max) => within(value, min, max, text, kind),
                _ => Ok(value),
            }
        })
    }

    /// A time.
    pub fn duration(&self, name: &str) -> Option<Duration> {
        self.scalar(name, |kind, text| {
            let value = values::duration(text)?;
            match kind {
                Kind::Duration(min, max) => {
                    within(value, values::duration(min)?, values::duration(max)?, text, kind)
                }
                _ => Ok(value),
            }
        })
    }

    /// A number of bytes.
    pub fn size(&self, name: &str) -> Option<u64> {
        self.scalar(name, |kind, text| {
            let value = values::size(text)?;
            match kind {
                Kind::Size(min, max) => within(value, min, max, text, kind),
                _ => Ok(value),
            }
        })
    }

    /// A path, absolute from here on.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let text = self.scalar(name, |_, text| match text {
            "" => Err(String::from("it is empty")),
            text => Ok(text.to_owned()),
        })?;
        Some(self.reading.folder.join(text))
    }

    /// An address to bind to.
    pub fn socket(&self, name: &str) -> Option<SocketAddr> {
        self.scalar(name, |_, text| values::socket(text))
    }

    /// Hosts and ports to connect to: one, or a list of them.
    pub fn host_ports(&self, name: &str) -> Option<Vec<(String, u16)>> {
        if !self.is_list(name) {
            return self.scalar(name, |_, text| values::host_port(text)).map(|one| vec![one]);
        }
        let texts = self.texts(name);
        let good = |(index, text): (usize, &String)| {
            let path = format!("{name}[{index}]");
            values::host_port(text).map_err(|text| self.mistake(&path, text)).ok()
        };
        let hosts: Vec<_> = texts.iter().enumerate().filter_map(good).collect();
        if texts.is_empty() || texts.len() > HOSTS_MAX {
            self.mistake(name, format!("has {} hosts; name 1 to {HOSTS_MAX}", texts.len()));
            return None;
        }
        (hosts.len() == texts.len()).then_some(hosts)
    }

    /// A list of texts, each with its place in the list.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let Some(value) = self.value(name) else { return Vec::new() };
        let Some(items) = value.as_array() else {
            self.wrong_kind(name, value);
            return Vec::new();
        };
        let mut texts = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match item.get_ref().as_str() {
                Some(text) if !text.is_empty() => texts.push(text.to_owned()),
                _ => self.mistake(&format!("{name}[{index}]"), "must be a text that is not empty"),
            }
        }
        texts
    }

    /// A list of paths, absolute from here on.
    pub fn paths(&self, name: &str) -> Vec<PathBuf> {
        self.texts(name).into_iter().map(|text| self.reading.folder.join(text)).collect()
    }

    /// A secret, read.
    pub fn secret(&self, name: &str) -> Option<Secret> {
        let value = self.value(name)?;
        let Some(table) = value.as_table() else {
            self.mistake(
                name,
                format!(
                    "a secret does not stand in the configuration; write {name} = {{ file = \"…\" }} or {name} = {{ env = \"…\" }}"
                ),
            );
            return None;
        };
        let sources: Vec<(&str, Option<&str>)> =
            table.iter().map(|(key, value)| (key.get_ref().as_ref(), value.get_ref().as_str())).collect();
        let read = match sources.as_slice() {
            [("file", Some(file))] => secrets::from_file(&self.reading.folder.join(file)),
            [("env", Some(variable))] => secrets::from_env(variable),
            _ => Err(String::from("write { file = \"…\" } or { env = \"…\" }, one of them")),
        };
        read.map_err(|text| self.mistake(name, text)).ok()
    }

    /// A table of its own; an absent one gives defaults, unless it must be given.
    pub fn section(&self, name: &str) -> Section<'a> {
        let value = self.value(name);
        let entries = value.and_then(|value| {
            let table = value.as_table();
            if table.is_none() {
                self.wrong_kind(name, value);
            }
            table
        });
        self.child(name, self.path_of(name), self.line(name), entries)
    }

    /// A list of tables, in the order of the file.
    pub fn sections(&self, name: &str) -> Vec<Section<'a>> {
        let Some(value) = self.value(name) else { return Vec::new() };
        let Some(items) = value.as_array() else {
            self.wrong_kind(name, value);
            return Vec::new();
        };
        if items.is_empty() && keys::find(&self.table, name).is_some_and(|key| key.absent == Absent::Mistake)
        {
            self.mistake(name, format!("is missing: write at least one [[{name}]]"));
        }
        let mut sections = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{}[{index}]", self.path_of(name));
            let line = self.reading.line_of(item.span().start);
            match item.get_ref().as_table() {
                Some(table) => sections.push(self.child(name, path, line, Some(table))),
                None => self.reading.note(line, &path, "must be a table"),
            }
        }
        sections
    }

    fn child(&self, name: &str, path: String, line: usize, entries: Option<&'a DeTable<'a>>) -> Section<'a> {
        let table = if self.table.is_empty() { name.to_owned() } else { format!("{}.{name}", self.table) };
        let section = Section { reading: self.reading, table, path, line, entries };
        section.refuse_unknown();
        section
    }

    fn refuse_unknown(&self) {
        let unknown = self.entries.into_iter().flatten();
        for (name, _) in unknown.filter(|(name, _)| keys::find(&self.table, name.get_ref()).is_none()) {
            let text = unknown_key(&self.table, name.get_ref());
            let line = self.reading.line_of(name.span().start);
            self.reading.note(line, &self.path_of(name.get_ref()), text);
        }
    }

    fn entry(&self, name: &str) -> Option<(usize, &'a DeValue<'a>)> {
        let (key, value) = self.entries?.get_key_value(name)?;
        Some((self.reading.line_of(key.span().start), value.get_ref()))
    }

    /// The value in the file. A key that must be given and is not is noted; where a whole section is missing, that is
    /// one mistake and not one for each of its keys.
    fn value(&self, name: &str) -> Option<&'a DeValue<'a>> {
        let found = self.entry(name);
        let must = keys::find(&self.table, name).is_some_and(|key| key.absent == Absent::Mistake);
        if found.is_none() && must && self.entries.is_some() {
            self.missing(name);
        }
        found.map(|(_, value)| value)
    }

    fn missing(&self, name: &str) {
        let text = match keys::find(&self.table, name) {
            Some(Key { kind: Kind::Tables, .. }) => format!("is missing: write at least one [[{name}]]"),
            Some(Key { kind: Kind::Table, .. }) => format!("is missing: write [{name}]"),
            Some(key) => format!("is missing: write {name} = {}", key.example),
            None => String::from("is missing"),
        };
        self.mistake(name, text);
    }

    /// A value that is written as one text or number; defaults take the same way as what the file says.
    fn scalar<T>(&self, name: &str, parse: impl Fn(Kind, &str) -> Result<T, String>) -> Option<T> {
        let key = keys::find(&self.table, name)?;
        let parsed = match (self.value(name), key.absent) {
            (Some(value), _) => match as_written(value, key.kind) {
                Some(text) => parse(key.kind, &text),
                None => {
                    self.wrong_kind(name, value);
                    return None;
                }
            },
            (None, Absent::Default(text)) => parse(key.kind, text),
            (None, _) => return None,
        };
        parsed.map_err(|text| self.mistake(name, text)).ok()
    }

    fn wrong_kind(&self, name: &str, value: &DeValue<'_>) {
        let Some(key) = keys::find(&self.table, name) else { return };
        let wanted = keys::value_words(key.kind);
        let text = match key.kind {
            Kind::Table => format!("must be a table, not {}: write [{name}]", kind_of(value)),
            Kind::Tables => format!("must be a list of tables, not {}: write [[{name}]]", kind_of(value)),
            _ => format!("must be {wanted}, not {}: write {name} = {}", kind_of(value), key.example),
        };
        self.mistake(name, text);
    }

    fn line(&self, name: &str) -> usize {
        let key = name.split_once('[').map_or(name, |(key, _)| key);
        self.entry(key).map_or(self.line, |(line, _)| line)
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

fn as_written(value: &DeValue<'_>, kind: Kind) -> Option<String> {
    match (value, kind) {
        (DeValue::Integer(integer), Kind::Integer(..)) if integer.radix() == 10 => {
            Some(integer.as_str().trim_start_matches('+').replace('_', ""))
        }
        (DeValue::String(_), Kind::Integer(..)) => None,
        (DeValue::String(text), _) => Some(text.to_string()),
        _ => None,
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn choice(words: &[&str], text: &str) -> Result<String, String> {
    if words.contains(&text) {
        return Ok(text.to_owned());
    }
    let known = words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let meant = values::nearest(text, words.iter().copied())
        .map_or(String::new(), |word| format!("; did you mean \"{word}\"?"));
    Err(format!("\"{text}\" is not one of {known}{meant}"))
}

fn within<T: PartialOrd>(value: T, min: T, max: T, text: &str, kind: Kind) -> Result<T, String> {
    if value >= min && value <= max {
        return Ok(value);
    }
    Err(format!("{text} is out of bounds: it must be {}", keys::value_words(kind)))
}

fn unknown_key(table: &str, name: &str) -> String {
    let place = |table: &str| match table {
        "" => String::from("at the top of the file"),
        "listener" | "target" | "user" => format!("in [[{table}]]"),
        table => format!("in [{table}]"),
    };
    if let Some(meant) = values::nearest(name, keys::of_table(table).map(|key| key.name)) {
        return format!("there is no such key {}; did you mean \"{meant}\"?", place(table));
    }
    if let Some(other) = keys::KEYS.iter().find(|key| key.name == name) {
        return format!("there is no such key {}; it stands {}", place(table), place(other.table));
    }
    let known: Vec<&str> = keys::of_table(table).map(|key| key.name).collect();
    format!("there is no such key {}; the keys are {}", place(table), known.join(", "))
}

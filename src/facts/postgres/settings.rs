//! SET by any spelling: which settings change how later statements are read, and which take another identity.

use super::effects::word;
use super::expressions::constant_name;
use super::walk::Reader;
use super::{Change, SearchPath, Touched};
use lockgate_policy_dsl::{Effect, Object};
use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{DiscardStmt, VariableSetStmt};
use pg_raw_parse::raw::{DiscardMode, VariableSetKind};
use std::sync::Arc;

/// Encodings in which a byte below 128 may be part of a letter: a text means something else in them.
const UNSAFE_ENCODINGS: &[&str] = &[
    "sjis",
    "shiftjis",
    "mskanji",
    "win932",
    "windows932",
    "shiftjis2004",
    "big5",
    "win950",
    "windows950",
    "gbk",
    "win936",
    "windows936",
    "uhc",
    "win949",
    "windows949",
    "gb18030",
    "johab",
];
/// Encodings in which such a byte is always itself.
const SAFE_ENCODINGS: &[&str] = &[
    "utf8",
    "unicode",
    "sqlascii",
    "latin1",
    "latin2",
    "latin3",
    "latin4",
    "latin5",
    "latin6",
    "latin7",
    "latin8",
    "latin9",
    "latin10",
    "iso88591",
    "iso88592",
    "iso88593",
    "iso88594",
    "iso88595",
    "iso88596",
    "iso88597",
    "iso88598",
    "iso88599",
    "iso885910",
    "iso885913",
    "iso885914",
    "iso885915",
    "iso885916",
    "koi8",
    "koi8r",
    "koi8u",
    "abc",
    "alt",
    "tcvn",
    "tcvn5712",
    "vscii",
    "win",
    "win1250",
    "win1251",
    "win1252",
    "win1253",
    "win1254",
    "win1255",
    "win1256",
    "win1257",
    "win1258",
    "win866",
    "win874",
    "windows1250",
    "windows1251",
    "windows1252",
    "windows1253",
    "windows1254",
    "windows1255",
    "windows1256",
    "windows1257",
    "windows1258",
    "windows866",
    "windows874",
    "euccn",
    "eucjp",
    "eucjis2004",
    "euckr",
    "euctw",
    "muleinternal",
];

impl<'c> Reader<'c> {
    /// `SET`, `SET LOCAL`, `RESET` and their kin.
    pub(super) fn variable_set(&mut self, set: &VariableSetStmt) {
        use VariableSetKind as K;
        let name = set.name().unwrap_or_default();
        match set.kind {
            K::VAR_SET_VALUE => self.set(name, Some(values(set.args())), set.is_local),
            K::VAR_SET_DEFAULT | K::VAR_RESET => self.set(name, None, set.is_local),
            K::VAR_RESET_ALL => {
                self.out.add(Effect::Set, word("*"));
                self.changes.push(Change::SearchPathReset);
            }
            K::VAR_SET_MULTI if name == "TRANSACTION" => self.out.add(Effect::Transaction, Object::None),
            K::VAR_SET_MULTI if name == "TRANSACTION SNAPSHOT" => {
                self.out.add(Effect::Transaction, Object::None)
            }
            K::VAR_SET_MULTI => {
                for option in set.args() {
                    if let pg_raw_parse::Node::DefElem(option) = option {
                        let name = option.defname().unwrap_or("*");
                        self.out.add(Effect::Set, word(&format!("default_{name}")));
                    }
                }
            }
            _ => {
                self.set(name, Some(None), set.is_local);
                self.out.unknown("a SET that the gateway does not read");
            }
        }
    }

    /// `set_config(name, value, …)`; what is not constant is `None`.
    pub(super) fn set_config(&mut self, name: Option<String>, value: Option<String>) {
        let Some(name) = name else {
            self.changes.extend([Change::SearchPath(SearchPath::Unknown), Change::ReadingUnknown]);
            return self.out.unknown("which setting is changed is computed");
        };
        let path = name.eq_ignore_ascii_case("search_path");
        match value {
            // A path set in the middle of a query, perhaps for one transaction, perhaps for some rows only.
            _ if path => {
                self.out.add(Effect::Set, word("search_path"));
                self.changes.push(Change::SearchPath(SearchPath::Unknown));
            }
            Some(value) => self.set(&name, Some(Some(vec![value.into()])), false),
            None => self.set(&name, Some(None), false),
        }
    }

    /// A setting gets a value: `None` its default, `Some(None)` one that cannot be told.
    fn set(&mut self, name: &str, value: Option<Option<Vec<Arc<str>>>>, local: bool) {
        let name = name.to_ascii_lowercase();
        let first = value.as_ref().map(|values| values.as_ref().and_then(|values| values.first().cloned()));
        match name.as_str() {
            "role" | "session_authorization" => {
                let whom = match &first {
                    None => "none",
                    Some(None) => "*",
                    Some(Some(whom)) => whom,
                };
                self.out.add(Effect::Impersonate, word(whom));
                self.changes.push(Change::SearchPath(SearchPath::Unknown));
                return;
            }
            "search_path" => self.changes.push(match (local, value) {
                (true, _) | (_, Some(None)) => Change::SearchPath(SearchPath::Unknown),
                (_, None) => Change::SearchPathReset,
                (_, Some(Some(path))) => Change::SearchPath(SearchPath::Known(path)),
            }),
            "standard_conforming_strings" | "backslash_quote" => self.changes.push(Change::ReadingUnknown),
            "client_encoding" | "names" => return self.set_encoding(first),
            _ => {}
        }
        self.out.add(Effect::Set, word(&name));
    }

    fn set_encoding(&mut self, value: Option<Option<Arc<str>>>) {
        self.out.add(Effect::Set, word("client_encoding"));
        let name: String = match &value {
            None => return self.changes.push(Change::ReadingUnknown),
            Some(value) => value.as_deref().unwrap_or("?").to_ascii_lowercase(),
        };
        let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        if UNSAFE_ENCODINGS.contains(&name.as_str()) || !SAFE_ENCODINGS.contains(&name.as_str()) {
            self.out.unknown("in this client_encoding the text of statements would be read differently");
        }
        if !matches!(name.as_str(), "utf8" | "unicode") {
            self.changes.push(Change::ReadingUnknown);
        }
    }

    pub(super) fn discard(&mut self, discard: &DiscardStmt) {
        match discard.target {
            DiscardMode::DISCARD_ALL => {
                self.out.add(Effect::Set, word("*"));
                self.changes.extend([Change::DiscardAll, Change::SearchPathReset]);
            }
            DiscardMode::DISCARD_TEMP => self.out.add(Effect::Drop, super::effects::named("pg_temp", "*")),
            DiscardMode::DISCARD_PLANS | DiscardMode::DISCARD_SEQUENCES => {}
            _ => self.out.unknown("a DISCARD that the gateway does not read"),
        }
    }

    /// Names are not what the catalog says from here on.
    pub(super) fn touch_everything(&mut self) {
        self.touch(Touched { everything: true, ..Touched::default() });
    }
}

/// The list of a SET, when all of it is constant.
fn values(args: &NodeList) -> Option<Vec<Arc<str>>> {
    args.iter().map(constant_name).collect()
}

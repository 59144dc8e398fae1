//! Start-up parameters: who, where to, and settings that policy judges as it judges SET.

use std::sync::Arc;

use lockgate_codecs::postgres::startup::{Parameter, Startup, Version};
use lockgate_facts::postgres::{Reading, SearchPath};
use lockgate_policy_dsl::{Effect, Facts, Object, Pair};

use super::trouble::Trouble;

/// What a start-up packet asks for.
#[derive(Debug)]
pub(super) struct Wishes {
    pub(super) version: Version,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) application: String,
    /// What goes on to the server: everything but `user`, `database` and `_pq_.` options.
    pub(super) forwarded: Vec<(Vec<u8>, Vec<u8>)>,
    /// `_pq_.` options, none of which is known.
    pub(super) unknown_options: Vec<Vec<u8>>,
    /// What the parameters do.
    pub(super) facts: Facts,
    /// The session is to speak the replication protocol.
    pub(super) replication: bool,
    /// How the session will read SQL.
    pub(super) reading: Reading,
}

impl Wishes {
    /// Reads a StartupMessage.
    pub(super) fn read(message: &Startup<'_>, minor_max: u16) -> Result<Wishes, Trouble> {
        let version = Version { major: 3, minor: message.version.minor.min(minor_max) };
        let mut wishes = Wishes {
            version,
            user: String::new(),
            database: String::new(),
            application: String::new(),
            forwarded: Vec::new(),
            unknown_options: Vec::new(),
            facts: Facts::default(),
            replication: false,
            reading: Reading::new(),
        };
        for &parameter in &message.parameters {
            wishes.take(parameter)?;
        }
        if wishes.user.is_empty() {
            let message = String::from("no PostgreSQL user name specified in startup packet");
            return Err(Trouble::BadParameter { message, sqlstate: "28000" });
        }
        if wishes.database.is_empty() {
            wishes.database.clone_from(&wishes.user);
        }
        wishes.facts.pairs.sort();
        wishes.facts.pairs.dedup();
        Ok(wishes)
    }

    fn take(&mut self, (name, value): Parameter<'_>) -> Result<(), Trouble> {
        let key = text(name)?.to_ascii_lowercase();
        match key.as_str() {
            "user" => text(value)?.clone_into(&mut self.user),
            "database" => text(value)?.clone_into(&mut self.database),
            option if option.starts_with("_pq_.") => self.unknown_options.push(name.to_vec()),
            _ => {
                let value_text = text(value)?;
                match key.as_str() {
                    "replication" => self.replication(value_text),
                    "options" => self.options(value_text)?,
                    _ => self.setting(&key, value_text)?,
                }
                self.forwarded.push((name.to_vec(), value.to_vec()));
            }
        }
        Ok(())
    }

    fn replication(&mut self, value: &str) {
        if !matches!(value.to_ascii_lowercase().as_str(), "false" | "off" | "no" | "0" | "f" | "n" | "of") {
            self.replication = true;
            self.pair(Effect::Replicate, Object::None);
        }
    }

    /// Command-line options, split as the server's `pg_split_opts` does: at white space, backslash escapes.
    fn options(&mut self, value: &str) -> Result<(), Trouble> {
        let mut words = split_options(value).into_iter();
        while let Some(word) = words.next() {
            let assignment = match word.strip_prefix("-c") {
                Some("") => words.next(),
                Some(rest) => Some(rest.to_owned()),
                None => word.strip_prefix("--").map(str::to_owned),
            };
            match assignment.as_deref().and_then(|assignment| assignment.split_once('=')) {
                Some((name, value)) => self.setting(&name.replace('-', "_").to_ascii_lowercase(), value)?,
                None => self.unknown(format!("start-up option \"{word}\" is not understood")),
            }
        }
        Ok(())
    }

    fn setting(&mut self, name: &str, value: &str) -> Result<(), Trouble> {
        match name {
            "role" | "session_authorization" => {
                let role = value.trim_matches('"');
                self.pair(Effect::Impersonate, Object::Word(Arc::from(role)));
                return Ok(());
            }
            "client_encoding" if !is_safe_encoding(value) => {
                return Err(Trouble::UnsafeEncoding { encoding: value.chars().take(64).collect() });
            }
            "application_name" => value.clone_into(&mut self.application),
            "search_path" => self.reading.search_path = SearchPath::of_setting(value),
            "standard_conforming_strings" if !is_on(value) => {
                self.reading.standard_conforming_strings = false;
                self.unknown(String::from(
                    "standard_conforming_strings is off: strings would be read differently",
                ));
            }
            _ => {}
        }
        self.pair(Effect::Set, Object::Word(Arc::from(name)));
        Ok(())
    }

    fn unknown(&mut self, why: String) {
        self.pair(Effect::Unknown, Object::None);
        self.facts.unknown.push(why);
    }

    fn pair(&mut self, effect: Effect, object: Object) {
        self.facts.pairs.push(Pair { effect, object, unbounded: false });
    }

    /// The parameters as a line of text, for the record.
    pub(super) fn describe(&self) -> String {
        let show = |(name, value): &(Vec<u8>, Vec<u8>)| {
            format!("{}={:?}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
        };
        self.forwarded.iter().map(show).collect::<Vec<_>>().join(" ")
    }
}

fn text(bytes: &[u8]) -> Result<&str, Trouble> {
    std::str::from_utf8(bytes).map_err(|_| Trouble::BadParameter {
        message: String::from("a start-up parameter is not UTF-8"),
        sqlstate: "22021",
    })
}

fn split_options(value: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => word.extend(characters.next()),
            c if c.is_ascii_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn is_on(value: &str) -> bool {
    matches!(
        value.to_ascii_lowercase().as_str(),
        "on" | "true" | "yes" | "1" | "t" | "y" | "tr" | "tru" | "ye"
    )
}

/// Encodings of clients in which a byte below 128 is always that ASCII character. The others (SJIS, BIG5, GBK, UHC,
/// GB18030, JOHAB, SHIFT_JIS_2004) have such bytes inside of longer characters.
pub(super) fn is_safe_encoding(name: &str) -> bool {
    let name: String =
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    const SAFE: [&str; 14] = [
        "utf8",
        "unicode",
        "sqlascii",
        "eucjp",
        "euccn",
        "euckr",
        "euctw",
        "eucjis2004",
        "koi8",
        "koi8r",
        "koi8u",
        "muleinternal",
        "alt",
        "tcvn",
    ];
    const SAFE_FAMILIES: [&str; 5] = ["latin", "iso8859", "win", "windows", "abc"];
    let numbered = |family: &&str| {
        name.strip_prefix(*family).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let ambiguous = matches!(
        name.as_str(),
        "win932" | "win936" | "win949" | "win950" | "windows932" | "windows936" | "windows949" | "windows950"
    );
    !ambiguous && (SAFE.contains(&name.as_str()) || SAFE_FAMILIES.iter().any(numbered))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parameters: &[(&str, &str)], expected: &[&str]) {
        let mut list: Vec<Parameter<'_>> = vec![(b"user", b"u")];
        list.extend(parameters.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        let version = Version { major: 3, minor: 0 };
        let pairs = match Wishes::read(&Startup { version, parameters: list }, 2) {
            Ok(wishes) => wishes.facts.pairs.iter().map(ToString::to_string).collect(),
            Err(trouble) => vec![trouble.reason()],
        };
        assert_eq!(pairs, expected, "{parameters:?}");
    }

    #[test]
    fn every_parameter_is_judged() {
        check(&[], &[]);
        check(&[("application_name", "psql")], &["set application_name"]);
        check(
            &[("options", "-c search_path=a -c statement_timeout=5s")],
            &["set search_path", "set statement_timeout"],
        );
        check(&[("options", "-cwork_mem=1MB --lock-timeout=1s")], &["set lock_timeout", "set work_mem"]);
        check(&[("options", "-c role=postgres")], &["impersonate postgres"]);
        check(&[("role", "boss")], &["impersonate boss"]);
        check(&[("options", "-f s")], &["unknown"]);
        check(&[("options", "-c")], &["unknown"]);
        check(&[("replication", "database")], &["replicate"]);
        check(&[("replication", "off")], &[]);
        check(&[("_pq_.feature", "1")], &[]);
        check(&[("standard_conforming_strings", "off")], &["set standard_conforming_strings", "unknown"]);
    }

    #[test]
    fn encodings_in_which_ascii_is_not_ascii_are_refused() {
        for unsafe_one in [
            "SJIS",
            "big5",
            "GBK",
            "UHC",
            "gb18030",
            "JOHAB",
            "SHIFT_JIS_2004",
            "Windows-949",
            "WIN936",
            "nonsense",
        ] {
            assert!(!is_safe_encoding(unsafe_one), "{unsafe_one}");
        }
        for safe in
            ["UTF8", "utf-8", "UNICODE", "SQL_ASCII", "LATIN1", "ISO_8859_5", "WIN1252", "EUC_JP", "KOI8R"]
        {
            assert!(is_safe_encoding(safe), "{safe}");
        }
    }

    #[test]
    fn options_split_as_the_server_splits_them() {
        assert_eq!(split_options(r"-c a\ b=c  x\\y"), ["-c", "a b=c", r"x\y"]);
    }
}

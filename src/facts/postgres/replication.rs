//! What commands of the replication protocol do: a walsender looks for one of them before it takes a text for SQL.
//!
//! The server's own scanner (`repl_scanner.l`) decides by the first word, in capitals and to the letter, and reads the
//! rest by a grammar of its own. What the rest says matters here only where it names something that policy can name.

use super::Understood;
use lockgate_policy_dsl::{Effect, Facts, Object, Pair};

/// Output plugins that PostgreSQL itself brings; any other is native code of somebody's.
const KNOWN_PLUGINS: [&str; 2] = ["pgoutput", "test_decoding"];

/// Where a base backup may go without leaving a trace on the server.
const HARMLESS_TARGETS: [&str; 2] = ["client", "blackhole"];

/// A word of the replication grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// An identifier or keyword: as it was written, and as the server stores it.
    Word { written: String, stored: String },
    /// A string.
    Text(String),
    /// Anything else: numbers, positions, punctuation.
    Other,
}

/// What a text does that is a replication command. `None`: it is not one, and the server reads it as SQL. (SHOW is both,
/// and means the same.)
pub(super) fn understand(text: &[u8]) -> Option<Understood> {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let text = text.get(..end).unwrap_or_default();
    let start = text.iter().position(|byte| !is_space(*byte))?;
    let text = text.get(start..).unwrap_or_default();
    let length = text.iter().position(|byte| !is_word(*byte)).unwrap_or(text.len());
    let (command, rest) = text.split_at_checked(length)?;
    let mut out = Out::default();
    out.add(Effect::Replicate, Object::None);
    match command {
        b"IDENTIFY_SYSTEM" | b"TIMELINE_HISTORY" | b"READ_REPLICATION_SLOT" => {}
        b"CREATE_REPLICATION_SLOT" => out.create_slot(tokens(rest).as_deref()),
        b"ALTER_REPLICATION_SLOT" => out.slot(Effect::Alter, tokens(rest).as_deref()),
        b"DROP_REPLICATION_SLOT" => out.slot(Effect::Drop, tokens(rest).as_deref()),
        b"START_REPLICATION" => out.everything(),
        b"BASE_BACKUP" => out.base_backup(tokens(rest).as_deref()),
        b"UPLOAD_MANIFEST" => out.understood.copies_in = true,
        _ => return None,
    }
    Some(out.finish())
}

/// What is gathered.
#[derive(Debug, Default)]
struct Out {
    understood: Understood,
}

impl Out {
    fn add(&mut self, effect: Effect, object: Object) {
        self.understood.facts.pairs.push(Pair { effect, object, unbounded: false });
    }

    fn unknown(&mut self, why: &str) {
        self.add(Effect::Unknown, Object::None);
        self.understood.facts.unknown.push(why.to_owned());
    }

    fn finish(mut self) -> Understood {
        let Facts { pairs, .. } = &mut self.understood.facts;
        pairs.sort();
        pairs.dedup();
        self.understood.statements = 1;
        self.understood
    }

    /// Everything that the server holds goes out, whatever table it is in.
    fn everything(&mut self) {
        self.add(Effect::Read, Object::qualified("*", "*"));
        self.understood.replicates = true;
    }

    fn slot(&mut self, effect: Effect, tokens: Option<&[Token]>) {
        match tokens.and_then(<[Token]>::first) {
            Some(Token::Word { stored, .. }) => {
                let name = Object::of_kind("replication_slot", stored);
                self.add(effect, name.unwrap_or(Object::None));
            }
            _ => self.unknown("a replication command that names no slot"),
        }
    }

    fn create_slot(&mut self, tokens: Option<&[Token]>) {
        self.slot(Effect::Create, tokens);
        let tokens = tokens.unwrap_or_default();
        let logical = |token: &Token| matches!(token, Token::Word { written, .. } if written == "LOGICAL");
        let Some(at) = tokens.iter().skip(1).position(logical) else { return };
        match tokens.get(at.saturating_add(2)) {
            Some(Token::Word { stored, .. }) if KNOWN_PLUGINS.contains(&stored.as_str()) => {}
            Some(Token::Word { stored, .. }) => self.add(Effect::ExecuteProgram, Object::word(stored)),
            _ => self.unknown("a logical slot that names no plugin"),
        }
    }

    fn base_backup(&mut self, tokens: Option<&[Token]>) {
        self.everything();
        self.add(Effect::ReadFile, Object::word("*"));
        let Some(tokens) = tokens else { return self.unknown("a BASE_BACKUP that cannot be read") };
        let value = |option: &str| {
            let named = |token: &Token| matches!(token, Token::Word { stored, .. } if stored == option);
            let at = tokens.iter().position(named)?;
            Some(match tokens.get(at.saturating_add(1)) {
                Some(Token::Word { stored: text, .. } | Token::Text(text)) => text.clone(),
                _ => String::from("*"),
            })
        };
        match value("target") {
            None => {}
            Some(target) if HARMLESS_TARGETS.contains(&target.as_str()) => {}
            Some(target) if target == "server" => {
                let path = value("target_detail").unwrap_or_else(|| String::from("*"));
                self.add(Effect::WriteFile, Object::word(&path));
            }
            Some(target) => self.add(Effect::ExecuteProgram, Object::word(&target)),
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// The words of what follows a command; `None`: a quote that does not end, or what is not UTF-8.
fn tokens(text: &[u8]) -> Option<Vec<Token>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(|c: char| c.is_ascii() && is_space(c as u8));
    while let Some(first) = rest.chars().next() {
        let (token, behind) = match first {
            '"' => {
                let (name, behind) = quoted(rest, '"')?;
                (Token::Word { written: String::new(), stored: name }, behind)
            }
            '\'' => {
                let (text, behind) = quoted(rest, '\'')?;
                (Token::Text(text), behind)
            }
            c if c == '_' || c.is_ascii_alphabetic() || !c.is_ascii() => {
                let length = rest.bytes().position(|byte| !is_word(byte)).unwrap_or(rest.len());
                let (word, behind) = rest.split_at_checked(length)?;
                (Token::Word { written: word.to_owned(), stored: word.to_ascii_lowercase() }, behind)
            }
            c => (Token::Other, rest.get(c.len_utf8()..)?),
        };
        tokens.push(token);
        rest = behind.trim_start_matches(|c: char| c.is_ascii() && is_space(c as u8));
    }
    Some(tokens)
}

/// What stands between quotes, a doubled one meaning itself, and what is behind.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut inside = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character != quote {
            inside.push(character);
        } else if characters.peek().is_some_and(|(_, next)| *next == quote) {
            characters.next();
            inside.push(quote);
        } else {
            return Some((inside, text.get(at.saturating_add(1)..).unwrap_or_default()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let understood = understand(text.as_bytes());
        let found = understood.as_ref().map(|understood| {
            let pairs: Vec<_> = understood.facts.pairs.iter().map(ToString::to_string).collect();
            pairs.join("; ")
        });
        assert_eq!(found.as_deref(), expected, "{text}");
        if let Some(understood) = understood {
            let streams = text.contains("START_REPLICATION") || text.contains("BASE_BACKUP");
            assert_eq!(understood.replicates, streams, "{text}");
        }
    }

    #[test]
    fn each_command_has_its_effects() {
        for (text, expected) in [
            ("IDENTIFY_SYSTEM", "replicate"),
            (" \t\nIDENTIFY_SYSTEM ;", "replicate"),
            ("TIMELINE_HISTORY 2", "replicate"),
            ("READ_REPLICATION_SLOT a", "replicate"),
            ("UPLOAD_MANIFEST", "replicate"),
            ("CREATE_REPLICATION_SLOT a PHYSICAL", "create replication_slot a; replicate"),
            (
                "CREATE_REPLICATION_SLOT \"a\" TEMPORARY LOGICAL \"pgoutput\" (SNAPSHOT 'nothing')",
                "create replication_slot a; replicate",
            ),
            ("CREATE_REPLICATION_SLOT A LOGICAL PGOUTPUT", "create replication_slot a; replicate"),
            (
                "CREATE_REPLICATION_SLOT a LOGICAL \"/tmp/evil\"",
                "create replication_slot a; execute_program /tmp/evil; replicate",
            ),
            (
                "CREATE_REPLICATION_SLOT LOGICAL LOGICAL x",
                "create replication_slot logical; execute_program x; replicate",
            ),
            ("CREATE_REPLICATION_SLOT a LOGICAL", "create replication_slot a; replicate; unknown"),
            ("CREATE_REPLICATION_SLOT", "replicate; unknown"),
            ("CREATE_REPLICATION_SLOT 'a' PHYSICAL", "replicate; unknown"),
            ("CREATE_REPLICATION_SLOT \"a", "replicate; unknown"),
            ("ALTER_REPLICATION_SLOT a (FAILOVER true)", "alter replication_slot a; replicate"),
            ("DROP_REPLICATION_SLOT a WAIT", "drop replication_slot a; replicate"),
            ("START_REPLICATION SLOT \"a\" 0/0 TIMELINE 1", "read *.*; replicate"),
            ("START_REPLICATION SLOT a LOGICAL 0/0 (proto_version '1')", "read *.*; replicate"),
            ("BASE_BACKUP", "read *.*; read_file *; replicate"),
            ("BASE_BACKUP LABEL 'x' PROGRESS NOWAIT", "read *.*; read_file *; replicate"),
            ("BASE_BACKUP (LABEL 'target', TARGET 'client')", "read *.*; read_file *; replicate"),
            (
                "BASE_BACKUP (target 'server', TARGET_DETAIL '/tmp/it''s')",
                "read *.*; read_file *; write_file /tmp/it's; replicate",
            ),
            ("BASE_BACKUP (TARGET server)", "read *.*; read_file *; write_file *; replicate"),
            (
                "BASE_BACKUP (TARGET 'shell', TARGET_DETAIL 'x')",
                "read *.*; execute_program shell; read_file *; replicate",
            ),
            ("BASE_BACKUP (LABEL 'x)", "read *.*; read_file *; replicate; unknown"),
        ] {
            check(text, Some(expected));
        }
    }

    #[test]
    fn everything_else_is_sql() {
        for text in [
            "",
            "  ",
            ";",
            "SELECT 1",
            "identify_system",
            "Identify_System",
            "IDENTIFY_SYSTEMS",
            "IDENTIFY_SYSTEM$",
            "\"IDENTIFY_SYSTEM\"",
            "/* */ IDENTIFY_SYSTEM",
            "-- x\nBASE_BACKUP",
            "SHOW server_version",
            "(BASE_BACKUP)",
            "\0BASE_BACKUP",
        ] {
            check(text, None);
        }
    }
}

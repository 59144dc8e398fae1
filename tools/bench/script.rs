//! What one connection asks over and over, as bytes made once, and whether the answers are what they must be.

use std::io;

use lockgate_client::wire::{self, Frame};
use memchr::memmem;

/// Stands for a key in requests and expected rows; as long as one.
pub const KEY: &str = "{key_}";
/// Stands for a number that no statement had before; as long as one.
pub const SERIAL: &str = "{serial____}";
/// The first key, and how many there are: six digits each, so that requests keep their length.
pub const KEY_FIRST: u32 = 100_000;
/// How many keys there are.
pub const KEYS: u32 = 100_000;

/// Requests and what must come back.
#[derive(Debug)]
pub struct Script {
    /// Sent once, ahead of the first exchange: it ends with ReadyForQuery.
    pub prepare: Option<Vec<u8>>,
    /// One exchange's request, keys and all.
    request: Slotted,
    serials: Vec<usize>,
    /// Goes out when the server asks for it by CopyInResponse.
    pub copy: Vec<u8>,
    rows: Rows,
    /// Commands, rows and (where all messages of the exchange are one command's) completions of one exchange.
    commands: u64,
    rows_expected: u64,
    serial: u64,
    random: Random,
    keys: Vec<[u8; 6]>,
    seen: Seen,
}

/// What is known of a row.
#[derive(Debug)]
pub enum Rows {
    /// It is this one, with the key that was asked for.
    Point(Slotted),
    /// It has so many cells, and the second one begins with an asterisk, or does not.
    Table {
        /// Of each row.
        cells: usize,
        /// Whether the gateway masks the second one.
        masked: bool,
    },
    /// They are counted.
    Any,
}

/// Bytes with places for keys: several for each of one or more keys.
#[derive(Debug)]
pub struct Slotted {
    bytes: Vec<u8>,
    places: Vec<usize>,
}

/// What an answer means for its exchange.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// More is to come.
    More,
    /// The server wants the copied data now.
    Copy,
    /// The exchange has ended well.
    Done,
}

#[derive(Debug, Default)]
struct Seen {
    rows: u64,
    completed: u64,
}

/// What a script is made of.
#[derive(Debug)]
pub struct Parts {
    /// Sent once.
    pub prepare: Option<Vec<u8>>,
    /// Sent for each exchange, [`KEY`] and [`SERIAL`] in it.
    pub request: Vec<u8>,
    /// Sent when asked for.
    pub copy: Vec<u8>,
    /// What must come back.
    pub rows: Rows,
    /// Commands of one exchange.
    pub commands: u64,
    /// Rows of one exchange.
    pub rows_expected: u64,
}

impl Script {
    /// Of a connection; `seed` makes its keys, and its statements where they must be new, its own.
    pub fn new(parts: Parts, seed: u64) -> Script {
        let serials = memmem::find_iter(&parts.request, SERIAL).collect();
        Script {
            prepare: parts.prepare,
            request: Slotted::new(parts.request),
            serials,
            copy: parts.copy,
            rows: parts.rows,
            commands: parts.commands,
            rows_expected: parts.rows_expected,
            serial: seed << 24,
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            keys: Vec::new(),
            seen: Seen::default(),
        }
    }

    /// Commands of one exchange.
    pub fn commands(&self) -> u64 {
        self.commands
    }

    /// The next exchange's request, lent until [`Script::sent`]: the kernel wants to own what it reads.
    pub fn next(&mut self) -> Vec<u8> {
        self.seen = Seen::default();
        self.keys.clear();
        for place in &self.request.places {
            let key = self.random.key();
            put(&mut self.request.bytes, *place, &key);
            self.keys.push(key);
        }
        for place in &self.serials {
            self.serial += 1;
            put(
                &mut self.request.bytes,
                *place,
                format!("{:012x}", self.serial & 0xffff_ffff_ffff).as_bytes(),
            );
        }
        std::mem::take(&mut self.request.bytes)
    }

    /// Takes the request back.
    pub fn sent(&mut self, request: Vec<u8>) {
        self.request.bytes = request;
    }

    /// One message of the answer.
    pub fn take(&mut self, frame: &Frame<'_>) -> io::Result<Step> {
        match frame.kind {
            b'D' => self.row(frame.body)?,
            b'd' => self.seen.rows += 1,
            b'C' => self.seen.completed += 1,
            b'G' => return Ok(Step::Copy),
            b'Z' => return self.end(frame.body),
            b'E' => return Err(refused(frame.body)),
            b'T' | b'1' | b'2' | b'n' | b'N' | b'S' | b'H' | b'c' => {}
            other => {
                return Err(io::Error::other(format!(
                    "an unexpected message came: type {:?}",
                    char::from(other)
                )));
            }
        }
        Ok(Step::More)
    }

    fn row(&mut self, body: &[u8]) -> io::Result<()> {
        let number = usize::try_from(self.seen.rows).unwrap_or(usize::MAX);
        self.seen.rows += 1;
        let right = match &mut self.rows {
            Rows::Point(expected) => {
                let key = self.keys.get(number).copied().unwrap_or_default();
                expected.fill(&key);
                expected.bytes == body
            }
            Rows::Table { cells, masked } => table_row(body, *cells, *masked),
            Rows::Any => true,
        };
        if right {
            return Ok(());
        }
        let wanted = match &self.rows {
            Rows::Point(expected) => shown(&expected.bytes),
            Rows::Table { cells, masked } => format!("{cells} cells, masked: {masked}"),
            Rows::Any => String::new(),
        };
        Err(io::Error::other(format!("a wrong row came: {}, where this was expected: {wanted}", shown(body))))
    }

    fn end(&self, status: &[u8]) -> io::Result<Step> {
        let Seen { rows, completed } = self.seen;
        if status == b"I" && rows == self.rows_expected && completed == self.commands {
            return Ok(Step::Done);
        }
        let (wanted, commands) = (self.rows_expected, self.commands);
        Err(io::Error::other(format!(
            "{completed} commands and {rows} rows came where {commands} and {wanted} were expected, in state {:?}",
            String::from_utf8_lossy(status)
        )))
    }
}

/// What an ErrorResponse says, as an error.
pub fn refused(body: &[u8]) -> io::Error {
    io::Error::other(format!("an error came in place of an answer: {}", wire::error_text(body)))
}

impl Slotted {
    /// With places wherever [`KEY`] stands.
    pub fn new(bytes: Vec<u8>) -> Slotted {
        let places = memmem::find_iter(&bytes, KEY).collect();
        Slotted { bytes, places }
    }

    fn fill(&mut self, key: &[u8; 6]) {
        for place in &self.places {
            put(&mut self.bytes, *place, key);
        }
    }
}

fn put(bytes: &mut [u8], at: usize, text: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + text.len()) {
        place.copy_from_slice(text);
    }
}

/// A mask leaves an asterisk where the address begins; without one there is a letter.
fn table_row(body: &[u8], count: usize, masked: bool) -> bool {
    let mut cells = wire::cells(body);
    let second = cells.by_ref().nth(1).flatten().and_then(<[u8]>::first);
    second.is_some_and(|first| (*first == b'*') == masked) && cells.count() + 2 == count
}

fn shown(row: &[u8]) -> String {
    let cells =
        wire::cells(row).map(|cell| cell.map_or_else(|| "NULL".into(), |cell| String::from_utf8_lossy(cell)));
    let cells: Vec<String> = cells.map(|cell| cell.chars().take(40).collect()).collect();
    format!("({})", cells.join(", "))
}

/// xorshift64: keys need not be more random than that.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn key(&mut self) -> [u8; 6] {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let mut rest = u64::from(KEY_FIRST) + (self.0 >> 20) % u64::from(KEYS);
        let mut digits = [b'0'; 6];
        for digit in digits.iter_mut().rev() {
            *digit += u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
        digits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(rows: u64) -> Script {
        let request = wire::query(&format!("SELECT {KEY}")).repeat(usize::try_from(rows).unwrap());
        let rows_of = Rows::Point(Slotted::new(wire::row(&[KEY.as_bytes(), format!("u{KEY}").as_bytes()])));
        let parts = Parts {
            prepare: None,
            request,
            copy: Vec::new(),
            rows: rows_of,
            commands: rows,
            rows_expected: rows,
        };
        Script::new(parts, 7)
    }

    fn feed(script: &mut Script, kind: u8, body: &[u8]) -> io::Result<Step> {
        script.take(&Frame { kind, body })
    }

    #[test]
    fn each_request_has_keys_of_its_own_and_the_rows_must_bear_them() {
        let mut script = point(2);
        let request = script.next();
        assert!(memmem::find(&request, KEY.as_bytes()).is_none());
        let keys = script.keys.clone();
        assert_ne!(keys[0], keys[1]);
        script.sent(request);
        for key in &keys {
            let row = wire::row(&[key, &[b"u", &key[..]].concat()]);
            assert_eq!(feed(&mut script, b'D', &row).unwrap(), Step::More);
            assert_eq!(feed(&mut script, b'C', b"SELECT 1\0").unwrap(), Step::More);
        }
        assert_eq!(feed(&mut script, b'Z', b"I").unwrap(), Step::Done);
    }

    #[test]
    fn a_wrong_row_is_an_error_that_shows_it() {
        let mut script = point(1);
        script.next();
        let error = feed(&mut script, b'D', &wire::row(&[b"1", b"u1"])).unwrap_err().to_string();
        assert!(error.starts_with("a wrong row came: (1, u1), where this was expected: ("), "{error}");
    }

    #[test]
    fn what_is_missing_or_refused_is_an_error() {
        let mut script = point(1);
        script.next();
        assert!(feed(&mut script, b'Z', b"I").unwrap_err().to_string().contains("0 rows came where 1 and 1"));
        let error = feed(&mut script, b'E', b"SERROR\0C42501\0Mno\0\0").unwrap_err().to_string();
        assert_eq!(error, "an error came in place of an answer: 42501: no");
        feed(&mut script, b'?', b"").unwrap_err();
    }

    #[test]
    fn masked_and_unmasked_rows_are_told_apart() {
        let masked = wire::row(&[b"1", b"***@example.com", b"x"]);
        let plain = wire::row(&[b"1", b"ada@example.com", b"x"]);
        assert!(table_row(&masked, 3, true) && table_row(&plain, 3, false));
        assert!(!table_row(&masked, 3, false) && !table_row(&plain, 3, true) && !table_row(&plain, 4, false));
    }

    #[test]
    fn statements_that_must_be_new_are() {
        let request = wire::query(&format!("SELECT 1 AS a{SERIAL}"));
        let parts = Parts {
            prepare: None,
            request,
            copy: Vec::new(),
            rows: Rows::Any,
            commands: 1,
            rows_expected: 1,
        };
        let mut script = Script::new(parts, 1);
        let first = script.next();
        script.sent(first.clone());
        assert_ne!(script.next(), first);
    }
}

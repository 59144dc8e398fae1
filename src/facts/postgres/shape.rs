//! The shape of a statement: its text, with every integer constant written as zeros.
//!
//! Programs that put keys into texts make a new text for each key, and all of them do the same. Their shape is one.
//!
//! This is no reading of SQL: what a shape's texts do is still read by PostgreSQL's grammar, once. It has to be sure of
//! one thing only, that a run of digits is an integer constant and nothing else. It is where no text can be quoted or
//! commented out (none of `' " $ \ -- /*` is anywhere), where the run touches no letter, digit, point or underscore, and
//! where it has at most nine digits, so that it fits PostgreSQL's `integer` whatever the digits are. The grammar itself
//! looks at an integer's value in one place, FLOAT(n), and texts with that word have no shape; nor have those of which
//! the walk looked at a constant ([`Reader::by_shape`](super::walk::Reader)).

/// Longest text that has a shape, in bytes: longer ones are seldom sent twice with other keys.
const TEXT_BYTES_MAX: usize = 4096;
/// Digits of the largest number of which any digits make an `integer`.
const DIGITS_MAX: usize = 9;

/// Appends the shape of `sql` to `out`; `false`: it has none, or it is the text itself, and what was appended is of no
/// use.
pub(super) fn shape(sql: &[u8], out: &mut Vec<u8>) -> bool {
    if sql.len() > TEXT_BYTES_MAX || !may_have(sql) {
        return false;
    }
    let start = out.len();
    out.extend_from_slice(sql);
    let mut rest = out.get_mut(start..).unwrap_or_default();
    let (mut constants, mut before) = (false, b' ');
    while let Some(at) = first_digit(rest) {
        if let Some(beside) = at.checked_sub(1) {
            before = rest.get(beside).copied().unwrap_or_default();
        }
        let (_, run) = rest.split_at_mut(at);
        let digits = run.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (run, behind) = run.split_at_mut(digits);
        if digits <= DIGITS_MAX && !joins(before) && !behind.first().is_some_and(|byte| joins(*byte)) {
            run.fill(b'0');
            constants = true;
        }
        (before, rest) = (b'0', behind);
    }
    constants
}

/// Bytes that are looked at together: where their number is known, no branch is needed for each.
const LANES: usize = 32;

/// Nothing is quoted or commented out, and FLOAT is not there.
fn may_have(sql: &[u8]) -> bool {
    let behind = sql.get(1..).unwrap_or_default();
    let (firsts, (seconds, second_rest)) = (sql.as_chunks().0, behind.as_chunks());
    let mut found = Found::default();
    firsts.iter().zip(seconds).for_each(|(first, second)| found.look(first, second));
    let first_rest = sql.get(seconds.len() * LANES..).unwrap_or_default();
    found.look(&padded(first_rest), &padded(second_rest));
    let Found { quote, comment, fl } = found;
    let float = || sql.windows(5).any(|word| word.eq_ignore_ascii_case(b"float"));
    !(quote || comment || fl && float())
}

/// What stands somewhere in a text.
#[derive(Default)]
struct Found {
    quote: bool,
    comment: bool,
    /// The beginning of FLOAT.
    fl: bool,
}

impl Found {
    /// At bytes and those behind them.
    fn look(&mut self, bytes: &[u8; LANES], behind: &[u8; LANES]) {
        let mut found = [0; 3];
        for (a, b) in bytes.iter().zip(behind) {
            let [quote, comment, fl] = &mut found;
            let is = |byte: &u8, other| u8::from(*byte == other);
            *quote |= is(a, b'\'') | is(a, b'"') | is(a, b'$') | is(a, b'\\');
            *comment |= (is(a, b'-') & is(b, b'-')) | (is(a, b'/') & is(b, b'*'));
            *fl |= is(&(a | 0x20), b'f') & is(&(b | 0x20), b'l');
        }
        let [quote, comment, fl] = found.map(|found| found != 0);
        self.quote |= quote;
        self.comment |= comment;
        self.fl |= fl;
    }
}

fn padded(bytes: &[u8]) -> [u8; LANES] {
    let mut padded = [b' '; LANES];
    if let Some(place) = padded.get_mut(..bytes.len()) {
        place.copy_from_slice(bytes);
    }
    padded
}

fn first_digit(bytes: &[u8]) -> Option<usize> {
    let (chunks, rest) = bytes.as_chunks::<LANES>();
    let has_digit = |chunk: &[u8; LANES]| {
        chunk.iter().fold(0, |found, byte| found | u8::from(byte.is_ascii_digit())) != 0
    };
    let (start, chunk) = match chunks.iter().position(has_digit) {
        Some(number) => (number * LANES, chunks.get(number)?.as_slice()),
        None => (chunks.len() * LANES, rest),
    };
    chunk.iter().position(u8::is_ascii_digit).map(|at| start + at)
}

/// Whether a byte beside a digit may be of the same token.
fn joins(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || !byte.is_ascii() || matches!(byte, b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shaped(sql: &str) -> Option<String> {
        let mut out = b"before ".to_vec();
        shape(sql.as_bytes(), &mut out).then(|| String::from_utf8(out.split_off(7)).unwrap())
    }

    #[test]
    fn integer_constants_become_zeros_and_nothing_else_does() {
        let cases = [
            ("SELECT a FROM t WHERE id = 4711", Some("SELECT a FROM t WHERE id = 0000")),
            ("SELECT a1,2,-3 FROM t2 LIMIT 15", Some("SELECT a1,0,-0 FROM t2 LIMIT 00")),
            ("SELECT a[1:2]", Some("SELECT a[0:0]")),
            ("SELECT 7", Some("SELECT 0")),
            ("7", Some("0")),
            ("SELECT 123456789+1234567890", Some("SELECT 000000000+1234567890")),
            ("SELECT 1.5, .5, 5., 1e5, 0x1F, 1_000, t.1", None),
            ("SELECT 1 AS \u{e9}1", Some("SELECT 0 AS \u{e9}1")),
            ("SELECT 1\u{e9}", None),
            ("SELECT a FROM t1", None),
            ("SELECT 1, 'x'", None),
            ("SELECT 1 AS \"1\"", None),
            ("SELECT $1, 1", None),
            ("SELECT 1 -- 2", None),
            ("SELECT 1 /* 2 */", None),
            ("SELECT 1 - -2 / 3", Some("SELECT 0 - -0 / 0")),
            ("SELECT 1::float(24)", None),
            ("SELECT 1::FlOaT", None),
            ("", None),
        ];
        for (sql, expected) in cases {
            assert_eq!(shaped(sql).as_deref(), expected, "{sql}");
        }
        assert_eq!(shaped(&format!("SELECT 1{}", " ".repeat(TEXT_BYTES_MAX))), None, "too long");
    }
    #[test]
    fn what_forbids_a_shape_is_found_wherever_it_stands() {
        for length in 0..100 {
            for at in 0..=length {
                let text = |what: &str| format!("1{}{what}{}", " ".repeat(at), " ".repeat(length - at));
                assert!(shaped(&text("")).is_some_and(|shape| shape.starts_with('0')));
                assert!(shaped(&text(" 23")).is_some_and(|shape| shape.contains(" 00")));
                for what in ["'", "\"", "$", "\\", "--", "/*", "float"] {
                    assert_eq!(shaped(&text(what)), None, "{what} at {at} of {length}");
                }
            }
        }
    }
}

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
    if sql.len() > TEXT_BYTES_MAX {
        return false;
    }
    let start = out.len();
    out.extend_from_slice(sql);
    let Some(text) = out.get_mut(start..) else { return false };
    let (mut constants, mut before) = (0, b' ');
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'0'..=b'9' => {
                let rest = text.get_mut(at..).unwrap_or_default();
                let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let behind = rest.get(digits).copied().unwrap_or(b' ');
                if digits <= DIGITS_MAX && !joins(before) && !joins(behind) {
                    rest.iter_mut().take(digits).for_each(|digit| *digit = b'0');
                    constants += 1;
                }
                before = b'0';
                at += digits;
                continue;
            }
            b'\'' | b'"' | b'$' | b'\\' => return false,
            b'-' if before == b'-' => return false,
            b'*' if before == b'/' => return false,
            b'f' | b'F' if text.get(at..at + 5).is_some_and(|word| word.eq_ignore_ascii_case(b"float")) => {
                return false;
            }
            _ => {}
        }
        before = byte;
        at += 1;
    }
    constants > 0
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
}

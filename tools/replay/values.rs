//! PostgreSQL values, text and binary, as text.

use crate::text::{self, bytes_line, push_hex};

/// The names of the types that are decoded.
const NAMES: [(u32, &str); 24] = [
    (16, "bool"),
    (17, "bytea"),
    (18, "char"),
    (19, "name"),
    (20, "int8"),
    (21, "int2"),
    (23, "int4"),
    (25, "text"),
    (26, "oid"),
    (114, "json"),
    (142, "xml"),
    (700, "float4"),
    (701, "float8"),
    (705, "unknown"),
    (1042, "bpchar"),
    (1043, "varchar"),
    (1082, "date"),
    (1083, "time"),
    (1114, "timestamp"),
    (1184, "timestamptz"),
    (1700, "numeric"),
    (2278, "void"),
    (2950, "uuid"),
    (3802, "jsonb"),
];

/// Days and microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL counts from.
const EPOCH_DAYS: i64 = 10_957;
const DAY_US: i64 = 86_400_000_000;

/// A type's name, or its OID.
pub(crate) fn type_name(oid: u32) -> String {
    let known = NAMES.iter().find(|(known, _)| *known == oid);
    known.map_or_else(|| format!("type {oid}"), |(_, name)| (*name).to_owned())
}

/// Numbers are aligned to the right.
pub(crate) fn is_number(oid: u32) -> bool {
    matches!(oid, 20 | 21 | 23 | 26 | 700 | 701 | 1700)
}

/// A value as text; `format` 0 is text, 1 binary. What cannot be decoded is shown in hexadecimal.
pub(crate) fn value(oid: u32, format: u8, bytes: &[u8]) -> String {
    if format == 0 {
        return bytes_line(bytes);
    }
    binary(oid, bytes).unwrap_or_else(|| hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::from("\\x");
    push_hex(&mut out, "", bytes);
    out
}

fn binary(oid: u32, bytes: &[u8]) -> Option<String> {
    Some(match oid {
        16 => match bytes {
            [0] => "f".to_owned(),
            [1] => "t".to_owned(),
            _ => return None,
        },
        18 | 19 | 25 | 114 | 142 | 705 | 1042 | 1043 => bytes_line(bytes),
        20 => i64::from_be_bytes(exactly(bytes)?).to_string(),
        21 => i16::from_be_bytes(exactly(bytes)?).to_string(),
        23 => i32::from_be_bytes(exactly(bytes)?).to_string(),
        26 => u32::from_be_bytes(exactly(bytes)?).to_string(),
        700 => f32::from_be_bytes(exactly(bytes)?).to_string(),
        701 => f64::from_be_bytes(exactly(bytes)?).to_string(),
        1082 => date(i32::from_be_bytes(exactly(bytes)?)),
        1083 => {
            let us = u64::try_from(i64::from_be_bytes(exactly(bytes)?)).ok()?;
            (us <= DAY_US.cast_unsigned()).then(|| text::clock(us))?
        }
        1114 => timestamp(i64::from_be_bytes(exactly(bytes)?), ""),
        1184 => timestamp(i64::from_be_bytes(exactly(bytes)?), "+00"),
        1700 => numeric(bytes)?,
        2278 => return bytes.is_empty().then(String::new),
        2950 => uuid(exactly(bytes)?),
        3802 => bytes_line(bytes.strip_prefix(&[1])?),
        _ => return None,
    })
}

fn exactly<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

fn date(days: i32) -> String {
    match days {
        i32::MAX => "infinity".to_owned(),
        i32::MIN => "-infinity".to_owned(),
        _ => text::date(i64::from(days) + EPOCH_DAYS),
    }
}

fn timestamp(us: i64, zone: &str) -> String {
    match us {
        i64::MAX => return "infinity".to_owned(),
        i64::MIN => return "-infinity".to_owned(),
        _ => {}
    }
    let date = text::date(us.div_euclid(DAY_US) + EPOCH_DAYS);
    let clock = text::clock(us.rem_euclid(DAY_US).cast_unsigned());
    let clock = clock.trim_end_matches('0').trim_end_matches('.');
    match date.strip_suffix(" BC") {
        Some(date) => format!("{date} {clock}{zone} BC"),
        None => format!("{date} {clock}{zone}"),
    }
}

fn uuid(bytes: [u8; 16]) -> String {
    let mut out = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        push_hex(&mut out, "", &[*byte]);
    }
    out
}

/// Digits to the base of 10000, the weight of the first, a sign, and how many decimals to show.
fn numeric(bytes: &[u8]) -> Option<String> {
    let (words, []) = bytes.as_chunks::<2>() else { return None };
    let mut words = words.iter().map(|word| u16::from_be_bytes(*word));
    let (count, weight) = (words.next()?, words.next()?.cast_signed());
    let (sign, scale) = (words.next()?, words.next()?);
    match sign {
        0xc000 => return Some("NaN".to_owned()),
        0xd000 => return Some("Infinity".to_owned()),
        0xf000 => return Some("-Infinity".to_owned()),
        0 | 0x4000 => {}
        _ => return None,
    }
    let digits: Vec<u16> = words.collect();
    if digits.len() != usize::from(count) || digits.iter().any(|digit| *digit > 9999) {
        return None;
    }
    let digit = |place: i32| {
        let at = i32::from(weight) - place;
        usize::try_from(at).ok().and_then(|at| digits.get(at)).copied().unwrap_or(0)
    };
    let whole: String =
        (0..=i32::from(weight).max(0)).rev().map(|place| format!("{:04}", digit(place))).collect();
    let whole = whole.trim_start_matches('0');
    let decimals: String =
        (1..=i32::from(scale).div_euclid(4) + 1).map(|place| format!("{:04}", digit(-place))).collect();
    let decimals: String = decimals.chars().take(usize::from(scale)).collect();
    let point = if scale > 0 { "." } else { "" };
    let minus = if sign == 0 { "" } else { "-" };
    Some(format!("{minus}{}{point}{decimals}", if whole.is_empty() { "0" } else { whole }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(oid: u32, bytes: &[u8], expected: &str) {
        assert_eq!(value(oid, 1, bytes), expected, "type {oid} of {bytes:?}");
    }

    #[test]
    fn binary_values_are_shown_as_the_server_would() {
        check(16, &[1], "t");
        check(16, &[2], "\\x02");
        check(20, &i64::MIN.to_be_bytes(), "-9223372036854775808");
        check(21, &[0xff, 0xff], "-1");
        check(23, &[0, 0, 1, 0], "256");
        check(23, &[0, 0, 1], "\\x000001");
        check(26, &[0xff; 4], "4294967295");
        check(700, &1.5f32.to_be_bytes(), "1.5");
        check(701, &f64::NAN.to_be_bytes(), "NaN");
        check(25, "grüße\x1b".as_bytes(), "grüße\\u{1b}");
        check(17, &[0xde, 0xad], "\\xdead");
        check(2950, &[0x11; 16], "11111111-1111-1111-1111-111111111111");
        check(3802, b"\x01{\"a\": 1}", "{\"a\": 1}");
        check(3802, b"\x02{}", "\\x027b7d");
        check(99_999, &[1, 2], "\\x0102");
        check(2278, b"", "");
    }

    #[test]
    fn times_count_from_2000() {
        check(1082, &0i32.to_be_bytes(), "2000-01-01");
        check(1082, &i32::MAX.to_be_bytes(), "infinity");
        check(1082, &(-730_120i32).to_be_bytes(), "0001-12-31 BC");
        check(1083, &3_661_500_000i64.to_be_bytes(), "01:01:01.500000");
        check(1083, &(-1i64).to_be_bytes(), "\\xffffffffffffffff");
        check(1114, &(-1i64).to_be_bytes(), "1999-12-31 23:59:59.999999");
        check(1114, &0i64.to_be_bytes(), "2000-01-01 00:00:00");
        check(1184, &1_500_000i64.to_be_bytes(), "2000-01-01 00:00:01.5+00");
        check(1184, &i64::MIN.to_be_bytes(), "-infinity");
        for us in [i64::MIN + 1, i64::MAX - 1] {
            assert!(value(1114, 1, &us.to_be_bytes()).contains(':'));
        }
    }

    #[test]
    fn numerics_keep_their_scale() {
        let numeric = |weight: i16, sign: u16, scale: u16, digits: &[u16]| {
            let count = u16::try_from(digits.len()).unwrap();
            let words = [count, weight.cast_unsigned(), sign, scale];
            words.iter().chain(digits).flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>()
        };
        check(1700, &numeric(0, 0, 2, &[12, 3400]), "12.34");
        check(1700, &numeric(1, 0x4000, 0, &[1, 2]), "-10002");
        check(1700, &numeric(0, 0, 0, &[]), "0");
        check(1700, &numeric(0, 0, 3, &[]), "0.000");
        check(1700, &numeric(-1, 0, 5, &[12]), "0.00120");
        check(1700, &numeric(-2, 0, 8, &[5]), "0.00000005");
        check(1700, &numeric(2, 0, 0, &[5]), "500000000");
        check(1700, &numeric(0, 0xc000, 0, &[]), "NaN");
        check(1700, &numeric(0, 0, 0, &[10_000]), "\\x00010000000000002710");
        check(1700, &[0, 1], "\\x0001");
        // The most that a sender can demand stays small.
        assert!(value(1700, 1, &numeric(i16::MAX, 0, u16::MAX, &[1])).len() < 200_000);
    }
}

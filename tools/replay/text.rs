//! Recorded text for a terminal: nothing that was recorded can move its cursor, and everything lines up.

use std::fmt::Write as _;

/// Text on one line. What would act on a terminal, reorder text or be invisible is spelled out.
pub(crate) fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|c| push(&mut out, c));
    out
}

/// As [`line()`], of bytes; those that are not UTF-8 are spelled `\xNN`.
pub(crate) fn bytes_line(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push(&mut out, c));
        push_hex(&mut out, "\\x", chunk.invalid());
    }
    out
}

/// As [`bytes_line`], but keeps the text's own lines and indents each.
pub(crate) fn block(bytes: &[u8], indent: &str) -> String {
    let mut out = String::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let _ = writeln!(out, "{indent}{}", bytes_line(line).trim_end());
    }
    out
}

fn push(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if c.is_control() || is_sly(c) => {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        }
        c => out.push(c),
    }
}

/// Characters that are no control characters and still make text look like something else: direction marks and
/// overrides, invisible ones, line separators, tags.
fn is_sly(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Two hexadecimal digits for each byte, with `before` in front of each.
pub(crate) fn push_hex(out: &mut String, before: &str, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(out, "{before}{byte:02x}");
    }
}

/// At most `max` characters (0: all), and how many were left out.
pub(crate) fn shorten(text: String, max: usize) -> String {
    let count = text.chars().count();
    if max == 0 || count <= max {
        return text;
    }
    let kept: String = text.chars().take(max).collect();
    format!("{kept}… (+{})", count - max)
}

/// Columns of a terminal that a text takes.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// One row of a table to be aligned; `right` says which columns are numbers.
pub(crate) fn padded(cells: &[String], widths: &[usize], right: &[bool]) -> String {
    let mut out = String::new();
    for (at, cell) in cells.iter().enumerate() {
        let fill = widths.get(at).copied().unwrap_or(0).saturating_sub(width(cell));
        let fill = " ".repeat(fill);
        let right = right.get(at).copied().unwrap_or(false);
        let (before, after) = if right { (fill.as_str(), "") } else { ("", fill.as_str()) };
        let _ = write!(out, "{}{before}{cell}{after}", if at == 0 { "" } else { " | " });
    }
    out.trim_end().to_owned()
}

/// The widest of each column.
pub(crate) fn widths<'a>(rows: impl Iterator<Item = &'a [String]>) -> Vec<usize> {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = width(cell).max(*widest);
        }
    }
    widths
}

/// `2026-11-21T09:45:12.123456Z` of microseconds since 1970-01-01 UTC.
pub(crate) fn utc(wall_us: u64) -> String {
    let seconds = wall_us / 1_000_000;
    let date = date(i64::try_from(seconds / 86400).unwrap_or(i64::MAX));
    format!("{date}T{}Z", clock(wall_us % 86_400_000_000))
}

/// `09:45:12.123456` of the microseconds of a day.
pub(crate) fn clock(us: u64) -> String {
    let seconds = us / 1_000_000;
    format!("{:02}:{:02}:{:02}.{:06}", seconds / 3600, seconds / 60 % 60, seconds % 60, us % 1_000_000)
}

/// `2026-11-21` of days since 1970-01-01, in the proleptic Gregorian calendar; years before 1 as `0044-03-15 BC`.
pub(crate) fn date(days: i64) -> String {
    // Eras of 400 years, each of 146097 days, counted from 0000-03-01, so that a leap day is a year's last.
    let days = i128::from(days) + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + i128::from(month <= 2);
    if year > 0 {
        format!("{year:04}-{month:02}-{day:02}")
    } else {
        format!("{:04}-{month:02}-{day:02} BC", 1 - year)
    }
}

/// `1.234 ms`, `12.300 s`, `3 min 5 s`, `2 h 10 min`.
pub(crate) fn duration(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    match seconds {
        _ if ns < 1_000_000_000 => format!("{}.{:03} ms", ns / 1_000_000, ns / 1000 % 1000),
        0..60 => format!("{seconds}.{:03} s", ns / 1_000_000 % 1000),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// `1 row`, `2 rows`.
pub(crate) fn count(count: u64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// `999 B`, `1.5 KiB`, `20.0 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes.saturating_mul(10) / 1024;
    for unit in units {
        if tenths < 10240 || unit == "TiB" {
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
        tenths /= 1024;
    }
    format!("{bytes} B")
}

/// A JSON string.
pub(crate) fn json(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            // Those beyond the first plane that are sly become surrogate pairs.
            c if c.is_control() || is_sly(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_recorded_acts_on_the_terminal() {
        let check = |text: &[u8], expected| assert_eq!(bytes_line(text), expected);
        check(b"plain", "plain");
        check(b"\x1b[2J\x07\x9b", "\\u{1b}[2J\\u{7}\\x9b");
        check("a\u{9b}31m\u{202e}b\u{feff}\u{e0041}".as_bytes(), "a\\u{9b}31m\\u{202e}b\\u{feff}\\u{e0041}");
        check("ü \u{1f600}\n\t\r".as_bytes(), "ü \u{1f600}\\n\\t\\r");
        assert_eq!(block(b"SELECT 1\r\n  \x1b[1m;", "> "), "> SELECT 1\n>   \\u{1b}[1m;\n");
        for code in (0..0x20).chain(0x7f..0xa0) {
            let shown = line(&char::from_u32(code).unwrap().to_string());
            assert!(shown.starts_with('\\') && shown.is_ascii(), "{code}");
        }
        assert_eq!(json("\"\\\n\u{e0041}ü"), "\"\\\"\\\\\\u000a\\udb40\\udc41ü\"");
    }

    #[test]
    fn times_and_sizes_read_well() {
        assert_eq!(utc(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(utc(1_795_254_312_123_456), "2026-11-21T09:45:12.123456Z");
        assert_eq!(utc(u64::MAX).len(), "584554-01-01T00:00:00.000000Z".len());
        for (days, expected) in [
            (-1, "1969-12-31"),
            (10_957, "2000-01-01"),
            (11_016, "2000-02-29"),
            (-719_162, "0001-01-01"),
            (-719_163, "0001-12-31 BC"),
        ] {
            assert_eq!(date(days), expected);
        }
        for (ns, expected) in [
            (0, "0.000 ms"),
            (1_234_567, "1.234 ms"),
            (12_345_000_000, "12.345 s"),
            (61_000_000_000, "1 min 1 s"),
            (7_800_000_000_000, "2 h 10 min"),
        ] {
            assert_eq!(duration(ns), expected);
        }
        for (bytes, expected) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20 << 20, "20.0 MiB")] {
            assert_eq!(size(bytes), expected);
        }
        assert!(size(u64::MAX).ends_with(" TiB"));
        assert_eq!(shorten("abcdef".into(), 4), "abcd… (+2)");
        assert_eq!((width("日本"), width("e\u{301}")), (4, 1));
    }
}

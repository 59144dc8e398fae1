//! Values that the configuration writes as text: times, sizes, addresses, names.

use std::net::SocketAddr;
use std::time::Duration;

/// `"60us"`, `"500ms"`, `"15s"`, `"10m"`, `"1h"`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (count, unit) = number_and_unit(text)?;
    let microseconds = match unit {
        "us" => Some(count),
        "ms" => count.checked_mul(1_000),
        "s" => count.checked_mul(1_000_000),
        "m" => count.checked_mul(60_000_000),
        "h" => count.checked_mul(3_600_000_000),
        "" => return Err(format!("\"{text}\" has no unit; write \"{text}s\" for seconds")),
        other => return Err(format!("\"{other}\" is no unit of time; the units are us, ms, s, m and h")),
    };
    microseconds.map(Duration::from_micros).ok_or_else(|| format!("\"{text}\" is too long"))
}

/// `"512B"`, `"64KiB"`, `"16MiB"`, `"1GiB"`.
pub fn size(text: &str) -> Result<u64, String> {
    let (count, unit) = number_and_unit(text)?;
    let scale = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" => return Err(format!("\"{text}\" has no unit; write \"{text}B\" for bytes")),
        "K" | "KB" | "kB" | "k" => return Err(String::from("write KiB (1024 bytes)")),
        "M" | "MB" | "m" => return Err(String::from("write MiB (1024 KiB)")),
        "G" | "GB" | "g" => return Err(String::from("write GiB (1024 MiB)")),
        other => return Err(format!("\"{other}\" is no unit of size; the units are B, KiB, MiB and GiB")),
    };
    count.checked_mul(scale).ok_or_else(|| format!("\"{text}\" is too much"))
}

fn number_and_unit(text: &str) -> Result<(u64, &str), String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
    let number = number
        .parse()
        .map_err(|_| format!("\"{text}\" does not begin with a whole number of at most 19 digits"))?;
    Ok((number, unit.trim()))
}

/// An IP address and a port.
pub fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| match host_port(text) {
        Ok((host, port)) => format!(
            "\"{host}\" is a name; a socket is bound to an IP address, such as 127.0.0.1:{port} or 0.0.0.0:{port}"
        ),
        Err(_) => format!("\"{text}\" is not an IP address and port, such as 127.0.0.1:6432 or [::1]:6432"),
    })
}

/// A host (name, IPv4 address, or IPv6 address in brackets) and a port. The brackets are not part of the host.
pub fn host_port(text: &str) -> Result<(String, u16), String> {
    let help = "write host:port, such as db.example.net:5432, 10.0.0.7:5432 or [fd00::7]:5432";
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(format!("port 0 cannot be connected to; {help}")),
            port => Ok((address.ip().to_string(), port)),
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("\"{text}\" names no port; {help}"))?;
    let port = match port.parse::<u16>() {
        Ok(port) if port != 0 => port,
        _ => return Err(format!("\"{port}\" is not a port (1 to 65535); {help}")),
    };
    if host.starts_with('/') {
        return Err(format!("a Unix socket is not supported; {help}"));
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(known) {
        return Err(format!("\"{host}\" is not a host name; {help}"));
    }
    Ok((host.to_owned(), port))
}

/// A name that both protocols and policies can spell.
pub fn name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err(String::from("it is empty"));
    }
    if text.len() > 63 {
        return Err(format!("it has {} bytes; PostgreSQL's names have at most 63", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(String::from("it has a control character in it"));
    }
    Ok(text.to_owned())
}

/// The word of `known` that was probably meant.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = match word.chars().count() {
        0..=3 => 1,
        4..=8 => 2,
        _ => 3,
    };
    known
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (line, from) in a.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, to) in row.iter_mut().skip(1).zip(&b) {
            let changed = diagonal + usize::from(from != *to);
            diagonal = *cell;
            left = changed.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("0s", Ok(0)),
            ("500ms", Ok(500)),
            ("15s", Ok(15_000)),
            ("15 s", Ok(15_000)),
            ("10m", Ok(600_000)),
            ("2h", Ok(7_200_000)),
            ("15", Err("no unit")),
            ("s", Err("whole number")),
            ("-1s", Err("whole number")),
            ("1.5s", Err("no unit of time")),
            ("1d", Err("no unit of time")),
            ("", Err("whole number")),
            ("99999999999999999999s", Err("whole number")),
            ("18446744073709551615h", Err("too long")),
            ("15ſ", Err("no unit of time")),
        ] {
            check(text, duration(text).map(|time| time.as_millis()), expected);
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0B", Ok(0)),
            ("512B", Ok(512)),
            ("64KiB", Ok(65_536)),
            ("16MiB", Ok(16 << 20)),
            ("1GiB", Ok(1 << 30)),
            ("16", Err("no unit")),
            ("16MB", Err("write MiB")),
            ("16k", Err("write KiB")),
            ("16TiB", Err("no unit of size")),
            ("MiB", Err("whole number")),
            ("18446744073709551615KiB", Err("too much")),
        ] {
            check(text, size(text), expected);
        }
    }

    #[test]
    fn hosts_and_ports() {
        for (text, expected) in [
            ("127.0.0.1:5432", Ok(("127.0.0.1", 5432))),
            ("[::1]:5432", Ok(("::1", 5432))),
            ("db-1.example.net:5432", Ok(("db-1.example.net", 5432))),
            ("db_1:1", Ok(("db_1", 1))),
            ("db", Err("names no port")),
            ("db:", Err("not a port")),
            ("db:0", Err("not a port")),
            ("127.0.0.1:0", Err("port 0")),
            ("db:65536", Err("not a port")),
            ("::1:5432", Err("not a host name")),
            (":5432", Err("not a host name")),
            ("d b:5432", Err("not a host name")),
            ("postgres://db:5432", Err("not a host name")),
            ("/run/postgresql:5432", Err("Unix socket")),
        ] {
            check(text, host_port(text), expected.map(|(host, port)| (host.to_owned(), port)));
        }
    }

    #[test]
    fn sockets() {
        for (text, expected) in [
            ("127.0.0.1:0", Ok("127.0.0.1:0")),
            ("[::]:6432", Ok("[::]:6432")),
            ("localhost:6432", Err("is a name")),
            ("6432", Err("not an IP address and port")),
            ("127.0.0.1", Err("not an IP address and port")),
        ] {
            check(text, socket(text).map(|socket| socket.to_string()), expected.map(String::from));
        }
    }

    #[test]
    fn names() {
        let long = "x".repeat(64);
        for (text, expected) in [
            ("orders", Ok("orders")),
            ("Straße 7", Ok("Straße 7")),
            ("", Err("empty")),
            (long.as_str(), Err("64 bytes")),
            ("a\nb", Err("control character")),
            ("a\0", Err("control character")),
        ] {
            check(text, name(text), expected.map(String::from));
        }
    }

    #[test]
    fn the_word_that_was_meant() {
        let known = ["bind", "tls", "certificate", "key", "auth"];
        for (word, expected) in [
            ("bnid", Some("bind")),
            ("bin", Some("bind")),
            ("Tls", Some("tls")),
            ("certifcate", Some("certificate")),
            ("certificates", Some("certificate")),
            ("port", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known.into_iter()), expected, "{word}");
        }
    }

    fn check<T: PartialEq + std::fmt::Debug>(
        text: &str,
        found: Result<T, String>,
        expected: Result<T, &str>,
    ) {
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{text}: {found}"),
            (found, expected) => panic!("{text}: {found:?} instead of {expected:?}"),
        }
    }
}

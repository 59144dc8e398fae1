//! `lockgate-bench run` against servers that behave, lie or stall.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

/// What a point select is answered with.
type Answer = fn(key: &str, number: u32) -> [String; 3];

fn right(key: &str, _: u32) -> [String; 3] {
    [key.to_owned(), format!("u{key}@example.com"), format!("1{key}")]
}

fn run(address: SocketAddr, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate-bench"));
    command.args(["run", "--address", &address.to_string(), "--workload", "point-simple", "--warm", "0"]);
    command.args(words).output().unwrap()
}

/// A server that speaks as much of the protocol as a point select by Query takes.
fn server(answer: Answer) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve(stream.unwrap(), answer));
        }
    });
    address
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

fn serve(mut stream: TcpStream, answer: Answer) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    body(&mut stream)?;
    stream.write_all(&[message(b'R', &[0; 4]), message(b'Z', b"I")].concat()).ok()?;
    for number in 0.. {
        let mut kind = [0];
        stream.read_exact(&mut kind).ok()?;
        let sql = String::from_utf8(body(&mut stream)?).unwrap();
        if kind != *b"Q" {
            return None;
        }
        let key = sql.trim_end_matches('\0').rsplit(' ').next().unwrap().to_owned();
        let mut row = 3u16.to_be_bytes().to_vec();
        for cell in answer(&key, number) {
            row.extend([&u32::try_from(cell.len()).unwrap().to_be_bytes()[..], cell.as_bytes()].concat());
        }
        let parts = [message(b'D', &row), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")];
        stream.write_all(&parts.concat()).ok()?;
    }
    None
}

fn body(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap() - 4];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}

/// The number that stands behind a word in what was printed.
fn figure(output: &Output, word: &str) -> f64 {
    let text = String::from_utf8_lossy(&output.stdout);
    let behind = text.split_once(&format!("{word} ")).unwrap_or_else(|| panic!("{word}: {output:?}")).1;
    behind
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()
        .unwrap()
        .trim_end_matches('.')
        .parse()
        .unwrap()
}

#[test]
fn answers_are_counted_and_timed() {
    let output = run(server(right), &["--connections", "3", "--seconds", "0.2"]);
    assert!(output.status.success(), "{output:?}");
    assert!(figure(&output, "p50") > 0.0 && figure(&output, "max") >= figure(&output, "p50"));
}

#[test]
fn a_wrong_row_ends_the_run_and_is_shown() {
    let wrong: Answer = |key, number| {
        let [aid, email, balance] = right(key, number);
        [aid, email, if number == 40 { "17".into() } else { balance }]
    };
    let output = run(server(wrong), &["--connections", "2", "--seconds", "600"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(
        error.contains("a wrong row came: (") && error.contains(", 17), where this was expected: ("),
        "{error}"
    );
}

#[test]
fn a_row_that_is_not_masked_is_a_wrong_row() {
    let output = run(server(right), &["--masked", "--seconds", "600"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("*******@example.com"), "{error}");
}

/// At 200 a second and half a second's stall, about a hundred exchanges come too late, though only one was under way.
#[test]
fn at_a_rate_a_stall_counts_for_all_that_it_delays() {
    let stalling: Answer = |key, number| {
        if number == 20 {
            thread::sleep(Duration::from_millis(500));
        }
        right(key, number)
    };
    let words = ["--connections", "1", "--seconds", "1"];
    let at_rate = run(server(stalling), &[&words[..], &["--rate", "200"]].concat());
    assert!(figure(&at_rate, "p90") > 100_000.0, "{at_rate:?}");
}

#[test]
fn nobody_there_is_said() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = run(address, &["--seconds", "600"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("refused"), "{error}");
}

//! `lockgate-instructions`: runs one body for callgrind, as `tests/instructions` asks it to.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use lockgate_benches::{Bench, all, measured};

const USAGE: &str = "usage: lockgate-instructions --list | NAME [CALLS]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "lockgate-instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--list"] => list(),
        [name] => count(name, 1),
        [name, calls] => count(name, calls.parse()?),
        _ => Err(USAGE.into()),
    }
}

fn list() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    for bench in all() {
        writeln!(out, "{}", bench.name)?;
    }
    Ok(())
}

/// Calls a body so often where callgrind counts; once, but when somebody wants to see that it tells twice the work.
fn count(name: &str, calls: u32) -> Result<(), Box<dyn Error>> {
    let bench: &Bench =
        all().find(|bench| bench.name == name).ok_or_else(|| format!("no body is called {name}; {USAGE}"))?;
    let mut body = bench.warm()?;
    for _ in 0..calls {
        bench.check(measured(&mut body))?;
    }
    Ok(())
}

//! What the tests of hostile peers need faster, or steadier, than a script can be: victims whose waits are measured,
//! sessions that come and go by the million, a server that costs nothing.

#![forbid(unsafe_code)]

mod churn;
mod pg;
mod standin;
mod victims;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Arguments.
#[derive(Debug, Parser)]
#[command(name = "lockgate-hostile", about = "Load and peers for tests/hostile and tests/churn")]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Sessions that ask at a steady rate; each line "take" on standard input prints what they waited since the last.
    Victims(victims::Options),
    /// Sessions that begin, ask once and end, some of them roughly.
    Churn(churn::Options),
    /// A server that speaks just enough of the protocol, and passes the catalog's connection on to a real one.
    Standin(standin::Options),
}

/// Whom to connect to, and as whom. The password is in LOCKGATE_PASSWORD.
#[derive(Debug, Clone, clap::Args)]
struct Door {
    /// Host and port.
    #[arg(long)]
    address: String,
    #[arg(long)]
    user: String,
    #[arg(long)]
    database: String,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().part {
        Part::Victims(options) => victims::run(&options),
        Part::Churn(options) => churn::run(&options),
        Part::Standin(options) => standin::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "lockgate-hostile: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One line for whoever reads us.
fn tell(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

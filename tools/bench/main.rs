//! `lockgate-bench`: what a gateway costs beside nothing, beside other proxies, and beside itself with a switch turned.
//!
//! # The design
//!
//! ```text
//!                    ┌ direct ────────────────────────────┐
//!  load ── client ───┼ pgbouncer, haproxy, relay, … ──────┼─── PostgreSQL of our own (bed)
//!  threads, a loop   └ lockgate in each of its variants ──┘    or, for thousands at rest, a stand-in
//!  or a rate           (fronts)
//!    ▲      script: bytes made once, answers checked
//!    │      workload: what is asked
//!  compare: A B C, A B C, … ── rounds ──▶ report: Markdown, JSON, SVG
//! ```
//!
//! * It must measure a proxy and not itself: requests are bytes made once, in which only keys change; answers are looked
//!   at in the buffer they came in; a log-in's password is salted once. What the client costs stands in every table.
//! * It must see what it measures: every row is held against what must come, and anything wrong ends the run.
//! * Ratios are made inside one round and told as medians with their spread, because a machine is never the same twice.
//! * At a set rate, latency counts from the instant at which a request was due ([`load`]).

#![forbid(unsafe_code)]

mod bed;
mod client;
mod compare;
mod fronts;
mod load;
mod options;
mod plan;
mod process;
mod report;
mod runtime;
mod script;
mod standin;
mod tls;
mod workload;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use rustix::process::{Resource, getrlimit, setrlimit};

use options::{Arguments, Command};

fn main() -> ExitCode {
    let done = open_files().and_then(|()| match Arguments::parse().command {
        Command::Run(options) => options.run(),
        Command::Compare(options) => options.run(),
        Command::Report(options) => options.run(),
        Command::Standin(options) => standin::run(&options),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "lockgate-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// As many as we may have, for us and for those we start.
fn open_files() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// What happens, for whoever waits.
fn say(line: &str) {
    // Who does not listen misses nothing but this.
    let _ = writeln!(io::stderr(), "{line}");
}

//! Lockgate: a gateway between whoever acts on production and what they act on.

#![forbid(unsafe_code)]

mod boot;
mod cli;
mod config;
mod driver;
mod folders;
mod host;
mod keys;
mod listeners;
mod logging;
mod outline;
#[cfg(test)]
mod scratch;
mod secrets;
mod section;
mod series;
mod tls;
mod values;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}

//! Lockgate: a gateway between whoever acts on production and what they act on.

#![forbid(unsafe_code)]

mod boot;
mod cli;
mod config;
mod driver;
mod folders;
mod keys;
mod logging;
#[cfg(test)]
mod scratch;
mod secrets;
mod section;
mod tls;
mod values;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}

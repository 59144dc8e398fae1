//! The command line: what can be asked, and the exit code that answers.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Findings};
use crate::driver::DriverChoice;
use crate::logging::Logging;
use crate::{boot, keys};

/// A gateway between whoever acts on production and what they act on.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_long_help = MAIN_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve: accept clients, judge, mask and record what they do
    #[command(long_about = SERVE_ABOUT, after_long_help = SERVE_HELP)]
    Serve(ServeArgs),
    /// Check a configuration and everything it names, without serving
    #[command(long_about = CHECK_ABOUT, after_long_help = CHECK_HELP)]
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// The configuration: a TOML file. Paths in it are relative to its folder.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Take the place of the gateway that serves with the same data_dir; without one, start as ever.
    #[arg(long)]
    take_over: bool,
    /// How workers reach the kernel, in place of what `workers.driver` of the configuration says
    #[arg(long, value_name = "DRIVER")]
    driver: Option<DriverChoice>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The configuration: a TOML file. Paths in it are relative to its folder.
    #[arg(long, value_name = "FILE", required_unless_present = "reference")]
    config: Option<PathBuf>,
    /// Print the reference of all keys, in Markdown, and check nothing.
    #[arg(long, conflicts_with = "config")]
    reference: bool,
}

const MAIN_HELP: &str = "\
Examples:
  lockgate check --config lockgate.toml
  lockgate serve --config lockgate.toml

`lockgate help COMMAND` shows a page on each command; `lockgate check --reference` all keys of the configuration.";

const SERVE_ABOUT: &str = "\
Serves: accepts clients on every [[listener]], and for each session judges every command by the policies, masks what \
comes back and records both.

Everything is checked first, as `lockgate check` does; nothing is served with a mistake. State (recordings, and the \
certificate that is made on first start when none is configured) is kept in `data_dir`, which one gateway at a time can use. \
With --take-over this one asks the gateway that uses it to hand over: it takes its listening sockets when it stands itself, \
so that no client is refused, and the other one goes on with the sessions it has until their clients leave, at the latest for \
`limits.handover_timeout`. If this one fails before that, the other one goes on as if nothing had been. \
The log goes to standard error.

A target that is down does not keep the gateway from starting: /readyz on the [admin] port says what is missing.";

const SERVE_HELP: &str = "\
Signals:
  SIGTERM  accept no more clients, end sessions when they are idle, at the latest after `limits.drain_timeout`;
           a second one cuts them at once
  SIGINT   cut every session at once, and end
  SIGHUP   load configuration, policies, secrets and certificates anew; no session is dropped but those that the new
           policy no longer lets in. With any mistake nothing changes; what cannot change without a restart is named
  SIGUSR2  start this program once more, with --take-over

To the service manager (sd_notify) it says when it serves, reloads, ends or hands over, and that every worker turns.

Exit codes:
  0  ended as it was asked to
  1  the configuration has mistakes, the gateway could not start, or a worker failed
  2  the command line is wrong

Examples:
  lockgate serve --config /etc/lockgate/lockgate.toml
  lockgate serve --config /etc/lockgate/lockgate.toml --take-over
  curl --fail http://127.0.0.1:6480/readyz";

const CHECK_ABOUT: &str = "\
Checks a configuration: the file, every key and value, the secrets' files and who can read them, certificates and their \
keys, addresses, and whether the policies compile. All mistakes are reported at once, each with its line, its key and \
what to write instead.

It connects to nothing and changes nothing, so it may run beside a gateway that serves.";

const CHECK_HELP: &str = "\
Exit codes:
  0  no mistake; a line that begins with \"ok:\" says what was found. Warnings do not change this
  1  mistakes, on standard error
  2  the command line is wrong

Examples:
  lockgate check --config lockgate.toml
  lockgate check --reference > docs/configuration.md";

/// Does what the command line asks.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(ServeArgs { config, take_over, driver }) => serve(&config, take_over, driver),
        Command::Check(CheckArgs { config: Some(file), .. }) => check(&file),
        Command::Check(_) => print(&keys::reference()),
    }
}

fn serve(file: &Path, take_over: bool, driver: Option<DriverChoice>) -> ExitCode {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(findings) => return refuse(file, &findings),
    };
    let logging = match Logging::begin(config.log) {
        Ok(logging) => logging,
        Err(error) => {
            complain(&format!("lockgate: the log cannot be had: {error}\n"));
            return ExitCode::FAILURE;
        }
    };
    let served = boot::serve(config, driver, take_over);
    if let Err(failure) = &served {
        tracing::error!("{failure}");
    }
    // Not before this is everything written.
    drop(logging);
    if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check(file: &Path) -> ExitCode {
    match Config::load(file) {
        Ok(config) => {
            config.warnings.iter().for_each(|warning| complain(&format!("warning: {warning}\n")));
            print(&format!("ok: {}: {}\n", file.display(), config.summary()))
        }
        Err(findings) => refuse(file, &findings),
    }
}

fn refuse(file: &Path, findings: &Findings) -> ExitCode {
    let mut text = String::new();
    findings.warnings.iter().for_each(|warning| text.push_str(&format!("warning: {warning}\n")));
    findings.mistakes.iter().for_each(|mistake| text.push_str(&format!("error: {mistake}\n")));
    let count = findings.mistakes.len();
    text.push_str(&format!("{}: {count} mistake{}\n", file.display(), if count == 1 { "" } else { "s" }));
    complain(&text);
    ExitCode::FAILURE
}

fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// To standard error; where that is closed there is nobody left to tell.
fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_page_with_exit_codes_and_examples() {
        for command in Cli::command().get_subcommands_mut() {
            let page = command.render_long_help().to_string();
            for part in ["Exit codes:", "Examples:", "--config"] {
                assert!(page.contains(part), "{} has no {part}", command.get_name());
            }
        }
    }

    #[test]
    fn what_the_command_line_takes() {
        for (line, right) in [
            ("lockgate serve --config a.toml", true),
            ("lockgate serve --config a.toml --take-over", true),
            ("lockgate check --config a.toml --take-over", false),
            ("lockgate serve --config a.toml --driver io_uring", true),
            ("lockgate serve --config a.toml --driver epoll", true),
            ("lockgate serve --config a.toml --driver auto", true),
            ("lockgate serve --config a.toml --driver kqueue", false),
            ("lockgate check --config a.toml", true),
            ("lockgate check --reference", true),
            ("lockgate check --reference --config a.toml", false),
            ("lockgate check", false),
            ("lockgate serve", false),
            ("lockgate serve a.toml", false),
            ("lockgate", false),
            ("lockgate frobnicate", false),
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).is_ok(), right, "{line}");
        }
    }
}

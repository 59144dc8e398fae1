//! Arguments, and the page of help of each command.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Lists, shows, plays and verifies Lockgate's recordings. Works on the files alone, with no gateway running, and
/// changes nothing.
///
/// Times are UTC. Text that was recorded is shown with control characters, direction marks and invisible characters
/// spelled out, so that nothing in it can act on the terminal.
#[derive(Debug, Parser)]
#[command(name = "lockgate-replay", version, max_term_width = 100)]
#[command(
    after_long_help = "Exit codes: 0 done; 1 not verified, not found or not readable; 2 wrong arguments."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the recordings are.
#[derive(Debug, Args)]
pub(crate) struct Dir {
    /// The folder of recordings: it has a folder w000 and so on for each worker.
    #[arg(default_value = "var/recordings", value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists the sessions, in the order in which they began.
    ///
    /// One line each: id, start (UTC), duration, user, groups, target, client address, commands, commands denied or
    /// refused, rows, and how it ended: closed, crashed (the gateway ended first), open (no end in the recording) or
    /// login failed.
    #[command(after_long_help = "Examples:\n  \
        lockgate-replay list\n  \
        lockgate-replay list /srv/lockgate/recordings\n  \
        lockgate-replay list --json | jq -r 'select(.denied > 0) | .session'")]
    List {
        #[command(flatten)]
        dir: Dir,
        /// One JSON object on each line instead of a table; duration_us in microseconds.
        #[arg(long)]
        json: bool,
    },
    /// Shows one session as a transcript.
    ///
    /// Who, when and how; each command with its parameters, the verdict with its rule, the effects, the rows as the client
    /// saw them (after masking), how many cells were masked, errors, and how long it took. Times in brackets are
    /// seconds since the session opened.
    #[command(after_long_help = "Examples:\n  \
        lockgate-replay show last\n  \
        lockgate-replay show 01a4 /srv/lockgate/recordings\n  \
        lockgate-replay show last --rows 0 --cell 0 | less")]
    Show {
        /// A session's id, as many of its 16 hexadecimal digits as make it unambiguous, or `last`.
        session: String,
        #[command(flatten)]
        dir: Dir,
        /// Most rows of a result (and messages of a COPY) that are shown; 0: all.
        #[arg(long, default_value_t = 20, value_name = "N")]
        rows: u64,
        /// Most characters of a cell or parameter that are shown; 0: all.
        #[arg(long, default_value_t = 80, value_name = "N")]
        cell: usize,
    },
    /// Plays one session in the terminal, with its timing.
    ///
    /// The transcript that `show` gives, each part when it happened. Ctrl-C ends it.
    #[command(after_long_help = "Examples:\n  \
        lockgate-replay play last\n  \
        lockgate-replay play 01a4 --speed 4\n  \
        lockgate-replay play last --max-pause 500ms")]
    Play {
        /// A session's id, as many of its 16 hexadecimal digits as make it unambiguous, or `last`.
        session: String,
        #[command(flatten)]
        dir: Dir,
        /// Most rows of a result (and messages of a COPY) that are shown; 0: all.
        #[arg(long, default_value_t = 20, value_name = "N")]
        rows: u64,
        /// Most characters of a cell or parameter that are shown; 0: all.
        #[arg(long, default_value_t = 80, value_name = "N")]
        cell: usize,
        /// How many times as fast as it happened; 0.5 is half as fast.
        #[arg(long, default_value = "1", value_name = "FACTOR", value_parser = speed)]
        speed: f64,
        /// Longest pause, however long the session was quiet: a number and ms, s or min.
        #[arg(long, default_value = "2s", value_name = "TIME", value_parser = pause)]
        max_pause: Duration,
    },
    /// Verifies everything: exit code 0 only if nothing is wrong.
    ///
    /// Checks of every worker's series: headers, CRC-32C and BLAKE3 of every block, the chain from block to block and file to
    /// file, block numbers, padding and unused bytes, every record, and that no session has a record left out. Tells, for each
    /// worker, what there is, the last value of the chain, and what a crash or a failed write left behind (a torn tail is no
    /// problem where the recording itself says so). A problem names file, offset in bytes, and block. The last line
    /// begins with `verified:` or `NOT verified:`.
    #[command(after_long_help = "Examples:\n  \
        lockgate-replay verify\n  \
        lockgate-replay verify /srv/lockgate/recordings && echo sound")]
    Verify {
        #[command(flatten)]
        dir: Dir,
    },
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if speed.is_finite() && speed > 0.0 => Ok(speed),
        _ => Err("it must be a number above 0, for example 4".to_owned()),
    }
}

fn pause(text: &str) -> Result<Duration, String> {
    let help = || "it must be a number and ms, s or min, for example 500ms".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| help())?;
    match text.strip_prefix(digits) {
        Some("ms") => Ok(Duration::from_millis(number)),
        Some("s") => Ok(Duration::from_secs(number)),
        Some("min") => Ok(Duration::from_secs(number.checked_mul(60).ok_or_else(help)?)),
        _ => Err(help()),
    }
}

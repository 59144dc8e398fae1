//! `lockgate-replay`: lists, shows, plays and verifies recordings, with no gateway running. Reads only.

#![forbid(unsafe_code)]

mod check;
mod cli;
mod list;
mod sessions;
mod text;
mod transcript;
mod values;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use lockgate_recording::{Entry, read_series, verify};

use cli::{Cli, Command};
use sessions::{Catalogue, Summary};
use transcript::{Bounds, Transcript};

/// Why the tool could not do what it was told: what happened, why, and what to do.
#[derive(Debug)]
enum Failure {
    Told(String),
    /// Nobody reads the output any more.
    Unheard,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Unheard,
            _ => Failure::Told(format!("writing the output failed: {error}")),
        }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) | Err(Failure::Unheard) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failure::Told(what)) => {
            let _ = writeln!(io::stderr(), "lockgate-replay: {what}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well.
fn run(command: Command) -> Result<bool, Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let well = match command {
        Command::List { dir, json } => {
            let catalogue = catalogue(&dir.dir)?;
            if json {
                list::json_lines(&catalogue, &mut out)?
            } else {
                list::table(&catalogue, &mut out)?
            }
            true
        }
        Command::Show { session, dir, rows, cell } => {
            let session = find(&dir.dir, &session)?;
            tell(&dir.dir, &session, Bounds { rows, cell }, &mut out, |_, _| Ok(()))?;
            true
        }
        Command::Play { session, dir, rows, cell, speed, max_pause } => {
            let session = find(&dir.dir, &session)?;
            let mut pace = Pace { speed, max_pause, last_ns: None };
            let wait = |entry: &Entry<'_>, out: &mut dyn Write| pace.wait(entry, out);
            tell(&dir.dir, &session, Bounds { rows, cell }, &mut out, wait)?;
            true
        }
        Command::Verify { dir } => verified(&dir.dir, &mut out)?,
    };
    out.flush()?;
    Ok(well)
}

fn unreadable(dir: &Path, error: &io::Error) -> Failure {
    let dir = dir.display();
    Failure::Told(match error.kind() {
        io::ErrorKind::NotFound => format!(
            "{dir} cannot be read: there is no such folder; name the folder of recordings (`recordings` in the \
             gateway's data_dir), for example `lockgate-replay list var/recordings`"
        ),
        io::ErrorKind::PermissionDenied => {
            format!(
                "{dir} cannot be read: {error}; recordings are readable by the gateway's user only: run as that user"
            )
        }
        _ => format!("{dir} cannot be read: {error}"),
    })
}

fn catalogue(dir: &Path) -> Result<Catalogue, Failure> {
    let catalogue = Catalogue::read(dir).map_err(|error| unreadable(dir, &error))?;
    if let Some(problem) = catalogue.problems.first() {
        let more = text::count(catalogue.problems.len() as u64, "problem");
        let _ = writeln!(
            io::stderr(),
            "lockgate-replay: the recordings have {more}, so something may be missing below; the first is {problem}; \
             `lockgate-replay verify {}` says all",
            dir.display()
        );
    }
    Ok(catalogue)
}

/// The one session whose id begins with `wanted`, or the last.
fn find(dir: &Path, wanted: &str) -> Result<Summary, Failure> {
    let mut sessions = catalogue(dir)?.sessions;
    let list = format!("`lockgate-replay list {}` shows what there is", dir.display());
    if wanted == "last" {
        return sessions.pop().ok_or_else(|| Failure::Told(format!("{} has no session", dir.display())));
    }
    let prefix = wanted.to_ascii_lowercase();
    sessions.retain(|session| session.id.to_string().starts_with(&prefix));
    match sessions.len() {
        0 => Err(Failure::Told(format!("no session begins with {}; {list}", text::line(wanted)))),
        1 => sessions.pop().ok_or(Failure::Unheard),
        many => {
            let wanted = text::line(wanted);
            Err(Failure::Told(format!("{many} sessions begin with {wanted}; give more of the id; {list}")))
        }
    }
}

/// Writes a session's transcript; `before` is called before the text of each record that has any.
fn tell(
    dir: &Path,
    session: &Summary,
    bounds: Bounds,
    out: &mut dyn Write,
    mut before: impl FnMut(&Entry<'_>, &mut dyn Write) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut transcript = Transcript::new(bounds);
    let mut result = Ok(());
    let mut text = String::new();
    let mut on_entry = |entry: &Entry<'_>| {
        if entry.session != session.id || result.is_err() {
            return;
        }
        transcript.feed(entry, &mut text);
        if !text.is_empty() {
            result = before(entry, out).and_then(|()| out.write_all(text.as_bytes()));
            text.clear();
        }
    };
    read_series(dir, session.worker, &mut on_entry).map_err(|error| unreadable(dir, &error))?;
    result?;
    transcript.finish(&mut text);
    match session.outcome {
        sessions::Outcome::Crashed => text.push_str("\nThe gateway ended before the session did.\n"),
        sessions::Outcome::Open => text.push_str("\nThe session has no end in the recording.\n"),
        _ => {}
    }
    out.write_all(text.as_bytes())?;
    Ok(())
}

/// Waits as long as the session did, within bounds.
struct Pace {
    speed: f64,
    max_pause: Duration,
    last_ns: Option<u64>,
}

impl Pace {
    fn wait(&mut self, entry: &Entry<'_>, out: &mut dyn Write) -> io::Result<()> {
        out.flush()?;
        let now_ns = entry.at.monotonic_ns;
        let passed = Duration::from_nanos(now_ns.saturating_sub(self.last_ns.unwrap_or(now_ns)));
        self.last_ns = Some(now_ns);
        let pause = Duration::try_from_secs_f64(passed.as_secs_f64() / self.speed).unwrap_or(Duration::MAX);
        std::thread::sleep(pause.min(self.max_pause));
        Ok(())
    }
}

fn verified(dir: &Path, out: &mut dyn Write) -> Result<bool, Failure> {
    let report = match verify(dir) {
        Ok(report) if report.series.is_empty() => {
            let what =
                format!("{} has no recordings (no folder w000): there is nothing to verify", dir.display());
            writeln!(out, "NOT verified: {what}")?;
            return Ok(false);
        }
        Ok(report) => report,
        Err(error) => {
            writeln!(out, "NOT verified: {} could not be read", dir.display())?;
            out.flush()?;
            return Err(unreadable(dir, &error));
        }
    };
    check::print(&report, out)?;
    Ok(report.ok())
}

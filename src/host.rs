//! What control asks of the binary: the configuration loaded anew, and a successor started.

use std::ffi::OsString;
use std::hash::RandomState;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use lockgate_control::{Reload, Work};
use tracing::warn;

use crate::config::{Config, Limits};
use crate::listeners;
use crate::outline::{Difference, Outline};

/// Descriptors kept from sessions: log, admin port and its clients, catalogs, locks.
const FILES_RESERVED: u64 = 64;
/// As many more for each worker: segments, ring, listeners, refused connections being told, cancels under way.
const FILES_RESERVED_BY_WORKER: u64 = 96;

/// The running configuration, as far as another one is compared with it.
#[derive(Debug)]
pub struct Host {
    file: PathBuf,
    data_dir: PathBuf,
    workers: u32,
    /// Client connections that a worker's ring was made for.
    sessions_max: u32,
    open_files: u64,
    state: RandomState,
    outline: Mutex<Outline>,
    program: io::Result<PathBuf>,
}

impl Host {
    /// Of what is being served.
    pub fn new(config: &Config, open_files: u64) -> Host {
        let state = RandomState::new();
        Host {
            file: config.file.clone(),
            data_dir: config.data_dir.clone(),
            workers: config.workers,
            sessions_max: work(config, config.workers, open_files).limits.sessions_max,
            open_files,
            outline: Mutex::new(Outline::of(config, &state)),
            state,
            // Asked now: later the file may be another one, and the link lead to what is deleted.
            program: std::env::current_exe(),
        }
    }

    /// What is other in `now`, which is what the next one is compared with.
    fn replace(&self, mut now: Outline) -> Difference {
        let mut before = self.outline.lock().unwrap_or_else(PoisonError::into_inner);
        let difference = before.difference(&now);
        now.keep_fixed(&before);
        *before = now;
        difference
    }
}

impl lockgate_control::Host for Host {
    fn reload(&self, held: Option<&[SocketAddr]>) -> Result<Reload, Vec<String>> {
        let config = Config::load(&self.file)
            .map_err(|findings| findings.mistakes.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let outline = Outline::of(&config, &self.state);
        // What cannot change stays what it is.
        let config = Config { data_dir: self.data_dir.clone(), workers: self.workers, ..config };
        let doors = match held {
            Some(held) => listeners::doors(&config, Vec::new(), held).map_err(|error| vec![error])?,
            None => Vec::new(),
        };
        let difference = self.replace(outline);
        let mut work = work(&config, self.workers, self.open_files);
        let mut fixed = difference.fixed;
        if work.limits.sessions_max > self.sessions_max {
            fixed.push(String::from("limits.sessions_max (above what it was at the start)"));
            work.limits.sessions_max = self.sessions_max;
        }
        Ok(Reload {
            targets: config.targets,
            users: config.users,
            policies: config.policies,
            doors,
            work,
            segment_bytes: config.segment_bytes,
            drain_timeout: config.limits.drain_timeout,
            handover_timeout: config.limits.handover_timeout,
            warnings: config.warnings.iter().map(ToString::to_string).collect(),
            changes: difference.changes,
            fixed,
        })
    }

    fn start_successor(&self) -> io::Result<u32> {
        let program =
            self.program.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        let mut words: Vec<OsString> = std::env::args_os().skip(1).collect();
        if !words.iter().any(|word| word == TAKE_OVER) {
            words.push(OsString::from(TAKE_OVER));
        }
        let mut child = Command::new(program)
            .args(words)
            .stdin(Stdio::null())
            // The watchdog's time is for whoever serves, and that will be another process.
            .env_remove("WATCHDOG_PID")
            .spawn()?;
        let pid = child.id();
        // So that it leaves no zombie where it ends before this process does.
        thread::Builder::new().name(String::from("successor")).spawn(move || child.wait())?;
        Ok(pid)
    }
}

/// The flag that makes a process take over.
pub const TAKE_OVER: &str = "--take-over";

/// What each of so many workers works under, in a process that may have so many files open.
pub fn work(config: &Config, workers: u32, open_files: u64) -> Work {
    let Limits { lane, connect_timeout, .. } = &config.limits;
    let share = |total: u32| total.div_ceil(workers.max(1));
    let connect_ns_max = u64::try_from(connect_timeout.as_nanos()).unwrap_or(u64::MAX);
    Work {
        limits: lockgate_worker::Limits {
            sessions_max: sessions_by_files(open_files, workers, share(config.limits.sessions_max)),
            unauthenticated_max: share(config.limits.unauthenticated_max),
            unauthenticated_per_address_max: share(config.limits.unauthenticated_per_address_max),
            connect_ns_max,
            cancel_ns_max: connect_ns_max,
        },
        lane_limits: Arc::new(lane.clone()),
        durability: config.durability,
    }
}

/// Sessions of one worker for which there are descriptors: what recording, catalogs, admin port, refusals and cancels
/// need is never theirs, because without it nobody is served.
fn sessions_by_files(open_files: u64, workers: u32, wanted: u32) -> u32 {
    let workers = u64::from(workers.max(1));
    let left = open_files.saturating_sub(FILES_RESERVED + workers * FILES_RESERVED_BY_WORKER);
    let sessions = u32::try_from(left / (2 * workers)).unwrap_or(u32::MAX).max(1);
    if sessions < wanted {
        warn!(
            open_files,
            sessions_max = u64::from(sessions) * workers,
            "fewer sessions than limits.sessions_max have room, a session takes two files; raise the limit of open files \
             (ulimit -n, LimitNOFILE)"
        );
    }
    sessions.min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_leave_descriptors_for_everything_else() {
        for (open_files, workers, wanted, expected) in [
            (u64::MAX, 2, 10_000, 10_000),
            (20_000, 2, 10_000, 4_936),
            (400, 2, 10_000, 36),
            (10, 2, 10_000, 1),
            (20_000, 2, 100, 100),
        ] {
            assert_eq!(
                sessions_by_files(open_files, workers, wanted),
                expected,
                "{open_files} {workers} {wanted}"
            );
        }
    }
}

//! Programs that are started for a measurement, and what they cost: processor time and memory as /proc tells them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A program that does not end by then is killed.
const ENDING: Duration = Duration::from_secs(20);
const GLANCE: Duration = Duration::from_millis(10);

/// A running program. It ends with us, however we end.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    end: Signal,
}

/// Who a program runs as.
#[derive(Debug, Clone, Copy)]
pub enum Who {
    /// As we do.
    Ourselves,
    /// As an ordinary user: some servers refuse to be root.
    Ordinary,
}

/// A process' memory, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// What is mapped and present.
    pub rss_kib: u64,
    /// The same, pages that are shared counted in parts.
    pub pss_kib: u64,
}

impl Process {
    /// Starts a program whose output goes to `log`.
    pub fn start(who: Who, program: &Path, words: &[String], log: &Path) -> io::Result<Process> {
        let out = fs::File::create(log)?;
        let mut command = as_user(who, program)?;
        command.args(words).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        command.current_dir(log.parent().unwrap_or_else(|| Path::new("/")));
        let child = command.spawn().map_err(|error| told(program, &error))?;
        Ok(Process { child, log: log.to_owned(), end: Signal::TERM })
    }

    /// Ends by this signal in place of SIGTERM.
    pub fn ended_by(mut self, signal: Signal) -> Process {
        self.end = signal;
        self
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The folder that it was started in.
    pub fn place(&self) -> PathBuf {
        self.log.parent().map(Path::to_owned).unwrap_or_default()
    }

    /// Waits until `is_up`, or says how its log ends.
    pub fn await_up(&mut self, patience: Duration, mut is_up: impl FnMut() -> bool) -> io::Result<()> {
        let begun = Instant::now();
        while !is_up() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || begun.elapsed() > patience {
                let how = ended.map_or_else(
                    || format!("is not up within {patience:?}"),
                    |code| format!("ended: {code}"),
                );
                return Err(io::Error::other(format!("it {how}; its log ends: {}", self.log_end())));
            }
            thread::sleep(GLANCE);
        }
        Ok(())
    }

    fn log_end(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join(" / ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself, which is what is wanted here.
            let _ = kill_process(pid, self.end);
        }
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < ENDING {
            thread::sleep(GLANCE);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end; an error carries its words.
pub fn run(who: Who, program: &Path, words: &[String]) -> io::Result<String> {
    let output = as_user(who, program)?.args(words).stdin(Stdio::null()).current_dir("/").output();
    let output = output.map_err(|error| told(program, &error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{} failed: {}", program.display(), words.trim())))
}

fn told(program: &Path, error: &io::Error) -> io::Error {
    io::Error::other(format!("{} cannot be started: {error}", program.display()))
}

/// `setpriv` gives up what root has, and asks the kernel to end the program when we are gone.
fn as_user(who: Who, program: &Path) -> io::Result<Command> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]);
    if let (Who::Ordinary, Some(user)) = (who, ordinary_user()?) {
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]);
    }
    command.arg("--").arg(program);
    Ok(command)
}

/// Whom root runs an ordinary program as; `None`: we are not root.
pub fn ordinary_user() -> io::Result<Option<u32>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let id = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        line.split(':').nth(2)?.parse().ok()
    };
    id("postgres").or_else(|| id("nobody")).map(Some).ok_or_else(|| {
        io::Error::other(
            "PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody: add one",
        )
    })
}

/// A program in PATH, or where Debian puts what only root runs.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Processor time of a process and all its threads, user and system; of those of its children that it waited for, too.
pub fn cpu(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is a name in parentheses, with anything in it.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let spent: u64 = (11..=14).map(ticks).sum();
    Ok(Duration::from_secs_f64(spent as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// The same of a process and its children, which have one thread each: a server has one for each session. Of a thousand
/// each does less in a window than the 10 ms that [`cpu`] counts by.
pub fn cpu_of_family(pid: u32) -> io::Result<Duration> {
    let mut spent = cpu(pid)?;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
        // One that has just ended is in its parent's account.
        spent += cpu_of_thread(child).or_else(|| cpu(child).ok()).unwrap_or_default();
    }
    Ok(spent)
}

/// Of a process' first thread, to the nanosecond, where the kernel counts that.
fn cpu_of_thread(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    stat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Memory of a process.
pub fn memory(pid: u32) -> io::Result<Memory> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let of = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0)
    };
    Ok(Memory { rss_kib: of("Rss:"), pss_kib: of("Pss:") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_account_is_read() {
        let pid = std::process::id();
        assert!(memory(pid).unwrap().rss_kib > 0);
        let before = cpu(pid).unwrap();
        let mut sum = 0u64;
        while cpu(pid).unwrap() == before {
            sum = (0..100_000).fold(sum, |sum, number| sum.rotate_left(5) ^ number);
        }
        assert!(cpu_of_family(pid).unwrap() > before);
    }

    #[test]
    fn a_program_that_ends_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let words = [String::from("-c"), String::from("echo no room; exit 3")];
        let mut process =
            Process::start(Who::Ourselves, Path::new("/bin/sh"), &words, &folder.path().join("log")).unwrap();
        let error = process.await_up(Duration::from_secs(60), || false).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no room"), "{error}");
    }
}

//! The folder where the processes of one gateway meet: a Unix socket for each, the serving one under a name of its own.
//!
//! ```text
//!   run/gateway.sock         the process that serves
//!   run/gateway-4711.sock    one that has handed over and drains
//! ```

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// The serving process' socket.
const SERVING: &str = "gateway.sock";

/// The folder, open: a socket's path may have 107 bytes at most, and a folder's own is often longer.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    folder: File,
}

impl RunFolder {
    pub(crate) fn open(path: &Path) -> io::Result<RunFolder> {
        Ok(RunFolder { path: path.to_owned(), folder: File::open(path)? })
    }

    /// A short path to a name in the folder.
    fn at(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.folder.as_raw_fd()))
    }

    /// Takes the serving process' name. Whoever had it keeps its socket, under the name of one that drains; of one that
    /// is gone nothing is left.
    pub(crate) fn serve(&self, predecessor: Option<u32>) -> io::Result<UnixListener> {
        let fresh = self.at(&format!("{}.new", std::process::id()));
        let _ = fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh)?;
        if let Some(pid) = predecessor {
            let its = self.at(&drained(pid));
            let _ = fs::remove_file(&its);
            fs::hard_link(self.at(SERVING), its)?;
        }
        // At no moment is there no socket of this name, nor one of a process that is gone.
        fs::rename(&fresh, self.at(SERVING))?;
        Ok(listener)
    }

    /// Connects to the serving process. `None`: there is none.
    pub(crate) fn serving(&self) -> io::Result<Option<UnixStream>> {
        match UnixStream::connect(self.at(SERVING)) {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Processes of this gateway that drain, by process id.
    pub(crate) fn drainers(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| pid_of(&name)).collect()
    }

    /// The sockets of all processes but this one.
    pub(crate) fn others(&self, serving: bool) -> Vec<PathBuf> {
        let own = std::process::id();
        let drainers = self.drainers().into_iter().filter(|pid| *pid != own);
        let mut paths: Vec<PathBuf> = drainers.map(|pid| self.at(&drained(pid))).collect();
        if !serving {
            paths.push(self.at(SERVING));
        }
        paths
    }

    /// Removes what processes left that did not end in order; only who serves may.
    pub(crate) fn sweep(&self) {
        for pid in self.drainers() {
            let path = self.at(&drained(pid));
            if is_deserted(&path) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Removes this process' own name. A serving process' name stays: it may be another's by now, and a name without
    /// a process behind it is as good as none.
    pub(crate) fn leave(&self) {
        let _ = fs::remove_file(self.at(&drained(std::process::id())));
    }
}

fn drained(pid: u32) -> String {
    format!("gateway-{pid}.sock")
}

fn pid_of(name: &str) -> Option<u32> {
    name.strip_prefix("gateway-")?.strip_suffix(".sock")?.parse().ok()
}

/// Nobody listens at a socket. One whose process is stuck may have a full queue: that is no reason to wait here.
fn is_deserted(path: &Path) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connected = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .and_then(|socket| connect(&socket, &SocketAddrUnix::new(path)?));
    matches!(connected, Err(Errno::NOENT | Errno::CONNREFUSED))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_change_hands_and_those_of_the_dead_are_swept() {
        // Far longer than a socket's path may be.
        let path =
            std::env::temp_dir().join(format!("lockgate-run-{}-{}", std::process::id(), "x".repeat(120)));
        fs::create_dir_all(&path).unwrap();
        let run = RunFolder::open(&path).unwrap();
        assert!(run.serving().unwrap().is_none());
        let first = run.serve(None).unwrap();
        assert!(run.serving().unwrap().is_some());
        let second = run.serve(Some(4711)).unwrap();
        assert_eq!(run.drainers(), [4711]);
        assert_eq!(run.others(true).len(), 1);
        assert!(UnixStream::connect(&run.others(true)[0]).is_ok(), "the first still listens");
        run.sweep();
        assert_eq!(run.drainers(), [4711]);
        drop(first);
        run.sweep();
        assert_eq!(run.drainers(), Vec::<u32>::new());
        drop(second);
        assert!(run.serving().unwrap().is_none(), "a name without a process");
        let _third = run.serve(None).unwrap();
        assert!(run.serving().unwrap().is_some());
        fs::remove_dir_all(&path).unwrap();
    }
}

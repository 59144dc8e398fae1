//! What the service manager is told (sd_notify(3)): one datagram for each change, nothing where nobody listens.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tracing::warn;

/// The way to the service manager.
#[derive(Debug)]
pub(crate) struct Notifier {
    way: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that all is well, at least.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment says (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`).
    pub(crate) fn from_env() -> Notifier {
        let way = env::var_os("NOTIFY_SOCKET").and_then(|path| match way(path.as_bytes()) {
            Ok(way) => Some(way),
            Err(error) => {
                warn!(%error, "NOTIFY_SOCKET names no socket that can be used; the service manager hears nothing");
                None
            }
        });
        let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| *usec > 0 && ours).map(Duration::from_micros);
        Notifier { watchdog: watchdog.filter(|_| way.is_some()), way }
    }

    /// Nobody is told: another process is the one that counts.
    pub(crate) fn silent() -> Notifier {
        Notifier { way: None, watchdog: None }
    }

    /// How often WATCHDOG=1 is due at the latest.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends lines as sd_notify(3) lists them. What cannot be sent is gone: the manager's queue is no reason to wait.
    pub(crate) fn say(&self, lines: &str) {
        if let Some((socket, address)) = &self.way
            && let Err(error) = socket.send_to_addr(lines.as_bytes(), address)
        {
            warn!(%error, "the service manager could not be told");
        }
    }

    /// A reload begins. The manager tells by the time which READY=1 ends it.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let usec = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={usec}\nSTATUS=reloading"));
    }
}

fn way(path: &[u8]) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match path.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_with_a_path_and_without_are_heard() {
        let name = format!("/tmp/lockgate-notify-{}", std::process::id());
        let _ = std::fs::remove_file(&name);
        let by_path = UnixDatagram::bind(&name).unwrap();
        let hidden = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let by_name = UnixDatagram::bind_addr(&hidden).unwrap();
        for (path, socket) in [(name.clone(), by_path), (format!("@{name}"), by_name)] {
            let notifier = Notifier { way: Some(way(path.as_bytes()).unwrap()), watchdog: None };
            notifier.say("READY=1\nSTATUS=serving");
            let mut heard = [0; 64];
            let len = socket.recv(&mut heard).unwrap();
            assert_eq!(&heard[..len], b"READY=1\nSTATUS=serving");
        }
        std::fs::remove_file(&name).unwrap();
        assert!(way(b"relative").is_ok(), "systemd's paths are absolute, and a test's may be anything");
    }
}

//! Where clients come in: listening sockets, shared out among workers, and kept for a successor.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use lockgate_bridge::{Durability, Limits, ListenerSettings, ServerTls, Settings};
use lockgate_lane::ListenerRules;

/// One listener of the configuration with its sockets. Workers listen on duplicates of them: what comes in waits at the
/// socket itself, whoever holds it and whoever comes to hold it.
#[derive(Debug)]
pub struct Door {
    /// As configured; port 0 is another port.
    pub bind: SocketAddr,
    /// Bound and listening on one address, `SO_REUSEPORT`. At least one.
    pub sockets: Vec<TcpListener>,
    /// What it demands.
    pub rules: Arc<ListenerRules>,
    /// TLS with clients; `None` exactly when the rules say that there is none.
    pub tls: Option<ServerTls>,
}

/// What every worker works under, listeners aside.
#[derive(Debug, Clone)]
pub struct Work {
    /// One worker's own limits.
    pub limits: Limits,
    /// Limits of lanes.
    pub lane_limits: Arc<lockgate_lane::Limits>,
    /// When a command may be forwarded.
    pub durability: Durability,
}

impl Door {
    /// What it listens on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        let first = self.sockets.first().ok_or_else(|| io::Error::other("a listener without a socket"))?;
        first.local_addr()
    }

    /// Duplicates of the sockets that are one worker's: each socket has one worker, and no worker goes without while
    /// there are enough.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn share(&self, worker: usize, workers: usize) -> io::Result<Vec<TcpListener>> {
        let own = self.sockets.iter().enumerate().filter(|(at, _)| at % workers.max(1) == worker);
        own.map(|(_, socket)| socket.try_clone()).collect()
    }
}

/// What a worker is told: these doors, and sockets of those that `fresh` names.
pub(crate) fn settings(
    doors: &[Door],
    work: &Work,
    (worker, workers): (usize, usize),
    fresh: impl Fn(&Door) -> bool,
) -> io::Result<Settings> {
    let mut listeners = Vec::with_capacity(doors.len());
    for door in doors {
        listeners.push(ListenerSettings {
            address: door.address()?,
            sockets: if fresh(door) { door.share(worker, workers)? } else { Vec::new() },
            rules: Arc::clone(&door.rules),
            tls: door.tls.clone(),
        });
    }
    Ok(Settings {
        limits: work.limits,
        lane_limits: Arc::clone(&work.lane_limits),
        durability: work.durability,
        listeners,
    })
}

#[cfg(test)]
mod tests {
    use lockgate_lane::{ListenerAuth, ListenerTls};

    use super::*;

    fn door(sockets: usize) -> Door {
        let socket = || TcpListener::bind("127.0.0.1:0").unwrap();
        Door {
            bind: "127.0.0.1:0".parse().unwrap(),
            sockets: (0..sockets).map(|_| socket()).collect(),
            rules: Arc::new(ListenerRules::new(ListenerTls::Off, ListenerAuth::Scram)),
            tls: None,
        }
    }

    #[test]
    fn every_socket_has_one_worker_whatever_their_numbers() {
        for (sockets, workers) in [(1, 1), (2, 2), (4, 2), (5, 2), (2, 4), (1, 3)] {
            let door = door(sockets);
            let ports = |socket: &TcpListener| socket.local_addr().unwrap().port();
            let mut shared: Vec<u16> = (0..workers)
                .flat_map(|worker| door.share(worker, workers).unwrap())
                .map(|socket| ports(&socket))
                .collect();
            let mut all: Vec<u16> = door.sockets.iter().map(ports).collect();
            shared.sort_unstable();
            all.sort_unstable();
            assert_eq!(shared, all, "{sockets} sockets, {workers} workers");
            let idle = (0..workers).filter(|worker| door.share(*worker, workers).unwrap().is_empty()).count();
            assert_eq!(idle, workers.saturating_sub(sockets), "{sockets} sockets, {workers} workers");
        }
    }
}

//! The doors that a configuration asks for: sockets taken over, held already, or bound now.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use lockgate_bridge::ServerTls;
use lockgate_control::Door;
use lockgate_lane::ListenerTls;
use lockgate_worker::ListenerSetup;
use tracing::info;

use crate::config::{Config, Listener};
use crate::tls;

/// Connections that the kernel completes before a worker accepts them.
const BACKLOG: u32 = 1024;
/// How long an address may be somebody else's before that is an error, and how often it is tried.
const CLEARED_MAX: Duration = Duration::from_secs(3);
const CLEARED_AGAIN: Duration = Duration::from_millis(20);

/// Every door of the configuration, each with the sockets that `held` has for it. Where it has none, as many are bound
/// as there are workers; a door whose address is in `kept` goes without, because its sockets are elsewhere in use.
pub fn doors(
    config: &Config,
    mut held: Vec<(SocketAddr, TcpListener)>,
    kept: &[SocketAddr],
) -> Result<Vec<Door>, String> {
    let mut doors = Vec::with_capacity(config.listeners.len());
    for listener in &config.listeners {
        // Several may have port 0, each its own.
        let first = held.iter().find(|(bind, _)| *bind == listener.bind);
        let first = first.and_then(|(_, socket)| socket.local_addr().ok());
        let (sockets, others) = held
            .into_iter()
            .partition(|(bind, socket)| *bind == listener.bind && socket.local_addr().ok() == first);
        held = others;
        doors.push(door(config, listener, sockets)?);
    }
    // All of them before the first is bound: a wildcard and an address of one port may well stand beside each other.
    let is_new = |door: &Door| door.sockets.is_empty() && !kept.contains(&door.bind);
    doors.iter().filter(|door| is_new(door)).try_for_each(|door| refuse_foreign(door.bind))?;
    for door in &mut doors {
        match is_new(door) {
            true => extend(door, config.workers)?,
            false if !door.sockets.is_empty() => tell(door, "listening on what was taken over"),
            false => {}
        }
    }
    Ok(doors)
}

fn door(
    config: &Config,
    listener: &Listener,
    sockets: Vec<(SocketAddr, TcpListener)>,
) -> Result<Door, String> {
    let tls = match (listener.rules.tls, &listener.tls) {
        (ListenerTls::Off, _) => None,
        (_, Some(tls)) => Some(tls.clone()),
        (_, None) => Some(own_certificate(config, listener.clients.as_ref())?),
    };
    Ok(Door {
        bind: listener.bind,
        sockets: sockets.into_iter().map(|(_, socket)| socket).collect(),
        rules: Arc::new(listener.rules.clone()),
        tls,
    })
}

/// Binds as many sockets more as it takes for each worker to have one.
pub fn extend(door: &mut Door, workers: u32) -> Result<(), String> {
    let begun = door.sockets.is_empty();
    // The first socket of port 0 finds a port, the others share it.
    let mut address = door.address().unwrap_or(door.bind);
    while u32::try_from(door.sockets.len()).is_ok_and(|sockets| sockets < workers) {
        let socket = bound(lockgate_ring::listen_socket(address, BACKLOG, true), &address)?;
        address = socket.local_addr().unwrap_or(address);
        door.sockets.push(socket);
    }
    if begun {
        tell(door, "listening");
    }
    Ok(())
}

fn tell(door: &Door, what: &str) {
    let address = door.address().unwrap_or(door.bind);
    info!(%address, tls = ?door.rules.tls, auth = ?door.rules.auth, "{what}");
}

/// Each worker's share of the doors.
pub fn shares(doors: &[Door], workers: u32) -> io::Result<Vec<Vec<ListenerSetup>>> {
    let workers = usize::try_from(workers).unwrap_or(usize::MAX);
    let share = |worker: usize| {
        let mut setups = Vec::new();
        for door in doors {
            let rules = &door.rules;
            for socket in door.share(worker, workers)? {
                let (rules, tls) = (Arc::clone(rules), door.tls.clone());
                setups.push(ListenerSetup { address: socket.local_addr()?, socket, rules, tls });
            }
        }
        Ok(setups)
    };
    (0..workers).map(share).collect()
}

/// The admin port's socket.
pub fn admin(bind: SocketAddr) -> Result<TcpListener, String> {
    bound(lockgate_ring::listen_socket(bind, BACKLOG, false), &bind)
}

fn bound<T>(socket: io::Result<T>, address: &impl fmt::Display) -> Result<T, String> {
    socket.map_err(|error| {
        let help = match error.kind() {
            io::ErrorKind::AddrInUse => "; something else listens there, another gateway perhaps",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
            io::ErrorKind::AddrNotAvailable => "; no interface of this machine has the address",
            _ => "",
        };
        format!("{address} cannot be bound: {error}{help}")
    })
}

/// SO_REUSEPORT would let a second gateway of the same user share the port, and take some of its clients. A gateway that
/// was killed holds its sockets until the kernel has cleared its ring away, a moment after its process has ended.
fn refuse_foreign(bind: SocketAddr) -> Result<(), String> {
    if bind.port() == 0 {
        return Ok(());
    }
    let until = Instant::now() + CLEARED_MAX;
    loop {
        match TcpListener::bind(bind) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                thread::sleep(CLEARED_AGAIN);
            }
            tried => return bound(tried, &bind).map(drop),
        }
    }
}

/// TLS with the certificate that the gateway makes itself.
fn own_certificate(config: &Config, clients: Option<&tls::Clients>) -> Result<ServerTls, String> {
    let (server, made) = tls::own_certificate(&config.data_dir, clients)?;
    let (certificate, _) = tls::own_paths(&config.data_dir);
    if made {
        info!(certificate = %certificate.display(), "made a self-signed certificate");
    }
    Ok(server)
}

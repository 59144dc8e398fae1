//! What a worker works under beside the snapshot, and what a reload may change: limits, durability, listeners.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use lockgate_lane::{CertificateName, ListenerRules};
use rustls::pki_types::CertificateDer;

/// What a worker is to work under from now on.
#[derive(Debug)]
pub struct Settings {
    /// Its own limits.
    pub limits: Limits,
    /// Limits of lanes that are yet to come.
    pub lane_limits: Arc<lockgate_lane::Limits>,
    /// When a command may be forwarded.
    pub durability: Durability,
    /// All listeners that there are to be. One that is not named is closed; sessions that came through it stay.
    pub listeners: Vec<ListenerSettings>,
}

/// One listener of a worker.
#[derive(Debug)]
pub struct ListenerSettings {
    /// What it listens on.
    pub address: SocketAddr,
    /// Sockets to listen on besides those that it has.
    pub sockets: Vec<TcpListener>,
    /// What it demands of whoever comes from now on.
    pub rules: Arc<ListenerRules>,
    /// TLS with clients; `None` exactly when the rules say that there is none.
    pub tls: Option<ServerTls>,
}

/// The gateway's side of TLS with the clients of one listener.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// What it shows, and whose certificates it believes.
    pub config: Arc<rustls::ServerConfig>,
    /// The certificate that `config` shows: what clients bind their proofs to.
    pub certificate: CertificateDer<'static>,
    /// Where a client's certificate names it.
    pub client_name: CertificateName,
}

/// Limits of one worker: what is configured for the gateway, divided by the number of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most client connections at a time.
    pub sessions_max: u32,
    /// Most of them that are not authenticated yet.
    pub unauthenticated_max: u32,
    /// Most of those from one address (one /64 with IPv6).
    pub unauthenticated_per_address_max: u32,
    /// How long one address of a target may take until the session stands, in nanoseconds.
    pub connect_ns_max: u64,
    /// How long a cancel request may take to be delivered, in nanoseconds.
    pub cancel_ns_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            sessions_max: 10_000,
            unauthenticated_max: 1_000,
            unauthenticated_per_address_max: 256,
            connect_ns_max: 10_000_000_000,
            cancel_ns_max: 10_000_000_000,
        }
    }
}

/// When a command may be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When its record is queued.
    Async,
    /// When its record is written to the file.
    Os,
}

//! The connection to the target: its addresses in turn, its time limit, its TLS.

use std::io;
use std::net::SocketAddr;

use lockgate_bridge::DestinationTls;
use lockgate_lane::{Answer, Side};
use lockgate_ring::{ConnId, Driver};

use crate::session::{Job, Owner};
use crate::table::Key;
use crate::timers::Timer;
use crate::tls::Tls;
use crate::turn::Worker;

/// Whereto a session is, or is being, connected.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Addresses that have not been tried, the next one last.
    untried: Vec<SocketAddr>,
    /// The one that is connected or being tried.
    pub address: Option<SocketAddr>,
    pub tls: Option<DestinationTls>,
    /// When connecting has taken too long; `None`: it is done.
    deadline_ns: Option<u64>,
    /// Whether the TCP connection stands.
    connected: bool,
}

impl<D: Driver> Worker<D> {
    /// The lane wants its target.
    pub(crate) fn dial(&mut self, key: Key) {
        if let Err(error) = self.find_upstream(key).and_then(|()| self.dial_next(key, "it has no address")) {
            self.answers.push_back(Answer::Dialed(Err(error)));
        }
    }

    fn find_upstream(&mut self, key: Key) -> Result<(), String> {
        let session = self.sessions.get_mut(key).ok_or("the session is over")?;
        let grant = session.lane.as_ref().and_then(|lane| lane.grant()).ok_or("nothing was granted")?;
        let destination =
            self.snapshot.targets.get(&grant.target.name).ok_or("the target is no longer configured")?;
        session.upstream = Some(Box::new(Upstream {
            untried: destination.addresses.iter().rev().copied().collect(),
            address: None,
            tls: destination.tls.clone(),
            deadline_ns: None,
            connected: false,
        }));
        Ok(())
    }

    /// Tries the next address; `error` is what became of the one before.
    fn dial_next(&mut self, key: Key, error: &str) -> Result<(), String> {
        let mut error = String::from(error);
        loop {
            let session = self.sessions.get_mut(key).ok_or("the session is over")?;
            let upstream = session.upstream.as_mut().ok_or("there is no target")?;
            let Some(address) = upstream.untried.pop() else {
                upstream.deadline_ns = None;
                return Err(error);
            };
            match self.ring.dial(address) {
                Ok(conn) => {
                    let deadline_ns = self.now.monotonic_ns.saturating_add(self.limits.connect_ns_max);
                    upstream.address = Some(address);
                    upstream.deadline_ns = Some(deadline_ns);
                    session.legs[Side::Server].conn = Some(conn);
                    self.owners.set(conn, Owner::Session(key, Side::Server));
                    self.timers.arm(deadline_ns, Timer::Connect(key));
                    return Ok(());
                }
                Err(failed) => error = format!("{address}: {failed}"),
            }
        }
    }

    /// A connection to the target stands, or could not be made.
    pub(crate) fn dialed(&mut self, key: Key, conn: ConnId, result: io::Result<()>) {
        match result {
            Ok(()) => {
                let Some(session) = self.sessions.get_mut(key) else { return };
                if let Some(upstream) = &mut session.upstream {
                    upstream.connected = true;
                    upstream.untried = Vec::new();
                    if upstream.tls.is_none() {
                        upstream.deadline_ns = None;
                    }
                }
                self.ring.resume(conn);
                self.answer(key, Answer::Dialed(Ok(())));
            }
            Err(error) => self.dial_failed(key, conn, &error.to_string()),
        }
    }

    fn dial_failed(&mut self, key: Key, conn: ConnId, error: &str) {
        self.ring.close(conn, false);
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.legs[Side::Server].conn = None;
        if session.lane.is_none() {
            return;
        }
        let address = session.upstream.as_ref().and_then(|upstream| upstream.address);
        let error = address.map_or(String::from(error), |address| format!("{address}: {error}"));
        if let Err(error) = self.dial_next(key, &error) {
            self.answer(key, Answer::Dialed(Err(error)));
        }
    }

    /// Connecting may have taken too long.
    pub(crate) fn connect_deadline(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else { return };
        let Some(upstream) = &session.upstream else { return };
        let due = upstream.deadline_ns.is_some_and(|deadline_ns| deadline_ns <= self.now.monotonic_ns);
        let (true, Some(conn)) = (due, session.legs[Side::Server].conn) else { return };
        if upstream.connected {
            self.failed(key, Side::Server, conn, "TLS with the target took too long");
        } else {
            self.dial_failed(key, conn, "the target did not answer in time");
        }
    }

    /// The target has agreed to TLS: the first flight.
    pub(crate) fn start_server_tls(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let destination = session.upstream.as_ref().and_then(|upstream| upstream.tls.clone());
        let started = match destination {
            Some(DestinationTls { config, name }) => Tls::client(&config, name),
            None => Err(String::from("the target has no TLS configuration")),
        };
        self.cipher.clear();
        let error = match started {
            Ok(mut tls) => {
                let progress = tls.receive(&mut [], &mut Vec::new(), &mut self.cipher);
                session.legs[Side::Server].tls = Some(Box::new(tls));
                progress.error
            }
            Err(error) => Some(error),
        };
        self.send_cipher(key, Side::Server);
        if let Some(error) = error {
            self.jobs.push_back(Job::Broken { session: key, side: Side::Server, error });
        }
    }

    /// TLS with the target stands.
    pub(crate) fn server_tls_ready(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Some(upstream) = &mut session.upstream {
            upstream.deadline_ns = None;
        }
        let end_point = session.legs[Side::Server].tls.as_ref().and_then(|tls| tls.end_point());
        self.answer(key, Answer::TlsReady { end_point });
    }
}

//! The connection to the target: its addresses in turn, the time limit of each, its TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use lockgate_bridge::{DestinationTls, Place};
use lockgate_lane::{Answer, Dialed, Dialing, Side};
use lockgate_ring::{ConnId, Driver};

use crate::session::{Job, Leg, Owner};
use crate::table::Key;
use crate::timers::Timer;
use crate::tls::Tls;
use crate::turn::Worker;

/// What a lane is told of an address that has had its time.
const TOO_SLOW: &str = "no session within limits.connect_timeout";

/// Whereto a session is, or is being, connected.
#[derive(Debug)]
pub(crate) struct Upstream {
    places: Arc<[Place]>,
    /// The place that is connected or being tried.
    current: usize,
    /// When that has taken too long; `None`: the session stands.
    deadline_ns: Option<u64>,
    /// Whether the TCP connection stands.
    connected: bool,
}

impl Upstream {
    pub(crate) fn place(&self) -> Option<&Place> {
        self.places.get(self.current)
    }
}

impl<D: Driver> Worker<D> {
    /// The lane wants its target, or another address of it.
    pub(crate) fn dial(&mut self, key: Key, which: Dialing) {
        self.hang_up(key);
        if which == Dialing::First {
            self.find_upstream(key);
        } else if let Some(upstream) =
            self.sessions.get_mut(key).and_then(|session| session.upstream.as_mut())
        {
            upstream.current += 1;
        }
        if let Some(dialed) = self.dial_current(key) {
            self.answers.push_back(Answer::Dialed(dialed));
        }
    }

    /// Parts with the server at hand. What was sent to it still goes out; what it says is nobody's business any more.
    fn hang_up(&mut self, key: Key) {
        let conn = self.sessions.get(key).and_then(|session| session.legs[Side::Server].conn);
        if let Some(conn) = conn {
            self.close_leg(key, Side::Server);
            self.owners.take(conn);
        }
        if let Some(session) = self.sessions.get_mut(key) {
            session.legs[Side::Server] = Leg::default();
        }
    }

    /// A target that is no longer configured has no place.
    fn find_upstream(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let grant = session.lane.as_ref().and_then(|lane| lane.grant());
        let destination = grant.and_then(|grant| self.snapshot.targets.get(&grant.target.name));
        let places = destination.map_or_else(|| Arc::from([]), |destination| Arc::clone(&destination.places));
        session.upstream =
            Some(Box::new(Upstream { places, current: 0, deadline_ns: None, connected: false }));
    }

    /// Begins to connect, or says at once why not.
    fn dial_current(&mut self, key: Key) -> Option<Dialed> {
        let session = self.sessions.get_mut(key)?;
        let upstream = session.upstream.as_mut()?;
        upstream.connected = false;
        let Some(address) = upstream.place().map(|place| place.address) else {
            upstream.deadline_ns = None;
            return Some(Dialed::Exhausted);
        };
        match self.ring.dial(address) {
            Ok(conn) => {
                let deadline_ns = self.now.monotonic_ns.saturating_add(self.limits.connect_ns_max);
                upstream.deadline_ns = Some(deadline_ns);
                session.legs[Side::Server].conn = Some(conn);
                self.owners.set(conn, Owner::Session(key, Side::Server));
                self.timers.arm(deadline_ns, Timer::Connect(key));
                None
            }
            Err(error) => Some(Dialed::Address(address, Err(error.to_string()))),
        }
    }

    /// A connection to the target stands, or could not be made.
    pub(crate) fn dialed(&mut self, key: Key, conn: ConnId, result: io::Result<()>) {
        match result {
            Ok(()) => {
                let Some(session) = self.sessions.get_mut(key) else { return };
                let Some(upstream) = &mut session.upstream else { return };
                upstream.connected = true;
                let Some(address) = upstream.place().map(|place| place.address) else { return };
                self.ring.resume(conn);
                self.answer(key, Answer::Dialed(Dialed::Address(address, Ok(()))));
            }
            Err(error) => self.dial_failed(key, conn, &error.to_string()),
        }
    }

    fn dial_failed(&mut self, key: Key, conn: ConnId, error: &str) {
        self.ring.close(conn, false);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.lane.is_none() {
            // Its end is awaited as that of every connection of a session that is over.
            return;
        }
        session.legs[Side::Server].conn = None;
        self.owners.take(conn);
        if let Some(address) = self.address_of(key) {
            self.answer(key, Answer::Dialed(Dialed::Address(address, Err(error.to_owned()))));
        }
    }

    fn address_of(&self, key: Key) -> Option<SocketAddr> {
        let upstream = self.sessions.get(key)?.upstream.as_ref()?;
        upstream.place().map(|place| place.address)
    }

    /// Connecting, TLS, authentication and set-up may have taken too long.
    pub(crate) fn connect_deadline(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else { return };
        let Some(upstream) = &session.upstream else { return };
        let due = upstream.deadline_ns.is_some_and(|deadline_ns| deadline_ns <= self.now.monotonic_ns);
        let (true, Some(conn)) = (due, session.legs[Side::Server].conn) else { return };
        if upstream.connected {
            self.failed(key, Side::Server, conn, TOO_SLOW);
        } else {
            self.dial_failed(key, conn, TOO_SLOW);
        }
    }

    /// The session stands: no time limit any more.
    pub(crate) fn connected(&mut self, key: Key) {
        let upstream = self.sessions.get_mut(key).and_then(|session| session.upstream.as_mut());
        if let Some(upstream) = upstream {
            upstream.deadline_ns = None;
        }
    }

    /// The target has agreed to TLS: the first flight.
    pub(crate) fn start_server_tls(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let place = session.upstream.as_ref().and_then(|upstream| upstream.place());
        let started = match place.and_then(|place| place.tls.clone()) {
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
        let conn = session.legs[Side::Server].conn;
        self.send_cipher(key, Side::Server);
        if let Some(error) = error {
            self.jobs.push_back(Job::Broken { session: key, side: Side::Server, conn, error });
        }
    }

    /// TLS with the target stands.
    pub(crate) fn server_tls_ready(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let end_point = session.legs[Side::Server].tls.as_ref().and_then(|tls| tls.end_point());
        self.answer(key, Answer::TlsReady { end_point });
    }
}

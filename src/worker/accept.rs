//! Listeners, and what happens when a connection comes in: limits first, then a session around a new lane.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use lockgate_bridge::{ServerTls, Settings};
use lockgate_lane::{Lane, ListenerRules, Opening, Refusal, Secret, Side, turned_away};
use lockgate_ring::{ConnId, Driver, ListenerId};

use crate::session::{Owner, Session};
use crate::tls::Front;
use crate::turn::{Listening, Mode, Worker};

/// Refused connections that are told why, at a time; those beyond are cut, so that refusing costs nothing to speak of.
const REFUSALS_MAX: u32 = 64;
/// A log line about connections that could not be accepted comes no more often than this.
const WARN_AGAIN_NS: u64 = 1_000_000_000;

/// Connections that were never let in.
#[derive(Debug, Default)]
pub(crate) struct TurnedAway {
    /// Are being told.
    telling: u32,
    /// Could not be accepted since the log last said so.
    unlogged: u64,
    logged_ns: Option<u64>,
}

impl<D: Driver> Worker<D> {
    /// Works under other limits, and listens where they say and nowhere else. Sessions notice nothing.
    pub(crate) fn configure(&mut self, settings: Settings) {
        self.limits = settings.limits;
        self.admission.limit(settings.limits);
        self.lane_limits = settings.lane_limits;
        self.recorder.set_durability(settings.durability);
        let wanted: Vec<SocketAddr> = settings.listeners.iter().map(|listener| listener.address).collect();
        self.stop_listening(|address| !wanted.contains(&address));
        for listener in settings.listeners {
            if let Err(error) = self.listen(listener.address, listener.sockets, listener.rules, listener.tls)
            {
                let address = listener.address;
                tracing::error!(worker = self.index, %address, %error, "the worker cannot listen");
            }
        }
    }

    /// Listens on these sockets in place of those it had for the address, if there are any; and by these rules from now
    /// on.
    pub(crate) fn listen(
        &mut self,
        address: SocketAddr,
        sockets: Vec<TcpListener>,
        rules: Arc<ListenerRules>,
        tls: Option<ServerTls>,
    ) -> io::Result<()> {
        let mut ids = Vec::with_capacity(sockets.len());
        for socket in sockets {
            ids.push(self.ring.listen(socket)?);
        }
        if !ids.is_empty() {
            self.stop_listening(|other| other == address);
        }
        let tls = tls.map(|tls| Arc::new(Front::new(tls)));
        match self.listeners.iter_mut().find(|listening| listening.address == address) {
            Some(listening) => {
                listening.sockets.extend(ids);
                listening.open = true;
                listening.rules = rules;
                listening.tls = tls;
            }
            None => self.listeners.push(Listening { address, sockets: ids, open: true, rules, tls }),
        }
        Ok(())
    }

    /// Closes the listeners that are meant. Whom the kernel has accepted by then is served all the same.
    pub(crate) fn stop_listening(&mut self, meant: impl Fn(SocketAddr) -> bool) {
        for listening in self.listeners.iter_mut().filter(|listening| listening.open) {
            if meant(listening.address) {
                listening.open = false;
                listening.sockets.iter().for_each(|socket| self.ring.stop_listening(*socket));
            }
        }
    }

    pub(crate) fn accepted(&mut self, listener: ListenerId, conn: ConnId, peer: SocketAddr) {
        self.counters.connections_accepted.add(1);
        let listener = self.listeners.iter().position(|listening| listening.sockets.contains(&listener));
        let (Some(listener), Mode::Running | Mode::HandedOver) = (listener, self.mode) else {
            return self.refuse(conn, Refusal::Stopping);
        };
        if let Err(why) = self.admission.enter(peer.ip(), self.sessions.len()) {
            return self.refuse(conn, Refusal::Full(why));
        }
        if let Err(error) = self.open(listener, conn, peer) {
            tracing::error!(worker = self.index, %error, "no session can be opened");
            self.admission.leave(peer.ip());
            self.refuse(conn, Refusal::Full("Lockgate can open no session now; please try again later"));
        }
    }

    /// PostgreSQL, too, speaks first when it has no room for a client, whatever the client is about to ask.
    fn refuse(&mut self, conn: ConnId, why: Refusal) {
        self.counters.connections_refused.add(1);
        if self.turned_away.telling >= REFUSALS_MAX {
            return self.ring.close(conn, false);
        }
        self.turned_away.telling += 1;
        self.owners.set(conn, Owner::TurnedAway);
        self.ring.send_copy(conn, &turned_away(why));
        self.ring.close(conn, true);
    }

    /// A refused connection is closed.
    pub(crate) fn refused(&mut self) {
        self.turned_away.telling = self.turned_away.telling.saturating_sub(1);
    }

    /// The driver could not accept. Whoever floods us must not flood the log.
    pub(crate) fn accept_failed(&mut self, error: &io::Error) {
        let away = &mut self.turned_away;
        away.unlogged += 1;
        if away.logged_ns.is_none_or(|at_ns| self.now.monotonic_ns >= at_ns.saturating_add(WARN_AGAIN_NS)) {
            let times = std::mem::take(&mut away.unlogged);
            away.logged_ns = Some(self.now.monotonic_ns);
            tracing::warn!(worker = self.index, %error, times, "connections could not be accepted");
        }
    }

    fn open(&mut self, listener: usize, conn: ConnId, peer: SocketAddr) -> io::Result<()> {
        let listening = self.listeners.get(listener).ok_or_else(|| io::Error::other("no such listener"))?;
        let id = self.ids.next()?;
        let lane = Lane::postgres(Opening {
            session: id,
            client: peer,
            worker: self.index,
            workers: self.workers,
            listener: Arc::clone(&listening.rules),
            limits: Arc::clone(&self.lane_limits),
            entropy: Secret::new(self.entropy.take()?.to_vec()),
            now: self.now,
        });
        let session = Session::new(lane, id, conn, peer, listener);
        let key = self.sessions.insert(session).ok_or_else(|| io::Error::other("the table is full"))?;
        self.owners.set(conn, Owner::Session(key, Side::Client));
        self.count_sessions();
        self.rearm(key);
        self.ring.resume(conn);
        Ok(())
    }

    pub(crate) fn count_sessions(&self) {
        self.counters.sessions_open.set(u64::try_from(self.sessions.len()).unwrap_or(u64::MAX));
    }
}

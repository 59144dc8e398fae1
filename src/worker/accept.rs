//! A connection comes in: limits first, then a session around a new lane.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use lockgate_lane::{Lane, Opening, Secret, Side};
use lockgate_ring::{ConnId, Driver, ListenerId};

use crate::session::{Owner, Session};
use crate::turn::{Mode, Worker};

impl<D: Driver> Worker<D> {
    pub(crate) fn accepted(&mut self, listener: ListenerId, conn: ConnId, peer: SocketAddr) {
        self.counters.connections_accepted.add(1);
        let listener = self.listeners.iter().position(|listening| listening.id == listener);
        let (Some(listener), Mode::Running) = (listener, self.mode) else { return self.refuse(conn) };
        if !self.admission.enter(peer.ip(), self.sessions.len()) {
            return self.refuse(conn);
        }
        if let Err(error) = self.open(listener, conn, peer) {
            tracing::error!(worker = self.index, %error, "no session can be opened");
            self.admission.leave(peer.ip());
            self.refuse(conn);
        }
    }

    fn refuse(&mut self, conn: ConnId) {
        self.counters.connections_refused.add(1);
        self.ring.close(conn, false);
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

//! What happens on a session's connections, told to its lane.

use lockgate_lane::{Answer, Outbox, Side};
use lockgate_recording::Time;
use lockgate_ring::{ConnId, Driver, Lease};

use crate::session::Stage;
use crate::table::Key;
use crate::timers::Timer;
use crate::tls::Progress;
use crate::turn::{Mode, Worker};

/// The first byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// The registered ALPN name of the PostgreSQL protocol.
const PROTOCOL: &[u8] = b"postgresql";

/// Where the bytes are that a lane's [`Forward`](lockgate_lane::Action::Forward) refers to.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a> {
    /// There was no input.
    None,
    /// In a slot of the pool, from where they can be sent as they are.
    Slot(&'a Lease),
    /// Elsewhere: the lane was fed what TLS opened.
    Bytes(&'a [u8]),
}

impl<D: Driver> Worker<D> {
    /// Bytes came.
    pub(crate) fn received(&mut self, key: Key, side: Side, lease: &Lease) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.lane.is_none() || session.legs[side].ended {
            return;
        }
        let first = side == Side::Client && !std::mem::replace(&mut session.spoken, true);
        if first && self.ring.bytes(lease).first() == Some(&TLS_HANDSHAKE) {
            self.start_direct_tls(key);
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.legs[side].tls.is_some() {
            return self.received_tls(key, side, lease);
        }
        let Some(lane) = &mut session.lane else { return };
        let input = self.ring.bytes_mut(lease);
        if side == Side::Client {
            self.counters.bytes_from_clients.add(u64::try_from(input.len()).unwrap_or(u64::MAX));
        }
        lane.receive(side, input, self.now, &mut self.judge, &mut self.outbox);
        self.settle(key, Input::Slot(lease));
    }

    /// Ciphertext came: the lane is fed what it opens to.
    fn received_tls(&mut self, key: Key, side: Side, lease: &Lease) {
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        self.cipher.clear();
        let Some(leg) = self.sessions.get_mut(key).map(|session| &mut session.legs[side]) else { return };
        let Some(tls) = &mut leg.tls else { return };
        let progress = tls.receive(self.ring.bytes_mut(lease), &mut plain, &mut self.cipher);
        self.send_cipher(key, side);
        self.tls_progress(key, side, progress, &mut plain);
        self.plain = plain;
    }

    /// Tells the lane what TLS found, in the order in which it happened.
    pub(crate) fn tls_progress(&mut self, key: Key, side: Side, progress: Progress, plain: &mut [u8]) {
        let conn = self.sessions.get(key).and_then(|session| session.legs[side].conn);
        match side {
            Side::Server if progress.established => self.server_tls_ready(key),
            Side::Client if progress.established && !self.names_its_protocol(key) => {
                return self.lane_closed(
                    key,
                    side,
                    "TLS: a direct handshake must offer ALPN protocol postgresql",
                );
            }
            Side::Client if progress.established => self.client_tls_ready(key),
            _ => {}
        }
        if !plain.is_empty() {
            self.receive_plain(key, side, plain);
        }
        if self.sessions.get(key).and_then(|session| session.legs[side].conn) != conn {
            // The lane has gone on to another server: the rest of this one is nobody's business.
            return;
        }
        if let Some(error) = progress.error {
            self.lane_closed(key, side, &format!("TLS: {error}"));
        } else if progress.closed {
            self.lane_closed(key, side, "");
        }
    }

    /// The client begins with a handshake instead of asking first (`sslnegotiation=direct`).
    fn start_direct_tls(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let offered = self.listeners.get(session.listener).is_some_and(|listening| listening.tls.is_some());
        if offered && let Some(lane) = &mut session.lane {
            session.direct_tls = true;
            lane.tls_began();
            self.start_client_tls(key);
        }
    }

    /// TLS with the client stands.
    fn client_tls_ready(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let tls = session.legs[Side::Client].tls.as_ref();
        let ready = tls.map(|tls| tls.client_tls()).unwrap_or_default();
        self.answer(key, Answer::ClientTlsReady(ready));
    }

    /// Without a request before it, only the handshake itself can say that PostgreSQL is meant (ALPACA).
    fn names_its_protocol(&self, key: Key) -> bool {
        let Some(session) = self.sessions.get(key) else { return false };
        let tls = session.legs[Side::Client].tls.as_ref();
        !session.direct_tls || tls.is_some_and(|tls| tls.protocol() == Some(PROTOCOL))
    }

    fn receive_plain(&mut self, key: Key, side: Side, plain: &mut [u8]) {
        let Some(lane) = self.sessions.get_mut(key).and_then(|session| session.lane.as_mut()) else { return };
        if side == Side::Client {
            self.counters.bytes_from_clients.add(u64::try_from(plain.len()).unwrap_or(u64::MAX));
        }
        lane.receive(side, plain, self.now, &mut self.judge, &mut self.outbox);
        self.settle(key, Input::Bytes(plain));
    }

    /// The peer's last byte has come.
    pub(crate) fn ended(&mut self, key: Key, side: Side) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.lane.is_none() {
            return self.ended_late(key, side);
        }
        // A client that goes away without a goodbye has only itself to blame; a server's answer may be cut short.
        let cut_short = session.legs[side].tls.as_ref().is_some_and(|tls| !tls.is_peer_closed());
        let error = match (side, cut_short) {
            (Side::Server, true) => "the TLS stream was cut off (no close_notify came)",
            _ => "",
        };
        self.lane_closed(key, side, error);
    }

    /// The peer's last byte has come when the session was over already, in the turn that ended it perhaps: a target's
    /// error and its end come together. Each side still gets what is queued for it.
    fn ended_late(&mut self, key: Key, side: Side) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.stage == Stage::Cancelling {
            return self.cut(key);
        }
        if side == Side::Server
            && let Some(conn) = session.legs[side].conn
        {
            self.ring.close(conn, false);
        }
    }

    /// A connection broke.
    pub(crate) fn failed(&mut self, key: Key, side: Side, conn: ConnId, error: &str) {
        self.lane_closed(key, side, error);
        self.ring.close(conn, false);
    }

    /// Nothing more comes from a side: the lane hears of it once, and of a client that breaks behind its last word, too,
    /// because it may not have finished with that.
    pub(crate) fn lane_closed(&mut self, key: Key, side: Side, error: &str) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let leg = &mut session.legs[side];
        let broke = side == Side::Client && !error.is_empty();
        if std::mem::replace(&mut leg.ended, true) && !broke {
            return;
        }
        if let Some(conn) = leg.conn {
            self.ring.pause(conn);
        }
        self.with_lane(key, |lane, now, out| lane.closed(side, error, now, out));
    }

    /// Answers one of the lane's questions.
    pub(crate) fn answer(&mut self, key: Key, answer: Answer) {
        let Some(lane) = self.sessions.get_mut(key).and_then(|session| session.lane.as_mut()) else { return };
        lane.answer(answer, self.now, &mut self.judge, &mut self.outbox);
        self.settle(key, Input::None);
    }

    /// Any call of the lane that brings no bytes.
    pub(crate) fn with_lane(
        &mut self,
        key: Key,
        call: impl FnOnce(&mut lockgate_lane::Lane, Time, &mut Outbox),
    ) {
        let Some(lane) = self.sessions.get_mut(key).and_then(|session| session.lane.as_mut()) else { return };
        call(lane, self.now, &mut self.outbox);
        self.settle(key, Input::None);
    }

    /// Carries out what the lane asked for, and what its answers lead to, until it waits for something outside.
    pub(crate) fn settle(&mut self, key: Key, input: Input<'_>) {
        self.carry_out(key, input);
        while let Some(answer) = self.answers.pop_front() {
            let Some(lane) = self.sessions.get_mut(key).and_then(|session| session.lane.as_mut()) else {
                self.answers.clear();
                break;
            };
            lane.answer(answer, self.now, &mut self.judge, &mut self.outbox);
            self.carry_out(key, Input::None);
        }
        self.throttle(key);
        self.rearm(key);
        self.stand_in_line(key);
        if self.mode == Mode::Draining {
            self.drain_if_idle(key);
        }
    }

    /// A lane that has had its share goes on in a later turn.
    fn stand_in_line(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let unfinished = session.lane.as_ref().is_some_and(|lane| lane.is_unfinished());
        if (unfinished || session.awaits_disk) && !std::mem::replace(&mut session.in_line, true) {
            self.line.push(key);
        }
    }

    /// Its next share.
    pub(crate) fn go_on(&mut self, key: Key) {
        let Some(lane) = self.sessions.get_mut(key).and_then(|session| session.lane.as_mut()) else { return };
        lane.go_on(self.now, &mut self.judge, &mut self.outbox);
        self.settle(key, Input::None);
    }

    /// Sees to it that the lane is called at its deadline. A deadline that moves away is found out when the timer
    /// comes up.
    pub(crate) fn rearm(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(at_ns) = session.lane.as_ref().and_then(|lane| lane.deadline_ns()) else { return };
        // Never in this turn again: a lane that does not move its deadline must not keep the worker here.
        let at_ns = at_ns.max(self.now.monotonic_ns + 1);
        if at_ns < session.armed_ns {
            session.armed_ns = at_ns;
            self.timers.arm(at_ns, Timer::Lane(key));
        }
    }

    /// A lane timer came up.
    pub(crate) fn lane_deadline(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.armed_ns > self.now.monotonic_ns {
            return;
        }
        session.armed_ns = u64::MAX;
        match session.lane.as_ref().and_then(|lane| lane.deadline_ns()) {
            Some(at_ns) if at_ns <= self.now.monotonic_ns => {
                self.with_lane(key, |lane, now, out| lane.expire(now, out));
            }
            _ => self.rearm(key),
        }
    }

    /// A connection is closed, by us.
    pub(crate) fn closed(&mut self, key: Key, side: Side, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let leg = &mut session.legs[side];
        if leg.conn == Some(conn) {
            leg.conn = None;
            leg.tls = None;
        }
        if side == Side::Client && std::mem::take(&mut session.waiting) {
            self.admission.leave(session.client.ip());
        }
        self.unseat(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.is_gone() {
            self.forget(key);
            self.sessions.remove(key);
            self.count_sessions();
        }
    }

    /// Takes a session out of everything that finds it.
    pub(crate) fn forget(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.stage == Stage::Arriving || session.stage == Stage::Admitted {
            self.counters.sessions_failed.add(1);
        }
        session.stage = Stage::Over;
        session.lane = None;
        session.upstream = None;
        let cancel = session.cancel.take();
        if let Some(process_id) = session.registered.take() {
            self.keys.forget(process_id, key);
        }
        for requester in cancel.map(|cancel| cancel.waiting).unwrap_or_default() {
            self.cancel_done(requester);
        }
        self.unseat(key);
    }

    /// Closes whatever connections the session still has, at once.
    pub(crate) fn cut(&mut self, key: Key) {
        self.forget(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.gate = None;
        for side in [Side::Client, Side::Server] {
            if let Some(conn) = session.legs[side].conn {
                self.ring.close(conn, false);
            }
        }
    }
}

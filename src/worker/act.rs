//! Carries out what a lane asked for.

use lockgate_bridge::Notice;
use lockgate_lane::{Action, Answer, CloseReason, Fault, LoginRequest, SaltRequest, SaltedKey, Side};
use lockgate_ring::Driver;

use crate::feed::Input;
use crate::salts::Salt;
use crate::send::Origin;
use crate::session::{Job, Stage};
use crate::table::Key;
use crate::tls::Tls;
use crate::turn::Worker;

/// The arena keeps no more than this between calls: one large answer does not stay for ever.
const ARENA_BYTES_KEPT: usize = 1 << 20;

/// Records of one call that are much, in bytes: a command and a few rows are not.
const MUCH_BYTES: usize = 8 << 10;

impl<D: Driver> Worker<D> {
    /// Carries out all actions in the outbox, in order. (The outbox has made one of adjacent sends already.)
    pub(crate) fn carry_out(&mut self, key: Key, input: Input<'_>) {
        self.note_records(key);
        let mut actions = std::mem::take(&mut self.outbox.actions);
        for action in actions.drain(..) {
            match action {
                Action::Forward { to, range } => self.send_run(key, input, to, Origin::Input, range),
                Action::Send { to, range } => self.send_run(key, input, to, Origin::Arena, range),
                other => {
                    self.flush_staged(key);
                    self.carry_out_one(key, other);
                }
            }
        }
        self.flush_staged(key);
        self.outbox.actions = actions;
        self.outbox.arena.clear();
        self.outbox.arena.shrink_to(ARENA_BYTES_KEPT);
    }

    fn carry_out_one(&mut self, key: Key, action: Action) {
        match action {
            // The caller's.
            Action::Forward { .. } | Action::Send { .. } => {}
            Action::StartTls { side: Side::Client } => self.start_client_tls(key),
            Action::StartTls { side: Side::Server } => self.start_server_tls(key),
            Action::Login(request) => self.login(key, &request),
            Action::Salt(request) => self.salt(key, request),
            Action::Seat => self.seat(key),
            Action::Dial(which) => self.dial(key, which),
            Action::RegisterKey { process_id, secret } => self.register_key(key, process_id, secret),
            Action::RouteCancel(request) => self.route_cancel(key, request),
            Action::CancelUpstream { process_id, secret } => {
                self.cancel_upstream(key, process_id, secret.expose())
            }
            Action::Established => self.established(key),
            Action::Close { reason } => self.close(key, &reason),
        }
    }

    /// Remembers up to where the recording holds this session's records, if the last call added any.
    fn note_records(&mut self, key: Key) {
        let len = self.outbox.records.len();
        if len != self.recorded_len {
            let grown = len.saturating_sub(std::mem::replace(&mut self.recorded_len, len));
            let much = grown >= MUCH_BYTES && self.recorder.is_behind(&self.outbox.records);
            if let Some(session) = self.sessions.get_mut(key) {
                session.recorded = self.outbox.records.mark();
                session.awaits_disk |= much;
            }
        }
    }

    fn login(&mut self, key: Key, request: &LoginRequest) {
        if self.recorder.down().is_some() {
            return self.jobs.push_back(Job::Unrecorded { session: key });
        }
        if let Some(session) = self.sessions.get_mut(key) {
            session.epoch = self.snapshot.epoch;
        }
        self.answers.push_back(Answer::Login(self.snapshot.login(request)));
    }

    fn salt(&mut self, key: Key, request: SaltRequest) {
        match self.salts.ask(&request, key) {
            Salt::Known(salted) => {
                let number = request.number;
                self.answers.push_back(Answer::Salted { number, key: SaltedKey(salted) });
            }
            Salt::Ask(ticket) => self.mail.send(Notice::Salt { worker: self.index, ticket, request }),
            Salt::Waiting => {}
        }
    }

    pub(crate) fn start_client_tls(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let front = self.listeners.get(session.listener).and_then(|listening| listening.tls.as_ref());
        let tls = match front {
            Some(front) => Tls::server(front),
            None => Err(String::from("the listener has no certificate")),
        };
        match tls {
            Ok(tls) => session.legs[Side::Client].tls = Some(Box::new(tls)),
            Err(error) => {
                let conn = session.legs[Side::Client].conn;
                self.jobs.push_back(Job::Broken { session: key, side: Side::Client, conn, error });
            }
        }
    }

    fn established(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.stage == Stage::Admitted {
            session.stage = Stage::Established;
            self.counters.sessions_opened.add(1);
            if session.epoch != self.snapshot.epoch {
                self.jobs.push_back(Job::Adopt { session: key });
            }
            if self.recorder.down().is_some() {
                self.jobs.push_back(Job::Unrecorded { session: key });
            }
            self.connected(key);
        }
    }

    /// The session is over: what is queued goes out, then both connections close.
    fn close(&mut self, key: Key, reason: &CloseReason) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.stage == Stage::Cancelling {
            // Its connection closes when the cancel is done.
            session.lane = None;
            return;
        }
        log(session.id.0, reason);
        self.forget(key);
        self.close_leg(key, Side::Client);
        self.close_leg(key, Side::Server);
    }
}

fn log(session: u64, reason: &CloseReason) {
    let text = reason.text.as_str();
    match reason.fault {
        Fault::Gateway => tracing::error!(
            session = format_args!("{session:016x}"),
            text,
            "session ended by a fault of the gateway"
        ),
        fault => tracing::debug!(session = format_args!("{session:016x}"), ?fault, text, "session ended"),
    }
}

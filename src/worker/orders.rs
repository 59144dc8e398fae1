//! Orders: a new snapshot, settings, segments, cancels, salts; and the ways a worker comes to its end.

use std::sync::Arc;

use lockgate_bridge::{CancelFrom, Ending, Notice, Order, Snapshot};
use lockgate_lane::{Answer, Side};
use lockgate_ring::Driver;

use crate::Segment;
use crate::cancel::Requester;
use crate::session::Stage;
use crate::table::Key;
use crate::timers::Timer;
use crate::turn::{Mode, Worker};

/// Class 57 of PostgreSQL's SQLSTATEs: the operator ended the session.
const ADMIN_SHUTDOWN: &str = "57P01";
/// Class 58: an error outside, of input and output.
const IO_ERROR: &str = "58030";

impl<D: Driver> Worker<D> {
    /// Does what it is told.
    pub(crate) fn obey(&mut self, order: Order) {
        match order {
            Order::Adopt(snapshot) => self.adopt(snapshot),
            Order::Configure(settings) => {
                self.configure(*settings);
                self.mail.send(Notice::Configured { worker: self.index });
            }
            Order::Segment { number, file, direct, path } => {
                self.recorder.supply(Segment { number, file, direct, path });
            }
            Order::SegmentFailed { error } => self.recorder.refuse(&error),
            Order::Cancel { request, from, ticket } => {
                let requester = match from {
                    CancelFrom::Worker(worker) => Requester::Peer { worker, ticket },
                    CancelFrom::Control => Requester::Control { ticket },
                };
                self.find_cancelled(request, requester);
            }
            Order::CancelDone { ticket } => {
                if let Some(requester) = self.passed_on.remove(&ticket) {
                    self.cancel_done(requester);
                }
            }
            Order::Siblings { any } => self.siblings = any,
            Order::Salted { ticket, key } => {
                for (session, number) in self.salts.answered(ticket, key.0) {
                    self.answer(session, Answer::Salted { number, key: key.clone() });
                }
            }
            Order::SeatFree => self.fill_seats(),
            Order::Drain { deadline_ns, ending } => self.drain(deadline_ns, ending),
            Order::Ping { number } => self.mail.send(Notice::Pong { worker: self.index, number }),
            Order::Stop => self.stop(),
        }
        self.run_jobs();
    }

    /// Judges by another snapshot from here on.
    fn adopt(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = snapshot;
        self.announce_epoch();
        for key in self.all() {
            self.adopt_one(key);
        }
        // Limits may be others now.
        self.fill_seats();
    }

    /// Gives one session its place in the snapshot; a session without one ends.
    pub(crate) fn adopt_one(&mut self, key: Key) {
        let Some(lane) = self.sessions.get_mut(key).and_then(|session| session.lane.as_mut()) else { return };
        let Some(grant) = lane.grant() else { return };
        match self.snapshot.standing(grant) {
            Some(standing) => lane.adopt(standing),
            None => self.terminate(key, ADMIN_SHUTDOWN, "policy no longer lets you connect to this target"),
        }
    }

    fn drain(&mut self, deadline_ns: u64, ending: Ending) {
        let mode = match (self.mode, ending) {
            (Mode::Running, Ending::ByThemselves) => Mode::HandedOver,
            (Mode::Running | Mode::HandedOver, Ending::WhenIdle) => Mode::Draining,
            _ => return,
        };
        self.mode = mode;
        self.stop_listening(|_| true);
        self.timers.arm(deadline_ns, Timer::Drain);
        if mode == Mode::Draining {
            for key in self.all() {
                self.drain_if_idle(key);
            }
        }
    }

    /// Ends a session that would not be interrupted by it.
    pub(crate) fn drain_if_idle(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else { return };
        let Some(lane) = &session.lane else { return };
        if session.stage != Stage::Established || lane.is_idle() {
            self.terminate(key, ADMIN_SHUTDOWN, "Lockgate is shutting down; please connect again");
        }
    }

    /// Whoever is still here has had their time.
    pub(crate) fn drain_deadline(&mut self) {
        for key in self.all() {
            self.terminate(
                key,
                ADMIN_SHUTDOWN,
                "Lockgate is shutting down and waits no longer; please connect again",
            );
        }
        self.mode = Mode::Stopping;
    }

    fn stop(&mut self) {
        self.stop_listening(|_| true);
        self.mode = Mode::Stopping;
        for key in self.all() {
            self.terminate(key, ADMIN_SHUTDOWN, "Lockgate is shutting down");
            self.cut(key);
        }
    }

    /// A drain is over when nobody is left.
    pub(crate) fn end_if_drained(&mut self) {
        if matches!(self.mode, Mode::HandedOver | Mode::Draining) && self.sessions.is_empty() {
            self.mode = Mode::Stopping;
        }
    }

    /// When nothing can be recorded, no command passes: sessions end with a clear error, and what waits behind
    /// gates is never sent.
    pub(crate) fn end_if_recording_is_down(&mut self) {
        if !self.recorder.take_alarm() {
            return;
        }
        for key in self.all() {
            let Some(session) = self.sessions.get(key) else { continue };
            if session.stage == Stage::Established {
                self.end_unrecorded(key);
            } else if session.legs[Side::Server].close_due {
                self.close_leg(key, Side::Server);
            }
        }
        self.gated.clear();
    }

    pub(crate) fn end_unrecorded(&mut self, key: Key) {
        self.terminate(
            key,
            IO_ERROR,
            "Lockgate cannot record, so no command may pass; the operator has been told, please try again later",
        );
    }

    fn terminate(&mut self, key: Key, sqlstate: &str, message: &str) {
        self.with_lane(key, |lane, now, out| lane.terminate(sqlstate, message, now, out));
    }

    /// The keys of all sessions; a copy, because the walk ends some of them.
    fn all(&self) -> Vec<Key> {
        let mut keys = Vec::with_capacity(self.sessions.len());
        self.sessions.keys(&mut keys);
        keys
    }
}

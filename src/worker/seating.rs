//! Limits on sessions, which hold over all workers: who has proven themselves gets a seat with the target, waits for
//! one, or is refused.
//!
//! ```text
//!   Seat ─► the identity's seats ─ full ─► refused
//!             │ one is taken, until the session is over
//!           the target's seats ─ full ─► in line on this worker ─ full, or too long ─► refused
//!             │ one is taken, until the │ a seat is freed on any worker, which rouses
//!             ▼ server's side is closed ▼ the one whose waiter came first
//!           Seated ◄───────────────────┘
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use lockgate_bridge::{Order, Seats, SessionsMax};
use lockgate_lane::{Answer, Side};
use lockgate_ring::Driver;

use crate::session::{Job, Stage};
use crate::table::Key;
use crate::timers::Timer;
use crate::turn::Worker;

/// How soon whoever waits looks again without being roused: an order that found a full mailbox costs no more than this.
const AGAIN_NS: u64 = 100_000_000;

/// A session's place within the limits.
#[derive(Debug)]
pub(crate) struct Seat {
    /// `None`: given back.
    identity: Option<Arc<Seats>>,
    target: Arc<Seats>,
    /// In line with this ticket; `None`: it has its seat.
    ticket: Option<u64>,
    /// When it has waited too long.
    deadline_ns: u64,
}

/// Who waits on this worker, in lines by target.
#[derive(Debug, Default)]
pub(crate) struct Seating {
    lines: Vec<Line>,
    /// The next look by themselves is armed.
    again: bool,
}

#[derive(Debug)]
struct Line {
    target: String,
    seats: Arc<Seats>,
    waiting: BTreeMap<u64, Key>,
}

impl Seating {
    fn join(&mut self, target: &str, seats: &Arc<Seats>, ticket: u64, key: Key, worker: u32) {
        let place = self.lines.iter().position(|line| Arc::ptr_eq(&line.seats, seats));
        let index = place.unwrap_or_else(|| {
            self.lines.push(Line {
                target: target.to_owned(),
                seats: Arc::clone(seats),
                waiting: BTreeMap::new(),
            });
            self.lines.len() - 1
        });
        if let Some(line) = self.lines.get_mut(index) {
            line.waiting.insert(ticket, key);
            line.show(worker);
        }
    }

    fn leave(&mut self, seats: &Arc<Seats>, ticket: u64, worker: u32) {
        let Some(line) = self.lines.iter_mut().find(|line| Arc::ptr_eq(&line.seats, seats)) else { return };
        if line.waiting.remove(&ticket).is_some() {
            line.show(worker);
            line.seats.leave();
        }
        self.lines.retain(|line| !line.waiting.is_empty());
    }

    fn len(&self) -> usize {
        self.lines.iter().map(|line| line.waiting.len()).sum()
    }
}

impl Line {
    fn show(&self, worker: u32) {
        self.seats.show(worker, self.waiting.keys().next().copied());
    }
}

impl<D: Driver> Worker<D> {
    /// A client has proven itself and wants its session.
    pub(crate) fn seat(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.stage == Stage::Arriving {
            session.stage = Stage::Admitted;
        }
        if std::mem::take(&mut session.waiting) {
            self.admission.leave(session.client.ip());
        }
        match self.take_seat(key) {
            Ok(true) => self.answers.push_back(Answer::Seated(Ok(()))),
            Ok(false) => {}
            Err(refusal) => {
                self.counters.sessions_over_limit.add(1);
                self.answers.push_back(Answer::Seated(Err(refusal)));
            }
        }
    }

    /// Whether it has its seat already; or why there is none for it.
    fn take_seat(&mut self, key: Key) -> Result<bool, String> {
        let gone = || String::from("the target or the identity is no longer configured");
        let snapshot = Arc::clone(&self.snapshot);
        let session = self.sessions.get_mut(key).ok_or_else(gone)?;
        let grant = session.lane.as_ref().and_then(|lane| lane.grant()).ok_or_else(gone)?;
        let admission = snapshot.users.get(&grant.identity.name).ok_or_else(gone)?;
        let destination = snapshot.targets.get(&grant.target.name).ok_or_else(gone)?;
        let (identity, target) = (&admission.seats, &destination.seats);
        let name = grant.target.name.clone();
        if !identity.take(admission.sessions_max.max) {
            return Err(full(&format!("for \"{}\"", grant.identity.name), admission.sessions_max));
        }
        // Nobody overtakes who waits already.
        let seated = target.waiting() == 0 && target.take(destination.sessions_max.max);
        let deadline_ns = self.now.monotonic_ns.saturating_add(destination.queue.ns_max);
        let mut ticket = None;
        if !seated {
            ticket = target.wait(destination.queue.max);
            if ticket.is_none() {
                identity.free();
                let refusal = full(&format!("on target \"{name}\""), destination.sessions_max);
                return Err(match destination.queue.max {
                    0 => refusal,
                    max => format!("{refusal}, and target.queue_max = {max} wait for one to end"),
                });
            }
        }
        let (identity, target) = (Arc::clone(identity), Arc::clone(target));
        session.seat = Some(Box::new(Seat {
            identity: Some(identity),
            target: Arc::clone(&target),
            ticket,
            deadline_ns,
        }));
        if let Some(ticket) = ticket {
            self.seating.join(&name, &target, ticket, key, self.index);
            self.timers.arm(deadline_ns, Timer::Seat(key));
            self.fill_seats();
        }
        Ok(seated)
    }

    /// Seats whom it can of those who wait here, and rouses the worker where somebody has waited longer.
    pub(crate) fn fill_seats(&mut self) {
        let lines: Vec<_> =
            self.seating.lines.iter().map(|line| (line.target.clone(), Arc::clone(&line.seats))).collect();
        for (target, seats) in lines {
            self.fill(&target, &seats);
        }
        self.look_again();
    }

    fn fill(&mut self, target: &str, seats: &Arc<Seats>) {
        let max =
            self.snapshot.targets.get(target).map_or(u32::MAX, |destination| destination.sessions_max.max);
        while let Some(worker) = seats.next() {
            if worker != self.index {
                if seats.taken() < max
                    && let Some(peer) = usize::try_from(worker).ok().and_then(|worker| self.peers.get(worker))
                {
                    // One that finds no room is not missed for long: whoever waits looks again by themselves.
                    let _ = peer.send(Order::SeatFree);
                }
                return;
            }
            if !seats.take(max) {
                return;
            }
            if !self.seat_first(seats) {
                seats.free();
                return;
            }
        }
    }

    /// Gives a seat that was taken to the first in line here.
    fn seat_first(&mut self, seats: &Arc<Seats>) -> bool {
        let line = self.seating.lines.iter().find(|line| Arc::ptr_eq(&line.seats, seats));
        let Some((ticket, key)) = line.and_then(|line| line.waiting.first_key_value()) else { return false };
        let (ticket, key) = (*ticket, *key);
        self.seating.leave(seats, ticket, self.index);
        let Some(seat) = self.sessions.get_mut(key).and_then(|session| session.seat.as_mut()) else {
            return false;
        };
        seat.ticket = None;
        self.jobs.push_back(Job::Seated { session: key });
        true
    }

    /// Sees to it that whoever waits here looks again.
    fn look_again(&mut self) {
        let waiting = self.seating.len();
        self.counters.sessions_waiting.set(u64::try_from(waiting).unwrap_or(u64::MAX));
        if waiting > 0 && !std::mem::replace(&mut self.seating.again, true) {
            self.timers.arm(self.now.monotonic_ns.saturating_add(AGAIN_NS), Timer::Seats);
        }
    }

    /// It is time to look again.
    pub(crate) fn seats_again(&mut self) {
        self.seating.again = false;
        self.fill_seats();
    }

    /// A session may have waited too long for its seat.
    pub(crate) fn seat_deadline(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(seat) = &session.seat else { return };
        if seat.ticket.is_none() || seat.deadline_ns > self.now.monotonic_ns {
            return;
        }
        let name = session.lane.as_ref().and_then(|lane| lane.grant()).map(|grant| grant.target.name.clone());
        self.counters.sessions_over_limit.add(1);
        let refusal = format!(
            "no session of target \"{}\" has ended within target.queue_timeout (target.sessions_max are open)",
            name.unwrap_or_default()
        );
        self.answer(key, Answer::Seated(Err(refusal)));
    }

    /// Gives back what a session that is over holds no more: its place in line and the identity's seat at once, the
    /// target's when the server has seen its end.
    pub(crate) fn unseat(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.stage != Stage::Over {
            return;
        }
        if let Some(identity) = session.seat.as_mut().and_then(|seat| seat.identity.take()) {
            identity.free();
        }
        if session.legs[Side::Server].conn.is_some() {
            return;
        }
        let Some(seat) = session.seat.take() else { return };
        match seat.ticket {
            Some(ticket) => self.seating.leave(&seat.target, ticket, self.index),
            None => seat.target.free(),
        }
        self.rouse(&seat.target);
    }

    /// Whoever has waited longest for one of these seats is to look.
    fn rouse(&mut self, seats: &Arc<Seats>) {
        match seats.next() {
            None => {}
            Some(worker) if worker == self.index => self.fill_seats(),
            Some(worker) => {
                if let Some(peer) = usize::try_from(worker).ok().and_then(|worker| self.peers.get(worker)) {
                    let _ = peer.send(Order::SeatFree);
                }
            }
        }
        self.look_again();
    }
}

fn full(whose: &str, limit: SessionsMax) -> String {
    format!("too many sessions {whose}: {} = {}", limit.key, limit.max)
}

//! Cancel requests: to the session that owns the key, on this worker or another, and from there to its server over
//! a connection of their own.
//!
//! ```text
//!   client ─CancelRequest─► lane ─RouteCancel─► owner here? ──► lane.cancel_requested ─► CancelUpstream ─► courier
//!                                     │ no                            │ nothing to cancel                     │ EOF
//!                                     └► Order::Cancel ─► owner's worker ─► the same ─► CancelDone ──►┐       │
//!                          nobody's here, and another process has sessions ─► control, and back ──►┤       │
//!   its connection closes ◄──────────────────────────────────────────────────────────────────────────┴───────┘
//! ```

use std::io;
use std::net::SocketAddr;

use lockgate_bridge::{CancelFrom, DestinationTls, Notice, Order, worker_of};
use lockgate_lane::{Answer, CancelRequest, Secret, Side};
use lockgate_ring::{ConnId, Driver, Lease};

use crate::session::{Job, Owner, Stage};
use crate::table::Key;
use crate::timers::Timer;
use crate::tls::Tls;
use crate::turn::Worker;

/// PostgreSQL's code of a CancelRequest.
const CANCEL_REQUEST: i32 = 80_877_102;
/// PostgreSQL's SSLRequest, whole: its length and its code.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Who waits for a cancel request to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requester {
    /// A client of this worker: its connection closes.
    Local(Key),
    /// Another worker.
    Peer { worker: u32, ticket: u64 },
    /// Another process, by way of control.
    Control { ticket: u64 },
}

/// Most requesters that wait for one session's next cancel; whoever comes then is let go at once.
const REQUESTERS_MAX: usize = 64;

/// A session of which a cancel is on its way. One is under way at a time and one may follow, however many ask: each
/// costs the target a connection, and a flood of them must not.
#[derive(Debug)]
pub(crate) struct Cancel {
    courier: Key,
    /// Asked after it had left.
    pub waiting: Vec<Requester>,
    /// The last of them.
    client: Option<SocketAddr>,
}

/// One connection that delivers a CancelRequest to a server.
#[derive(Debug)]
pub(crate) struct Courier {
    conn: Option<ConnId>,
    session: Key,
    destination: Option<DestinationTls>,
    tls: Option<Box<Tls>>,
    phase: Phase,
    message: Secret,
    requesters: Vec<Requester>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Dialing,
    /// SSLRequest is out.
    Asking,
    Handshaking,
    /// The request is out; the server closes when it has acted on it.
    Delivered,
    Over,
}

impl<D: Driver> Worker<D> {
    /// Remembers a session's key.
    pub(crate) fn register_key(&mut self, key: Key, process_id: u32, secret: Secret) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Some(before) = session.registered.replace(process_id) {
            self.keys.forget(before, key);
        }
        self.keys.register(process_id, secret, key);
    }

    /// A client asks to cancel somebody's command; `key` is its own connection.
    pub(crate) fn route_cancel(&mut self, key: Key, request: CancelRequest) {
        self.counters.cancels.add(1);
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.stage = Stage::Cancelling;
        session.lane = None;
        self.timers.arm(self.now.monotonic_ns.saturating_add(self.limits.cancel_ns_max), Timer::Cancel(key));
        let requester = Requester::Local(key);
        match worker_of(&request.secret, self.workers) {
            Some(owner) if owner == self.index => self.find_cancelled(request, requester),
            Some(owner) => self.pass_on(owner, request, requester),
            None => self.cancel_done(requester),
        }
    }

    /// Tells the session that owns the key, once the call at hand is over.
    pub(crate) fn find_cancelled(&mut self, request: CancelRequest, requester: Requester) {
        match (self.keys.find(&request), requester) {
            (Some(session), _) => {
                self.jobs.push_back(Job::Cancel { session, client: request.client, requester });
            }
            // What came from another process goes to none: else it would go round.
            (None, Requester::Local(_) | Requester::Peer { .. }) if self.siblings => {
                self.pass_out(request, requester);
            }
            (None, _) => self.cancel_done(requester),
        }
    }

    /// To the worker that the secret names.
    fn pass_on(&mut self, owner: u32, request: CancelRequest, requester: Requester) {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        let order = Order::Cancel { request, from: CancelFrom::Worker(self.index), ticket };
        let peer = usize::try_from(owner).ok().and_then(|owner| self.peers.get(owner));
        if peer.is_some_and(|peer| peer.send(order).is_ok()) {
            self.passed_on.insert(ticket, requester);
        } else {
            tracing::warn!(worker = self.index, owner, "a cancel request found its worker's mailbox full");
            self.cancel_done(requester);
        }
    }

    /// To the other processes of this gateway. A flood of these does not wait for room: it would keep what control has
    /// to know from getting there.
    fn pass_out(&mut self, request: CancelRequest, requester: Requester) {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        if self.mail.try_send(Notice::CancelElsewhere { worker: self.index, ticket, request }) {
            self.passed_on.insert(ticket, requester);
        } else {
            tracing::warn!(worker = self.index, "a cancel request found control's mailbox full");
            self.cancel_done(requester);
        }
    }

    /// Carries out what could not be done inside another call.
    pub(crate) fn run_jobs(&mut self) {
        while let Some(job) = self.jobs.pop_front() {
            match job {
                Job::Cancel { session, client, requester } => self.cancel_session(session, client, requester),
                Job::CancelAgain { session } => self.cancel_again(session),
                Job::Unrecorded { session } => self.end_unrecorded(session),
                Job::Adopt { session } => self.adopt_one(session),
                Job::Seated { session } => self.answer(session, Answer::Seated(Ok(()))),
                Job::Broken { session, side, conn, error } => {
                    let now = self.sessions.get(session).and_then(|session| session.legs[side].conn);
                    if now == conn {
                        self.lane_closed(session, side, &format!("TLS: {error}"));
                    }
                }
            }
        }
    }

    fn cancel_session(&mut self, session: Key, client: SocketAddr, requester: Requester) {
        let under_way = self.sessions.get_mut(session).and_then(|session| session.cancel.as_mut());
        match under_way {
            None => self.cancel_now(session, client, vec![requester]),
            Some(cancel) if cancel.waiting.len() < REQUESTERS_MAX => {
                cancel.waiting.push(requester);
                cancel.client = Some(client);
            }
            Some(_) => self.cancel_done(requester),
        }
    }

    fn cancel_now(&mut self, session: Key, client: SocketAddr, requesters: Vec<Requester>) {
        self.requesters = requesters;
        self.with_lane(session, |lane, now, out| lane.cancel_requested(client, now, out));
        // Nobody has taken them: there is nothing to cancel.
        self.let_go(Vec::new());
    }

    /// Requesters whose cancel is done, and those that nobody has taken.
    fn let_go(&mut self, done: Vec<Requester>) {
        let idle = std::mem::take(&mut self.requesters);
        done.into_iter().chain(idle).for_each(|requester| self.cancel_done(requester));
    }

    /// The cancel that was on its way is done: those that asked meanwhile have theirs.
    fn cancel_again(&mut self, session: Key) {
        let cancel = self.sessions.get_mut(session).and_then(|session| session.cancel.take());
        let Some(cancel) = cancel else { return };
        match cancel.client {
            Some(client) => self.cancel_now(session, client, cancel.waiting),
            None => self.let_go(cancel.waiting),
        }
    }

    /// A cancel request has had what effect it could: its connection may close.
    pub(crate) fn cancel_done(&mut self, requester: Requester) {
        match requester {
            Requester::Local(key) => {
                if self.sessions.get(key).is_some_and(|session| session.stage == Stage::Cancelling) {
                    self.forget(key);
                    self.close_leg(key, Side::Client);
                }
            }
            Requester::Peer { worker, ticket } => {
                let peer = usize::try_from(worker).ok().and_then(|worker| self.peers.get(worker));
                if peer.is_none_or(|peer| peer.send(Order::CancelDone { ticket }).is_err()) {
                    // The other worker's own deadline closes the connection.
                    tracing::warn!(worker = self.index, peer = worker, "the end of a cancel found no room");
                }
            }
            Requester::Control { ticket } => self.mail.send(Notice::CancelDone { ticket }),
        }
    }

    /// A cancel request has waited long enough.
    pub(crate) fn cancel_deadline(&mut self, key: Key) {
        self.passed_on.retain(|_, waiting| *waiting != Requester::Local(key));
        self.cancel_done(Requester::Local(key));
    }

    /// A lane wants its server's command cancelled.
    pub(crate) fn cancel_upstream(&mut self, key: Key, process_id: u32, secret: &[u8]) {
        let requesters = std::mem::take(&mut self.requesters);
        let upstream = self.sessions.get(key).and_then(|session| session.upstream.as_ref());
        let place = upstream.and_then(|upstream| upstream.place());
        let address = place.map(|place| place.address);
        let destination = place.and_then(|place| place.tls.clone());
        let dialed =
            address.ok_or_else(|| io::Error::other("no connection")).and_then(|at| self.ring.dial(at));
        let conn = match dialed {
            Ok(conn) => conn,
            Err(error) => {
                tracing::warn!(worker = self.index, %error, "a cancel request could not be delivered");
                return self.let_go(requesters);
            }
        };
        let courier = Courier {
            conn: Some(conn),
            session: key,
            destination,
            tls: None,
            phase: Phase::Dialing,
            message: Secret::new(cancel_message(process_id, secret)),
            requesters,
        };
        match self.couriers.insert(courier) {
            Some(courier) => {
                self.owners.set(conn, Owner::Courier(courier));
                let until_ns = self.now.monotonic_ns.saturating_add(self.limits.cancel_ns_max);
                self.timers.arm(until_ns, Timer::Courier(courier));
                if let Some(session) = self.sessions.get_mut(key) {
                    session.cancel = Some(Box::new(Cancel { courier, waiting: Vec::new(), client: None }));
                }
            }
            None => self.ring.close(conn, false),
        }
    }

    pub(crate) fn courier_dialed(&mut self, key: Key, conn: ConnId, result: io::Result<()>) {
        if let Err(error) = result {
            return self.courier_over(key, Some(&error.to_string()));
        }
        let Some(courier) = self.couriers.get_mut(key) else { return };
        self.ring.resume(conn);
        if courier.destination.is_some() {
            courier.phase = Phase::Asking;
            self.ring.send_copy(conn, &SSL_REQUEST);
        } else {
            courier.phase = Phase::Delivered;
            self.ring.send_copy(conn, courier.message.expose());
        }
    }

    pub(crate) fn courier_received(&mut self, key: Key, lease: &Lease) {
        let Some(courier) = self.couriers.get_mut(key) else { return };
        let input = self.ring.bytes_mut(lease);
        self.cipher.clear();
        let result = match courier.phase {
            // Exactly one byte: what came with it in clear text would otherwise pass for the server's TLS.
            Phase::Asking if *input == [b'S'] => courier.start_tls(&mut self.cipher),
            Phase::Asking => Err(String::from("the server refused TLS")),
            Phase::Handshaking => courier.shake_hands(input, &mut self.cipher),
            Phase::Dialing | Phase::Delivered | Phase::Over => Ok(()),
        };
        if let (Some(conn), false) = (courier.conn, self.cipher.is_empty()) {
            self.ring.send_copy(conn, self.cipher.filled());
        }
        if let Err(error) = result {
            self.courier_over(key, Some(&error));
        }
    }

    /// It has been delivered, or cannot be.
    pub(crate) fn courier_over(&mut self, key: Key, error: Option<&str>) {
        let Some(courier) = self.couriers.get_mut(key) else { return };
        if courier.phase == Phase::Over {
            return;
        }
        // After delivery an end of stream is the server's way to say that it has acted.
        let delivered = courier.phase == Phase::Delivered;
        if let Some(error) = error.or((!delivered).then_some("the server closed the connection")) {
            tracing::warn!(worker = self.index, error, "a cancel request could not be delivered");
        }
        courier.phase = Phase::Over;
        if let Some(conn) = courier.conn {
            self.ring.close(conn, false);
        }
        let (session, requesters) = (courier.session, std::mem::take(&mut courier.requesters));
        self.let_go(requesters);
        let cancel = self.sessions.get(session).and_then(|session| session.cancel.as_ref());
        if cancel.is_some_and(|cancel| cancel.courier == key) {
            self.jobs.push_back(Job::CancelAgain { session });
        }
    }

    pub(crate) fn courier_closed(&mut self, key: Key, conn: ConnId) {
        if self.couriers.get(key).is_some_and(|courier| courier.conn == Some(conn)) {
            self.couriers.remove(key);
        }
    }
}

impl Courier {
    fn start_tls(&mut self, cipher: &mut crate::tls::Scratch) -> Result<(), String> {
        let DestinationTls { config, name } = self.destination.as_ref().ok_or("no TLS configuration")?;
        self.tls = Some(Box::new(Tls::client(config, name.clone())?));
        self.phase = Phase::Handshaking;
        self.shake_hands(&mut [], cipher)
    }

    fn shake_hands(&mut self, input: &mut [u8], cipher: &mut crate::tls::Scratch) -> Result<(), String> {
        let tls = self.tls.as_mut().ok_or("no TLS")?;
        let progress = tls.receive(input, &mut Vec::new(), cipher);
        if let Some(error) = progress.error {
            return Err(error);
        }
        if progress.established {
            tls.seal(self.message.expose(), cipher)?;
            self.phase = Phase::Delivered;
        }
        Ok(())
    }
}

/// A CancelRequest: length, code, process id, secret (4 bytes in protocol 3.0, up to 256 in 3.2).
fn cancel_message(process_id: u32, secret: &[u8]) -> Vec<u8> {
    let len = i32::try_from(12 + secret.len()).unwrap_or(i32::MAX);
    let mut message = Vec::with_capacity(12 + secret.len());
    message.extend_from_slice(&len.to_be_bytes());
    message.extend_from_slice(&CANCEL_REQUEST.to_be_bytes());
    message.extend_from_slice(&process_id.to_be_bytes());
    message.extend_from_slice(secret);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_protocol_says() {
        assert_eq!(SSL_REQUEST[4..], 80_877_103i32.to_be_bytes());
        assert_eq!(
            cancel_message(0x0102_0304, &[9, 8, 7, 6]),
            [0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e, 1, 2, 3, 4, 9, 8, 7, 6]
        );
    }
}

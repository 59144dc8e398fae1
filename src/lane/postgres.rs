//! PostgreSQL, protocols 3.0 and 3.2: both handshakes are ours, every command is judged, every answer is followed.
//!
//! ```text
//!            client                                        server
//!  First ── SSLRequest, GSSENCRequest (again First), CancelRequest (then closed)
//!    │ StartupMessage
//!  Claim ── Login asked
//!    │
//!  Prove ── SCRAM-SHA-256(-PLUS), a password inside TLS, or a certificate alone
//!    │ AuthenticationOk; the start-up parameters are judged
//!  Connect ─────────────────────────────────────────────── dial, SSLRequest, TLS, StartupMessage, authentication
//!    │ BackendKeyData (ours), ReadyForQuery
//!  Session ── every message judged ─────────────────────── every answer matched with what it answers
//!    │
//!  Closed
//! ```

mod answers;
mod attempts;
mod commands;
mod connect;
mod descriptions;
mod expect;
mod greeting;
mod inbound;
mod judging;
mod legality;
mod names;
mod parameters;
mod prove;
mod reading;
mod refusals;
mod session;
mod share;
mod trouble;

#[cfg(test)]
mod deaths;
#[cfg(test)]
mod mutations;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use lockgate_recording::{Record, SessionId, Time};

use crate::{
    Action, Answer, ClientTls, CloseReason, Fault, Grant, Judge, Limits, ListenerRules, Opening, Outbox,
    Secret, Side, Standing,
};
pub(crate) use descriptions::Descriptions;

use connect::Connect;
use greeting::First;
use inbound::{Inbound, Step};
use prove::{Claim, Prove};
use session::Session;
use share::Share;
use trouble::Trouble;

/// The conversation. The calling contract stands at [`crate`].
#[derive(Debug)]
pub struct Lane {
    core: Core,
    phase: Phase,
    from_client: Inbound,
    from_server: Inbound,
    share: Share,
    /// The client has said its last, and what came before it is not all done.
    client_ended: bool,
}

/// What every phase may look at.
#[derive(Debug)]
struct Core {
    session: SessionId,
    client: SocketAddr,
    worker: u32,
    workers: u32,
    rules: Arc<ListenerRules>,
    limits: Arc<Limits>,
    entropy: Secret,
    opened: Time,
    client_tls: bool,
    /// What TLS with the client brought to light, once it stands.
    channel: ClientTls,
    bytes_in: u64,
    bytes_out: u64,
    rows: u64,
    commands: u64,
    /// Attempts to reach the target so far.
    dials: u32,
    /// The user and database of the start-up packet.
    claimed: Option<(String, String)>,
    /// SessionOpened was recorded, so SessionClosed is due.
    recorded: bool,
    /// The client has been sent the beginning of a message and not its end: what followed would pass for the rest.
    mid_message: bool,
}

/// Where the conversation stands. Each state owns what makes sense in it, and only that. Large ones are boxed: a phase is
/// moved with every message.
#[derive(Debug)]
enum Phase {
    First(First),
    Claim(Box<Claim>),
    Prove(Box<Prove>),
    Connect(Box<Connect>),
    Session(Box<Session>),
    Closed,
}

/// What one call works with.
struct Turn<'a> {
    now: Time,
    judge: &'a mut Judge,
    out: &'a mut Outbox,
}

impl Lane {
    /// A lane for a connection that was just accepted.
    pub fn new(opening: Opening) -> Lane {
        Lane {
            core: Core {
                session: opening.session,
                client: opening.client,
                worker: opening.worker,
                workers: opening.workers,
                rules: opening.listener,
                limits: opening.limits,
                entropy: opening.entropy,
                opened: opening.now,
                client_tls: false,
                channel: ClientTls::default(),
                bytes_in: 0,
                bytes_out: 0,
                rows: 0,
                commands: 0,
                dials: 0,
                claimed: None,
                recorded: false,
                mid_message: false,
            },
            phase: Phase::First(First::default()),
            from_client: Inbound::default(),
            from_server: Inbound::default(),
            share: Share::default(),
            client_ended: false,
        }
    }

    /// See [`crate::Lane::receive`].
    pub fn receive(&mut self, side: Side, input: &mut [u8], now: Time, judge: &mut Judge, out: &mut Outbox) {
        let mut turn = Turn { now, judge, out };
        self.refill(now);
        match side {
            Side::Client => {
                self.core.bytes_in = self.core.bytes_in.saturating_add(input.len() as u64);
                self.drive_client(input, &mut turn);
            }
            Side::Server => {
                self.drive_server(input, &mut turn);
                if self.from_client.len() > 0 {
                    self.drive_client(&[], &mut turn);
                }
            }
        }
    }

    /// See [`crate::Lane::answer`].
    pub fn answer(&mut self, answer: Answer, now: Time, judge: &mut Judge, out: &mut Outbox) {
        let mut turn = Turn { now, judge, out };
        self.refill(now);
        let phase = std::mem::replace(&mut self.phase, Phase::Closed);
        let next = match (phase, answer) {
            (Phase::Claim(claim), Answer::Login(login)) => claim.answered(login, &mut self.core, &mut turn),
            (Phase::Prove(prove), Answer::Salted { key, .. }) => {
                prove.salted(&key.0, &mut self.core, &mut turn)
            }
            (Phase::Connect(connect), Answer::Salted { number, key }) => {
                connect.salted(number, &key.0, &self.core, &mut turn)
            }
            (Phase::Connect(connect), Answer::Seated(result)) => {
                connect.seated(result, &mut self.core, turn.out)
            }
            (Phase::Connect(connect), Answer::Dialed(dialed)) => {
                connect.dialed(dialed, &mut self.core, &mut turn)
            }
            (Phase::Connect(connect), Answer::TlsReady { end_point }) => {
                connect.tls_ready(end_point, &mut turn)
            }
            (Phase::First(first), Answer::ClientTlsReady(channel)) => {
                self.core.channel = channel;
                Ok(Phase::First(first))
            }
            (phase, _) => Ok(phase),
        };
        self.enter(next, &mut turn);
        self.drive_client(&[], &mut turn);
    }

    /// See [`crate::Lane::tls_began`].
    pub fn tls_began(&mut self) {
        if let Phase::First(first) = &mut self.phase {
            first.tls_began();
            self.core.client_tls = true;
        }
    }

    /// See [`crate::Lane::closed`].
    pub fn closed(&mut self, side: Side, error: &str, now: Time, out: &mut Outbox) {
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        if side == Side::Client && error.is_empty() && self.holds_work() {
            // The server, too, does what it has been sent before it sees the end.
            self.client_ended = true;
            return;
        }
        let trouble = match (side, &self.phase) {
            (Side::Client, _) => Trouble::ClientGone { error: error.to_owned() },
            (Side::Server, Phase::Session(session)) if session.server_said_goodbye() => Trouble::ServerEnded,
            (Side::Server, Phase::Connect(_)) => return self.server_lost(error, out),
            (Side::Server, _) => Trouble::ServerGone { error: error.to_owned() },
        };
        self.end(&trouble, now, out);
    }

    /// The connection to one of the target's addresses is lost before the session stands.
    fn server_lost(&mut self, error: &str, out: &mut Outbox) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Connect(connect) => connect.lost(error, &mut self.core, out),
            other => other,
        };
        self.from_server = Inbound::default();
    }

    /// See [`crate::Lane::deadline_ns`].
    pub fn deadline_ns(&self) -> Option<u64> {
        match self.phase {
            // Limits of their own hold for the wait for a seat and for each address; the worker has them.
            Phase::Connect(_) | Phase::Session(_) | Phase::Closed => None,
            _ => Some(self.core.opened.monotonic_ns.saturating_add(self.core.limits.login_ns_max)),
        }
    }

    /// See [`crate::Lane::expire`].
    pub fn expire(&mut self, now: Time, out: &mut Outbox) {
        if self.deadline_ns().is_some_and(|deadline| deadline <= now.monotonic_ns) {
            self.end(&Trouble::LoginTimeout, now, out);
        }
    }

    /// See [`crate::Lane::adopt`].
    pub fn adopt(&mut self, standing: Arc<Standing>) {
        match &mut self.phase {
            Phase::Session(session) => session.adopt(standing),
            Phase::Connect(connect) => connect.adopt(standing),
            Phase::First(_) | Phase::Claim(_) | Phase::Prove(_) | Phase::Closed => {}
        }
    }

    /// See [`crate::Lane::cancel_requested`].
    pub fn cancel_requested(&mut self, client: SocketAddr, now: Time, out: &mut Outbox) {
        if let Phase::Session(session) = &mut self.phase {
            out.records.push(self.core.session, now, &Record::Cancelled { client: &client.to_string() });
            let (process_id, secret) = session.server_key();
            out.actions.push(Action::CancelUpstream { process_id, secret });
        }
    }

    /// See [`crate::Lane::terminate`].
    pub fn terminate(&mut self, sqlstate: &str, message: &str, now: Time, out: &mut Outbox) {
        let trouble = Trouble::Terminated { sqlstate: sqlstate.to_owned(), message: message.to_owned() };
        self.end(&trouble, now, out);
    }

    /// See [`crate::Lane::is_idle`].
    pub fn is_idle(&self) -> bool {
        match &self.phase {
            Phase::Session(session) => session.is_idle() && self.from_client.len() == 0,
            _ => true,
        }
    }

    /// See [`crate::Lane::held_bytes`].
    pub fn held_bytes(&self) -> usize {
        match &self.phase {
            Phase::Session(session) if session.is_blocked() || self.share.is_spent() => {
                self.from_client.len()
            }
            _ => 0,
        }
    }

    /// See [`crate::Lane::is_unfinished`].
    pub fn is_unfinished(&self) -> bool {
        // What waits for the server goes on with its answer.
        matches!(&self.phase, Phase::Session(session) if !session.is_blocked()) && self.holds_work()
    }

    /// Something of the client's waits for its turn, or for the server.
    fn holds_work(&self) -> bool {
        let waits = |session: &Session| session.is_blocked() || self.share.is_spent();
        matches!(&self.phase, Phase::Session(session) if waits(session)) && self.from_client.len() > 0
    }

    /// A new share for a new turn. Who stands in line gets it there, behind those that have just said something.
    fn refill(&mut self, now: Time) {
        if !self.is_unfinished() {
            self.share.refill_at(now);
        }
    }

    /// See [`crate::Lane::go_on`].
    pub fn go_on(&mut self, now: Time, judge: &mut Judge, out: &mut Outbox) {
        self.share.refill_at(now);
        self.drive_client(&[], &mut Turn { now, judge, out });
    }

    /// See [`crate::Lane::grant`].
    pub fn grant(&self) -> Option<&Grant> {
        match &self.phase {
            Phase::Session(session) => Some(session.grant()),
            Phase::Connect(connect) => Some(connect.grant()),
            Phase::First(_) | Phase::Claim(_) | Phase::Prove(_) | Phase::Closed => None,
        }
    }

    fn drive_client(&mut self, input: &[u8], turn: &mut Turn<'_>) {
        let mut inbound = std::mem::take(&mut self.from_client);
        inbound.drive(input, |bytes, origin| {
            let phase = std::mem::replace(&mut self.phase, Phase::Closed);
            let (next, step) = match phase {
                Phase::First(first) => first.step(bytes, &mut self.core, turn),
                Phase::Prove(prove) => prove.step(bytes, &mut self.core, turn),
                Phase::Session(session) if self.share.is_spent() => {
                    (Ok(Phase::Session(session)), Step::Blocked)
                }
                Phase::Session(mut session) => {
                    let before = share::Work::of(turn.out);
                    let stepped = session.client_step(bytes, origin, &mut self.core, turn);
                    self.share.spend(before, turn.out);
                    match stepped {
                        Ok(step) => (Ok(Phase::Session(session)), step),
                        Err(trouble) => {
                            session.abandon(&trouble, &mut self.core, turn.now, turn.out);
                            (Err(trouble), Step::Blocked)
                        }
                    }
                }
                waiting @ (Phase::Claim(_) | Phase::Connect(_)) => (Ok(waiting), Step::Blocked),
                Phase::Closed => (Ok(Phase::Closed), Step::Consumed(bytes.len())),
            };
            self.enter(next, turn);
            if matches!(self.phase, Phase::Closed) { Step::Consumed(bytes.len()) } else { step }
        });
        self.from_client = inbound;
        if self.from_client.len() > EARLY_BYTES_MAX && !matches!(self.phase, Phase::Session(_)) {
            self.end(&Trouble::TooEarly, turn.now, turn.out);
        }
        if self.client_ended && !self.holds_work() {
            self.end(&Trouble::ClientGone { error: String::new() }, turn.now, turn.out);
        }
    }

    fn drive_server(&mut self, input: &[u8], turn: &mut Turn<'_>) {
        let mut inbound = std::mem::take(&mut self.from_server);
        let dials = self.core.dials;
        inbound.drive(input, |bytes, origin| {
            if self.core.dials != dials {
                // Of a server that has been given up.
                return Step::Consumed(bytes.len());
            }
            let phase = std::mem::replace(&mut self.phase, Phase::Closed);
            let (next, step) = match phase {
                Phase::Connect(connect) => connect.step(bytes, &mut self.core, turn),
                Phase::Session(mut session) => match session.server_step(bytes, origin, &mut self.core, turn)
                {
                    Ok(step) => {
                        self.core.mid_message = session.is_mid_message();
                        (Ok(Phase::Session(session)), step)
                    }
                    Err(trouble) => {
                        session.abandon(&trouble, &mut self.core, turn.now, turn.out);
                        (Err(trouble), Step::Blocked)
                    }
                },
                other => (Ok(other), Step::Consumed(bytes.len())),
            };
            self.enter(next, turn);
            let over = matches!(self.phase, Phase::Closed) || self.core.dials != dials;
            if over { Step::Consumed(bytes.len()) } else { step }
        });
        self.from_server = inbound;
    }

    fn enter(&mut self, next: Result<Phase, Trouble>, turn: &mut Turn<'_>) {
        match next {
            Ok(phase) => self.phase = phase,
            Err(trouble) => self.finish(&trouble, turn.now, turn.out),
        }
    }

    /// Ends from outside of a step.
    fn end(&mut self, trouble: &Trouble, now: Time, out: &mut Outbox) {
        match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Closed => return,
            Phase::Session(mut session) => session.abandon(trouble, &mut self.core, now, out),
            _ => {}
        }
        self.finish(trouble, now, out);
    }

    /// Tells the client what it can be told, records the end and closes both sides. The phase is closed already.
    fn finish(&mut self, trouble: &Trouble, now: Time, out: &mut Outbox) {
        if !self.core.mid_message {
            trouble.tell_client(out);
        }
        let (fault, reason) = (trouble.fault(), trouble.reason());
        let core = &self.core;
        if core.recorded {
            let fault = fault_name(fault);
            let (commands, bytes_in, bytes_out, rows) =
                (core.commands, core.bytes_in, core.bytes_out, core.rows);
            let closed =
                Record::SessionClosed { reason: &reason, fault, commands, bytes_in, bytes_out, rows };
            out.records.push(core.session, now, &closed);
        } else if let Some((user, database)) = &core.claimed {
            let client = core.client.to_string();
            let failed = Record::LoginFailed { user, database, client: &client, reason: &reason };
            out.records.push(core.session, now, &failed);
        }
        out.actions.push(Action::Close { reason: CloseReason { fault, text: reason } });
    }
}

/// Bytes a client may send before it is asked for any.
const EARLY_BYTES_MAX: usize = 64 << 10;

fn fault_name(fault: Fault) -> &'static str {
    match fault {
        Fault::None => "",
        Fault::Client => "client",
        Fault::Server => "server",
        Fault::Gateway => "gateway",
    }
}

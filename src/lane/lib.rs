//! The sans-IO conversation of one protocol inside a session: with this crate no byte passes that was not judged.
//!
//! # The calling contract
//!
//! A worker makes a [`Lane`] for each accepted connection and from then on tells it what happens, one call at a
//! time: bytes ([`Lane::receive`]), answers to what it asked ([`Lane::answer`]), an end of stream or a broken
//! connection ([`Lane::closed`]), the passing of its [deadline](Lane::deadline_ns) ([`Lane::expire`]). Every call
//! appends [`Action`]s and records to an [`Outbox`]; the worker carries the actions out in order, before the next
//! call for the same lane and before the input bytes go away.
//!
//! * `input` of `receive` is all the plaintext that came from that side, in order, cut anywhere. The lane keeps
//!   what it needs of it: the worker may reuse the buffer as soon as the actions are carried out.
//! * Ranges in [`Action::Forward`] count from the start of that `input`, as the lane left it (masks work in
//!   place); ranges in [`Action::Send`] count in [`Outbox::arena`].
//! * After [`Action::StartTls`] for a side the lane is fed plaintext of the TLS stream, beginning with the next
//!   byte. Bytes that came behind the request in clear text close the session (CVE-2021-23222): the worker passes
//!   them to `receive` as part of the same input, never into the TLS engine, and the lane refuses them.
//! * A client that has said its last has its session ended when all that it said before is done.
//! * After [`Action::Close`] (both sides) the lane is dead: every call does nothing.
//! * A call takes no more of what the client sent than a turn's share (calls with the same `now` are one turn). When
//!   [`Lane::is_unfinished`] says so afterwards, [`Lane::go_on`] is due in a later turn: so a flood of commands holds
//!   nobody else up.
//! * Time and randomness are arguments. A lane never blocks, never panics on a peer's bytes, and holds at most
//!   the bytes its [`Limits`] name.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use lockgate_codecs::postgres::backend::{self, ErrorText};
use lockgate_recording::{Draft, SessionId, Time};

mod grant;
mod judge;
pub mod postgres;
pub mod scram;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(any(test, fuzzing))]
pub mod rig;

pub use grant::*;
pub use judge::Judge;

/// One of the two connections of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Whoever acts.
    Client,
    /// What is acted on.
    Server,
}

/// What the worker is to do.
#[derive(Debug)]
pub enum Action {
    /// Send a range of the current input to a side.
    Forward {
        /// To whom.
        to: Side,
        /// Which.
        range: Range<usize>,
    },
    /// Send a range of the outbox's arena to a side.
    Send {
        /// To whom.
        to: Side,
        /// Which.
        range: Range<usize>,
    },
    /// Begin TLS on a side, as server towards the client and as client towards the server. When the handshake
    /// is done, [`Answer::TlsReady`] or [`Answer::ClientTlsReady`] is due, before any byte that came inside.
    StartTls {
        /// Which.
        side: Side,
    },
    /// Who is this, and may they: [`Answer::Login`] is due.
    Login(LoginRequest),
    /// PBKDF2-HMAC-SHA-256 of a password: [`Answer::Salted`] is due. Costs milliseconds, so control does it;
    /// the worker may keep what it was told before.
    Salt(SaltRequest),
    /// The client has proven itself (limits before authentication no longer apply) and wants its session: a place
    /// within the limits on sessions is asked for, and [`Answer::Seated`] is due, perhaps after a wait.
    Seat,
    /// Connect to the granted target: [`Answer::Dialed`] is due. What connection to it there is closes first, when
    /// what was sent to it has gone out; nothing more of it is told.
    Dial(Dialing),
    /// Remember this session under (process id, secret) so that a CancelRequest finds it.
    RegisterKey {
        /// The server's process.
        process_id: u32,
        /// What the client was given, never the server's own.
        secret: Secret,
    },
    /// A client asks to cancel the session that owns this key; the connection is then done (see
    /// [`CancelRequest`]). Whoever owns it gets [`Lane::cancel_requested`].
    RouteCancel(CancelRequest),
    /// Open a connection of its own to this session's target and deliver a CancelRequest with the server's key;
    /// [`RouteCancel`](Action::RouteCancel)'s connection closes when that is done.
    CancelUpstream {
        /// The server's process.
        process_id: u32,
        /// The server's own key.
        secret: Secret,
    },
    /// The session has been opened: count it as authenticated (limits before authentication no longer apply).
    Established,
    /// The session is over: send what is queued to both sides, then close both.
    Close {
        /// Why.
        reason: CloseReason,
    },
}

/// Which of a target's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialing {
    /// The first.
    First,
    /// The one behind the last that was tried.
    Next,
}

/// Why a session ended; counted, logged and recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseReason {
    /// Whose doing it was.
    pub fault: Fault,
    /// One short sentence without secrets.
    pub text: String,
}

/// Whose doing an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nobody's: an end as it should be.
    None,
    /// The client's.
    Client,
    /// The target's.
    Server,
    /// Lockgate's own.
    Gateway,
}

/// Where actions and records of one call go. The worker reuses one for all its lanes.
#[derive(Debug, Default)]
pub struct Outbox {
    /// In order.
    pub actions: Vec<Action>,
    /// Bytes that [`Action::Send`] refers to.
    pub arena: Vec<u8>,
    /// The worker's open recording block.
    pub records: Draft,
    /// What was counted since the worker last took it.
    pub counts: Counts,
}

/// What lanes count.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Commands judged.
    pub commands: u64,
    /// Commands that did not pass.
    pub denied: u64,
    /// Cells masked.
    pub cells_masked: u64,
}

/// Limits of a lane, from configuration.
#[derive(Debug, Clone)]
pub struct Limits {
    /// A client must be authenticated by then, in nanoseconds.
    pub login_ns_max: u64,
    /// Longest Query, Parse and FunctionCall, in bytes.
    pub statement_bytes_max: u32,
    /// Longest Bind, in bytes.
    pub bind_bytes_max: u32,
    /// Longest row that is masked whole, in bytes.
    pub row_bytes_max: u32,
    /// Most iterations a server may demand in SCRAM.
    pub scram_iterations_max: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            login_ns_max: 15_000_000_000,
            statement_bytes_max: 16 << 20,
            bind_bytes_max: 64 << 20,
            row_bytes_max: 1 << 20,
            scram_iterations_max: 1_000_000,
        }
    }
}

/// What a lane is told when it is made.
#[derive(Debug)]
pub struct Opening {
    /// The session this will be.
    pub session: SessionId,
    /// The client's address.
    pub client: SocketAddr,
    /// Index of the worker: the cancel secret names it (its first four bytes, big-endian, modulo `workers`).
    pub worker: u32,
    /// How many there are.
    pub workers: u32,
    /// The listener's rules.
    pub listener: Arc<ListenerRules>,
    /// Limits.
    pub limits: Arc<Limits>,
    /// From the operating system's generator; nonces and secrets come from it and nothing else does.
    pub entropy: Secret,
    /// Now.
    pub now: Time,
}

/// What a listener demands.
#[derive(Debug, Clone)]
pub struct ListenerRules {
    /// Whether the client may, or must, speak TLS.
    pub tls: ListenerTls,
    /// How it proves itself.
    pub auth: ListenerAuth,
    /// Whether the client may, or must, show a certificate. One that is shown must be its own.
    pub client_certificate: ClientCertificate,
}

impl ListenerRules {
    /// Rules that ask for no certificate.
    pub fn new(tls: ListenerTls, auth: ListenerAuth) -> ListenerRules {
        ListenerRules { tls, auth, client_certificate: ClientCertificate::Off }
    }
}

/// `tls = "off" | "optional" | "required"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerTls {
    /// Never.
    Off,
    /// If the client asks.
    Optional,
    /// Or no session.
    Required,
}

/// `auth = "scram" | "password" | "certificate"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerAuth {
    /// SCRAM-SHA-256, bound to the TLS channel (-PLUS) where there is one.
    Scram,
    /// The password itself (inside TLS only).
    Password,
    /// The client's certificate is proof enough.
    Certificate,
}

/// `client_certificate = "off" | "optional" | "required"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Not asked for.
    Off,
    /// Asked for.
    Optional,
    /// Or no session.
    Required,
}

/// `client_name = "cn" | "dns" | "email" | "uri"`: where a certificate names its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateName {
    /// The subject's common name.
    CommonName,
    /// Alternative names that are host names.
    Dns,
    /// Alternative names that are mail addresses.
    Email,
    /// Alternative names that are URIs.
    Uri,
}

/// What TLS with a client brought to light.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// The tls-server-end-point channel binding of the gateway's own certificate, if its signature has one.
    pub end_point: Option<Vec<u8>>,
    /// The client's certificate, verified.
    pub certificate: Option<HolderNames>,
}

/// Whom a verified certificate names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HolderNames {
    /// Its subject, for the record.
    pub subject: String,
    /// The names that count, by the listener's [`CertificateName`].
    pub names: Vec<String>,
}

/// A CancelRequest as it came. Its secret is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct CancelRequest {
    /// The server's process, as BackendKeyData named it.
    pub process_id: u32,
    /// The key that came with it.
    pub secret: Vec<u8>,
    /// Who sends it.
    pub client: SocketAddr,
}

impl fmt::Debug for CancelRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CancelRequest { process_id, secret: _, client } = self;
        f.debug_struct("CancelRequest")
            .field("process_id", process_id)
            .field("client", client)
            .finish_non_exhaustive()
    }
}

/// Why a client is not let in at all. libpq tries its next host after [`Refusal::Stopping`], and gives up after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no room (SQLSTATE 53300, too_many_connections).
    Full(&'static str),
    /// The gateway is about to end (SQLSTATE 57P03, cannot_connect_now).
    Stopping,
}

/// What a PostgreSQL client is told that is not let in at all.
pub fn turned_away(why: Refusal) -> Vec<u8> {
    let (code, message) = match why {
        Refusal::Full(message) => ("53300", message),
        Refusal::Stopping => ("57P03", "Lockgate is shutting down; please connect again"),
    };
    let error = ErrorText { severity: "FATAL", code, message, detail: "", hint: "" };
    let mut bytes = Vec::new();
    backend::write_error(&mut bytes, &error);
    bytes
}

/// What came of a question.
#[derive(Debug)]
pub enum Answer {
    /// To [`Action::Login`].
    Login(LoginAnswer),
    /// To [`Action::Salt`].
    Salted {
        /// The request's.
        number: u32,
        /// The salted password.
        key: SaltedKey,
    },
    /// To [`Action::Seat`]: or, in words for the client, which limit is in the way.
    Seated(Result<(), String>),
    /// To [`Action::Dial`].
    Dialed(Dialed),
    /// TLS to the server stands; `end_point` is the tls-server-end-point channel binding (RFC 5929), if the
    /// certificate's signature algorithm has one.
    TlsReady {
        /// The channel binding.
        end_point: Option<Vec<u8>>,
    },
    /// TLS with the client stands.
    ClientTlsReady(ClientTls),
}

/// What came of connecting.
#[derive(Debug)]
pub enum Dialed {
    /// To this address there is a connection, or why there is none.
    Address(SocketAddr, Result<(), String>),
    /// All addresses have been tried.
    Exhausted,
}

/// The conversation of whatever protocol the listener speaks.
#[derive(Debug)]
pub enum Lane {
    /// PostgreSQL.
    Postgres(Box<postgres::Lane>),
}

impl Lane {
    /// A lane for a connection that was just accepted by a PostgreSQL listener.
    pub fn postgres(opening: Opening) -> Lane {
        Lane::Postgres(Box::new(postgres::Lane::new(opening)))
    }
    /// Plaintext came from `side`.
    pub fn receive(&mut self, side: Side, input: &mut [u8], now: Time, judge: &mut Judge, out: &mut Outbox) {
        match self {
            Lane::Postgres(lane) => lane.receive(side, input, now, judge, out),
        }
    }
    /// A question was answered.
    pub fn answer(&mut self, answer: Answer, now: Time, judge: &mut Judge, out: &mut Outbox) {
        match self {
            Lane::Postgres(lane) => lane.answer(answer, now, judge, out),
        }
    }
    /// The client's first bytes were a TLS handshake, without a request for it: what the lane is fed from now on came
    /// inside of TLS. Before the first [`Lane::receive`] only.
    pub fn tls_began(&mut self) {
        match self {
            Lane::Postgres(lane) => lane.tls_began(),
        }
    }
    /// A side sent its last byte (`error` empty) or broke.
    pub fn closed(&mut self, side: Side, error: &str, now: Time, out: &mut Outbox) {
        match self {
            Lane::Postgres(lane) => lane.closed(side, error, now, out),
        }
    }
    /// When the lane wants to be called if nothing else happens.
    pub fn deadline_ns(&self) -> Option<u64> {
        match self {
            Lane::Postgres(lane) => lane.deadline_ns(),
        }
    }
    /// The deadline has passed.
    pub fn expire(&mut self, now: Time, out: &mut Outbox) {
        match self {
            Lane::Postgres(lane) => lane.expire(now, out),
        }
    }
    /// Policy, catalog or masks changed: commands from here on are judged by them.
    pub fn adopt(&mut self, standing: Arc<Standing>) {
        match self {
            Lane::Postgres(lane) => lane.adopt(standing),
        }
    }
    /// Somebody sent this session's cancel key.
    pub fn cancel_requested(&mut self, client: SocketAddr, now: Time, out: &mut Outbox) {
        match self {
            Lane::Postgres(lane) => lane.cancel_requested(client, now, out),
        }
    }
    /// End the session with a clean protocol error (drain, recording failed): `message` goes to the client.
    pub fn terminate(&mut self, sqlstate: &str, message: &str, now: Time, out: &mut Outbox) {
        match self {
            Lane::Postgres(lane) => lane.terminate(sqlstate, message, now, out),
        }
    }
    /// No command is running and no transaction is open: a drain may end the session now.
    pub fn is_idle(&self) -> bool {
        match self {
            Lane::Postgres(lane) => lane.is_idle(),
        }
    }
    /// How much of what the client has sent the lane keeps, because it can take no more for now: past some length the
    /// worker stops receiving there. What it receives all the same is to be fed as ever.
    pub fn held_bytes(&self) -> usize {
        match self {
            Lane::Postgres(lane) => lane.held_bytes(),
        }
    }
    /// The client has sent more than one turn's share of work: [`Lane::go_on`] is due, in a later turn.
    pub fn is_unfinished(&self) -> bool {
        match self {
            Lane::Postgres(lane) => lane.is_unfinished(),
        }
    }
    /// Takes another share of what the client has sent.
    pub fn go_on(&mut self, now: Time, judge: &mut Judge, out: &mut Outbox) {
        match self {
            Lane::Postgres(lane) => lane.go_on(now, judge, out),
        }
    }
    /// Who and what, once granted.
    pub fn grant(&self) -> Option<&Grant> {
        match self {
            Lane::Postgres(lane) => lane.grant(),
        }
    }
}

impl Outbox {
    /// Forwards a range of the input; one that continues the last becomes one with it.
    pub fn forward(&mut self, to: Side, range: Range<usize>) {
        if let Some(Action::Forward { to: last_to, range: last }) = self.actions.last_mut()
            && *last_to == to
            && last.end == range.start
        {
            last.end = range.end;
        } else if !range.is_empty() {
            self.actions.push(Action::Forward { to, range });
        }
    }

    /// Sends what `write` appends to the arena; what continues the last send becomes one with it.
    pub fn send(&mut self, to: Side, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.arena.len();
        write(&mut self.arena);
        self.sent(to, start);
    }

    /// Sends what stands in the arena from `start` on.
    pub fn sent(&mut self, to: Side, start: usize) {
        let end = self.arena.len();
        if let Some(Action::Send { to: last_to, range: last }) = self.actions.last_mut()
            && *last_to == to
            && last.end == start
        {
            last.end = end;
        } else if start < end {
            self.actions.push(Action::Send { to, range: start..end });
        }
    }
}

//! Lockgate proves itself to the target: dial, TLS as configured (never less), authentication, the session's set-up.

use std::sync::Arc;

use lockgate_codecs::postgres::backend::{self, Authentication};
use lockgate_codecs::postgres::startup::{self, Version};
use lockgate_codecs::postgres::{frame, frontend};
use lockgate_facts::postgres::Reading;
use lockgate_recording::{CommandKind, Record};
use md5::{Digest as _, Md5};

use super::attempts::{Attempts, Failure, Posture};
use super::inbound::Step;
use super::parameters::{Wishes, is_safe_encoding};
use super::session::Session;
use super::trouble::Trouble;
use super::{Core, Phase, Turn};
use crate::judge::Ruling;
use crate::scram::{self, Binding};
use crate::{Action, Dialed, Dialing, Grant, Outbox, SaltRequest, Secret, Side, Standing, TargetTls};

/// Longest message of a server before the session stands, in bytes.
const SETUP_BYTES_MAX: usize = 64 << 10;

/// SQLSTATEs of a server that is shutting down, has crashed, starts up or recovers: another one may do.
const GOING_OR_COMING: [&str; 3] = ["57P01", "57P02", "57P03"];

/// Cancel keys: four bytes in protocol 3.0, this many in 3.2.
const LONG_KEY_BYTES: usize = 32;

/// An admitted client, and how far the target's side is.
#[derive(Debug)]
pub(super) struct Connect {
    wishes: Wishes,
    grant: Grant,
    method: String,
    attempts: Attempts,
    attempt: Attempt,
}

/// What is known of the server at hand; nothing of it outlives the attempt.
#[derive(Debug)]
struct Attempt {
    step: Stage,
    version: Version,
    reading: Reading,
    posture: Posture,
    tls: Option<Option<Vec<u8>>>,
    server_key: Option<(u32, Secret)>,
    /// What the client hears once this server has turned out to be the one.
    greeting: Vec<u8>,
}

#[derive(Debug)]
enum Stage {
    /// The limits on sessions have been asked.
    Seating,
    Dialing,
    /// SSLRequest was sent.
    TlsAnswer,
    TlsHandshake,
    /// StartupMessage was sent.
    Authentication,
    SaslChallenge(scram::Client),
    Salting(scram::Challenge),
    SaslFinal(scram::Expected),
    /// AuthenticationOk must follow.
    OkDue,
    /// Everything up to ReadyForQuery.
    Setup,
}

/// Why it does not go on with this server.
enum Setback {
    /// Another one may do.
    Next(Failure),
    /// The session cannot be.
    End(Trouble),
}

impl From<Trouble> for Setback {
    fn from(trouble: Trouble) -> Setback {
        Setback::End(trouble)
    }
}

impl From<Failure> for Setback {
    fn from(failure: Failure) -> Setback {
        Setback::Next(failure)
    }
}

impl Attempt {
    fn new(wishes: &Wishes, step: Stage) -> Attempt {
        Attempt {
            step,
            version: wishes.version,
            reading: wishes.reading.clone(),
            posture: Posture::default(),
            tls: None,
            server_key: None,
            greeting: Vec::new(),
        }
    }
}

impl Connect {
    /// Judges the start-up parameters and asks for a seat.
    pub(super) fn begin(
        wishes: Wishes,
        grant: Grant,
        method: String,
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<Phase, Trouble> {
        let ruling = Ruling::of(&grant.standing.program, &wishes.facts);
        if !ruling.allows() {
            return Err(denied(&wishes, &grant, &ruling, core, turn));
        }
        turn.out.actions.push(Action::Seat);
        let attempts = Attempts::new(grant.target.attrs);
        let attempt = Attempt::new(&wishes, Stage::Seating);
        Ok(Phase::Connect(Box::new(Connect { wishes, grant, method, attempts, attempt })))
    }

    pub(super) fn grant(&self) -> &Grant {
        &self.grant
    }

    pub(super) fn adopt(&mut self, standing: Arc<Standing>) {
        self.grant.standing = standing;
    }

    /// There is room for the session, or not.
    pub(super) fn seated(
        self: Box<Self>,
        result: Result<(), String>,
        core: &mut Core,
        out: &mut Outbox,
    ) -> Result<Phase, Trouble> {
        result.map_err(|message| Trouble::NoSeat { message })?;
        Ok(self.dial(Dialing::First, core, out))
    }

    fn dial(mut self: Box<Self>, which: Dialing, core: &mut Core, out: &mut Outbox) -> Phase {
        self.attempt = Attempt::new(&self.wishes, Stage::Dialing);
        core.dials = core.dials.wrapping_add(1);
        out.actions.push(Action::Dial(which));
        Phase::Connect(self)
    }

    /// The address at hand does not do: on to the next.
    fn next(mut self: Box<Self>, failure: Failure, core: &mut Core, out: &mut Outbox) -> Phase {
        self.attempts.failed(failure);
        self.dial(Dialing::Next, core, out)
    }

    /// The connection to an address stands, or does not.
    pub(super) fn dialed(
        mut self: Box<Self>,
        dialed: Dialed,
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<Phase, Trouble> {
        match dialed {
            Dialed::Exhausted => {
                let again = self.attempts.exhausted(&self.grant.target.name)?;
                return Ok(self.dial(again, core, turn.out));
            }
            Dialed::Address(address, result) => {
                self.attempts.trying(address);
                if let Err(error) = result {
                    return Ok(self.next(Failure::connection(error), core, turn.out));
                }
            }
        }
        if self.grant.target.tls == TargetTls::Disable {
            self.start_up(turn);
        } else {
            turn.out.send(Side::Server, startup::write_ssl_request);
            self.attempt.step = Stage::TlsAnswer;
        }
        Ok(Phase::Connect(self))
    }

    /// The connection at hand ended or broke, or took too long.
    pub(super) fn lost(self: Box<Self>, error: &str, core: &mut Core, out: &mut Outbox) -> Phase {
        if matches!(self.attempt.step, Stage::Seating | Stage::Dialing) {
            return Phase::Connect(self);
        }
        let error = if error.is_empty() { "the server closed the connection unexpectedly" } else { error };
        self.next(Failure::connection(error), core, out)
    }

    /// TLS stands.
    pub(super) fn tls_ready(
        mut self: Box<Self>,
        end_point: Option<Vec<u8>>,
        turn: &mut Turn<'_>,
    ) -> Result<Phase, Trouble> {
        if matches!(self.attempt.step, Stage::TlsHandshake) {
            self.attempt.tls = Some(end_point);
            self.start_up(turn);
        }
        Ok(Phase::Connect(self))
    }

    fn start_up(&mut self, turn: &mut Turn<'_>) {
        let target = &self.grant.target;
        let mut parameters =
            vec![(&b"user"[..], target.user.as_bytes()), (b"database", target.database.as_bytes())];
        parameters
            .extend(self.wishes.forwarded.iter().map(|(name, value)| (name.as_slice(), value.as_slice())));
        let version = self.attempt.version;
        turn.out.send(Side::Server, |arena| startup::write_startup(arena, version, &parameters));
        self.attempt.step = Stage::Authentication;
    }

    /// The salted password is here.
    pub(super) fn salted(
        mut self: Box<Self>,
        number: u32,
        key: &[u8; 32],
        core: &Core,
        turn: &mut Turn<'_>,
    ) -> Result<Phase, Trouble> {
        if number != core.dials {
            // Asked for a server that has been given up.
            return Ok(Phase::Connect(self));
        }
        self.attempt.step = match std::mem::replace(&mut self.attempt.step, Stage::Dialing) {
            Stage::Salting(challenge) => {
                let (response, expected) = challenge.respond(key);
                turn.out
                    .send(Side::Server, |arena| frontend::write_sasl_response(arena, response.as_bytes()));
                Stage::SaslFinal(expected)
            }
            other => other,
        };
        Ok(Phase::Connect(self))
    }

    /// Bytes of the server's.
    pub(super) fn step(
        mut self: Box<Self>,
        bytes: &[u8],
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> (Result<Phase, Trouble>, Step) {
        match self.taken(bytes, core, turn) {
            Ok((Progress::On, step)) => (Ok(Phase::Connect(self)), step),
            Ok((Progress::Ready(status), step)) => (Ok(self.ready(status, core, turn)), step),
            Err(Setback::Next(failure)) => (Ok(self.next(failure, core, turn.out)), Step::Blocked),
            Err(Setback::End(trouble)) => (Err(trouble), Step::Blocked),
        }
    }

    fn taken(&mut self, bytes: &[u8], core: &Core, turn: &mut Turn<'_>) -> Result<(Progress, Step), Setback> {
        match self.attempt.step {
            Stage::TlsAnswer => return Ok((Progress::On, self.tls_answer(bytes, turn)?)),
            Stage::Seating | Stage::Dialing | Stage::TlsHandshake | Stage::Salting(_) => {
                return Err(self.protocol("bytes that nothing asked for").into());
            }
            _ => {}
        }
        let Some(header) = frame::header(bytes).map_err(Trouble::server)? else {
            return Ok((Progress::On, Step::Need(frame::HEADER_BYTES)));
        };
        if header.body_bytes > SETUP_BYTES_MAX {
            return Err(self.protocol("a message too long before the session stands").into());
        }
        let Some(message) = bytes.get(..header.message_bytes()) else {
            return Ok((Progress::On, Step::Need(header.message_bytes())));
        };
        let progress = self.message(header.kind, message, core, turn)?;
        Ok((progress, Step::Consumed(message.len())))
    }

    fn tls_answer(&mut self, bytes: &[u8], turn: &mut Turn<'_>) -> Result<Step, Setback> {
        match bytes {
            [] => Ok(Step::Need(1)),
            [b'S'] => {
                turn.out.actions.push(Action::StartTls { side: Side::Server });
                self.attempt.step = Stage::TlsHandshake;
                Ok(Step::Consumed(1))
            }
            [b'S', ..] => {
                Err(self.protocol("bytes in clear text behind its answer to the request for TLS").into())
            }
            [b'N', ..] => Err(Failure::connection(
                "the server does not speak TLS, which the target's tls setting demands; it is never done without",
            )
            .into()),
            _ => Err(self.protocol("no answer to the request for TLS").into()),
        }
    }

    fn message(
        &mut self,
        kind: u8,
        message: &[u8],
        core: &Core,
        turn: &mut Turn<'_>,
    ) -> Result<Progress, Setback> {
        let body = message.get(frame::HEADER_BYTES..).unwrap_or_default();
        let setup = matches!(self.attempt.step, Stage::Setup);
        match kind {
            backend::AUTHENTICATION if !setup => {
                let request = backend::authentication(body).map_err(Trouble::server)?;
                self.authenticate(request, core, turn)?;
            }
            backend::NEGOTIATE if !setup => {
                self.negotiated(backend::negotiate(body).map_err(Trouble::server)?)?
            }
            backend::NOTICE => {
                if setup {
                    self.greet(message)?;
                }
            }
            backend::ERROR => return Err(self.refused(backend::report(body).map_err(Trouble::server)?)),
            backend::PARAMETER_STATUS if setup => {
                let (name, value) = backend::parameter_status(body).map_err(Trouble::server)?;
                self.parameter(name, value)?;
                self.greet(message)?;
            }
            backend::BACKEND_KEY_DATA if setup => {
                let (process_id, key) = backend::backend_key_data(body).map_err(Trouble::server)?;
                self.attempt.server_key = Some((process_id, Secret::new(key.to_vec())));
            }
            backend::READY_FOR_QUERY if setup => {
                let status = backend::ready_for_query(body).map_err(Trouble::server)?;
                if let Err(failure) = self.attempts.suits(self.attempt.posture) {
                    turn.out.send(Side::Server, |arena| frontend::write_empty(arena, frontend::TERMINATE));
                    return Err(failure.into());
                }
                return Ok(Progress::Ready(status));
            }
            _ => return Err(self.protocol("a message that is not legal before the session stands").into()),
        }
        Ok(Progress::On)
    }

    /// Keeps a message for the client until this server has turned out to be the one.
    fn greet(&mut self, message: &[u8]) -> Result<(), Trouble> {
        self.attempt.greeting.extend_from_slice(message);
        match self.attempt.greeting.len() > SETUP_BYTES_MAX {
            true => Err(self.protocol("too many messages before the session stands")),
            false => Ok(()),
        }
    }

    fn authenticate(
        &mut self,
        request: Authentication<'_>,
        core: &Core,
        turn: &mut Turn<'_>,
    ) -> Result<(), Trouble> {
        let stage = std::mem::replace(&mut self.attempt.step, Stage::Authentication);
        self.attempt.step = match (stage, request) {
            (Stage::Authentication | Stage::OkDue, Authentication::Ok) => Stage::Setup,
            (Stage::Authentication, Authentication::Cleartext) => {
                if self.attempt.tls.is_none() {
                    return Err(
                        self.login("asks for the password in clear text and the connection has no TLS")
                    );
                }
                let password = self.password()?;
                turn.out.send(Side::Server, |arena| frontend::write_password(arena, password.expose()));
                Stage::OkDue
            }
            (Stage::Authentication, Authentication::Md5(salt)) => {
                let password = self.password()?;
                let answer = md5_answer(password.expose(), self.grant.target.user.as_bytes(), salt);
                turn.out.send(Side::Server, |arena| frontend::write_password(arena, answer.as_bytes()));
                Stage::OkDue
            }
            (Stage::Authentication, Authentication::Sasl(mechanisms)) => {
                let (mechanism, binding) = self.mechanism(&mechanisms)?;
                let (client, first) = scram::Client::begin(binding, &nonce(core));
                turn.out.send(Side::Server, |arena| {
                    frontend::write_sasl_initial(arena, mechanism, first.as_bytes());
                });
                Stage::SaslChallenge(client)
            }
            (Stage::SaslChallenge(client), Authentication::SaslContinue(message)) => {
                let challenge =
                    client.challenge(message, core.limits.scram_iterations_max).map_err(|error| {
                        self.login(&format!("sent a SCRAM challenge that is refused ({error:?})"))
                    })?;
                let (password, salt) = (self.password()?.clone(), challenge.salt.clone());
                let iterations = challenge.iterations;
                let number = core.dials;
                turn.out.actions.push(Action::Salt(SaltRequest { password, salt, iterations, number }));
                Stage::Salting(challenge)
            }
            (Stage::SaslFinal(expected), Authentication::SaslFinal(message)) => {
                expected
                    .check(message)
                    .map_err(|_| self.login("did not prove that it knows the password"))?;
                Stage::OkDue
            }
            (Stage::Authentication, Authentication::Other(kind)) => {
                return Err(
                    self.login(&format!("asks for authentication method {kind}, which is not supported"))
                );
            }
            _ => return Err(self.protocol("an authentication request out of turn")),
        };
        Ok(())
    }

    fn mechanism(&self, offered: &[&[u8]]) -> Result<(&'static str, Binding), Trouble> {
        let offers = |name: &str| offered.contains(&name.as_bytes());
        match &self.attempt.tls {
            Some(Some(hash)) if offers(scram::SHA_256_PLUS) => {
                Ok((scram::SHA_256_PLUS, Binding::EndPoint(hash.clone())))
            }
            Some(Some(_)) if offers(scram::SHA_256) => Ok((scram::SHA_256, Binding::NotOffered)),
            _ if offers(scram::SHA_256) => Ok((scram::SHA_256, Binding::None)),
            _ => Err(self.login("offers no SASL mechanism that is supported")),
        }
    }

    fn password(&self) -> Result<&crate::Secret, Trouble> {
        let password = self.grant.target.password.as_ref();
        password.ok_or_else(|| self.login("asks for a password and target.password is not configured"))
    }

    fn negotiated(&mut self, newest: Version) -> Result<(), Trouble> {
        if newest.major != 3 || newest.minor > self.attempt.version.minor {
            return Err(self.protocol("a protocol version that was not asked for"));
        }
        self.attempt.version = newest;
        Ok(())
    }

    fn parameter(&mut self, name: &[u8], value: &[u8]) -> Result<(), Trouble> {
        match name {
            b"client_encoding" => {
                let encoding = String::from_utf8_lossy(value);
                if !is_safe_encoding(&encoding) {
                    return Err(Trouble::UnsafeEncoding { encoding: encoding.chars().take(64).collect() });
                }
            }
            b"standard_conforming_strings" => {
                self.attempt.reading.standard_conforming_strings = value == b"on"
            }
            _ => self.attempt.posture.reported(name, value),
        }
        Ok(())
    }

    /// This server is the one.
    fn ready(mut self: Box<Self>, status: u8, core: &mut Core, turn: &mut Turn<'_>) -> Phase {
        let greeting = std::mem::take(&mut self.attempt.greeting);
        turn.out.send(Side::Client, |arena| arena.extend_from_slice(&greeting));
        let server_key = self.attempt.server_key.take();
        if let Some((process_id, _)) = &server_key {
            let key = cancel_key(core, self.attempt.version.minor >= 2);
            turn.out.send(Side::Client, |arena| backend::write_backend_key_data(arena, *process_id, &key));
            turn.out.actions.push(Action::RegisterKey { process_id: *process_id, secret: Secret::new(key) });
        }
        turn.out.send(Side::Client, |arena| backend::write_ready_for_query(arena, status));
        turn.out.actions.push(Action::Established);
        self.record_opening(server_key.as_ref().map_or(0, |(process_id, _)| *process_id), core, turn);
        Phase::Session(Box::new(Session::new(
            self.grant,
            self.attempt.reading,
            self.wishes.replication,
            server_key,
            status,
        )))
    }

    fn record_opening(&self, target_pid: u32, core: &mut Core, turn: &mut Turn<'_>) {
        core.recorded = true;
        let Grant { identity, target, standing } = &self.grant;
        let opened = Record::SessionOpened {
            user: &identity.name,
            groups: identity.groups.iter().map(String::as_str).collect(),
            method: &self.method,
            client: &core.client.to_string(),
            client_tls: &client_tls(core),
            target: &target.name,
            database: &target.database,
            target_user: &target.user,
            target_pid,
            application: &self.wishes.application,
            epoch: standing.epoch,
        };
        turn.out.records.push(core.session, turn.now, &opened);
    }

    fn protocol(&self, what: &str) -> Trouble {
        Trouble::ServerProtocol { what: format!("target \"{}\" sent {what}", self.grant.target.name) }
    }

    fn login(&self, what: &str) -> Trouble {
        Trouble::TargetLogin { message: format!("target \"{}\" {what}", self.grant.target.name) }
    }

    /// What the target said instead of a session. A refused credential is the gateway's own affair: its name is not
    /// the client's to know.
    fn refused(&self, report: backend::Report<'_>) -> Setback {
        let sqlstate = String::from_utf8_lossy(report.code).into_owned();
        if sqlstate.starts_with("28") {
            let trouble =
                self.login(&format!("does not accept the credential that Lockgate has for it ({sqlstate})"));
            return trouble.into();
        }
        let text = String::from_utf8_lossy(report.message).into_owned();
        match GOING_OR_COMING.contains(&sqlstate.as_str()) {
            true => Failure { sqlstate: Some(sqlstate), text }.into(),
            false => Trouble::TargetRefused { sqlstate, message: text }.into(),
        }
    }
}

/// How the client's side is protected, and whose certificate it has shown.
fn client_tls(core: &Core) -> String {
    match (&core.channel.certificate, core.client_tls) {
        (Some(holder), _) => format!("tls, certificate of {}", holder.subject),
        (None, true) => String::from("tls"),
        (None, false) => String::new(),
    }
}

/// How far a message brings it.
enum Progress {
    On,
    /// ReadyForQuery, with this status.
    Ready(u8),
}

fn denied(wishes: &Wishes, grant: &Grant, ruling: &Ruling, core: &mut Core, turn: &mut Turn<'_>) -> Trouble {
    let described = wishes.describe();
    let command = Record::Command {
        command: 1,
        kind: CommandKind::StartUp,
        name: "",
        statement: described.as_bytes(),
        parameters: Vec::new(),
        parameter_types: Vec::new(),
        formats: Vec::new(),
    };
    turn.out.counts.commands += 1;
    turn.out.counts.denied += 1;
    turn.out.records.push(core.session, turn.now, &command);
    let verdict = ruling.record(1, grant.standing.epoch);
    turn.out.records.push(core.session, turn.now, &verdict);
    Trouble::StartupDenied { message: ruling.message(), detail: ruling.detail() }
}

/// Another one for each server that is tried, or the second could answer with what the first has said.
fn nonce(core: &Core) -> Vec<u8> {
    let mut nonce =
        core.entropy.expose().get(scram::NONCE_BYTES..scram::NONCE_BYTES * 2).unwrap_or_default().to_vec();
    for (byte, number) in nonce.iter_mut().zip(core.dials.to_be_bytes()) {
        *byte ^= number;
    }
    nonce
}

/// The key that the client gets: ours, never the server's; its first four bytes name the worker.
fn cancel_key(core: &Core, long: bool) -> Vec<u8> {
    let random = core.entropy.expose().get(scram::NONCE_BYTES * 2..).unwrap_or_default();
    let mut key = random.get(..if long { LONG_KEY_BYTES } else { 4 }).unwrap_or_default().to_vec();
    if let Some(first) = key.first_chunk_mut::<4>() {
        let workers = core.workers.max(1);
        let drawn = u32::from_be_bytes(*first);
        // The largest multiple of `workers` that leaves room for the worker's own number.
        let base = (drawn / workers).min((u32::MAX - core.worker) / workers).saturating_mul(workers);
        *first = base.saturating_add(core.worker).to_be_bytes();
    }
    key
}

/// `"md5" || hex(md5(hex(md5(password || user)) || salt))` (PostgreSQL documentation, "Start-up").
fn md5_answer(password: &[u8], user: &[u8], salt: [u8; 4]) -> String {
    let inner = hex(&Md5::new().chain_update(password).chain_update(user).finalize());
    format!("md5{}", hex(&Md5::new().chain_update(inner).chain_update(salt).finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

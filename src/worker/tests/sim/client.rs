//! Simulated clients: well-behaved ones, which hold every byte against their script, and others.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use lockgate_codecs::postgres::{backend as wire, frame, frontend, startup};
use lockgate_lane::{Verifier, scram};
use lockgate_ring::ListenerId;
use lockgate_ring::sim::{End, Peer, Wire};

use super::script::{Round, Want};
use super::world::Shared;
use crate::tests::gate::{PASSWORD, TARGET, USER};
use crate::tests::server::message;

/// A client that hears nothing for this long goes away.
const PATIENCE_NS: u64 = 120_000_000_000;
/// No salting of a password in these tests takes more.
const ITERATIONS_MAX: u32 = 4096;

/// What a client is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Good,
    /// Takes its time to read.
    Slow,
    /// Resets its connection after so many rounds.
    Resets(usize),
    /// Says no more after so many rounds, without a goodbye.
    Finishes(usize),
    WrongPassword,
    /// Connects, and that is all.
    Silent,
    /// Says anything.
    Raves,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything came as it had to, to the last goodbye.
    Served,
    /// A fatal error with this SQLSTATE.
    Refused(String),
    /// The connection ended.
    Cut(End),
    /// It went away by itself.
    Left,
    /// It heard nothing for too long.
    GaveUp,
}

pub(super) struct Client {
    pub(super) number: usize,
    pub(super) shared: Rc<RefCell<Shared>>,
    pub(super) manner: Manner,
    pub(super) listener: ListenerId,
    pub(super) script: VecDeque<Round>,
    pub(super) asks_for_tls: bool,
    pub(super) state: State,
    pub(super) wants: VecDeque<Want>,
    pub(super) rounds: usize,
    pub(super) key: (u32, Vec<u8>),
    pub(super) heard_ns: u64,
    /// It reads nothing until then.
    pub(super) rests_until_ns: u64,
    /// Nothing further is sent before the answers are here.
    pub(super) waits: bool,
}

pub(super) enum State {
    New,
    TlsAnswer,
    First,
    Challenge(scram::Client),
    Proof(scram::Expected),
    LoggedIn,
    Session,
    Goodbye,
    Over,
}

impl Client {
    fn over(&mut self, outcome: Outcome) {
        if !matches!(self.state, State::Over) {
            self.state = State::Over;
            self.shared.borrow_mut().client_ended(self.number, self.manner, outcome);
        }
    }

    fn begin(&mut self, wire: &mut Wire<'_>) {
        match self.manner {
            Manner::Silent => self.state = State::First,
            Manner::Raves => {
                let mut bytes = vec![0; wire.random().length(1, 3000)];
                wire.random().fill(&mut bytes);
                if wire.random().chance(500) {
                    // Something that begins well.
                    bytes = [start_up(), bytes].concat();
                }
                wire.send(&bytes);
                self.state = State::First;
            }
            _ if self.asks_for_tls => {
                let mut request = Vec::new();
                startup::write_ssl_request(&mut request);
                wire.send(&request);
                self.state = State::TlsAnswer;
            }
            _ => {
                wire.send(&start_up());
                self.state = State::First;
            }
        }
    }

    fn message(&mut self, kind: u8, body: &[u8], whole: &[u8], wire: &mut Wire<'_>) {
        if kind == wire::ERROR {
            let report = wire::report(body).unwrap();
            if report.is_fatal() {
                let code = String::from_utf8_lossy(report.code).into_owned();
                return self.over(Outcome::Refused(code));
            }
        }
        match std::mem::replace(&mut self.state, State::Over) {
            State::Session | State::Goodbye => {
                self.state = State::Session;
                self.hear(kind, body, whole);
            }
            state => self.state = self.log_in(state, kind, body, wire),
        }
    }

    fn log_in(&mut self, state: State, kind: u8, body: &[u8], wire: &mut Wire<'_>) -> State {
        let what = body.first_chunk().map(|kind| u32::from_be_bytes(*kind));
        let mut out = Vec::new();
        match (state, kind, what) {
            (State::First, wire::AUTHENTICATION, Some(10)) => {
                let mut entropy = [0; scram::NONCE_BYTES];
                wire.random().fill(&mut entropy);
                let (client, first) = scram::Client::begin(scram::Binding::None, &entropy);
                frontend::write_sasl_initial(&mut out, scram::SHA_256, first.as_bytes());
                wire.send(&out);
                State::Challenge(client)
            }
            (State::Challenge(client), wire::AUTHENTICATION, Some(11)) => {
                let challenge = client.challenge(&body[4..], ITERATIONS_MAX).unwrap();
                let password = if self.manner == Manner::WrongPassword { "wrong" } else { PASSWORD };
                let (salt, iterations) = (&challenge.salt, challenge.iterations);
                let salted = Verifier::salt_password(password.as_bytes(), salt, iterations);
                let (response, expected) = challenge.respond(&salted);
                frontend::write_sasl_response(&mut out, response.as_bytes());
                wire.send(&out);
                State::Proof(expected)
            }
            (State::Proof(expected), wire::AUTHENTICATION, Some(12)) => {
                expected.check(&body[4..]).unwrap();
                State::LoggedIn
            }
            (State::LoggedIn, wire::AUTHENTICATION, Some(0)) => State::LoggedIn,
            (State::LoggedIn, wire::PARAMETER_STATUS, _) => State::LoggedIn,
            (State::LoggedIn, wire::BACKEND_KEY_DATA, Some(process_id)) => {
                self.key = (process_id, body[4..].to_vec());
                State::LoggedIn
            }
            (State::LoggedIn, wire::READY_FOR_QUERY, _) => State::Session,
            (state, kind, _) => {
                self.complain(&format!("message {:?} during the log-in", char::from(kind)));
                state
            }
        }
    }

    /// One message of the session: it must be the next.
    fn hear(&mut self, kind: u8, body: &[u8], whole: &[u8]) {
        match self.wants.pop_front() {
            Some(Want::Exact(bytes)) if bytes == whole => {}
            Some(Want::Error(code)) if kind == wire::ERROR => {
                let report = wire::report(body).unwrap();
                if report.code != code.as_bytes() {
                    let said = String::from_utf8_lossy(report.code).into_owned();
                    self.complain(&format!("an error {said} where {code} was due"));
                }
            }
            want => {
                let want = want.map(|want| match want {
                    Want::Exact(bytes) => shown(&bytes),
                    Want::Error(code) => format!("error {code}"),
                });
                self.complain(&format!("heard {} where {want:?} was due", shown(whole)));
                self.over(Outcome::Left);
            }
        }
    }

    fn complain(&self, what: &str) {
        self.shared.borrow_mut().complain(format!("client {}: {what}", self.number));
    }

    /// Says what may be said now.
    fn speak(&mut self, wire: &mut Wire<'_>) {
        while matches!(self.state, State::Session) && (!self.waits || self.wants.is_empty()) {
            match self.manner {
                Manner::Resets(after) if self.rounds >= after => {
                    wire.reset();
                    return self.over(Outcome::Left);
                }
                Manner::Finishes(after) if self.rounds >= after => {
                    wire.finish();
                    return self.over(Outcome::Left);
                }
                _ => {}
            }
            let Some(round) = self.script.pop_front() else { break };
            self.rounds += 1;
            wire.send(&round.send);
            self.wants.extend(round.wants);
            self.waits = !round.pipelined;
            if round.sleeps {
                self.send_canceller(wire);
            }
            if self.manner == Manner::Slow && wire.random().chance(300) {
                let rest_ns = wire.random().below(5_000_000_000);
                self.rests_until_ns = wire.now_ns() + rest_ns;
                wire.wake_in(rest_ns);
            }
        }
        if matches!(self.state, State::Session) && self.script.is_empty() && self.wants.is_empty() {
            wire.send(&message(frontend::TERMINATE, b""));
            self.state = State::Goodbye;
        }
    }

    fn send_canceller(&self, wire: &mut Wire<'_>) {
        let (process_id, mut secret) = self.key.clone();
        let wrong = wire.random().chance(100);
        if wrong {
            secret[3] ^= 1;
        }
        let mut request = Vec::new();
        startup::write_cancel_request(&mut request, process_id, &secret);
        let shared = Rc::clone(&self.shared);
        let delay_ns = 100_000_000 + wire.random().below(2_000_000_000);
        let canceller = Canceller { shared, request, sent: false, since_ns: 0 };
        let from = SocketAddr::from(([10, 9, 9, 9], 9));
        self.shared.borrow_mut().running += 1;
        wire.connect_in(delay_ns, self.listener, from, Box::new(canceller));
    }

    /// The gateway says no more.
    fn ended(&mut self, end: End, wire: &mut Wire<'_>) {
        let rest = std::mem::take(wire.input());
        if let Some(Want::Exact(bytes)) = self.wants.front()
            && rest.first() != Some(&wire::ERROR)
            && !bytes.starts_with(&rest)
        {
            self.complain(&format!("the last it heard was {}", shown(&rest)));
        }
        let served = matches!(self.state, State::Goodbye) && rest.is_empty() && end == End::Finished;
        self.over(if served { Outcome::Served } else { Outcome::Cut(end) });
    }
}

impl Peer for Client {
    fn act(&mut self, wire: &mut Wire<'_>) {
        wire.read(wire.now_ns() >= self.rests_until_ns);
        if matches!(self.state, State::New) {
            self.begin(wire);
            self.heard_ns = wire.now_ns();
            wire.wake_in(PATIENCE_NS);
        }
        if matches!(self.state, State::TlsAnswer) && !wire.input().is_empty() {
            // Who has no room for a client says so before it has asked for anything.
            if wire.input().first() != Some(&wire::ERROR) {
                let answer = wire.input().remove(0);
                if answer != b'N' {
                    self.complain(&format!("the answer to a request for TLS was {answer}"));
                }
                wire.send(&start_up());
            }
            self.state = State::First;
        }
        if !wire.input().is_empty() {
            self.heard_ns = wire.now_ns();
        }
        while !matches!(self.state, State::Over | State::TlsAnswer) {
            let input = std::mem::take(wire.input());
            let Ok(Some(found)) = frame::split(&input) else {
                *wire.input() = input;
                break;
            };
            *wire.input() = found.behind.to_vec();
            let whole = &input[..input.len() - found.behind.len()];
            self.message(found.kind, found.body, whole, wire);
        }
        self.speak(wire);
        if let Some(end) = wire.end() {
            if !matches!(self.state, State::Over) {
                self.ended(end, wire);
            }
            wire.finish();
        } else if matches!(self.state, State::Over) {
            wire.input().clear();
            wire.finish();
        } else if wire.now_ns() >= self.heard_ns + PATIENCE_NS {
            wire.reset();
            self.over(Outcome::GaveUp);
        } else if wire.now_ns() > self.heard_ns {
            wire.wake_in(PATIENCE_NS);
        }
    }
}

/// Delivers a CancelRequest and waits for the end of its connection.
struct Canceller {
    shared: Rc<RefCell<Shared>>,
    request: Vec<u8>,
    sent: bool,
    since_ns: u64,
}

impl Peer for Canceller {
    fn act(&mut self, wire: &mut Wire<'_>) {
        if self.request.is_empty() {
            return;
        }
        if !self.sent {
            wire.send(&self.request);
            self.sent = true;
            self.since_ns = wire.now_ns();
            wire.wake_in(PATIENCE_NS);
        }
        let late = wire.now_ns() >= self.since_ns + PATIENCE_NS;
        // Whoever comes when the gateway ends hears that, whatever they have come for.
        let told = wire.input().first() == Some(&wire::ERROR) && !self.shared.borrow().calm;
        if !wire.input().is_empty() && !told {
            self.shared.borrow_mut().complain(String::from("a cancel request was answered"));
        }
        if wire.end().is_some() || late {
            self.request.clear();
            wire.reset();
            let mut shared = self.shared.borrow_mut();
            shared.running -= 1;
            if late && shared.calm {
                shared.complain(String::from("a cancel request's connection does not end"));
            }
        }
    }
}

fn start_up() -> Vec<u8> {
    let mut out = Vec::new();
    let version = startup::Version { major: 3, minor: 0 };
    let parameters = [(&b"user"[..], USER.as_bytes()), (b"database", TARGET.as_bytes())];
    startup::write_startup(&mut out, version, &parameters);
    out
}

fn shown(bytes: &[u8]) -> String {
    format!("{} bytes {}", bytes.len(), bytes[..bytes.len().min(60)].escape_ascii())
}

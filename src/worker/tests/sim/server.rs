//! The simulated PostgreSQL server: one peer for each connection, which watches what reaches it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use lockgate_codecs::postgres::startup::{self, First};
use lockgate_codecs::postgres::{backend as wire, frame, frontend};
use lockgate_lane::{Verifier, scram};
use lockgate_ring::sim::{Peer, Wire};

use super::backend::{Backend, Next, marker};
use super::script::DENIED;
use super::world::Shared;
use crate::tests::server::message;

/// A sleep ends by itself after this long, as a cancelled one does.
const SLEEP_NS: u64 = 20_000_000_000;
/// How often a sleeper looks whether it was cancelled.
const LOOK_NS: u64 = 20_000_000;

pub(super) struct Server {
    shared: Rc<RefCell<Shared>>,
    process_id: u32,
    state: State,
    backend: Backend,
    /// It dies after this many messages, and how.
    dies_after: Option<(u64, Death)>,
    messages: u64,
}

#[derive(Clone, Copy)]
enum Death {
    Reset,
    Close,
    Fatal,
    Deaf,
}

enum State {
    Startup,
    Sasl(Arc<Verifier>),
    SaslFinal(scram::Server),
    Session,
    Sleeping { until_ns: u64 },
    Over,
}

impl Server {
    pub(super) fn new(shared: &Rc<RefCell<Shared>>) -> Server {
        let mut state = shared.borrow_mut();
        state.last_process_id += 1;
        let process_id = state.last_process_id;
        Server {
            shared: Rc::clone(shared),
            process_id,
            state: State::Startup,
            backend: Backend::new(),
            dies_after: None,
            messages: 0,
        }
    }

    fn first(&mut self, wire: &mut Wire<'_>) -> bool {
        let Ok(Some(length)) = startup::packet_bytes(wire.input()) else { return false };
        if wire.input().len() < length {
            return false;
        }
        let packet: Vec<u8> = wire.input().drain(..length).collect();
        let (died, random) = (self.shared.borrow().servers_die, wire.random());
        if random.chance(died) {
            let deaths = [Death::Reset, Death::Close, Death::Fatal, Death::Deaf];
            self.dies_after = Some((random.below(40), deaths[random.length(0, deaths.len() - 1)]));
        }
        match startup::parse(&packet).unwrap() {
            First::Cancel { process_id, secret } => {
                self.shared.borrow_mut().cancel(process_id, secret);
                self.state = State::Over;
                wire.finish();
            }
            First::Startup(_) => {
                let verifier = self.shared.borrow().target_verifier.clone();
                match verifier {
                    Some(verifier) => {
                        let mut out = Vec::new();
                        wire::write_authentication(&mut out, 10, b"SCRAM-SHA-256\0\0");
                        wire.send(&out);
                        self.state = State::Sasl(verifier);
                    }
                    None => self.welcome(wire),
                }
            }
            other => self.complain(&format!("the server was asked for {other:?}")),
        }
        true
    }

    fn welcome(&mut self, wire: &mut Wire<'_>) {
        let mut out = Vec::new();
        wire::write_authentication(&mut out, 0, b"");
        for setting in [&b"client_encoding\0UTF8\0"[..], b"standard_conforming_strings\0on\0"] {
            out.extend(message(wire::PARAMETER_STATUS, setting));
        }
        wire::write_backend_key_data(&mut out, self.process_id, &secret(self.process_id));
        out.extend(message(wire::READY_FOR_QUERY, b"I"));
        wire.send(&out);
        self.state = State::Session;
    }

    fn message(&mut self, kind: u8, body: &[u8], wire: &mut Wire<'_>) {
        let mut out = Vec::new();
        match std::mem::replace(&mut self.state, State::Over) {
            State::Sasl(verifier) => {
                let (_, first) = frontend::sasl_initial(body).unwrap();
                let mut entropy = [0; scram::NONCE_BYTES];
                wire.random().fill(&mut entropy);
                let (server, challenge) =
                    scram::Server::begin(verifier, scram::Offer::Unbound, first, &entropy).unwrap();
                wire::write_authentication(&mut out, 11, challenge.as_bytes());
                self.state = State::SaslFinal(server);
                wire.send(&out);
            }
            State::SaslFinal(server) => match server.finish(body) {
                Ok(proof) => {
                    wire::write_authentication(&mut out, 12, proof.as_bytes());
                    wire.send(&out);
                    self.welcome(wire);
                }
                Err(error) => self.complain(&format!("the gateway did not prove itself: {error:?}")),
            },
            _ => self.command(kind, body, wire),
        }
    }

    fn command(&mut self, kind: u8, body: &[u8], wire: &mut Wire<'_>) {
        if kind != frontend::COPY_DATA && memchr::memmem::find(body, DENIED.as_bytes()).is_some() {
            self.complain("a denied command reached the server");
        }
        let mut out = Vec::new();
        let mut executed = Vec::new();
        let next = self.backend.message(kind, body, &mut out, &mut |sql| executed.push(sql.to_owned()));
        for sql in executed {
            self.seen(&sql, wire);
        }
        wire.send(&out);
        self.state = match next {
            Next::Go => State::Session,
            Next::Bye => {
                wire.finish();
                State::Over
            }
            Next::Sleep => {
                self.shared.borrow_mut().cancelled.remove(&self.process_id);
                wire.wake_in(LOOK_NS);
                State::Sleeping { until_ns: wire.now_ns() + SLEEP_NS }
            }
        };
    }

    /// A command is carried out: its record must be as safe by now as was promised.
    fn seen(&mut self, sql: &str, wire: &mut Wire<'_>) {
        let Some(marker) = marker(sql) else {
            return self.complain(&format!("the server was told what no client said: {sql:?}"));
        };
        let mut shared = self.shared.borrow_mut();
        shared.seen.insert(marker.to_owned());
        if shared.durable && !shared.is_recorded(marker, wire.disk().acknowledged()) {
            shared.complain(format!("{marker} reached the server before its record the disk"));
        }
    }

    fn complain(&self, what: &str) {
        self.shared.borrow_mut().complain(format!("server {}: {what}", self.process_id));
    }

    fn look(&mut self, wire: &mut Wire<'_>) {
        let State::Sleeping { until_ns } = self.state else { return };
        let cancelled = self.shared.borrow_mut().cancelled.remove(&self.process_id);
        if cancelled || wire.now_ns() >= until_ns {
            self.shared.borrow_mut().slept(cancelled);
            let mut out = Vec::new();
            self.backend.wake(&mut out);
            wire.send(&out);
            self.state = State::Session;
        } else {
            wire.wake_in(LOOK_NS);
        }
    }

    fn die(&mut self, how: Death, wire: &mut Wire<'_>) {
        self.state = State::Over;
        match how {
            Death::Reset => wire.reset(),
            Death::Close => wire.finish(),
            Death::Deaf => wire.read(false),
            Death::Fatal => {
                let text = "terminating connection due to administrator command";
                let error =
                    wire::ErrorText { severity: "FATAL", code: "57P01", message: text, detail: "", hint: "" };
                let mut out = Vec::new();
                wire::write_error(&mut out, &error);
                wire.send(&out);
                wire.finish();
            }
        }
    }
}

/// The server's own cancel key.
pub(super) fn secret(process_id: u32) -> [u8; 4] {
    process_id.wrapping_mul(2_654_435_761).to_be_bytes()
}

impl Peer for Server {
    fn act(&mut self, wire: &mut Wire<'_>) {
        self.look(wire);
        loop {
            match self.state {
                State::Over => {
                    wire.input().clear();
                    break;
                }
                State::Sleeping { .. } => break,
                State::Startup => {
                    if !self.first(wire) {
                        break;
                    }
                }
                _ => {
                    let input = std::mem::take(wire.input());
                    let Some(found) = frame::split(&input).unwrap() else {
                        *wire.input() = input;
                        break;
                    };
                    self.messages += 1;
                    *wire.input() = found.behind.to_vec();
                    if let Some((after, how)) = self.dies_after
                        && self.messages > after
                    {
                        self.die(how, wire);
                        continue;
                    }
                    self.message(found.kind, found.body, wire);
                }
            }
        }
        if wire.end().is_some() {
            self.state = State::Over;
            wire.finish();
        }
    }
}

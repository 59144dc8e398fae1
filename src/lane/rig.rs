//! A lane between a scripted client and a scripted server, for tests and fuzzing: carries out every action in memory.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use lockgate_codecs::postgres::{backend, frame, frontend, startup, write};
use lockgate_facts::postgres::Catalog;
use lockgate_mask::{ColumnMasks, Mask, Rule};
use lockgate_policy_dsl::{PolicySet, Source, compile};
use lockgate_recording::{Draft, SessionId, Time};

use crate::{
    Action, Answer, ClientTls, Dialed, Dialing, Grant, Identity, Judge, Lane, Limits, ListenerAuth,
    ListenerRules, ListenerTls, LoginAnswer, Opening, Outbox, SaltRequest, SessionAttrs, Side, Standing,
    Target, TargetTls, Verifier, scram,
};

/// What the rig's user types.
pub const PASSWORD: &[u8] = b"secret";

/// OID of the rig's one table with a masked column (attribute 2).
pub const MASKED_TABLE: u32 = 4711;

/// A lane and both of its peers' wires.
#[derive(Debug)]
pub struct Rig {
    /// The lane itself.
    pub lane: Lane,
    /// What the client has been sent and has not looked at.
    pub to_client: Vec<u8>,
    /// What the server has been sent and has not looked at.
    pub to_server: Vec<u8>,
    /// Why the lane closed the session, once it has.
    pub closed: Option<String>,
    /// The cancel key the client was given.
    pub key: Option<(u32, Vec<u8>)>,
    /// Keys that were asked to be cancelled upstream.
    pub cancelled: Vec<(u32, Vec<u8>)>,
    /// TLS was begun on these sides.
    pub tls: Vec<Side>,
    /// Addresses that were dialed, by number.
    pub dialed: Vec<usize>,
    /// What a dialed address answers; by number, and all others succeed.
    pub unreachable: Vec<usize>,
    /// TLS to the server is not answered.
    pub tls_hangs: bool,
    /// Questions about salts are put here instead of being answered.
    pub salts: Option<Vec<SaltRequest>>,
    addresses: usize,
    /// What TLS with the client brings to light.
    pub client_tls: ClientTls,
    grant: Grant,
    judge: Judge,
    out: Outbox,
    now: Time,
}

/// How a rig is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Policy text; its group is `g`, its target `t`.
    pub policy: String,
    /// Column 2 of [`MASKED_TABLE`] is masked.
    pub masked: bool,
    /// The listener's rules.
    pub rules: ListenerRules,
    /// The target's TLS.
    pub target_tls: TargetTls,
    /// Which of its servers will do.
    pub attrs: SessionAttrs,
    /// How many addresses it has.
    pub addresses: usize,
    /// The lane's limits.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            policy: String::from("policy p for group \"g\" on target \"t\" { allow * on * }"),
            masked: false,
            rules: ListenerRules::new(ListenerTls::Optional, ListenerAuth::Scram),
            target_tls: TargetTls::Disable,
            attrs: SessionAttrs::Any,
            addresses: 1,
            limits: Limits::default(),
        }
    }
}

fn policies(text: &str) -> Option<PolicySet> {
    compile(&[Source { name: String::from("rig"), text: text.to_owned() }]).ok().map(|(set, _)| set)
}

impl Rig {
    /// A lane that has just been accepted.
    pub fn new(settings: &Settings, catalog: Arc<Catalog>) -> Option<Rig> {
        let groups = vec![String::from("g")];
        let program = policies(&settings.policy)?.program("u", &groups, "t")?;
        let mut masks = ColumnMasks::default();
        if settings.masked {
            let rule = Rule {
                name: Arc::from("p/mask"),
                place: Arc::from("public.customers.email"),
                mask: Mask::Redact,
            };
            masks.add(MASKED_TABLE, 2, rule);
        }
        let target = Target {
            name: String::from("t"),
            attrs: settings.attrs,
            database: String::from("db"),
            user: String::from("app"),
            password: Some(crate::Secret::new(b"target-secret".to_vec())),
            tls: settings.target_tls,
        };
        let identity = Arc::new(Identity { name: String::from("u"), groups });
        let standing = Arc::new(Standing { epoch: 1, program, catalog, masks });
        let now = Time { monotonic_ns: 1, wall_us: 1 };
        let opening = Opening {
            session: SessionId(0xabc),
            client: SocketAddr::from((Ipv4Addr::LOCALHOST, 9)),
            worker: 1,
            workers: 3,
            listener: Arc::new(settings.rules.clone()),
            limits: Arc::new(settings.limits.clone()),
            entropy: crate::Secret::new(vec![0x5a; 96]),
            now,
        };
        Some(Rig {
            lane: Lane::postgres(opening),
            to_client: Vec::new(),
            to_server: Vec::new(),
            closed: None,
            key: None,
            cancelled: Vec::new(),
            tls: Vec::new(),
            dialed: Vec::new(),
            unreachable: Vec::new(),
            tls_hangs: false,
            salts: None,
            addresses: settings.addresses,
            client_tls: ClientTls::default(),
            grant: Grant { identity, target: Arc::new(target), standing },
            judge: Judge::new(1 << 20),
            out: Outbox::default(),
            now,
        })
    }

    /// A lane whose session stands: the server asked for no password.
    pub fn standing(settings: &Settings, catalog: Arc<Catalog>) -> Option<Rig> {
        let mut rig = Rig::new(settings, catalog)?;
        rig.log_in(&[]);
        rig.server(&server_welcome(b"1234"));
        rig.to_client.clear();
        rig.to_server.clear();
        Some(rig)
    }

    /// The client's side of start-up and SCRAM.
    pub fn log_in(&mut self, parameters: &[startup::Parameter<'_>]) {
        let mut packet = Vec::new();
        let mut all: Vec<startup::Parameter<'_>> = vec![(b"user", b"u"), (b"database", b"t")];
        all.extend_from_slice(parameters);
        startup::write_startup(&mut packet, startup::Version { major: 3, minor: 0 }, &all);
        self.client(&packet);
        self.prove(PASSWORD);
    }

    /// The client's side of SCRAM.
    pub fn prove(&mut self, password: &[u8]) {
        let (client, first) = scram::Client::begin(scram::Binding::None, &[3; 18]);
        self.to_client.clear();
        let mut message = Vec::new();
        frontend::write_sasl_initial(&mut message, scram::SHA_256, first.as_bytes());
        self.client(&message);
        let Some(challenge) =
            authentication(&self.to_client).and_then(|body| client.challenge(&body, 5000).ok())
        else {
            return;
        };
        let salted = Verifier::salt_password(password, &challenge.salt, challenge.iterations);
        let (response, _) = challenge.respond(&salted);
        self.to_client.clear();
        let mut message = Vec::new();
        frontend::write_sasl_response(&mut message, response.as_bytes());
        self.client(&message);
    }

    /// Bytes of the client's.
    pub fn client(&mut self, bytes: &[u8]) {
        self.receive(Side::Client, bytes);
    }

    /// Bytes of the server's.
    pub fn server(&mut self, bytes: &[u8]) {
        self.receive(Side::Server, bytes);
    }

    /// Bytes of either side, and as many turns as the lane makes of them.
    pub fn receive(&mut self, side: Side, bytes: &[u8]) {
        self.one_turn(side, bytes);
        while self.lane.is_unfinished() {
            self.go_on();
        }
    }

    /// Bytes of either side, in one turn.
    pub fn one_turn(&mut self, side: Side, bytes: &[u8]) {
        let mut input = bytes.to_vec();
        self.lane.receive(side, &mut input, self.now, &mut self.judge, &mut self.out);
        self.act(&input);
    }

    /// The next turn of a lane that is unfinished.
    pub fn go_on(&mut self) {
        self.now.monotonic_ns = self.now.monotonic_ns.saturating_add(1);
        self.lane.go_on(self.now, &mut self.judge, &mut self.out);
        self.act(&[]);
    }

    /// An answer to a question.
    pub fn answer(&mut self, answer: Answer) {
        self.lane.answer(answer, self.now, &mut self.judge, &mut self.out);
        self.act(&[]);
    }

    /// One side's connection ended.
    pub fn hang_up(&mut self, side: Side, error: &str) {
        self.lane.closed(side, error, self.now, &mut self.out);
        self.act(&[]);
    }

    /// Time passes.
    pub fn wait(&mut self, ns: u64) {
        self.now.monotonic_ns = self.now.monotonic_ns.saturating_add(ns);
        self.lane.expire(self.now, &mut self.out);
        self.act(&[]);
    }

    /// Somebody sent the session's cancel key.
    pub fn cancel(&mut self) {
        self.lane.cancel_requested(SocketAddr::from((Ipv4Addr::LOCALHOST, 10)), self.now, &mut self.out);
        self.act(&[]);
    }

    /// Everything the client was sent since it last looked.
    pub fn take_client(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.to_client)
    }

    /// Everything the server was sent since it last looked.
    pub fn take_server(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.to_server)
    }

    /// Records so far, in bytes.
    pub fn recorded(&self) -> usize {
        self.out.records.len()
    }

    /// The records so far.
    pub fn records(&mut self) -> &mut Draft {
        &mut self.out.records
    }

    fn act(&mut self, input: &[u8]) {
        let actions = std::mem::take(&mut self.out.actions);
        let arena = std::mem::take(&mut self.out.arena);
        let mut answers = Vec::new();
        for action in actions {
            match action {
                Action::Forward { to, range } => self.send(to, input.get(range).unwrap_or_default()),
                Action::Send { to, range } => self.send(to, arena.get(range).unwrap_or_default()),
                Action::Login(_) => {
                    let verifier = Arc::new(Verifier::derive(PASSWORD, vec![7; 16], 16));
                    let (certificate_name, grant) = (Some(Arc::from("u")), Ok(self.grant.clone()));
                    answers.push(Answer::Login(LoginAnswer { verifier, certificate_name, grant }));
                }
                Action::Salt(request) => match &mut self.salts {
                    Some(salts) => salts.push(request),
                    None => answers.push(salted(&request)),
                },
                Action::Seat => answers.push(Answer::Seated(Ok(()))),
                Action::Dial(which) => answers.push(Answer::Dialed(self.dial(which))),
                Action::StartTls { side } => {
                    self.tls.push(side);
                    match side {
                        Side::Server if self.tls_hangs => {}
                        Side::Server => answers.push(Answer::TlsReady { end_point: None }),
                        Side::Client => answers.push(Answer::ClientTlsReady(self.client_tls.clone())),
                    }
                }
                Action::RegisterKey { process_id, secret } => {
                    self.key = Some((process_id, secret.expose().to_vec()))
                }
                Action::CancelUpstream { process_id, secret } => {
                    self.cancelled.push((process_id, secret.expose().to_vec()))
                }
                Action::Close { reason } => self.closed = Some(reason.text),
                Action::RouteCancel(_) | Action::Established => {}
            }
        }
        for answer in answers {
            self.answer(answer);
        }
    }

    fn dial(&mut self, which: Dialing) -> Dialed {
        self.to_server.clear();
        let number = match (which, self.dialed.last()) {
            (Dialing::First, _) | (Dialing::Next, None) => 0,
            (Dialing::Next, Some(last)) => last + 1,
        };
        if number >= self.addresses {
            return Dialed::Exhausted;
        }
        self.dialed.push(number);
        let port = u16::try_from(number).unwrap_or(u16::MAX);
        let result = match self.unreachable.contains(&number) {
            true => Err(String::from("Connection refused")),
            false => Ok(()),
        };
        Dialed::Address(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), result)
    }

    fn send(&mut self, to: Side, bytes: &[u8]) {
        match to {
            Side::Client => self.to_client.extend_from_slice(bytes),
            Side::Server => self.to_server.extend_from_slice(bytes),
        }
    }
}

/// The answer to a question about a salt.
pub fn salted(request: &SaltRequest) -> Answer {
    let key = Verifier::salt_password(request.password.expose(), &request.salt, request.iterations);
    Answer::Salted { number: request.number, key: crate::SaltedKey(key) }
}

/// What a server says when it asks for nothing.
pub fn server_welcome(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    backend::write_authentication(&mut out, 0, b"");
    for (name, value) in [("client_encoding", "UTF8"), ("standard_conforming_strings", "on")] {
        write::message(&mut out, backend::PARAMETER_STATUS, |body| {
            body.string(name.as_bytes()).string(value.as_bytes());
        });
    }
    backend::write_backend_key_data(&mut out, 77, key);
    ready(&mut out, b'I');
    out
}

/// A ReadyForQuery.
pub fn ready(out: &mut Vec<u8>, status: u8) {
    write::message(out, backend::READY_FOR_QUERY, |body| {
        body.u8(status);
    });
}

/// The data of the last authentication request among some messages.
fn authentication(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut last = None;
    while let Ok(Some(message)) = frame::split(bytes) {
        if message.kind == backend::AUTHENTICATION {
            last = message.body.get(4..).map(<[u8]>::to_vec);
        }
        bytes = message.behind;
    }
    last
}

//! A whole lane with everything on: framing, facts, policy, masks, recording, both ways.

use std::collections::VecDeque;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use lockgate_codecs::postgres::backend;
use lockgate_lane::{
    Action, Answer, ClientTls, Counts, Dialed, Grant, HolderNames, Identity, Judge, Lane, Limits,
    ListenerAuth, ListenerRules, ListenerTls, LoginAnswer, Opening, Outbox, Secret, SessionAttrs, Side,
    Standing, Target, TargetTls, Verifier,
};
use lockgate_mask::Mask;
use lockgate_recording::{SessionId, Time};

use crate::facts::{self, FACTS_BYTES_MAX, Fresh};
use crate::mask::{self, SLOT_BYTES};
use crate::messages::{self, COLUMNS, POINT_COLUMNS, ROWS, ROWS_BYTES};
use crate::recording::Sink;
use crate::{Bench, Setup, Work, verdict};

/// Commands of one call; behind the last their block is sealed.
const COMMANDS: u64 = 128;

/// Rules of the policy that stands.
const RULES: usize = 100;

pub(crate) const BENCHES: &[Bench] = &[
    Bench { name: "lane/simple", work: Work::Items(COMMANDS), set_up: simple },
    Bench { name: "lane/simple_new", work: Work::Items(COMMANDS), set_up: simple_new },
    Bench { name: "lane/prepared", work: Work::Items(COMMANDS), set_up: prepared },
    Bench { name: "lane/rows_64k", work: Work::Bytes(ROWS_BYTES), set_up: || rows("orders", 0) },
    Bench { name: "lane/rows_masked_64k", work: Work::Bytes(ROWS_BYTES), set_up: || rows("customers", 2) },
];

/// An open session with all that it stands on.
struct Gate {
    lane: Lane,
    judge: Judge,
    out: Outbox,
    sink: Sink,
    now: Time,
    grant: Grant,
    sent: Sent,
    closed: Option<String>,
}

/// Bytes that were sent since somebody asked.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sent {
    client: usize,
    server: usize,
}

impl Gate {
    fn standing() -> Result<Gate, Box<dyn Error>> {
        let now = Time { monotonic_ns: 1, wall_us: 1 };
        let mut gate = Gate {
            lane: Lane::postgres(opening(now)),
            judge: Judge::new(FACTS_BYTES_MAX),
            out: Outbox::default(),
            sink: Sink::new(now)?,
            now,
            grant: grant()?,
            sent: Sent::default(),
            closed: None,
        };
        gate.lane.tls_began();
        gate.answer(Answer::ClientTlsReady(ClientTls {
            end_point: None,
            certificate: Some(HolderNames { subject: String::from("CN=u"), names: vec![String::from("u")] }),
        }));
        gate.tell(Side::Client, &mut messages::start_up("u", "t"));
        gate.tell(Side::Server, &mut messages::welcome());
        match (&gate.closed, gate.lane.is_idle() && gate.out.records.sessions() == 1) {
            (None, true) => Ok(gate),
            (why, _) => Err(format!("the session does not stand: {why:?}").into()),
        }
    }

    /// Bytes came, in a turn of their own. They are the same every time: a lane that changed them in place would have to
    /// be given copies.
    fn tell(&mut self, side: Side, bytes: &mut [u8]) {
        self.now.monotonic_ns += 10_000;
        self.now.wall_us += 10;
        self.lane.receive(side, bytes, self.now, &mut self.judge, &mut self.out);
        self.settle();
    }

    fn answer(&mut self, answer: Answer) {
        self.lane.answer(answer, self.now, &mut self.judge, &mut self.out);
        self.settle();
    }

    /// Carries the actions out as a worker does, but that nothing leaves.
    fn settle(&mut self) {
        let mut answers = VecDeque::new();
        for action in self.out.actions.drain(..) {
            match action {
                Action::Forward { to: Side::Client, range } | Action::Send { to: Side::Client, range } => {
                    self.sent.client += range.len();
                }
                Action::Forward { to: Side::Server, range } | Action::Send { to: Side::Server, range } => {
                    self.sent.server += range.len();
                }
                Action::Close { reason } => self.closed = Some(reason.text),
                other => answers.extend(answer_to(&other, &self.grant)),
            }
        }
        self.out.arena.clear();
        for answer in answers {
            self.answer(answer);
        }
    }

    /// What was sent, and what was counted, since this was last asked.
    fn take(&mut self) -> (Sent, Counts) {
        (std::mem::take(&mut self.sent), std::mem::take(&mut self.out.counts))
    }

    /// Seals the block; whether that leaves nothing.
    fn seal(&mut self) -> bool {
        self.sink.seal(&mut self.out.records, self.now) > 0 && self.out.records.is_empty()
    }
}

fn opening(now: Time) -> Opening {
    Opening {
        session: SessionId(0xabc),
        client: SocketAddr::from((Ipv4Addr::LOCALHOST, 9)),
        worker: 0,
        workers: 1,
        listener: Arc::new(ListenerRules::new(ListenerTls::Required, ListenerAuth::Certificate)),
        limits: Arc::new(Limits::default()),
        entropy: Secret::new(vec![0x5a; 96]),
        now,
    }
}

fn grant() -> Result<Grant, Box<dyn Error>> {
    let target = Target {
        name: String::from("t"),
        attrs: SessionAttrs::Any,
        database: String::from("db"),
        user: String::from("app"),
        password: None,
        tls: TargetTls::Disable,
    };
    let standing = Standing {
        epoch: 1,
        program: verdict::program(RULES)?,
        catalog: facts::catalog()?,
        masks: mask::masks(Mask::Redact),
    };
    Ok(Grant {
        identity: Arc::new(Identity { name: String::from("u"), groups: vec![String::from("g")] }),
        target: Arc::new(target),
        standing: Arc::new(standing),
    })
}

fn answer_to(action: &Action, grant: &Grant) -> Option<Answer> {
    match action {
        Action::Login(_) => Some(Answer::Login(LoginAnswer {
            verifier: Arc::new(Verifier::derive(b"unused", vec![7; 16], 1)),
            certificate_name: Some(Arc::from("u")),
            grant: Ok(grant.clone()),
        })),
        Action::Seat => Some(Answer::Seated(Ok(()))),
        Action::Dial(_) => {
            Some(Answer::Dialed(Dialed::Address(SocketAddr::from((Ipv4Addr::LOCALHOST, 5432)), Ok(()))))
        }
        _ => None,
    }
}

/// The answer to a Query for one customer.
fn one_customer() -> Vec<u8> {
    [
        messages::row_description(POINT_COLUMNS, messages::CUSTOMERS),
        messages::row(42, POINT_COLUMNS),
        messages::completed("SELECT 1"),
    ]
    .concat()
}

/// What a client is spared of a customer: the address is `[REDACTED]`.
const REDACTED_LESS: usize = 21;

/// Each command was let through whole, and its row masked.
fn is_whole((sent, counts): (Sent, Counts), to_server: usize, to_client: usize) -> bool {
    let commands = usize::try_from(COMMANDS).unwrap_or(usize::MAX);
    counts == Counts { commands: COMMANDS, denied: 0, cells_masked: COMMANDS }
        && sent == Sent { server: commands * to_server, client: commands * (to_client - REDACTED_LESS) }
}

/// One statement again and again.
fn simple() -> Setup {
    let mut gate = Gate::standing()?;
    let mut query = messages::query(Fresh::new(facts::POINT).next());
    let mut result = one_customer();
    gate.take();
    Ok(Box::new(move || {
        for _ in 0..COMMANDS {
            gate.tell(Side::Client, &mut query);
            gate.tell(Side::Server, &mut result);
        }
        is_whole(gate.take(), query.len(), result.len()) && gate.seal()
    }))
}

/// No statement twice.
fn simple_new() -> Setup {
    let mut gate = Gate::standing()?;
    let mut fresh = Fresh::new(facts::POINT);
    let (length, mut result) = (messages::query(fresh.next()).len(), one_customer());
    gate.take();
    Ok(Box::new(move || {
        for _ in 0..COMMANDS {
            gate.tell(Side::Client, &mut messages::query(fresh.next()));
            gate.tell(Side::Server, &mut result);
        }
        is_whole(gate.take(), length, result.len()) && gate.seal()
    }))
}

/// A prepared statement, executed as libpq does.
fn prepared() -> Setup {
    let mut gate = Gate::standing()?;
    gate.tell(Side::Client, &mut messages::prepare("s1", &format!("{}$1", facts::POINT)));
    let mut described = messages::plain(backend::PARSE_COMPLETE, b"");
    described.extend(messages::plain(backend::PARAMETER_DESCRIPTION, &[0, 1, 0, 0, 0, 23]));
    described.extend(messages::row_description(POINT_COLUMNS, messages::CUSTOMERS));
    backend::write_ready_for_query(&mut described, b'I');
    gate.tell(Side::Server, &mut described);
    let mut execute = messages::execute("s1", "42");
    let mut result = [messages::plain(backend::BIND_COMPLETE, b""), one_customer()].concat();
    gate.take();
    Ok(Box::new(move || {
        for _ in 0..COMMANDS {
            gate.tell(Side::Client, &mut execute);
            gate.tell(Side::Server, &mut result);
        }
        is_whole(gate.take(), execute.len(), result.len()) && gate.seal()
    }))
}

/// 64 KiB of rows, of which so many columns are protected, in pieces as they come from a pool.
fn rows(table: &str, masked: usize) -> Setup {
    let mut gate = Gate::standing()?;
    let mut query = messages::query(&format!("SELECT * FROM {table}"));
    // What is described counts: a table that nothing is protected of.
    let table_oid = if masked == 0 { messages::CUSTOMERS + 1 } else { messages::CUSTOMERS };
    let description = messages::row_description(COLUMNS.len(), table_oid);
    let mut result = [description, messages::rows(), messages::completed(&format!("SELECT {ROWS}"))].concat();
    let less = if masked == 0 { 0 } else { ROWS * REDACTED_LESS };
    let cells_masked = u64::try_from(ROWS * masked)?;
    gate.take();
    Ok(Box::new(move || {
        gate.tell(Side::Client, &mut query);
        result.chunks_mut(SLOT_BYTES).for_each(|piece| gate.tell(Side::Server, piece));
        let (sent, counts) = gate.take();
        counts == Counts { commands: 1, denied: 0, cells_masked }
            && sent == Sent { server: query.len(), client: result.len() - less }
            && gate.seal()
    }))
}

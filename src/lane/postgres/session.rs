//! The client's half of a session: every message is judged before any byte of it goes on.
//!
//! A pipeline collects in `pending` and goes to the server at Sync, at Flush or when it is full, if all of it is
//! allowed; a refusal discards what has not gone and lets the server refuse a stand-in instead, so that transaction
//! state and the order of answers are the server's own.

use std::rc::Rc;
use std::sync::Arc;

use lockgate_codecs::postgres::{frame, frontend};
use lockgate_facts::postgres::{Reading, Understood};
use lockgate_recording::Record;

use super::answers::Answers;
use super::expect::{Expect, Expects};
use super::inbound::{Origin, Step, relay};
use super::legality::{self, ClientMove, ClientState};
use super::names::Names;
use super::reading::Tracker;
use super::refusals::Oversize;
use super::trouble::Trouble;
use super::{Core, Turn};
use crate::{Grant, Secret, Side, Standing};

/// A pipeline goes on without a Sync when it is this long, in bytes.
const PIPELINE_BYTES_MAX: usize = 64 << 10;

/// Questions on their way to the server before the client has to wait.
const EXPECTS_MAX: usize = 16_384;

/// Bytes of messages on their way to the server before the client has to wait: so that a long pipeline waits rather than
/// finds no room for its names.
const IN_FLIGHT_BYTES_MAX: usize = super::names::NAMED_BYTES_MAX / 2;

/// Longest message that only names something (Describe, Execute, Close, CopyFail), in bytes.
const NAMING_BYTES_MAX: usize = 64 << 10;

/// An authenticated client and its server.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) grant: Grant,
    pub(super) names: Names,
    pub(super) expects: Expects,
    pub(super) reading: Tracker,
    pub(super) answers: Answers,
    /// The server looks for commands of the replication protocol before SQL.
    replication: bool,
    /// All that the target holds is on its way to the client by this command, and whether policy has changed since it
    /// was judged.
    pub(super) replicating: Option<(Rc<Understood>, bool)>,
    server_key: Option<(u32, Secret)>,
    /// Messages of a pipeline that has not gone on, and what they ask.
    pub(super) pending: Vec<u8>,
    pub(super) pending_expects: Vec<Expect>,
    pub(super) state: ClientState,
    /// The server has a part of a pipeline, and no Sync behind it yet: what it did is not committed.
    pub(super) unsynced: bool,
    stream: Option<Stream>,
    /// Status of the last ReadyForQuery.
    pub(super) status: u8,
    /// Counts what SQL does to names: what FETCH and EXECUTE mean changes with it.
    pub(super) generation: u64,
}

/// The rest of a message whose body is dealt with as it comes.
#[derive(Debug)]
struct Stream {
    remaining: usize,
    to: StreamTo,
}

#[derive(Debug)]
enum StreamTo {
    /// COPY data on its way to the server.
    Server { command: u64 },
    /// Skipped as the server would.
    Nowhere,
    /// Too long: refused when its last byte has come.
    Refusal(Oversize),
}

impl Session {
    pub(super) fn new(
        grant: Grant,
        reading: Reading,
        replication: bool,
        server_key: Option<(u32, Secret)>,
        status: u8,
    ) -> Session {
        Session {
            grant,
            names: Names::default(),
            expects: Expects::default(),
            reading: Tracker::new(reading),
            answers: Answers::default(),
            replication,
            replicating: None,
            server_key,
            pending: Vec::new(),
            pending_expects: Vec::new(),
            state: ClientState::Open,
            unsynced: false,
            stream: None,
            status,
            generation: 0,
        }
    }

    pub(super) fn grant(&self) -> &Grant {
        &self.grant
    }

    pub(super) fn adopt(&mut self, standing: Arc<Standing>) {
        self.grant.standing = standing;
        if let Some((_, changed)) = &mut self.replicating {
            *changed = true;
        }
    }

    /// What a simple Query does: on a replication connection it may be another thing than SQL.
    pub(super) fn understand_query(&self, text: &[u8], turn: &mut Turn<'_>) -> Rc<Understood> {
        let replication = self.replication.then(|| turn.judge.facts.replication(text)).flatten();
        replication.unwrap_or_else(|| self.understand(text, turn))
    }

    /// A stream may go on for years: when policy has changed, it is judged again before it does.
    pub(super) fn judge_again(&mut self, turn: &mut Turn<'_>) -> Result<(), Trouble> {
        let Some((understood, changed @ true)) = &mut self.replicating else { return Ok(()) };
        *changed = false;
        let understood = Rc::clone(understood);
        let ruling = self.rule(&understood, turn);
        match ruling.allows() {
            true => Ok(()),
            false => Err(Trouble::Withdrawn { message: ruling.message() }),
        }
    }

    pub(super) fn server_key(&self) -> (u32, Secret) {
        self.server_key.clone().unwrap_or_else(|| (0, Secret::new(Vec::new())))
    }

    pub(super) fn is_idle(&self) -> bool {
        let between = self.state == ClientState::Open && !self.unsynced && self.pending.is_empty();
        between && self.status == b'I' && self.expects.is_empty() && self.stream.is_none()
    }

    pub(super) fn is_blocked(&self) -> bool {
        let copying = matches!(self.state, ClientState::CopyIn | ClientState::CopyBoth);
        (self.expects.copy_gate() && !copying)
            || self.expects.len() >= EXPECTS_MAX
            || self.expects.bytes() >= IN_FLIGHT_BYTES_MAX
    }

    /// The server ended the session with an error of its own.
    pub(super) fn server_said_goodbye(&self) -> bool {
        self.answers.fatal
    }

    /// Deals with the front of what the client sent.
    pub(super) fn client_step(
        &mut self,
        bytes: &[u8],
        origin: Origin,
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<Step, Trouble> {
        if self.stream.is_some() {
            return Ok(self.stream_on(bytes, origin, core, turn));
        }
        if self.is_blocked() {
            return Ok(Step::Blocked);
        }
        let Some(header) = frame::header(bytes)? else { return Ok(Step::Need(frame::HEADER_BYTES)) };
        let length = header.message_bytes();
        let client_move = legality::client(self.state, header.kind);
        if client_move == ClientMove::Illegal {
            return Err(Trouble::ClientIllegal { kind: header.kind, state: state_name(self.state) });
        }
        let bytes_max = self.bytes_max(header.kind, core);
        let too_long = header.body_bytes > bytes_max;
        if too_long && !is_judged_whole(header.kind) {
            return Err(Trouble::ClientMalformed { what: "message length" });
        }
        let to = match client_move {
            ClientMove::Skip => Some(StreamTo::Nowhere),
            ClientMove::Copy if header.kind == frontend::COPY_DATA => {
                Some(StreamTo::Server { command: self.running_command() })
            }
            _ if too_long => {
                Some(StreamTo::Refusal(Oversize { kind: header.kind, bytes: header.body_bytes, bytes_max }))
            }
            _ => None,
        };
        if let Some(to) = to {
            self.stream = Some(Stream { remaining: length, to });
            return Ok(self.stream_on(bytes, origin, core, turn));
        }
        let Some(message) = bytes.get(..length) else { return Ok(Step::Need(length)) };
        self.message(header.kind, message, origin, core, turn)?;
        Ok(Step::Consumed(length))
    }

    fn bytes_max(&self, kind: u8, core: &Core) -> usize {
        let limit = match kind {
            frontend::QUERY | frontend::PARSE | frontend::FUNCTION_CALL => core.limits.statement_bytes_max,
            frontend::BIND => core.limits.bind_bytes_max,
            frontend::SYNC | frontend::FLUSH | frontend::TERMINATE | frontend::COPY_DONE => 0,
            // Passed on as it comes.
            frontend::COPY_DATA => return usize::MAX,
            _ => return NAMING_BYTES_MAX,
        };
        usize::try_from(limit).unwrap_or(usize::MAX)
    }

    fn stream_on(&mut self, bytes: &[u8], origin: Origin, core: &mut Core, turn: &mut Turn<'_>) -> Step {
        let Some(stream) = &mut self.stream else { return Step::Need(1) };
        if bytes.is_empty() {
            return Step::Need(1);
        }
        let count = stream.remaining.min(bytes.len());
        stream.remaining -= count;
        if let StreamTo::Server { command } = stream.to {
            let record =
                Record::Copied { command, inward: true, stream: bytes.get(..count).unwrap_or_default() };
            turn.out.records.push(core.session, turn.now, &record);
            relay(turn.out, Side::Server, bytes, origin, 0..count);
        }
        if stream.remaining == 0
            && let Some(Stream { to: StreamTo::Refusal(oversize), .. }) = self.stream.take()
        {
            self.refuse_oversize(oversize, core, turn);
        }
        Step::Consumed(count)
    }

    fn message(
        &mut self,
        kind: u8,
        message: &[u8],
        origin: Origin,
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<(), Trouble> {
        let body = message.get(frame::HEADER_BYTES..).unwrap_or_default();
        match kind {
            frontend::QUERY => self.query(body, message, origin, core, turn),
            frontend::PARSE => self.parse(body, message, core, turn),
            frontend::BIND => self.bind(body, message, core, turn),
            frontend::DESCRIBE => self.describe(body, message),
            frontend::EXECUTE => self.execute(body, message, core, turn),
            frontend::CLOSE => self.close(body, message),
            frontend::FUNCTION_CALL => self.function_call(body, message, origin, core, turn),
            frontend::SYNC => {
                self.pend(message, Expect::Sync);
                self.flush(turn);
                self.unsynced = false;
                self.state = ClientState::Open;
                Ok(())
            }
            frontend::FLUSH => {
                self.pending.extend_from_slice(message);
                self.flush(turn);
                Ok(())
            }
            frontend::TERMINATE => {
                relay(turn.out, Side::Server, message, origin, 0..message.len());
                Err(Trouble::Goodbye)
            }
            _ => {
                self.copy_end(message, origin, turn);
                Ok(())
            }
        }
        .inspect(|()| {
            if self.pending.len() > PIPELINE_BYTES_MAX {
                self.flush(turn);
            }
        })
    }

    /// CopyDone or CopyFail.
    fn copy_end(&mut self, message: &[u8], origin: Origin, turn: &mut Turn<'_>) {
        relay(turn.out, Side::Server, message, origin, 0..message.len());
        let copied_in = self.state == ClientState::CopyIn;
        if matches!(self.state, ClientState::CopyIn | ClientState::CopyBoth) {
            self.state = ClientState::Open;
        }
        if copied_in {
            // The answer to an Execute comes only after a Sync or Flush: the client must be read on. A Query may ask
            // for more COPY data.
            if let Some(Expect::Execute { running, .. }) = self.expects.front() {
                running.copy_gate = false;
            }
        }
    }

    fn running_command(&mut self) -> u64 {
        self.expects.front().and_then(Expect::running).map_or(0, |running| running.command)
    }

    pub(super) fn pend(&mut self, message: &[u8], expect: Expect) {
        self.pending.extend_from_slice(message);
        self.pending_expects.push(expect);
    }

    /// What is pending goes to the server.
    pub(super) fn flush(&mut self, turn: &mut Turn<'_>) {
        if self.pending.is_empty() {
            return;
        }
        let bytes = self.pending.len();
        if self.expects.bytes().saturating_add(bytes) >= IN_FLIGHT_BYTES_MAX {
            // The client waits for the answers from here on, so the server must not keep them.
            frontend::write_empty(&mut self.pending, frontend::FLUSH);
        }
        let pending = &self.pending;
        turn.out.send(Side::Server, |arena| arena.extend_from_slice(pending));
        self.pending.clear();
        self.pending.shrink_to(PIPELINE_BYTES_MAX);
        self.unsynced |= !self.pending_expects.is_empty();
        for expect in self.pending_expects.drain(..) {
            self.expects.push(expect);
        }
        self.expects.sent(bytes);
    }

    /// What is pending is forgotten, and what it would have changed taken back.
    pub(super) fn discard(&mut self, core: &Core, turn: &mut Turn<'_>) {
        self.pending.clear();
        while let Some(expect) = self.pending_expects.pop() {
            self.skip(expect, "never sent: its pipeline was refused or had failed", core, turn);
        }
    }

    /// A question that the server does not answer: what it would have changed is taken back.
    pub(super) fn skip(&mut self, mut expect: Expect, why: &str, core: &Core, turn: &mut Turn<'_>) {
        if let Some(running) = expect.running() {
            let command = running.command;
            let skipped = Record::Failed { command, severity: "SKIPPED", sqlstate: "", message: why };
            turn.out.records.push(core.session, turn.now, &skipped);
        }
        self.take_back(expect);
    }

    /// What a question would have changed is taken back.
    pub(super) fn take_back(&mut self, mut expect: Expect) {
        self.turned(&mut expect, false);
        expect.undo(&mut self.names);
    }
}

/// One that is too long is read to its end and refused; any other is a protocol error.
fn is_judged_whole(kind: u8) -> bool {
    matches!(kind, frontend::QUERY | frontend::PARSE | frontend::BIND | frontend::FUNCTION_CALL)
}

fn state_name(state: ClientState) -> &'static str {
    match state {
        ClientState::Open | ClientState::Skipping => "inside a session",
        ClientState::CopyIn => "while COPY data is expected",
        ClientState::CopyBoth => "while replication streams",
    }
}

//! The client's half of a session: every message is judged before any byte of it goes on.
//!
//! A pipeline collects in `pending` and goes to the server at Sync, at Flush or when it is full, if all of it is
//! allowed; a refusal discards what has not gone and lets the server refuse a stand-in instead, so that transaction
//! state and the order of answers are the server's own.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use lockgate_codecs::postgres::frontend::{self, Named};
use lockgate_codecs::postgres::{backend, frame};
use lockgate_facts::postgres::{Change, Reading, Understood};
use lockgate_policy_dsl::{Effect, Facts, Object, Pair};
use lockgate_recording::{CommandKind, Record};

use super::answers::Answers;
use super::expect::{Expect, Expects, Refused, Running};
use super::inbound::{Origin, Step, relay};
use super::legality::{self, ClientMove, ClientState};
use super::names::{Footing, Names, Portal, Statement};
use super::reading::Tracker;
use super::trouble::Trouble;
use super::{Core, Turn};
use crate::judge::Ruling;
use crate::{Grant, Side, Standing};

/// A pipeline goes on without a Sync when it is this long, in bytes.
const PIPELINE_BYTES_MAX: usize = 64 << 10;

/// Questions on their way to the server before the client has to wait.
const EXPECTS_MAX: usize = 16_384;

/// Longest message that only names something (Describe, Execute, Close, CopyFail), in bytes.
const NAMING_BYTES_MAX: usize = 64 << 10;

/// A name that no Parse of the stand-in ever defines: it fails before that.
const STAND_IN_NAME: &[u8] = b"lockgate_refused";

const TOO_MANY_NAMES: &str = "this session keeps too many prepared statements and portals: close some";

/// An authenticated client and its server.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) grant: Grant,
    pub(super) names: Names,
    pub(super) expects: Expects,
    pub(super) reading: Tracker,
    pub(super) answers: Answers,
    server_key: Option<(u32, Vec<u8>)>,
    /// Messages of a pipeline that has not gone on, and what they ask.
    pending: Vec<u8>,
    pending_expects: Vec<Expect>,
    pub(super) state: ClientState,
    stream: Option<Stream>,
    /// Status of the last ReadyForQuery.
    pub(super) status: u8,
    /// Counts what SQL does to names: what FETCH and EXECUTE mean changes with it.
    generation: u64,
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

#[derive(Debug, Clone, Copy)]
struct Oversize {
    kind: u8,
    bytes: usize,
    bytes_max: usize,
}

impl Session {
    pub(super) fn new(
        grant: Grant,
        reading: Reading,
        server_key: Option<(u32, Vec<u8>)>,
        status: u8,
    ) -> Session {
        Session {
            grant,
            names: Names::default(),
            expects: Expects::default(),
            reading: Tracker::new(reading),
            answers: Answers::default(),
            server_key,
            pending: Vec::new(),
            pending_expects: Vec::new(),
            state: ClientState::Open,
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
    }

    pub(super) fn server_key(&self) -> (u32, Vec<u8>) {
        self.server_key.clone().unwrap_or_default()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.status == b'I' && self.expects.is_empty() && self.pending.is_empty() && self.stream.is_none()
    }

    pub(super) fn is_blocked(&self) -> bool {
        let copying = matches!(self.state, ClientState::CopyIn | ClientState::CopyBoth);
        (self.expects.copy_gate() && !copying) || self.expects.len() >= EXPECTS_MAX
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
        match legality::client(self.state, header.kind) {
            ClientMove::Illegal => {
                return Err(Trouble::ClientIllegal { kind: header.kind, state: state_name(self.state) });
            }
            ClientMove::Skip => {
                self.stream = Some(Stream { remaining: length, to: StreamTo::Nowhere });
                return Ok(self.stream_on(bytes, origin, core, turn));
            }
            ClientMove::Copy if header.kind == frontend::COPY_DATA => {
                let command = self.running_command();
                self.stream = Some(Stream { remaining: length, to: StreamTo::Server { command } });
                return Ok(self.stream_on(bytes, origin, core, turn));
            }
            ClientMove::Copy | ClientMove::Judge => {}
        }
        let bytes_max = self.bytes_max(header.kind, core);
        if header.body_bytes > bytes_max {
            let oversize = Oversize { kind: header.kind, bytes: header.body_bytes, bytes_max };
            return self.too_long(oversize, length, bytes, origin, core, turn);
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
            _ => return NAMING_BYTES_MAX,
        };
        usize::try_from(limit).unwrap_or(usize::MAX)
    }

    fn too_long(
        &mut self,
        oversize: Oversize,
        length: usize,
        bytes: &[u8],
        origin: Origin,
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<Step, Trouble> {
        let judged = matches!(
            oversize.kind,
            frontend::QUERY | frontend::PARSE | frontend::BIND | frontend::FUNCTION_CALL
        );
        if !judged {
            return Err(Trouble::ClientMalformed { what: "message length" });
        }
        self.stream = Some(Stream { remaining: length, to: StreamTo::Refusal(oversize) });
        Ok(self.stream_on(bytes, origin, core, turn))
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
        if self.state == ClientState::CopyIn {
            self.state = ClientState::Open;
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

    // ----- what is judged ------------------------------------------------------------------------------------

    fn query(
        &mut self,
        body: &[u8],
        message: &[u8],
        origin: Origin,
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<(), Trouble> {
        let text = frontend::query(body)?;
        let understood = self.understand(text, turn);
        let ruling = self.rule(&understood, turn);
        let command = self.record(CommandKind::Query, "", text, None, &ruling, core, turn);
        self.names.forget_unnamed();
        if ruling.allows() && !self.has_room_for(&understood, text) {
            self.refuse_simple(refused(command, "54000", String::from(TOO_MANY_NAMES), "", core), core, turn);
            return Ok(());
        }
        if !ruling.allows() {
            self.refuse_query(command, &ruling, core, turn);
            return Ok(());
        }
        self.flush(turn);
        relay(turn.out, Side::Server, message, origin, 0..message.len());
        let mut running = self.running(command, &understood);
        self.follow(text, &understood, &mut running);
        self.expects.push(Expect::Query(running));
        Ok(())
    }

    fn function_call(
        &mut self,
        body: &[u8],
        message: &[u8],
        origin: Origin,
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<(), Trouble> {
        let call = frontend::function_call(body)?;
        let understood = turn.judge.facts.function_call(call.oid, &self.grant.standing.catalog);
        let ruling = self.rule(&understood, turn);
        let text = format!("function {}", call.oid);
        let parameters = Some(Parameters { values: call.arguments, formats: call.formats, types: &[] });
        let command =
            self.record(CommandKind::FunctionCall, "", text.as_bytes(), parameters, &ruling, core, turn);
        if !ruling.allows() {
            self.refuse_query(command, &ruling, core, turn);
            return Ok(());
        }
        self.flush(turn);
        relay(turn.out, Side::Server, message, origin, 0..message.len());
        let running = self.running(command, &understood);
        self.expects.push(Expect::FunctionCall(running));
        Ok(())
    }

    fn parse(
        &mut self,
        body: &[u8],
        message: &[u8],
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<(), Trouble> {
        let parse = frontend::parse(body)?;
        let understood = self.understand(parse.text, turn);
        let ruling = self.rule(&understood, turn);
        if !ruling.allows() {
            let name = String::from_utf8_lossy(parse.name);
            let command = self.record(CommandKind::Parse, &name, parse.text, None, &ruling, core, turn);
            self.refuse_pipeline(command, &ruling, core, turn);
            return Ok(());
        }
        if !self.names.has_room(parse.text.len()) {
            self.refuse_for_room(core, turn);
            return Ok(());
        }
        let statement = Statement {
            text: parse.text.into(),
            prepared_as: None,
            understood: RefCell::new((self.footing(), understood)),
            types: RefCell::new(parse.types.into()),
            columns: RefCell::new(None),
        };
        let undo = self.names.set_statement(parse.name, Some(Rc::new(statement)));
        self.pend(message, Expect::Parse { undo });
        Ok(())
    }

    fn bind(
        &mut self,
        body: &[u8],
        message: &[u8],
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<(), Trouble> {
        let bind = frontend::bind(body)?;
        if !self.names.has_room(body.len()) {
            self.refuse_for_room(core, turn);
            return Ok(());
        }
        let statement = self.names.statement(bind.statement).cloned();
        let portal =
            Portal { statement, bind: body.into(), generation: self.generation, ..Portal::unbound(false) };
        let undo = self.names.set_portal(bind.portal, Some(Rc::new(portal)));
        self.pend(message, Expect::Bind { undo });
        Ok(())
    }

    fn describe(&mut self, body: &[u8], message: &[u8]) -> Result<(), Trouble> {
        let expect = match frontend::named(body, "Describe")? {
            (Named::Statement, name) => {
                let statement = self.names.statement(name).cloned();
                Expect::DescribeStatement { statement, parameters_seen: false }
            }
            (Named::Portal, name) => {
                let portal =
                    self.names.portal(name).cloned().unwrap_or_else(|| Rc::new(Portal::unbound(false)));
                Expect::DescribePortal { portal, own: false }
            }
        };
        self.pend(message, expect);
        Ok(())
    }

    fn close(&mut self, body: &[u8], message: &[u8]) -> Result<(), Trouble> {
        let undo = match frontend::named(body, "Close")? {
            (Named::Statement, name) => self.names.set_statement(name, None),
            (Named::Portal, name) => self.names.set_portal(name, None),
        };
        self.pend(message, Expect::Close { undo });
        Ok(())
    }

    fn execute(
        &mut self,
        body: &[u8],
        message: &[u8],
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<(), Trouble> {
        let (name, _) = frontend::execute(body)?;
        let portal = self.names.portal(name).cloned().unwrap_or_else(|| Rc::new(Portal::unbound(false)));
        let Some(statement) = portal.statement.clone() else {
            self.execute_unbound(&portal, name, message, core, turn);
            return Ok(());
        };
        let understood = self.understood(&statement, turn);
        let mut ruling = self.rule(&understood, turn);
        if ruling.allows() && goes_by_name(&understood) && portal.generation != self.generation {
            let reason =
                String::from("what it fetches or executes was redefined after it was bound; bind it again");
            ruling = Rc::new(ruling.refusal("stale portal", reason));
        }
        let command = self.record_execute(name, &portal, &statement, &ruling, core, turn);
        if !ruling.allows() {
            self.refuse_pipeline(command, &ruling, core, turn);
            return Ok(());
        }
        if !self.has_room_for(&understood, &statement.text) {
            self.refuse_extended(
                refused(command, "54000", String::from(TOO_MANY_NAMES), "", core),
                core,
                turn,
            );
            return Ok(());
        }
        self.ask_columns(&portal, &understood, name);
        let mut running = self.running(command, &understood);
        self.follow(&statement.text, &understood, &mut running);
        let waits = running.copy_gate;
        self.pend(message, Expect::Execute { portal, running });
        if waits {
            frontend::write_empty(&mut self.pending, frontend::FLUSH);
            self.flush(turn);
        }
        Ok(())
    }

    fn record_execute(
        &self,
        name: &[u8],
        portal: &Portal,
        statement: &Statement,
        ruling: &Ruling,
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> u64 {
        let types = statement.types.borrow();
        let parameters = frontend::bind(&portal.bind).ok().map(|bind| Parameters {
            values: bind.parameters,
            formats: bind.parameter_formats,
            types: &types,
        });
        let label = String::from_utf8_lossy(name);
        self.record(CommandKind::Execute, &label, &statement.text, parameters, ruling, core, turn)
    }

    /// Execute of a portal without a statement of this session's: a cursor that SQL declared, or nobody knows what.
    fn execute_unbound(
        &mut self,
        portal: &Rc<Portal>,
        name: &[u8],
        message: &[u8],
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) {
        let label = String::from_utf8_lossy(name);
        let why =
            format!("portal \"{label}\" was not bound, in this session, to a statement that was judged");
        let ruling = if portal.declared { Ruling::judged_before() } else { self.unknown(why) };
        let command = self.record(CommandKind::Execute, &label, b"", None, &ruling, core, turn);
        if !ruling.allows() {
            return self.refuse_pipeline(command, &ruling, core, turn);
        }
        let turned = (!portal.declared).then(|| self.reading.sent_unclear());
        self.ask_columns(portal, &Understood::default(), name);
        let running = Running { command, turned, ..Running::default() };
        self.pend(message, Expect::Execute { portal: Rc::clone(portal), running });
    }

    /// Rows can be masked only when it is known where their columns come from: where nobody has asked the server,
    /// Lockgate does.
    fn ask_columns(&mut self, portal: &Rc<Portal>, understood: &Understood, name: &[u8]) {
        if self.grant.standing.masks.rules.is_empty() || portal.columns.borrow().is_some() {
            return;
        }
        // What FETCH and EXECUTE return is not their own: only the portal at hand can tell.
        let statement = portal.statement.as_ref().filter(|_| !goes_by_name(understood));
        let is_ours = |other: &Rc<Statement>| statement.is_some_and(|statement| Rc::ptr_eq(other, statement));
        let asks = |expect: &Expect| match expect {
            Expect::DescribeStatement { statement: Some(described), .. } => is_ours(described),
            Expect::DescribePortal { portal: described, .. } => {
                Rc::ptr_eq(described, portal) || described.statement.as_ref().is_some_and(is_ours)
            }
            _ => false,
        };
        let known = statement.is_some_and(|statement| {
            matches!(&*statement.columns.borrow(), Some((footing, _)) if *footing == self.footing())
        });
        if known || self.pending_expects.iter().any(asks) || self.expects.since_sync().any(asks) {
            return;
        }
        let mut describe = Vec::new();
        frontend::write_describe(&mut describe, Named::Portal, name);
        self.pend(&describe, Expect::DescribePortal { portal: Rc::clone(portal), own: true });
    }

    // ----- facts and rulings ---------------------------------------------------------------------------------

    pub(super) fn footing(&self) -> Footing {
        Footing { catalog: self.grant.standing.catalog.version(), reading: self.reading.generation() }
    }

    fn understand(&self, text: &[u8], turn: &mut Turn<'_>) -> Rc<Understood> {
        turn.judge.facts.understand(text, &self.grant.standing.catalog, self.reading.reading())
    }

    /// What a prepared statement does, on today's footing.
    fn understood(&self, statement: &Statement, turn: &mut Turn<'_>) -> Rc<Understood> {
        let now = self.footing();
        let (footing, understood) = &*statement.understood.borrow();
        if *footing == now {
            return Rc::clone(understood);
        }
        let whole = self.understand(&statement.text, turn);
        match &statement.prepared_as {
            None => whole,
            Some(name) => prepared(&whole, name).unwrap_or(whole),
        }
    }

    /// Judges a command with all that it sets in motion by name.
    fn rule(&mut self, understood: &Rc<Understood>, turn: &mut Turn<'_>) -> Rc<Ruling> {
        let program = &self.grant.standing.program;
        let mut ruling = turn.judge.rule(program, understood);
        for change in &understood.changes {
            let other = match change {
                Change::Execute { name } => match self.names.statement(name.as_bytes()).cloned() {
                    Some(statement) => {
                        let understood = self.understood(&statement, turn);
                        turn.judge.rule(program, &understood)
                    }
                    None if prepared(understood, name).is_some() => continue,
                    None => {
                        Rc::new(self.unknown(format!("no statement \"{name}\" was prepared in this session")))
                    }
                },
                Change::Fetch { name } => match self.names.portal(name.as_bytes()).cloned().as_deref() {
                    Some(Portal { declared: true, .. }) => continue,
                    Some(Portal { statement: Some(statement), .. }) => {
                        let understood = self.understood(statement, turn);
                        turn.judge.rule(program, &understood)
                    }
                    _ if declares(understood, name) => continue,
                    _ => Rc::new(self.unknown(format!("no cursor \"{name}\" was declared in this session"))),
                },
                _ => continue,
            };
            if ruling.allows() && !other.allows() {
                ruling = other;
            }
        }
        match self.unmaskable_copy(understood, &ruling) {
            Some(refusal) if ruling.allows() => Rc::new(refusal),
            _ => ruling,
        }
    }

    /// COPY … TO STDOUT names no columns in its answer, so nothing of a table with masked columns may leave by it.
    fn unmaskable_copy(&self, understood: &Understood, ruling: &Ruling) -> Option<Ruling> {
        let masks = &self.grant.standing.masks.rules;
        if !understood.copies_out || masks.is_empty() {
            return None;
        }
        let rule = masks.values().find(|rule| {
            let table = rule.place.rsplit_once('.').map_or("", |(table, _)| table);
            understood.facts.pairs.iter().any(|pair| touches(pair, table))
        })?;
        let reason = format!("COPY TO STDOUT would carry {} unmasked; use SELECT", rule.place);
        Some(ruling.refusal(&rule.name, reason))
    }

    fn unknown(&self, why: String) -> Ruling {
        let pair = Pair { effect: Effect::Unknown, object: Object::None, unbounded: false };
        Ruling::of(&self.grant.standing.program, &Facts { pairs: vec![pair], unknown: vec![why] })
    }

    fn running(&mut self, command: u64, understood: &Understood) -> Running {
        Running {
            command,
            copy_gate: understood.copies_in,
            turned: self.reading.sent(understood),
            ..Running::default()
        }
    }

    /// Room for what SQL in the text prepares?
    fn has_room_for(&self, understood: &Understood, text: &[u8]) -> bool {
        let prepares =
            understood.changes.iter().filter(|change| matches!(change, Change::Prepare { .. })).count();
        prepares == 0 || self.names.has_room(text.len().saturating_mul(prepares))
    }

    /// Follows what SQL does to names.
    fn follow(&mut self, text: &[u8], understood: &Rc<Understood>, running: &mut Running) {
        for change in &understood.changes {
            self.generation += u64::from(changes_names(change));
            match change {
                Change::Prepare { name, statement } => {
                    let prepared = Statement {
                        text: text.into(),
                        prepared_as: Some(Rc::from(&**name)),
                        understood: RefCell::new((self.footing(), Rc::clone(statement))),
                        types: RefCell::default(),
                        columns: RefCell::new(None),
                    };
                    self.names.set_statement(name.as_bytes(), Some(Rc::new(prepared)));
                    running.prepares.push(Rc::from(&**name));
                }
                Change::Declare { name, .. } => {
                    self.names.set_portal(name.as_bytes(), Some(Rc::new(Portal::unbound(true))));
                }
                Change::Deallocate { name: Some(name) } => {
                    drop(self.names.set_statement(name.as_bytes(), None))
                }
                Change::ClosePortal { name: Some(name) } => {
                    drop(self.names.set_portal(name.as_bytes(), None))
                }
                Change::Deallocate { name: None } => self.names.forget_statements(),
                Change::ClosePortal { name: None } => self.names.forget_portals(),
                Change::DiscardAll => {
                    self.names.forget_statements();
                    self.names.forget_portals();
                }
                _ => {}
            }
        }
    }

    // ----- recording -----------------------------------------------------------------------------------------

    #[expect(clippy::too_many_arguments, reason = "one record has that many parts")]
    fn record(
        &self,
        kind: CommandKind,
        name: &str,
        statement: &[u8],
        parameters: Option<Parameters<'_>>,
        ruling: &Ruling,
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> u64 {
        core.commands = core.commands.saturating_add(1);
        let command = core.commands;
        turn.out.counts.commands += 1;
        turn.out.counts.denied += u64::from(!ruling.allows());
        let Parameters { values, formats, types } = parameters.unwrap_or_default();
        let parameters: Vec<Option<&[u8]>> = frontend::values(values).collect();
        let formats =
            (0..parameters.len()).map(|index| u8::from(frontend::format_of(formats, index) == 1)).collect();
        let parameter_types = types.chunks_exact(4).map(oid).collect();
        let record = Record::Command { command, kind, name, statement, parameters, parameter_types, formats };
        turn.out.records.push(core.session, turn.now, &record);
        turn.out.records.push(core.session, turn.now, &ruling.record(command, self.grant.standing.epoch));
        command
    }

    // ----- pipelines -----------------------------------------------------------------------------------------

    fn pend(&mut self, message: &[u8], expect: Expect) {
        self.pending.extend_from_slice(message);
        self.pending_expects.push(expect);
    }

    /// What is pending goes to the server.
    fn flush(&mut self, turn: &mut Turn<'_>) {
        if self.pending.is_empty() {
            return;
        }
        let pending = &self.pending;
        turn.out.send(Side::Server, |arena| arena.extend_from_slice(pending));
        self.pending.clear();
        self.pending.shrink_to(PIPELINE_BYTES_MAX);
        for expect in self.pending_expects.drain(..) {
            self.expects.push(expect);
        }
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

    // ----- refusals ------------------------------------------------------------------------------------------

    /// Refuses the message and, with it, all of its pipeline that has not gone on; up to Sync nothing counts.
    fn refuse_pipeline(&mut self, command: u64, ruling: &Ruling, core: &Core, turn: &mut Turn<'_>) {
        let refused = refused(command, "42501", ruling.message(), &ruling.detail(), core);
        self.refuse_extended(refused, core, turn);
    }

    fn refuse_extended(&mut self, refused: Refused, core: &Core, turn: &mut Turn<'_>) {
        self.discard(core, turn);
        let text = stand_in(refused.command, core);
        turn.out.send(Side::Server, |arena| frontend::write_parse(arena, STAND_IN_NAME, text.as_bytes()));
        self.expects.push(Expect::Refusal(refused));
        self.state = ClientState::Skipping;
    }

    fn refuse_query(&mut self, command: u64, ruling: &Ruling, core: &Core, turn: &mut Turn<'_>) {
        let refused = refused(command, "42501", ruling.message(), &ruling.detail(), core);
        self.refuse_simple(refused, core, turn);
    }

    fn refuse_simple(&mut self, refused: Refused, core: &Core, turn: &mut Turn<'_>) {
        self.discard(core, turn);
        let text = stand_in(refused.command, core);
        turn.out.send(Side::Server, |arena| frontend::write_query(arena, text.as_bytes()));
        self.expects.push(Expect::RefusedQuery(refused));
    }

    fn refuse_oversize(&mut self, oversize: Oversize, core: &mut Core, turn: &mut Turn<'_>) {
        let Oversize { kind, bytes, bytes_max } = oversize;
        let (simple, setting) = match kind {
            frontend::QUERY | frontend::FUNCTION_CALL => (true, "limits.statement_bytes_max"),
            frontend::BIND => (false, "limits.bind_bytes_max"),
            _ => (false, "limits.statement_bytes_max"),
        };
        let message = format!("a message of {bytes} bytes is longer than {setting} allows ({bytes_max})");
        let refused = self.refused_by_limit(message, core, turn);
        if simple {
            self.refuse_simple(refused, core, turn)
        } else {
            self.refuse_extended(refused, core, turn)
        }
    }

    fn refuse_for_room(&mut self, core: &mut Core, turn: &mut Turn<'_>) {
        let refused = self.refused_by_limit(String::from(TOO_MANY_NAMES), core, turn);
        self.refuse_extended(refused, core, turn);
    }

    fn refused_by_limit(&self, message: String, core: &mut Core, turn: &mut Turn<'_>) -> Refused {
        let ruling = Ruling::limit(&message);
        let command = self.record(CommandKind::Query, "", b"", None, &ruling, core, turn);
        refused(command, "54000", message, "", core)
    }
}

/// A Bind's or FunctionCall's parameters, in wire form.
#[derive(Debug, Clone, Copy, Default)]
struct Parameters<'a> {
    values: &'a [u8],
    formats: &'a [u8],
    types: &'a [u8],
}

fn oid(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn refused(command: u64, sqlstate: &'static str, message: String, detail: &str, core: &Core) -> Refused {
    let hint = format!("Quote {}/{command} when you ask whoever keeps the policy.", core.session);
    let mut error = Vec::new();
    let text =
        backend::ErrorText { severity: "ERROR", code: sqlstate, message: &message, detail, hint: &hint };
    backend::write_error(&mut error, &text);
    Refused { command, error, sqlstate, message }
}

/// Text that every PostgreSQL fails to parse, whatever its settings and its transaction's state: it does nothing,
/// and says in the target's log whose it is.
fn stand_in(command: u64, core: &Core) -> String {
    format!("lockgate refused command {}/{command}", core.session)
}

fn state_name(state: ClientState) -> &'static str {
    match state {
        ClientState::Open | ClientState::Skipping => "inside a session",
        ClientState::CopyIn => "while COPY data is expected",
        ClientState::CopyBoth => "while replication streams",
    }
}

fn touches(pair: &Pair, table: &str) -> bool {
    match (&pair.effect, &pair.object) {
        (Effect::Unknown, _) | (_, Object::Unresolved { .. }) => true,
        (Effect::Read | Effect::CopyOut, Object::Qualified { schema, name }) => {
            table.strip_prefix(&**schema).and_then(|rest| rest.strip_prefix('.')) == Some(&**name)
        }
        _ => false,
    }
}

/// What `whole` prepares under a name.
fn prepared(whole: &Understood, wanted: &str) -> Option<Rc<Understood>> {
    whole.changes.iter().rev().find_map(|change| match change {
        Change::Prepare { name, statement } if **name == *wanted => Some(Rc::clone(statement)),
        _ => None,
    })
}

/// What a FETCH or EXECUTE does and returns is what its name means at that moment.
fn goes_by_name(understood: &Understood) -> bool {
    understood.changes.iter().any(|change| matches!(change, Change::Fetch { .. } | Change::Execute { .. }))
}

fn changes_names(change: &Change) -> bool {
    matches!(
        change,
        Change::Prepare { .. }
            | Change::Deallocate { .. }
            | Change::Declare { .. }
            | Change::ClosePortal { .. }
            | Change::DiscardAll
    )
}

fn declares(whole: &Understood, wanted: &str) -> bool {
    whole.changes.iter().any(|change| matches!(change, Change::Declare { name, .. } if **name == *wanted))
}

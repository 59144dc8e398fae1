//! The server's half of a session: every message is matched with what it answers, rows are masked, what the client
//! sees is recorded.

use std::ops::Range;
use std::rc::Rc;

use lockgate_codecs::postgres::{backend, frame, frontend};
use lockgate_mask::{ColumnShape, Plan};
use lockgate_recording::{Record, Time};

use super::descriptions::Description;
use super::expect::{Awaited, Expect, Refused, Running};
use super::inbound::{Origin, Step, relay};
use super::legality::{self, ClientState};
use super::parameters::is_safe_encoding;
use super::session::Session;
use super::trouble::Trouble;
use super::{Core, Turn};
use crate::{Outbox, Side, Standing};

/// Longest message of a server's that is looked at whole (everything but rows, COPY data and function results), in
/// bytes: an error may quote a long statement.
const WHOLE_BYTES_MAX: usize = 64 << 20;

/// Longest list of parameter types that is kept, in bytes: no Bind can carry the parameters of a longer one.
const TYPES_BYTES_MAX: usize = 65_535 * 4;

/// The body of a RowDescription without columns, which NoData stands for.
const NO_COLUMNS: &[u8] = &[0, 0];

/// How far the answers are.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The rest of a message that passes as it comes.
    stream: Option<Stream>,
    /// CopyOutResponse or CopyBothResponse has come.
    copying_out: bool,
    /// How the rows that are coming are masked; decided at the first.
    plan: RowPlan,
    rows: u64,
    bytes: u64,
    /// The server has ended the session with an error.
    pub(super) fatal: bool,
}

/// What is done with rows.
#[derive(Debug, Default)]
enum RowPlan {
    /// Nothing is known of them yet.
    #[default]
    Undecided,
    /// They pass as they are.
    Pass,
    /// Cells are masked.
    Mask {
        plan: Box<Plan>,
        /// Gets it back.
        lender: Option<Rc<Description>>,
    },
}

impl RowPlan {
    fn lent(description: &Rc<Description>, standing: &Standing) -> RowPlan {
        match description.lend_plan(standing) {
            Some(plan) => RowPlan::Mask { plan, lender: Some(Rc::clone(description)) },
            None => RowPlan::Pass,
        }
    }
}

#[cfg(test)]
impl Answers {
    pub(super) fn is_copying_out(&self) -> bool {
        self.copying_out
    }
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    remaining: usize,
    kind: StreamKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamKind {
    Row,
    Copy,
    FunctionResult,
}

impl Session {
    /// A message to the client has passed in part.
    pub(super) fn is_mid_message(&self) -> bool {
        self.answers.stream.is_some()
    }

    /// Deals with the front of what the server sent.
    pub(super) fn server_step(
        &mut self,
        bytes: &[u8],
        origin: Origin,
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<Step, Trouble> {
        if self.answers.stream.is_some() {
            return Ok(self.server_stream(bytes, origin, core, turn));
        }
        self.judge_again(turn)?;
        let Some(header) = frame::header(bytes).map_err(Trouble::server)? else {
            return Ok(Step::Need(frame::HEADER_BYTES));
        };
        let awaited = self.expects.awaited();
        if !legality::server(awaited, self.answers.copying_out, header.kind) {
            let kind = char::from(header.kind).escape_default();
            let what = format!("message type '{kind}' while {awaited:?} was awaited");
            return Err(Trouble::ServerProtocol { what });
        }
        let length = header.message_bytes();
        match header.kind {
            backend::DATA_ROW => return self.row(length, bytes, origin, core, turn),
            backend::COPY_DATA => {
                self.answers.stream = Some(Stream { remaining: length, kind: StreamKind::Copy });
                return Ok(self.server_stream(bytes, origin, core, turn));
            }
            backend::FUNCTION_RESULT => {
                self.answers.stream = Some(Stream { remaining: length, kind: StreamKind::FunctionResult });
                return Ok(self.server_stream(bytes, origin, core, turn));
            }
            _ => {}
        }
        if length > WHOLE_BYTES_MAX {
            return Err(Trouble::ServerProtocol {
                what: format!("a message of {length} bytes that is no row"),
            });
        }
        let Some(message) = bytes.get(..length) else { return Ok(Step::Need(length)) };
        let shown = self.whole(header.kind, message, core, turn)?;
        if shown {
            self.to_client(message, origin, 0..length, core, turn);
        }
        Ok(Step::Consumed(length))
    }

    fn to_client(
        &self,
        bytes: &[u8],
        origin: Origin,
        range: Range<usize>,
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) {
        core.bytes_out = core.bytes_out.saturating_add(range.len() as u64);
        relay(turn.out, Side::Client, bytes, origin, range);
    }

    // ----- rows and other streams ----------------------------------------------------------------------------

    fn row(
        &mut self,
        length: usize,
        bytes: &[u8],
        origin: Origin,
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<Step, Trouble> {
        if matches!(self.answers.plan, RowPlan::Undecided) {
            self.answers.plan = self.plan()?;
        }
        match self.answers.plan {
            RowPlan::Mask { .. } => self.masked_row(length, bytes, core, turn),
            RowPlan::Pass | RowPlan::Undecided => Ok(self.passing_rows(bytes, origin, core, turn)),
        }
    }

    /// As many rows as there are, in one stretch; the last may be cut.
    fn passing_rows(&mut self, bytes: &[u8], origin: Origin, core: &mut Core, turn: &mut Turn<'_>) -> Step {
        let mut end = 0;
        while let Some(rest) = bytes.get(end..)
            && let Ok(Some(header)) = frame::header(rest)
            && header.kind == backend::DATA_ROW
        {
            self.answers.rows = self.answers.rows.saturating_add(1);
            let length = header.message_bytes();
            match length.checked_sub(rest.len()) {
                None | Some(0) => end = end.saturating_add(length),
                Some(missing) => {
                    self.answers.stream = Some(Stream { remaining: missing, kind: StreamKind::Row });
                    end = bytes.len();
                    break;
                }
            }
        }
        self.stretch(StreamKind::Row, bytes, end, origin, core, turn);
        Step::Consumed(end)
    }

    fn masked_row(
        &mut self,
        length: usize,
        bytes: &[u8],
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<Step, Trouble> {
        if length > usize::try_from(core.limits.row_bytes_max).unwrap_or(usize::MAX) {
            return Err(Trouble::Unmaskable { what: "a row is longer than limits.row_bytes_max" });
        }
        let Some(message) = bytes.get(..length) else { return Ok(Step::Need(length)) };
        let RowPlan::Mask { plan, .. } = &mut self.answers.plan else { return Ok(Step::Blocked) };
        let start = turn.out.arena.len();
        plan.mask_row(message, &mut turn.out.arena).map_err(|_| Trouble::ServerProtocol {
            what: String::from("a row that its description contradicts"),
        })?;
        turn.out.sent(Side::Client, start);
        let command = self.command();
        let stream = turn.out.arena.get(start..).unwrap_or_default();
        turn.out.records.push(core.session, turn.now, &Record::Rows { command, stream });
        self.answers.rows = self.answers.rows.saturating_add(1);
        self.answers.bytes = self.answers.bytes.saturating_add(stream.len() as u64);
        core.bytes_out = core.bytes_out.saturating_add(stream.len() as u64);
        Ok(Step::Consumed(length))
    }

    fn server_stream(&mut self, bytes: &[u8], origin: Origin, core: &mut Core, turn: &mut Turn<'_>) -> Step {
        let Some(Stream { remaining, kind }) = self.answers.stream else { return Step::Need(1) };
        if bytes.is_empty() {
            return Step::Need(1);
        }
        let count = remaining.min(bytes.len());
        let remaining = remaining.saturating_sub(count);
        self.answers.stream = (remaining > 0).then_some(Stream { remaining, kind });
        self.stretch(kind, bytes, count, origin, core, turn);
        Step::Consumed(count)
    }

    /// Passes a stretch on and records it.
    fn stretch(
        &mut self,
        kind: StreamKind,
        bytes: &[u8],
        end: usize,
        origin: Origin,
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) {
        let command = self.command();
        let stream = bytes.get(..end).unwrap_or_default();
        let record = match kind {
            StreamKind::Row => Record::Rows { command, stream },
            StreamKind::Copy | StreamKind::FunctionResult => {
                Record::Copied { command, inward: false, stream }
            }
        };
        turn.out.records.push(core.session, turn.now, &record);
        self.answers.bytes = self.answers.bytes.saturating_add(stream.len() as u64);
        self.to_client(bytes, origin, 0..end, core, turn);
    }

    /// How the rows of what is answered now are to be masked.
    fn plan(&mut self) -> Result<RowPlan, Trouble> {
        if self.grant.standing.masks.rules.is_empty() {
            return Ok(RowPlan::Pass);
        }
        let Some(Expect::Execute { portal, .. }) = self.expects.front() else {
            // A simple Query describes its rows before it sends them.
            return Err(Trouble::Unmaskable { what: "rows came that nothing described" });
        };
        let standing = &self.grant.standing;
        if let Some(description) = &*portal.columns.borrow() {
            return Ok(RowPlan::lent(description, standing));
        }
        let described = portal.statement.as_ref().and_then(|statement| statement.columns.borrow().clone());
        let Some((_, description)) = described else {
            return Err(Trouble::Unmaskable { what: "rows came that nothing described" });
        };
        let formats = frontend::bind(&portal.bind).map(|bind| bind.result_formats).unwrap_or_default();
        let shapes: Vec<ColumnShape> = description
            .shapes
            .iter()
            .enumerate()
            .map(|(index, shape)| ColumnShape {
                format: u8::from(frontend::format_of(formats, index) == 1),
                ..*shape
            })
            .collect();
        Ok(match Plan::new(&standing.masks, &shapes) {
            Some(plan) => RowPlan::Mask { plan: Box::new(plan), lender: None },
            None => RowPlan::Pass,
        })
    }

    fn command(&mut self) -> u64 {
        self.expects.front().and_then(Expect::running).map_or(0, |running| running.command)
    }

    // ----- whole messages ------------------------------------------------------------------------------------

    /// One message that is looked at whole; the result tells whether the client sees it.
    fn whole(
        &mut self,
        kind: u8,
        message: &[u8],
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<bool, Trouble> {
        let body = message.get(frame::HEADER_BYTES..).unwrap_or_default();
        match kind {
            backend::PARSE_COMPLETE | backend::BIND_COMPLETE | backend::CLOSE_COMPLETE => {
                if let Some(done) = self.expects.pop() {
                    done.settle(&mut self.names);
                }
            }
            backend::PARAMETER_DESCRIPTION => self.parameters_described(body)?,
            backend::ROW_DESCRIPTION => return self.columns_described(body, core, turn),
            backend::NO_DATA => return self.no_data(turn),
            backend::COMMAND_COMPLETE => self.completed(body, core, turn)?,
            backend::EMPTY_QUERY => self.ended(b"", core, turn),
            backend::PORTAL_SUSPENDED => self.ended(b"suspended", core, turn),
            backend::COPY_IN => self.state = ClientState::CopyIn,
            backend::COPY_OUT => self.answers.copying_out = true,
            backend::COPY_BOTH => {
                self.answers.copying_out = true;
                self.state = ClientState::CopyBoth;
            }
            backend::COPY_DONE => self.answers.copying_out = false,
            backend::READY_FOR_QUERY => {
                let status = backend::ready_for_query(body).map_err(Trouble::server)?;
                self.ready(status, core, turn);
            }
            backend::ERROR => return self.error(body, core, turn),
            backend::NOTICE => self.notice(body, core, turn)?,
            backend::NOTIFICATION => notification(body, core, turn)?,
            backend::PARAMETER_STATUS => self.parameter(body)?,
            _ => {}
        }
        Ok(true)
    }

    fn parameters_described(&mut self, body: &[u8]) -> Result<(), Trouble> {
        let types = backend::parameter_description(body).map_err(Trouble::server)?;
        if let Some(Expect::DescribeStatement { statement, parameters_seen }) = self.expects.front() {
            *parameters_seen = true;
            if let Some(statement) = statement.as_ref().filter(|_| types.len() <= TYPES_BYTES_MAX) {
                *statement.types.borrow_mut() = types.into();
            }
        }
        Ok(())
    }

    fn columns_described(&mut self, body: &[u8], core: &Core, turn: &mut Turn<'_>) -> Result<bool, Trouble> {
        let standing = &self.grant.standing;
        let description = turn.judge.descriptions.of(body, standing).map_err(Trouble::server)?;
        let asked = self.expects.awaited() == Awaited::Query;
        if asked {
            self.answers.plan = RowPlan::lent(&description, standing);
        }
        let command = self.command();
        turn.out.records.push_columns(core.session, turn.now, command, &description.recorded);
        Ok(asked || self.learn(description))
    }

    fn no_data(&mut self, turn: &mut Turn<'_>) -> Result<bool, Trouble> {
        let none = turn.judge.descriptions.of(NO_COLUMNS, &self.grant.standing).map_err(Trouble::server)?;
        Ok(self.learn(none))
    }

    /// A Describe is answered. The result tells whether the client asked for it.
    fn learn(&mut self, description: Rc<Description>) -> bool {
        let footing = self.footing();
        let (statement, own) = match self.expects.pop() {
            Some(Expect::DescribeStatement { statement, .. }) => (statement, false),
            Some(Expect::DescribePortal { portal, own }) => {
                *portal.columns.borrow_mut() = Some(Rc::clone(&description));
                (portal.statement.clone(), own)
            }
            _ => (None, false),
        };
        if let Some(statement) = statement {
            *statement.columns.borrow_mut() = Some((footing, description));
        }
        !own
    }

    fn completed(&mut self, body: &[u8], core: &mut Core, turn: &mut Turn<'_>) -> Result<(), Trouble> {
        let tag = backend::command_complete(body).map_err(Trouble::server)?;
        self.reading.completed(tag);
        self.ended(tag, core, turn);
        Ok(())
    }

    /// A statement has ended well: of a Query there may be more.
    fn ended(&mut self, tag: &[u8], core: &mut Core, turn: &mut Turn<'_>) {
        self.record_masked(core, turn.now, turn.out);
        let command = self.command();
        let (rows, bytes) = (std::mem::take(&mut self.answers.rows), std::mem::take(&mut self.answers.bytes));
        core.rows = core.rows.saturating_add(rows);
        let tag = String::from_utf8_lossy(tag);
        turn.out.records.push(core.session, turn.now, &Record::Completed { command, tag: &tag, rows, bytes });
        if self.expects.awaited() == Awaited::Execute
            && let Some(mut execute) = self.expects.pop()
        {
            self.turned(&mut execute, true);
        }
    }

    fn record_masked(&mut self, core: &Core, now: Time, out: &mut Outbox) {
        let command = self.command();
        let RowPlan::Mask { mut plan, lender } = std::mem::take(&mut self.answers.plan) else { return };
        plan.take_counts(|rule, cells| {
            out.counts.cells_masked += cells;
            let record = Record::Masked { command, rule: &rule.name, place: &rule.place, cells };
            out.records.push(core.session, now, &record);
        });
        if let Some(lender) = lender {
            lender.return_plan(plan, &self.grant.standing);
        }
    }

    /// Settles what a command did to the reading and to names.
    pub(super) fn turned(&mut self, expect: &mut Expect, succeeded: bool) {
        let Some(running) = expect.running() else { return };
        if let Some(turned) = running.turned.take() {
            self.reading.ended(&turned, succeeded);
        }
        if !succeeded {
            for name in running.prepares.drain(..) {
                self.names.set_statement(name.as_bytes(), None);
            }
        }
    }

    fn ready(&mut self, status: u8, core: &mut Core, turn: &mut Turn<'_>) {
        // Nothing but this ends a function call.
        if matches!(self.expects.front(), Some(Expect::FunctionCall(running)) if !running.failed) {
            self.ended(b"FUNCTION CALL", core, turn);
        }
        if let Some(mut expect) = self.expects.pop() {
            self.turned(&mut expect, true);
        }
        if self.expects.is_empty() {
            self.replicating = None;
        }
        self.reading.ready(status);
        self.status = status;
        self.answers.plan = RowPlan::Undecided;
        if matches!(self.state, ClientState::CopyIn | ClientState::CopyBoth) {
            self.state = ClientState::Open;
        }
    }

    // ----- errors, notices, notifications, parameters --------------------------------------------------------

    fn error(&mut self, body: &[u8], core: &mut Core, turn: &mut Turn<'_>) -> Result<bool, Trouble> {
        let report = backend::report(body).map_err(Trouble::server)?;
        self.record_masked(core, turn.now, turn.out);
        self.answers.copying_out = false;
        core.rows = core.rows.saturating_add(std::mem::take(&mut self.answers.rows));
        self.answers.bytes = 0;
        if matches!(self.state, ClientState::CopyIn | ClientState::CopyBoth) {
            self.state = ClientState::Open;
        }
        if report.is_fatal() {
            self.answers.fatal = true;
            self.record_failure(&report, core, turn);
            if let Some(running) = self.expects.front().and_then(Expect::running) {
                running.failed = true;
            }
            return Ok(true);
        }
        self.reading.failed();
        match self.expects.front() {
            None => {
                self.record_failure(&report, core, turn);
                Ok(true)
            }
            Some(Expect::Query(running) | Expect::FunctionCall(running)) => {
                running.failed = true;
                running.copy_gate = false;
                self.record_failure(&report, core, turn);
                if let Some(mut expect) = self.expects.pop() {
                    self.turned(&mut expect, false);
                    self.expects.put_back(expect);
                }
                Ok(true)
            }
            Some(Expect::RefusedQuery(_)) => {
                if let Some(Expect::RefusedQuery(refused)) = self.expects.pop() {
                    self.show_refusal(&refused, core, turn);
                }
                self.expects.put_back(Expect::Sync);
                Ok(false)
            }
            Some(_) => Ok(self.extended_error(&report, core, turn)),
        }
    }

    /// The server skips to the Sync, and so does everything here.
    fn extended_error(&mut self, report: &backend::Report<'_>, core: &mut Core, turn: &mut Turn<'_>) -> bool {
        let (skipped, sync_is_on_its_way) = self.expects.skipped();
        let replaced = match skipped.first() {
            Some(Expect::Refusal(refused)) => {
                self.show_refusal(refused, core, turn);
                true
            }
            _ => false,
        };
        if !sync_is_on_its_way {
            self.discard(core, turn);
            self.state = ClientState::Skipping;
        }
        let mut skipped = skipped.into_iter();
        let first = skipped.next();
        for expect in skipped.rev() {
            self.skip(expect, "skipped after an earlier error in its pipeline", core, turn);
        }
        let command = first.map_or(0, |mut expect| {
            let command = expect.running().map_or(0, |running| running.command);
            self.take_back(expect);
            command
        });
        if !replaced {
            failure(command, report).record(core, turn);
        }
        !replaced
    }

    fn show_refusal(&mut self, refused: &Refused, core: &mut Core, turn: &mut Turn<'_>) {
        core.bytes_out = core.bytes_out.saturating_add(refused.error.len() as u64);
        turn.out.send(Side::Client, |arena| arena.extend_from_slice(&refused.error));
        let (severity, sqlstate, message) = ("ERROR", refused.sqlstate, refused.message.as_str());
        let record = Record::Failed { command: refused.command, severity, sqlstate, message };
        turn.out.records.push(core.session, turn.now, &record);
    }

    fn record_failure(&mut self, report: &backend::Report<'_>, core: &Core, turn: &mut Turn<'_>) {
        failure(self.command(), report).record(core, turn);
    }

    /// The session ends: the record says so of every command that has not ended.
    pub(super) fn abandon(&mut self, trouble: &Trouble, core: &mut Core, now: Time, out: &mut Outbox) {
        self.record_masked(core, now, out);
        core.rows = core.rows.saturating_add(std::mem::take(&mut self.answers.rows));
        let (severity, sqlstate) = match trouble.told() {
            Some((severity, sqlstate, _)) => (severity, sqlstate),
            None if *trouble == Trouble::ServerEnded => ("FATAL", String::new()),
            // The client's own doing: what the server makes of its commands is not known.
            None => return,
        };
        let (message, sqlstate) = (trouble.reason(), sqlstate.as_str());
        while let Some(mut expect) = self.expects.pop() {
            let command = match &mut expect {
                Expect::Refusal(refused) | Expect::RefusedQuery(refused) => refused.command,
                expect => match expect.running() {
                    Some(running) if !running.failed => running.command,
                    _ => continue,
                },
            };
            let record = Record::Failed { command, severity, sqlstate, message: &message };
            out.records.push(core.session, now, &record);
        }
        for expect in &mut self.pending_expects {
            let Some(Running { command, .. }) = expect.running() else { continue };
            let record = Record::Failed {
                command: *command,
                severity: "SKIPPED",
                sqlstate: "",
                message: "never sent: its session ended first",
            };
            out.records.push(core.session, now, &record);
        }
    }

    fn notice(&mut self, body: &[u8], core: &Core, turn: &mut Turn<'_>) -> Result<(), Trouble> {
        let report = backend::report(body).map_err(Trouble::server)?;
        let (severity, sqlstate) =
            (String::from_utf8_lossy(report.severity), String::from_utf8_lossy(report.code));
        let message = String::from_utf8_lossy(report.message);
        let record = Record::Notice { severity: &severity, sqlstate: &sqlstate, message: &message };
        turn.out.records.push(core.session, turn.now, &record);
        Ok(())
    }

    fn parameter(&mut self, body: &[u8]) -> Result<(), Trouble> {
        let (name, value) = backend::parameter_status(body).map_err(Trouble::server)?;
        match name {
            b"standard_conforming_strings" => self.reading.reported_conforming(value == b"on"),
            b"client_encoding" => {
                let encoding = String::from_utf8_lossy(value);
                if !is_safe_encoding(&encoding) {
                    return Err(Trouble::UnsafeEncoding { encoding: encoding.chars().take(64).collect() });
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn notification(body: &[u8], core: &Core, turn: &mut Turn<'_>) -> Result<(), Trouble> {
    let (_, channel, payload) = backend::notification(body).map_err(Trouble::server)?;
    let (channel, payload) = (String::from_utf8_lossy(channel), String::from_utf8_lossy(payload));
    let record = Record::Notification { channel: &channel, payload: &payload };
    turn.out.records.push(core.session, turn.now, &record);
    Ok(())
}

/// An error as the record keeps it.
struct Failure {
    command: u64,
    severity: String,
    sqlstate: String,
    message: String,
}

fn failure(command: u64, report: &backend::Report<'_>) -> Failure {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Failure {
        command,
        severity: text(report.severity),
        sqlstate: text(report.code),
        message: text(report.message),
    }
}

impl Failure {
    fn record(&self, core: &Core, turn: &mut Turn<'_>) {
        let Failure { command, severity, sqlstate, message } = self;
        let record = Record::Failed { command: *command, severity, sqlstate, message };
        turn.out.records.push(core.session, turn.now, &record);
    }
}

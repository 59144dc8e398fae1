//! The client's commands, each with what it may do: pass, be refused, change what names mean.

use std::cell::RefCell;
use std::rc::Rc;

use lockgate_codecs::postgres::frontend::{self, Named};
use lockgate_facts::postgres::Understood;
use lockgate_recording::{CommandKind, Record};

use super::expect::{Expect, Running};
use super::inbound::{Origin, relay};
use super::judging::goes_by_name;
use super::names::{Portal, Statement};
use super::refusals::TOO_MANY_NAMES;
use super::session::Session;
use super::trouble::Trouble;
use super::{Core, Turn};
use crate::Side;
use crate::judge::Ruling;

impl Session {
    pub(super) fn query(
        &mut self,
        body: &[u8],
        message: &[u8],
        origin: Origin,
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<(), Trouble> {
        let text = frontend::query(body)?;
        let understood = self.understand_query(text, turn);
        let ruling = self.rule(&understood, turn);
        let ruling = self.within_room(ruling, &understood, text);
        let command = self.record(CommandKind::Query, "", text, None, &ruling, core, turn);
        self.names.forget_unnamed();
        if !ruling.allows() {
            self.refuse_query(command, &ruling, core, turn);
            return Ok(());
        }
        self.flush(turn);
        self.unsynced = false;
        relay(turn.out, Side::Server, message, origin, 0..message.len());
        let mut running = self.running(command, &understood, turn);
        self.follow(text, &understood, &mut running);
        self.replicating = understood.replicates.then_some((understood, false));
        self.expects.push(Expect::Query(running));
        Ok(())
    }

    pub(super) fn function_call(
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
        self.unsynced = false;
        relay(turn.out, Side::Server, message, origin, 0..message.len());
        let running = self.running(command, &understood, turn);
        self.expects.push(Expect::FunctionCall(running));
        Ok(())
    }

    pub(super) fn parse(
        &mut self,
        body: &[u8],
        message: &[u8],
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<(), Trouble> {
        let parse = frontend::parse(body)?;
        let understood = self.understand(parse.text, turn);
        let ruling = self.rule(&understood, turn);
        let ruling = self.within(ruling, body.len());
        if !ruling.allows() {
            let name = String::from_utf8_lossy(parse.name);
            let command = self.record(CommandKind::Parse, &name, parse.text, None, &ruling, core, turn);
            self.refuse_parse(parse.name, command, &ruling, core, turn);
            return Ok(());
        }
        let statement = Statement {
            text: parse.text.into(),
            prepared_as: None,
            understood: RefCell::new((self.footing(), understood)),
            types: RefCell::new(parse.types.into()),
            types_bytes: parse.types.len(),
            columns: RefCell::new(None),
        };
        let change = self.names.change_statement(parse.name, Some(Rc::new(statement)));
        self.pend(message, Expect::Parse { change });
        Ok(())
    }

    pub(super) fn bind(
        &mut self,
        body: &[u8],
        message: &[u8],
        core: &mut Core,
        turn: &mut Turn<'_>,
    ) -> Result<(), Trouble> {
        let bind = frontend::bind(body)?;
        let statement = self.names.statement(bind.statement).cloned();
        if !self.names.has_room(body.len()) {
            let ruling = Ruling::limit(TOO_MANY_NAMES);
            let (name, text) =
                (String::from_utf8_lossy(bind.portal), statement.as_ref().map(|one| &*one.text));
            let command =
                self.record(CommandKind::Execute, &name, text.unwrap_or_default(), None, &ruling, core, turn);
            self.refuse_pipeline(command, &ruling, core, turn);
            return Ok(());
        }
        let portal =
            Portal { statement, bind: body.into(), generation: self.generation, ..Portal::unbound(false) };
        let change = self.names.change_portal(bind.portal, Some(Rc::new(portal)));
        self.pend(message, Expect::Bind { change });
        Ok(())
    }

    pub(super) fn describe(&mut self, body: &[u8], message: &[u8]) -> Result<(), Trouble> {
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

    pub(super) fn close(&mut self, body: &[u8], message: &[u8]) -> Result<(), Trouble> {
        let change = match frontend::named(body, "Close")? {
            (Named::Statement, name) => self.names.change_statement(name, None),
            (Named::Portal, name) => self.names.change_portal(name, None),
        };
        self.pend(message, Expect::Close { change });
        Ok(())
    }

    pub(super) fn execute(
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
        // Its rows come as what the name means now, and the server describes them as what it meant when it was bound.
        let unmaskable = !self.grant.standing.masks.rules.is_empty();
        if ruling.allows() && unmaskable && goes_by_name(&understood) && portal.generation != self.generation
        {
            let reason =
                String::from("what it fetches or executes was redefined after it was bound; bind it again");
            ruling = Rc::new(ruling.refusal("stale portal", reason));
        }
        let ruling = self.within_room(ruling, &understood, &statement.text);
        let command = self.record_execute(name, &portal, &statement, &ruling, core, turn);
        if !ruling.allows() {
            self.refuse_pipeline(command, &ruling, core, turn);
            return Ok(());
        }
        self.ask_columns(&portal, &understood, name);
        let mut running = self.running(command, &understood, turn);
        self.follow(&statement.text, &understood, &mut running);
        let waits = running.copy_gate;
        self.pend(message, Expect::Execute { portal, running });
        if waits {
            frontend::write_empty(&mut self.pending, frontend::FLUSH);
            self.flush(turn);
        }
        Ok(())
    }

    pub(super) fn record_execute(
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
    pub(super) fn execute_unbound(
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
    pub(super) fn ask_columns(&mut self, portal: &Rc<Portal>, understood: &Understood, name: &[u8]) {
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

    #[expect(clippy::too_many_arguments, reason = "one record has that many parts")]
    pub(super) fn record(
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
}

/// A Bind's or FunctionCall's parameters, in wire form.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Parameters<'a> {
    values: &'a [u8],
    formats: &'a [u8],
    types: &'a [u8],
}

fn oid(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

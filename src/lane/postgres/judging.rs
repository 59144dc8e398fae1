//! What a command does, on today's footing, and what policy says of it and of all that it sets in motion by name.

use std::cell::RefCell;
use std::rc::Rc;

use lockgate_facts::postgres::{Change, Understood};
use lockgate_policy_dsl::{Effect, Facts, Object, Pair};

use super::Turn;
use super::expect::Running;
use super::names::{Footing, Portal, Statement};
use super::session::Session;
use crate::judge::Ruling;

impl Session {
    pub(super) fn footing(&self) -> Footing {
        Footing { catalog: self.grant.standing.catalog.version(), reading: self.reading.generation() }
    }

    pub(super) fn understand(&self, text: &[u8], turn: &mut Turn<'_>) -> Rc<Understood> {
        turn.judge.facts.understand(text, &self.grant.standing.catalog, self.reading.reading())
    }

    /// What a prepared statement does, on today's footing.
    pub(super) fn understood(&self, statement: &Statement, turn: &mut Turn<'_>) -> Rc<Understood> {
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
    pub(super) fn rule(&mut self, understood: &Rc<Understood>, turn: &mut Turn<'_>) -> Rc<Ruling> {
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
    pub(super) fn unmaskable_copy(&self, understood: &Understood, ruling: &Ruling) -> Option<Ruling> {
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

    pub(super) fn unknown(&self, why: String) -> Ruling {
        let pair = Pair { effect: Effect::Unknown, object: Object::None, unbounded: false };
        Ruling::of(&self.grant.standing.program, &Facts { pairs: vec![pair], unknown: vec![why] })
    }

    pub(super) fn running(&mut self, command: u64, understood: &Understood) -> Running {
        Running {
            command,
            copy_gate: understood.copies_in,
            turned: self.reading.sent(understood),
            ..Running::default()
        }
    }

    /// Room for what SQL in the text prepares?
    pub(super) fn has_room_for(&self, understood: &Understood, text: &[u8]) -> bool {
        let prepares =
            understood.changes.iter().filter(|change| matches!(change, Change::Prepare { .. })).count();
        prepares == 0 || self.names.has_room(text.len().saturating_mul(prepares))
    }

    /// Follows what SQL does to names.
    pub(super) fn follow(&mut self, text: &[u8], understood: &Rc<Understood>, running: &mut Running) {
        for change in &understood.changes {
            self.generation += u64::from(changes_names(change));
            match change {
                Change::Prepare { name, statement } => {
                    let prepared = Statement {
                        text: text.into(),
                        prepared_as: Some(Rc::from(&**name)),
                        understood: RefCell::new((self.footing(), Rc::clone(statement))),
                        types: RefCell::default(),
                        types_bytes: 0,
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
pub(super) fn goes_by_name(understood: &Understood) -> bool {
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

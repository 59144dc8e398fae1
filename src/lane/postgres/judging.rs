//! What a command does, on today's footing, and what policy says of it and of all that it sets in motion by name.

use std::cell::RefCell;
use std::rc::Rc;

use lockgate_facts::postgres::{Change, Understood};
use lockgate_policy_dsl::{Effect, Facts, Object, Pair};

use super::Turn;
use super::expect::Running;
use super::names::{Footing, Portal, Statement};
use super::refusals::TOO_MANY_NAMES;
use super::session::Session;
use crate::judge::Ruling;

/// Statements that one command may execute by name, one from within another.
const MOTION_MAX: usize = 64;

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
        if let (footing, understood) = &*statement.understood.borrow()
            && *footing == now
        {
            return Rc::clone(understood);
        }
        let whole = self.understand(&statement.text, turn);
        let understood = match &statement.prepared_as {
            None => whole,
            Some(name) => prepared(&whole, name).unwrap_or(whole),
        };
        *statement.understood.borrow_mut() = (now, Rc::clone(&understood));
        understood
    }

    /// Judges a command with all that it sets in motion by name.
    pub(super) fn rule(&mut self, understood: &Rc<Understood>, turn: &mut Turn<'_>) -> Rc<Ruling> {
        let whole = self.rule_one(understood, turn);
        if !whole.allows() || !goes_by_name(understood) {
            return whole;
        }
        let (motion, unknown) = self.motion(understood, turn);
        for moved in &motion {
            let ruling = self.rule_one(moved, turn);
            if !ruling.allows() {
                return ruling;
            }
        }
        match unknown.map(|why| self.unknown(why)) {
            Some(unknown) if !unknown.allows() => Rc::new(unknown),
            _ => whole,
        }
    }

    fn rule_one(&self, understood: &Rc<Understood>, turn: &mut Turn<'_>) -> Rc<Ruling> {
        let ruling = turn.judge.rule(&self.grant.standing.program, understood);
        match self.unmaskable_copy(understood, &ruling) {
            Some(refusal) if ruling.allows() => Rc::new(refusal),
            _ => ruling,
        }
    }

    /// What a command executes and fetches from by name, and what that does in its turn; and why not all is known.
    fn motion(
        &self,
        understood: &Rc<Understood>,
        turn: &mut Turn<'_>,
    ) -> (Vec<Rc<Understood>>, Option<String>) {
        let mut moved: Vec<Rc<Understood>> = Vec::new();
        let mut unknown = None;
        let mut at = 0;
        let mut from = Rc::clone(understood);
        loop {
            for change in &from.changes {
                match self.moved(&from, change, turn) {
                    Ok(Some(statement)) => {
                        if !moved.iter().any(|other| Rc::ptr_eq(other, &statement)) {
                            moved.push(statement);
                        }
                    }
                    Ok(None) => {}
                    Err(why) => unknown = Some(why),
                }
            }
            match moved.get(at) {
                Some(next) if at < MOTION_MAX => from = Rc::clone(next),
                Some(_) => {
                    unknown = Some(String::from("too many statements are executed by name"));
                    break;
                }
                None => break,
            }
            at += 1;
        }
        (moved, unknown)
    }

    /// What one change sets in motion beside the statement that makes it; or why that is not known.
    fn moved(
        &self,
        whole: &Understood,
        change: &Change,
        turn: &mut Turn<'_>,
    ) -> Result<Option<Rc<Understood>>, String> {
        match change {
            Change::Execute { name } => match self.names.statement(name.as_bytes()).cloned() {
                Some(statement) => Ok(Some(self.understood(&statement, turn))),
                None if prepared(whole, name).is_some() => Ok(None),
                None => Err(format!("no statement \"{name}\" was prepared in this session")),
            },
            Change::Fetch { name } => match self.names.portal(name.as_bytes()).cloned().as_deref() {
                Some(Portal { declared: true, .. }) => Ok(None),
                Some(Portal { statement: Some(statement), .. }) => Ok(Some(self.understood(statement, turn))),
                _ if declares(whole, name) => Ok(None),
                _ => Err(format!("no cursor \"{name}\" was declared in this session")),
            },
            _ => Ok(None),
        }
    }

    /// COPY … TO STDOUT names no columns in its answer, so nothing of a table with masked columns may leave by it.
    pub(super) fn unmaskable_copy(&self, understood: &Understood, ruling: &Ruling) -> Option<Ruling> {
        let masks = &self.grant.standing.masks.rules;
        if understood.replicates
            && let Some(rule) = masks.values().min_by(|a, b| a.place.cmp(&b.place))
        {
            let reason =
                format!("{} would leave unmasked: nothing in such a stream can be masked", rule.place);
            return Some(ruling.refusal(&rule.name, reason));
        }
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

    pub(super) fn running(
        &mut self,
        command: u64,
        understood: &Rc<Understood>,
        turn: &mut Turn<'_>,
    ) -> Running {
        let moves_copy = |motion: Vec<Rc<Understood>>| motion.iter().any(|moved| moved.copies_in);
        let copies_in = understood.copies_in
            || understood.replicates
            || goes_by_name(understood) && moves_copy(self.motion(understood, turn).0);
        Running { command, copy_gate: copies_in, turned: self.reading.sent(understood), ..Running::default() }
    }

    /// What policy said, unless there is no room left for what SQL in the text prepares.
    pub(super) fn within_room(&self, ruling: Rc<Ruling>, understood: &Understood, text: &[u8]) -> Rc<Ruling> {
        let prepares =
            understood.changes.iter().filter(|change| matches!(change, Change::Prepare { .. })).count();
        match prepares {
            0 => ruling,
            prepares => self.within(ruling, text.len().saturating_mul(prepares)),
        }
    }

    /// What policy said, unless there is no room for a name with this many bytes.
    pub(super) fn within(&self, ruling: Rc<Ruling>, bytes: usize) -> Rc<Ruling> {
        match ruling.allows() && !self.names.has_room(bytes) {
            true => Rc::new(Ruling::limit(TOO_MANY_NAMES)),
            false => ruling,
        }
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
                Change::Deallocate { name: Some(name) } => self.names.set_statement(name.as_bytes(), None),
                Change::ClosePortal { name: Some(name) } => self.names.set_portal(name.as_bytes(), None),
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

//! Which statement and which portal a name means, as far as the client's messages have been read.
//!
//! The map runs ahead of the server: a Parse counts from the moment it is read. Each change stands for itself until the
//! server has answered, because the server may fail it when others have been read behind it.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use lockgate_facts::postgres::Understood;

use super::descriptions::Description;

/// Bytes of statement texts and parameters that one session may keep, beside those of the running ones.
pub(super) const NAMED_BYTES_MAX: usize = 64 << 20;

/// Bytes that a name costs beside itself and what it means.
const NAME_BYTES: usize = 256;

/// What a session's facts were found under: catalog version and the reading's generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footing {
    pub(super) catalog: u64,
    pub(super) reading: u64,
}

/// A prepared statement.
#[derive(Debug)]
pub(super) struct Statement {
    /// SQL text: of the Parse, or of the whole string that held a PREPARE.
    pub(super) text: Box<[u8]>,
    /// Name under which SQL prepared it; `None` when it came by Parse.
    pub(super) prepared_as: Option<Rc<str>>,
    /// What it does, and on what footing that was found.
    pub(super) understood: RefCell<(Footing, Rc<Understood>)>,
    /// Parameter types, as Parse gave them or as the server described them; four bytes each.
    pub(super) types: RefCell<Box<[u8]>>,
    /// How many of them Parse gave, in bytes; what the server describes later is its own answer and is not counted.
    pub(super) types_bytes: usize,
    /// Result columns as the server described them, formats not decided.
    pub(super) columns: RefCell<Option<(Footing, Rc<Description>)>>,
}

/// A portal.
#[derive(Debug)]
pub(super) struct Portal {
    /// What it runs; `None` when the name was bound to a statement that nobody knows.
    pub(super) statement: Option<Rc<Statement>>,
    /// SQL declared it, and what it runs was judged then.
    pub(super) declared: bool,
    /// The Bind message's body.
    pub(super) bind: Box<[u8]>,
    /// Which generation of names SQL had made when it was bound.
    pub(super) generation: u64,
    /// Result columns as the server described this portal, with its formats.
    pub(super) columns: RefCell<Option<Rc<Description>>>,
}

impl Portal {
    /// A portal that was not bound in this session.
    pub(super) fn unbound(declared: bool) -> Portal {
        Portal { statement: None, declared, bind: Box::default(), generation: 0, columns: RefCell::new(None) }
    }
}

/// A change that the server has not answered yet.
#[derive(Debug)]
pub(super) enum Change {
    /// Of a statement's name, and its number.
    Statement(Box<[u8]>, u64),
    /// Of a portal's name, and its number.
    Portal(Box<[u8]>, u64),
}

/// The names of one session.
#[derive(Debug, Default)]
pub(super) struct Names {
    statements: Table<Statement>,
    portals: Table<Portal>,
    last_change: u64,
}

/// What one name means: for the server as far as it has answered, and after each change that is on its way. A change
/// that fails leaves those before and behind it as they are.
#[derive(Debug)]
struct Meaning<T> {
    settled: Option<Rc<T>>,
    changes: VecDeque<(u64, Option<Rc<T>>)>,
}

impl<T> Default for Meaning<T> {
    fn default() -> Meaning<T> {
        Meaning { settled: None, changes: VecDeque::new() }
    }
}

impl<T> Meaning<T> {
    fn latest(&self) -> Option<&Rc<T>> {
        self.changes.back().map_or(self.settled.as_ref(), |(_, value)| value.as_ref())
    }

    fn is_empty(&self) -> bool {
        self.settled.is_none() && self.changes.is_empty()
    }
}

/// Something that a name costs room for, beside the name.
trait Cost {
    fn bytes(&self) -> usize;
}

impl Cost for Statement {
    fn bytes(&self) -> usize {
        self.text.len() + self.types_bytes
    }
}

impl Cost for Portal {
    fn bytes(&self) -> usize {
        self.bind.len()
    }
}

/// The unnamed one stands apart: it is by far the most used.
#[derive(Debug)]
struct Table<T> {
    unnamed: Meaning<T>,
    named: HashMap<Box<[u8]>, Meaning<T>>,
    /// What all meanings cost.
    bytes: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table { unnamed: Meaning::default(), named: HashMap::new(), bytes: 0 }
    }
}

impl<T: Cost> Table<T> {
    fn meaning(&self, name: &[u8]) -> Option<&Meaning<T>> {
        if name.is_empty() { Some(&self.unnamed) } else { self.named.get(name) }
    }

    fn meaning_mut(&mut self, name: &[u8]) -> Option<&mut Meaning<T>> {
        if name.is_empty() { Some(&mut self.unnamed) } else { self.named.get_mut(name) }
    }

    fn entry(&mut self, name: &[u8]) -> &mut Meaning<T> {
        if name.is_empty() { &mut self.unnamed } else { self.named.entry(name.into()).or_default() }
    }

    fn change(&mut self, name: &[u8], number: u64, value: Option<Rc<T>>) {
        self.bytes = self.bytes.saturating_add(cost(name, value.as_ref()));
        self.entry(name).changes.push_back((number, value));
    }

    /// The server has made the change: it holds, whatever stood before.
    fn settle(&mut self, name: &[u8], number: u64) {
        let Some(meaning) = self.meaning_mut(name) else { return };
        let Some(at) = meaning.changes.iter().position(|(change, _)| *change == number) else { return };
        let mut freed = cost(name, meaning.settled.take().as_ref());
        for (_, value) in meaning.changes.drain(..=at) {
            freed += cost(name, meaning.settled.as_ref());
            meaning.settled = value;
        }
        self.freed(name, freed);
    }

    /// The server has not made the change and never will.
    fn undo(&mut self, name: &[u8], number: u64) {
        let Some(meaning) = self.meaning_mut(name) else { return };
        let Some(at) = meaning.changes.iter().position(|(change, _)| *change == number) else { return };
        let value = meaning.changes.remove(at).and_then(|(_, value)| value);
        self.freed(name, cost(name, value.as_ref()));
    }

    /// A change that nothing undoes.
    fn set(&mut self, name: &[u8], value: Option<Rc<T>>) {
        let added = cost(name, value.as_ref());
        let before =
            std::mem::replace(self.entry(name), Meaning { settled: value, changes: VecDeque::new() });
        self.bytes = self.bytes.saturating_add(added);
        let values = before.changes.iter().filter_map(|(_, value)| value.as_ref()).chain(&before.settled);
        self.freed(name, values.map(|value| cost(name, Some(value))).sum());
    }

    fn freed(&mut self, name: &[u8], bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        if !name.is_empty() && self.named.get(name).is_some_and(Meaning::is_empty) {
            self.named.remove(name);
        }
    }
}

fn cost<T: Cost>(name: &[u8], value: Option<&Rc<T>>) -> usize {
    value.map_or(0, |value| name.len() + value.bytes() + NAME_BYTES)
}

impl Names {
    pub(super) fn statement(&self, name: &[u8]) -> Option<&Rc<Statement>> {
        self.statements.meaning(name).and_then(Meaning::latest)
    }

    pub(super) fn portal(&self, name: &[u8]) -> Option<&Rc<Portal>> {
        self.portals.meaning(name).and_then(Meaning::latest)
    }

    /// Room for `bytes` more (of a whole message: a name may be as long as a text)?
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.statements.bytes.saturating_add(self.portals.bytes).saturating_add(bytes) <= NAMED_BYTES_MAX
    }

    /// The client asks for it; the server has yet to answer.
    pub(super) fn change_statement(&mut self, name: &[u8], statement: Option<Rc<Statement>>) -> Change {
        self.last_change += 1;
        self.statements.change(name, self.last_change, statement);
        Change::Statement(name.into(), self.last_change)
    }

    /// As [`Names::change_statement`].
    pub(super) fn change_portal(&mut self, name: &[u8], portal: Option<Rc<Portal>>) -> Change {
        self.last_change += 1;
        self.portals.change(name, self.last_change, portal);
        Change::Portal(name.into(), self.last_change)
    }

    pub(super) fn settle(&mut self, change: &Change) {
        match change {
            Change::Statement(name, number) => self.statements.settle(name, *number),
            Change::Portal(name, number) => self.portals.settle(name, *number),
        }
    }

    pub(super) fn undo(&mut self, change: &Change) {
        match change {
            Change::Statement(name, number) => self.statements.undo(name, *number),
            Change::Portal(name, number) => self.portals.undo(name, *number),
        }
    }

    pub(super) fn set_statement(&mut self, name: &[u8], statement: Option<Rc<Statement>>) {
        self.statements.set(name, statement);
    }

    pub(super) fn set_portal(&mut self, name: &[u8], portal: Option<Rc<Portal>>) {
        self.portals.set(name, portal);
    }

    /// A simple Query ends the unnamed statement and portal.
    pub(super) fn forget_unnamed(&mut self) {
        self.set_statement(b"", None);
        self.set_portal(b"", None);
    }

    pub(super) fn forget_statements(&mut self) {
        self.statements = Table::default();
    }

    pub(super) fn forget_portals(&mut self) {
        self.portals = Table::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn portal(bind: &str) -> Option<Rc<Portal>> {
        Some(Rc::new(Portal { bind: bind.as_bytes().into(), ..Portal::unbound(false) }))
    }

    fn bound(names: &Names, name: &str) -> String {
        let portal = names.portal(name.as_bytes());
        portal.map_or(String::from("none"), |portal| String::from_utf8_lossy(&portal.bind).into_owned())
    }

    #[test]
    fn a_change_that_fails_leaves_those_behind_it() {
        for name in ["", "p"] {
            let mut names = Names::default();
            names.set_portal(name.as_bytes(), portal("before"));
            let first = names.change_portal(name.as_bytes(), None);
            let second = names.change_portal(name.as_bytes(), portal("second"));
            let third = names.change_portal(name.as_bytes(), portal("third"));
            names.undo(&first);
            assert_eq!(bound(&names, name), "third", "the client has said so since");
            names.undo(&third);
            assert_eq!(bound(&names, name), "second");
            names.undo(&second);
            assert_eq!(bound(&names, name), "before", "what failed was never there");
        }
    }

    #[test]
    fn a_change_that_holds_is_not_undone_and_costs_its_room_once() {
        let mut names = Names::default();
        let first = names.change_portal(b"p", portal("first"));
        let second = names.change_portal(b"p", portal("second"));
        names.settle(&first);
        names.undo(&first);
        assert_eq!(bound(&names, "p"), "second");
        names.undo(&second);
        assert_eq!(bound(&names, "p"), "first");
        assert_eq!(names.portals.bytes, NAME_BYTES + "p".len() + "first".len());
        let gone = names.change_portal(b"p", None);
        names.settle(&gone);
        assert!(names.portals.named.is_empty());
        assert_eq!(names.portals.bytes, 0);
    }
}

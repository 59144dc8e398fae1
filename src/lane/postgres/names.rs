//! Which statement and which portal a name means, as far as the client's messages have been read.
//!
//! The map runs ahead of the server: a Parse counts from the moment it is read. Each change can be undone, because
//! the server may fail the message that made it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use lockgate_facts::postgres::Understood;
use lockgate_mask::ColumnShape;

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
    pub(super) columns: RefCell<Option<(Footing, Rc<[ColumnShape]>)>>,
}

impl Statement {
    /// What it keeps.
    fn bytes(&self) -> usize {
        self.text.len() + self.types_bytes
    }
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
    pub(super) columns: RefCell<Option<Rc<[ColumnShape]>>>,
}

impl Portal {
    /// A portal that was not bound in this session.
    pub(super) fn unbound(declared: bool) -> Portal {
        Portal { statement: None, declared, bind: Box::default(), generation: 0, columns: RefCell::new(None) }
    }
}

/// A change that can be undone.
#[derive(Debug)]
pub(super) enum Undo {
    /// The statement name meant this before.
    Statement(Box<[u8]>, Option<Rc<Statement>>),
    /// The portal name meant this before.
    Portal(Box<[u8]>, Option<Rc<Portal>>),
}

/// The names of one session.
#[derive(Debug, Default)]
pub(super) struct Names {
    statements: Table<Statement>,
    portals: Table<Portal>,
    bytes: usize,
}

/// The unnamed one stands apart: it is by far the most used.
#[derive(Debug)]
struct Table<T> {
    unnamed: Option<Rc<T>>,
    named: HashMap<Box<[u8]>, Rc<T>>,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table { unnamed: None, named: HashMap::new() }
    }
}

impl<T> Table<T> {
    fn get(&self, name: &[u8]) -> Option<&Rc<T>> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    fn all(&self) -> impl Iterator<Item = (&[u8], &Rc<T>)> {
        let named = self.named.iter().map(|(name, value)| (&**name, value));
        named.chain(self.unnamed.iter().map(|value| (&b""[..], value)))
    }

    fn set(&mut self, name: &[u8], value: Option<Rc<T>>) -> Option<Rc<T>> {
        match value {
            _ if name.is_empty() => std::mem::replace(&mut self.unnamed, value),
            Some(value) => self.named.insert(name.into(), value),
            None => self.named.remove(name),
        }
    }
}

impl Names {
    pub(super) fn statement(&self, name: &[u8]) -> Option<&Rc<Statement>> {
        self.statements.get(name)
    }

    pub(super) fn portal(&self, name: &[u8]) -> Option<&Rc<Portal>> {
        self.portals.get(name)
    }

    /// Room for `bytes` more (of a whole message: a name may be as long as a text)?
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.bytes.saturating_add(bytes).saturating_add(NAME_BYTES) <= NAMED_BYTES_MAX
    }

    pub(super) fn set_statement(&mut self, name: &[u8], statement: Option<Rc<Statement>>) -> Undo {
        let cost = |one: &Rc<Statement>| name.len() + one.bytes() + NAME_BYTES;
        self.bytes = self.bytes.saturating_add(statement.as_ref().map_or(0, cost));
        let previous = self.statements.set(name, statement);
        self.bytes = self.bytes.saturating_sub(previous.as_ref().map_or(0, cost));
        Undo::Statement(name.into(), previous)
    }

    pub(super) fn set_portal(&mut self, name: &[u8], portal: Option<Rc<Portal>>) -> Undo {
        let cost = |one: &Rc<Portal>| name.len() + one.bind.len() + NAME_BYTES;
        self.bytes = self.bytes.saturating_add(portal.as_ref().map_or(0, cost));
        let previous = self.portals.set(name, portal);
        self.bytes = self.bytes.saturating_sub(previous.as_ref().map_or(0, cost));
        Undo::Portal(name.into(), previous)
    }

    pub(super) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Statement(name, previous) => drop(self.set_statement(&name, previous)),
            Undo::Portal(name, previous) => drop(self.set_portal(&name, previous)),
        }
    }

    /// A simple Query ends the unnamed statement and portal.
    pub(super) fn forget_unnamed(&mut self) {
        self.set_statement(b"", None);
        self.set_portal(b"", None);
    }

    pub(super) fn forget_statements(&mut self) {
        self.statements = Table::default();
        self.recount();
    }

    pub(super) fn forget_portals(&mut self) {
        self.portals = Table::default();
        self.recount();
    }

    fn recount(&mut self) {
        let statements = self.statements.all().map(|(name, one)| name.len() + one.bytes() + NAME_BYTES);
        let portals = self.portals.all().map(|(name, one)| name.len() + one.bind.len() + NAME_BYTES);
        self.bytes = statements.sum::<usize>() + portals.sum::<usize>();
    }
}

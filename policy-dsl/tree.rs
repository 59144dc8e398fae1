//! What a policy text says, before anything in it is looked up.

use std::sync::Arc;

use crate::diagnostic::Place;
use crate::verdict::MaskKind;

/// All files together.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub sets: Vec<SetTree>,
    pub policies: Vec<PolicyTree>,
}

/// A name that something is defined or used by.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    pub text: String,
    pub place: Place,
}

/// `set NAME = { … }`
#[derive(Debug)]
pub(crate) struct SetTree {
    pub name: Name,
    pub terms: Vec<Term>,
}

/// One entry of a list of effects, objects or columns.
#[derive(Debug, Clone)]
pub(crate) enum Term {
    /// A name, dotted and with `*` perhaps. What it means depends on where it is used.
    Path(Arc<Path>),
    /// `@name`
    Set(Name),
}

/// A name of up to three parts, or a kind and a name.
#[derive(Debug)]
pub(crate) struct Path {
    pub kind: Option<&'static str>,
    pub parts: Vec<Part>,
    pub place: Place,
}

/// One part of a dotted name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Part {
    pub text: String,
    pub quoted: bool,
}

/// `policy NAME for … on target … { … }`
#[derive(Debug)]
pub(crate) struct PolicyTree {
    pub name: Name,
    pub groups: Vec<String>,
    pub users: Vec<String>,
    pub targets: Vec<String>,
    pub rules: Vec<RuleTree>,
    pub masks: Vec<MaskTree>,
}

/// What a rule does with what it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Verb {
    Deny,
    Hold,
    Allow,
}

impl Verb {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Verb::Deny => "deny",
            Verb::Hold => "hold",
            Verb::Allow => "allow",
        }
    }
}

/// `allow|deny|hold EFFECTS …`
#[derive(Debug)]
pub(crate) struct RuleTree {
    pub verb: Verb,
    pub place: Place,
    pub effects: Vec<Term>,
    pub objects: Option<Vec<Term>>,
    pub unbounded: bool,
    pub because: Option<String>,
    pub approval: Option<Approval>,
}

/// `for group "…" within 15m`
#[derive(Debug, Clone)]
pub(crate) struct Approval {
    pub group: String,
    pub within_s: u32,
}

/// `mask COLUMNS with …`
#[derive(Debug)]
pub(crate) struct MaskTree {
    pub columns: Vec<Term>,
    pub mask: MaskKind,
}

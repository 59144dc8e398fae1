//! What a program says about a command, and about columns.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::glob::glob_matches;

/// What a program says about a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What is to happen.
    pub decision: Decision,
    /// The rule that decided, as `policy/rule`, e.g. `orders_agents/deny drop`; `default deny` when none did,
    /// `no effects` for a command that touches nothing. At most 120 characters.
    pub rule: Arc<str>,
    /// The rule's `because`, or a sentence that says what no rule allows; empty for what is allowed without one.
    pub reason: Arc<str>,
}

/// Allow, deny, or hold for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may pass.
    Allow,
    /// It may not.
    Deny,
    /// It waits for somebody's yes.
    Hold {
        /// Whose.
        group: Arc<str>,
        /// For how long, in seconds; then it is denied.
        within_s: u32,
    },
}

/// A protected column as policy names it, and its mask.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MaskRule {
    /// As `policy/mask schema.table.column`.
    pub rule: String,
    /// Schema, with `*` for any characters.
    pub schema: String,
    /// Table, with `*` for any characters.
    pub table: String,
    /// Column, with `*` for any characters.
    pub column: String,
    /// What becomes of its cells. When several rules name a column the strongest ([`Ord`]) wins.
    pub mask: MaskKind,
}

impl MaskRule {
    /// Whether the rule names this column (names as the catalog stores them). Linear time.
    pub fn names(&self, schema: &str, table: &str, column: &str) -> bool {
        glob_matches(&self.schema, schema)
            && glob_matches(&self.table, table)
            && glob_matches(&self.column, column)
    }
    /// Whether the rule's names are exact: no `*` in any.
    pub fn is_exact(&self) -> bool {
        ![&self.schema, &self.table, &self.column].iter().any(|part| part.contains('*'))
    }
}

/// How a masked cell is to be made. Ordered by strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MaskKind {
    /// NULL.
    Null,
    /// `[REDACTED]`.
    Redact,
    /// The last so many letters and digits stay.
    KeepLast(u8),
    /// The domain of an e-mail address stays.
    KeepDomain,
}

impl MaskKind {
    /// What shows less is stronger: to keep fewer characters is stronger than to keep more.
    fn strength(self) -> (u8, u8) {
        match self {
            MaskKind::KeepLast(kept) => (0, u8::MAX - kept),
            MaskKind::KeepDomain => (1, 0),
            MaskKind::Redact => (2, 0),
            MaskKind::Null => (3, 0),
        }
    }
}

impl PartialOrd for MaskKind {
    fn partial_cmp(&self, other: &MaskKind) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for MaskKind {
    fn cmp(&self, other: &MaskKind) -> Ordering {
        self.strength().cmp(&other.strength())
    }
}

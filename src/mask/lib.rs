//! Masks: a row that passed through a plan of this crate can not carry a protected cell, nor a broken frame.
//!
//! A [`Plan`] is made once per statement and result format; it rewrites whole DataRow messages in place where the
//! masks keep lengths ([`Plan::mask_row_in_place`]) and by splicing otherwise ([`Plan::mask_row`]). A row that is
//! too long to be held is masked piece by piece by a [`StreamMasker`]. No socket, no thread, no clock.
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;

mod cell;
mod plan;
mod row;
mod stream;

#[doc(hidden)]
pub mod fuzzing;

#[cfg(test)]
mod tests;

pub use plan::{InPlace, Plan};
pub use stream::{StreamError, StreamMasker, StreamProgress};

/// What a masked cell becomes. Ordered by strength: when several apply, the strongest wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mask {
    /// The last `n` letters and digits stay, the others become `*`; separators and length (in characters) are
    /// kept. A value with no more than `n` of them becomes `*` throughout.
    KeepLast(u8),
    /// The domain of an e-mail address stays; of what stands before it letters and digits become `*`, separators
    /// and length are kept. What is no e-mail address becomes `*` throughout.
    KeepDomain,
    /// `[REDACTED]`.
    Redact,
    /// NULL.
    Null,
}

impl Mask {
    /// What shows less is stronger: to keep fewer characters is stronger than to keep more.
    fn strength(self) -> (u8, u8) {
        match self {
            Mask::KeepLast(kept) => (0, u8::MAX - kept),
            Mask::KeepDomain => (1, 0),
            Mask::Redact => (2, 0),
            Mask::Null => (3, 0),
        }
    }
}

impl PartialOrd for Mask {
    fn partial_cmp(&self, other: &Mask) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Mask {
    fn cmp(&self, other: &Mask) -> Ordering {
        self.strength().cmp(&other.strength())
    }
}

/// One protected column's rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `policy/rule`
    pub name: Arc<str>,
    /// `schema.table.column`
    pub place: Arc<str>,
    /// What its cells become.
    pub mask: Mask,
}

/// Protected columns by (table OID, attribute number), resolved against one catalog version.
#[derive(Debug, Default)]
pub struct ColumnMasks {
    /// At most one rule for each column: [`ColumnMasks::add`] keeps the strongest. Policies say which columns are in it: no
    /// seed is needed against collisions.
    pub rules: HashMap<(u32, i16), Rule, FixedState>,
}

impl ColumnMasks {
    /// Protects a column; where it was protected already the stronger mask stays.
    pub fn add(&mut self, table_oid: u32, attribute: i16, rule: Rule) {
        let kept = self.rules.entry((table_oid, attribute)).or_insert_with(|| rule.clone());
        if rule.mask > kept.mask {
            *kept = rule;
        }
    }
}

/// One result column, as RowDescription tells, with its format in this portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnShape {
    /// The table it comes from, 0 for none.
    pub table_oid: u32,
    /// The column's number in that table; 0 for none, or for the whole row.
    pub attribute: i16,
    /// The type of its values.
    pub type_oid: u32,
    /// 0 text, 1 binary.
    pub format: u8,
}

/// A DataRow that its own counts and lengths contradict, or that has other columns than the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokenRow;

impl std::fmt::Display for BrokenRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the server sent a row that is not one of the columns it described")
    }
}

impl std::error::Error for BrokenRow {}

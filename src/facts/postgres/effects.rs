//! What a statement was found to do, as it is found: pairs in any order, made unique at the end.

use lockgate_policy_dsl::{Effect, Facts, Object, Pair};
use std::sync::Arc;

/// Most reasons for `unknown` that are kept; the effect itself is never lost.
const REASONS_MAX: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Effects {
    pairs: Vec<Pair>,
    reasons: Vec<String>,
}

impl Effects {
    pub(super) fn add(&mut self, effect: Effect, object: Object) {
        self.push(Pair { effect, object, unbounded: false });
    }

    pub(super) fn push(&mut self, pair: Pair) {
        // Statements repeat themselves (two thousand calls of one function); the last few pairs catch most.
        if !self.pairs.iter().rev().take(8).any(|other| *other == pair) {
            self.pairs.push(pair);
        }
        if self.pairs.len() >= 1024 && self.pairs.len().is_power_of_two() {
            self.settle();
        }
    }

    pub(super) fn unknown(&mut self, reason: impl Into<String>) {
        self.add(Effect::Unknown, Object::None);
        let reason = reason.into();
        if self.reasons.len() < REASONS_MAX && !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    /// The objects of one effect.
    pub(super) fn objects(&self, effect: Effect) -> impl Iterator<Item = &Object> {
        self.pairs.iter().filter(move |pair| pair.effect == effect).map(|pair| &pair.object)
    }

    pub(super) fn absorb(&mut self, other: Effects) {
        other.pairs.into_iter().for_each(|pair| self.push(pair));
        for reason in other.reasons {
            if self.reasons.len() < REASONS_MAX && !self.reasons.contains(&reason) {
                self.reasons.push(reason);
            }
        }
    }

    pub(super) fn into_facts(mut self) -> Facts {
        self.settle();
        self.pairs.shrink_to_fit();
        Facts { pairs: self.pairs, unknown: self.reasons }
    }

    fn settle(&mut self) {
        self.pairs.sort_unstable();
        self.pairs.dedup();
    }
}

pub(super) fn qualified(schema: &Arc<str>, name: &Arc<str>) -> Object {
    Object::Qualified { schema: schema.clone(), name: name.clone() }
}

pub(super) fn named(schema: &str, name: &str) -> Object {
    Object::Qualified { schema: schema.into(), name: name.into() }
}

pub(super) fn unresolved(name: &str) -> Object {
    Object::Unresolved { name: name.into() }
}

pub(super) fn kind(kind: &'static str, name: &str) -> Object {
    Object::Kind { kind, name: name.into() }
}

pub(super) fn word(word: &str) -> Object {
    Object::Word(word.into())
}

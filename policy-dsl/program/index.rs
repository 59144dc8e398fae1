//! From a pair to the rules that name it, without a walk over all rules.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::Pattern;
use crate::check::Rule;
use crate::glob::{Glob, is_every};
use crate::tree::Verb;
use crate::vocabulary::{Effect, EffectSet, Object, Pair};

/// Keys come from policies, never from a peer: no seed is needed against collisions.
type Map<V> = HashMap<Box<str>, V, FixedState>;

/// The rules of one verb.
#[derive(Debug)]
pub(super) struct Index {
    /// Whether a rule must cover all that a pair stands for, or only touch it.
    must_cover: bool,
    /// Those that some rule speaks of: most pairs need no look at denies and holds.
    effects: EffectSet,
    entries: Vec<Entry>,
    any: Option<u32>,
    schemas: Map<Names>,
    /// Patterns whose schema holds `*`.
    loose: Vec<u32>,
    words: Names,
    kinds: HashMap<&'static str, Names, FixedState>,
    /// Every named pattern by its last part, for names that are not resolved.
    lasts: Names,
}

/// Entries by one part of their name.
#[derive(Debug, Default)]
struct Names {
    exact: Map<Vec<u32>>,
    wild: Vec<u32>,
}

/// A pattern and the rules that name it.
#[derive(Debug)]
struct Entry {
    pattern: Pattern,
    posting: Posting,
}

/// The rules that name a pattern, by number; those that another one of a lower number makes superfluous are left
/// out, so there are at most two for each effect.
#[derive(Debug, Default)]
struct Posting(Vec<Clause>);

#[derive(Debug)]
struct Clause {
    effects: EffectSet,
    unbounded_only: bool,
    rule: u32,
}

impl Posting {
    /// Rules come in the order of their numbers.
    fn add(&mut self, effects: EffectSet, unbounded_only: bool, rule: u32) {
        let superfluous = |clause: &&Clause| unbounded_only || !clause.unbounded_only;
        let known = self.0.iter().filter(superfluous).fold(EffectSet::EMPTY, |set, c| set.union(c.effects));
        let effects = effects.without(known);
        if !effects.is_empty() {
            self.0.push(Clause { effects, unbounded_only, rule });
        }
    }

    fn find(&self, pair: &Pair) -> Option<u32> {
        let applies = |c: &&Clause| c.effects.contains(pair.effect) && (pair.unbounded || !c.unbounded_only);
        self.0.iter().find(applies).map(|clause| clause.rule)
    }
}

impl Names {
    fn add(&mut self, name: &Glob, entry: u32) {
        match name {
            Glob::Exact(text) => self.exact.entry(text.clone()).or_default().push(entry),
            Glob::Any | Glob::Wild(_) => self.wild.push(entry),
        }
    }

    /// Entries that could name `name`: those with `*` are still to be compared.
    fn find(&self, name: &str) -> impl Iterator<Item = u32> {
        let exact = self.exact.get(name).map_or(&[][..], Vec::as_slice);
        exact.iter().chain(&self.wild).copied()
    }

    fn verify(&self, in_range: impl Fn(&u32) -> bool) -> bool {
        self.exact.values().flatten().chain(&self.wild).all(in_range)
    }
}

impl Index {
    /// Of rules of one verb with their numbers, in order.
    pub(super) fn new<'r>(verb: Verb, rules: impl Iterator<Item = (u32, &'r Arc<Rule>)>) -> Index {
        let mut index = Index {
            must_cover: verb == Verb::Allow,
            effects: EffectSet::EMPTY,
            entries: Vec::new(),
            any: None,
            schemas: Map::default(),
            loose: Vec::new(),
            words: Names::default(),
            kinds: HashMap::default(),
            lasts: Names::default(),
        };
        let mut known: HashMap<Pattern, usize, FixedState> = HashMap::default();
        let settings = EffectSet::one(Effect::Set);
        for (number, rule) in rules {
            for pattern in &rule.patterns {
                let others = rule.effects.without(settings);
                index.add(&mut known, pattern.clone(), others, rule.unbounded, number);
                let set = rule.effects.intersection(settings);
                index.add(&mut known, pattern.folded(), set, rule.unbounded, number);
            }
        }
        index.place();
        index
    }

    fn add(
        &mut self,
        known: &mut HashMap<Pattern, usize, FixedState>,
        pattern: Pattern,
        effects: EffectSet,
        unbounded_only: bool,
        rule: u32,
    ) {
        if effects.is_empty() {
            return;
        }
        self.effects = self.effects.union(effects);
        let at = *known.entry(pattern.clone()).or_insert(self.entries.len());
        if at == self.entries.len() {
            self.entries.push(Entry { pattern, posting: Posting::default() });
        }
        if let Some(entry) = self.entries.get_mut(at) {
            entry.posting.add(effects, unbounded_only, rule);
        }
    }

    /// Puts every entry where look-ups find it.
    fn place(&mut self) {
        for (number, entry) in (0..).zip(&self.entries) {
            match &entry.pattern {
                Pattern::Any => self.any = Some(number),
                Pattern::Qualified { schema: Glob::Exact(schema), name } => {
                    self.schemas.entry(schema.clone()).or_default().add(name, number);
                }
                Pattern::Qualified { .. } => self.loose.push(number),
                Pattern::Last(name) => self.words.add(name, number),
                Pattern::Kind { kind, name } => self.kinds.entry(kind).or_default().add(name, number),
            }
            if !self.must_cover
                && let Some(last) = entry.pattern.last()
            {
                self.lasts.add(last, number);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Every entry that is referred to is there, and every rule is one of which `is_rule` says so.
    pub(super) fn verify(&self, is_rule: impl Fn(&u32) -> bool) -> bool {
        let in_range = |number: &u32| usize::try_from(*number).is_ok_and(|at| at < self.entries.len());
        self.entries.iter().flat_map(|entry| &entry.posting.0).all(|clause| is_rule(&clause.rule))
            && self.any.iter().chain(&self.loose).all(in_range)
            && self.schemas.values().chain(self.kinds.values()).all(|names| names.verify(in_range))
            && self.words.verify(in_range)
            && self.lasts.verify(in_range)
    }

    /// The rule of the lowest number that names this pair.
    pub(super) fn find(&self, pair: &Pair) -> Option<u32> {
        if !self.effects.contains(pair.effect) {
            return None;
        }
        let object = &*folded(pair);
        let mut best = self.any.and_then(|any| self.rule_of(any, pair, object));
        let mut see = |entries: &mut dyn Iterator<Item = u32>| {
            for entry in entries {
                best = lower(best, self.rule_of(entry, pair, object));
            }
        };
        match object {
            Object::None => {}
            _ if self.needs_walk(object) => see(&mut (0..).take(self.entries.len())),
            Object::Qualified { schema, name } => {
                see(&mut self.schemas.get(&**schema).into_iter().flat_map(|names| names.find(name)));
                see(&mut self.loose.iter().copied());
                if !self.must_cover {
                    see(&mut self.words.find(name));
                }
            }
            Object::Unresolved { name } => see(&mut self.lasts.find(name)),
            Object::Kind { kind, name } => {
                see(&mut self.kinds.get(kind).into_iter().flat_map(|names| names.find(name)));
            }
            Object::Word(word) => see(&mut self.words.find(word)),
        }
        best
    }

    /// Names that stand for many, and words with a dot, are found by no hash.
    fn needs_walk(&self, object: &Object) -> bool {
        match object {
            Object::None => false,
            Object::Qualified { schema, name } => is_every(schema) || is_every(name),
            Object::Unresolved { name } | Object::Kind { name, .. } => is_every(name),
            Object::Word(word) => is_every(word) || word.contains('.'),
        }
    }

    fn rule_of(&self, entry: u32, pair: &Pair, object: &Object) -> Option<u32> {
        let entry = self.entries.get(usize::try_from(entry).ok()?)?;
        let rule = entry.posting.find(pair)?;
        let named = match self.must_cover {
            true => entry.pattern.covers(pair.effect, object),
            false => entry.pattern.touches(object),
        };
        named.then_some(rule)
    }
}

fn lower(left: Option<u32>, right: Option<u32>) -> Option<u32> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.min(right)),
        (left, right) => left.or(right),
    }
}

/// A pair's object as patterns name it: settings are the same in any case.
fn folded(pair: &Pair) -> Cow<'_, Object> {
    match &pair.object {
        Object::Word(word)
            if pair.effect == Effect::Set && word.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            Cow::Owned(Object::word(&word.to_ascii_lowercase()))
        }
        object => Cow::Borrowed(object),
    }
}

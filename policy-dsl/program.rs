//! Checked policies to a program for one identity on one target, and its evaluation.
//!
//! A program keeps, for each verb, every pattern that some rule names, once, with the rules that name it
//! (`Posting`). Exact names are found by hash, patterns with `*` by a walk over those that could match. Rules are
//! numbered in an order of their own content, so that neither files nor lines decide which of two is named.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::check::{Policy, Rule};
use crate::glob::{Glob, glob_matches, is_every};
use crate::tree::Verb;
use crate::verdict::{Decision, MaskRule, Verdict};
use crate::vocabulary::{Effect, EffectSet, Facts, Object, Pair};

mod index;
use index::Index;

/// Longest name of a rule, in characters.
pub(crate) const RULE_CHARS_MAX: usize = 120;
/// Longest object or explanation that a reason quotes, in characters.
const QUOTED_CHARS_MAX: usize = 160;

/// What a rule names. Order and equality serve to number and to join; they mean nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Pattern {
    /// `*`: everything, also what has no name.
    Any,
    /// `schema.name`
    Qualified { schema: Glob, name: Glob },
    /// A name alone: a bare word, and in `deny` and `hold` the last part of any name.
    Last(Glob),
    /// `role x`
    Kind { kind: &'static str, name: Glob },
}

impl Pattern {
    /// Whether all that `object` stands for is named. The whole `allow * on *` is not this function's to know: an
    /// unresolved name is covered by nothing here.
    pub(crate) fn covers(&self, effect: Effect, object: &Object) -> bool {
        match (self, object) {
            (_, Object::Unresolved { .. }) => false,
            (Pattern::Any, _) => true,
            (Pattern::Qualified { schema, name }, Object::Qualified { schema: s, name: n }) => {
                schema.covers(s) && name.covers(n)
            }
            // A setting of an extension: `plpgsql.extra_warnings`.
            (Pattern::Qualified { schema, name }, Object::Word(word)) => {
                effect == Effect::Set && dotted_covers(schema, name, word)
            }
            (Pattern::Last(name), Object::Word(word)) => name.covers(word),
            (Pattern::Kind { kind, name }, Object::Kind { kind: k, name: n }) => kind == k && name.covers(n),
            _ => false,
        }
    }

    /// Whether something that `object` stands for is named. What is not resolved could be anything of its name.
    pub(crate) fn touches(&self, object: &Object) -> bool {
        match (self, object) {
            (Pattern::Any, _) => true,
            (_, Object::None) => false,
            (_, Object::Unresolved { name }) => self.last().is_none_or(|last| last.touches(name)),
            (Pattern::Qualified { schema, name }, Object::Qualified { schema: s, name: n }) => {
                schema.touches(s) && name.touches(n)
            }
            (Pattern::Qualified { schema, name }, Object::Word(word)) => {
                is_every(word) || dotted_covers(schema, name, word)
            }
            (Pattern::Last(name), Object::Qualified { name: n, .. }) => name.touches(n),
            (Pattern::Last(name), Object::Word(word)) => name.touches(word),
            (Pattern::Kind { kind, name }, Object::Kind { kind: k, name: n }) => kind == k && name.touches(n),
            _ => false,
        }
    }

    /// The last part; `None`: everything.
    fn last(&self) -> Option<&Glob> {
        match self {
            Pattern::Any => None,
            Pattern::Qualified { name, .. } | Pattern::Last(name) | Pattern::Kind { name, .. } => Some(name),
        }
    }

    /// As for settings, whose names are the same in any case.
    fn folded(&self) -> Pattern {
        let fold = |glob: &Glob| Glob::new(&glob.text().to_ascii_lowercase());
        match self {
            Pattern::Any => Pattern::Any,
            Pattern::Qualified { schema, name } => {
                Pattern::Qualified { schema: fold(schema), name: fold(name) }
            }
            Pattern::Last(name) => Pattern::Last(fold(name)),
            Pattern::Kind { kind, name } => Pattern::Kind { kind, name: fold(name) },
        }
    }
}

/// Whether `schema.name` names a word with a dot in it; a schema with `*` ends at the word's first dot.
fn dotted_covers(schema: &Glob, name: &Glob, word: &str) -> bool {
    let cut = match schema {
        Glob::Exact(text) => word.strip_prefix(&**text).and_then(|rest| rest.strip_prefix('.')),
        _ => word.split_once('.').filter(|(head, _)| schema.covers(head)).map(|(_, rest)| rest),
    };
    cut.is_some_and(|rest| name.covers(rest))
}

/// All policies of a snapshot, checked.
#[derive(Debug)]
pub struct PolicySet {
    policies: Vec<Policy>,
}

impl PolicySet {
    pub(crate) fn new(policies: Vec<Policy>) -> PolicySet {
        PolicySet { policies }
    }

    #[cfg(test)]
    pub(crate) fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.policies.iter().flat_map(|policy| &policy.rules)
    }

    /// The program for these groups (and this user name) on this target; `None`: no policy names them, so they may
    /// not connect.
    pub fn program(&self, user: &str, groups: &[String], target: &str) -> Option<Program> {
        let mut applies = false;
        let mut rules: Vec<Arc<Rule>> = Vec::new();
        let mut masks: Vec<MaskRule> = Vec::new();
        for policy in self.policies.iter().filter(|policy| policy.applies(user, groups, target)) {
            applies = true;
            rules.extend(policy.rules.iter().cloned());
            masks.extend(policy.masks.iter().cloned());
        }
        if !applies {
            return None;
        }
        rules.sort_unstable();
        masks.sort_unstable();
        masks.dedup();
        // A program that does not verify would be a mistake of this crate: nobody may connect with it.
        Some(Program::new(&rules, masks)).filter(Program::verify)
    }
}

impl Policy {
    fn applies(&self, user: &str, groups: &[String], target: &str) -> bool {
        let named =
            |patterns: &[String], name: &str| patterns.iter().any(|pattern| glob_matches(pattern, name));
        named(&self.targets, target)
            && (named(&self.users, user) || groups.iter().any(|group| named(&self.groups, group)))
    }
}

/// What a program says when a rule decides.
#[derive(Debug)]
struct Ruling {
    name: Arc<str>,
    reason: Arc<str>,
    hold: Option<(Arc<str>, u32)>,
}

/// A compiled, verified policy for one set of groups on one target. Immutable and shared; evaluation allocates
/// nothing but the sentence of a refusal that has no `because`.
#[derive(Debug)]
pub struct Program {
    id: u64,
    rulings: Vec<Ruling>,
    deny: Index,
    hold: Index,
    allow: Index,
    /// The rule that allows everything, unknown and unresolved included, if there is one.
    allow_everything: Option<u32>,
    masks: Vec<MaskRule>,
    default_deny: Arc<str>,
    no_effects: Arc<str>,
    nothing: Arc<str>,
}

impl Program {
    fn new(rules: &[Arc<Rule>], masks: Vec<MaskRule>) -> Program {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let index = |verb: Verb| Index::new(verb, (0..).zip(rules).filter(|(_, rule)| rule.verb == verb));
        let everything = |rule: &Rule| {
            rule.verb == Verb::Allow
                && !rule.unbounded
                && rule.effects == EffectSet::ALL
                && rule.patterns.contains(&Pattern::Any)
        };
        let ruling = |rule: &Arc<Rule>| Ruling {
            name: Arc::clone(&rule.name),
            reason: Arc::clone(&rule.reason),
            hold: rule.hold.clone(),
        };
        Program {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            deny: index(Verb::Deny),
            hold: index(Verb::Hold),
            allow: index(Verb::Allow),
            allow_everything: (0..).zip(rules).find(|(_, rule)| everything(rule)).map(|(number, _)| number),
            rulings: rules.iter().map(ruling).collect(),
            masks,
            default_deny: "default deny".into(),
            no_effects: "no effects".into(),
            nothing: "".into(),
        }
    }

    /// Every number in it points at something, and what holds waits for somebody.
    fn verify(&self) -> bool {
        let rules = self.rulings.len();
        let in_range = |number: &u32| usize::try_from(*number).is_ok_and(|number| number < rules);
        let holds = |number: &u32| {
            usize::try_from(*number).is_ok_and(|at| self.rulings.get(at).is_some_and(|r| r.hold.is_some()))
        };
        self.deny.verify(in_range)
            && self.allow.verify(in_range)
            && self.hold.verify(holds)
            && self.allow_everything.as_ref().is_none_or(in_range)
    }

    /// Never reused within the process: a cache may key verdicts by it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Protected columns: sets are resolved, names may hold `*`. Sorted, each once.
    pub fn masks(&self) -> &[MaskRule] {
        &self.masks
    }

    /// Patterns that one pair can be compared with at most: what evaluation costs, known before it runs.
    pub fn cost_max(&self) -> usize {
        [&self.deny, &self.hold, &self.allow].iter().map(|index| index.len()).sum()
    }

    /// Judges a command. A deny that touches any pair beats all; then a hold that touches any; then it takes an
    /// allow for every pair.
    pub fn judge(&self, facts: &Facts) -> Verdict {
        let mut held = None;
        let mut allowed = None;
        let mut uncovered = None;
        let unknown = Pair::new(Effect::Unknown, Object::None);
        // Facts that say why something is unknown without saying that it is, are unknown all the same.
        let unsaid =
            !facts.unknown.is_empty() && !facts.pairs.iter().any(|pair| pair.effect == Effect::Unknown);
        for pair in facts.pairs.iter().chain(unsaid.then_some(&unknown)) {
            if let Some(rule) = self.deny.find(pair) {
                return self.denied(rule, pair);
            }
            if held.is_none() {
                held = self.hold.find(pair).map(|rule| (rule, pair));
            }
            if uncovered.is_none() {
                match self.allow.find(pair).or(self.allow_everything) {
                    Some(rule) => allowed = allowed.or(Some(rule)),
                    None => uncovered = Some(pair),
                }
            }
        }
        match (held, uncovered) {
            (Some((rule, pair)), _) => self.held(rule, pair),
            (None, Some(pair)) => self.uncovered(pair, facts),
            (None, None) => self.allowed(allowed),
        }
    }

    fn ruling(&self, rule: u32) -> Option<&Ruling> {
        self.rulings.get(usize::try_from(rule).ok()?)
    }

    fn denied(&self, rule: u32, pair: &Pair) -> Verdict {
        let Some(ruling) = self.ruling(rule) else { return self.uncovered(pair, &Facts::default()) };
        let reason = ruling.because(|| format!("policy denies {}", described(pair)));
        Verdict { decision: Decision::Deny, rule: Arc::clone(&ruling.name), reason }
    }

    fn held(&self, rule: u32, pair: &Pair) -> Verdict {
        let Some((ruling, (group, within_s))) =
            self.ruling(rule).and_then(|ruling| Some((ruling, ruling.hold.as_ref()?)))
        else {
            return self.uncovered(pair, &Facts::default());
        };
        let reason = ruling.because(|| format!("{} waits for a yes of {group}", described(pair)));
        let decision = Decision::Hold { group: Arc::clone(group), within_s: *within_s };
        Verdict { decision, rule: Arc::clone(&ruling.name), reason }
    }

    fn allowed(&self, rule: Option<u32>) -> Verdict {
        let (rule, reason) = match rule.and_then(|rule| self.ruling(rule)) {
            Some(ruling) => (&ruling.name, &ruling.reason),
            None => (&self.no_effects, &self.nothing),
        };
        Verdict { decision: Decision::Allow, rule: Arc::clone(rule), reason: Arc::clone(reason) }
    }

    fn uncovered(&self, pair: &Pair, facts: &Facts) -> Verdict {
        let why = match (pair.effect, &pair.object, facts.unknown.first()) {
            (Effect::Unknown, _, Some(why)) => format!(": {}", clipped(why, QUOTED_CHARS_MAX)),
            (_, Object::Unresolved { .. }, _) => String::from(", a name that cannot be resolved"),
            _ => String::new(),
        };
        Verdict {
            decision: Decision::Deny,
            rule: Arc::clone(&self.default_deny),
            reason: format!("no rule allows {}{why}", described(pair)).into(),
        }
    }
}

impl Ruling {
    fn because(&self, otherwise: impl FnOnce() -> String) -> Arc<str> {
        if self.reason.is_empty() { otherwise().into() } else { Arc::clone(&self.reason) }
    }
}

/// A pair in a sentence: `drop on sales.orders`.
fn described(pair: &Pair) -> String {
    let everywhere = if pair.unbounded { " without bounds" } else { "" };
    match &pair.object {
        Object::None => format!("{}{everywhere}", pair.effect),
        object => {
            let object = clipped(&object.to_string(), QUOTED_CHARS_MAX);
            format!("{}{everywhere} on {object}", pair.effect)
        }
    }
}

/// The first `chars_max` characters of a text, the last one `…` if there were more; nothing unprintable.
pub(crate) fn clipped(text: &str, chars_max: usize) -> String {
    let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    if text.chars().nth(chars_max).is_none() {
        return text.chars().map(printable).collect();
    }
    text.chars().take(chars_max.saturating_sub(1)).map(printable).chain(['…']).collect()
}

//! The naive twin: the meaning of rules as the language's page says it, over texts, rule by rule. Never optimised.

use crate::check::Rule;
use crate::program::Pattern;
use crate::tree::Verb;
use crate::{Effect, EffectSet, Facts, Object, Pair};

/// What the rules say, as a word.
pub(crate) fn judge(rules: &[&Rule], facts: &Facts) -> &'static str {
    let any = |verb: Verb| {
        facts.pairs.iter().any(|pair| rules.iter().any(|rule| rule.verb == verb && touches(rule, pair)))
    };
    let allowed = |pair: &Pair| rules.iter().any(|rule| rule.verb == Verb::Allow && covers(rule, pair));
    if any(Verb::Deny) {
        "deny"
    } else if any(Verb::Hold) {
        "hold"
    } else if facts.pairs.iter().all(allowed) {
        "allow"
    } else {
        "deny"
    }
}

fn speaks_of(rule: &Rule, pair: &Pair) -> bool {
    rule.effects.contains(pair.effect) && (pair.unbounded || !rule.unbounded)
}

fn covers(rule: &Rule, pair: &Pair) -> bool {
    let everything =
        rule.effects == EffectSet::ALL && rule.patterns.contains(&Pattern::Any) && !rule.unbounded;
    if let Object::Unresolved { .. } = pair.object {
        return everything;
    }
    speaks_of(rule, pair) && rule.patterns.iter().any(|pattern| pattern_covers(pattern, pair))
}

fn pattern_covers(pattern: &Pattern, pair: &Pair) -> bool {
    let is_set = pair.effect == Effect::Set;
    match (pattern, &pair.object) {
        (Pattern::Any, _) => true,
        (Pattern::Qualified { schema, name }, Object::Qualified { schema: s, name: n }) => {
            glob(schema.text(), s) && glob(name.text(), n)
        }
        (Pattern::Qualified { schema, name }, Object::Word(word)) => {
            let pattern = format!("{}.{}", schema.text(), name.text());
            is_set && glob(&pattern.to_lowercase(), &word.to_lowercase())
        }
        (Pattern::Last(name), Object::Word(word)) if is_set => {
            glob(&name.text().to_lowercase(), &word.to_lowercase())
        }
        (Pattern::Last(name), Object::Word(word)) => glob(name.text(), word),
        (Pattern::Kind { kind, name }, Object::Kind { kind: k, name: n }) => {
            kind == k && (name.text() == "*" || !n.is_empty() && glob(name.text(), n))
        }
        _ => false,
    }
}

fn touches(rule: &Rule, pair: &Pair) -> bool {
    speaks_of(rule, pair) && rule.patterns.iter().any(|pattern| pattern_touches(pattern, pair))
}

fn pattern_touches(pattern: &Pattern, pair: &Pair) -> bool {
    let part = |pattern: &str, name: &str| name == "*" || name.is_empty() || glob(pattern, name);
    let fold = |text: &str| if pair.effect == Effect::Set { text.to_lowercase() } else { text.to_owned() };
    match (pattern, &pair.object) {
        (Pattern::Any, _) => true,
        (
            Pattern::Qualified { name, .. } | Pattern::Last(name) | Pattern::Kind { name, .. },
            Object::Unresolved { name: n },
        ) => part(name.text(), n),
        (Pattern::Qualified { schema, name }, Object::Qualified { schema: s, name: n }) => {
            part(schema.text(), s) && part(name.text(), n)
        }
        (Pattern::Qualified { schema, name }, Object::Word(word)) => {
            part(&fold(&format!("{}.{}", schema.text(), name.text())), &fold(word))
        }
        (Pattern::Last(name), Object::Qualified { name: n, .. }) => part(name.text(), n),
        (Pattern::Last(name), Object::Word(word)) => part(&fold(name.text()), &fold(word)),
        (Pattern::Kind { kind, name }, Object::Kind { kind: k, name: n }) => {
            kind == k && part(name.text(), n)
        }
        _ => false,
    }
}

/// By every way to share the text among the stars.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    fn letters(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|at| letters(rest, &text[at..])),
            Some((c, rest)) => text.first() == Some(c) && letters(rest, &text[1..]),
        }
    }
    letters(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>())
}

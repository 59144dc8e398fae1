//! Tree to checked tree: sets are resolved, names get their meaning, and what cannot mean anything is told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::diagnostic::{Diagnostics, Place, nearest, quoted};
use crate::glob::Glob;
use crate::program::{Pattern, RULE_CHARS_MAX, clipped};
use crate::shipped::{SHIPPED, shipped};
use crate::tree::{Approval, MaskTree, Name, Part, Path, PolicyTree, RuleTree, SetTree, Term, Tree, Verb};
use crate::verdict::MaskRule;
use crate::vocabulary::{Effect, EffectSet};

/// Names that all sets and rules may stand for together: each costs memory in every program.
const EXPANDED_MAX: usize = 1_000_000;
/// How deep sets may name sets.
const SET_DEPTH_MAX: usize = 32;

/// A policy that can be compiled.
#[derive(Debug)]
pub(crate) struct Policy {
    pub groups: Vec<String>,
    pub users: Vec<String>,
    pub targets: Vec<String>,
    pub rules: Vec<Arc<Rule>>,
    pub masks: Vec<MaskRule>,
}

/// A rule that can be compiled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    pub verb: Verb,
    /// `policy/verb effects on objects`
    pub name: Arc<str>,
    pub reason: Arc<str>,
    pub hold: Option<(Arc<str>, u32)>,
    pub effects: EffectSet,
    pub unbounded: bool,
    /// Sorted, each once.
    pub patterns: Vec<Pattern>,
}

/// Checks everything; the result means something only if no error was told.
pub(crate) fn check(tree: &Tree, diagnostics: &mut Diagnostics<'_>) -> Vec<Policy> {
    let mut checker = Checker::new(tree, diagnostics);
    for set in &tree.sets {
        let _ = checker.expand_set(&set.name, 0);
    }
    let policies: Vec<Policy> = tree.policies.iter().map(|policy| checker.policy(policy)).collect();
    checker.warn_of_unused_sets(tree);
    checker.check_none_lost(tree, &policies);
    policies
}

/// How far a set is resolved.
#[derive(Debug, Clone)]
enum SetState {
    Open,
    Begun,
    Done(Arc<[Arc<Path>]>),
    Failed,
}

struct Checker<'t, 'd, 'a> {
    sets: HashMap<&'t str, (&'t SetTree, SetState)>,
    used: HashSet<String>,
    /// `None`: more was asked for than there is, and that was told.
    expanded_left: Option<usize>,
    diagnostics: &'d mut Diagnostics<'a>,
}

/// Sets.
impl<'t, 'd, 'a> Checker<'t, 'd, 'a> {
    fn new(tree: &'t Tree, diagnostics: &'d mut Diagnostics<'a>) -> Checker<'t, 'd, 'a> {
        let mut sets = HashMap::new();
        for set in &tree.sets {
            let name = set.name.text.as_str();
            if shipped(name).is_some() {
                let message = format!("the set {} is shipped and cannot be defined", quoted(name));
                diagnostics.error("P022", set.name.place, message, "choose another name");
            } else if sets.insert(name, (set, SetState::Open)).is_some() {
                let message = format!("the set {} is defined twice", quoted(name));
                let help = "sets are known in all files: choose another name or join the two";
                diagnostics.error("P022", set.name.place, message, help);
            }
        }
        let mut policies = HashSet::new();
        for policy in &tree.policies {
            if !policies.insert(policy.name.text.as_str()) {
                let message = format!("the policy {} is defined twice", quoted(&policy.name.text));
                let help = "rules are known by their policy's name: choose another name";
                diagnostics.error("P022", policy.name.place, message, help);
            }
        }
        Checker { sets, used: HashSet::new(), expanded_left: Some(EXPANDED_MAX), diagnostics }
    }

    /// What a set stands for. `None`: a mistake was told.
    fn expand_set(&mut self, name: &Name, depth: usize) -> Option<Arc<[Arc<Path>]>> {
        if depth > SET_DEPTH_MAX {
            let message = format!("sets are nested more than {SET_DEPTH_MAX} deep");
            self.diagnostics.error("P023", name.place, message, "write the names out");
            return None;
        }
        if let Some(set) = shipped(&name.text) {
            return Some(set.words.iter().map(|word| Arc::new(shipped_path(word, name.place))).collect());
        }
        let Some((set, state)) = self.sets.get_mut(name.text.as_str()) else {
            self.unknown_set(name);
            return None;
        };
        let set: &'t SetTree = set;
        match std::mem::replace(state, SetState::Begun) {
            SetState::Open => {}
            SetState::Done(paths) => {
                *state = SetState::Done(Arc::clone(&paths));
                return Some(paths);
            }
            SetState::Begun => {
                let message = format!("the set {} holds itself", quoted(&name.text));
                self.diagnostics.error("P023", name.place, message, "take it out of its own definition");
                return None;
            }
            SetState::Failed => {
                *state = SetState::Failed;
                return None;
            }
        }
        let paths = self.expand(&set.terms, depth + 1).map(Arc::from);
        if let Some((_, state)) = self.sets.get_mut(name.text.as_str()) {
            *state = paths.clone().map_or(SetState::Failed, SetState::Done);
        }
        paths
    }

    /// What a list stands for, each name once.
    fn expand(&mut self, terms: &[Term], depth: usize) -> Option<Vec<Arc<Path>>> {
        let mut paths: Vec<Arc<Path>> = Vec::new();
        let mut failed = false;
        for term in terms {
            match term {
                Term::Path(path) => {
                    self.spend(1, path.place)?;
                    paths.push(Arc::clone(path));
                }
                Term::Set(name) => {
                    self.used.insert(name.text.clone());
                    let Some(found) = self.expand_set(name, depth) else {
                        failed = true;
                        continue;
                    };
                    self.spend(found.len(), name.place)?;
                    paths.extend(found.iter().cloned());
                }
            }
        }
        (!failed).then_some(paths)
    }

    /// Counts names against what all may have. Told once: everything behind it fails for the same reason.
    fn spend(&mut self, names: usize, place: Place) -> Option<()> {
        self.expanded_left = self.expanded_left?.checked_sub(names);
        if self.expanded_left.is_none() {
            let message = format!("sets and rules stand for more than {EXPANDED_MAX} names together");
            self.diagnostics.error("P050", place, message, "use `*` instead of long lists");
        }
        self.expanded_left.map(|_| ())
    }

    fn unknown_set(&mut self, name: &Name) {
        let known = self.sets.keys().copied().chain(SHIPPED.iter().map(|set| set.name));
        let mut known: Vec<&str> = known.collect();
        known.sort_unstable();
        let help = match nearest(&name.text, known.into_iter()) {
            Some(near) => format!("did you mean `@{near}`?"),
            None => format!("define it: `set {} = {{ public.orders, sales.* }}`", name.text),
        };
        let message = format!("no set is named {}", quoted(&name.text));
        self.diagnostics.error("P021", name.place, message, help);
    }

    fn warn_of_unused_sets(&mut self, tree: &Tree) {
        for set in tree.sets.iter().filter(|set| !self.used.contains(&set.name.text)) {
            let message = format!("the set {} is never used", quoted(&set.name.text));
            let help = format!("write `@{}` where it is meant, or remove it", set.name.text);
            self.diagnostics.warning("P062", set.name.place, message, help);
        }
    }
}

fn shipped_path(word: &str, place: Place) -> Path {
    Path { kind: None, parts: vec![Part { text: word.to_owned(), quoted: false }], place }
}

/// Policies and rules.
impl Checker<'_, '_, '_> {
    fn policy(&mut self, tree: &PolicyTree) -> Policy {
        let mut rules = Vec::new();
        for rule in &tree.rules {
            if self.diagnostics.is_full() {
                break;
            }
            if let Some(checked) = self.rule(&tree.name.text, rule) {
                rules.push((Arc::new(checked), rule.place));
            }
        }
        let masks: Vec<MaskRule> =
            tree.masks.iter().flat_map(|mask| self.mask(&tree.name.text, mask)).collect();
        if tree.rules.is_empty() && masks.is_empty() && !self.diagnostics.has_errors() {
            let message = format!("the policy {} allows nothing", quoted(&tree.name.text));
            let help = "whom it is for may connect, and every command with an effect is denied";
            self.diagnostics.warning("P063", tree.name.place, message, help);
        }
        self.warn_of_shadowed(&rules);
        Policy {
            groups: tree.groups.clone(),
            users: tree.users.clone(),
            targets: tree.targets.clone(),
            rules: rules.into_iter().map(|(rule, _)| rule).collect(),
            masks,
        }
    }

    /// A rule that is missing without a word would open what it denies: this crate's own mistakes fail closed.
    fn check_none_lost(&mut self, tree: &Tree, policies: &[Policy]) {
        for (policy, checked) in tree.policies.iter().zip(policies) {
            let lost = checked.rules.len() != policy.rules.len() || checked.masks.len() < policy.masks.len();
            if lost && !self.diagnostics.has_errors() {
                let message = format!("a rule of {} could not be compiled", quoted(&policy.name.text));
                let help = "this is a mistake of the compiler: report it with the policy";
                self.diagnostics.error("P090", policy.name.place, message, help);
            }
        }
    }

    fn rule(&mut self, policy: &str, tree: &RuleTree) -> Option<Rule> {
        let effects = self.effects(&tree.effects);
        let paths = match &tree.objects {
            None => Some(None),
            Some(terms) => self.expand(terms, 0).map(Some),
        };
        let (effects, paths) = (effects?, paths?);
        let mut patterns = vec![Pattern::Any];
        if let Some(paths) = paths {
            patterns.clear();
            for path in &paths {
                patterns.push(self.pattern(tree.verb, effects, path)?);
            }
            patterns.sort_unstable();
            patterns.dedup();
        }
        self.warn_of_no_object(effects, &patterns, tree);
        Some(Rule {
            verb: tree.verb,
            name: rule_name(policy, tree).into(),
            reason: tree.because.as_deref().unwrap_or("").into(),
            hold: tree
                .approval
                .as_ref()
                .map(|Approval { group, within_s }| (group.as_str().into(), *within_s)),
            effects,
            unbounded: tree.unbounded,
            patterns,
        })
    }

    /// What has no object is not among the objects that a rule names.
    fn warn_of_no_object(&mut self, effects: EffectSet, patterns: &[Pattern], tree: &RuleTree) {
        let without = effects.intersection(EffectSet::OF_NOTHING);
        if effects == EffectSet::ALL || patterns.contains(&Pattern::Any) {
            return;
        }
        for effect in without.iter() {
            let message = format!("`{effect}` has no object, so this rule says nothing of it");
            let help = format!("write a rule of its own: `{} {effect}`", tree.verb.word());
            self.diagnostics.warning("P061", tree.place, message, help);
        }
    }

    fn effects(&mut self, terms: &[Term]) -> Option<EffectSet> {
        let mut effects = Some(EffectSet::EMPTY);
        for term in terms {
            let found = match term {
                Term::Path(path) => self.effect(path, None),
                Term::Set(name) => {
                    self.used.insert(name.text.clone());
                    let paths = self.expand_set(name, 0);
                    paths.and_then(|paths| {
                        paths.iter().try_fold(EffectSet::EMPTY, |set, path| {
                            Some(set.union(self.effect(path, Some(name))?))
                        })
                    })
                }
            };
            effects = effects.zip(found).map(|(all, found)| all.union(found));
        }
        effects
    }

    /// The effect that a name means; `set` is the set it comes from.
    fn effect(&mut self, path: &Path, set: Option<&Name>) -> Option<EffectSet> {
        let word = spelled(path);
        match (word.as_str(), set) {
            ("*", _) => return Some(EffectSet::ALL),
            ("write", _) => return Some(EffectSet::WRITE),
            (word, set) => match (word.parse::<Effect>(), set) {
                (Ok(effect), _) => return Some(EffectSet::one(effect)),
                (Err(_), Some(set)) => {
                    let message = format!(
                        "the set {} holds {}, which is not an effect",
                        quoted(&set.text),
                        quoted(word)
                    );
                    let help = "effects stand before `on`, objects behind it; a set holds one or the other";
                    self.diagnostics.error("P024", set.place, message, help);
                }
                (Err(_), None) => self.unknown_effect(path, word),
            },
        }
        None
    }

    fn unknown_effect(&mut self, path: &Path, word: &str) {
        let words = Effect::ALL.iter().map(|effect| effect.word());
        let help = match synonym(word).or_else(|| nearest(word, words.chain(["write"]))) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                let all: Vec<&str> = Effect::ALL.iter().map(|effect| effect.word()).collect();
                format!("effects are `*`, write, {}", all.join(", "))
            }
        };
        self.diagnostics.error("P020", path.place, format!("{} is not an effect", quoted(word)), help);
    }

    fn pattern(&mut self, verb: Verb, effects: EffectSet, path: &Path) -> Option<Pattern> {
        self.check_capitals(effects, path)?;
        if let Some(kind) = path.kind {
            let name = path.parts.first().map_or(Glob::Any, |part| Glob::new(&part.text));
            return Some(Pattern::Kind { kind, name });
        }
        match path.parts.as_slice() {
            [part] if part.text == "*" && !part.quoted => Some(Pattern::Any),
            [part] if verb == Verb::Allow && !effects.takes_words() => {
                let message = format!("{} has no schema, so this allows nothing", quoted(&part.text));
                let help = format!("write the schema: `public.{}`", part.text);
                self.diagnostics.error("P027", path.place, message, help);
                None
            }
            [part] => Some(Pattern::Last(Glob::new(&part.text))),
            [schema, name] => {
                Some(Pattern::Qualified { schema: Glob::new(&schema.text), name: Glob::new(&name.text) })
            }
            _ => {
                let help = match verb {
                    Verb::Allow => "`allow` names tables: leave the column away",
                    _ => "not supported yet: name the table, or mask the column",
                };
                self.diagnostics.error("P040", path.place, "a rule on a column cannot be carried out", help);
                None
            }
        }
    }

    /// A bare name with capitals is a mistake either way round: SQL folds it, the catalog does not. Settings are
    /// the same in any case.
    fn check_capitals(&mut self, effects: EffectSet, path: &Path) -> Option<()> {
        let capital = |part: &&Part| !part.quoted && part.text.chars().any(char::is_uppercase);
        let Some(part) = path.parts.iter().find(capital) else { return Some(()) };
        if effects == EffectSet::one(Effect::Set) {
            return Some(());
        }
        let help = format!(
            "names are as the catalog stores them: write `{}`, or `\"{}\"` if it was created in quotes",
            part.text.to_lowercase(),
            part.text
        );
        let message = format!("{} has capital letters", quoted(&part.text));
        self.diagnostics.error("P026", path.place, message, help);
        None
    }

    fn mask(&mut self, policy: &str, tree: &MaskTree) -> Vec<MaskRule> {
        let paths = self.expand(&tree.columns, 0).unwrap_or_default();
        let mut rules = Vec::new();
        for path in &paths {
            if self.check_capitals(EffectSet::EMPTY, path).is_none() {
                continue;
            }
            match path.parts.as_slice() {
                [schema, table, column] if path.kind.is_none() => rules.push(MaskRule {
                    rule: clipped(&format!("{policy}/mask {}", spelled(path)), RULE_CHARS_MAX),
                    schema: schema.text.clone(),
                    table: table.text.clone(),
                    column: column.text.clone(),
                    mask: tree.mask,
                }),
                _ => {
                    let message = format!("{} is not a column", quoted(&spelled(path)));
                    let help = "a column is `schema.table.column`, with `*` for any characters";
                    self.diagnostics.error("P028", path.place, message, help);
                }
            }
        }
        rules
    }

    /// An allow that a deny of the same policy always beats is not what was meant.
    fn warn_of_shadowed(&mut self, rules: &[(Arc<Rule>, Place)]) {
        let mut denied: BTreeMap<&Pattern, EffectSet> = BTreeMap::new();
        for (rule, _) in rules.iter().filter(|(rule, _)| rule.verb == Verb::Deny && !rule.unbounded) {
            for pattern in &rule.patterns {
                let effects = denied.entry(pattern).or_default();
                *effects = effects.union(rule.effects);
            }
        }
        let everywhere = denied.get(&Pattern::Any).copied().unwrap_or_default();
        for (rule, place) in rules.iter().filter(|(rule, _)| rule.verb == Verb::Allow) {
            let beaten = |pattern: &Pattern| {
                let here = denied.get(pattern).copied().unwrap_or_default();
                everywhere.union(here).includes(rule.effects)
            };
            if rule.patterns.iter().all(beaten) {
                let help = "deny beats allow, in whatever order they stand: remove one of the two";
                let message = "this allow has no effect, the policy denies the same";
                self.diagnostics.warning("P060", *place, message, help);
            }
        }
    }
}

/// What people write for an effect that is called otherwise.
fn synonym(word: &str) -> Option<&'static str> {
    Some(match word {
        "select" | "SELECT" => "read",
        "execute" | "exec" | "EXECUTE" => "call",
        "copy" | "COPY" => "copy_out",
        "vacuum" | "analyze" | "reindex" | "cluster" => "maintain",
        "begin" | "commit" | "rollback" | "savepoint" => "transaction",
        "writes" => "write",
        _ => return None,
    })
}

/// A name as it is written.
fn spelled(path: &Path) -> String {
    let parts: Vec<&str> = path.parts.iter().map(|part| part.text.as_str()).collect();
    match path.kind {
        Some(kind) => format!("{kind} {}", parts.join(".")),
        None => parts.join("."),
    }
}

fn rule_name(policy: &str, tree: &RuleTree) -> String {
    let mut name = format!("{policy}/{} {}", tree.verb.word(), spelled_terms(&tree.effects));
    if let Some(objects) = &tree.objects {
        name.push_str(" on ");
        name.push_str(&spelled_terms(objects));
    }
    if tree.unbounded {
        name.push_str(" when unbounded");
    }
    clipped(&name, RULE_CHARS_MAX)
}

/// Enough of a list for a rule's name.
fn spelled_terms(terms: &[Term]) -> String {
    let spelled: Vec<String> = terms
        .iter()
        .take(RULE_CHARS_MAX)
        .map(|term| match term {
            Term::Path(path) => clipped(&spelled(path), RULE_CHARS_MAX),
            Term::Set(name) => format!("@{}", name.text),
        })
        .collect();
    spelled.join(", ")
}

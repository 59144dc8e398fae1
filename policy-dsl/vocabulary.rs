//! The words in which every protocol tells what a command does: effects, objects, pairs, facts.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Declares the effects: variant, word, meaning. The discriminant is the bit in an [`EffectSet`].
macro_rules! effects {
    ($($variant:ident $word:literal $help:literal),* $(,)?) => {
        /// What a command does to an object. The words of the policy language.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Effect { $(#[doc = $help] $variant),* }

        impl Effect {
            /// Every effect, in the order of the policy language.
            pub const ALL: &'static [Effect] = &[$(Effect::$variant),*];

            /// As the policy language spells it.
            pub fn word(self) -> &'static str {
                match self { $(Effect::$variant => $word),* }
            }
        }
    };
}

effects! {
    Read "read" "Rows or a value are looked at.",
    Insert "insert" "Rows are added.",
    Update "update" "Rows are changed.",
    Delete "delete" "Rows are removed.",
    Merge "merge" "MERGE, beside the verbs of its branches.",
    Truncate "truncate" "A table is emptied.",
    Create "create" "An object comes to be.",
    Alter "alter" "An object is changed in shape, owner or attributes.",
    Drop "drop" "An object ceases to be.",
    Grant "grant" "A privilege or membership is given.",
    Revoke "revoke" "A privilege or membership is taken.",
    Call "call" "A function, procedure, aggregate or operator with effects runs.",
    Set "set" "A setting is changed.",
    Lock "lock" "Rows or a table are locked by name.",
    Notify "notify" "A notification is sent.",
    Listen "listen" "Notifications are subscribed to or no longer.",
    CopyIn "copy_in" "Rows are loaded by COPY, beside `insert`.",
    CopyOut "copy_out" "Rows are unloaded by COPY, beside `read`.",
    ExecuteProgram "execute_program" "A program or native code runs on the target.",
    ReadFile "read_file" "A file of the target is read.",
    WriteFile "write_file" "A file of the target is written.",
    Replicate "replicate" "The replication protocol is spoken.",
    Impersonate "impersonate" "Another role or session authorization is taken.",
    Transaction "transaction" "A transaction begins, ends, or gets a savepoint.",
    Maintain "maintain" "VACUUM, ANALYZE, CLUSTER, REINDEX, REFRESH, CHECKPOINT and their like.",
    Filter "filter" "A predicate speaks of a protected column.",
    Unknown "unknown" "Something that could not be understood beforehand.",
}

impl Effect {
    /// This effect's bit in an [`EffectSet`].
    pub const fn bit(self) -> u64 {
        1 << (self as u8)
    }

    /// Whether this effect's objects are bare [words](Object::Word): settings, channels, files, programs, roles.
    pub fn takes_words(self) -> bool {
        EffectSet::OF_WORDS.contains(self)
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Effect {
    type Err = ParseError;

    fn from_str(word: &str) -> Result<Effect, ParseError> {
        Effect::ALL
            .iter()
            .copied()
            .find(|effect| effect.word() == word)
            .ok_or_else(|| ParseError(format!("`{word}` is not an effect")))
    }
}

/// A set of effects, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct EffectSet(u64);

impl EffectSet {
    /// No effect.
    pub const EMPTY: EffectSet = EffectSet(0);
    /// Every effect there is: `*`.
    pub const ALL: EffectSet = EffectSet((Effect::Unknown.bit() << 1) - 1);
    /// The class `write`.
    pub const WRITE: EffectSet = EffectSet(
        Effect::Insert.bit()
            | Effect::Update.bit()
            | Effect::Delete.bit()
            | Effect::Merge.bit()
            | Effect::Truncate.bit()
            | Effect::CopyIn.bit(),
    );
    /// Whose object is always [`Object::None`].
    pub(crate) const OF_NOTHING: EffectSet =
        EffectSet(Effect::Transaction.bit() | Effect::Replicate.bit() | Effect::Unknown.bit());
    const OF_WORDS: EffectSet = EffectSet(
        Effect::Set.bit()
            | Effect::Notify.bit()
            | Effect::Listen.bit()
            | Effect::ExecuteProgram.bit()
            | Effect::ReadFile.bit()
            | Effect::WriteFile.bit()
            | Effect::Impersonate.bit(),
    );

    /// Just this one.
    pub const fn one(effect: Effect) -> EffectSet {
        EffectSet(effect.bit())
    }
    /// Whether `effect` is in it.
    pub const fn contains(self, effect: Effect) -> bool {
        self.0 & effect.bit() != 0
    }
    /// Whether all of `other` is in it.
    pub const fn includes(self, other: EffectSet) -> bool {
        other.0 & !self.0 == 0
    }
    /// What is in either.
    #[must_use]
    pub const fn union(self, other: EffectSet) -> EffectSet {
        EffectSet(self.0 | other.0)
    }
    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: EffectSet) -> EffectSet {
        EffectSet(self.0 & other.0)
    }
    /// What is in this one and not in the other.
    #[must_use]
    pub const fn without(self, other: EffectSet) -> EffectSet {
        EffectSet(self.0 & !other.0)
    }
    /// Whether nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Whether some effect in it has bare words as its objects.
    pub const fn takes_words(self) -> bool {
        self.0 & EffectSet::OF_WORDS.0 != 0
    }
    /// Each effect in it.
    pub fn iter(self) -> impl Iterator<Item = Effect> {
        Effect::ALL.iter().copied().filter(move |effect| self.contains(*effect))
    }
}

impl FromIterator<Effect> for EffectSet {
    fn from_iter<I: IntoIterator<Item = Effect>>(effects: I) -> EffectSet {
        effects.into_iter().fold(EffectSet::EMPTY, |set, effect| set.union(EffectSet::one(effect)))
    }
}

/// What has no schema and is named by its kind, as in `drop role x`.
pub const KINDS: &[&str] = &[
    "access_method",
    "cast",
    "database",
    "event_trigger",
    "extension",
    "foreign_data_wrapper",
    "language",
    "large_object",
    "parameter",
    "publication",
    "replication_origin",
    "replication_slot",
    "role",
    "schema",
    "server",
    "subscription",
    "system",
    "tablespace",
    "transform",
    "user_mapping",
];

/// What an effect touches, spelled as the policy language does. Names are as the catalog stores them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Object {
    /// Nothing in particular (`transaction`, `replicate`, `unknown`, `maintain` of everything).
    None,
    /// A relation, function, type, index…: `schema.name`; `*` as name or schema stands for every one.
    Qualified {
        /// Schema, `pg_temp` for the session's own; `*` for every one.
        schema: Arc<str>,
        /// Name in the schema; `*` for every one.
        name: Arc<str>,
    },
    /// A name that nobody could resolve: `?.name`.
    Unresolved {
        /// Its last part; `*` when not even that is known.
        name: Arc<str>,
    },
    /// What has no schema, by kind: `role x`, `schema x`, `database x`, `extension x`, `system x`, `large_object 1`.
    Kind {
        /// One of [`KINDS`].
        kind: &'static str,
        /// Which one; `*` for every one, empty when it has no name yet (`create large_object`).
        name: Arc<str>,
    },
    /// A bare word: a setting (in any case), a channel, a file, a program, the role impersonated; `*` stands for every one.
    Word(Arc<str>),
}

impl Object {
    /// `schema.name`.
    pub fn qualified(schema: &str, name: &str) -> Object {
        Object::Qualified { schema: schema.into(), name: name.into() }
    }
    /// `?.name`.
    pub fn unresolved(name: &str) -> Object {
        Object::Unresolved { name: name.into() }
    }
    /// A bare word.
    pub fn word(text: &str) -> Object {
        Object::Word(text.into())
    }
    /// `kind name`; `None` when there is no such kind in [`KINDS`].
    pub fn of_kind(kind: &str, name: &str) -> Option<Object> {
        kind_word(kind).map(|kind| Object::Kind { kind, name: name.into() })
    }
}

/// The static spelling of a kind.
pub(crate) fn kind_word(word: &str) -> Option<&'static str> {
    KINDS.iter().copied().find(|kind| *kind == word)
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::None => Ok(()),
            Object::Qualified { schema, name } => write!(f, "{schema}.{name}"),
            Object::Unresolved { name } => write!(f, "?.{name}"),
            Object::Kind { kind, name } if name.is_empty() => f.write_str(kind),
            Object::Kind { kind, name } => write!(f, "{kind} {name}"),
            Object::Word(text) => f.write_str(text),
        }
    }
}

/// One thing that a command does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// What is done.
    pub effect: Effect,
    /// To what.
    pub object: Object,
    /// An UPDATE or DELETE without a WHERE, or a TRUNCATE.
    pub unbounded: bool,
}

impl Pair {
    /// A bounded effect on an object.
    pub fn new(effect: Effect, object: Object) -> Pair {
        Pair { effect, object, unbounded: false }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.object {
            Object::None => write!(f, "{}", self.effect),
            ref object => write!(f, "{} {object}", self.effect),
        }
    }
}

impl FromStr for Pair {
    type Err = ParseError;

    /// Reads what [`Pair`]'s `Display` wrote: `delete public.customers`, `drop schema x`, `set work_mem`,
    /// `unknown`, `call ?.f`. A name is cut at its first dot; `unbounded`, which is not spelled, is false.
    fn from_str(text: &str) -> Result<Pair, ParseError> {
        let (word, rest) = match text.split_once(' ') {
            Some((word, rest)) => (word, Some(rest)),
            None => (text, None),
        };
        let effect: Effect = word.parse()?;
        let object = rest.map_or(Object::None, |rest| object_of(effect, rest));
        Ok(Pair::new(effect, object))
    }
}

fn object_of(effect: Effect, text: &str) -> Object {
    if effect.takes_words() {
        return Object::word(text);
    }
    if let Some(name) = text.strip_prefix("?.") {
        return Object::unresolved(name);
    }
    let (kind, name) = text.split_once(' ').unwrap_or((text, ""));
    if let Some(object) = Object::of_kind(kind, name) {
        return object;
    }
    match text.split_once('.') {
        Some((schema, name)) => Object::qualified(schema, name),
        None => Object::word(text),
    }
}

/// Why a text is not an effect or a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError(String);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseError {}

/// What the gateway understood about a command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Sorted, each once.
    pub pairs: Vec<Pair>,
    /// Why there is an `unknown` among the pairs; one sentence each.
    pub unknown: Vec<String>,
}

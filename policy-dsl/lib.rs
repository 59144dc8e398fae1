//! Policies: text → tokens → tree → checked tree → program, and the vocabulary of facts and verdicts in which
//! every protocol speaks to it. Who holds a [`Program`] holds one that was checked and verified.

use std::fmt;
use std::sync::Arc;

/// What a command does to an object. The words of the policy language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Effect {
    Read,
    Insert,
    Update,
    Delete,
    Merge,
    Truncate,
    Create,
    Alter,
    Drop,
    Grant,
    Revoke,
    Call,
    Set,
    Lock,
    Notify,
    Listen,
    CopyIn,
    CopyOut,
    ExecuteProgram,
    ReadFile,
    WriteFile,
    Replicate,
    Impersonate,
    Transaction,
    Maintain,
    Filter,
    Unknown,
}

/// What an effect touches, spelled as the policy language does. Names are as the catalog stores them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Object {
    /// Nothing in particular (`transaction`, `replicate`, `unknown`, `maintain` of everything).
    None,
    /// A relation, function, type, index…: `schema.name`; `*` as name or schema stands for every one.
    Qualified { schema: Arc<str>, name: Arc<str> },
    /// A name that nobody could resolve: `?.name`.
    Unresolved { name: Arc<str> },
    /// What has no schema, by kind: `role x`, `schema x`, `database x`, `extension x`, `system x`, `large_object 1`.
    Kind { kind: &'static str, name: Arc<str> },
    /// A bare word: a setting, a channel, a file, a program, the role impersonated.
    Word(Arc<str>),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = f;
        Ok(())
    }
}

/// One thing that a command does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    pub effect: Effect,
    pub object: Object,
    /// An UPDATE or DELETE without a WHERE, or a TRUNCATE.
    pub unbounded: bool,
}

/// What the gateway understood about a command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Sorted, each once.
    pub pairs: Vec<Pair>,
    /// Why there is an `unknown` among the pairs; one sentence each.
    pub unknown: Vec<String>,
}

/// What a program says about a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub decision: Decision,
    /// The rule that decided, as `policy/rule`, e.g. `orders_agents/deny drop`; `default deny` when none did.
    pub rule: String,
    /// The rule's `because`, or a sentence that says what no rule allows.
    pub reason: String,
}

/// Allow, deny, or hold for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny,
    Hold { group: String },
}

/// A protected column as policy names it, and its mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskRule {
    pub rule: String,
    pub schema: String,
    pub table: String,
    pub column: String,
    pub mask: MaskKind,
}

/// How a masked cell is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskKind {
    Null,
    Redact,
    KeepLast(u8),
    KeepDomain,
}

/// One `.policy` file.
#[derive(Debug, Clone)]
pub struct Source {
    pub name: String,
    pub text: String,
}

/// All policies of a snapshot, checked.
#[derive(Debug)]
pub struct PolicySet {}

/// One mistake or warning with the place it stands at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub code: &'static str,
    pub severity: Severity,
    pub file: String,
    /** byte offsets */
    pub span: std::ops::Range<usize>,
    pub message: String,
    pub help: String,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

impl Diagnostic {
    /// As rustc prints: file:line:column, the line, the underlined span, the help.
    pub fn render(&self, source: &str) -> String {
        let _ = source;
        String::new()
    }
}

/// Compiles files together; all errors at once. Warnings come beside a good set.
pub fn compile(sources: &[Source]) -> Result<(PolicySet, Vec<Diagnostic>), Vec<Diagnostic>> {
    let _ = sources;
    Err(Vec::new())
}

impl PolicySet {
    /// The program for these groups (and this user name) on this target; `None`: no policy names them, so they may not connect.
    pub fn program(&self, user: &str, groups: &[String], target: &str) -> Option<Program> {
        let _ = (user, groups, target);
        None
    }
}

/// A compiled, verified policy for one set of groups on one target.
#[derive(Debug)]
pub struct Program {}

impl Program {
    /// Never reused within the process: a cache may key verdicts by it.
    pub fn id(&self) -> u64 {
        0
    }
    /// Judges a command.
    pub fn judge(&self, facts: &Facts) -> Verdict {
        let _ = facts;
        Verdict { decision: Decision::Deny, rule: String::new(), reason: String::new() }
    }
    /// Protected columns (names and globs already expanded to what the sets say; the catalog resolves them).
    pub fn masks(&self) -> &[MaskRule] {
        &[]
    }
}

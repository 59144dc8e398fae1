//! The walk over one string of statements: an explicit stack of nodes, scopes for names of CTEs, and further texts
//! (views, defaults, checks) that a statement sets in motion.

use super::catalog::{Catalog, Function, Map, Relation};
use super::children::children;
use super::effects::{Effects, unresolved};
use super::names::{Named, Names};
use super::targets::Target;
use super::tree::{Tree, type_name};
use super::{Change, Overlay, Reading, STATEMENT_BYTES_MAX, SearchPath, Serial, Touched, Understood};
use lockgate_policy_dsl::{Effect, Object, Pair};
use pg_raw_parse::Node;
use pg_raw_parse::nodes::RangeVar;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Most steps that are not bounded by the length of the text itself: looking through scopes, reading further texts.
/// A hundred nanoseconds each at most.
const STEPS_MAX: usize = 4_000_000;
/// Most further texts of one statement.
const TEXTS_MAX: usize = 4096;

/// What `sql` does, and whether every text of its [`shape`](super::shape) does the same. Never panics: what goes wrong in
/// reading is `unknown`.
pub(super) fn understand(sql: &[u8], catalog: &Catalog, reading: &Reading) -> (Understood, bool) {
    // The parser crate's accessors assert what they believe of PostgreSQL's trees. Where one is wrong, one statement
    // is not understood, and the worker lives.
    let read = catch_unwind(AssertUnwindSafe(|| match text(sql) {
        Ok(sql) => Reader::new(catalog, reading).read(sql),
        Err(reason) => (unknown(reason), false),
    }));
    read.unwrap_or_else(|_| (unknown("reading the statement failed inside the gateway".into()), false))
}

/// What a function called by its OID does.
pub(super) fn function_call(oid: u32, catalog: &Catalog) -> Understood {
    let mut reader = Reader::new(catalog, &Reading::new());
    match catalog.functions.get(&oid) {
        Some(function) => reader.call(function, None),
        None => reader.out.unknown(format!("no function with OID {oid} is known")),
    }
    reader.finish_statement();
    reader.statements = 1;
    reader.into_understood()
}

fn text(sql: &[u8]) -> Result<&str, String> {
    if sql.len() > STATEMENT_BYTES_MAX {
        return Err(format!(
            "the statement is {} bytes long; at most {STATEMENT_BYTES_MAX} are read",
            sql.len()
        ));
    }
    std::str::from_utf8(sql).map_err(|error| {
        format!("the statement is not UTF-8: the byte at {} does not belong there", error.valid_up_to())
    })
}

fn unknown(reason: String) -> Understood {
    let mut effects = Effects::default();
    effects.unknown(reason);
    Understood { facts: effects.into_facts(), statements: 1, ..Understood::default() }
}

/// How what is walked counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Mode {
    /// Under EXPLAIN without ANALYZE: only planned.
    pub explain: bool,
    /// Under FOR UPDATE and its kin: what is read is locked.
    pub lock: bool,
}

/// A further text that belongs to the statement.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Expansion {
    pub text: Arc<str>,
    /// What the text is, for reasons.
    pub what: Arc<str>,
    pub mode: Mode,
}

/// Reads one string of statements.
#[derive(Debug)]
pub(super) struct Reader<'c> {
    pub catalog: &'c Catalog,
    pub names: Names,
    pub mode: Mode,
    /// Of the current statement.
    pub out: Effects,
    pub changes: Vec<Change>,
    pub copies_in: bool,
    pub copies_out: bool,
    /// COPY (query) TO: whatever the statement reads, it copies out.
    pub copies_reads: bool,
    /// Types that values of this statement may have, and types that something is cast to.
    pub types_in_play: Map<u32, ()>,
    pub cast_targets: Vec<u32>,
    /// Nothing that was found depends on the value of a constant.
    pub by_shape: bool,
    all: Effects,
    reading: Reading,
    statements: usize,
    expansions: Vec<Expansion>,
    expanded: Map<Expansion, ()>,
    steps: usize,
}

/// The stack of one text's walk.
#[derive(Debug)]
pub(super) struct Walk<'t> {
    stack: Vec<(Node<'t>, Scope)>,
    frames: Vec<Frame<'t>>,
    pub targets: Vec<Target<'t>>,
}

/// Which CTEs a node sees, and the target of which DML statement its columns may belong to.
pub(super) type Scope = u32;

#[derive(Debug)]
struct Frame<'t> {
    parent: Scope,
    /// A CTE.
    name: Option<&'t str>,
    /// Place in `targets`.
    target: Option<usize>,
}

impl<'t> Walk<'t> {
    /// The scope that sees nothing.
    pub(super) const ROOT: Scope = 0;

    pub(super) fn new() -> Walk<'t> {
        let root = Frame { parent: 0, name: None, target: None };
        Walk { stack: Vec::with_capacity(32), frames: vec![root], targets: Vec::new() }
    }

    pub(super) fn push(&mut self, node: impl Into<Node<'t>>, scope: Scope) {
        let node = node.into();
        if !matches!(node, Node::None) {
            self.stack.push((node, scope));
        }
    }

    pub(super) fn push_all(&mut self, nodes: impl IntoIterator<Item = Node<'t>>, scope: Scope) {
        nodes.into_iter().for_each(|node| self.push(node, scope));
    }

    pub(super) fn push_children(&mut self, node: Node<'t>, scope: Scope) -> bool {
        let stack = &mut self.stack;
        children(node, &mut |child| {
            if !matches!(child, Node::None) {
                stack.push((child, scope));
            }
        })
    }

    /// A scope inside `parent` that sees one more CTE.
    pub(super) fn see(&mut self, parent: Scope, name: &'t str) -> Scope {
        let target = self.target(parent);
        self.frame(Frame { parent, name: Some(name), target })
    }

    /// A scope inside `parent` whose columns may belong to a DML statement's target.
    pub(super) fn aim(&mut self, parent: Scope, target: Target<'t>) -> (Scope, usize) {
        let place = self.targets.len();
        self.targets.push(target);
        (self.frame(Frame { parent, name: None, target: Some(place) }), place)
    }

    pub(super) fn target(&self, scope: Scope) -> Option<usize> {
        self.frames.get(scope as usize).and_then(|frame| frame.target)
    }

    fn frame(&mut self, frame: Frame<'t>) -> Scope {
        self.frames.push(frame);
        Scope::try_from(self.frames.len() - 1).unwrap_or(Self::ROOT)
    }

    /// Whether a CTE of this name is seen, and after how many steps that was clear.
    fn sees(&self, mut scope: Scope, name: &str) -> (bool, usize) {
        let mut steps = 0;
        while let Some(frame) = self.frames.get(scope as usize) {
            steps += 1;
            if frame.name == Some(name) {
                return (true, steps);
            }
            if scope == Self::ROOT {
                break;
            }
            scope = frame.parent;
        }
        (false, steps)
    }
}

impl<'c> Reader<'c> {
    fn new(catalog: &'c Catalog, reading: &Reading) -> Reader<'c> {
        Reader {
            catalog,
            names: Names::of(reading, catalog),
            mode: Mode::default(),
            out: Effects::default(),
            changes: Vec::new(),
            copies_in: false,
            copies_out: false,
            copies_reads: false,
            types_in_play: Map::default(),
            cast_targets: Vec::new(),
            by_shape: true,
            all: Effects::default(),
            reading: reading.clone(),
            statements: 0,
            expansions: Vec::new(),
            expanded: Map::default(),
            steps: 0,
        }
    }

    /// A reader for the statement inside a PREPARE or DECLARE, with its own facts.
    pub(super) fn inner(&self) -> Reader<'c> {
        let mut inner = Reader::new(self.catalog, &self.reading);
        inner.names = self.names.clone();
        inner
    }

    fn read(mut self, sql: &str) -> (Understood, bool) {
        let tree = match Tree::parse(sql, self.reading.standard_conforming_strings) {
            Ok(tree) => tree,
            // The message quotes the text.
            Err(error) => {
                return (unknown(format!("{} at character {}", error.message, error.position)), false);
            }
        };
        for statement in tree.statements() {
            self.statement(statement);
        }
        let by_shape = self.by_shape;
        (self.into_understood(), by_shape)
    }

    pub(super) fn into_understood(self) -> Understood {
        Understood {
            serial: Serial::default(),
            facts: self.all.into_facts(),
            statements: self.statements,
            copies_in: self.copies_in,
            copies_out: self.copies_out,
            replicates: false,
            changes: self.changes,
        }
    }

    /// One statement, with all that it sets in motion.
    pub(super) fn statement(&mut self, statement: Node<'_>) {
        self.statements += 1;
        let mut walk = Walk::new();
        let before = self.changes.len();
        if self.utility(&mut walk, statement) {
            // They take numbers as options.
            self.by_shape = false;
        } else {
            walk.push(statement, Walk::ROOT);
        }
        self.run(&mut walk);
        self.finish_statement();
        self.follow(before);
    }

    /// Ends a statement: what it sets in motion is read, then its pairs join those of the string.
    pub(super) fn finish_statement(&mut self) {
        self.expand();
        self.user_casts();
        if std::mem::take(&mut self.copies_reads) {
            let read: Vec<Object> = self.out.objects(Effect::Read).cloned().collect();
            read.into_iter().for_each(|object| self.out.add(Effect::CopyOut, object));
        }
        let out = std::mem::take(&mut self.out);
        self.all.absorb(out);
        self.types_in_play = Map::default();
        self.cast_targets.clear();
        self.expanded = Map::default();
        self.mode = Mode::default();
    }

    /// Walks what is on the stack, then settles what the DML statements on it write.
    pub(super) fn run(&mut self, walk: &mut Walk<'_>) {
        while let (Some((node, scope)), false) = (walk.stack.pop(), self.is_spent()) {
            self.visit(walk, node, scope);
        }
        for target in std::mem::take(&mut walk.targets) {
            self.settle(&target);
        }
    }

    fn visit<'t>(&mut self, walk: &mut Walk<'t>, node: Node<'t>, scope: Scope) {
        match node {
            Node::SelectStmt(select) => return self.select(walk, select, scope),
            Node::InsertStmt(insert) => return self.insert(walk, insert, scope),
            Node::UpdateStmt(update) => return self.update(walk, update, scope),
            Node::DeleteStmt(delete) => return self.delete(walk, delete, scope),
            Node::MergeStmt(merge) => return self.merge(walk, merge, scope),
            Node::RangeVar(name) => return self.read_name(walk, name, scope),
            Node::ColumnRef(column) => return self.column(walk, column, scope),
            Node::FuncCall(call) => self.function(call),
            Node::A_Expr(expression) => self.operator_expression(expression),
            Node::SubLink(link) => self.sub_link(link),
            Node::SortBy(sort) => self.operator(sort.use_op()),
            Node::CaseExpr(case) if !matches!(case.arg(), Node::None) => self.operator_named("="),
            Node::JoinExpr(join) if join.is_natural || !join.using_clause().is_empty() => {
                self.operator_named("=");
            }
            Node::TypeCast(cast) => self.cast(cast),
            Node::TypeName(name) => self.type_name(name),
            Node::A_Indirection(access) => self.indirection(access),
            Node::RangeTableSample(sample) => self.sample(sample),
            other => self.version_differences(other),
        }
        if !walk.push_children(node, scope) {
            self.out.unknown(format!("the gateway does not read {} yet", type_name(node)));
        }
    }

    /// A name in FROM: a CTE, or a relation that is read.
    pub(super) fn read_name<'t>(&mut self, walk: &Walk<'t>, name: &'t RangeVar, scope: Scope) {
        let relation = name.relname().unwrap_or_default();
        if name.schemaname().is_none() && name.catalogname().is_none() {
            let (is_cte, steps) = walk.sees(scope, relation);
            self.spend(steps);
            if is_cte {
                return;
            }
        }
        let named = self.find(name);
        self.effect_on(Effect::Read, &named, relation, false);
        if self.mode.lock {
            self.effect_on(Effect::Lock, &named, relation, false);
        }
        if let Named::Relation(relation) = named {
            self.reads(relation);
        }
    }

    /// What a relation's name means here. A foreign database's name means nothing.
    pub(super) fn find(&self, name: &RangeVar) -> Named<'c> {
        if name.catalogname().is_some_and(|database| database != &*self.catalog.database) {
            return Named::Missing;
        }
        self.names.relation(self.catalog, name.schemaname(), name.relname().unwrap_or_default())
    }

    /// Adds a pair for whatever a name was found to mean.
    pub(super) fn effect_on(&mut self, effect: Effect, named: &Named<'_>, name: &str, unbounded: bool) {
        let mut push = |object| self.out.push(Pair { effect, object, unbounded });
        match named {
            Named::Relation(relation) => self.effect(effect, relation, unbounded),
            Named::Temporary(behind) => {
                push(super::effects::named("pg_temp", name));
                if let Some(relation) = behind {
                    self.effect(effect, relation, unbounded);
                }
            }
            Named::Missing => push(unresolved(name)),
            Named::Touched => {
                push(unresolved(name));
                self.out.unknown(format!("this session changed what the name {name:?} means"));
            }
        }
    }

    /// Adds a pair on a relation and on each of its parents, whose rows are meant as well.
    pub(super) fn effect(&mut self, effect: Effect, relation: &Relation, unbounded: bool) {
        let object = super::effects::qualified(&relation.schema, &relation.name);
        self.out.push(Pair { effect, object, unbounded });
        if relation.parents.is_empty() {
            return;
        }
        for parent in self.catalog.ancestors(relation.oid) {
            if let Some(parent) = self.catalog.relations.get(&parent) {
                let object = super::effects::qualified(&parent.schema, &parent.name);
                self.out.push(Pair { effect, object, unbounded });
            }
        }
    }

    /// Notes a further text; each is read once for a statement.
    pub(super) fn expand_later(&mut self, text: &Arc<str>, what: impl FnOnce() -> String) {
        let expansion = Expansion { text: text.clone(), what: what().into(), mode: self.mode };
        if self.expanded.len() >= TEXTS_MAX {
            return self.out.unknown("the statement sets too much in motion");
        }
        if self.expanded.insert(expansion.clone(), ()).is_none() {
            self.expansions.push(expansion);
        }
    }

    fn expand(&mut self) {
        if self.expansions.is_empty() {
            return;
        }
        let names = std::mem::replace(&mut self.names, Names::pinned());
        while let Some(expansion) = self.expansions.pop() {
            self.spend(1 + expansion.text.len());
            self.mode = expansion.mode;
            match Tree::parse(&expansion.text, true) {
                Ok(tree) => {
                    let mut walk = Walk::new();
                    tree.statements().for_each(|statement| walk.push(statement, Walk::ROOT));
                    self.run(&mut walk);
                }
                Err(error) => self.out.unknown(format!("{}: {}", expansion.what, error.message)),
            }
            if self.steps > STEPS_MAX {
                self.expansions.clear();
            }
        }
        self.names = names;
    }

    /// Counts steps that the text's length does not bound.
    pub(super) fn spend(&mut self, steps: usize) {
        self.steps += steps;
        if self.steps > STEPS_MAX {
            self.out.unknown("reading the statement takes too long");
        }
    }

    /// Whether the budget is used up: what is left is not looked at, and the statement is unknown.
    pub(super) fn is_spent(&self) -> bool {
        self.steps > STEPS_MAX
    }

    /// Later statements of the same string are read as what earlier ones changed says.
    fn follow(&mut self, from: usize) {
        if self.changes.len() == from {
            return;
        }
        let mut overlay: Option<Overlay> = None;
        for change in self.changes.get(from..).unwrap_or_default() {
            match change {
                Change::SearchPath(path) => self.reading.search_path = path.clone(),
                Change::SearchPathReset => self.reading.search_path = SearchPath::Default,
                Change::Rollback if self.reading.search_path != SearchPath::Default => {
                    self.reading.search_path = SearchPath::Unknown;
                }
                Change::Touched(touched) => {
                    overlay = Some(overlay.as_ref().unwrap_or(&self.reading.overlay).with(touched));
                }
                _ => {}
            }
        }
        if let Some(overlay) = overlay {
            self.reading.overlay = overlay;
        }
        self.names = Names::of(&self.reading, self.catalog);
    }

    /// Notes names that are not what the catalog says from here on.
    pub(super) fn touch(&mut self, touched: Touched) {
        if !touched.is_empty() {
            self.changes.push(Change::Touched(Arc::new(touched)));
        }
    }

    /// A function of the user's, or one of PostgreSQL's own that does more than make a value.
    pub(super) fn call_pair(&mut self, function: &Function) {
        let object = Object::Qualified { schema: function.schema.clone(), name: function.name.clone() };
        self.out.add(Effect::Call, object);
    }
}

//! Utility statements: everything that is not SELECT, INSERT, UPDATE, DELETE or MERGE and makes no object.

use super::Change;
use super::effects::{named, word};
use super::names::Named;
use super::tree::{nodes, option, strings};
use super::walk::{Reader, Walk};
use lockgate_policy_dsl::{Effect, Object};
use pg_raw_parse::Node;
use pg_raw_parse::nodes::{
    ClusterStmt, CopyStmt, DeclareCursorStmt, DefElem, ExecuteStmt, ExplainStmt, PrepareStmt, RangeVar,
    ReindexStmt, TransactionStmt, TruncateStmt, VacuumStmt,
};
use pg_raw_parse::raw::{DropBehavior, ReindexObjectType, TransactionStmtKind};
use std::rc::Rc;
use std::sync::Arc;

impl<'c> Reader<'c> {
    /// Reads a utility statement; false for one that is walked like an expression (SELECT and DML).
    pub(super) fn utility<'t>(&mut self, walk: &mut Walk<'t>, statement: Node<'t>) -> bool {
        match statement {
            Node::SelectStmt(_)
            | Node::InsertStmt(_)
            | Node::UpdateStmt(_)
            | Node::DeleteStmt(_)
            | Node::MergeStmt(_) => return false,
            Node::TransactionStmt(statement) => self.transaction(statement),
            Node::PrepareStmt(statement) => self.prepare(statement),
            Node::ExecuteStmt(statement) => self.execute(walk, statement),
            Node::DeallocateStmt(statement) => {
                self.changes.push(Change::Deallocate { name: statement.name().map(Arc::from) });
            }
            Node::DeclareCursorStmt(statement) => self.declare(statement),
            Node::FetchStmt(statement) => {
                let name = statement.portalname().unwrap_or_default().into();
                self.changes.push(Change::Fetch { name });
            }
            Node::ClosePortalStmt(statement) => {
                self.changes.push(Change::ClosePortal { name: statement.portalname().map(Arc::from) });
            }
            Node::ExplainStmt(statement) => return self.explain(walk, statement),
            Node::CopyStmt(statement) => self.copy(walk, statement),
            Node::VariableSetStmt(statement) => self.variable_set(statement),
            Node::VariableShowStmt(_) => {}
            Node::DiscardStmt(statement) => self.discard(statement),
            Node::ConstraintsSetStmt(_) => self.out.add(Effect::Set, word("constraints")),
            Node::ListenStmt(statement) => self.listen(statement.conditionname()),
            Node::UnlistenStmt(statement) => self.listen(statement.conditionname()),
            Node::NotifyStmt(statement) => {
                self.out.add(Effect::Notify, word(statement.conditionname().unwrap_or("*")));
            }
            Node::LockStmt(statement) => {
                self.each_name(statement.relations(), |reader, name| reader.lock(name))
            }
            Node::TruncateStmt(statement) => self.truncate(statement),
            Node::VacuumStmt(statement) => self.vacuum(statement),
            Node::ClusterStmt(statement) => self.cluster(statement),
            Node::ReindexStmt(statement) => self.reindex(statement),
            Node::RefreshMatViewStmt(statement) => {
                if let Some(name) = statement.relation() {
                    self.refresh(name);
                }
            }
            Node::CheckPointStmt(_) => self.out.add(Effect::Maintain, Object::None),
            Node::LoadStmt(statement) => {
                self.out.add(Effect::ExecuteProgram, word(statement.filename().unwrap_or("*")));
            }
            Node::DoStmt(_) => self.out.unknown("the body of a DO block is not read"),
            Node::CallStmt(statement) => walk.push(statement.funccall(), Walk::ROOT),
            other => self.structure(walk, other),
        }
        true
    }

    fn transaction(&mut self, statement: &TransactionStmt) {
        use TransactionStmtKind as K;
        self.out.add(Effect::Transaction, Object::None);
        if matches!(
            statement.kind,
            K::TRANS_STMT_ROLLBACK | K::TRANS_STMT_ROLLBACK_TO | K::TRANS_STMT_ROLLBACK_PREPARED
        ) {
            self.changes.push(Change::Rollback);
        }
    }

    fn prepare(&mut self, statement: &PrepareStmt) {
        let inner = self.understood(statement.query());
        for argument in nodes(statement.argtypes()) {
            if let Node::TypeName(name) = argument {
                self.type_name(name);
            }
        }
        let name = statement.name().unwrap_or_default().into();
        self.changes.push(Change::Prepare { name, statement: inner });
    }

    fn declare(&mut self, statement: &DeclareCursorStmt) {
        let inner = self.understood(statement.query());
        let name = statement.portalname().unwrap_or_default().into();
        self.changes.push(Change::Declare { name, statement: inner });
    }

    /// What a statement inside another does, with its facts added to the outer one's.
    fn understood(&mut self, statement: Node<'_>) -> Rc<super::Understood> {
        let mut inner = self.inner();
        inner.statement(statement);
        inner.note_changes(self);
        let understood = inner.into_understood();
        for pair in &understood.facts.pairs {
            self.out.push(pair.clone());
        }
        understood.facts.unknown.iter().for_each(|reason| self.out.unknown(reason.as_str()));
        Rc::new(understood)
    }

    /// Changes of the session that happen when a prepared statement runs are the outer string's from then on.
    fn note_changes(&self, outer: &mut Reader<'c>) {
        outer.changes.extend(self.changes.iter().cloned());
    }

    fn execute<'t>(&mut self, walk: &mut Walk<'t>, statement: &'t ExecuteStmt) {
        walk.push_all(statement.params(), Walk::ROOT);
        self.changes.push(Change::Execute { name: statement.name().unwrap_or_default().into() });
    }

    /// True: nothing is left to walk but what was pushed.
    fn explain<'t>(&mut self, walk: &mut Walk<'t>, statement: &'t ExplainStmt) -> bool {
        let options = nodes(statement.options());
        self.mode.explain = !option(options, "analyze").is_some_and(is_on);
        match (statement.query(), self.mode.explain) {
            // Only the query is planned: nothing is made and no cursor is opened.
            (Node::CreateTableAsStmt(create), true) => walk.push(create.query(), Walk::ROOT),
            (Node::DeclareCursorStmt(declare), _) => walk.push(declare.query(), Walk::ROOT),
            (Node::RefreshMatViewStmt(refresh), true) => {
                if let Some(Named::Relation(relation)) = refresh.relation().map(|name| self.find(name)) {
                    self.view_query(relation);
                }
            }
            (query, _) => {
                if !self.utility(walk, query) {
                    walk.push(query, Walk::ROOT);
                }
            }
        }
        true
    }

    fn copy<'t>(&mut self, walk: &mut Walk<'t>, copy: &'t CopyStmt) {
        match (copy.filename(), copy.is_program, copy.is_from) {
            (Some(program), true, _) => self.out.add(Effect::ExecuteProgram, word(program)),
            (Some(path), _, true) => self.out.add(Effect::ReadFile, word(path)),
            (Some(path), _, false) => self.out.add(Effect::WriteFile, word(path)),
            (None, _, true) => self.copies_in = true,
            (None, _, false) => self.copies_out = true,
        }
        if let Some(name) = copy.relation() {
            let found = self.find(name);
            let relname = name.relname().unwrap_or_default();
            let effects = match copy.is_from {
                true => [Effect::CopyIn, Effect::Insert],
                false => [Effect::CopyOut, Effect::Read],
            };
            effects.into_iter().for_each(|effect| self.effect_on(effect, &found, relname, false));
            match (found, copy.is_from) {
                (Named::Relation(relation), true) => {
                    let columns: Vec<Arc<str>> = strings(copy.attlist()).map(Arc::from).collect();
                    self.inserts(relation, (!columns.is_empty()).then_some(columns));
                }
                (Named::Relation(relation), false) => self.reads(relation),
                _ => {}
            }
        }
        walk.push(copy.where_clause(), Walk::ROOT);
        walk.push(copy.query(), Walk::ROOT);
        self.copies_reads = !matches!(copy.query(), Node::None);
    }

    fn listen(&mut self, channel: Option<&str>) {
        self.out.add(Effect::Listen, word(channel.unwrap_or("*")));
    }

    pub(super) fn each_name(
        &mut self,
        names: &pg_raw_parse::list::NodeList,
        mut what: impl FnMut(&mut Reader<'c>, &RangeVar),
    ) {
        for name in names {
            match name {
                Node::RangeVar(name) => what(self, name),
                _ => self.out.unknown("a list of names that the gateway does not read"),
            }
        }
    }

    fn lock(&mut self, name: &RangeVar) {
        self.lock_target(name);
        if let Named::Relation(relation) = self.find(name) {
            self.mode.lock = true;
            self.view_query(relation);
        }
    }

    /// Reads a view's query, or a materialized one's, as if it ran.
    fn view_query(&mut self, relation: &'c super::catalog::Relation) {
        if let Some(query) = &relation.query {
            self.expand_later(query, || format!("view {}", relation.name));
        }
    }

    fn truncate(&mut self, statement: &TruncateStmt) {
        let cascade = statement.behavior == DropBehavior::DROP_CASCADE;
        self.each_name(statement.relations(), |reader, name| match reader.find(name) {
            Named::Relation(relation) => reader.truncates(relation, cascade),
            other => reader.effect_on(Effect::Truncate, &other, name.relname().unwrap_or_default(), true),
        });
    }

    fn vacuum(&mut self, statement: &VacuumStmt) {
        let mut all = true;
        for item in nodes(statement.rels()) {
            all = false;
            match item {
                Node::VacuumRelation(item) => match item.relation() {
                    Some(name) => self.maintain(name),
                    None => self.out.unknown("a VACUUM of a table by its OID"),
                },
                _ => self.out.unknown("a VACUUM that the gateway does not read"),
            }
        }
        if all {
            self.maintain_all(None);
        }
    }

    fn cluster(&mut self, statement: &ClusterStmt) {
        match statement.relation() {
            Some(name) => self.maintain(name),
            None => self.maintain_all(None),
        }
    }

    fn reindex(&mut self, statement: &ReindexStmt) {
        use ReindexObjectType as K;
        match (statement.kind, statement.relation(), statement.name()) {
            (K::REINDEX_OBJECT_INDEX | K::REINDEX_OBJECT_TABLE, Some(name), _) => self.maintain(name),
            (K::REINDEX_OBJECT_SCHEMA, _, Some(schema)) => {
                self.out.add(Effect::Maintain, named(schema, "*"));
                self.index_expressions_of(Some(schema));
            }
            _ => self.maintain_all(None),
        }
    }

    /// Maintenance of one table; building its indexes and gathering statistics evaluates their expressions.
    fn maintain(&mut self, name: &RangeVar) {
        let found = self.find(name);
        self.effect_on(Effect::Maintain, &found, name.relname().unwrap_or_default(), false);
        if let Named::Relation(mut relation) = found {
            if let Some(table) = self.catalog.relations.get(&relation.table) {
                self.effect(Effect::Maintain, table, false);
                relation = table;
            }
            self.index_expressions(relation);
        }
    }

    fn maintain_all(&mut self, schema: Option<&str>) {
        self.out.add(Effect::Maintain, Object::None);
        self.index_expressions_of(schema);
    }

    fn index_expressions_of(&mut self, schema: Option<&str>) {
        for relation in self.catalog.relations.values() {
            if schema.is_none_or(|schema| *relation.schema == *schema) {
                self.index_expressions(relation);
            }
        }
    }

    fn index_expressions(&mut self, relation: &'c super::catalog::Relation) {
        self.stored_expressions(relation, &['i', 'u']);
    }

    fn refresh(&mut self, name: &RangeVar) {
        let found = self.find(name);
        self.effect_on(Effect::Maintain, &found, name.relname().unwrap_or_default(), false);
        if let Named::Relation(relation) = found {
            self.view_query(relation);
            self.index_expressions(relation);
        }
    }
}

/// Whether a boolean option is on, as the server reads it; what it would refuse counts as on.
fn is_on(option: &DefElem) -> bool {
    match option.arg() {
        Node::Integer(number) => number.ival != 0,
        Node::Boolean(value) => value.boolval,
        Node::String(text) => {
            let text = text.sval().unwrap_or_default();
            !(text.eq_ignore_ascii_case("false") || text.eq_ignore_ascii_case("off"))
        }
        _ => true,
    }
}

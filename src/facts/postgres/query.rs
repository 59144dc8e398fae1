//! SELECT: its CTEs, what it locks, what it makes.

use super::tree::nodes;
use super::walk::{Mode, Reader, Scope, Walk};
use lockgate_policy_dsl::Effect;
use pg_raw_parse::Node;
use pg_raw_parse::nodes::{LockingClause, RangeVar, SelectStmt, WithClause};

impl<'c> Reader<'c> {
    pub(super) fn select<'t>(&mut self, walk: &mut Walk<'t>, select: &'t SelectStmt, scope: Scope) {
        let scope = self.with(walk, select.with_clause(), scope);
        if let Some(into) = select.into_clause() {
            self.create_from_query(into);
        }
        walk.push_all(select.distinct_clause(), scope);
        walk.push_all(nodes(select.target_list()), scope);
        walk.push_all(select.from_clause(), scope);
        walk.push(select.where_clause(), scope);
        walk.push_all(select.group_clause(), scope);
        walk.push(select.having_clause(), scope);
        walk.push_all(select.window_clause(), scope);
        walk.push_all(select.values_lists(), scope);
        walk.push_all(nodes(select.sort_clause()), scope);
        walk.push(select.limit_offset(), scope);
        walk.push(select.limit_count(), scope);
        walk.push(select.larg(), scope);
        walk.push(select.rarg(), scope);
        for clause in nodes(select.locking_clause()) {
            match clause {
                Node::LockingClause(clause) => self.locking(walk, select, clause, scope),
                other => walk.push(other, scope),
            }
        }
    }

    /// The scope of a statement with these CTEs. Each sees those before it, all of them with RECURSIVE.
    pub(super) fn with<'t>(
        &mut self,
        walk: &mut Walk<'t>,
        clause: Option<&'t WithClause>,
        outer: Scope,
    ) -> Scope {
        let Some(clause) = clause else { return outer };
        let mut scope = outer;
        if clause.recursive {
            for expression in nodes(clause.ctes()) {
                if let Node::CommonTableExpr(expression) = expression {
                    scope = walk.see(scope, expression.ctename().unwrap_or_default());
                }
            }
        }
        for expression in nodes(clause.ctes()) {
            let inside = scope;
            if let (Node::CommonTableExpr(expression), false) = (expression, clause.recursive) {
                scope = walk.see(scope, expression.ctename().unwrap_or_default());
            }
            if !walk.push_children(expression, inside) {
                self.out.unknown("the gateway does not read this WITH");
            }
        }
        scope
    }

    /// FOR UPDATE and its kin lock the tables that they name, or all of this FROM; CTEs are left alone.
    fn locking<'t>(
        &mut self,
        walk: &Walk<'t>,
        select: &'t SelectStmt,
        clause: &'t LockingClause,
        scope: Scope,
    ) {
        let mut names = Vec::new();
        for name in clause.locked_rels() {
            match name {
                Node::RangeVar(name) => names.push(name.relname().unwrap_or_default()),
                _ => self.out.unknown("the gateway does not read this FOR UPDATE OF"),
            }
        }
        let all = names.is_empty();
        let mut items: Vec<(Node<'t>, bool)> = select.from_clause().iter().map(|item| (item, all)).collect();
        while let Some((item, all)) = items.pop() {
            self.spend(1 + names.len());
            if self.is_spent() {
                return;
            }
            let chosen = |alias: Option<&str>| all || alias.is_some_and(|alias| names.contains(&alias));
            match item {
                Node::RangeVar(name) => {
                    let alias = name.alias().and_then(|alias| alias.aliasname()).or(name.relname());
                    if chosen(alias) {
                        self.lock_name(walk, name, scope);
                    }
                }
                Node::JoinExpr(join) => {
                    let all = chosen(join.alias().and_then(|alias| alias.aliasname()));
                    items.extend([(join.larg(), all), (join.rarg(), all)]);
                }
                Node::RangeSubselect(inner) => {
                    let all = chosen(inner.alias().and_then(|alias| alias.aliasname()));
                    if let (true, Node::SelectStmt(inner)) = (all, inner.subquery()) {
                        items.extend(inner.from_clause().iter().map(|item| (item, true)));
                    }
                }
                Node::RangeTableSample(sample) => items.push((sample.relation(), all)),
                // Functions, VALUES and XMLTABLE have no rows to lock.
                _ => {}
            }
        }
    }

    /// Locks what a name means, and below a view all that the view reads.
    fn lock_name<'t>(&mut self, walk: &Walk<'t>, name: &'t RangeVar, scope: Scope) {
        let before = self.mode;
        self.mode = Mode { lock: true, ..before };
        self.read_name(walk, name, scope);
        self.mode = before;
    }

    /// LOCK and the like: a view's tables are locked with it.
    pub(super) fn lock_target(&mut self, name: &RangeVar) {
        let named = self.find(name);
        self.effect_on(Effect::Lock, &named, name.relname().unwrap_or_default(), false);
    }
}

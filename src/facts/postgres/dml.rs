//! INSERT, UPDATE, DELETE, MERGE: what they name and which columns of their target they look at.

use super::targets::{Target, Verb};
use super::tree::nodes;
use super::walk::{Reader, Scope, Walk};
use lockgate_policy_dsl::Effect;
use pg_raw_parse::Node;
use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{
    ColumnRef, DeleteStmt, InsertStmt, MergeStmt, OnConflictClause, RangeVar, UpdateStmt,
};
use pg_raw_parse::raw::{CmdType, OnConflictAction};

impl<'c> Reader<'c> {
    pub(super) fn insert<'t>(&mut self, walk: &mut Walk<'t>, insert: &'t InsertStmt, scope: Scope) {
        let Some(relation) = insert.relation() else { return self.no_target() };
        let scope = self.with(walk, insert.with_clause(), scope);
        let mut target = self.target(relation);
        let given = given_columns(insert);
        target.verbs.push(Verb { effect: Effect::Insert, unbounded: false, columns: given });
        let conflict = insert.on_conflict_clause();
        if let Some(conflict) = conflict {
            target.read |= conflict.infer().is_some();
            if conflict.action == OnConflictAction::ONCONFLICT_UPDATE {
                let columns = assigned(nodes(conflict.target_list()));
                target.uses_defaults |= assigns_default(nodes(conflict.target_list()));
                target.verbs.push(Verb { effect: Effect::Update, unbounded: false, columns: Some(columns) });
            }
        }
        let (inside, _) = walk.aim(scope, target);
        walk.push(insert.select_stmt(), scope);
        walk.push_all(insert.cols(), inside);
        walk.push(insert.returning_clause(), inside);
        self.conflict(walk, conflict, inside);
    }

    fn conflict<'t>(&mut self, walk: &mut Walk<'t>, clause: Option<&'t OnConflictClause>, scope: Scope) {
        let Some(clause) = clause else { return };
        walk.push(clause.infer(), scope);
        walk.push_all(nodes(clause.target_list()), scope);
        walk.push(clause.where_clause(), scope);
    }

    pub(super) fn update<'t>(&mut self, walk: &mut Walk<'t>, update: &'t UpdateStmt, scope: Scope) {
        let Some(relation) = update.relation() else { return self.no_target() };
        let scope = self.with(walk, update.with_clause(), scope);
        let mut target = self.target(relation);
        let unbounded = matches!(update.where_clause(), Node::None);
        let list = nodes(update.target_list());
        target.uses_defaults = assigns_default(list);
        target.verbs.push(Verb { effect: Effect::Update, unbounded, columns: Some(assigned(list)) });
        let (inside, _) = walk.aim(scope, target);
        walk.push_all(list, inside);
        walk.push_all(update.from_clause(), scope);
        walk.push(update.where_clause(), inside);
        walk.push(update.returning_clause(), inside);
    }

    pub(super) fn delete<'t>(&mut self, walk: &mut Walk<'t>, delete: &'t DeleteStmt, scope: Scope) {
        let Some(relation) = delete.relation() else { return self.no_target() };
        let scope = self.with(walk, delete.with_clause(), scope);
        let mut target = self.target(relation);
        let unbounded = matches!(delete.where_clause(), Node::None);
        target.verbs.push(Verb { effect: Effect::Delete, unbounded, columns: None });
        let (inside, _) = walk.aim(scope, target);
        walk.push_all(delete.using_clause(), scope);
        walk.push(delete.where_clause(), inside);
        walk.push(delete.returning_clause(), inside);
    }

    pub(super) fn merge<'t>(&mut self, walk: &mut Walk<'t>, merge: &'t MergeStmt, scope: Scope) {
        let Some(relation) = merge.relation() else { return self.no_target() };
        let scope = self.with(walk, merge.with_clause(), scope);
        if self.catalog.server_version < 15 {
            self.out.unknown("MERGE is read as PostgreSQL 15 and later read it");
        }
        let mut target = self.target(relation);
        target.verbs.push(Verb { effect: Effect::Merge, unbounded: false, columns: None });
        for branch in nodes(merge.merge_when_clauses()) {
            let Node::MergeWhenClause(branch) = branch else { continue };
            let list = branch.target_list();
            target.uses_defaults |= assigns_default(list);
            let (effect, columns) = match branch.command_type {
                CmdType::CMD_UPDATE => (Effect::Update, Some(assigned(list))),
                CmdType::CMD_INSERT => (Effect::Insert, merge_columns(list, branch.values())),
                CmdType::CMD_DELETE => (Effect::Delete, None),
                CmdType::CMD_NOTHING => continue,
                _ => {
                    self.out.unknown("the gateway does not read this branch of a MERGE");
                    continue;
                }
            };
            target.verbs.push(Verb { effect, unbounded: false, columns });
        }
        let (inside, _) = walk.aim(scope, target);
        walk.push(merge.source_relation(), scope);
        walk.push(merge.join_condition(), inside);
        walk.push_all(nodes(merge.merge_when_clauses()), inside);
        walk.push(merge.returning_clause(), inside);
    }

    fn no_target(&mut self) {
        self.out.unknown("a statement without a table");
    }

    pub(super) fn target<'t>(&mut self, relation: &'t RangeVar) -> Target<'t> {
        Target { name: relation, verbs: Vec::new(), read: false, uses_defaults: false }
    }

    /// A column below a DML statement may be one of its target's: then the target is read.
    pub(super) fn column<'t>(&mut self, walk: &mut Walk<'t>, column: &'t ColumnRef, scope: Scope) {
        self.row_function(column.fields());
        let Some(place) = walk.target(scope) else { return };
        let Some(target) = walk.targets.get(place) else { return };
        if target.read {
            return;
        }
        let read = self.may_be_of(target, column.fields());
        if let (true, Some(target)) = (read, walk.targets.get_mut(place)) {
            target.read = true;
        }
    }

    /// `a.b` is the target's when `a` is its name; `b` when it has such a column, or nobody knows its columns.
    fn may_be_of(&self, target: &Target<'_>, fields: &NodeList) -> bool {
        let alias = target.name.alias().and_then(|alias| alias.aliasname());
        let name = alias.or(target.name.relname()).unwrap_or_default();
        let mut fields = fields.iter();
        let (first, qualified) = (fields.next(), fields.next().is_some());
        let Some(Node::String(first)) = first else { return true };
        let first = first.sval().unwrap_or_default();
        if qualified {
            // `schema.table.column` names the target by its schema; OLD and NEW of RETURNING are the target's.
            return first == name
                || matches!(first, "old" | "new")
                || target.name.schemaname() == Some(first)
                || alias.is_none() && self.find(target.name).schema() == Some(first);
        }
        let relation = self.find(target.name);
        first == name || relation.columns().is_none_or(|known| known(first)) || is_system_column(first)
    }
}

/// The columns that an INSERT gives values for, as far as they can be told; `None`: not all can.
fn given_columns(insert: &InsertStmt) -> Option<Vec<&str>> {
    let listed: Vec<&str> = insert.cols().iter().filter_map(target_name).collect();
    let Node::SelectStmt(source) = insert.select_stmt() else { return Some(Vec::new()) };
    let has_default = source.values_lists().iter().any(|row| match row {
        Node::NodeList(row) => row.iter().any(|value| matches!(value, Node::SetToDefault(_))),
        _ => true,
    });
    if has_default || listed.is_empty() { None } else { Some(listed) }
}

fn merge_columns<'t>(list: &'t NodeList, values: &NodeList) -> Option<Vec<&'t str>> {
    let has_default = values.iter().any(|value| matches!(value, Node::SetToDefault(_)));
    let listed: Vec<&str> = list.iter().filter_map(target_name).collect();
    if has_default || listed.is_empty() { None } else { Some(listed) }
}

fn assigned(list: &NodeList) -> Vec<&str> {
    list.iter().filter_map(target_name).collect()
}

fn target_name(node: Node<'_>) -> Option<&str> {
    match node {
        Node::ResTarget(target) => target.name(),
        _ => None,
    }
}

/// `SET a = DEFAULT`, also as one of a row.
fn assigns_default(list: &NodeList) -> bool {
    list.iter().any(|node| match node {
        Node::ResTarget(target) => match target.val() {
            Node::SetToDefault(_) => true,
            Node::MultiAssignRef(row) => match row.source() {
                Node::RowExpr(row) => row.args().iter().any(|value| matches!(value, Node::SetToDefault(_))),
                _ => false,
            },
            _ => false,
        },
        _ => false,
    })
}

fn is_system_column(name: &str) -> bool {
    matches!(name, "ctid" | "xmin" | "xmax" | "cmin" | "cmax" | "tableoid")
}

//! What writing a relation sets in motion: rules, triggers, defaults, checks, foreign keys, a view's own tables.

use super::catalog::{Expression, Relation, Trigger};
use super::names::Named;
use super::tree::Tree;
use super::walk::Reader;
use lockgate_policy_dsl::Effect;
use pg_raw_parse::Node;
use pg_raw_parse::nodes::RangeVar;
use std::sync::Arc;

/// The target of one DML statement, and what is found out about it while the statement is walked.
#[derive(Debug)]
pub(super) struct Target<'t> {
    pub name: &'t RangeVar,
    pub verbs: Vec<Verb<'t>>,
    /// The server would ask for the SELECT privilege.
    pub read: bool,
    /// Something is set to DEFAULT.
    pub uses_defaults: bool,
}

#[derive(Debug)]
pub(super) struct Verb<'t> {
    pub effect: Effect,
    pub unbounded: bool,
    /// Set by an UPDATE, given by an INSERT; `None`: any.
    pub columns: Option<Vec<&'t str>>,
}

/// One write that the server carries out, directly or because of another.
#[derive(Debug)]
struct Write {
    oid: u32,
    effect: Effect,
    unbounded: bool,
    columns: Columns,
    uses_defaults: bool,
}

/// Set by an UPDATE, given by an INSERT; `None`: any.
type Columns = Option<Vec<Arc<str>>>;

/// Bits of `tgtype`.
const TRIGGER_INSERT: u16 = 4;
const TRIGGER_DELETE: u16 = 8;
const TRIGGER_UPDATE: u16 = 16;
const TRIGGER_TRUNCATE: u16 = 32;
const TRIGGER_INSTEAD: u16 = 64;

impl<'c> Reader<'c> {
    /// Settles what a DML statement does to its target.
    pub(super) fn settle(&mut self, target: &Target<'_>) {
        let named = self.find(target.name);
        let name = target.name.relname().unwrap_or_default();
        if self.mode.explain {
            self.effect_on(Effect::Read, &named, name, false);
            if let Named::Relation(relation) = named {
                self.reads(relation);
            }
            return;
        }
        for verb in &target.verbs {
            self.effect_on(verb.effect, &named, name, verb.unbounded);
        }
        if target.read {
            self.effect_on(Effect::Read, &named, name, false);
        }
        let (Named::Relation(relation) | Named::Temporary(Some(relation))) = named else { return };
        if target.read {
            self.reads(relation);
        }
        let writes = target.verbs.iter().filter(|verb| verb.effect != Effect::Merge).map(|verb| Write {
            oid: relation.oid,
            effect: verb.effect,
            unbounded: verb.unbounded,
            columns: verb
                .columns
                .as_ref()
                .map(|columns| columns.iter().map(|name| Arc::from(*name)).collect()),
            uses_defaults: target.uses_defaults,
        });
        self.writes(writes.collect());
    }

    /// An INSERT of rows into a relation by other means (COPY).
    pub(super) fn inserts(&mut self, relation: &Relation, columns: Option<Vec<Arc<str>>>) {
        let (oid, effect) = (relation.oid, Effect::Insert);
        self.writes(vec![Write { oid, effect, unbounded: false, columns, uses_defaults: false }]);
    }

    /// TRUNCATE, with CASCADE of every table with a foreign key to it.
    pub(super) fn truncates(&mut self, relation: &'c Relation, cascade: bool) {
        let mut todo = vec![relation.oid];
        let mut seen = todo.clone();
        while let Some(relation) = todo.pop().and_then(|oid| self.catalog.relations.get(&oid)) {
            self.effect(Effect::Truncate, relation, true);
            for member in self.family(relation) {
                for trigger in &member.triggers {
                    if trigger.events & TRIGGER_TRUNCATE != 0 {
                        self.fires(trigger, member);
                    }
                }
                for key in member.referenced_by.iter().filter(|_| cascade) {
                    if !seen.contains(&key.from) {
                        seen.push(key.from);
                        todo.push(key.from);
                    }
                }
            }
        }
    }

    /// What reading a relation sets in motion.
    pub(super) fn reads(&mut self, relation: &'c Relation) {
        if !self.catalog.casts.is_empty() {
            self.put_in_play(relation.rowtype);
            relation.columns.iter().for_each(|column| self.put_in_play(column.type_oid));
        }
        if relation.is_system() {
            return;
        }
        self.row_security(relation);
        match (relation.kind, &relation.query) {
            ('v', Some(query)) => self.expand_later(query, || format!("view {}", relation.name)),
            ('v', None) => self.out.unknown(format!("the query of view {} is not known", relation.name)),
            ('f', _) => self.foreign(relation),
            _ => {}
        }
    }

    fn row_security(&mut self, relation: &'c Relation) {
        if relation.row_security && !self.catalog.bypasses_row_security {
            for policy in relation.expressions.iter().filter(|expression| expression.kind == 'r') {
                self.expand_later(&policy.text, || format!("a policy of {}", relation.name));
            }
        }
    }

    fn foreign(&mut self, relation: &Relation) {
        self.out.unknown(format!("{}.{} is a foreign table", relation.schema, relation.name));
    }

    fn writes(&mut self, mut todo: Vec<Write>) {
        let mut seen: Vec<(u32, Effect, Columns)> = Vec::new();
        while let Some(write) = todo.pop() {
            let Some(relation) = self.catalog.relations.get(&write.oid) else { continue };
            self.spend(1 + seen.len());
            let key = (write.oid, write.effect, write.columns.clone());
            if seen.contains(&key) || self.is_spent() {
                continue;
            }
            seen.push(key);
            self.rules(relation, write.effect);
            if relation.kind == 'v' {
                self.write_view(relation, &write, &mut todo);
            } else {
                self.write_table(relation, &write, &mut todo);
            }
        }
    }

    fn rules(&mut self, relation: &Relation, effect: Effect) {
        let event = match effect {
            Effect::Update => '2',
            Effect::Insert => '3',
            _ => '4',
        };
        for (_, rule) in relation.rules.iter().filter(|(on, _)| *on == event) {
            self.out
                .unknown(format!("rule {rule} on {}.{} adds to the command", relation.schema, relation.name));
        }
    }

    /// A view without INSTEAD OF triggers passes the write on to the table that it selects from.
    fn write_view(&mut self, view: &'c Relation, write: &Write, todo: &mut Vec<Write>) {
        let event = trigger_event(write.effect);
        let mut instead = false;
        for trigger in view.triggers.iter().filter(|trigger| trigger.events & event != 0) {
            instead |= trigger.events & TRIGGER_INSTEAD != 0;
            self.fires(trigger, view);
        }
        if instead || view.is_system() {
            return;
        }
        self.table_expressions(view, write);
        let Some(query) = &view.query else { return self.reads(view) };
        let Ok(tree) = Tree::parse(query, true) else {
            return self.out.unknown(format!("the query of view {} does not parse", view.name));
        };
        for statement in tree.statements() {
            let Node::SelectStmt(select) = statement else { continue };
            if !matches!(select.where_clause(), Node::None) {
                self.reads(view);
            }
            for item in select.from_clause() {
                let Node::RangeVar(name) = item else { return self.reads(view) };
                let schema = name.schemaname().unwrap_or("pg_catalog");
                let Some(base) = self.catalog.relation(schema, name.relname().unwrap_or_default()) else {
                    return self.out.unknown(format!("the table below view {} is not known", view.name));
                };
                self.effect(write.effect, base, write.unbounded);
                let columns = None;
                todo.push(Write { oid: base.oid, columns, ..*write });
            }
        }
    }

    fn write_table(&mut self, relation: &'c Relation, write: &Write, todo: &mut Vec<Write>) {
        match relation.kind {
            'f' => self.foreign(relation),
            _ if relation.is_system() => self.out.unknown("the system catalogs are written by hand"),
            _ => {}
        }
        self.row_security(relation);
        // A row of a partitioned table that no longer fits its partition is deleted here and inserted there.
        let moves = relation.kind == 'p' && write.effect == Effect::Update;
        let event = trigger_event(write.effect) | if moves { TRIGGER_INSERT | TRIGGER_DELETE } else { 0 };
        for member in self.family(relation) {
            for trigger in &member.triggers {
                if trigger.events & event != 0 && fires_for(trigger, member, write, event) {
                    self.fires(trigger, member);
                }
            }
            self.table_expressions(member, write);
            if member.kind == 'f' {
                self.foreign(member);
            }
            self.foreign_keys(member, write, todo);
        }
    }

    /// The relation and its partitions and children: a write may reach each of them.
    fn family(&self, relation: &'c Relation) -> Vec<&'c Relation> {
        let mut family = vec![relation];
        if !relation.children.is_empty() {
            let descendants = self.catalog.descendants(relation.oid);
            family.extend(descendants.iter().filter_map(|oid| self.catalog.relations.get(oid)));
        }
        family
    }

    /// Reads the stored expressions of some kinds, of the relation and of its partitions and children.
    pub(super) fn stored_expressions(&mut self, relation: &'c Relation, kinds: &[char]) {
        for member in self.family(relation) {
            for expression in member.expressions.iter().filter(|expression| kinds.contains(&expression.kind))
            {
                match expression.kind {
                    'u' => self.index_calls(member),
                    _ => self.table_expression(member, expression),
                }
            }
        }
    }

    fn index_calls(&mut self, relation: &Relation) {
        self.out.unknown(format!("an index of {}.{} calls a function", relation.schema, relation.name));
    }

    fn fires(&mut self, trigger: &Trigger, relation: &Relation) {
        if !trigger.built_in {
            let (schema, table) = (&relation.schema, &relation.name);
            self.out.unknown(format!("trigger {} on {schema}.{table} runs a function", trigger.name));
        }
    }

    fn table_expressions(&mut self, relation: &'c Relation, write: &Write) {
        if write.effect == Effect::Delete {
            return;
        }
        for expression in relation.expressions.iter() {
            let given =
                || match (&write.columns, relation.columns.iter().find(|c| c.number == expression.column)) {
                    (Some(columns), Some(column)) => columns.contains(&column.name),
                    _ => false,
                };
            let evaluated = match expression.kind {
                'd' if write.effect == Effect::Insert => !given(),
                'd' => write.uses_defaults,
                'r' => false,
                'u' => {
                    self.index_calls(relation);
                    false
                }
                _ => true,
            };
            if evaluated {
                self.table_expression(relation, expression);
            }
        }
        for column in relation.columns.iter() {
            self.domain_checks(column.type_oid);
        }
    }

    fn table_expression(&mut self, relation: &Relation, expression: &Expression) {
        self.expand_later(&expression.text, || {
            format!("an expression of {}.{}", relation.schema, relation.name)
        });
    }

    fn foreign_keys(&mut self, relation: &'c Relation, write: &Write, todo: &mut Vec<Write>) {
        for key in &relation.referenced_by {
            let effect = match (write.effect, key.on_delete, key.on_update) {
                (Effect::Delete, 'c', _) => Effect::Delete,
                (Effect::Delete, 'n' | 'd', _) => Effect::Update,
                (Effect::Update, _, 'c' | 'n' | 'd') if updates(relation, write, &key.to_columns) => {
                    Effect::Update
                }
                _ => continue,
            };
            let uses_defaults = match write.effect {
                Effect::Delete => key.on_delete == 'd',
                _ => key.on_update == 'd',
            };
            let Some(from) = self.catalog.relations.get(&key.from) else {
                self.out.unknown("a foreign key from a table that is not known");
                continue;
            };
            self.effect(effect, from, false);
            self.effect(Effect::Read, from, false);
            self.reads(from);
            let names = from.columns.iter().filter(|column| key.from_columns.contains(&column.number));
            let columns = Some(names.map(|column| column.name.clone()).collect());
            todo.push(Write { oid: from.oid, effect, unbounded: false, columns, uses_defaults });
        }
    }
}

fn trigger_event(effect: Effect) -> u16 {
    match effect {
        Effect::Insert => TRIGGER_INSERT,
        Effect::Update => TRIGGER_UPDATE,
        _ => TRIGGER_DELETE,
    }
}

/// UPDATE OF columns fires only when one of them is set.
fn fires_for(trigger: &Trigger, relation: &Relation, write: &Write, event: u16) -> bool {
    let only_update = trigger.events & event == TRIGGER_UPDATE;
    !only_update || trigger.columns.is_empty() || updates(relation, write, &trigger.columns)
}

fn updates(relation: &Relation, write: &Write, numbers: &[i16]) -> bool {
    let Some(columns) = &write.columns else { return true };
    relation.columns.iter().any(|column| numbers.contains(&column.number) && columns.contains(&column.name))
}

impl<'a> Named<'a> {
    /// The schema, where it is known.
    pub(super) fn schema(&self) -> Option<&'a str> {
        match self {
            Named::Relation(relation) => Some(&relation.schema),
            _ => None,
        }
    }

    /// Whether there is a column of a name; `None` when the columns are not known.
    pub(super) fn columns(&self) -> Option<impl Fn(&str) -> bool + 'a> {
        match *self {
            Named::Relation(relation) => Some(move |name: &str| relation.column(name).is_some()),
            _ => None,
        }
    }
}

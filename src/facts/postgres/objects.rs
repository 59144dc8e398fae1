//! What a DROP, COMMENT, ALTER … OWNER and the like name: objects by their kind.

use super::Touched;
use super::catalog::Operators;
use super::effects::{kind, named, qualified, unresolved};
use super::expressions::split;
use super::names::{Named, is_temporary};
use super::tree::{nodes, strings};
use super::walk::Reader;
use lockgate_policy_dsl::{Effect, Object};
use pg_raw_parse::Node;
use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{RangeVar, RoleSpec};
use pg_raw_parse::raw::{ObjectType, RoleSpecType};
use std::sync::Arc;

impl<'c> Reader<'c> {
    /// Adds a pair for an object of some kind as DROP and its kin spell it.
    pub(super) fn object(&mut self, effect: Effect, what: ObjectType::Type, object: Node<'_>) {
        use ObjectType as T;
        match what {
            T::OBJECT_TABLE
            | T::OBJECT_VIEW
            | T::OBJECT_MATVIEW
            | T::OBJECT_SEQUENCE
            | T::OBJECT_FOREIGN_TABLE
            | T::OBJECT_INDEX => self.relation_object(effect, object),
            T::OBJECT_FUNCTION
            | T::OBJECT_PROCEDURE
            | T::OBJECT_ROUTINE
            | T::OBJECT_AGGREGATE
            | T::OBJECT_OPERATOR => {
                self.function_object(effect, object);
            }
            T::OBJECT_TYPE | T::OBJECT_DOMAIN => self.type_object(effect, object),
            T::OBJECT_COLLATION
            | T::OBJECT_CONVERSION
            | T::OBJECT_STATISTIC_EXT
            | T::OBJECT_TSPARSER
            | T::OBJECT_TSDICTIONARY
            | T::OBJECT_TSTEMPLATE
            | T::OBJECT_TSCONFIGURATION => self.plain_object(effect, list_of(object), 0),
            // The access method stands before the name.
            T::OBJECT_OPCLASS | T::OBJECT_OPFAMILY => self.plain_object(effect, list_of(object), 1),
            // `table.part`: a change of the table.
            T::OBJECT_TRIGGER
            | T::OBJECT_RULE
            | T::OBJECT_POLICY
            | T::OBJECT_TABCONSTRAINT
            | T::OBJECT_COLUMN => {
                self.part_of_relation(list_of(object));
            }
            T::OBJECT_DOMCONSTRAINT | T::OBJECT_TRANSFORM => {
                let first = list_of(object).and_then(|list| list.first()).unwrap_or(Node::None);
                self.type_object(Effect::Alter, first);
            }
            T::OBJECT_CAST => self.out.add(effect, kind("cast", "*")),
            T::OBJECT_LARGEOBJECT => {
                let oid = match object {
                    Node::Integer(number) => number.ival.to_string(),
                    Node::Float(number) => number.fval().unwrap_or("*").to_owned(),
                    _ => "*".to_owned(),
                };
                self.out.add(effect, kind("large_object", &oid));
            }
            _ => self.kind_object(effect, what, object),
        }
    }

    fn kind_object(&mut self, effect: Effect, what: ObjectType::Type, object: Node<'_>) {
        let name = match object {
            Node::String(name) => name.sval(),
            Node::NodeList(list) => strings(list).last(),
            Node::RoleSpec(role) => role.rolename(),
            _ => None,
        };
        match (kind_name(what), name) {
            (Some(kind_name), Some(name)) => self.out.add(effect, kind(kind_name, name)),
            _ => self.out.unknown("an object of a kind that the gateway does not read"),
        }
    }

    fn relation_object(&mut self, effect: Effect, object: Node<'_>) {
        let parts: Vec<&str> = list_of(object).map(|list| strings(list).collect()).unwrap_or_default();
        match split(&parts) {
            Some((schema, name)) => self.relation_effect(effect, schema, name),
            None => self.out.unknown("a relation's name that the gateway does not read"),
        }
    }

    /// A pair on a relation; an index is a part of its table, which is altered with it.
    pub(super) fn relation_effect(&mut self, effect: Effect, schema: Option<&str>, name: &str) {
        let found = self.names.relation(self.catalog, schema, name);
        self.effect_on(effect, &found, name, false);
        if let Named::Relation(relation) = found
            && let Some(table) = self.catalog.relations.get(&relation.table)
        {
            self.effect(Effect::Alter, table, false);
            self.touch_name(&table.name);
        }
        self.touch_name(name);
    }

    pub(super) fn alter_relation(&mut self, name: &RangeVar) {
        let relname = name.relname().unwrap_or_default();
        match name.catalogname() {
            Some(database) if database != &*self.catalog.database => {
                self.out.add(Effect::Alter, unresolved(relname))
            }
            _ => self.relation_effect(Effect::Alter, name.schemaname(), relname),
        }
    }

    fn part_of_relation(&mut self, list: Option<&NodeList>) {
        let mut parts: Vec<&str> = list.map(|list| strings(list).collect()).unwrap_or_default();
        parts.pop();
        match split(&parts) {
            Some((schema, name)) => self.relation_effect(Effect::Alter, schema, name),
            None => self.out.unknown("a table's part that the gateway does not read"),
        }
    }

    fn function_object(&mut self, effect: Effect, object: Node<'_>) {
        let Node::ObjectWithArgs(object) = object else {
            return self.out.unknown("a function's name that the gateway does not read");
        };
        let parts: Vec<&str> = strings(object.objname()).collect();
        let Some((schema, name)) = split(&parts) else {
            return self.out.unknown("a function's name that the gateway does not read");
        };
        let found = self.names.functions(self.catalog, schema, name, None);
        let schemas: Vec<Arc<str>> = found.iter().map(|function| function.schema.clone()).collect();
        let seen = |other: &&str| match schema {
            Some(schema) => **other == *schema,
            None => self.names.sees(other) == Some(true),
        };
        let operators = self.catalog.operators.get(name).into_iter();
        let operators = operators.flat_map(Operators::schemas).filter(seen).map(Arc::from);
        let mut schemas: Vec<Arc<str>> = schemas.into_iter().chain(operators).collect();
        schemas.dedup();
        if schemas.is_empty() {
            self.out.add(effect, unresolved(name));
        }
        let name_shared: Arc<str> = name.into();
        schemas.iter().for_each(|schema| self.out.add(effect, qualified(schema, &name_shared)));
        self.touch_name(name);
    }

    pub(super) fn type_object(&mut self, effect: Effect, object: Node<'_>) {
        let list = match object {
            Node::TypeName(name) => Some(nodes(name.names())),
            other => list_of(other),
        };
        let parts: Vec<&str> = list.map(|list| strings(list).collect()).unwrap_or_default();
        let Some((schema, name)) = split(&parts) else {
            return self.out.unknown("a type's name that the gateway does not read");
        };
        let seen = |one: &str| match schema {
            Some(schema) => one == schema,
            None => self.names.sees(one) == Some(true),
        };
        let found = self.catalog.types_named(name).find(|(_, one)| seen(&one.schema));
        let object =
            found.map_or_else(|| unresolved(name), |(_, one)| qualified(&one.schema, &Arc::from(name)));
        self.out.add(effect, object);
        self.touch_everything();
    }

    /// An object that the catalog does not hold: by its own schema, or the one where it would be made.
    pub(super) fn plain_object(&mut self, effect: Effect, list: Option<&NodeList>, skip: usize) {
        let parts: Vec<&str> = list.map(|list| strings(list).skip(skip).collect()).unwrap_or_default();
        match split(&parts) {
            Some((Some(schema), name)) => self.out.add(effect, named(schema, name)),
            Some((None, name)) if effect == Effect::Create => self.create(None, name),
            Some((None, name)) => self.out.add(effect, unresolved(name)),
            None => self.out.unknown("a name that the gateway does not read"),
        }
    }

    /// A new object: where its schema says, or where the path makes things.
    pub(super) fn create(&mut self, schema: Option<&str>, name: &str) {
        let object = self.new_object(schema, name);
        self.out.add(Effect::Create, object);
        self.touch_name(name);
    }

    pub(super) fn new_object(&self, schema: Option<&str>, name: &str) -> Object {
        match (schema, self.names.creation_schema()) {
            (Some(schema), _) if is_temporary(schema) => named("pg_temp", name),
            (Some(schema), _) => named(schema, name),
            (None, Some(schema)) => named(if is_temporary(schema) { "pg_temp" } else { schema }, name),
            (None, None) => unresolved(name),
        }
    }

    pub(super) fn touch_name(&mut self, name: &str) {
        self.touch(Touched { names: vec![name.into()], ..Touched::default() });
    }

    /// A role as the statement names it.
    pub(super) fn role(&self, role: &RoleSpec) -> String {
        match role.roletype {
            RoleSpecType::ROLESPEC_CSTRING => role.rolename().unwrap_or("*").to_owned(),
            RoleSpecType::ROLESPEC_PUBLIC => "public".to_owned(),
            _ => self.catalog.user.to_string(),
        }
    }
}

fn list_of(node: Node<'_>) -> Option<&NodeList> {
    match node {
        Node::NodeList(list) => Some(list),
        _ => None,
    }
}

/// The word of the policy language for a kind of object without a schema.
pub(super) fn kind_name(what: ObjectType::Type) -> Option<&'static str> {
    use ObjectType as T;
    let name = match what {
        T::OBJECT_SCHEMA => "schema",
        T::OBJECT_DATABASE => "database",
        T::OBJECT_ROLE => "role",
        T::OBJECT_TABLESPACE => "tablespace",
        T::OBJECT_EXTENSION => "extension",
        T::OBJECT_LANGUAGE => "language",
        T::OBJECT_FDW => "foreign_data_wrapper",
        T::OBJECT_FOREIGN_SERVER => "server",
        T::OBJECT_EVENT_TRIGGER => "event_trigger",
        T::OBJECT_ACCESS_METHOD => "access_method",
        T::OBJECT_PUBLICATION => "publication",
        T::OBJECT_SUBSCRIPTION => "subscription",
        T::OBJECT_PARAMETER_ACL => "parameter",
        T::OBJECT_USER_MAPPING => "user_mapping",
        _ => return None,
    };
    Some(name)
}

//! DDL: what is made, altered, dropped, granted, and what of it is evaluated at once.

use super::Touched;
use super::catalog::Relation;
use super::effects::{kind, named, unresolved, word};
use super::names::Named;
use super::names::Names;
use super::objects::kind_name;
use super::tree::{nodes, option, strings, type_name};
use super::walk::{Reader, Walk};
use lockgate_policy_dsl::{Effect, Object};
use pg_raw_parse::Node;
use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{
    AlterDefaultPrivilegesStmt, AlterTableCmd, AlterTableStmt, Constraint, CreateFunctionStmt,
    CreateSchemaStmt, CreateStmt, CreateTableAsStmt, DefineStmt, DropStmt, GrantRoleStmt, GrantStmt,
    IndexStmt, IntoClause, RangeVar, RenameStmt,
};
use pg_raw_parse::raw::{AlterTableType, ConstrType, DropBehavior, GrantTargetType, ObjectType};
use std::sync::Arc;

impl<'c> Reader<'c> {
    /// Reads a DDL statement; one that is not known is `unknown`, with its name.
    pub(super) fn structure<'t>(&mut self, walk: &mut Walk<'t>, statement: Node<'t>) {
        if self.catalog.event_triggers > 0 {
            self.out.unknown("an event trigger runs a function at every change of structure");
        }
        match statement {
            Node::CreateStmt(create) => self.create_table(walk, create),
            Node::CreateTableAsStmt(create) => self.create_table_as(walk, create),
            Node::ViewStmt(view) => {
                walk.push(view.query(), Walk::ROOT);
                self.create_relation(view.view(), false);
            }
            Node::IndexStmt(index) => self.create_index(walk, index),
            Node::CreateSchemaStmt(create) => self.create_schema(walk, create),
            Node::CreateSeqStmt(create) => self.create_relation(create.sequence(), false),
            Node::CreateFunctionStmt(create) => self.create_function(create),
            Node::CompositeTypeStmt(create) => self.create_relation(create.typevar(), false),
            Node::CreateEnumStmt(create) => self.create_type(nodes(create.type_name())),
            Node::CreateRangeStmt(create) => self.create_type(nodes(create.type_name())),
            Node::CreateDomainStmt(create) => self.create_type(nodes(create.domainname())),
            Node::DefineStmt(define) => self.define(define),
            Node::AlterTableStmt(alter) => self.alter_table(walk, alter),
            Node::DropStmt(drop) => self.drop_objects(drop),
            Node::RenameStmt(rename) => self.rename(rename),
            Node::GrantStmt(grant) => self.grant(grant),
            Node::GrantRoleStmt(grant) => self.grant_role(grant),
            Node::AlterDefaultPrivilegesStmt(alter) => self.default_privileges(alter),
            Node::CommentStmt(comment) => self.object(Effect::Alter, comment.objtype, comment.object()),
            Node::SecLabelStmt(label) => self.object(Effect::Alter, label.objtype, label.object()),
            Node::AlterOwnerStmt(alter) => {
                self.alter_any(alter.object_type, alter.relation(), alter.object())
            }
            Node::AlterObjectDependsStmt(alter) => {
                self.alter_any(alter.object_type, alter.relation(), alter.object());
            }
            Node::AlterObjectSchemaStmt(alter) => {
                self.alter_any(alter.object_type, alter.relation(), alter.object());
                let name = last_name(alter.relation(), alter.object());
                let object = named(alter.newschema().unwrap_or("*"), name.as_deref().unwrap_or("*"));
                self.out.add(Effect::Create, object);
            }
            Node::CreateTrigStmt(create) => {
                self.alter_name(create.relation());
                self.alter_name(create.constrrel());
            }
            Node::RuleStmt(rule) => self.alter_name(rule.relation()),
            Node::CreatePolicyStmt(policy) => self.alter_name(policy.table()),
            Node::AlterPolicyStmt(policy) => self.alter_name(policy.table()),
            Node::AlterSeqStmt(alter) => self.alter_name(alter.sequence()),
            Node::CreateStatsStmt(create) => {
                self.plain_object(Effect::Create, Some(nodes(create.defnames())), 0);
                self.each_name(nodes(create.relations()), |reader, name| reader.alter_relation(name));
            }
            Node::AlterStatsStmt(alter) => self.plain_object(Effect::Alter, Some(nodes(alter.defnames())), 0),
            Node::AlterFunctionStmt(alter) => {
                self.object(Effect::Alter, alter.objtype, Node::from(alter.func()))
            }
            Node::AlterOperatorStmt(alter) => {
                self.object(Effect::Alter, ObjectType::OBJECT_OPERATOR, Node::from(alter.opername()));
            }
            Node::AlterEnumStmt(alter) => {
                self.type_object(Effect::Alter, Node::NodeList(nodes(alter.type_name())))
            }
            Node::AlterTypeStmt(alter) => self.type_object(Effect::Alter, Node::NodeList(alter.type_name())),
            Node::AlterDomainStmt(alter) => {
                walk.push(alter.def(), Walk::ROOT);
                self.cascades(alter.behavior);
                self.type_object(Effect::Alter, Node::NodeList(alter.type_name()));
            }
            Node::AlterCollationStmt(alter) => self.plain_object(Effect::Alter, Some(alter.collname()), 0),
            Node::AlterTSDictionaryStmt(alter) => {
                self.plain_object(Effect::Alter, Some(nodes(alter.dictname())), 0)
            }
            Node::AlterTSConfigurationStmt(alter) => {
                self.plain_object(Effect::Alter, Some(nodes(alter.cfgname())), 0)
            }
            Node::CreateConversionStmt(create) => {
                self.plain_object(Effect::Create, Some(create.conversion_name()), 0)
            }
            Node::CreateOpClassStmt(create) => self.create_type(nodes(create.opclassname())),
            Node::CreateOpFamilyStmt(create) => self.create_type(nodes(create.opfamilyname())),
            Node::AlterOpFamilyStmt(alter) => {
                self.plain_object(Effect::Alter, Some(nodes(alter.opfamilyname())), 0);
                self.touch_everything();
            }
            other => self.server_object(other),
        }
    }

    /// Objects without a schema.
    fn server_object(&mut self, statement: Node<'_>) {
        use Effect::{Alter, Create, Drop};
        let (effect, what, name) = match statement {
            Node::CreateRoleStmt(role) => (Create, "role", role.role()),
            Node::AlterRoleStmt(role) => return self.role_effect(Alter, role.role()),
            Node::AlterRoleSetStmt(role) => return self.role_effect(Alter, role.role()),
            Node::DropRoleStmt(roles) => {
                for role in roles.roles() {
                    match role {
                        Node::RoleSpec(role) => self.role_effect(Drop, Some(role)),
                        _ => self.out.unknown("a role's name that the gateway does not read"),
                    }
                }
                return;
            }
            Node::CreatedbStmt(database) => (Create, "database", database.dbname()),
            Node::AlterDatabaseStmt(database) => (Alter, "database", database.dbname()),
            Node::AlterDatabaseSetStmt(database) => (Alter, "database", database.dbname()),
            Node::AlterDatabaseRefreshCollStmt(database) => (Alter, "database", database.dbname()),
            Node::DropdbStmt(database) => (Drop, "database", database.dbname()),
            Node::AlterSystemStmt(alter) => {
                let name = alter.setstmt().and_then(|set| set.name()).unwrap_or("*");
                return self.out.add(Alter, kind("system", name));
            }
            Node::CreateExtensionStmt(extension) => (Create, "extension", extension.extname()),
            Node::AlterExtensionStmt(extension) => (Alter, "extension", extension.extname()),
            Node::AlterExtensionContentsStmt(extension) => (Alter, "extension", extension.extname()),
            Node::CreateEventTrigStmt(trigger) => (Create, "event_trigger", trigger.trigname()),
            Node::AlterEventTrigStmt(trigger) => (Alter, "event_trigger", trigger.trigname()),
            Node::CreatePLangStmt(language) => (Create, "language", language.plname()),
            Node::CreateAmStmt(method) => (Create, "access_method", method.amname()),
            Node::CreateTableSpaceStmt(space) => (Create, "tablespace", space.tablespacename()),
            Node::AlterTableSpaceOptionsStmt(space) => (Alter, "tablespace", space.tablespacename()),
            Node::DropTableSpaceStmt(space) => (Drop, "tablespace", space.tablespacename()),
            Node::CreateFdwStmt(wrapper) => (Create, "foreign_data_wrapper", wrapper.fdwname()),
            Node::AlterFdwStmt(wrapper) => (Alter, "foreign_data_wrapper", wrapper.fdwname()),
            Node::CreateForeignServerStmt(server) => (Create, "server", server.servername()),
            Node::AlterForeignServerStmt(server) => (Alter, "server", server.servername()),
            Node::CreateUserMappingStmt(mapping) => (Create, "user_mapping", mapping.servername()),
            Node::AlterUserMappingStmt(mapping) => (Alter, "user_mapping", mapping.servername()),
            Node::DropUserMappingStmt(mapping) => (Drop, "user_mapping", mapping.servername()),
            Node::CreatePublicationStmt(publication) => (Create, "publication", publication.pubname()),
            Node::AlterPublicationStmt(publication) => (Alter, "publication", publication.pubname()),
            Node::DropSubscriptionStmt(subscription) => (Drop, "subscription", subscription.subname()),
            Node::CreateCastStmt(_) => (Create, "cast", Some("*")),
            Node::CreateTransformStmt(_) => (Create, "transform", Some("*")),
            other => return self.reaches_far(other),
        };
        self.touch_everything();
        self.out.add(effect, kind(what, name.unwrap_or("*")));
    }

    /// Statements that reach objects they do not name, or other servers.
    fn reaches_far(&mut self, statement: Node<'_>) {
        let everything = named("*", "*");
        match statement {
            Node::DropOwnedStmt(_) => self.out.add(Effect::Drop, everything),
            Node::ReassignOwnedStmt(_) | Node::AlterTableMoveAllStmt(_) => {
                self.out.add(Effect::Alter, everything)
            }
            Node::CreateSubscriptionStmt(create) => {
                self.out.add(Effect::Create, kind("subscription", create.subname().unwrap_or("*")));
            }
            Node::AlterSubscriptionStmt(alter) => {
                self.out.add(Effect::Alter, kind("subscription", alter.subname().unwrap_or("*")));
            }
            Node::ImportForeignSchemaStmt(import) => {
                self.out.add(Effect::Create, named(import.local_schema().unwrap_or("*"), "*"));
            }
            _ => {}
        }
        self.touch_everything();
        self.out.unknown(format!("the gateway does not read {} yet", type_name(statement)));
    }

    fn role_effect(&mut self, effect: Effect, role: Option<&pg_raw_parse::nodes::RoleSpec>) {
        let name = role.map_or_else(|| "*".to_owned(), |role| self.role(role));
        self.out.add(effect, kind("role", &name));
    }

    /// SELECT INTO.
    pub(super) fn create_from_query(&mut self, into: &IntoClause) {
        if !self.mode.explain {
            self.create_relation(into.rel(), true);
        }
    }

    /// A new relation; a plain one has nothing that writing it would set in motion.
    fn create_relation(&mut self, name: Option<&RangeVar>, plain: bool) {
        let Some(name) = name else { return self.out.unknown("something new without a name") };
        let relname = name.relname().unwrap_or_default();
        // 't' of RELPERSISTENCE_TEMP, from TEMPORARY; or the temporary schema by its name.
        let temporary = u8::try_from(name.relpersistence) == Ok(b't')
            || name.schemaname().is_some_and(super::names::is_temporary);
        let object = match temporary {
            true => named("pg_temp", relname),
            false => self.new_object(name.schemaname(), relname),
        };
        self.out.add(Effect::Create, object);
        match temporary && plain {
            true => self.touch(Touched { temporary_tables: vec![relname.into()], ..Touched::default() }),
            false => self.touch_name(relname),
        }
    }

    fn create_table<'t>(&mut self, walk: &mut Walk<'t>, create: &'t CreateStmt) {
        let mut plain = create.inh_relations().is_empty() && create.of_typename().is_none();
        self.each_name(create.inh_relations(), |reader, name| reader.alter_relation(name));
        // Bounds of a partition are evaluated now; defaults and checks are stored.
        walk.push(create.partbound(), Walk::ROOT);
        let constraints = nodes(create.constraints()).iter();
        for element in create.table_elts().iter().chain(constraints) {
            match element {
                Node::ColumnDef(column) => {
                    plain &= matches!(column.raw_default(), Node::None) && column.constraints().is_empty();
                    column.constraints().iter().for_each(|one| self.constraint(None, one));
                    walk.push(column.type_name(), Walk::ROOT);
                }
                Node::Constraint(_) => {
                    plain = false;
                    self.constraint(None, element);
                }
                Node::TableLikeClause(like) => {
                    plain = false;
                    if let Some(name) = like.relation() {
                        let found = self.find(name);
                        self.effect_on(Effect::Read, &found, name.relname().unwrap_or_default(), false);
                    }
                }
                other => self.out.unknown(format!("the gateway does not read {} yet", type_name(other))),
            }
        }
        self.create_relation(create.relation(), plain && create.partspec().is_none());
    }

    /// A foreign key puts triggers on the table that it points to; with rows there already, checks are evaluated.
    fn constraint<'t>(&mut self, walk: Option<&mut Walk<'t>>, constraint: Node<'t>) {
        let Node::Constraint(constraint) = constraint else {
            return self.out.unknown("a constraint that the gateway does not read");
        };
        if constraint.contype == ConstrType::CONSTR_FOREIGN {
            self.alter_name(constraint.pktable());
        }
        if let Some(walk) = walk {
            self.evaluated_constraint(walk, constraint);
        }
    }

    fn evaluated_constraint<'t>(&mut self, walk: &mut Walk<'t>, constraint: &'t Constraint) {
        walk.push(constraint.raw_expr(), Walk::ROOT);
        walk.push(constraint.where_clause(), Walk::ROOT);
        for element in constraint.exclusions() {
            let Node::NodeList(pair) = element else { continue };
            for part in pair {
                match part {
                    Node::NodeList(operator) => self.operator(operator),
                    other => walk.push(other, Walk::ROOT),
                }
            }
        }
    }

    fn create_table_as<'t>(&mut self, walk: &mut Walk<'t>, create: &'t CreateTableAsStmt) {
        if !self.utility(walk, create.query()) {
            walk.push(create.query(), Walk::ROOT);
        }
        let plain = create.objtype == ObjectType::OBJECT_TABLE;
        self.create_relation(create.into().and_then(|into| into.rel()), plain);
    }

    fn create_index<'t>(&mut self, walk: &mut Walk<'t>, index: &'t IndexStmt) {
        let Some(table) = index.relation() else { return self.out.unknown("an index without a table") };
        let found = self.find(table);
        let relname = table.relname().unwrap_or_default();
        self.alter_relation(table);
        self.effect_on(Effect::Read, &found, relname, false);
        let name = index.idxname().map_or_else(|| index_name(relname, index), str::to_owned);
        let object = match &found {
            Named::Relation(relation) => named(&relation.schema, &name),
            Named::Temporary(_) => named("pg_temp", &name),
            _ => unresolved(&name),
        };
        self.out.add(Effect::Create, object);
        walk.push_all(nodes(index.index_params()), Walk::ROOT);
        walk.push(index.where_clause(), Walk::ROOT);
        if nodes(index.index_params()).iter().any(|element| match element {
            Node::IndexElem(element) => strings(element.opclass()).next().is_some(),
            _ => true,
        }) {
            self.out.unknown("an operator class may call functions of the user's");
        }
    }

    /// The statements inside CREATE SCHEMA run with the new schema first on the path.
    fn create_schema<'t>(&mut self, walk: &mut Walk<'t>, create: &'t CreateSchemaStmt) {
        let owner = create.authrole().map(|role| self.role(role));
        let name = create.schemaname().map(str::to_owned).or(owner).unwrap_or_else(|| "*".to_owned());
        self.out.add(Effect::Create, kind("schema", &name));
        let before: Names = self.names.clone();
        self.names.make_in(&name);
        for element in create.schema_elts() {
            if self.utility(walk, element) {
                self.run(walk);
            } else {
                self.out.unknown("the gateway does not read this part of a CREATE SCHEMA");
            }
        }
        self.names = before;
        self.touch_everything();
    }

    fn create_function(&mut self, create: &CreateFunctionStmt) {
        let parts: Vec<&str> = strings(create.funcname()).collect();
        match super::expressions::split(&parts) {
            Some((schema, name)) => self.create(schema, name),
            None => self.out.unknown("a function's name that the gateway does not read"),
        }
        let options = nodes(create.options());
        let language = option(options, "language").and_then(|option| match option.arg() {
            Node::String(name) => name.sval(),
            _ => None,
        });
        match language.map(str::to_ascii_lowercase).as_deref() {
            Some("c") => {
                let file = option(options, "as").and_then(|option| match option.arg() {
                    Node::NodeList(list) => strings(list).next(),
                    Node::String(text) => text.sval(),
                    _ => None,
                });
                self.out.add(Effect::ExecuteProgram, word(file.unwrap_or("*")));
            }
            Some("internal") => self.out.unknown("a function over the server's own machine code"),
            _ => {}
        }
    }

    fn create_type(&mut self, names: &NodeList) {
        self.plain_object(Effect::Create, Some(names), 0);
        self.touch_everything();
    }

    fn define(&mut self, define: &DefineStmt) {
        self.create_type(nodes(define.defnames()));
    }

    fn alter_name(&mut self, name: Option<&RangeVar>) {
        if let Some(name) = name {
            self.alter_relation(name);
        }
    }

    fn alter_any(&mut self, what: ObjectType::Type, relation: Option<&RangeVar>, object: Node<'_>) {
        match relation {
            Some(name) => self.alter_relation(name),
            None => self.object(Effect::Alter, what, object),
        }
    }

    fn cascades(&mut self, behavior: DropBehavior::Type) {
        if behavior == DropBehavior::DROP_CASCADE {
            self.out.unknown("CASCADE reaches what depends on it");
        }
    }

    fn alter_table<'t>(&mut self, walk: &mut Walk<'t>, alter: &'t AlterTableStmt) {
        let Some(name) = alter.relation() else { return self.out.unknown("an ALTER TABLE without a table") };
        self.alter_relation(name);
        if alter.objtype == ObjectType::OBJECT_TYPE {
            self.touch_everything();
        }
        let found = self.find(name);
        for command in alter.cmds() {
            match command {
                Node::AlterTableCmd(command) => self.alter_table_command(walk, command, &found),
                other => self.out.unknown(format!("the gateway does not read {} yet", type_name(other))),
            }
        }
    }

    fn alter_table_command<'t>(
        &mut self,
        walk: &mut Walk<'t>,
        command: &'t AlterTableCmd,
        table: &Named<'c>,
    ) {
        use AlterTableType as T;
        self.cascades(command.behavior);
        match (command.subtype, command.def()) {
            // Stored, and evaluated for later rows only.
            (T::AT_ColumnDefault, _) => return,
            (_, Node::ColumnDef(column)) => {
                walk.push(column.type_name(), Walk::ROOT);
                walk.push(column.raw_default(), Walk::ROOT);
                column.constraints().iter().for_each(|one| self.constraint(Some(walk), one));
            }
            (_, constraint @ Node::Constraint(_)) => self.constraint(Some(walk), constraint),
            (_, Node::PartitionCmd(partition)) => {
                walk.push(partition.bound(), Walk::ROOT);
                self.alter_name(partition.name());
            }
            (_, Node::RangeVar(parent)) => self.alter_relation(parent),
            (_, other) => walk.push(other, Walk::ROOT),
        }
        let rewrites = matches!(
            command.subtype,
            T::AT_AddColumn
                | T::AT_AlterColumnType
                | T::AT_AddConstraint
                | T::AT_ValidateConstraint
                | T::AT_SetExpression
                | T::AT_AttachPartition
                | T::AT_SetTableSpace
                | T::AT_SetLogged
                | T::AT_SetUnLogged
                | T::AT_SetAccessMethod
                | T::AT_DropExpression
        );
        if let (true, Named::Relation(relation)) = (rewrites, table) {
            self.retyped(command, relation);
            self.stored_expressions(relation, &['c', 'g', 'i', 'u', 'p']);
        }
    }

    /// ALTER COLUMN TYPE casts every value by assignment.
    fn retyped(&mut self, command: &AlterTableCmd, relation: &Relation) {
        if let (AlterTableType::AT_AlterColumnType, Node::ColumnDef(column)) =
            (command.subtype, command.def())
        {
            relation.columns.iter().for_each(|column| self.put_in_play(column.type_oid));
            self.casts_to(column.type_name());
        }
    }

    fn drop_objects(&mut self, drop: &DropStmt) {
        let cascade = drop.behavior == DropBehavior::DROP_CASCADE;
        for object in drop.objects() {
            self.object(Effect::Drop, drop.remove_type, object);
            if let (ObjectType::OBJECT_SCHEMA, Node::String(name), true) = (drop.remove_type, object, cascade)
            {
                self.out.add(Effect::Drop, named(name.sval().unwrap_or("*"), "*"));
            }
        }
        self.cascades(drop.behavior);
        if kind_name(drop.remove_type).is_some() || drop.remove_type == ObjectType::OBJECT_CAST {
            self.touch_everything();
        }
    }

    fn rename(&mut self, rename: &RenameStmt) {
        use ObjectType as T;
        self.cascades(rename.behavior);
        let new = rename.newname().unwrap_or("*");
        let part = matches!(
            rename.rename_type,
            T::OBJECT_COLUMN
                | T::OBJECT_ATTRIBUTE
                | T::OBJECT_TRIGGER
                | T::OBJECT_RULE
                | T::OBJECT_POLICY
                | T::OBJECT_TABCONSTRAINT
                | T::OBJECT_DOMCONSTRAINT
        );
        match (rename.relation(), rename.object(), kind_name(rename.rename_type)) {
            (Some(name), _, _) => {
                let found = self.find(name);
                self.alter_relation(name);
                if !part {
                    let schema = found.schema().or(name.schemaname());
                    let object = schema.map_or_else(|| unresolved(new), |schema| named(schema, new));
                    self.out.add(Effect::Create, object);
                    self.touch_name(new);
                }
            }
            (None, Node::None, Some(what)) => {
                self.out.add(Effect::Alter, kind(what, rename.subname().unwrap_or("*")));
                self.out.add(Effect::Create, kind(what, new));
                self.touch_everything();
            }
            (None, object, what) => {
                self.object(Effect::Alter, rename.rename_type, object);
                if let Some(what) = what {
                    self.out.add(Effect::Create, kind(what, new));
                } else if !part {
                    let schemas: Vec<Arc<str>> =
                        self.out.objects(Effect::Alter).filter_map(schema_of).collect();
                    schemas.iter().for_each(|schema| self.out.add(Effect::Create, named(schema, new)));
                }
                self.touch_everything();
            }
        }
    }

    fn grant(&mut self, grant: &GrantStmt) {
        use GrantTargetType as T;
        let effect = if grant.is_grant { Effect::Grant } else { Effect::Revoke };
        for object in nodes(grant.objects()) {
            match (grant.targtype, object) {
                (T::ACL_TARGET_ALL_IN_SCHEMA, Node::String(schema)) => {
                    self.out.add(effect, named(schema.sval().unwrap_or("*"), "*"));
                }
                (T::ACL_TARGET_OBJECT, Node::RangeVar(name)) => {
                    let found = self.find(name);
                    self.effect_on(effect, &found, name.relname().unwrap_or_default(), false);
                }
                (T::ACL_TARGET_OBJECT, object) => self.object(effect, grant.objtype, object),
                _ => self.out.unknown("a GRANT that the gateway does not read"),
            }
        }
    }

    fn grant_role(&mut self, grant: &GrantRoleStmt) {
        let effect = if grant.is_grant { Effect::Grant } else { Effect::Revoke };
        for role in grant.granted_roles() {
            match role {
                Node::AccessPriv(role) => self.out.add(effect, kind("role", role.priv_name().unwrap_or("*"))),
                _ => self.out.unknown("a role's name that the gateway does not read"),
            }
        }
    }

    fn default_privileges(&mut self, alter: &AlterDefaultPrivilegesStmt) {
        let granted = alter.action().is_some_and(|action| action.is_grant);
        let effect = if granted { Effect::Grant } else { Effect::Revoke };
        let schemas = option(nodes(alter.options()), "schemas").map(|option| option.arg());
        match schemas {
            Some(Node::NodeList(schemas)) => {
                strings(schemas).for_each(|schema| self.out.add(effect, kind("schema", schema)));
            }
            _ => self.out.add(effect, kind("schema", "*")),
        }
    }
}

fn schema_of(object: &Object) -> Option<Arc<str>> {
    match object {
        Object::Qualified { schema, .. } => Some(schema.clone()),
        _ => None,
    }
}

fn last_name(relation: Option<&RangeVar>, object: Node<'_>) -> Option<String> {
    if let Some(name) = relation {
        return name.relname().map(str::to_owned);
    }
    let list = match object {
        Node::NodeList(list) => list,
        Node::ObjectWithArgs(object) => object.objname(),
        Node::TypeName(name) => nodes(name.names()),
        Node::String(name) => return name.sval().map(str::to_owned),
        _ => return None,
    };
    strings(list).last().map(str::to_owned)
}

/// The name that the server chooses for an index without one, when nothing else has it.
fn index_name(table: &str, index: &IndexStmt) -> String {
    let columns = nodes(index.index_params()).iter().map(|element| match element {
        Node::IndexElem(element) => element.name().unwrap_or("expr"),
        _ => "expr",
    });
    let mut name = table.to_owned();
    columns.for_each(|column| {
        name.push('_');
        name.push_str(column);
    });
    name + "_idx"
}

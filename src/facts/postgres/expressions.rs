//! Expressions: the functions, operators, casts and types that they call by one spelling or another.

use super::builtins::Builtin;
use super::catalog::Function;
use super::effects::{kind, unresolved, word};
use super::names::Named;
use super::tree::{nodes, strings};
use super::walk::Reader;
use lockgate_policy_dsl::{Effect, Object};
use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{A_Expr, A_Indirection, FuncCall, RangeTableSample, SubLink, TypeCast, TypeName};
use pg_raw_parse::raw::A_Expr_Kind;
use pg_raw_parse::{ConstValue, Node};
use std::sync::Arc;

/// Argument types that take a whole row: record, any, anyelement, anynonarray, anycompatible, anycompatiblenonarray.
const ROW_PSEUDO_TYPES: &[u32] = &[2249, 2276, 2283, 2776, 5077, 5079];
/// PostgreSQL gives OIDs from here on to what users make.
const FIRST_NORMAL_OID: u32 = 16384;

impl<'c> Reader<'c> {
    /// `f(…)`: every function that the name and the number of arguments may mean. Types would tell more of them apart.
    pub(super) fn function(&mut self, call: &FuncCall) {
        let parts: Vec<&str> = strings(call.funcname()).collect();
        let Some((schema, name)) = split(&parts) else {
            return self.out.unknown("a function's name that the gateway does not read");
        };
        self.replaced_keyword(schema, name);
        if self.names.overlay().is_touched(name) {
            self.out.add(Effect::Call, unresolved(name));
            return self.out.unknown(format!("this session changed what the function {name:?} means"));
        }
        let given = if call.agg_star { 0 } else { call.args().len() + usize::from(call.agg_within_group) };
        let count = (!call.func_variadic && !call.agg_within_group).then_some(given);
        let found = self.names.functions(self.catalog, schema, name, count);
        for function in &found {
            self.call(function, Some(call.args()));
        }
        // Without a function of that name, `name(x)` is a cast to a type or a column of the row.
        let may_be_type = given == 1 && self.is_type(schema, name);
        if may_be_type {
            self.type_named(schema, name);
        }
        if found.is_empty() && !may_be_type && !(given == 1 && schema.is_none() && self.is_column(name)) {
            self.out.add(Effect::Call, unresolved(name));
            self.out.unknown(format!("the function {name:?} is not known"));
        }
    }

    /// What calling a function does; `arguments` when they can be looked at.
    pub(super) fn call(&mut self, function: &Function, arguments: Option<&NodeList>) {
        if self.mode.explain && function.volatility == 'v' {
            return;
        }
        if function.built_in {
            return self.built_in(function, arguments);
        }
        self.put_in_play(function.result);
        self.call_pair(function);
        self.out.unknown(format!("the body of {}.{} is not read", function.schema, function.name));
    }

    fn built_in(&mut self, function: &Function, arguments: Option<&NodeList>) {
        let Some(what) = function.does else {
            self.call_pair(function);
            return self.out.unknown(format!("nobody has looked at what pg_catalog.{} does", function.name));
        };
        let given = arguments.map_or(0, NodeList::len);
        if what == Builtin::Value || (what == Builtin::RunsSecondOfTwo && arguments.is_some() && given != 2) {
            return;
        }
        self.call_pair(function);
        // Any other looks at its arguments.
        self.by_shape &= what == Builtin::Call;
        let argument = |place: usize| arguments.and_then(|all| all.get(place)).and_then(constant);
        let (first, second) = (argument(0), argument(1));
        match what {
            Builtin::Value | Builtin::Call => {}
            Builtin::RunsText | Builtin::RunsSecondOfTwo => {
                self.out.unknown(format!("{} runs what it is given", function.name));
            }
            Builtin::Replicates => self.out.add(Effect::Replicate, Object::None),
            Builtin::SetConfig => self.set_config(first, second),
            Builtin::ReadsFile => self.out.add(Effect::ReadFile, word(first.as_deref().unwrap_or("*"))),
            Builtin::ReadsSomeFile => self.out.add(Effect::ReadFile, word("*")),
            Builtin::Notifies => self.out.add(Effect::Notify, word(first.as_deref().unwrap_or("*"))),
            Builtin::MovesSequence => self.sequence(first),
            _ => self.large_object(what, first, second),
        }
    }

    fn large_object(&mut self, what: Builtin, first: Option<String>, second: Option<String>) {
        let object = |oid: &Option<String>| kind("large_object", oid.as_deref().unwrap_or("*"));
        let path = |path: &Option<String>| word(path.as_deref().unwrap_or("*"));
        match what {
            Builtin::LargeObjectCreate => self.out.add(Effect::Create, object(&first)),
            Builtin::LargeObjectCreateAny => self.out.add(Effect::Create, kind("large_object", "")),
            Builtin::LargeObjectImport => {
                self.out.add(Effect::ReadFile, path(&first));
                self.out.add(Effect::Create, kind("large_object", second.as_deref().unwrap_or("")));
            }
            Builtin::LargeObjectExport => {
                self.out.add(Effect::WriteFile, path(&second));
                self.out.add(Effect::Read, object(&first));
            }
            Builtin::LargeObjectDrop => self.out.add(Effect::Drop, object(&first)),
            Builtin::LargeObjectRead => self.out.add(Effect::Read, object(&first)),
            Builtin::LargeObjectUpdate => self.out.add(Effect::Update, object(&first)),
            Builtin::LargeObjectOpen => {
                self.out.add(Effect::Read, object(&first));
                self.out.add(Effect::Update, object(&first));
            }
            Builtin::LargeObjectReadAny => self.out.add(Effect::Read, kind("large_object", "*")),
            _ => self.out.add(Effect::Update, kind("large_object", "*")),
        }
    }

    /// `nextval('s')`: the name is read as `regclass` reads it.
    fn sequence(&mut self, name: Option<String>) {
        let Some(name) = name else {
            return self.out.unknown("which sequence is moved is computed");
        };
        let parts = super::names::split_name(&name);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let Some((schema, name)) = split(&parts) else {
            return self.out.unknown("a sequence's name that the gateway does not read");
        };
        let named = self.names.relation(self.catalog, schema, name);
        self.effect_on(Effect::Update, &named, name, false);
    }

    pub(super) fn operator_expression(&mut self, expression: &A_Expr) {
        use A_Expr_Kind as K;
        match expression.kind {
            K::AEXPR_BETWEEN | K::AEXPR_BETWEEN_SYM => self.operators_named(&[">=", "<="]),
            K::AEXPR_NOT_BETWEEN | K::AEXPR_NOT_BETWEEN_SYM => self.operators_named(&["<", ">"]),
            K::AEXPR_OP
            | K::AEXPR_OP_ANY
            | K::AEXPR_OP_ALL
            | K::AEXPR_DISTINCT
            | K::AEXPR_NOT_DISTINCT
            | K::AEXPR_NULLIF
            | K::AEXPR_IN
            | K::AEXPR_LIKE
            | K::AEXPR_ILIKE
            | K::AEXPR_SIMILAR => self.operator(expression.name()),
            _ => self.out.unknown("an expression that the gateway does not read"),
        }
    }

    /// `x IN (SELECT …)` has no operator in the tree: it is the equals sign.
    pub(super) fn sub_link(&mut self, link: &SubLink) {
        if !matches!(link.testexpr(), Node::None) && link.oper_name().is_empty() {
            self.operator_named("=");
        }
        self.operator(link.oper_name());
    }

    pub(super) fn operator(&mut self, name: &NodeList) {
        let mut parts = strings(name);
        match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => {}
            (Some(name), None, _) => self.operator_in(None, name),
            (Some(schema), Some(name), None) => self.operator_in(Some(schema), name),
            _ => self.out.unknown("an operator's name that the gateway does not read"),
        }
    }

    pub(super) fn operator_named(&mut self, name: &str) {
        self.operator_in(None, name);
    }

    fn operators_named(&mut self, names: &[&str]) {
        names.iter().for_each(|name| self.operator_in(None, name));
    }

    fn operator_in(&mut self, schema: Option<&str>, name: &str) {
        if self.names.overlay().is_touched(name) {
            self.out.add(Effect::Call, unresolved(name));
            return self.out.unknown(format!("this session changed what the operator {name} means"));
        }
        let (own, others) = self.names.operators(self.catalog, schema, name);
        if !own && others.is_empty() {
            self.out.add(Effect::Call, unresolved(name));
        }
        for operator in others {
            match self.catalog.functions.get(&operator.function) {
                Some(function) if function.built_in => {}
                Some(function) => self.call(function, None),
                None => self.out.unknown(format!("the function of the operator {name} is not known")),
            }
        }
    }

    pub(super) fn cast(&mut self, cast: &TypeCast) {
        self.casts_to(cast.type_name());
    }

    /// Notes a type that something is cast to.
    pub(super) fn casts_to(&mut self, target: Option<&TypeName>) {
        if self.catalog.casts.is_empty() {
            return;
        }
        let parts: Vec<&str> = target.map(|name| strings(nodes(name.names())).collect()).unwrap_or_default();
        if let Some((schema, name)) = split(&parts) {
            let found = self.types(schema, name);
            self.cast_targets.extend(found);
        }
    }

    pub(super) fn type_name(&mut self, name: &TypeName) {
        let mut parts = strings(nodes(name.names()));
        let (schema, name_only) = match (parts.next(), parts.next(), parts.next()) {
            (Some(name), None, _) => (None, name),
            (Some(schema), Some(name), None) => (Some(schema), name),
            _ if name.pct_type => return,
            (Some(_), Some(schema), Some(name)) => (Some(schema), name),
            _ => return self.out.unknown("a type's name that the gateway does not read"),
        };
        // `table.column%TYPE` has the column's type.
        if name.pct_type {
            let place = schema.map(|table| self.names.relation(self.catalog, None, table));
            let column = match &place {
                Some(Named::Relation(relation)) => relation.column(name_only),
                _ => None,
            };
            return match column {
                Some(column) => self.domain_checks(column.type_oid),
                None => self.out.unknown("a %TYPE that the gateway does not resolve"),
            };
        }
        self.type_named(schema, name_only);
    }

    fn type_named(&mut self, schema: Option<&str>, name: &str) {
        if self.names.overlay().is_touched(name) {
            return self.out.unknown(format!("this session changed what the type {name:?} means"));
        }
        let found = self.types(schema, name);
        if found.is_empty() {
            self.out.unknown(format!("the type {name:?} is not known"));
        }
        found.into_iter().for_each(|oid| self.domain_checks(oid));
    }

    fn types(&self, schema: Option<&str>, name: &str) -> Vec<u32> {
        let seen = |other: &str| match schema {
            Some(schema) => other == schema,
            None => self.names.sees(other).unwrap_or(true),
        };
        let found = self.catalog.types_named(name).filter(|(_, one)| seen(&one.schema));
        found.map(|(oid, _)| oid).collect()
    }

    fn is_type(&self, schema: Option<&str>, name: &str) -> bool {
        !self.types(schema, name).is_empty()
    }

    /// Reads the CHECKs of a domain, and of those that a type is made of; notes the types as in play.
    pub(super) fn domain_checks(&mut self, oid: u32) {
        if oid < FIRST_NORMAL_OID && self.catalog.types.contains_key(&oid) {
            return;
        }
        let mut todo = vec![oid];
        while let Some(oid) = todo.pop() {
            if oid == 0 || self.types_in_play.contains_key(&oid) {
                continue;
            }
            self.put_in_play(oid);
            let Some(one) = self.catalog.types.get(&oid) else { continue };
            for check in &one.checks {
                self.expand_later(check, || "a domain's CHECK".into());
            }
            todo.extend([one.base, one.element]);
            if let Some(relation) = self.catalog.relations.get(&one.relation) {
                todo.extend(relation.columns.iter().map(|column| column.type_oid));
            }
        }
    }

    pub(super) fn put_in_play(&mut self, oid: u32) {
        self.types_in_play.insert(oid, ());
    }

    /// Casts with functions of the user's, where their source may occur. What the target is cannot be told: an explicit
    /// one counts when its target is named, others always.
    pub(super) fn user_casts(&mut self) {
        for cast in &self.catalog.casts {
            let occurs = cast.source < FIRST_NORMAL_OID || self.types_in_play.contains_key(&cast.source);
            let asked = cast.context != 'e' || self.cast_targets.contains(&cast.target);
            if occurs && asked {
                match self.catalog.functions.get(&cast.function) {
                    Some(function) => self.call(function, None),
                    None => self.out.unknown("the function of a cast is not known"),
                }
            }
        }
    }

    /// `row.f` calls `f(row)` when the row has no such column.
    pub(super) fn row_function(&mut self, fields: &NodeList) {
        if fields.len() < 2 {
            return;
        }
        if let Some(Node::String(last)) = fields.iter().next_back() {
            self.row_function_named(last.sval().unwrap_or_default());
        }
    }

    fn row_function_named(&mut self, name: &str) {
        let found = self.names.functions(self.catalog, None, name, Some(1));
        for function in found {
            let first = function.types.first().copied().unwrap_or(0);
            let takes_row = ROW_PSEUDO_TYPES.contains(&first)
                || self.catalog.types.get(&first).is_some_and(|one| one.kind == 'c');
            if takes_row && !function.built_in {
                self.call(function, None);
            }
        }
    }

    pub(super) fn indirection(&mut self, access: &A_Indirection) {
        for step in access.indirection() {
            if let Node::String(name) = step {
                self.row_function_named(name.sval().unwrap_or_default());
            }
        }
    }

    /// TABLESAMPLE method(…): a handler, which PostgreSQL calls by the name.
    pub(super) fn sample(&mut self, sample: &RangeTableSample) {
        let parts: Vec<&str> = strings(sample.method()).collect();
        let Some((schema, name)) = split(&parts) else {
            return self.out.unknown("a sampling method that the gateway does not read");
        };
        let found = self.names.functions(self.catalog, schema, name, Some(1));
        if found.is_empty() {
            self.out.add(Effect::Call, unresolved(name));
        }
        found.into_iter().for_each(|function| self.call(function, None));
    }

    fn is_column(&mut self, name: &str) -> bool {
        self.spend(self.catalog.relations.len());
        self.catalog.relations.values().any(|relation| relation.column(name).is_some())
    }

    /// Words that are functions of the grammar since some version, and were names before it: on an older server
    /// they call what somebody made under that name.
    pub(super) fn version_differences(&mut self, node: Node<'_>) {
        let (since, what) = match node {
            Node::JsonFuncExpr(_) | Node::JsonTable(_) => {
                (17, "JSON_VALUE, JSON_QUERY, JSON_EXISTS or JSON_TABLE")
            }
            Node::JsonParseExpr(_) | Node::JsonScalarExpr(_) | Node::JsonSerializeExpr(_) => {
                (17, "JSON, JSON_SCALAR or JSON_SERIALIZE")
            }
            Node::MergeSupportFunc(_) => (17, "MERGE_ACTION"),
            Node::JsonObjectConstructor(_)
            | Node::JsonArrayConstructor(_)
            | Node::JsonArrayQueryConstructor(_)
            | Node::JsonObjectAgg(_)
            | Node::JsonArrayAgg(_)
            | Node::JsonIsPredicate(_) => {
                (16, "JSON_OBJECT, JSON_ARRAY, JSON_OBJECTAGG, JSON_ARRAYAGG or IS JSON")
            }
            _ => return,
        };
        if self.catalog.server_version < since {
            let version = self.catalog.server_version;
            self.out.unknown(format!(
                "{what} means something else before PostgreSQL {since}, and the target is {version}"
            ));
        }
    }

    /// `json_object(…)` and `system_user` come out of the grammar as pg_catalog's own even when they were written
    /// without a schema; before 16 they were looked up like any name.
    fn replaced_keyword(&mut self, schema: Option<&str>, name: &str) {
        let word = matches!(name, "json_object" | "system_user");
        if schema == Some("pg_catalog") && word && self.catalog.server_version < 16 {
            let users = self.catalog.functions_named(name).any(|function| !function.built_in);
            if users {
                self.out.unknown(format!("{name} may be a function of the user's before PostgreSQL 16"));
            }
        }
    }
}

/// `name`, `schema.name` or `database.schema.name`.
pub(super) fn split<'a>(parts: &[&'a str]) -> Option<(Option<&'a str>, &'a str)> {
    match *parts {
        [name] => Some((None, name)),
        [schema, name] | [_, schema, name] => Some((Some(schema), name)),
        _ => None,
    }
}

/// The text of a constant, also behind casts of constants to `text`, `regclass` and the like.
pub(super) fn constant(node: Node<'_>) -> Option<String> {
    let mut node = node;
    loop {
        match node {
            Node::TypeCast(cast) => {
                let parts: Vec<&str> = strings(nodes(cast.type_name()?.names())).collect();
                let plain = matches!(
                    parts.last(),
                    Some(&("text" | "regclass" | "varchar" | "name" | "oid" | "int4" | "int8"))
                );
                if !plain || !cast.type_name()?.typmods().is_empty() {
                    return None;
                }
                node = cast.arg();
            }
            Node::NamedArgExpr(_) => return None,
            Node::A_Const(value) => {
                return match value.val()? {
                    ConstValue::Integer(number) => Some(number.to_string()),
                    ConstValue::Float(text) | ConstValue::String(text) => Some(text.to_owned()),
                    _ => None,
                };
            }
            _ => return None,
        }
    }
}

/// The text of a constant as a shared name.
pub(super) fn constant_name(node: Node<'_>) -> Option<Arc<str>> {
    constant(node).map(Arc::from)
}

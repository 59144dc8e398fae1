//! A target's own catalog at one moment, as maps that names and OIDs are looked up in.

use super::builtins::{Builtin, classify};
use super::queries::{self, Answer};
use foldhash::fast::FixedState;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub(super) type Map<K, V> = HashMap<K, V, FixedState>;

/// What a target's own catalog says, at one moment. Built from the rows of [`Catalog::QUERIES`]; immutable.
#[derive(Debug, Default)]
pub struct Catalog {
    version: u64,
    pub(super) server_version: u32,
    pub(super) database: Arc<str>,
    pub(super) user: Arc<str>,
    /// Superuser or BYPASSRLS: policies of row security do not run.
    pub(super) bypasses_row_security: bool,
    /// `search_path` of a new session, as its setting says.
    pub(super) path: Vec<Arc<str>>,
    /// Schemas by name, and whether the account may use them.
    pub(super) schemas: Map<Arc<str>, bool>,
    pub(super) relations: Map<u32, Relation>,
    relations_by_name: Map<Arc<str>, Map<Arc<str>, u32>>,
    pub(super) functions: Map<u32, Function>,
    functions_by_name: Map<Arc<str>, Vec<u32>>,
    pub(super) operators: Map<Arc<str>, Operators>,
    pub(super) casts: Vec<Cast>,
    pub(super) types: Map<u32, Type>,
    types_by_name: Map<Arc<str>, Vec<u32>>,
    pub(super) event_triggers: usize,
}

/// One row of `pg_class`, with what hangs on it.
#[derive(Debug)]
pub(super) struct Relation {
    pub oid: u32,
    pub schema: Arc<str>,
    pub name: Arc<str>,
    /** `relkind` */
    pub kind: char,
    pub rowtype: u32,
    /// Of an index, its table; 0 otherwise.
    pub table: u32,
    pub row_security: bool,
    pub columns: Vec<Column>,
    pub parents: Vec<u32>,
    pub children: Vec<u32>,
    pub expressions: Vec<Expression>,
    pub triggers: Vec<Trigger>,
    /// Rules other than a view's own, with the event as `pg_rewrite.ev_type` (2 update, 3 insert, 4 delete).
    pub rules: Vec<(char, Arc<str>)>,
    /// A view's query.
    pub query: Option<Arc<str>>,
    /// Foreign keys that point here.
    pub referenced_by: Vec<ForeignKey>,
}

#[derive(Debug)]
pub(super) struct Column {
    pub number: i16,
    pub name: Arc<str>,
    pub type_oid: u32,
}

/// An expression that the server evaluates by itself.
#[derive(Debug)]
pub(super) struct Expression {
    /// As the query `expressions` names them.
    pub kind: char,
    pub column: i16,
    /// A SELECT of it.
    pub text: Arc<str>,
}

#[derive(Debug)]
pub(super) struct Trigger {
    pub name: Arc<str>,
    /** `tgtype`: 4 insert, 8 delete, 16 update, 32 truncate, 64 instead */
    pub events: u16,
    /// UPDATE OF these; empty: any.
    pub columns: Vec<i16>,
    /// One of PostgreSQL's own functions, which only change the row.
    pub built_in: bool,
}

#[derive(Debug)]
pub(super) struct ForeignKey {
    pub from: u32,
    pub on_delete: char,
    pub on_update: char,
    pub from_columns: Vec<i16>,
    pub to_columns: Vec<i16>,
}

#[derive(Debug)]
pub(super) struct Function {
    pub schema: Arc<str>,
    pub name: Arc<str>,
    pub volatility: char,
    /** `prokind`: f, p, a, w */
    pub kind: char,
    pub arguments: u16,
    pub defaults: u16,
    pub variadic: bool,
    /// Types of the input arguments.
    pub types: Box<[u32]>,
    pub result: u32,
    /// PostgreSQL's own: in pg_catalog, with an OID that initdb gave.
    pub built_in: bool,
    /// What one of PostgreSQL's own does; `None`: nobody has looked.
    pub does: Option<Builtin>,
}

/// What is spelled alike. There are dozens of `=`, nearly all of which are PostgreSQL's own and call nothing that counts.
#[derive(Debug, Default)]
pub(super) struct Operators {
    /// Left and right types of PostgreSQL's own: in pg_catalog, by functions that are its own as well.
    pub own: HashSet<(u32, u32), FixedState>,
    pub others: Vec<Operator>,
}

#[derive(Debug)]
pub(super) struct Operator {
    pub schema: Arc<str>,
    pub function: u32,
    /// 0 for none.
    pub left: u32,
    pub right: u32,
}

/// A cast whose function is not PostgreSQL's own.
#[derive(Debug)]
pub(super) struct Cast {
    pub source: u32,
    pub target: u32,
    /** `castcontext`: e explicit, a assignment, i implicit */
    pub context: char,
    pub function: u32,
}

#[derive(Debug)]
pub(super) struct Type {
    pub schema: Arc<str>,
    /** `typtype`: b base, c composite, d domain, e enum, p pseudo, r range, m multirange */
    pub kind: char,
    pub base: u32,
    pub element: u32,
    pub relation: u32,
    /// A domain's, each as a SELECT.
    pub checks: Vec<Arc<str>>,
}

/// One query that the catalog's connection runs, and the name by which its rows are handed back.
#[derive(Debug, Clone, Copy)]
pub struct CatalogQuery {
    /// For logs.
    pub name: &'static str,
    /// One SELECT; every column is text.
    pub sql: &'static str,
}

type Rows = Vec<Vec<Option<String>>>;

/// PostgreSQL gives OIDs from here on to what users make (`FirstNormalObjectId`).
const FIRST_NORMAL_OID: u32 = 16384;

impl Catalog {
    /// All that has to be asked of the target, in order, on one connection in one REPEATABLE READ, READ ONLY
    /// transaction. Every column is cast to text in the SQL.
    pub const QUERIES: &'static [CatalogQuery] = queries::QUERIES;
    /// One cheap query whose single text value changes whenever a catalog built from `QUERIES` would.
    pub const FINGERPRINT: &'static str = queries::FINGERPRINT;

    /// Builds it; `answers` stand in the order of `QUERIES`, each a list of rows of text or NULL.
    pub fn build(version: u64, answers: &[Vec<Vec<Option<String>>>]) -> Result<Catalog, String> {
        if answers.len() != queries::QUERIES.len() {
            let (got, wanted) = (answers.len(), queries::QUERIES.len());
            return Err(format!("the catalog needs {wanted} answers and got {got}"));
        }
        let mut catalog = Catalog { version, ..Catalog::default() };
        let source = Source { answers };
        catalog.load_session(&source)?;
        let schemas = catalog.load_schemas(&source)?;
        catalog.load_relations(&source, &schemas)?;
        catalog.load_types(&source, &schemas)?;
        catalog.load_functions(&source, &schemas)?;
        catalog.load_parts(&source)?;
        catalog.load_links(&source)?;
        Ok(catalog)
    }

    /// A catalog that knows nothing: every name is unresolved.
    pub fn empty() -> Catalog {
        Catalog::default()
    }

    /// Counts up with every rebuild; part of the cache's key.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// (table OID, attribute number) of a column, and those of the same column in every partition and
    /// inheritance child.
    pub fn column(&self, schema: &str, table: &str, column: &str) -> Vec<(u32, i16)> {
        let Some(relation) = self.relation(schema, table) else { return Vec::new() };
        let family = std::iter::once(relation.oid).chain(self.descendants(relation.oid));
        family.filter_map(|oid| Some((oid, self.relations.get(&oid)?.column(column)?.number))).collect()
    }

    pub(super) fn relation(&self, schema: &str, name: &str) -> Option<&Relation> {
        self.relations.get(self.relations_by_name.get(schema)?.get(name)?)
    }

    /// Partitions and inheritance children at any depth, each once.
    pub(super) fn descendants(&self, oid: u32) -> Vec<u32> {
        self.closure(oid, |relation| &relation.children)
    }

    /// Parents at any height, each once.
    pub(super) fn ancestors(&self, oid: u32) -> Vec<u32> {
        self.closure(oid, |relation| &relation.parents)
    }

    fn closure(&self, oid: u32, next: impl Fn(&Relation) -> &Vec<u32>) -> Vec<u32> {
        let mut found: Vec<u32> = Vec::new();
        let mut todo = vec![oid];
        while let Some(relation) = todo.pop().and_then(|oid| self.relations.get(&oid)) {
            for other in next(relation) {
                if *other != oid && !found.contains(other) {
                    found.push(*other);
                    todo.push(*other);
                }
            }
        }
        found
    }

    /// Every function of this name, in any schema.
    pub(super) fn functions_named(&self, name: &str) -> impl Iterator<Item = &Function> {
        let oids = self.functions_by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        oids.iter().filter_map(|oid| self.functions.get(oid))
    }

    /// Every type of this name, in any schema.
    pub(super) fn types_named(&self, name: &str) -> impl Iterator<Item = (u32, &Type)> {
        let oids = self.types_by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        oids.iter().filter_map(|oid| Some((*oid, self.types.get(oid)?)))
    }

    fn load_session(&mut self, source: &Source<'_>) -> Result<(), String> {
        let row = source.rows(Answer::Session).first().ok_or("the catalog's session answered nothing")?;
        self.server_version = text(row, 0)?.parse::<u32>().map_err(|_| "an odd server_version_num")? / 10_000;
        self.database = text(row, 1)?.into();
        self.user = text(row, 2)?.into();
        self.bypasses_row_security = text(row, 3)? == "true";
        let setting = source.rows(Answer::Path).first().map(|row| text(row, 0)).transpose()?;
        self.path = super::names::split_path(setting.unwrap_or_default());
        Ok(())
    }

    fn load_schemas(&mut self, source: &Source<'_>) -> Result<Map<u32, Arc<str>>, String> {
        let mut names = Map::default();
        for row in source.rows(Answer::Schemas) {
            let name: Arc<str> = text(row, 1)?.into();
            names.insert(number(row, 0)?, name.clone());
            self.schemas.insert(name, text(row, 2)? == "true");
        }
        Ok(names)
    }

    fn load_relations(&mut self, source: &Source<'_>, schemas: &Map<u32, Arc<str>>) -> Result<(), String> {
        for row in source.rows(Answer::Relations) {
            let Some(schema) = schemas.get(&number(row, 1)?) else { continue };
            let (oid, name): (u32, Arc<str>) = (number(row, 0)?, text(row, 2)?.into());
            let relation = Relation {
                oid,
                schema: schema.clone(),
                name: name.clone(),
                kind: letter(row, 3)?,
                rowtype: number(row, 4)?,
                row_security: text(row, 5)? == "true",
                table: number(row, 6)?,
                columns: Vec::new(),
                parents: Vec::new(),
                children: Vec::new(),
                expressions: Vec::new(),
                triggers: Vec::new(),
                rules: Vec::new(),
                query: None,
                referenced_by: Vec::new(),
            };
            self.relations_by_name.entry(schema.clone()).or_default().insert(name, oid);
            self.relations.insert(oid, relation);
        }
        for row in source.rows(Answer::Columns) {
            if let Some(relation) = self.relations.get_mut(&number(row, 0)?) {
                let (number, type_oid) = (self::number(row, 1)?, self::number(row, 3)?);
                relation.columns.push(Column { number, name: text(row, 2)?.into(), type_oid });
            }
        }
        Ok(())
    }

    fn load_types(&mut self, source: &Source<'_>, schemas: &Map<u32, Arc<str>>) -> Result<(), String> {
        for row in source.rows(Answer::Types) {
            let Some(schema) = schemas.get(&number(row, 1)?) else { continue };
            let oid = number(row, 0)?;
            let (kind, base, element, relation) =
                (letter(row, 3)?, number(row, 4)?, number(row, 5)?, number(row, 6)?);
            let kept = Type { schema: schema.clone(), kind, base, element, relation, checks: Vec::new() };
            self.types.insert(oid, kept);
            self.types_by_name.entry(text(row, 2)?.into()).or_default().push(oid);
        }
        for row in source.rows(Answer::DomainChecks) {
            if let Some(domain) = self.types.get_mut(&number(row, 0)?) {
                domain.checks.push(select_of('c', text(row, 1)?).into());
            }
        }
        Ok(())
    }

    fn load_functions(&mut self, source: &Source<'_>, schemas: &Map<u32, Arc<str>>) -> Result<(), String> {
        for row in source.rows(Answer::Functions) {
            let Some(schema) = schemas.get(&number(row, 1)?) else { continue };
            let (oid, name): (u32, Arc<str>) = (number(row, 0)?, text(row, 2)?.into());
            let (volatility, built_in) =
                (letter(row, 3)?, oid < FIRST_NORMAL_OID && schema.as_ref() == "pg_catalog");
            let types = text(row, 8)?.split_ascii_whitespace().map(|oid| oid.parse().unwrap_or(0));
            let function = Function {
                schema: schema.clone(),
                name: name.clone(),
                volatility,
                kind: letter(row, 4)?,
                arguments: number(row, 5)?,
                defaults: number(row, 6)?,
                variadic: text(row, 7)? == "true",
                types: types.collect(),
                result: number(row, 9)?,
                built_in,
                does: built_in.then(|| classify(&name, volatility)).flatten(),
            };
            self.functions.insert(oid, function);
            self.functions_by_name.entry(name).or_default().push(oid);
        }
        for row in source.rows(Answer::Operators) {
            let function =
                row.get(2).and_then(Option::as_deref).and_then(|oid| oid.parse().ok()).unwrap_or(0);
            let (schema, left, right) = (text(row, 0)?, number(row, 3)?, number(row, 4)?);
            let alike = self.operators.entry(text(row, 1)?.into()).or_default();
            if schema == "pg_catalog" && self.functions.get(&function).is_some_and(|one| one.built_in) {
                alike.own.insert((left, right));
            } else {
                alike.others.push(Operator { schema: schema.into(), function, left, right });
            }
        }
        for row in source.rows(Answer::Casts) {
            let (source, target, function) = (number(row, 0)?, number(row, 1)?, number(row, 3)?);
            self.casts.push(Cast { source, target, context: letter(row, 2)?, function });
        }
        self.event_triggers = source.rows(Answer::EventTriggers).len();
        Ok(())
    }

    fn load_parts(&mut self, source: &Source<'_>) -> Result<(), String> {
        for row in source.rows(Answer::Expressions) {
            let Some(relation) = self.relations.get_mut(&number(row, 0)?) else { continue };
            // An expression that the server does not show is one that nobody can read.
            let text = row.get(3).and_then(Option::as_deref).unwrap_or("?");
            let (kind, column) = (letter(row, 1)?, number(row, 2)?);
            relation.expressions.push(Expression { kind, column, text: select_of(kind, text).into() });
        }
        for row in source.rows(Answer::Triggers) {
            let Some(relation) = self.relations.get_mut(&number(row, 0)?) else { continue };
            let (name, built_in) = (text(row, 1)?.into(), text(row, 4)? == "true");
            let (events, columns) = (number(row, 2)?, numbers(text(row, 3)?));
            relation.triggers.push(Trigger { name, events, columns, built_in });
        }
        for row in source.rows(Answer::Rules) {
            if let Some(relation) = self.relations.get_mut(&number(row, 0)?) {
                relation.rules.push((letter(row, 1)?, text(row, 2)?.into()));
            }
        }
        for row in source.rows(Answer::Views) {
            if let Some(relation) = self.relations.get_mut(&number(row, 0)?) {
                relation.query = row.get(1).and_then(Option::as_deref).map(Arc::from);
            }
        }
        Ok(())
    }

    fn load_links(&mut self, source: &Source<'_>) -> Result<(), String> {
        for row in source.rows(Answer::Inherits) {
            let (child, parent) = (number(row, 0)?, number(row, 1)?);
            if let Some(relation) = self.relations.get_mut(&child) {
                relation.parents.push(parent);
            }
            if let Some(relation) = self.relations.get_mut(&parent) {
                relation.children.push(child);
            }
        }
        for row in source.rows(Answer::ForeignKeys) {
            let Some(relation) = self.relations.get_mut(&number(row, 1)?) else { continue };
            let (from, on_delete, on_update) = (number(row, 0)?, letter(row, 2)?, letter(row, 3)?);
            let (from_columns, to_columns) = (numbers(text(row, 4)?), numbers(text(row, 5)?));
            relation.referenced_by.push(ForeignKey { from, on_delete, on_update, from_columns, to_columns });
        }
        Ok(())
    }
}

impl Operators {
    /// Where they are.
    pub(super) fn schemas(&self) -> impl Iterator<Item = &str> {
        let own = (!self.own.is_empty()).then_some("pg_catalog");
        own.into_iter().chain(self.others.iter().map(|one| &*one.schema))
    }
}

impl Relation {
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| &*column.name == name)
    }

    /// A view of PostgreSQL's own: listed by name and not taken apart.
    pub(super) fn is_system(&self) -> bool {
        matches!(&*self.schema, "pg_catalog" | "information_schema")
    }
}

/// An expression as a statement of its own: `CHECK ((a > 0)) NOT VALID` stands between its outer parentheses.
fn select_of(kind: char, text: &str) -> String {
    let inner = match (kind, text.find('('), text.rfind(')')) {
        ('c', Some(from), Some(to)) => text.get(from..=to).unwrap_or("?"),
        _ => text,
    };
    format!("SELECT {inner}")
}

struct Source<'a> {
    answers: &'a [Rows],
}

impl<'a> Source<'a> {
    fn rows(&self, answer: Answer) -> &'a [Vec<Option<String>>] {
        self.answers.get(answer as usize).map(Vec::as_slice).unwrap_or_default()
    }
}

fn text(row: &[Option<String>], column: usize) -> Result<&str, String> {
    row.get(column).and_then(Option::as_deref).ok_or_else(|| {
        format!("the catalog answered NULL or too few columns: column {column} of {row:?} is missing")
    })
}

fn number<N: std::str::FromStr>(row: &[Option<String>], column: usize) -> Result<N, String> {
    let text = text(row, column)?;
    text.parse().map_err(|_| format!("the catalog answered {text:?} where a number belongs"))
}

fn letter(row: &[Option<String>], column: usize) -> Result<char, String> {
    text(row, column)?.chars().next().ok_or_else(|| "the catalog answered an empty letter".into())
}

/// `1 2 3` of an int2vector, or `{1,2,3}` of an array.
fn numbers(text: &str) -> Vec<i16> {
    text.split(|c: char| !c.is_ascii_digit() && c != '-').filter_map(|part| part.parse().ok()).collect()
}

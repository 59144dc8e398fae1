//! What a name means: search paths, temporary objects, and the catalog they lead to.

use super::catalog::{Catalog, Function, Operator, Relation};
use super::{Overlay, Reading, SearchPath};
use std::sync::Arc;

/// Splits a list of names as `search_path` is written: comma-separated, quoted or folded to lower case.
pub(super) fn split_path(setting: &str) -> Vec<Arc<str>> {
    let mut names = Vec::new();
    let mut rest = setting.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_ascii_whitespace() || *c == ',').is_some() {}
        let Some(first) = rest.peek() else { return names };
        let mut name = String::new();
        if *first == '"' {
            rest.next();
            while let Some(c) = rest.next() {
                if c != '"' {
                    name.push(c);
                } else if rest.next_if_eq(&'"').is_some() {
                    name.push('"');
                } else {
                    break;
                }
            }
        } else {
            while let Some(c) = rest.next_if(|c| *c != ',' && !c.is_ascii_whitespace()) {
                name.push(c.to_ascii_lowercase());
            }
        }
        names.push(name.into());
    }
}

/// Where names are looked up while one text is read.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// Schemas in order, pg_catalog among them; `None`: the path is not known.
    path: Option<Vec<Arc<str>>>,
    /// Where an unqualified new object goes.
    creation: Option<Arc<str>>,
    overlay: Overlay,
}

/// What a relation's name means.
#[derive(Debug)]
pub(super) enum Named<'a> {
    Relation(&'a Relation),
    /// A plain temporary table of this session, and what else the name would mean without it.
    Temporary(Option<&'a Relation>),
    /// Changed by this session in a way that the catalog does not show.
    Touched,
    Missing,
}

impl Names {
    pub(super) fn of(reading: &Reading, catalog: &Catalog) -> Names {
        let listed = match &reading.search_path {
            SearchPath::Default => &catalog.path,
            SearchPath::Known(path) => path,
            SearchPath::Unknown => {
                return Names { path: None, creation: None, overlay: reading.overlay.clone() };
            }
        };
        let mut path: Vec<Arc<str>> = Vec::new();
        for name in listed {
            let name = if &**name == "$user" { &catalog.user } else { name };
            let usable = catalog.schemas.get(name) == Some(&true) || is_temporary(name);
            if usable && !path.contains(name) {
                path.push(name.clone());
            }
        }
        let creation = path.first().cloned();
        if !path.iter().any(|name| &**name == "pg_catalog") {
            path.insert(0, "pg_catalog".into());
        }
        Names { path: Some(path), creation, overlay: reading.overlay.clone() }
    }

    /// As stored expressions, views and bodies are printed with: only pg_catalog goes without saying.
    pub(super) fn pinned() -> Names {
        Names { path: Some(vec!["pg_catalog".into()]), creation: None, overlay: Overlay::default() }
    }

    pub(super) fn relation<'a>(&self, catalog: &'a Catalog, schema: Option<&str>, name: &str) -> Named<'a> {
        if let Some(schema) = schema {
            return match () {
                () if is_temporary(schema) && self.overlay.is_temporary_table(name) => Named::Temporary(None),
                () if self.overlay.is_touched(name) => Named::Touched,
                () => catalog.relation(schema, name).map_or(Named::Missing, Named::Relation),
            };
        }
        if self.overlay.is_touched(name) {
            return Named::Touched;
        }
        let found = self.path.iter().flatten().find_map(|schema| catalog.relation(schema, name));
        match found {
            other if self.overlay.is_temporary_table(name) => Named::Temporary(other),
            Some(relation) => Named::Relation(relation),
            None => Named::Missing,
        }
    }

    /// Where an object without a schema is made.
    pub(super) fn creation_schema(&self) -> Option<&Arc<str>> {
        self.creation.as_ref()
    }

    /// A schema that is just being made comes first, for looking up and for making.
    pub(super) fn make_in(&mut self, schema: &str) {
        let schema: Arc<str> = schema.into();
        if let Some(path) = &mut self.path {
            path.insert(0, schema.clone());
        }
        self.creation = Some(schema);
    }

    pub(super) fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// Whether unqualified names are looked up in this schema; `None`: not known.
    pub(super) fn sees(&self, schema: &str) -> Option<bool> {
        self.path.as_ref().map(|path| path.iter().any(|name| &**name == schema))
    }

    /// The functions that a call of this name with so many arguments may mean. An unknown path sees everything.
    pub(super) fn functions<'a>(
        &self,
        catalog: &'a Catalog,
        schema: Option<&str>,
        name: &str,
        arguments: Option<usize>,
    ) -> Vec<&'a Function> {
        let seen = |function: &&Function| match schema {
            Some(schema) => &*function.schema == schema,
            None => self.sees(&function.schema).unwrap_or(true),
        };
        let fits = |function: &&Function| arguments.is_none_or(|given| function.takes(given));
        let mut found: Vec<&Function> = catalog.functions_named(name).filter(seen).filter(fits).collect();
        self.hide(&mut found, schema, |one| &one.schema, |one, other| one.types == other.types);
        found
    }

    /// The operators that this spelling may mean: whether PostgreSQL's own are among them, and all others.
    pub(super) fn operators<'a>(
        &self,
        catalog: &'a Catalog,
        schema: Option<&str>,
        name: &str,
    ) -> (bool, Vec<&'a Operator>) {
        let Some(alike) = catalog.operators.get(name) else { return (false, Vec::new()) };
        let seen = |other: &str| match schema {
            Some(schema) => other == schema,
            None => self.sees(other).unwrap_or(true),
        };
        let own = !alike.own.is_empty() && seen("pg_catalog");
        let mut found: Vec<&Operator> = alike.others.iter().filter(|one| seen(&one.schema)).collect();
        let same = |one: &Operator, other: &Operator| one.left == other.left && one.right == other.right;
        self.hide(&mut found, schema, |one| &one.schema, same);
        if let (true, Some(path), None) = (own, &self.path, schema) {
            let place = |schema: &str| path.iter().position(|name| **name == *schema);
            found.retain(|one| {
                !(alike.own.contains(&(one.left, one.right)) && place("pg_catalog") < place(&one.schema))
            });
        }
        (own, found)
    }

    /// Of several with the very same argument types only the first on the path is seen.
    fn hide<T>(
        &self,
        found: &mut Vec<&T>,
        schema: Option<&str>,
        schema_of: impl Fn(&T) -> &Arc<str>,
        same: impl Fn(&T, &T) -> bool,
    ) {
        let (Some(path), None) = (&self.path, schema) else { return };
        let Some(first) = found.first().map(|one| schema_of(one).clone()) else { return };
        if found.iter().all(|one| *schema_of(one) == first) {
            return;
        }
        let place = |one: &T| path.iter().position(|name| name == schema_of(one));
        found.sort_by_key(|one| place(one));
        let mut kept: Vec<&T> = Vec::with_capacity(found.len());
        for one in found.drain(..) {
            if !kept.iter().any(|other| same(one, other)) {
                kept.push(one);
            }
        }
        *found = kept;
    }
}

impl Function {
    /// Whether so many arguments can be given.
    pub(super) fn takes(&self, given: usize) -> bool {
        let (most, defaults) = (usize::from(self.arguments), usize::from(self.defaults));
        // CALL gives procedures their OUT arguments as well; ordered-set aggregates count both lists.
        matches!(self.kind, 'p' | 'a')
            || (given + defaults >= most && given <= most)
            || (self.variadic && given + 1 + defaults >= most)
    }
}

/// The temporary schema, by its alias.
pub(super) fn is_temporary(schema: &str) -> bool {
    schema == "pg_temp" || schema.starts_with("pg_temp_")
}

/// Splits a dotted name as `regclass` reads it: quoted parts as they stand, others folded to lower case.
pub(super) fn split_name(name: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = name.trim().chars().peekable();
    loop {
        let mut part = String::new();
        if rest.next_if_eq(&'"').is_some() {
            while let Some(c) = rest.next() {
                match c {
                    '"' if rest.next_if_eq(&'"').is_none() => break,
                    c => part.push(c),
                }
            }
        } else {
            while let Some(c) = rest.next_if(|c| *c != '.') {
                part.push(c.to_ascii_lowercase());
            }
        }
        parts.push(part.trim().to_owned());
        if rest.next().is_none() {
            return parts;
        }
    }
}

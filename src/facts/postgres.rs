//! PostgreSQL: SQL text and a catalog in, effects and session changes out.
//!
//! A text is parsed by PostgreSQL's own grammar ([`tree`]), each statement walked with an explicit stack, never by
//! recursion over what a peer nested ([`walk`]), names are looked up as the target would ([`names`], [`catalog`]), and
//! what the statement sets in motion (views, defaults, checks, foreign keys) is read as further texts of the same
//! kind. What is not understood adds `unknown` and a sentence; nothing is skipped in silence.

mod builtins;
mod cache;
mod catalog;
mod children;
mod dml;
mod effects;
mod expressions;
mod names;
mod objects;
mod queries;
mod query;
mod replication;
mod settings;
mod shape;
mod structure;
mod targets;
mod tree;
mod utility;
mod walk;

pub use cache::Cache;
pub use catalog::{Catalog, CatalogQuery};

use lockgate_policy_dsl::Facts;
use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

/// Longest text that is parsed, in bytes; a longer one is `unknown`. As long as the longest message a lane takes.
pub const STATEMENT_BYTES_MAX: usize = 16 << 20;

/// How the session reads SQL: part of the cache's key, tracked by the lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reading {
    /// Where unqualified names are looked up.
    pub search_path: SearchPath,
    /// The setting of this name, as the server last reported it.
    pub standard_conforming_strings: bool,
    /// What this session made or changed and the catalog does not show.
    pub overlay: Overlay,
}

/// Where unqualified names are looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SearchPath {
    /// As the catalog found it for the target's role and database.
    Default,
    /// As a SET of constants made it.
    Known(Vec<Arc<str>>),
    /// It was changed in a way that was not understood: no unqualified name resolves (but those of pg_catalog,
    /// as functions and operators).
    Unknown,
}

/// Names that this session's own DDL made or changed: the catalog does not show them (temporary, uncommitted, or not
/// yet polled). A lane begins with the empty one, adds each [`Change::Touched`] when the statement passes, and may go
/// back to the empty one when nothing of it can be left: after DISCARD ALL outside a transaction, once the catalog
/// was built anew.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Overlay(Option<Arc<Touched>>);

/// What one string of statements made or changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Touched {
    /// Last parts of names; whatever bears one is not understood.
    names: Vec<Arc<str>>,
    /// Plain temporary tables: writing one writes nothing else.
    temporary_tables: Vec<Arc<str>>,
    /// An operator, a cast, a schema… : what any later name means is open.
    everything: bool,
}

/// What one string of statements does, and what a lane must know to follow the session through it.
#[derive(Debug, Default)]
pub struct Understood {
    /// Its own.
    pub serial: Serial,
    /// For policy.
    pub facts: Facts,
    /// Statements in the string (0 for an empty one).
    pub statements: usize,
    /// Some statement is COPY … FROM STDIN: the server will ask for data.
    pub copies_in: bool,
    /// Some statement is COPY … TO STDOUT: rows come as CopyData.
    pub copies_out: bool,
    /// All that the target holds leaves it, in a form in which nothing can be masked: a base backup, a replication stream
    /// (in which both sides send).
    pub replicates: bool,
    /// Changes of the session, in order.
    pub changes: Vec<Change>,
}

/// A number that nothing else on this thread has, had or will have: what follows from it can be known by that.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Serial(pub u64);

/// Without the number: what differs by it alone is shown alike.
impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Serial")
    }
}

impl Default for Serial {
    fn default() -> Serial {
        thread_local! {
            static LAST: Cell<u64> = const { Cell::new(0) };
        }
        LAST.with(|last| {
            // 584 years at a nanosecond each.
            last.set(last.get() + 1);
            Serial(last.get())
        })
    }
}

/// What a statement changes in how later ones are to be read.
#[derive(Debug, Clone)]
pub enum Change {
    /// PREPARE name AS …, with what the statement would do.
    Prepare {
        /// As the server stores it.
        name: Arc<str>,
        /// Its facts are among those of the string as well.
        statement: Rc<Understood>,
    },
    /// EXECUTE name: what was prepared under the name happens now. (An unknown name is `unknown`: lane's part.)
    Execute {
        /// As the server looks it up.
        name: Arc<str>,
    },
    /// DEALLOCATE name; `None`: ALL.
    Deallocate {
        /// As the server looks it up.
        name: Option<Arc<str>>,
    },
    /// DECLARE name: a portal of this name, doing what `statement` does.
    Declare {
        /// As the server stores it.
        name: Arc<str>,
        /// Its facts are among those of the string as well.
        statement: Rc<Understood>,
    },
    /// CLOSE name; `None`: ALL.
    ClosePortal {
        /// As the server looks it up.
        name: Option<Arc<str>>,
    },
    /// FETCH or MOVE from a portal.
    Fetch {
        /// As the server looks it up.
        name: Arc<str>,
    },
    /// SET search_path to constants; [`SearchPath::Unknown`] after SET LOCAL, a computed value, SET ROLE and the like.
    SearchPath(SearchPath),
    /// RESET search_path, RESET ALL, DISCARD ALL: back to the default.
    SearchPathReset,
    /// DISCARD ALL: prepared statements and portals are gone. (DISCARD PLANS and the like keep them.)
    DiscardAll,
    /// standard_conforming_strings, or another setting that changes reading, set in any way.
    ReadingUnknown,
    /// ROLLBACK, ROLLBACK TO, ROLLBACK PREPARED: settings and names may be what they were before.
    Rollback,
    /// DDL: to be added to the session's overlay.
    Touched(Arc<Touched>),
}

impl SearchPath {
    /// The path that a text of the form of the setting (`"$user", public`) names: a start-up parameter's, or one
    /// that the server reported.
    pub fn of_setting(text: &str) -> SearchPath {
        SearchPath::Known(names::split_path(text))
    }
}

impl Reading {
    /// As a session begins: the catalog's path, standard strings, nothing made.
    pub fn new() -> Reading {
        Reading {
            search_path: SearchPath::Default,
            standard_conforming_strings: true,
            overlay: Overlay::default(),
        }
    }
}

impl Default for Reading {
    fn default() -> Reading {
        Reading::new()
    }
}

impl Overlay {
    /// Most names of one session; with more, everything counts as touched.
    const NAMES_MAX: usize = 256;

    /// With what a statement made or changed.
    pub fn with(&self, touched: &Touched) -> Overlay {
        let mut all = self.0.as_deref().cloned().unwrap_or_default();
        all.add(touched);
        Overlay(Some(Arc::new(all)))
    }

    fn is_touched(&self, name: &str) -> bool {
        self.0.as_ref().is_some_and(|all| all.everything || all.names.iter().any(|other| &**other == name))
    }

    fn is_temporary_table(&self, name: &str) -> bool {
        self.0.as_ref().is_some_and(|all| all.temporary_tables.iter().any(|other| &**other == name))
    }
}

impl Touched {
    fn add(&mut self, other: &Touched) {
        self.everything |= other.everything;
        for (mine, theirs) in
            [(&mut self.names, &other.names), (&mut self.temporary_tables, &other.temporary_tables)]
        {
            for name in theirs {
                if !mine.contains(name) {
                    mine.push(name.clone());
                }
            }
        }
        // A name that is a temporary table and something else as well is not a plain table.
        self.temporary_tables.retain(|name| !self.names.contains(name));
        if self.names.len() + self.temporary_tables.len() > Overlay::NAMES_MAX {
            *self = Touched { everything: true, ..Touched::default() };
        }
    }

    fn is_empty(&self) -> bool {
        !self.everything && self.names.is_empty() && self.temporary_tables.is_empty()
    }
}

/// Bodies of fuzz targets.
#[doc(hidden)]
pub mod fuzzing {
    use super::{Cache, Catalog, Reading};
    use std::sync::Arc;

    /// Whatever the bytes, both readings of strings give an answer.
    pub fn understand(bytes: &[u8]) {
        let catalog = Arc::new(Catalog::empty());
        let mut cache = Cache::new(1 << 16);
        if let Some(understood) = cache.replication(bytes) {
            assert!(understood.facts.pairs.is_sorted(), "pairs are sorted");
        }
        for standard_conforming_strings in [true, false] {
            let reading = Reading { standard_conforming_strings, ..Reading::new() };
            let understood = cache.understand(bytes, &catalog, &reading);
            assert!(understood.facts.pairs.is_sorted(), "pairs are sorted");
        }
    }
}

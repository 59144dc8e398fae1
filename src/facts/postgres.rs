//! PostgreSQL: SQL text and a catalog in, effects and session changes out.

use lockgate_policy_dsl::Facts;
use std::rc::Rc;
use std::sync::Arc;

/// What a target's own catalog says, at one moment. Built from the rows of [`Catalog::QUERIES`]; immutable.
#[derive(Debug)]
pub struct Catalog {}

/// One query that the catalog's connection runs, and the name by which its rows are handed back.
#[derive(Debug, Clone, Copy)]
pub struct CatalogQuery {
    pub name: &'static str,
    pub sql: &'static str,
}

impl Catalog {
    /// All that has to be asked of the target, in order, on one connection in one REPEATABLE READ, READ ONLY
    /// transaction. Every column is cast to text in the SQL.
    pub const QUERIES: &'static [CatalogQuery] = &[];
    /// One cheap query whose single text value changes whenever a catalog built from `QUERIES` would.
    pub const FINGERPRINT: &'static str = "";
    /// Builds it; `answers` stand in the order of `QUERIES`, each a list of rows of text or NULL.
    pub fn build(version: u64, answers: &[Vec<Vec<Option<String>>>]) -> Result<Catalog, String> {
        let _ = (version, answers);
        Err(String::new())
    }
    /// A catalog that knows nothing: every name is unresolved.
    pub fn empty() -> Catalog {
        Catalog {}
    }
    /// Counts up with every rebuild; part of the cache's key.
    pub fn version(&self) -> u64 {
        0
    }
    /// (table OID, attribute number) of a column, and those of the same column in every partition and
    /// inheritance child.
    pub fn column(&self, schema: &str, table: &str, column: &str) -> Vec<(u32, i16)> {
        let _ = (schema, table, column);
        Vec::new()
    }
}

/// How the session reads SQL: part of the cache's key, tracked by the lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reading {
    pub search_path: SearchPath,
    pub standard_conforming_strings: bool,
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

/// What one string of statements does, and what a lane must know to follow the session through it.
#[derive(Debug)]
pub struct Understood {
    pub facts: Facts,
    /// Statements in the string (0 for an empty one).
    pub statements: usize,
    /// Some statement is COPY … FROM STDIN: the server will ask for data.
    pub copies_in: bool,
    /// Some statement is COPY … TO STDOUT, and these are the tables (schema, name) it reads.
    pub copies_out: bool,
    /// Changes of the session, in order.
    pub changes: Vec<Change>,
}

/// What a statement changes in how later ones are to be read.
#[derive(Debug, Clone)]
pub enum Change {
    /// PREPARE name AS …, with what the statement would do.
    Prepare { name: Arc<str>, statement: Rc<Understood> },
    /// EXECUTE name: what was prepared under the name happens now. (An unknown name is `unknown`: lane's part.)
    Execute { name: Arc<str> },
    /// DEALLOCATE name; `None`: ALL.
    Deallocate { name: Option<Arc<str>> },
    /// DECLARE name: a portal of this name, doing what `statement` does.
    Declare { name: Arc<str>, statement: Rc<Understood> },
    /// CLOSE name; `None`: ALL.
    ClosePortal { name: Option<Arc<str>> },
    /// FETCH or MOVE from a portal.
    Fetch { name: Arc<str> },
    /// SET search_path (not LOCAL) to constants.
    SearchPath(SearchPath),
    /// RESET search_path, RESET ALL, DISCARD ALL: back to the default.
    SearchPathReset,
    /// DISCARD ALL / PLANS / …: prepared statements and portals are gone.
    DiscardAll,
    /// standard_conforming_strings, or another setting that changes reading, set in any way.
    ReadingUnknown,
}

/// Facts of statements seen before, one per worker. Bounded in entries and bytes.
#[derive(Debug)]
pub struct Cache {}

impl Cache {
    /// Holds at most `bytes_max` bytes of texts and facts.
    pub fn new(bytes_max: usize) -> Cache {
        let _ = bytes_max;
        Cache {}
    }
    /// What `sql` (no NUL inside) does when it is read so. Exact text decides; a miss costs one parse.
    pub fn understand(&mut self, sql: &[u8], catalog: &Arc<Catalog>, reading: &Reading) -> Rc<Understood> {
        let _ = (sql, catalog, reading);
        Rc::new(Understood {
            facts: Facts::default(),
            statements: 0,
            copies_in: false,
            copies_out: false,
            changes: Vec::new(),
        })
    }
    /// What a function called by OID (FunctionCall) does.
    pub fn function_call(&mut self, oid: u32, catalog: &Arc<Catalog>) -> Rc<Understood> {
        let _ = (oid, catalog);
        self.understand(
            b"",
            catalog,
            &Reading { search_path: SearchPath::Unknown, standard_conforming_strings: true },
        )
    }
}

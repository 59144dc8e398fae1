//! Facts of statements seen before: a hit costs one hash and one comparison, and allocates nothing.

use super::catalog::Catalog;
use super::{Reading, Understood};
use super::{replication, walk};
use hashbrown::{HashTable, hash_table};
use std::hash::{BuildHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

/// Facts of statements seen before, one per worker. Bounded in bytes: when the younger of two generations is full it
/// becomes the older, whose entries go unless they are asked for again. They go a few at a time: tens of thousands in one go
/// would keep every session of the worker waiting for milliseconds.
#[derive(Debug)]
pub struct Cache {
    young: Generation,
    old: Generation,
    leaving: Leaving,
    hasher: foldhash::fast::RandomState,
    generation_bytes_max: usize,
    hits: u64,
    misses: u64,
}

#[derive(Debug, Default)]
struct Generation {
    entries: HashTable<Entry>,
    bytes: usize,
}

/// A generation on its way out.
#[derive(Debug, Default)]
struct Leaving {
    entries: hash_table::IntoIter<Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    text: Box<[u8]>,
    /// Kept alive, so that its address stays its own.
    catalog: Arc<Catalog>,
    reading: Reading,
    understood: Rc<Understood>,
}

/// What an entry costs besides its text, its reading and its pairs.
const ENTRY_BYTES: usize = 384;
/// What a pair with its names costs.
const PAIR_BYTES: usize = 96;
/// Entries that go for one that comes.
const LEAVING_AT_ONCE: usize = 4;
/// Two that are asked, and one on its way out.
const GENERATIONS: usize = 3;

impl Cache {
    /// Holds at most `bytes_max` bytes of texts and facts.
    pub fn new(bytes_max: usize) -> Cache {
        Cache {
            young: Generation::default(),
            old: Generation::default(),
            leaving: Leaving::default(),
            hasher: foldhash::fast::RandomState::default(),
            generation_bytes_max: bytes_max / GENERATIONS,
            hits: 0,
            misses: 0,
        }
    }

    /// What `sql` (no NUL inside) does when it is read so. Exact text decides; a miss costs one parse.
    pub fn understand(&mut self, sql: &[u8], catalog: &Arc<Catalog>, reading: &Reading) -> Rc<Understood> {
        let hash = self.hash(sql, catalog, reading);
        let same = |entry: &Entry| {
            *entry.text == *sql && Arc::ptr_eq(&entry.catalog, catalog) && entry.reading == *reading
        };
        if let Some(entry) = self.young.entries.find(hash, same) {
            self.hits += 1;
            return entry.understood.clone();
        }
        if let Ok(found) = self.old.entries.find_entry(hash, same) {
            self.hits += 1;
            let (entry, _) = found.remove();
            self.old.bytes = self.old.bytes.saturating_sub(entry.bytes());
            let understood = entry.understood.clone();
            self.keep(entry);
            return understood;
        }
        self.misses += 1;
        let understood = Rc::new(walk::understand(sql, catalog, reading));
        self.keep(Entry {
            hash,
            text: sql.into(),
            catalog: catalog.clone(),
            reading: reading.clone(),
            understood: understood.clone(),
        });
        understood
    }

    /// What a function called by OID (FunctionCall) does.
    pub fn function_call(&mut self, oid: u32, catalog: &Arc<Catalog>) -> Rc<Understood> {
        Rc::new(walk::function_call(oid, catalog))
    }

    /// What a text does on a replication connection; `None`: it is no command of replication's, but SQL.
    pub fn replication(&mut self, text: &[u8]) -> Option<Rc<Understood>> {
        replication::understand(text).map(Rc::new)
    }

    /// Statements that were found.
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// Statements that had to be parsed.
    pub fn misses(&self) -> u64 {
        self.misses
    }

    /// Bytes of texts and facts held, by this type's own estimate.
    pub fn bytes(&self) -> usize {
        self.young.bytes + self.old.bytes + self.leaving.bytes
    }

    fn hash(&self, sql: &[u8], catalog: &Arc<Catalog>, reading: &Reading) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(sql);
        hasher.write_usize(Arc::as_ptr(catalog).addr());
        reading.hash(&mut hasher);
        hasher.finish()
    }

    fn keep(&mut self, entry: Entry) {
        let bytes = entry.bytes();
        if bytes > self.generation_bytes_max {
            return;
        }
        self.leaving.go_on();
        if self.young.bytes + bytes > self.generation_bytes_max {
            let old = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            // What is left of the one before, if entries were much smaller then, goes now.
            self.leaving = Leaving { entries: old.entries.into_iter(), bytes: old.bytes };
        }
        self.young.bytes += bytes;
        self.young.entries.insert_unique(entry.hash, entry, |entry| entry.hash);
    }
}

impl Leaving {
    fn go_on(&mut self) {
        for entry in self.entries.by_ref().take(LEAVING_AT_ONCE) {
            self.bytes = self.bytes.saturating_sub(entry.bytes());
        }
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        let reasons: usize = self.understood.facts.unknown.iter().map(String::len).sum();
        let pairs = self.understood.facts.pairs.len() + self.understood.changes.len();
        ENTRY_BYTES + self.text.len() + reasons + pairs * PAIR_BYTES
    }
}

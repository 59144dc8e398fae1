//! Facts of statements seen before: a hit costs one hash and one comparison, and allocates nothing.

use super::catalog::Catalog;
use super::{Reading, Understood};
use super::{replication, walk};
use hashbrown::HashTable;
use std::hash::{BuildHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

/// Facts of statements seen before, one per worker. Bounded in bytes: when the younger of two generations is full it
/// becomes the older, whose entries go unless they are asked for again.
#[derive(Debug)]
pub struct Cache {
    young: Generation,
    old: Generation,
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

impl Cache {
    /// Holds at most `bytes_max` bytes of texts and facts.
    pub fn new(bytes_max: usize) -> Cache {
        Cache {
            young: Generation::default(),
            old: Generation::default(),
            hasher: foldhash::fast::RandomState::default(),
            generation_bytes_max: bytes_max / 2,
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
        self.young.bytes + self.old.bytes
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
        if self.young.bytes + bytes > self.generation_bytes_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.bytes += bytes;
        self.young.entries.insert_unique(entry.hash, entry, |entry| entry.hash);
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        let reasons: usize = self.understood.facts.unknown.iter().map(String::len).sum();
        let pairs = self.understood.facts.pairs.len() + self.understood.changes.len();
        ENTRY_BYTES + self.text.len() + reasons + pairs * PAIR_BYTES
    }
}

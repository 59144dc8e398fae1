//! Facts of statements seen before: a hit costs a hash and a comparison, or two, and allocates nothing.

use super::catalog::Catalog;
use super::shape::shape;
use super::{Reading, Understood};
use super::{replication, walk};
use hashbrown::{HashTable, hash_table};
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

/// Facts of statements seen before, one per worker. Bounded in bytes.
///
/// What comes for the first time is a newcomer, one of few. Most that never come again go from there, while their memory
/// is still at hand; one that comes again, or comes again a little after it went, belongs to a generation. When the younger
/// of two generations is full it becomes the older, whose entries go unless they are asked for again. They go a few at a
/// time: tens of thousands in one go would keep every session of the worker waiting for milliseconds.
#[derive(Debug)]
pub struct Cache {
    newcomers: Newcomers,
    young: Generation,
    old: Generation,
    leaving: Leaving,
    /// The shape of the text that is asked for.
    shape: Vec<u8>,
    hasher: foldhash::fast::RandomState,
    newcomers_bytes_max: usize,
    generation_bytes_max: usize,
    hits: u64,
    misses: u64,
}

#[derive(Debug, Default)]
struct Generation {
    entries: HashTable<Entry>,
    bytes: usize,
}

/// Those that were asked for once.
#[derive(Debug, Default)]
struct Newcomers {
    entries: HashTable<Entry>,
    /// Hashes in the order in which they came; some have become members of a generation.
    order: VecDeque<u64>,
    bytes: usize,
    /// Hashes of those that went, each in its place until another one needs that.
    gone: Box<[u64]>,
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
    /// `text` is a shape, and this is known of all its texts.
    is_shape: bool,
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
/// Newcomers at a time.
const NEWCOMERS_MAX: usize = 256;
/// The part of all bytes that newcomers may have; what alone needs more belongs to a generation at once.
const NEWCOMERS_PART: usize = 32;
/// Newcomers that went and are remembered.
const GONE: usize = 1 << 14;

impl Cache {
    /// Holds at most `bytes_max` bytes of texts and facts.
    pub fn new(bytes_max: usize) -> Cache {
        Cache {
            newcomers: Newcomers::default(),
            young: Generation::default(),
            old: Generation::default(),
            leaving: Leaving::default(),
            shape: Vec::new(),
            hasher: foldhash::fast::RandomState::default(),
            newcomers_bytes_max: bytes_max / NEWCOMERS_PART,
            generation_bytes_max: (bytes_max - bytes_max / NEWCOMERS_PART) / GENERATIONS,
            hits: 0,
            misses: 0,
        }
    }

    /// What `sql` (no NUL inside) does when it is read so. The exact text decides, or its [`shape`](super::shape) where
    /// that is all there is to know; a miss costs one parse.
    pub fn understand(&mut self, sql: &[u8], catalog: &Arc<Catalog>, reading: &Reading) -> Rc<Understood> {
        let mut shaped = std::mem::take(&mut self.shape);
        shaped.clear();
        let has_shape = shape(sql, &mut shaped);
        let understood = self.find_or_read(sql, has_shape.then_some(&*shaped), catalog, reading);
        self.shape = shaped;
        understood
    }

    fn find_or_read(
        &mut self,
        sql: &[u8],
        shaped: Option<&[u8]>,
        catalog: &Arc<Catalog>,
        reading: &Reading,
    ) -> Rc<Understood> {
        for (text, is_shape) in [(shaped, true), (Some(sql), false)] {
            let Some(text) = text else { continue };
            if let Some(understood) = self.find(text, is_shape, catalog, reading) {
                self.hits += 1;
                return understood;
            }
        }
        self.misses += 1;
        let (understood, by_shape) = walk::understand(sql, catalog, reading);
        let understood = Rc::new(understood);
        let (text, is_shape) = match shaped {
            Some(shape) if by_shape => (shape, true),
            _ => (sql, false),
        };
        self.welcome(Entry {
            hash: self.hash(text, is_shape, catalog, reading),
            text: text.into(),
            is_shape,
            catalog: catalog.clone(),
            reading: reading.clone(),
            understood: understood.clone(),
        });
        understood
    }

    fn find(
        &mut self,
        text: &[u8],
        is_shape: bool,
        catalog: &Arc<Catalog>,
        reading: &Reading,
    ) -> Option<Rc<Understood>> {
        let hash = self.hash(text, is_shape, catalog, reading);
        let same = |entry: &Entry| {
            entry.is_shape == is_shape
                && *entry.text == *text
                && Arc::ptr_eq(&entry.catalog, catalog)
                && entry.reading == *reading
        };
        if let Some(entry) = self.young.entries.find(hash, same) {
            return Some(entry.understood.clone());
        }
        let entry = match self.old.entries.find_entry(hash, same) {
            Ok(found) => {
                let (entry, _) = found.remove();
                self.old.bytes = self.old.bytes.saturating_sub(entry.bytes());
                entry
            }
            Err(_) => self.newcomers.take(hash, same)?,
        };
        let understood = entry.understood.clone();
        self.keep(entry);
        Some(understood)
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
        self.newcomers.bytes + self.young.bytes + self.old.bytes + self.leaving.bytes
    }

    fn hash(&self, text: &[u8], is_shape: bool, catalog: &Arc<Catalog>, reading: &Reading) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(text);
        hasher.write_u8(u8::from(is_shape));
        hasher.write_usize(Arc::as_ptr(catalog).addr());
        reading.hash(&mut hasher);
        hasher.finish()
    }

    /// Takes in what was not here.
    fn welcome(&mut self, entry: Entry) {
        if entry.bytes() > self.newcomers_bytes_max || self.newcomers.has_gone(entry.hash) {
            self.keep(entry);
        } else {
            self.newcomers.push(entry, self.newcomers_bytes_max);
        }
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

impl Newcomers {
    fn take(&mut self, hash: u64, same: impl FnMut(&Entry) -> bool) -> Option<Entry> {
        let (entry, _) = self.entries.find_entry(hash, same).ok()?.remove();
        self.bytes = self.bytes.saturating_sub(entry.bytes());
        Some(entry)
    }

    /// The first of them make room.
    fn push(&mut self, entry: Entry, bytes_max: usize) {
        let bytes = entry.bytes();
        while self.order.len() >= NEWCOMERS_MAX || self.bytes + bytes > bytes_max {
            let Some(hash) = self.order.pop_front() else { break };
            if self.take(hash, |entry| entry.hash == hash).is_some() {
                if self.gone.is_empty() {
                    self.gone = vec![0; GONE].into();
                }
                if let Some(gone) = self.gone.get_mut(place(hash)) {
                    *gone = hash;
                }
            }
        }
        self.bytes += bytes;
        self.order.push_back(entry.hash);
        self.entries.insert_unique(entry.hash, entry, |entry| entry.hash);
    }

    /// It went not long ago.
    fn has_gone(&self, hash: u64) -> bool {
        self.gone.get(place(hash)) == Some(&hash)
    }
}

/// Where a hash is remembered.
fn place(hash: u64) -> usize {
    usize::try_from(hash % GONE as u64).unwrap_or(0)
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

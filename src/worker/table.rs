//! A slab whose keys go stale: what is gone is never mistaken for what took its place.

/// Names one entry of one [`Table`], for as long as the entry lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

#[derive(Debug)]
struct Row<T> {
    generation: u32,
    value: Option<T>,
}

/// Entries by key; a freed row is used again under the next generation.
#[derive(Debug)]
pub(crate) struct Table<T> {
    rows: Vec<Row<T>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Table<T> {
    pub(crate) fn new() -> Table<T> {
        Table { rows: Vec::new(), free: Vec::new(), len: 0 }
    }

    /// Puts an entry in. `None`: four billion entries stand already.
    pub(crate) fn insert(&mut self, value: T) -> Option<Key> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.rows.len()).ok()?;
                self.rows.push(Row { generation: 0, value: None });
                index
            }
        };
        let row = self.rows.get_mut(usize::try_from(index).ok()?)?;
        row.value = Some(value);
        self.len += 1;
        Some(Key { index, generation: row.generation })
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let row = self.rows.get(usize::try_from(key.index).ok()?)?;
        if row.generation == key.generation { row.value.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let row = self.rows.get_mut(usize::try_from(key.index).ok()?)?;
        if row.generation == key.generation { row.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let row = self.rows.get_mut(usize::try_from(key.index).ok()?)?;
        if row.generation != key.generation {
            return None;
        }
        let value = row.value.take()?;
        row.generation = row.generation.wrapping_add(1);
        self.free.push(key.index);
        self.len -= 1;
        Some(value)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The keys of all entries, appended to `keys`: for walks that change the table on their way.
    pub(crate) fn keys(&self, keys: &mut Vec<Key>) {
        for (index, row) in (0u32..).zip(&self.rows) {
            if row.value.is_some() {
                keys.push(Key { index, generation: row.generation });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut table = Table::new();
        let first = table.insert("first").unwrap();
        assert_eq!(table.remove(first), Some("first"));
        let second = table.insert("second").unwrap();
        assert_eq!(first.index, second.index, "the row is used again");
        assert_eq!(table.get(first), None);
        assert_eq!(table.get_mut(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&"second"));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn keys_name_exactly_what_stands() {
        let mut table = Table::new();
        let all: Vec<Key> = (0..5).map(|n| table.insert(n).unwrap()).collect();
        table.remove(all[1]);
        table.remove(all[4]);
        let mut keys = Vec::new();
        table.keys(&mut keys);
        assert_eq!(keys, vec![all[0], all[2], all[3]]);
        assert!(!table.is_empty());
    }
}

//! Which session a cancel key belongs to.

use std::collections::HashMap;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use lockgate_lane::{CancelRequest, Secret};

use crate::table::Key;

#[derive(Debug)]
struct Entry {
    secret: Secret,
    session: Key,
}

/// The keys of all sessions of one worker. Process ids are the servers' own, so several targets may share one.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    by_process: HashMap<u32, Vec<Entry>>,
}

impl Keys {
    pub(crate) fn register(&mut self, process_id: u32, secret: Secret, session: Key) {
        self.by_process.entry(process_id).or_default().push(Entry { secret, session });
    }

    /// Sessions with a key.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_process.values().map(Vec::len).sum()
    }

    /// The session that owns the key. Every candidate is compared, each in constant time, so that how long it takes
    /// says nothing about a secret.
    pub(crate) fn find(&self, request: &CancelRequest) -> Option<Key> {
        let entries = self.by_process.get(&request.process_id)?;
        let mut found = None;
        for entry in entries {
            if verify_slices_are_equal(entry.secret.expose(), &request.secret).is_ok() {
                found = Some(entry.session);
            }
        }
        found
    }

    /// Forgets what `session` registered under `process_id`.
    pub(crate) fn forget(&mut self, process_id: u32, session: Key) {
        let Some(entries) = self.by_process.get_mut(&process_id) else { return };
        entries.retain(|entry| entry.session != session);
        if entries.is_empty() {
            self.by_process.remove(&process_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Table;

    fn request(process_id: u32, secret: &[u8]) -> CancelRequest {
        CancelRequest { process_id, secret: secret.to_vec(), client: "127.0.0.1:1".parse().unwrap() }
    }

    #[test]
    fn only_the_whole_key_finds_its_session() {
        let mut table = Table::new();
        let (a, b) = (table.insert(()).unwrap(), table.insert(()).unwrap());
        let mut keys = Keys::default();
        keys.register(7, Secret::new(b"secret-a".to_vec()), a);
        keys.register(7, Secret::new(b"secret-b".to_vec()), b);
        let check = |process_id, secret: &[u8], expected| {
            assert_eq!(keys.find(&request(process_id, secret)), expected, "{process_id} {secret:?}");
        };
        check(7, b"secret-a", Some(a));
        check(7, b"secret-b", Some(b));
        check(8, b"secret-a", None);
        check(7, b"secret-", None);
        check(7, b"secret-a ", None);
        check(7, b"", None);
    }

    #[test]
    fn a_forgotten_session_is_not_found_and_its_namesake_stays() {
        let mut table = Table::new();
        let (a, b) = (table.insert(()).unwrap(), table.insert(()).unwrap());
        let mut keys = Keys::default();
        keys.register(7, Secret::new(b"secret-a".to_vec()), a);
        keys.register(7, Secret::new(b"secret-b".to_vec()), b);
        keys.forget(7, a);
        assert_eq!(keys.find(&request(7, b"secret-a")), None);
        assert_eq!(keys.find(&request(7, b"secret-b")), Some(b));
        keys.forget(7, b);
        assert!(keys.by_process.is_empty());
    }
}

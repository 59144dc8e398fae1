//! What a configuration says, by key, so that two can be compared: what a reload changes, and what it cannot.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::{BuildHasher as _, RandomState};

use lockgate_control::{Account, TargetSetup, UserSetup};

use crate::config::Config;

/// Values by key. They are hashes under a secret of this process: passwords are compared, never kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline(BTreeMap<String, u64>);

/// What is other in a newer outline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// What a running process takes on.
    pub changes: Vec<String>,
    /// What it cannot.
    pub fixed: Vec<String>,
}

/// Keys of what is made once, when a process starts.
const FIXED: [&str; 6] = ["data_dir", "workers.count", "workers.driver", "workers.spin", "admin.bind", "log"];

impl Outline {
    /// Of a configuration. Two can be compared when they were made with the same `state`.
    pub fn of(config: &Config, state: &RandomState) -> Outline {
        let mut values = BTreeMap::new();
        let mut put = |key: String, value: u64| {
            values.insert(key, value);
        };
        let plain = |value: &dyn Debug| state.hash_one(format!("{value:?}"));
        put(String::from("data_dir"), plain(&config.data_dir));
        put(String::from("workers.count"), plain(&config.workers));
        put(String::from("workers.driver"), plain(&config.driver));
        put(String::from("workers.spin"), plain(&config.spin));
        put(String::from("admin.bind"), plain(&config.admin));
        put(String::from("log"), plain(&config.log));
        put(String::from("recording"), plain(&(config.durability, config.segment_bytes)));
        put(String::from("limits"), plain(&config.limits));
        for listener in &config.listeners {
            // Certificates are read again each time; whether they are others cannot be told from outside.
            let name = listener.clients.as_ref().map(|clients| clients.name);
            let demands = (&listener.rules, listener.tls.is_some(), name);
            put(format!("listener {}", listener.bind), plain(&demands));
        }
        for target in &config.targets {
            put(format!("target \"{}\"", target.target.name), of_target(target, state));
        }
        for user in &config.users {
            put(format!("user \"{}\"", user.identity.name), of_user(user, state));
        }
        for source in config.policies.sources() {
            put(format!("policy {}", source.name), state.hash_one(&source.text));
        }
        Outline(values)
    }

    /// What is other in `now`.
    pub fn difference(&self, now: &Outline) -> Difference {
        let gone = self.0.keys().filter(|key| !now.0.contains_key(*key)).map(|key| ("removed", key));
        let there = now.0.iter().filter_map(|(key, value)| match self.0.get(key) {
            None => Some(("added", key)),
            Some(before) if before != value => Some(("changed", key)),
            Some(_) => None,
        });
        let mut difference = Difference::default();
        for (what, key) in there.chain(gone) {
            match FIXED.contains(&key.as_str()) {
                true => difference.fixed.push(key.clone()),
                false => difference.changes.push(format!("{what} {key}")),
            }
        }
        difference
    }

    /// What a running process could not take on stays as it was: it is told again at the next reload.
    pub fn keep_fixed(&mut self, before: &Outline) {
        for key in FIXED {
            if let Some(value) = before.0.get(key) {
                self.0.insert(key.to_owned(), *value);
            }
        }
    }
}

fn of_target(setup: &TargetSetup, state: &RandomState) -> u64 {
    let TargetSetup { target, hosts, catalog: Account { user, password }, catalog_poll, sessions_max, queue } =
        setup;
    let secret = |secret: &Option<lockgate_lane::Secret>| {
        secret.as_ref().map(|secret| state.hash_one(secret.expose()))
    };
    let secrets = (secret(&target.password), secret(password));
    let hosts: Vec<_> = hosts.iter().map(|host| (&host.name, host.port, host.tls.is_some())).collect();
    let names = (hosts, target.attrs, &target.database, &target.user, target.tls, user, catalog_poll);
    state.hash_one(format!("{names:?} {sessions_max:?} {queue:?} {secrets:?}"))
}

fn of_user(user: &UserSetup, state: &RandomState) -> u64 {
    let password = user.password.as_ref().map(|password| state.hash_one(password.expose()));
    state.hash_one(format!(
        "{:?} {} {:?} {password:?}",
        user.identity, user.certificate_name, user.sessions_max
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_by_key() {
        let outline = |pairs: &[(&str, u64)]| {
            Outline(pairs.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect())
        };
        let before = outline(&[("data_dir", 1), ("limits", 1), ("user \"a\"", 1), ("user \"b\"", 1)]);
        let mut now = outline(&[("data_dir", 2), ("limits", 2), ("user \"b\"", 1), ("user \"c\"", 1)]);
        let difference = before.difference(&now);
        assert_eq!(difference.fixed, ["data_dir"]);
        assert_eq!(difference.changes, ["changed limits", "added user \"c\"", "removed user \"a\""]);
        assert_eq!(before.difference(&before), Difference::default());
        now.keep_fixed(&before);
        assert_eq!(before.difference(&now).fixed, Vec::<String>::new());
    }
}

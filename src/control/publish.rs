//! What workers judge by, made of policies, catalogs, addresses and identities. No task, no clock: it is told what
//! changed and makes the next snapshot.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lockgate_bridge::{Admission, Destination, Place, Seats, Snapshot};
use lockgate_lane::Standing;
use lockgate_mask::{ColumnMasks, Mask, Rule};
use lockgate_policy_dsl::{MaskKind, MaskRule};

use crate::catalog::{ColumnName, Read};
use crate::identity::User;
use crate::{Policies, TargetHost, TargetSetup, resolve};

/// The state of which snapshots are made.
#[derive(Debug)]
pub(crate) struct Publisher {
    users: Vec<User>,
    policies: Policies,
    targets: Vec<TargetState>,
    book: Book,
    /// What a reload brings, while catalogs of its new targets are being read.
    staged: Option<Staged>,
    decoy_key: [u8; 32],
    epoch: u64,
    dirty: bool,
}

/// Everything that a reload may change at once.
#[derive(Debug)]
struct Staged {
    users: Vec<User>,
    policies: Policies,
    targets: Vec<TargetState>,
}

#[derive(Debug)]
struct TargetState {
    /// Control's own name for it, never used again.
    id: usize,
    setup: TargetSetup,
    /// `None` until it was read: nobody may connect before, as no mask would find its column.
    catalog: Option<Read>,
    /// By host.
    addresses: Vec<Vec<SocketAddr>>,
    /// By user; kept from one snapshot to the next while nothing that they depend on changes, so that what workers
    /// remember of them stays good.
    standings: Option<Vec<(String, Arc<Standing>)>>,
}

/// Everybody's seats, by name. They outlive every snapshot: whoever has one keeps it through all that is published.
#[derive(Debug)]
struct Book {
    workers: usize,
    targets: HashMap<String, Arc<Seats>>,
    identities: HashMap<String, Arc<Seats>>,
}

impl Book {
    /// Opens an account for whoever has none, and closes those of names that are no longer configured and that nobody
    /// sits on.
    fn enter(&mut self, users: &[User], targets: &[TargetState]) {
        for seats in [&mut self.identities, &mut self.targets] {
            seats.retain(|_, seats| Arc::strong_count(seats) > 1);
        }
        for user in users {
            let seats = || Arc::new(Seats::new(self.workers));
            self.identities.entry(user.identity.name.clone()).or_insert_with(seats);
        }
        for state in targets {
            let seats = || Arc::new(Seats::new(self.workers));
            self.targets.entry(state.setup.target.name.clone()).or_insert_with(seats);
        }
    }

    fn of(&self, seats: &HashMap<String, Arc<Seats>>, name: &str) -> Arc<Seats> {
        seats.get(name).map_or_else(|| Arc::new(Seats::new(self.workers)), Arc::clone)
    }
}

/// A new snapshot, and what is odd about it.
#[derive(Debug)]
pub(crate) struct Published {
    pub snapshot: Arc<Snapshot>,
    pub warnings: Vec<String>,
}

impl Publisher {
    pub(crate) fn new(
        users: Vec<User>,
        policies: Policies,
        targets: Vec<TargetSetup>,
        decoy_key: [u8; 32],
        workers: usize,
    ) -> Publisher {
        let targets =
            targets.into_iter().enumerate().map(|(id, setup)| TargetState::new(id, setup)).collect();
        let book = Book { workers, targets: HashMap::new(), identities: HashMap::new() };
        let mut publisher =
            Publisher { users, policies, targets, book, staged: None, decoy_key, epoch: 0, dirty: true };
        publisher.book.enter(&publisher.users, &publisher.targets);
        publisher
    }

    /// Takes what a reload brings, with each target's id: a known one goes on with what is known of it. Nothing of it
    /// holds before [`Publisher::adopt_staged`].
    pub(crate) fn stage(&mut self, users: Vec<User>, policies: Policies, targets: Vec<(usize, TargetSetup)>) {
        let targets = targets.into_iter().map(|(id, setup)| {
            let mut state = TargetState::new(id, setup);
            if let Some(known) = self.targets.iter().find(|known| known.id == id) {
                state.catalog.clone_from(&known.catalog);
                state.addresses.clone_from(&known.addresses);
            }
            state
        });
        self.staged = Some(Staged { targets: targets.collect(), users, policies });
    }

    /// What was staged holds from the next snapshot on, all of it, and there is a next one whatever has changed.
    pub(crate) fn adopt_staged(&mut self) {
        if let Some(Staged { users, policies, targets }) = self.staged.take() {
            (self.users, self.policies, self.targets) = (users, policies, targets);
            self.book.enter(&self.users, &self.targets);
            self.dirty = true;
        }
    }

    /// The target holds now, not only after a reload.
    fn holds(&self, id: usize) -> bool {
        self.targets.iter().any(|target| target.id == id)
    }

    /// The targets of this id: one that holds, one that is staged.
    fn of_id(&mut self, id: usize) -> impl Iterator<Item = &mut TargetState> {
        let staged = self.staged.as_mut().map(|staged| staged.targets.as_mut_slice()).unwrap_or_default();
        self.targets.iter_mut().chain(staged).filter(move |target| target.id == id)
    }

    /// A target's catalog was read.
    pub(crate) fn catalog(&mut self, target: usize, read: Read) {
        for target in self.of_id(target) {
            target.catalog = Some(read.clone());
            target.standings = None;
        }
        self.dirty |= self.holds(target);
    }

    /// The name of one of a target's hosts was resolved.
    pub(crate) fn addresses(&mut self, target: usize, host: usize, addresses: Vec<SocketAddr>) {
        let mut changed = false;
        for before in self.of_id(target).filter_map(|target| target.addresses.get_mut(host)) {
            if !same(before, &addresses) {
                before.clone_from(&addresses);
                changed = true;
            }
        }
        self.dirty |= changed && self.holds(target);
    }

    /// The next snapshot, if something changed since the last one.
    pub(crate) fn publish(&mut self) -> Option<Published> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        self.epoch += 1;
        let mut warnings = Vec::new();
        for target in &mut self.targets {
            if target.standings.is_none() {
                target.standings =
                    Some(standings(target, &self.users, &self.policies, self.epoch, &mut warnings));
            }
        }
        warnings.sort();
        warnings.dedup();
        Some(Published { snapshot: Arc::new(self.snapshot()), warnings })
    }

    fn snapshot(&self) -> Snapshot {
        let mut standings = HashMap::new();
        let mut targets = HashMap::new();
        for state in &self.targets {
            let name = &state.setup.target.name;
            for (user, standing) in state.standings.iter().flatten() {
                standings.insert((user.clone(), name.clone()), Arc::clone(standing));
            }
            targets.insert(
                name.clone(),
                Destination {
                    target: Arc::clone(&state.setup.target),
                    known: state.catalog.is_some(),
                    places: places(state),
                    seats: self.book.of(&self.book.targets, name),
                    sessions_max: state.setup.sessions_max,
                    queue: state.setup.queue,
                },
            );
        }
        let users = self.users.iter().map(|user| {
            let admission = Admission {
                identity: Arc::clone(&user.identity),
                verifier: Arc::clone(&user.verifier),
                certificate_name: Arc::clone(&user.certificate_name),
                seats: self.book.of(&self.book.identities, &user.identity.name),
                sessions_max: user.sessions_max,
            };
            (user.identity.name.clone(), admission)
        });
        Snapshot { epoch: self.epoch, users: users.collect(), targets, standings, decoy_key: self.decoy_key }
    }
}

impl TargetState {
    fn new(id: usize, setup: TargetSetup) -> TargetState {
        let literal =
            |host: &TargetHost| resolve::literal(&host.name, host.port).into_iter().collect::<Vec<_>>();
        let addresses = setup.hosts.iter().map(literal).collect();
        TargetState { id, addresses, catalog: None, standings: None, setup }
    }
}

/// Every address of every host, in the order in which they are tried.
fn places(state: &TargetState) -> Arc<[Place]> {
    let hosts = state.setup.hosts.iter().zip(&state.addresses);
    let of_host = |(host, addresses): (&TargetHost, &Vec<SocketAddr>)| {
        let place = |address: &SocketAddr| Place { address: *address, tls: host.tls.clone() };
        addresses.iter().map(place).collect::<Vec<_>>()
    };
    hosts.flat_map(of_host).collect()
}

/// Resolvers rotate their answers; a rotation is no change.
fn same(before: &[SocketAddr], now: &[SocketAddr]) -> bool {
    before.len() == now.len() && now.iter().all(|address| before.contains(address))
}

fn standings(
    state: &TargetState,
    users: &[User],
    policies: &Policies,
    epoch: u64,
    warnings: &mut Vec<String>,
) -> Vec<(String, Arc<Standing>)> {
    let target = &state.setup.target.name;
    let Some(read) = &state.catalog else { return Vec::new() };
    let mut standings = Vec::new();
    for user in users {
        let Some(program) = policies.program(&user.identity, target) else { continue };
        let (masks, lost) = column_masks(program.masks(), read);
        warnings.extend(lost.iter().map(|rule| lost_mask(rule, target)));
        let standing = Standing { epoch, program, catalog: Arc::clone(&read.catalog), masks };
        standings.push((user.identity.name.clone(), Arc::new(standing)));
    }
    standings
}

fn lost_mask(rule: &MaskRule, target: &str) -> String {
    format!(
        "{} masks nothing on target \"{target}\": its catalog has no column {}.{}.{}; correct the name, or ignore this if the column is yet to come",
        rule.rule, rule.schema, rule.table, rule.column
    )
}

/// Mask rules by what the server calls their columns, and the rules that found none. The strongest wins a column.
fn column_masks<'a>(rules: &'a [MaskRule], read: &Read) -> (ColumnMasks, Vec<&'a MaskRule>) {
    let mut masks = ColumnMasks::default();
    let mut lost = Vec::new();
    for rule in rules {
        let mut found = false;
        for name in named_by(rule, read) {
            let columns = read.catalog.column(&name.schema, &name.table, &name.column);
            found |= !columns.is_empty();
            let place: Arc<str> = format!("{}.{}.{}", name.schema, name.table, name.column).into();
            for column in columns {
                add(&mut masks, column, rule, &place);
            }
        }
        if !found {
            lost.push(rule);
        }
    }
    (masks, lost)
}

fn add(masks: &mut ColumnMasks, column: (u32, i16), rule: &MaskRule, place: &Arc<str>) {
    let mask = mask(rule.mask);
    let wins = masks.rules.get(&column).is_none_or(|other| mask > other.mask);
    if wins {
        let rule = Rule { name: rule.rule.as_str().into(), place: Arc::clone(place), mask };
        masks.rules.insert(column, rule);
    }
}

/// The columns that a rule speaks of: the one it names, or all that its patterns match.
fn named_by(rule: &MaskRule, read: &Read) -> Vec<ColumnName> {
    if rule.is_exact() {
        let name = ColumnName {
            schema: rule.schema.clone(),
            table: rule.table.clone(),
            column: rule.column.clone(),
        };
        return vec![name];
    }
    let matches = |name: &&ColumnName| rule.names(&name.schema, &name.table, &name.column);
    read.columns.iter().filter(matches).cloned().collect()
}

fn mask(kind: MaskKind) -> Mask {
    match kind {
        MaskKind::Null => Mask::Null,
        MaskKind::Redact => Mask::Redact,
        MaskKind::KeepLast(count) => Mask::KeepLast(count),
        MaskKind::KeepDomain => Mask::KeepDomain,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use lockgate_bridge::{Queue, SessionsMax};
    use lockgate_facts::postgres::Catalog;
    use lockgate_lane::{
        Identity, LoginRequest, NotGranted, Secret, SessionAttrs, Target, TargetTls, Verifier,
    };

    use super::*;
    use crate::Account;

    const POLICY: &str = r#"
policy agents for group "ai" on target "orders" {
    allow read on public.*
    mask  public.customers.email with keep domain
    mask  public.*.email         with redact
}
policy ops for user "olga" on target "orders", "ledger" {
    allow * on *
}
"#;

    const UNLIMITED: SessionsMax = SessionsMax { max: u32::MAX, key: "" };

    fn policies(text: &str) -> Policies {
        let path: PathBuf = std::env::temp_dir().join(format!(
            "lockgate-publish-{}-{:?}.policy",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::write(&path, text).unwrap();
        let policies = crate::policies::load(std::slice::from_ref(&path)).unwrap();
        std::fs::remove_file(path).unwrap();
        policies
    }

    fn target(name: &str) -> TargetSetup {
        let target = Target {
            name: name.to_owned(),
            attrs: SessionAttrs::Any,
            database: String::from("d"),
            user: String::from("u"),
            password: Some(Secret::new(b"p".to_vec())),
            tls: TargetTls::Disable,
        };
        let catalog = Account { user: String::from("u"), password: None };
        TargetSetup {
            target: Arc::new(target),
            hosts: vec![TargetHost { name: String::from("127.0.0.1"), port: 5432, tls: None }],
            catalog,
            sessions_max: UNLIMITED,
            queue: Queue { max: 0, ns_max: 0 },
            catalog_poll: Duration::from_secs(1),
        }
    }

    fn user(name: &str, groups: &[&str]) -> User {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        User {
            identity: Arc::new(Identity { name: name.to_owned(), groups }),
            verifier: Arc::new(Verifier::decoy(&[0; 32], name)),
            certificate_name: Arc::from(name),
            sessions_max: UNLIMITED,
        }
    }

    fn publisher() -> Publisher {
        let users = vec![user("agent-7", &["ai"]), user("olga", &[]), user("nobody", &[])];
        Publisher::new(users, policies(POLICY), vec![target("orders"), target("ledger")], [7; 32], 2)
    }

    fn read() -> Read {
        Read { catalog: Arc::new(Catalog::empty()), columns: Arc::from([]) }
    }

    fn pairs(snapshot: &Snapshot) -> Vec<(&str, &str, u64)> {
        let mut pairs: Vec<_> = snapshot
            .standings
            .iter()
            .map(|((user, target), standing)| (user.as_str(), target.as_str(), standing.epoch))
            .collect();
        pairs.sort_unstable();
        pairs
    }

    fn grant(snapshot: &Snapshot, user: &str, database: &str) -> Result<String, String> {
        let request = LoginRequest { user: user.to_owned(), database: database.to_owned(), tls: false };
        let granted = snapshot.login(&request).grant;
        granted.map(|grant| format!("{}@{}", grant.identity.name, grant.target.name)).map_err(|why| match why
        {
            NotGranted::Denied(reason) => reason,
            NotGranted::Unknown(reason) => format!("not yet: {reason}"),
        })
    }

    #[test]
    fn nobody_connects_before_the_catalog_is_known_and_then_only_whom_policy_names() {
        let mut publisher = publisher();
        let first = publisher.publish().unwrap().snapshot;
        assert_eq!((first.epoch, pairs(&first)), (1, vec![]));
        assert!(grant(&first, "olga", "orders").unwrap_err().contains("not yet: target \"orders\""));
        assert!(publisher.publish().is_none(), "nothing has changed");

        publisher.catalog(0, read());
        let second = publisher.publish().unwrap().snapshot;
        assert_eq!(pairs(&second), [("agent-7", "orders", 2), ("olga", "orders", 2)]);
        assert_eq!(grant(&second, "agent-7", "orders").unwrap(), "agent-7@orders");
        assert!(grant(&second, "nobody", "orders").unwrap_err().contains("no policy lets it"));
        assert!(grant(&second, "agent-7", "payroll").unwrap_err().contains("no target is named \"payroll\""));
        assert!(grant(&second, "mallory", "orders").unwrap_err().contains("unknown user"));
    }

    #[test]
    fn only_what_changed_is_made_anew() {
        let mut publisher = publisher();
        publisher.catalog(0, read());
        publisher.catalog(1, read());
        let first = publisher.publish().unwrap().snapshot;
        publisher.catalog(1, read());
        let second = publisher.publish().unwrap().snapshot;
        assert_eq!(pairs(&second), [("agent-7", "orders", 1), ("olga", "ledger", 2), ("olga", "orders", 1)]);
        let kept = (String::from("olga"), String::from("orders"));
        assert!(Arc::ptr_eq(&first.standings[&kept], &second.standings[&kept]));
    }

    #[test]
    fn addresses_are_published_when_they_are_others() {
        let mut publisher = publisher();
        publisher.publish().unwrap();
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (one, two) = (address("10.0.0.1:5432"), address("10.0.0.2:5432"));
        publisher.addresses(0, 0, vec![one, two]);
        let published = publisher.publish().unwrap().snapshot;
        let of = |snapshot: &Snapshot, target: &str| -> Vec<SocketAddr> {
            snapshot.targets[target].places.iter().map(|place| place.address).collect()
        };
        assert_eq!(of(&published, "orders"), [one, two]);
        assert_eq!(of(&published, "ledger"), [address("127.0.0.1:5432")]);
        publisher.addresses(0, 0, vec![two, one]);
        assert!(publisher.publish().is_none(), "a rotation is no change");
        publisher.addresses(0, 0, vec![two]);
        assert_eq!(of(&publisher.publish().unwrap().snapshot, "orders"), [two]);
    }

    #[test]
    fn what_is_staged_holds_all_at_once_and_known_targets_go_on() {
        let mut publisher = publisher();
        publisher.catalog(0, read());
        publisher.publish().unwrap();
        let renamed = POLICY.replace("user \"olga\"", "user \"nobody\"");
        let users = vec![user("agent-7", &["ai"]), user("nobody", &[])];
        publisher.stage(users, policies(&renamed), vec![(0, target("orders")), (7, target("ledger"))]);
        assert!(publisher.publish().is_none(), "nothing holds yet");
        publisher.catalog(7, read());
        assert!(publisher.publish().is_none(), "nor does what is read for it");
        publisher.catalog(0, read());
        let before = publisher.publish().unwrap().snapshot;
        assert_eq!(pairs(&before), [("agent-7", "orders", 2), ("olga", "orders", 2)]);
        publisher.adopt_staged();
        let after = publisher.publish().unwrap().snapshot;
        let expected = [("agent-7", "orders", 3), ("nobody", "ledger", 3), ("nobody", "orders", 3)];
        assert_eq!(pairs(&after), expected);
        assert!(grant(&after, "olga", "orders").unwrap_err().contains("unknown user"));
        publisher.catalog(1, read());
        assert!(publisher.publish().is_none(), "an id that is gone means nothing");
    }

    #[test]
    fn a_mask_without_its_column_is_told() {
        let mut publisher = publisher();
        assert_eq!(publisher.publish().unwrap().warnings, Vec::<String>::new(), "nothing is known yet");
        publisher.catalog(0, read());
        let warnings = publisher.publish().unwrap().warnings;
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[1].contains("no column public.customers.email"), "{warnings:?}");
    }

    #[test]
    fn the_strongest_mask_wins_a_column_in_any_order() {
        let rule = |name: &str, mask: MaskKind| MaskRule {
            rule: name.to_owned(),
            schema: String::from("s"),
            table: String::from("t"),
            column: String::from("c"),
            mask,
        };
        let weak_to_strong = [
            MaskKind::KeepLast(4),
            MaskKind::KeepLast(2),
            MaskKind::KeepDomain,
            MaskKind::Redact,
            MaskKind::Null,
        ];
        for pair in weak_to_strong.windows(2) {
            for order in [[0, 1], [1, 0]] {
                let mut masks = ColumnMasks::default();
                for index in order {
                    add(&mut masks, (1, 1), &rule("r", pair[index]), &Arc::from("s.t.c"));
                }
                assert_eq!(masks.rules[&(1, 1)].mask, mask(pair[1]), "{pair:?}");
            }
        }
    }

    #[test]
    fn patterns_stand_for_the_columns_they_match() {
        let name = |schema: &str, table: &str, column: &str| ColumnName {
            schema: schema.to_owned(),
            table: table.to_owned(),
            column: column.to_owned(),
        };
        let all = [name("public", "a", "email"), name("public", "b", "email"), name("sales", "a", "email")];
        let read = Read { catalog: Arc::new(Catalog::empty()), columns: Arc::from(all.clone()) };
        let rule = |schema: &str, table: &str| MaskRule {
            rule: String::from("r"),
            schema: schema.to_owned(),
            table: table.to_owned(),
            column: String::from("email"),
            mask: MaskKind::Null,
        };
        assert_eq!(named_by(&rule("public", "*"), &read), all[..2]);
        assert_eq!(named_by(&rule("*", "a"), &read), [all[0].clone(), all[2].clone()]);
        assert_eq!(
            named_by(&rule("public", "z"), &read),
            [name("public", "z", "email")],
            "an exact name stays"
        );
    }
}

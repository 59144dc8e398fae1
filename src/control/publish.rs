//! What workers judge by, made of policies, catalogs, addresses and identities. No task, no clock: it is told what
//! changed and makes the next snapshot.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lockgate_bridge::{Admission, Destination, Snapshot};
use lockgate_facts::postgres::Catalog;
use lockgate_lane::Standing;
use lockgate_mask::{ColumnMasks, Mask, Rule};
use lockgate_policy_dsl::{MaskKind, MaskRule};

use crate::identity::User;
use crate::{Policies, TargetSetup, resolve};

/// The state of which snapshots are made.
#[derive(Debug)]
pub(crate) struct Publisher {
    users: Vec<User>,
    policies: Policies,
    targets: Vec<TargetState>,
    decoy_key: [u8; 32],
    epoch: u64,
    dirty: bool,
}

#[derive(Debug)]
struct TargetState {
    setup: TargetSetup,
    catalog: Arc<Catalog>,
    /// A catalog was read at least once; before, no mask can be expected to find its column.
    known: bool,
    addresses: Vec<SocketAddr>,
    /// By user; kept from one snapshot to the next while nothing that they depend on changes, so that what workers
    /// remember of them stays good.
    standings: Option<Vec<(String, Arc<Standing>)>>,
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
    ) -> Publisher {
        let targets = targets
            .into_iter()
            .map(|setup| TargetState {
                addresses: resolve::literal(&setup.host, setup.port).into_iter().collect(),
                catalog: Arc::new(Catalog::empty()),
                known: false,
                standings: None,
                setup,
            })
            .collect();
        Publisher { users, policies, targets, decoy_key, epoch: 0, dirty: true }
    }

    /// A target's catalog was read.
    pub(crate) fn catalog(&mut self, target: usize, catalog: Arc<Catalog>) {
        if let Some(target) = self.targets.get_mut(target) {
            target.catalog = catalog;
            target.known = true;
            target.standings = None;
            self.dirty = true;
        }
    }

    /// A target's name was resolved.
    pub(crate) fn addresses(&mut self, target: usize, addresses: Vec<SocketAddr>) {
        if let Some(target) =
            self.targets.get_mut(target).filter(|target| !same(&target.addresses, &addresses))
        {
            target.addresses = addresses;
            self.dirty = true;
        }
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
                    addresses: state.addresses.clone(),
                    tls: state.setup.tls.clone(),
                },
            );
        }
        let users = self.users.iter().map(|user| {
            let admission =
                Admission { identity: Arc::clone(&user.identity), verifier: Arc::clone(&user.verifier) };
            (user.identity.name.clone(), admission)
        });
        Snapshot { epoch: self.epoch, users: users.collect(), targets, standings, decoy_key: self.decoy_key }
    }
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
    let mut standings = Vec::new();
    for user in users {
        let Some(program) = policies.program(&user.identity, target) else { continue };
        let (masks, lost) = column_masks(program.masks(), &state.catalog);
        if state.known {
            warnings.extend(lost.iter().map(|rule| lost_mask(rule, target)));
        }
        let standing = Standing { epoch, program, catalog: Arc::clone(&state.catalog), masks };
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
fn column_masks<'a>(rules: &'a [MaskRule], catalog: &Catalog) -> (ColumnMasks, Vec<&'a MaskRule>) {
    let mut masks = ColumnMasks::default();
    let mut lost = Vec::new();
    for rule in rules {
        let columns = catalog.column(&rule.schema, &rule.table, &rule.column);
        if columns.is_empty() {
            lost.push(rule);
        }
        let place: Arc<str> = format!("{}.{}.{}", rule.schema, rule.table, rule.column).into();
        let name: Arc<str> = rule.rule.as_str().into();
        let mask = mask(rule.mask);
        for column in columns {
            let stronger =
                masks.rules.get(&column).is_none_or(|standing| strength(mask) > strength(standing.mask));
            if stronger {
                let rule = Rule { name: Arc::clone(&name), place: Arc::clone(&place), mask };
                masks.rules.insert(column, rule);
            }
        }
    }
    (masks, lost)
}

fn mask(kind: MaskKind) -> Mask {
    match kind {
        MaskKind::Null => Mask::Null,
        MaskKind::Redact => Mask::Redact,
        MaskKind::KeepLast(count) => Mask::KeepLast(count),
        MaskKind::KeepDomain => Mask::KeepDomain,
    }
}

/// What shows less is stronger: of two that keep something, the one that keeps less.
fn strength(mask: Mask) -> (u8, u8) {
    match mask {
        Mask::KeepLast(count) => (0, u8::MAX - count),
        Mask::KeepDomain => (1, 0),
        Mask::Redact => (2, 0),
        Mask::Null => (3, 0),
    }
}

//! What workers judge by, made of policies, catalogs, addresses and identities. No task, no clock: it is told what
//! changed and makes the next snapshot.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lockgate_bridge::{Admission, Destination, Snapshot};
use lockgate_lane::Standing;
use lockgate_mask::{ColumnMasks, Mask, Rule};
use lockgate_policy_dsl::{MaskKind, MaskRule};

use crate::catalog::{ColumnName, Read};
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
    /// `None` until it was read: nobody may connect before, as no mask would find its column.
    catalog: Option<Read>,
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
                catalog: None,
                standings: None,
                setup,
            })
            .collect();
        Publisher { users, policies, targets, decoy_key, epoch: 0, dirty: true }
    }

    /// A target's catalog was read.
    pub(crate) fn catalog(&mut self, target: usize, read: Read) {
        if let Some(target) = self.targets.get_mut(target) {
            target.catalog = Some(read);
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

//! What control knows of the gateway's state, for the admin port: the desk writes, requests read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A worker that has not adopted the newest epoch after this time is reported.
const ADOPTION_MAX: Duration = Duration::from_secs(5);

/// Shared between the desk and the admin port.
#[derive(Debug, Clone)]
pub(crate) struct Status(Arc<Mutex<State>>);

/// The state itself.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// The newest published epoch, and when it was published.
    pub epoch: u64,
    pub published: Instant,
    pub draining: bool,
    pub workers: Vec<WorkerState>,
    pub targets: Vec<TargetState>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct WorkerState {
    /// 0: none yet.
    pub epoch: u64,
    pub stopped: bool,
    /// Why it cannot record.
    pub recording: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct TargetState {
    pub name: String,
    /// Version of the catalog in use; 0: none was read yet.
    pub catalog_version: u64,
    /// Why its catalog cannot be read now.
    pub catalog_failure: Option<String>,
    /// Why the names of its hosts cannot be resolved now, by host.
    pub address_failures: BTreeMap<usize, String>,
    /// Addresses, by host.
    pub addresses: BTreeMap<usize, usize>,
}

impl TargetState {
    /// A host's name was resolved.
    pub(crate) fn resolved(&mut self, host: usize, addresses: usize) {
        self.address_failures.remove(&host);
        self.addresses.insert(host, addresses);
    }
}

/// Something to be said about the gateway's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason {
    /// `gateway`, `worker`, `target` or `recording`.
    pub what: &'static str,
    /// Which one.
    pub name: String,
    /// One sentence.
    pub reason: String,
}

impl Status {
    pub(crate) fn new(workers: usize, targets: impl Iterator<Item = String>) -> Status {
        let targets = targets.map(|name| TargetState {
            name,
            catalog_version: 0,
            catalog_failure: None,
            address_failures: BTreeMap::new(),
            addresses: BTreeMap::new(),
        });
        Status(Arc::new(Mutex::new(State {
            epoch: 0,
            published: Instant::now(),
            draining: false,
            workers: vec![WorkerState::default(); workers],
            targets: targets.collect(),
        })))
    }

    /// The state, to be read or changed for a moment.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one worker's state.
    pub(crate) fn worker(&self, worker: u32, change: impl FnOnce(&mut WorkerState)) {
        let mut state = self.state();
        if let Some(worker) = usize::try_from(worker).ok().and_then(|worker| state.workers.get_mut(worker)) {
            change(worker);
        }
    }

    /// Changes one target's state.
    pub(crate) fn target(&self, target: usize, change: impl FnOnce(&mut TargetState)) {
        if let Some(target) = self.state().targets.get_mut(target) {
            change(target);
        }
    }
}

impl State {
    /// Why no client should be sent here now; empty when one may.
    pub(crate) fn obstacles(&self, now: Instant) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if self.draining {
            reasons.push(reason("gateway", "", "it is shutting down"));
        }
        for (index, worker) in self.workers.iter().enumerate() {
            let name = index.to_string();
            if worker.stopped && !self.draining {
                reasons.push(reason("worker", &name, "it has stopped; restart the gateway"));
            } else if worker.epoch == 0 {
                reasons.push(reason("worker", &name, "it has not begun to judge yet"));
            } else if worker.epoch < self.epoch && now.duration_since(self.published) > ADOPTION_MAX {
                let text = format!("it judges by epoch {}, and {} was published", worker.epoch, self.epoch);
                reasons.push(reason("worker", &name, &text));
            }
            if let Some(failure) = &worker.recording {
                reasons.push(reason("recording", &name, failure));
            }
        }
        for target in self.targets.iter().filter(|target| target.catalog_version == 0) {
            let text = target.catalog_failure.as_deref().unwrap_or("its catalog has not been read yet");
            reasons.push(reason("target", &target.name, text));
        }
        reasons
    }

    /// What is wrong and yet no reason to send clients elsewhere.
    pub(crate) fn troubles(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        for target in &self.targets {
            if let Some(failure) = target.catalog_failure.as_ref().filter(|_| target.catalog_version > 0) {
                let text = format!("its catalog is as it was, and cannot be checked: {failure}");
                reasons.push(reason("target", &target.name, &text));
            }
            reasons.extend(
                target.address_failures.values().map(|failure| reason("target", &target.name, failure)),
            );
        }
        reasons
    }
}

fn reason(what: &'static str, name: &str, text: &str) -> Reason {
    Reason { what, name: name.to_owned(), reason: text.to_owned() }
}

//! What control knows of the gateway's state, for the admin port: the desk writes, requests read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A worker that has not adopted the newest epoch after this time is reported.
const ADOPTION_MAX: Duration = Duration::from_secs(5);
/// A worker that has not turned for this long is stuck: the longest turn there is, a full one with large statements to
/// parse, takes a tenth of a second.
pub(crate) const TURN_MAX: Duration = Duration::from_secs(5);

/// Shared between the desk and the admin port.
#[derive(Debug, Clone)]
pub(crate) struct Status(Arc<Mutex<State>>);

/// The state itself.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// The newest published epoch, and when it was published.
    pub epoch: u64,
    pub published: Instant,
    /// It shuts down, or another process serves.
    pub draining: bool,
    pub reloads: Reloads,
    /// When the desk last looked after the workers; `None` before it has begun to.
    pub looked_after: Option<Instant>,
    /// Processes of this gateway that have handed over and still have sessions.
    pub predecessors: Vec<u32>,
    pub workers: Vec<WorkerState>,
    pub targets: Vec<TargetState>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct WorkerState {
    /// 0: none yet.
    pub epoch: u64,
    pub stopped: bool,
    /// Why its thread has ended before its time.
    pub failed: Option<String>,
    /// Since when it owes an answer.
    pub asked: Option<Instant>,
    /// Why it cannot record.
    pub recording: Option<String>,
}

/// What became of reloads.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reloads {
    pub done: u64,
    pub refused: u64,
    /// How many mistakes the last one had, if it was refused.
    pub mistakes: Option<usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct TargetState {
    /// Control's own name for it.
    pub id: usize,
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
    /// `gateway`, `worker`, `target`, `recording`, `configuration` or `predecessor`.
    pub what: &'static str,
    /// Which one.
    pub name: String,
    /// One sentence.
    pub reason: String,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Reason { what, name, reason } = self;
        if name.is_empty() { write!(f, "{what}: {reason}") } else { write!(f, "{what} {name}: {reason}") }
    }
}

impl Status {
    pub(crate) fn new(workers: usize, targets: impl Iterator<Item = String>) -> Status {
        let targets = targets.enumerate().map(|(id, name)| TargetState::new(id, name));
        Status(Arc::new(Mutex::new(State {
            epoch: 0,
            published: Instant::now(),
            draining: false,
            reloads: Reloads::default(),
            looked_after: None,
            predecessors: Vec::new(),
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

    /// From now on these targets are there; what is known of them stays.
    pub(crate) fn retarget(&self, targets: impl Iterator<Item = (usize, String)>) {
        let mut state = self.state();
        let known = std::mem::take(&mut state.targets);
        let kept = |(id, name)| {
            let known = known.iter().find(|known| known.id == id).cloned();
            known.unwrap_or_else(|| TargetState::new(id, name))
        };
        state.targets = targets.map(kept).collect();
    }

    /// Changes one target's state, if it is there.
    pub(crate) fn target(&self, target: usize, change: impl FnOnce(&mut TargetState)) {
        if let Some(target) = self.state().targets.iter_mut().find(|state| state.id == target) {
            change(target);
        }
    }
}

impl TargetState {
    fn new(id: usize, name: String) -> TargetState {
        TargetState {
            id,
            name,
            catalog_version: 0,
            catalog_failure: None,
            address_failures: BTreeMap::new(),
            addresses: BTreeMap::new(),
        }
    }

    /// Sessions can be opened.
    fn is_open(&self) -> bool {
        self.catalog_version > 0
    }
}

impl State {
    /// What is broken so that only a new process mends it; empty while all is well.
    pub(crate) fn ailments(&self, now: Instant) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let looked_after = self.looked_after.unwrap_or(now);
        let asleep = now.saturating_duration_since(looked_after);
        if asleep > TURN_MAX {
            let text = format!("control has not turned for {} s", asleep.as_secs());
            reasons.push(reason("gateway", "", &text));
        }
        for (index, worker) in self.workers.iter().enumerate() {
            let name = index.to_string();
            let owing = worker.asked.map(|asked| now.saturating_duration_since(asked)).unwrap_or_default();
            if let Some(failure) = &worker.failed {
                reasons.push(reason("worker", &name, &format!("it has failed: {failure}")));
            } else if worker.stopped && !self.draining {
                reasons.push(reason("worker", &name, "it has stopped"));
            } else if owing > TURN_MAX && !worker.stopped {
                let text = format!("it has not turned for {} s", owing.as_secs());
                reasons.push(reason("worker", &name, &text));
            }
        }
        reasons
    }

    /// Why no client should be sent here now; empty when one may.
    pub(crate) fn obstacles(&self, now: Instant) -> Vec<Reason> {
        let mut reasons = self.ailments(now);
        if self.draining {
            reasons.push(reason("gateway", "", "it is shutting down"));
        }
        for (index, worker) in self.workers.iter().enumerate() {
            let name = index.to_string();
            if worker.epoch == 0 {
                reasons.push(reason("worker", &name, "it has not begun to judge yet"));
            } else if worker.epoch < self.epoch && now.duration_since(self.published) > ADOPTION_MAX {
                let text = format!("it judges by epoch {}, and {} was published", worker.epoch, self.epoch);
                reasons.push(reason("worker", &name, &text));
            }
            if let Some(failure) = &worker.recording {
                reasons.push(reason("recording", &name, failure));
            }
        }
        // One target that is down sends nobody away from the others; if all are, nobody can be served.
        if !self.targets.is_empty() && !self.targets.iter().any(TargetState::is_open) {
            reasons.extend(self.targets.iter().map(closed));
        }
        reasons
    }

    /// What is wrong and yet no reason to send clients elsewhere.
    pub(crate) fn troubles(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if let Some(mistakes) = self.reloads.mistakes {
            let text = format!(
                "the last reload was refused for {mistakes} mistake{}, which the log names; what was loaded before holds",
                if mistakes == 1 { "" } else { "s" }
            );
            reasons.push(reason("configuration", "", &text));
        }
        for pid in &self.predecessors {
            let text = "this process has handed over and still has sessions; it ends by itself";
            reasons.push(reason("predecessor", &pid.to_string(), text));
        }
        if self.targets.iter().any(TargetState::is_open) {
            reasons.extend(self.targets.iter().filter(|target| !target.is_open()).map(closed));
        }
        for target in &self.targets {
            if let Some(failure) = target.catalog_failure.as_ref().filter(|_| target.is_open()) {
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

fn closed(target: &TargetState) -> Reason {
    let text = target.catalog_failure.as_deref().unwrap_or("its catalog has not been read yet");
    reason("target", &target.name, text)
}

fn reason(what: &'static str, name: &str, text: &str) -> Reason {
    Reason { what, name: name.to_owned(), reason: text.to_owned() }
}

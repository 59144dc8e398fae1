//! The gateway's figures in Prometheus' text format (version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

use lockgate_bridge::Counters;

use crate::status::{State, TURN_MAX};

/// One sample: labels and value.
type Sample = (String, String);

/// The page, in order.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str, samples: impl IntoIterator<Item = Sample>) {
        // Writing to a String cannot fail.
        let _ =
            writeln!(self.0, "# HELP lockgate_{name} {}", help.replace('\\', "\\\\").replace('\n', "\\n"));
        let _ = writeln!(self.0, "# TYPE lockgate_{name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(self.0, "lockgate_{name}{labels} {value}");
        }
    }
}

/// Everything, now.
pub(crate) fn page(state: &State, counters: &[Arc<Counters>], started: SystemTime) -> String {
    let mut page = Page::default();
    let version = label("version", env!("CARGO_PKG_VERSION"));
    page.family("build_info", "gauge", "The gateway's version.", [(version, String::from("1"))]);
    let started = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    page.family("start_time_seconds", "gauge", "When the gateway was started, since 1970.", [plain(started)]);
    page.family("published_epoch", "gauge", "Epoch published last.", [plain(state.epoch)]);
    page.family(
        "draining",
        "gauge",
        "1 while the gateway is shutting down.",
        [plain(u8::from(state.draining))],
    );
    reloads(&mut page, state);
    workers(&mut page, state, counters);
    targets(&mut page, state);
    page.0
}

fn reloads(page: &mut Page, state: &State) {
    let count = |result: &str, number: u64| (label("result", result), number.to_string());
    let counts = [count("done", state.reloads.done), count("refused", state.reloads.refused)];
    page.family("reloads_total", "counter", "Reloads of the configuration, by what became of them.", counts);
    let good = u8::from(state.reloads.mistakes.is_none());
    page.family("last_reload_successful", "gauge", "0 while the last reload was refused.", [plain(good)]);
    let draining = state.predecessors.len();
    page.family(
        "predecessors",
        "gauge",
        "Processes that have handed over and still drain.",
        [plain(draining)],
    );
}

fn workers(page: &mut Page, state: &State, counters: &[Arc<Counters>]) {
    let failed =
        state.workers.iter().enumerate().map(|(worker, state)| {
            (label("worker", worker), u8::from(state.recording.is_some()).to_string())
        });
    let asked = |worker: &crate::status::WorkerState| {
        u8::from(worker.failed.is_some() || worker.asked.is_some_and(|asked| asked.elapsed() > TURN_MAX))
    };
    let stuck = state.workers.iter().enumerate();
    let stuck = stuck.map(|(worker, state)| (label("worker", worker), asked(state).to_string()));
    page.family("worker_stuck", "gauge", "1 while a worker does not turn.", stuck);
    page.family("recording_failed", "gauge", "1 while a worker cannot record, and forwards nothing.", failed);
    let mut families: BTreeMap<&str, (&str, &str, Vec<Sample>)> = BTreeMap::new();
    for (worker, counters) in counters.iter().enumerate() {
        for (name, kind, help, value) in counters.rows() {
            let family = families.entry(name).or_insert((kind, help, Vec::new()));
            family.2.push((label("worker", worker), value.to_string()));
        }
    }
    for (name, (kind, help, samples)) in families {
        let suffix = if kind == "counter" { "_total" } else { "" };
        page.family(&format!("{name}{suffix}"), kind, help, samples);
    }
}

fn targets(page: &mut Page, state: &State) {
    let each = |value: fn(&crate::status::TargetState) -> u64| {
        state.targets.iter().map(move |target| (label("target", &target.name), value(target).to_string()))
    };
    let up = each(|target| u64::from(target.catalog_version > 0 && target.catalog_failure.is_none()));
    page.family("target_up", "gauge", "1 while the target's catalog can be read.", up);
    let version = each(|target| target.catalog_version);
    page.family("target_catalog_version", "gauge", "How often the target's catalog was read.", version);
    let addresses =
        each(|target| u64::try_from(target.addresses.values().sum::<usize>()).unwrap_or(u64::MAX));
    page.family("target_addresses", "gauge", "Addresses that the target's name resolves to.", addresses);
}

fn plain(value: impl Display) -> Sample {
    (String::new(), value.to_string())
}

fn label(name: &str, value: impl Display) -> String {
    let value = value.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{{{name}=\"{value}\"}}")
}

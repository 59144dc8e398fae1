//! What the report measures: its sections, each with its fronts and workloads, sized to end within half an hour.

use std::time::Duration;

use crate::compare::{Cell, Rhythm, Section};
use crate::fronts::Spec;
use crate::workload::Workload::{self, *};

/// What every section but those of Lockgate's own switches compares.
pub const FRONTS: &str = "direct,pgbouncer,haproxy,relay,lockgate,lockgate-off";
const RESTING: &str = "pgbouncer,haproxy,relay,lockgate,lockgate-off";
/// The stand-in that they rest before speaks no TLS.
const ENDING_TLS: &str = "pgbouncer,lockgate,lockgate-off";
const SPINNING: &str = "direct,pgbouncer,lockgate,lockgate-spin";
const SWITCHES: &str = "lockgate-off,lockgate-unmasked,lockgate,lockgate-os,lockgate-epoll";
const RULES: &str = "lockgate,lockgate-rules-10,lockgate-rules-1000,lockgate-rules-10000";
/// Sessions at rest in a sample.
const QUICK_SESSIONS: u32 = 200;
/// About a fifth of what the slowest front takes on two cores: queues are short, so latency is the front's own.
const RATE: f64 = 4000.0;

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// A sample in about a minute.
    Quick,
    /// Everything.
    Full,
}

/// The sections, in their order.
pub fn sections(size: Size, idle_sessions: u32) -> Vec<Section> {
    match size {
        Size::Quick => quick(idle_sessions.min(QUICK_SESSIONS)),
        Size::Full => full(idle_sessions),
    }
}

fn quick(idle_sessions: u32) -> Vec<Section> {
    let short = rhythm(2, 0.15, 0.4);
    let points =
        [cell(PointSimple, 16, short), cell(PointPrepared, 1, short), cell(PointPrepared, 16, short)];
    vec![
        section("Point selects", "A sample: too short to tell a few per cent apart.", FRONTS, points),
        section("Results in bulk", "", FRONTS, [cell(RowsMasked, 1, short)]),
        section("Sessions at rest", "", RESTING, [cell(Idle, idle_sessions, rhythm(1, 0.2, 0.5))]),
    ]
}

fn full(idle_sessions: u32) -> Vec<Section> {
    let (long, usual) = (rhythm(5, 0.3, 1.5), rhythm(3, 0.3, 1.5));
    let points = |workload| [1, 16, 64].map(|connections| cell(workload, connections, long));
    let idle = cell(Idle, idle_sessions, rhythm(1, 1.0, 3.0));
    vec![
        section(
            "Point selects",
            "One row by its key. In `lockgate` one of the three columns is masked on the way.",
            FRONTS,
            [PointSimple, PointPrepared].into_iter().flat_map(points),
        ),
        section(
            "Other ways to ask",
            "Parsed each time; sixteen commands for each Sync; statements whose text was never seen before, which nothing \
             can have remembered.",
            FRONTS,
            [PointExtended, PointPipelined, PointFresh].map(|workload| cell(workload, 16, usual)),
        ),
        section(
            "At a set rate",
            "Requests come when they are due, and latency counts from that instant: what a user waits when the machine is \
             not full.",
            FRONTS,
            [Cell { rate: Some(RATE), ..cell(PointPrepared, 16, usual) }],
        ),
        section(
            "Inside TLS",
            "Clients speak TLS. PgBouncer and Lockgate end it; HAProxy and the relay pass it on to the server.",
            FRONTS,
            [Cell { tls: true, ..cell(PointPrepared, 16, usual) }],
        ),
        section(
            "Many connections",
            "All busy, without TLS and inside TLS (which HAProxy and the relay pass on to the server).",
            FRONTS,
            [(256, false), (1000, false), (1000, true)]
                .map(|(connections, tls)| Cell { tls, ..cell(PointPrepared, connections, usual) }),
        ),
        section(
            "Connections that come and go",
            "Connect, ask once, leave. PgBouncer keeps its sessions with the server for the next client; all others begin \
             a new one each time, so the server's work is in their figures.",
            FRONTS,
            [Churn, ChurnTls].map(|workload| cell(workload, 16, usual)),
        ),
        section(
            "Results in bulk",
            "One connection. Where two columns are masked, `lockgate` rewrites them and all others pass them on; the \
             bytes are as many.",
            FRONTS,
            [Rows, RowsMasked, Gigabyte, GigabyteMasked, CopyIn, CopyOut]
                .map(|workload| cell(workload, 1, usual)),
        ),
        section(
            "Sessions at rest",
            "Each has asked once. The server is a stand-in that needs no process for each.",
            RESTING,
            [idle.clone()],
        ),
        section(
            "Sessions at rest inside TLS",
            "Fronts that end TLS: clients speak it, the server does not.",
            ENDING_TLS,
            [Cell { tls: true, ..idle }],
        ),
        section(
            "Which switch costs what",
            "Lockgate beside itself; the first row has the least switched on.",
            SWITCHES,
            [PointSimple, PointPrepared].map(|workload| cell(workload, 16, long)),
        ),
        section(
            "A worker that looks before it sleeps",
            "To be woken takes longer than most answers of a near server. `lockgate-spin` looks for 60 µs before it \
             sleeps, while one peer is at work; it is off by default, because it takes a core's time for it.",
            SPINNING,
            [PointSimple, PointPrepared].map(|workload| cell(workload, 1, long)),
        ),
        section(
            "Many rules",
            "Everything on, and rules on tables that nobody asks for.",
            RULES,
            [PointPrepared, PointFresh].map(|workload| cell(workload, 16, usual)),
        ),
    ]
}

fn rhythm(rounds: u32, warm: f64, window: f64) -> Rhythm {
    Rhythm { rounds, warm: Duration::from_secs_f64(warm), window: Duration::from_secs_f64(window) }
}

fn cell(workload: Workload, connections: u32, rhythm: Rhythm) -> Cell {
    Cell { workload, connections, rate: None, tls: false, rhythm }
}

fn section(title: &str, text: &str, fronts: &str, cells: impl IntoIterator<Item = Cell>) -> Section {
    let fronts = fronts.split(',').filter_map(|name| Spec::parse(name).ok()).collect();
    Section { title: title.into(), text: text.into(), fronts, cells: cells.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_front() {
        for names in [FRONTS, RESTING, ENDING_TLS, SWITCHES, SPINNING, RULES] {
            for name in names.split(',') {
                Spec::parse(name).unwrap();
            }
        }
    }

    #[test]
    fn the_report_has_every_workload() {
        use clap::ValueEnum as _;

        let there: Vec<Workload> =
            full(1).iter().flat_map(|section| &section.cells).map(|cell| cell.workload).collect();
        for workload in Workload::value_variants() {
            assert!(there.contains(workload), "{}", workload.name());
        }
    }
}

//! The page: tables for each section, and how Lockgate stands beside the others.

use std::fmt::Write as _;
use std::time::Duration;

use super::Machine;
use crate::bed::SETTINGS;
use crate::compare::{Cell, Measured, Round, Row, Spread};

const NONE: &str = "–";
const P50: f64 = 0.5;
const P99: f64 = 0.99;

/// The whole page.
pub fn markdown(machine: &Machine, measured: &[Measured]) -> String {
    let mut page = String::from("# Lockgate beside others\n\n");
    page += &head(machine, measured);
    page += &standing(measured);
    for part in measured {
        page += &section(part);
    }
    page + &configurations(measured)
}

fn head(machine: &Machine, measured: &[Measured]) -> String {
    let mut text = format!("{}, on {}.\n\n", machine.date, machine.hardware);
    for version in &machine.versions {
        let _ = writeln!(text, "* {version}");
    }
    let _ = writeln!(text, "\nAgain: `{}`\n", machine.command);
    text += "Server, front and this client share the machine's cores: a rate is what is left for all three, and so are \
             latencies in a closed loop. What a front itself takes is in the column of its processor time, which does \
             not depend on that so much. Fronts have one thread each, unless the command above says more. Rounds are interleaved (A B C, A B C, …); figures \
             are medians over rounds, × is the median of ratios within a round with the least and the most in \
             brackets, *added* is what a front's latency has above that of the first row in the same round. `RSS` and \
             `PSS` are the front's memory at the end of the window. The column *client* is what this load generator \
             costs, *server* what PostgreSQL does.\n\n";
    let mut absent: Vec<String> = Vec::new();
    for (name, why) in measured.iter().flat_map(|part| &part.absent) {
        let line = format!("* `{name}` is left out: {why}");
        if !absent.contains(&line) {
            absent.push(line);
        }
    }
    let mut fronts: Vec<String> = Vec::new();
    for spec in measured.iter().flat_map(|part| &part.section.fronts) {
        let line = format!("* `{}`: {}", spec.name, spec.what());
        if !fronts.contains(&line) {
            fronts.push(line);
        }
    }
    text + &fronts.join("\n") + "\n" + &absent.join("\n") + "\n"
}

/// Everything on against PgBouncer; everything off against the bare relay.
pub fn standing(measured: &[Measured]) -> String {
    let tables = measured.iter().flat_map(|part| &part.tables).filter(|(cell, _)| !cell.workload.rests());
    let lines: Vec<String> = tables.filter_map(|(cell, rows)| standing_line(cell, rows)).collect();
    if lines.is_empty() {
        return String::new();
    }
    format!(
        "\n## How it stands\n\nEverything on beside PgBouncer, and everything off beside the bare relay.\n\n\
         | what | CPU ÷ PgBouncer's | speed ÷ PgBouncer's | added p50, µs: Lockgate / PgBouncer | added p99 | off: CPU ÷ relay's |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n{}\n",
        lines.join("\n")
    )
}

fn standing_line(cell: &Cell, rows: &[Row]) -> Option<String> {
    let of = |name: &str| rows.iter().find(|row| row.front == name);
    let (ours, theirs, bulk) = (of("lockgate")?, of("pgbouncer")?, cell.workload.is_bulk());
    let cost = |mine: &Row, other: &Row| {
        mine.paired(other, |mine, other| {
            mine.front_us(bulk).unwrap_or(0.0) / other.front_us(bulk).unwrap_or(0.0)
        })
    };
    let off = of("lockgate-off").zip(of("relay")).and_then(|(off, relay)| cost(off, relay));
    let added = |quantile| {
        let direct = of("direct").filter(|_| !bulk)?;
        let of = |row: &Row| row.paired(direct, |mine, base| mine.latency(quantile) - base.latency(quantile));
        Some(format!("{} / {}", signed(of(ours)), signed(of(theirs))))
    };
    let cells = [
        cell.title(),
        ratio(cost(ours, theirs)),
        ratio(ours.paired(theirs, |mine, other| mine.speed(bulk) / other.speed(bulk))),
        added(P50).unwrap_or(NONE.into()),
        added(P99).unwrap_or(NONE.into()),
        ratio(off),
    ];
    Some(format!("| {} |", cells.join(" | ")))
}

fn section(part: &Measured) -> String {
    let mut text = format!("\n## {}\n\n{}\n", part.section.title, part.section.text);
    for (cell, rows) in &part.tables {
        let Rhythm { rounds, seconds } = Rhythm::of(cell);
        let _ = writeln!(text, "\n### {}\n\n{}. {rounds}{seconds}\n", cell.title(), cell.workload.what());
        text += &if cell.workload.rests() { at_rest(cell, rows) } else { table(cell, rows) };
    }
    text
}

/// What each was told, once.
fn configurations(measured: &[Measured]) -> String {
    let mut text = String::from("\n## Configuration\n");
    let mut shown: Vec<&str> = Vec::new();
    let server = (String::from("PostgreSQL"), SETTINGS.trim_start().to_owned());
    for (name, files) in [&server].into_iter().chain(measured.iter().flat_map(|part| &part.configurations)) {
        if !shown.contains(&name.as_str()) {
            shown.push(name);
            text += &format!("\n<details><summary>{name}</summary>\n\n```\n{files}```\n\n</details>\n");
        }
    }
    text
}

struct Rhythm {
    rounds: String,
    seconds: String,
}

impl Rhythm {
    fn of(cell: &Cell) -> Rhythm {
        let rounds = match cell.rhythm.rounds {
            1 => "One round".into(),
            rounds => format!("{rounds} rounds"),
        };
        let seconds = match cell.workload.exchanges() {
            Some(1) => " of one result.".into(),
            Some(results) => format!(" of {results} results."),
            None => format!(" of {} s.", cell.rhythm.window.as_secs_f64()),
        };
        Rhythm { rounds, seconds }
    }
}

fn table(cell: &Cell, rows: &[Row]) -> String {
    let Some(base) = rows.first() else { return String::from("Nothing could be measured.\n") };
    let bulk = cell.workload.is_bulk();
    let (speed, each, latency) =
        if bulk { ("MiB a second", "µs / MiB", "ms") } else { ("a second", "µs each", "µs") };
    let mut text = format!(
        "| front | {speed} | × {} | p50 {latency} | p99 | p99.9 | added p50 | added p99 | CPU, {each} | client | server | RSS MiB |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        base.front
    );
    for row in rows {
        let _ = writeln!(text, "| {} |", line(row, base, bulk).join(" | "));
    }
    text
}

fn line(row: &Row, base: &Row, bulk: bool) -> [String; 12] {
    let is_base = row.front == base.front;
    // A result takes milliseconds.
    let scale = if bulk { 1e-3 } else { 1.0 };
    let latency = |quantile| number(row.spread(|round| scale * round.latency(quantile)));
    let added = |quantile| {
        let added = row.paired(base, |mine, base| scale * (mine.latency(quantile) - base.latency(quantile)));
        if is_base { NONE.into() } else { signed(added) }
    };
    let rss = row.front_cost(bulk).and_then(|_| row.spread(|round| mib(round.memory.1.rss_kib)));
    [
        format!("`{}`", row.front),
        number(row.spread(|round| round.speed(bulk))),
        if is_base {
            "1".into()
        } else {
            ratio(row.paired(base, |mine, base| mine.speed(bulk) / base.speed(bulk)))
        },
        latency(P50),
        latency(P99),
        latency(0.999),
        added(P50),
        added(P99),
        cpu(row, base, bulk),
        number(row.spread(|round| round.cost(round.client, bulk))),
        number(row.spread(|round| round.cost(round.server, bulk))),
        rss.map_or(NONE.into(), decimal),
    ]
}

/// With its ratio to the first row's, where that one costs something at all.
fn cpu(row: &Row, base: &Row, bulk: bool) -> String {
    let own = number(row.front_cost(bulk));
    let beside = base.front_cost(bulk).filter(|_| row.front != base.front).map(|_| {
        row.paired(base, |mine, base| mine.front_us(bulk).unwrap_or(0.0) / base.front_us(bulk).unwrap_or(0.0))
    });
    beside.map_or(own.clone(), |spread| format!("{own}, × {}", ratio(spread)))
}

fn at_rest(cell: &Cell, rows: &[Row]) -> String {
    let mut text = String::from(
        "| front | KiB for each session (PSS) | PSS before, MiB | PSS with all, MiB | RSS with all, MiB | CPU while all rest, ms a second |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for row in rows {
        let cells = [
            format!("`{}`", row.front),
            row.spread(|round| round.kib_for_each(cell.connections)).map_or(NONE.into(), decimal),
            row.spread(|round| mib(round.memory.0.pss_kib)).map_or(NONE.into(), decimal),
            row.spread(|round| mib(round.memory.1.pss_kib)).map_or(NONE.into(), decimal),
            row.spread(|round| mib(round.memory.1.rss_kib)).map_or(NONE.into(), decimal),
            row.spread(|round| {
                1e3 * round.front.unwrap_or(Duration::ZERO).as_secs_f64() / round.outcome.seconds
            })
            .map_or(NONE.into(), decimal),
        ];
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

impl Round {
    fn front_us(&self, bulk: bool) -> Option<f64> {
        Some(self.cost(self.front?, bulk))
    }

    fn speed(&self, bulk: bool) -> f64 {
        if bulk { self.throughput() } else { self.rate() }
    }
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn ratio(spread: Option<Spread>) -> String {
    spread
        .filter(|spread| spread.middle.is_finite())
        .map_or(NONE.into(), |Spread { middle, least, most }| format!("{middle:.2} ({least:.2}–{most:.2})"))
}

fn number(spread: Option<Spread>) -> String {
    spread.map_or(
        NONE.into(),
        |Spread { middle, .. }| {
            if middle < 100.0 { format!("{middle:.1}") } else { format!("{middle:.0}") }
        },
    )
}

fn decimal(Spread { middle, .. }: Spread) -> String {
    format!("{middle:.1}")
}

fn signed(spread: Option<Spread>) -> String {
    spread.map_or(NONE.into(), |Spread { middle, .. }| format!("{middle:+.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Section;
    use crate::load;
    use crate::process::Memory;
    use crate::workload::Workload;

    fn row(front: &str, commands: u64, cpu_ms: u64) -> Row {
        let mut outcome = load::Outcome { commands, bytes: 1 << 20, seconds: 1.0, ..load::empty().unwrap() };
        outcome.latencies.record(50_000 * cpu_ms).unwrap();
        let spent = Duration::from_millis(cpu_ms);
        let memory = (Memory::default(), Memory { rss_kib: 2048, pss_kib: 1024 });
        let round = Round {
            outcome,
            front: (front != "direct").then_some(spent),
            client: spent,
            server: spent,
            memory,
        };
        let latencies = round.outcome.latencies.clone();
        Row { front: front.into(), rounds: vec![round], latencies }
    }

    fn measured(workload: Workload) -> Measured {
        let rhythm =
            crate::compare::Rhythm { rounds: 1, warm: Duration::ZERO, window: Duration::from_secs(1) };
        let cell = Cell { workload, connections: 16, rate: None, tls: false, rhythm };
        let rows = vec![row("direct", 1000, 1), row("pgbouncer", 500, 4), row("lockgate", 750, 3)];
        let section =
            Section { title: "Some".into(), text: String::new(), fronts: Vec::new(), cells: Vec::new() };
        Measured {
            section,
            tables: vec![(cell, rows)],
            absent: vec![("haproxy".into(), "not installed".into())],
            configurations: Vec::new(),
        }
    }

    fn page(workload: Workload) -> String {
        let machine = Machine {
            hardware: "a machine".into(),
            versions: vec![],
            command: "lockgate-bench".into(),
            date: "2026".into(),
        };
        markdown(&machine, &[measured(workload)])
    }

    #[test]
    fn a_table_has_a_row_for_each_front_with_ratios_to_the_first() {
        let page = page(Workload::PointSimple);
        assert!(page.contains("### point-simple, 16 connections"), "{page}");
        assert!(page.contains(
            "| `pgbouncer` | 500 | 0.50 (0.50–0.50) | 200 | 200 | 200 | +150 | +150 | 8.0 | 8.0 | 8.0 | 2.0 |"
        ));
        assert!(page.contains("* `haproxy` is left out: not installed"));
    }

    #[test]
    fn a_switch_costs_a_ratio_of_the_first_row() {
        let (base, row) = (row("lockgate-off", 1000, 2), row("lockgate", 1000, 3));
        assert_eq!(cpu(&base, &base, false), "2.0");
        assert_eq!(cpu(&row, &base, false), "3.0, × 1.50 (1.50–1.50)");
    }

    #[test]
    fn lockgate_is_held_against_pgbouncer() {
        let wanted = "| point-simple, 16 connections | 0.50 (0.50–0.50) | 1.50 (1.50–1.50) | +100 / +150 | +100 / +150 | – |";
        assert!(page(Workload::PointSimple).contains(wanted));
    }

    #[test]
    fn sessions_at_rest_are_told_in_memory() {
        let page = page(Workload::Idle);
        assert!(page.contains("| `lockgate` | 64.0 | 0.0 | 1.0 | 2.0 | 3.0 |"), "{page}");
        assert!(!page.contains("How it stands"));
    }
}

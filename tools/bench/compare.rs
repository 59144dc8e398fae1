//! Measures workloads at several fronts, interleaved: what else the machine does falls on all alike, and ratios are made
//! within one round.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use lockgate_client::tls;

use crate::bed::{Bed, DATABASE, answers, free_address};
use crate::fronts::{Front, Setup, Spec};
use crate::load::{self, Edge, Load, Outcome};
use crate::process::{self, Memory, Process, Who};
use crate::workload::Workload;
use crate::{bed, say};

/// How long it takes, and how often it is done.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// A B C, A B C, …
    pub rounds: u32,
    /// Ahead of each window, with the same load.
    pub warm: Duration,
    /// In which everything counts.
    pub window: Duration,
}

/// One thing to measure at each front.
#[derive(Debug, Clone)]
pub struct Cell {
    /// What connections do.
    pub workload: Workload,
    /// How many.
    pub connections: u32,
    /// Exchanges a second; `None`: a closed loop.
    pub rate: Option<f64>,
    /// Clients speak TLS.
    pub tls: bool,
    /// For how long.
    pub rhythm: Rhythm,
}

/// A set of cells at a set of fronts.
#[derive(Debug, Clone)]
pub struct Section {
    /// As a heading.
    pub title: String,
    /// What a reader should know of it.
    pub text: String,
    /// Which; ratios are against the first.
    pub fronts: Vec<Spec>,
    /// What.
    pub cells: Vec<Cell>,
}

/// What a section gave.
#[derive(Debug)]
pub struct Measured {
    /// What was to be measured.
    pub section: Section,
    /// For each cell, what each front gave, in their order.
    pub tables: Vec<(Cell, Vec<Row>)>,
    /// Fronts that could not be, and why.
    pub absent: Vec<(String, String)>,
    /// What fronts were told.
    pub configurations: Vec<(String, String)>,
}

/// What one front gave in one cell.
#[derive(Debug)]
pub struct Row {
    /// Its name.
    pub front: String,
    /// One after the other.
    pub rounds: Vec<Round>,
    /// Of all rounds, in nanoseconds.
    pub latencies: Histogram<u64>,
}

/// One window.
#[derive(Debug, Clone)]
pub struct Round {
    /// What clients saw.
    pub outcome: Outcome,
    /// Processor time of the front, of this client and of the server.
    pub front: Option<Duration>,
    /// As above.
    pub client: Duration,
    /// As above; not there where the server is a stand-in.
    pub server: Duration,
    /// Of the front: before anybody came, and at the window's end.
    pub memory: (Memory, Memory),
}

#[derive(Debug, Clone, Copy)]
struct Spent {
    front: Option<Duration>,
    client: Duration,
    server: Duration,
    memory: Memory,
}

/// Measures a section. A front that cannot be started is left out and named; anything wrong after that is an error.
pub fn measure(bed: &mut Bed, setup: &Setup, section: Section) -> io::Result<Measured> {
    let mut measured =
        Measured { section, tables: Vec::new(), absent: Vec::new(), configurations: Vec::new() };
    let mut cells = measured.section.cells.clone();
    while let Some(first) = cells.first().map(|cell| cell.workload) {
        let rest = cells.iter().position(|cell| cell.workload != first).unwrap_or(cells.len());
        let group: Vec<Cell> = cells.drain(..rest).collect();
        if first.rests() {
            for cell in group {
                let rows = at_rest(bed, setup, &mut measured, &cell)?;
                measured.tables.push((cell, rows));
            }
            continue;
        }
        let mut fronts = open(bed, setup, &mut measured);
        for cell in group {
            let rows = interleaved(bed, &mut fronts, &cell)?;
            measured.tables.push((cell, rows));
        }
    }
    Ok(measured)
}

fn open(bed: &Bed, setup: &Setup, measured: &mut Measured) -> Vec<Front> {
    let specs = measured.section.fronts.clone();
    specs.iter().filter_map(|spec| measured.open(bed, setup, spec)).collect()
}

impl Measured {
    /// Starts one, and notes what it was told, or why it could not be.
    fn open(&mut self, bed: &Bed, setup: &Setup, spec: &Spec) -> Option<Front> {
        let known = |list: &[(String, String)]| list.iter().any(|(name, _)| *name == spec.name);
        match spec.start(bed, setup) {
            Ok(front) => {
                if !front.configuration.is_empty() && !known(&self.configurations) {
                    self.configurations.push((front.name.clone(), front.configuration.clone()));
                }
                Some(front)
            }
            Err(error) => {
                if !known(&self.absent) {
                    say(&format!("left out: {}: {error}", spec.name));
                    self.absent.push((spec.name.clone(), error.to_string()));
                }
                None
            }
        }
    }
}

/// Each front once without being counted (but for results so long that their beginning does not matter), then round by
/// round.
fn interleaved(bed: &Bed, fronts: &mut [Front], cell: &Cell) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for front in fronts.iter() {
        let latencies = load::empty()?.latencies;
        rows.push(Row { front: front.name.clone(), rounds: Vec::new(), latencies });
        if cell.workload.exchanges().is_none() {
            let warm = Rhythm { window: cell.rhythm.window / 4, ..cell.rhythm };
            round(bed, front, &Cell { rhythm: warm, ..cell.clone() })?;
        }
    }
    for _ in 0..cell.rhythm.rounds {
        for (front, row) in fronts.iter().zip(&mut rows) {
            let round = round(bed, front, cell)?;
            row.latencies.add(&round.outcome.latencies).map_err(io::Error::other)?;
            row.rounds.push(round);
        }
    }
    say(&format!("measured: {}", cell.title()));
    Ok(rows)
}

fn round(bed: &Bed, front: &Front, cell: &Cell) -> io::Result<Round> {
    if let Some(statement) = cell.workload.tidy() {
        bed.batch(DATABASE, &[statement.into()])?;
    }
    let at = |error: io::Error| io::Error::other(format!("{} at {}: {error}", cell.title(), front.name));
    let quiet = memory(front).map_err(at)?;
    let load = cell.load(bed, front)?;
    let (outcome, before, after) = load::run(&load, |edge| read(bed, front, edge)).map_err(at)?;
    if outcome.commands == 0 && !cell.workload.rests() {
        return Err(at(io::Error::other("not one command was answered within the window; make it longer")));
    }
    let front = after.front.zip(before.front).map(|(after, before)| after.saturating_sub(before));
    Ok(Round {
        outcome,
        front,
        client: after.client.saturating_sub(before.client),
        server: after.server.saturating_sub(before.server),
        memory: (quiet, after.memory),
    })
}

/// The front's time is read last where the window opens and first where it has closed: what reading takes is not its.
fn read(bed: &Bed, front: &Front, edge: Edge) -> io::Result<Spent> {
    let pid = front.process.as_ref().map(Process::pid);
    let spent = || pid.map(process::cpu).transpose();
    let client = || process::cpu(std::process::id());
    let server = || process::cpu_of_family(bed.pid());
    match edge {
        Edge::Opening => {
            Ok(Spent { server: server()?, client: client()?, front: spent()?, memory: Memory::default() })
        }
        Edge::Closing => {
            Ok(Spent { front: spent()?, client: client()?, server: server()?, memory: memory(front)? })
        }
    }
}

fn memory(front: &Front) -> io::Result<Memory> {
    front
        .process
        .as_ref()
        .map(|process| process::memory(process.pid()))
        .transpose()
        .map(Option::unwrap_or_default)
}

/// Each front by itself, before a stand-in: a real server's process for each of thousands of sessions would fill the
/// machine. The server itself has nothing to show here.
fn at_rest(bed: &mut Bed, setup: &Setup, measured: &mut Measured, cell: &Cell) -> io::Result<Vec<Row>> {
    let (address, standin) = stand_in(bed)?;
    let real = std::mem::replace(&mut bed.upstream, address);
    let mut rows = Vec::new();
    for spec in measured.section.fronts.clone() {
        if let Some(front) = measured.open(bed, setup, &spec).filter(|front| front.process.is_some()) {
            let round = round(bed, &front, cell)?;
            let latencies = load::empty()?.latencies;
            rows.push(Row { front: front.name.clone(), rounds: vec![round], latencies });
        }
    }
    bed.upstream = real;
    drop(standin);
    say(&format!("measured: {}", cell.title()));
    Ok(rows)
}

fn stand_in(bed: &Bed) -> io::Result<(std::net::SocketAddr, Process)> {
    let address = free_address()?;
    let place = bed.place("standin", Who::Ourselves)?;
    let words = ["standin", "--listen", &address.to_string(), "--catalog", bed::CATALOG, "--server"]
        .map(String::from);
    let words = [&words[..], &[bed.server_address.to_string()]].concat();
    let ourselves = std::env::current_exe()?;
    let mut process = Process::start(Who::Ourselves, &ourselves, &words, &place.join("log"))?;
    process.await_up(Duration::from_secs(10), || answers(address))?;
    Ok((address, process))
}

impl Cell {
    /// As in reports.
    pub fn title(&self) -> String {
        let tls = if self.tls && !self.workload.tls() { ", TLS" } else { "" };
        let rate = self.rate.map_or_else(String::new, |rate| format!(", {rate:.0} a second"));
        let s = if self.connections == 1 { "" } else { "s" };
        format!("{}, {} connection{s}{tls}{rate}", self.workload.name(), self.connections)
    }

    /// The same for a file's name.
    pub fn slug(&self) -> String {
        let title = self.title().replace(" connections", "").replace(" connection", "");
        title.replace(", ", "-").replace(' ', "-").to_lowercase()
    }

    fn load(&self, bed: &Bed, front: &Front) -> io::Result<Load> {
        let tls = if self.tls || self.workload.tls() { Some(tls::config()?) } else { None };
        Ok(Load {
            door: Arc::new(bed.door(front.address, tls)),
            workload: self.workload,
            masked: front.masked,
            connections: self.connections,
            threads: cores(),
            rate: self.rate,
            warm: self.rhythm.warm,
            window: self.rhythm.window,
        })
    }
}

/// Cores that this process may use.
pub fn cores() -> u32 {
    std::thread::available_parallelism().ok().and_then(|cores| u32::try_from(cores.get()).ok()).unwrap_or(1)
}

impl Round {
    /// Commands a second.
    pub fn rate(&self) -> f64 {
        self.outcome.commands as f64 / self.outcome.seconds
    }

    /// MiB a second.
    pub fn throughput(&self) -> f64 {
        self.mib() / self.outcome.seconds
    }

    fn mib(&self) -> f64 {
        self.outcome.bytes as f64 / f64::from(1 << 20)
    }

    /// Microseconds of latency at a quantile.
    pub fn latency(&self, quantile: f64) -> f64 {
        self.outcome.latencies.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Microseconds of processor time for each command, or for each MiB.
    pub fn cost(&self, spent: Duration, bulk: bool) -> f64 {
        let units = if bulk { self.mib() } else { self.outcome.commands as f64 };
        spent.as_secs_f64() * 1e6 / units
    }

    /// KiB of the front's memory that each session brought.
    pub fn kib_for_each(&self, connections: u32) -> f64 {
        let (before, with) = self.memory;
        (with.pss_kib as f64 - before.pss_kib as f64) / f64::from(connections)
    }
}

/// The middle, and how far to both sides it goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Median.
    pub middle: f64,
    /// Least.
    pub least: f64,
    /// Most.
    pub most: f64,
}

impl Spread {
    /// Of values, one for each round; `None` without any.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(Spread { middle: f64::midpoint(lower, upper), least, most })
    }
}

impl Row {
    /// Over all rounds.
    pub fn spread(&self, value: impl Fn(&Round) -> f64) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(value))
    }

    /// What becomes of pairs of one round of both.
    pub fn paired(&self, base: &Row, value: impl Fn(&Round, &Round) -> f64) -> Option<Spread> {
        Spread::of(self.rounds.iter().zip(&base.rounds).map(|(mine, theirs)| value(mine, theirs)))
    }

    /// Processor time of the front for each unit.
    pub fn front_cost(&self, bulk: bool) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|round| Some(round.cost(round.front?, bulk))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_median() {
        let spread = Spread::of([3.0, 1.0, 10.0]).unwrap();
        assert_eq!((spread.least, spread.middle, spread.most), (1.0, 3.0, 10.0));
        assert_eq!(Spread::of([1.0, 2.0]).unwrap().middle, 1.5);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn costs_are_per_command_or_per_mebibyte() {
        let outcome = Outcome { commands: 10, bytes: 2 << 20, seconds: 2.0, ..load::empty().unwrap() };
        let (none, spent) = (Memory::default(), Duration::from_micros(100));
        let round = Round { outcome, front: None, client: spent, server: spent, memory: (none, none) };
        assert_eq!((round.rate(), round.throughput()), (5.0, 1.0));
        assert_eq!((round.cost(spent, false), round.cost(spent, true)), (10.0, 50.0));
    }
}

//! The command line, and what each command does.

use std::io::{self, Write as _};
use std::net::ToSocketAddrs as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand, value_parser};
use lockgate_client::scram::Password;
use lockgate_client::tls;

use crate::bed::Bed;
use crate::client::{Client, Door};
use crate::compare::{Cell, Measured, Rhythm, Section, cores, measure};
use crate::fronts::{Setup, Spec};
use crate::load::{self, Load, Outcome};
use crate::plan::{self, Size};
use crate::report::{self, Machine};
use crate::runtime::block_on;
use crate::standin;
use crate::workload::{Workload, tables};

/// More than one address has ports for.
const CONNECTIONS_MAX: i64 = 60_000;
const DAY: Duration = Duration::from_secs(86_400);
const RATE_MIN: f64 = 0.01;
const RATE_MAX: f64 = 1e9;

/// Arguments.
#[derive(Debug, Parser)]
#[command(
    name = "lockgate-bench",
    version,
    about = "Load for PostgreSQL and what stands in front of it, compared side by side",
    after_help = "It starts what it compares by itself, on loopback and in a folder under /tmp: a PostgreSQL of its own \
                  (Debian: postgresql), PgBouncer and HAProxy (Debian: pgbouncer, haproxy), Lockgate and its bare relay \
                  (cargo build --release -p lockgate -p lockgate-bench; cargo build --release -p lockgate-ring --example \
                  relay). What is not there is left out, and the report says so. tools/bench/README.md says more."
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Drive one workload at one address; the password is in PGPASSWORD
    Run(Run),
    /// Measure workloads at several fronts, interleaved
    Compare(Compare),
    /// Make the whole report: every workload, every front, and which switch costs what (about 25 minutes)
    Report(Report),
    /// A server that costs nothing, for sessions at rest
    #[command(hide = true)]
    Standin(standin::Options),
}

/// One workload at one address. The password is in PGPASSWORD.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Host and port, of a server, a pooler or a gateway
    #[arg(long)]
    address: String,
    /// Who asks
    #[arg(long, default_value = "postgres")]
    user: String,
    /// The database, or a gateway's target
    #[arg(long, default_value = "bench")]
    database: String,
    /// What is asked
    #[arg(long, value_enum, default_value_t = Workload::PointPrepared)]
    workload: Workload,
    /// Make the workloads' tables first, in that database (they must not be there)
    #[arg(long)]
    fill: bool,
    /// The gateway masks accounts and documents: email with keep domain, card with keep last 4
    #[arg(long)]
    masked: bool,
    /// How many at a time
    #[arg(long, default_value_t = 16, value_parser = value_parser!(u32).range(1..=CONNECTIONS_MAX))]
    connections: u32,
    /// Threads that they are shared among [default: one per core]
    #[arg(long)]
    threads: Option<u32>,
    /// Exchanges a second, all together: latency then counts from the instant at which each was due [default: each
    /// connection asks again at once]
    #[arg(long, value_parser = rate, allow_negative_numbers = true)]
    rate: Option<f64>,
    /// Seconds that count
    #[arg(long, default_value = "5", value_parser = seconds, allow_negative_numbers = true)]
    seconds: Duration,
    /// Seconds before that
    #[arg(long, default_value = "1", value_parser = seconds, allow_negative_numbers = true)]
    warm: Duration,
    /// Inside TLS, whoever answers
    #[arg(long)]
    tls: bool,
}

/// Workloads at fronts.
#[derive(Debug, clap::Args)]
pub struct Compare {
    /// Which; ratios are against the first. NAME=HOST:PORT is one that stands already, before --server-port [see README]
    #[arg(long, value_delimiter = ',', value_parser = Spec::parse, default_value = plan::FRONTS)]
    fronts: Vec<Spec>,
    /// What is asked
    #[arg(long, value_enum, value_delimiter = ',', default_value = "point-simple,point-prepared")]
    workloads: Vec<Workload>,
    /// How many at a time, one after the other
    #[arg(long, value_delimiter = ',', default_value = "1,16,64", value_parser = value_parser!(u32).range(1..=CONNECTIONS_MAX))]
    connections: Vec<u32>,
    /// Exchanges a second, all together [default: a closed loop]
    #[arg(long, value_parser = rate, allow_negative_numbers = true)]
    rate: Option<f64>,
    /// How often each front has its turn
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each turn that count
    #[arg(long, default_value = "2", value_parser = seconds, allow_negative_numbers = true)]
    seconds: Duration,
    /// Seconds of each turn before that
    #[arg(long, default_value = "0.3", value_parser = seconds, allow_negative_numbers = true)]
    warm: Duration,
    /// Clients speak TLS
    #[arg(long)]
    tls: bool,
    /// Also write report.md, report.json and plots into this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Where the server listens on 127.0.0.1, for a front that was set up before it: database bench, user bench_app, the
    /// password in PGPASSWORD [default: a free port and a new password]
    #[arg(long, value_name = "PORT", value_parser = value_parser!(u16).range(1..))]
    server_port: Option<u16>,
    #[command(flatten)]
    setup: Setup,
}

/// The whole.
#[derive(Debug, clap::Args)]
pub struct Report {
    /// report.md, report.json and plots go into this folder
    #[arg(long, value_name = "FOLDER", default_value = "bench-report")]
    out: PathBuf,
    /// A sample in about a minute
    #[arg(long)]
    quick: bool,
    /// A front that cannot be started is a failure
    #[arg(long)]
    strict: bool,
    /// Sessions that are held at rest
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = value_parser!(u32).range(1..=CONNECTIONS_MAX))]
    idle_sessions: u32,
    #[command(flatten)]
    setup: Setup,
}

impl Run {
    /// Drives it and prints what came of it.
    pub fn run(&self) -> io::Result<()> {
        let mut found = self.address.to_socket_addrs().map_err(|error| {
            io::Error::other(format!("{} is no address: {error}; give HOST:PORT", self.address))
        })?;
        let address =
            found.next().ok_or_else(|| io::Error::other(format!("{} has no address", self.address)))?;
        let tls = if self.tls || self.workload.tls() { Some(tls::config()?) } else { None };
        let password = Password::new(std::env::var("PGPASSWORD").unwrap_or_default());
        let (user, database) = (self.user.clone(), self.database.clone());
        let door = Arc::new(Door { address, user, database, password, tls });
        if self.fill {
            fill(&door)?;
        }
        let load = Load {
            door,
            workload: self.workload,
            masked: self.masked,
            connections: self.connections,
            threads: self.threads.unwrap_or_else(cores),
            rate: self.rate,
            warm: self.warm,
            window: self.seconds,
        };
        let read = |_| crate::process::cpu(std::process::id());
        let (outcome, before, after) = load::run(&load, read)?;
        print(&told(&outcome, after.saturating_sub(before)))
    }
}

fn fill(door: &Arc<Door>) -> io::Result<()> {
    block_on(async {
        let mut client = Client::connect(door).await?;
        for statement in tables() {
            client.batch(&statement).await?;
        }
        client.close().await
    })?
}

fn told(outcome: &Outcome, client: Duration) -> String {
    let Outcome { latencies, commands, bytes, seconds } = outcome;
    let rate = *commands as f64 / seconds;
    let mib = *bytes as f64 / f64::from(1 << 20) / seconds;
    let us = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
    let each = client.as_secs_f64() * 1e6 / (*commands).max(1) as f64;
    format!(
        "{commands} commands in {seconds:.2} s: {rate:.0} a second, {mib:.1} MiB a second\n\
         latency in µs: p50 {:.1}, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1}\n\
         the client itself: {each:.1} µs of processor time for each command\n",
        us(0.5),
        us(0.9),
        us(0.99),
        us(0.999),
        us(1.0),
    )
}

impl Compare {
    /// Measures and prints it; writes it where that is wanted.
    pub fn run(&self) -> io::Result<()> {
        if self.server_port.is_none()
            && let Some(given) = self.fronts.iter().find(|front| front.is_given())
        {
            return Err(io::Error::other(format!(
                "{} stands before a server that it has to know beforehand: give --server-port, and PGPASSWORD",
                given.name
            )));
        }
        let rhythm = Rhythm { rounds: self.rounds.max(1), warm: self.warm, window: self.seconds };
        let cell =
            |workload, connections| Cell { workload, connections, rate: self.rate, tls: self.tls, rhythm };
        let cells =
            self.workloads.iter().flat_map(|workload| self.connections.iter().map(|n| cell(*workload, *n)));
        let title = String::from("Fronts side by side");
        let section =
            Section { title, text: String::new(), fronts: self.fronts.clone(), cells: cells.collect() };
        let measured = measured(vec![section], &self.setup, self.server_port)?;
        print(&report::markdown(&measured.0, &measured.1))?;
        self.out.as_ref().map_or(Ok(()), |out| report::write(out, &measured.0, &measured.1))
    }
}

impl Report {
    /// Measures everything and writes it.
    pub fn run(&self) -> io::Result<()> {
        let size = if self.quick { Size::Quick } else { Size::Full };
        let measured = measured(plan::sections(size, self.idle_sessions), &self.setup, None);
        let (machine, measured) = measured.or_else(|error| {
            print("bench: 0 passed, 1 failed\n")?;
            Err(error)
        })?;
        report::write(&self.out, &machine, &measured)?;
        let cells: usize = measured.iter().flat_map(|part| &part.tables).map(|(_, rows)| rows.len()).sum();
        let absent: usize = measured.iter().map(|part| part.absent.len()).sum();
        let failed = if self.strict { absent } else { 0 };
        let (page, standing) = (self.out.join("report.md"), report::standing(&measured));
        print(&format!("{standing}\n{}\nbench: {cells} passed, {failed} failed\n", page.display()))?;
        match failed {
            0 => Ok(()),
            _ => {
                Err(io::Error::other("fronts are missing, and --strict wants them all; they are named above"))
            }
        }
    }
}

fn measured(
    sections: Vec<Section>,
    setup: &Setup,
    server_port: Option<u16>,
) -> io::Result<(Machine, Vec<Measured>)> {
    let cells = || sections.iter().flat_map(|section| &section.cells);
    let most = |rests: bool| {
        cells().filter(|cell| cell.workload.rests() == rests).map(|cell| cell.connections).max()
    };
    let mut bed = Bed::make(most(false).unwrap_or(1), most(true).unwrap_or(1), server_port)?;
    let machine = Machine::read(&bed, setup, &sections);
    let measured: io::Result<Vec<Measured>> =
        sections.into_iter().map(|section| measure(&mut bed, setup, section)).collect();
    Ok((machine, measured?))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|number| Duration::try_from_secs_f64(number).ok());
    seconds.filter(|seconds| *seconds <= DAY).ok_or_else(|| "give seconds, up to 86400".into())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| (RATE_MIN..=RATE_MAX).contains(rate));
    rate.ok_or_else(|| format!("give exchanges a second, {RATE_MIN} to {RATE_MAX}"))
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

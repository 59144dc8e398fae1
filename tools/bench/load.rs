//! Drives a workload at a door: one thread per core, each with connections of its own, in a closed loop or at a rate.
//!
//! ```text
//! Connecting ──all stand──▶ Warming ──▶ Measuring ──▶ Over ──what was spent is read──▶ Leaving
//! ```
//!
//! In a closed loop a connection asks again as soon as it has its answer. At a rate, every exchange has an instant at
//! which it is due, whatever became of those before it, and its latency counts from that instant: what a stall delays is
//! counted as delayed (no coordinated omission).

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;

use crate::client::{Client, Door};
use crate::runtime::{Alarm, block_on};
use crate::script::Script;
use crate::workload::Workload;

/// Latencies are kept between these, in nanoseconds, to three digits.
const LATENCY_NS: (u64, u64) = (1_000, 600_000_000_000);
/// Connections of one thread that are being made at a time: a server's queue is not what is measured.
const CONNECTING_MAX: u32 = 32;
/// Who says nothing for so long will not.
const PATIENCE: Duration = Duration::from_secs(120);
const GLANCE: Duration = Duration::from_millis(1);

/// What is driven.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where.
    pub door: Arc<Door>,
    /// What.
    pub workload: Workload,
    /// Whether protected columns come back masked.
    pub masked: bool,
    /// How many at a time.
    pub connections: u32,
    /// Threads that they are shared among.
    pub threads: u32,
    /// Exchanges per second, all together; `None`: a closed loop.
    pub rate: Option<f64>,
    /// Before anything counts.
    pub warm: Duration,
    /// In which everything counts.
    pub window: Duration,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Of exchanges, in nanoseconds.
    pub latencies: Histogram<u64>,
    /// Commands that were answered.
    pub commands: u64,
    /// Bytes of answers and of copied data.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
enum Phase {
    Connecting,
    Warming,
    Measuring,
    Over,
    Leaving,
}

/// What the threads of a load share.
#[derive(Debug)]
struct Field {
    phase: AtomicU8,
    /// Connections that stand.
    ready: AtomicU32,
    /// Connections that have done what there was to do.
    done: AtomicU32,
}

type Drivers = Vec<JoinHandle<io::Result<Outcome>>>;

/// Nothing yet.
pub fn empty() -> io::Result<Outcome> {
    let latencies = Histogram::new_with_bounds(LATENCY_NS.0, LATENCY_NS.1, 3).map_err(io::Error::other)?;
    Ok(Outcome { latencies, commands: 0, bytes: 0, seconds: 0.0 })
}

impl Outcome {
    /// Takes what another one counted at the same time.
    pub fn add(&mut self, other: &Outcome) -> io::Result<()> {
        self.latencies.add(&other.latencies).map_err(io::Error::other)?;
        self.commands += other.commands;
        self.bytes += other.bytes;
        Ok(())
    }
}

/// Where a window begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// It is about to open.
    Opening,
    /// It has just closed.
    Closing,
}

/// Runs a load to its end. `read` is called at both edges of the window, while all connections stand.
pub fn run<T>(load: &Load, mut read: impl FnMut(Edge) -> io::Result<T>) -> io::Result<(Outcome, T, T)> {
    let field = Arc::new(Field {
        phase: AtomicU8::new(Phase::Connecting as u8),
        ready: AtomicU32::new(0),
        done: AtomicU32::new(0),
    });
    let threads = load.threads.clamp(1, load.connections.max(1));
    let mut drivers: Drivers = Vec::new();
    for thread in 0..threads {
        let (load, field) = (load.clone(), Arc::clone(&field));
        drivers.push(thread::spawn(move || block_on(drive(load, thread, threads, field))?));
    }
    let driven = conduct(load, &field, &mut drivers, &mut read);
    field.enter(Phase::Leaving);
    let (seconds, before, after) = driven?;
    let mut outcome = Outcome { seconds, ..empty()? };
    for driver in drivers {
        outcome.add(&joined(driver)?)?;
    }
    Ok((outcome, before, after))
}

fn conduct<T>(
    load: &Load,
    field: &Field,
    drivers: &mut Drivers,
    read: &mut impl FnMut(Edge) -> io::Result<T>,
) -> io::Result<(f64, T, T)> {
    await_all(&field.ready, load.connections, drivers)?;
    field.enter(Phase::Warming);
    let counted = load.workload.exchanges().is_some();
    if !counted {
        pause(load.warm, drivers)?;
    }
    let before = read(Edge::Opening)?;
    let begun = Instant::now();
    field.enter(Phase::Measuring);
    if counted {
        await_all(&field.done, load.connections, drivers)?;
    } else {
        pause(load.window, drivers)?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    field.enter(Phase::Over);
    let after = read(Edge::Closing)?;
    await_all(&field.done, load.connections, drivers)?;
    Ok((seconds, before, after))
}

fn joined(driver: JoinHandle<io::Result<Outcome>>) -> io::Result<Outcome> {
    driver.join().map_err(|_| io::Error::other("a thread of the load generator died"))?
}

/// A thread that ends before it is told to has failed; its error is everybody's.
fn look(drivers: &mut Drivers) -> io::Result<()> {
    match drivers.iter().position(JoinHandle::is_finished) {
        None => Ok(()),
        Some(dead) => match joined(drivers.swap_remove(dead)) {
            Ok(_) => Err(io::Error::other("a thread of the load generator ended early")),
            Err(error) => Err(error),
        },
    }
}

fn await_all(count: &AtomicU32, wanted: u32, drivers: &mut Drivers) -> io::Result<()> {
    let begun = Instant::now();
    while count.load(Ordering::Acquire) < wanted {
        look(drivers)?;
        if begun.elapsed() > PATIENCE {
            let there = count.load(Ordering::Acquire);
            let text =
                format!("only {there} of {wanted} connections got on within {PATIENCE:?}: the front hangs");
            return Err(io::Error::other(text));
        }
        thread::sleep(GLANCE);
    }
    Ok(())
}

fn pause(length: Duration, drivers: &mut Drivers) -> io::Result<()> {
    let end = Instant::now() + length;
    loop {
        look(drivers)?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(20 * GLANCE));
    }
}

impl Field {
    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    fn is_past(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Acquire) > phase as u8
    }

    fn is_measuring(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == Phase::Measuring as u8
    }

    async fn until_past(&self, phase: Phase) {
        while !self.is_past(phase) {
            monoio::time::sleep(GLANCE).await;
        }
    }
}

/// One connection and what it asks.
struct Asker {
    client: Option<Client>,
    script: Script,
    load: Rc<Load>,
    field: Arc<Field>,
    tally: Rc<RefCell<Outcome>>,
    /// Its place among all.
    number: u32,
}

/// One thread's whole life.
async fn drive(load: Load, thread: u32, threads: u32, field: Arc<Field>) -> io::Result<Outcome> {
    let load = Rc::new(load);
    let tally = Rc::new(RefCell::new(empty()?));
    let mine: Vec<u32> = (0..load.connections).filter(|number| number % threads == thread).collect();
    let mut askers = Vec::new();
    for some in mine.chunks(usize::try_from(CONNECTING_MAX).unwrap_or(1)) {
        let begun: Vec<_> = some
            .iter()
            .map(|number| {
                monoio::spawn(Asker::begin(*number, Rc::clone(&load), Arc::clone(&field), Rc::clone(&tally)))
            })
            .collect();
        for asker in begun {
            askers.push(asker.await?);
        }
    }
    field.until_past(Phase::Connecting).await;
    let asking: Vec<_> = askers.into_iter().map(|asker| monoio::spawn(asker.ask())).collect();
    let mut clients = Vec::new();
    for asker in asking {
        clients.extend(asker.await?);
    }
    // What servers have spent is read while their sessions stand.
    field.until_past(Phase::Over).await;
    for client in clients {
        client.close().await?;
    }
    Ok(tally.replace(empty()?))
}

impl Asker {
    async fn begin(
        number: u32,
        load: Rc<Load>,
        field: Arc<Field>,
        tally: Rc<RefCell<Outcome>>,
    ) -> io::Result<Asker> {
        let mut script = load.workload.script(load.masked, seed());
        let mut client = None;
        if !load.workload.reconnects() {
            let mut made = Client::connect(&load.door).await?;
            made.prepare(&script).await?;
            if load.workload.rests() {
                made.exchange(&mut script).await?;
            }
            client = Some(made);
        }
        field.ready.fetch_add(1, Ordering::AcqRel);
        Ok(Asker { client, script, load, field, tally, number })
    }

    async fn ask(mut self) -> io::Result<Option<Client>> {
        if self.load.workload.rests() {
            self.field.until_past(Phase::Measuring).await;
        } else if let Some(rate) = self.load.rate {
            self.at_rate(rate).await?;
        } else {
            self.in_a_loop().await?;
        }
        self.field.done.fetch_add(1, Ordering::AcqRel);
        Ok(self.client)
    }

    async fn in_a_loop(&mut self) -> io::Result<()> {
        let mut left = self.load.workload.exchanges();
        if left.is_some() {
            self.field.until_past(Phase::Warming).await;
        }
        let mut begun = Instant::now();
        while left != Some(0) && !self.field.is_past(Phase::Measuring) {
            begun = self.once(begun).await?;
            left = left.map(|left| left - 1);
        }
        Ok(())
    }

    async fn at_rate(&mut self, rate: f64) -> io::Result<()> {
        let alarm = Alarm::new()?;
        let interval = Duration::from_secs_f64(f64::from(self.load.connections) / rate);
        let share = f64::from(self.number) / f64::from(self.load.connections);
        let mut due = Instant::now() + interval.mul_f64(share);
        while !self.field.is_past(Phase::Measuring) {
            alarm.until(due).await?;
            self.once(due).await?;
            due += interval;
        }
        Ok(())
    }

    /// One exchange that was due at `begun`; when it ended.
    async fn once(&mut self, begun: Instant) -> io::Result<Instant> {
        let bytes = match &mut self.client {
            Some(client) => client.exchange(&mut self.script).await?,
            None => self.visit().await?,
        };
        let ended = Instant::now();
        if self.field.is_measuring() {
            let taken = u64::try_from(ended.duration_since(begun).as_nanos()).unwrap_or(u64::MAX);
            let copied = u64::try_from(self.script.copy.len()).unwrap_or(0);
            let mut tally = self.tally.borrow_mut();
            tally.latencies.saturating_record(taken);
            tally.commands += self.script.commands();
            tally.bytes += bytes + copied;
        }
        Ok(ended)
    }

    async fn visit(&mut self) -> io::Result<u64> {
        let mut client = Client::connect(&self.load.door).await?;
        let bytes = client.exchange(&mut self.script).await?;
        client.close().await?;
        Ok(bytes)
    }
}

/// One that no other connection has had, of this process and of those before it.
fn seed() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since.as_secs() << 8).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))
}

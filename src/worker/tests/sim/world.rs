//! One simulated run: a worker with its clients, its server, its control and its disk, and what must hold of it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use lockgate_bridge::snapshot::{Admission, Destination, Place, Queue, SessionsMax};
use lockgate_bridge::{Counters, Inbox, LateWake, Notice, Order, Outlet, Seats, Snapshot, Wake, mailbox};
use lockgate_lane::{
    Identity, ListenerAuth, ListenerRules, ListenerTls, SaltedKey, Secret, SessionAttrs, Standing, Target,
    TargetTls, Verifier,
};
use lockgate_policy_dsl::Source;
use lockgate_recording::{SEGMENT_BYTES_MIN, SeriesStart, Time, segment_path};
use lockgate_ring::sim::{Config, Disk, Faults, Random, Sim};
use lockgate_ring::{Driver, DriverKind, Event, ListenerId, Wait};

use super::backend::TABLE;
use super::client::{Client, Manner, Outcome, State};
use super::script::Author;
use super::server::{Server, secret};
use crate::tests::gate::{PASSWORD, TARGET, USER};
use crate::turn::Worker;
use crate::{Durability, Limits, ListenerSetup, RecordingSetup, Segment, Setup};

/// More turns than this without anything found, within a millisecond, are a worker that runs in circles.
const EMPTY_TURNS_MAX: u32 = 300;
/// When everybody has gone, sessions have this long to follow: longer than the kernel keeps a dead connection.
const AFTERWARDS_NS: u64 = 10_000_000_000_000;
/// No run takes more turns.
const TURNS_MAX: u64 = 3_000_000;

/// What kind of run a seed gives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) network: bool,
    pub(super) disk: bool,
    /// The machine stops in the middle, or the worker is told to.
    pub(super) end: Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// When all clients have ended.
    Late,
    /// Told to stop or drain while they are at it.
    Early,
    /// Everything ends at once.
    Crash,
}

impl Plan {
    /// Nothing goes wrong: everybody must be served to the last byte.
    fn is_calm(&self) -> bool {
        !self.network && !self.disk && self.end == Ending::Late
    }
}

/// What peers and harness share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) calm: bool,
    /// No command may pass before its record is written.
    pub(super) durable: bool,
    /// In a thousand, of the servers' connections.
    pub(super) servers_die: u32,
    /// Clients that have not ended.
    pub(super) running: usize,
    pub(super) last_process_id: u32,
    pub(super) target_verifier: Option<Arc<Verifier>>,
    pub(super) cancelled: BTreeSet<u32>,
    /// Markers of the commands that the server carried out.
    pub(super) seen: BTreeSet<String>,
    pub(super) violations: Vec<String>,
    pub(super) tally: Tally,
    recorded: BTreeSet<String>,
    scanned: usize,
}

/// How often what happened: a simulation in which nothing happens proves nothing.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    pub(super) served: u64,
    pub(super) refused: u64,
    pub(super) cut: u64,
    pub(super) left: u64,
    pub(super) gave_up: u64,
    pub(super) cancelled: u64,
    pub(super) commands: u64,
    pub(super) crashes: u64,
}

impl Shared {
    pub(super) fn complain(&mut self, what: String) {
        self.violations.push(what);
    }

    pub(super) fn cancel(&mut self, process_id: u32, key: &[u8]) {
        if key == secret(process_id) {
            self.cancelled.insert(process_id);
        } else {
            self.complain(format!("a cancel of {process_id} came with a key that is not the server's"));
        }
    }

    pub(super) fn slept(&mut self, cancelled: bool) {
        self.tally.cancelled += u64::from(cancelled);
    }

    /// Whether a marker stands in what was acknowledged.
    pub(super) fn is_recorded(&mut self, marker: &str, acknowledged: &[u8]) -> bool {
        self.recorded.append(&mut markers(&acknowledged[self.scanned..]));
        self.scanned = acknowledged.len();
        self.recorded.contains(marker)
    }

    pub(super) fn client_ended(&mut self, number: usize, manner: Manner, outcome: Outcome) {
        self.running -= 1;
        match &outcome {
            Outcome::Served => self.tally.served += 1,
            Outcome::Refused(_) => self.tally.refused += 1,
            Outcome::Cut(_) => self.tally.cut += 1,
            Outcome::Left => self.tally.left += 1,
            Outcome::GaveUp => self.tally.gave_up += 1,
        }
        let well = match (manner, &outcome) {
            (Manner::Raves, _) => true,
            (Manner::Silent, Outcome::Refused(code)) => code == "57014" || !self.calm,
            (Manner::WrongPassword, Outcome::Refused(code)) => code == "28P01" || !self.calm,
            (Manner::Resets(_) | Manner::Finishes(_), Outcome::Left) => true,
            (Manner::Silent | Manner::WrongPassword, Outcome::Served) => false,
            (_, Outcome::Served) => true,
            // What clients may be told when something has gone wrong, by the gateway or the server.
            (_, Outcome::Refused(code)) => {
                let codes = ["08001", "28000", "08006", "53300", "57P01", "57P03", "57014", "58030"];
                !self.calm && codes.contains(&code.as_str())
            }
            _ => !self.calm,
        };
        if !well {
            self.complain(format!("client {number} ({manner:?}) ended with {outcome:?}"));
        }
    }
}

/// Every marker in some bytes.
fn markers(bytes: &[u8]) -> BTreeSet<String> {
    let marker = |at| bytes.get(at..at + 7).filter(|found| found[1..].iter().all(u8::is_ascii_digit));
    let found = memchr::memchr_iter(b'm', bytes).filter_map(marker);
    found.map(|found| String::from_utf8_lossy(found).into_owned()).collect()
}

struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

thread_local! {
    static ENTROPY: Cell<u64> = const { Cell::new(0) };
}

/// The worker's randomness, which the seed decides as well.
fn entropy(bytes: &mut [u8]) -> std::io::Result<()> {
    let mut random = Random::new(ENTROPY.get());
    random.fill(bytes);
    ENTROPY.set(random.bits());
    Ok(())
}

/// A file of a segment's size: what is written goes to the simulated disk, not into it.
static SEGMENT: LazyLock<File> = LazyLock::new(|| {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SEGMENT_BYTES_MIN).unwrap();
    file
});

/// Stands for a listening socket, which the simulator does not use.
fn no_socket() -> TcpListener {
    TcpListener::from(OwnedFd::from(SEGMENT.try_clone().unwrap()))
}

const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5432);
const NOBODY_THERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5433);
const TARGET_PASSWORD: &[u8] = b"target-secret";

/// A simulated machine.
pub(super) struct World {
    plan: Plan,
    random: Random,
    worker: Worker<Sim>,
    shared: Rc<RefCell<Shared>>,
    orders: Outlet<Order>,
    notices: Inbox<Notice>,
    folder: Rc<tempfile::TempDir>,
    first_segment: u64,
    snapshots: Snapshots,
    turns: u64,
    empty_turns: u32,
    empty_since_ns: u64,
    /// The end has been ordered.
    ending: bool,
    crash_at_ns: u64,
}

/// What is left of a run.
pub(super) struct Remains {
    pub(super) trace: u64,
    pub(super) tally: Tally,
    pub(super) turns: u64,
    pub(super) virtual_ns: u64,
    pub(super) journal: Vec<String>,
    pub(super) violations: Vec<String>,
}

impl World {
    /// The world of a plan. `folder` and `recovery`: where its recording goes on.
    pub(super) fn new(plan: Plan, journal_lines: usize, folder: Rc<tempfile::TempDir>, life: u64) -> World {
        let mut random = Random::new(plan.seed ^ life.wrapping_mul(0x9e37_79b9));
        ENTROPY.set(random.bits());
        let recovery = lockgate_recording::recover(folder.path(), 0).unwrap();
        let mut violations = Vec::new();
        for alarm in &recovery.alarms {
            violations.push(format!("recovery raises an alarm: {alarm}"));
        }
        let durable = random.chance(600);
        let shared = Shared { calm: plan.is_calm(), durable, violations, ..Shared::default() };
        let shared = Rc::new(RefCell::new(shared));
        let first_segment = recovery.next_segment;
        let sim = sim(&plan, &mut random, journal_lines);
        let mut snapshots = Snapshots::draw(&mut random, plan.is_calm());
        if plan.network {
            shared.borrow_mut().servers_die = u32::try_from(random.below(300)).unwrap();
        }
        shared.borrow_mut().target_verifier = snapshots.target_verifier.clone();
        let late = Arc::new(LateWake::default());
        late.fill(sim.waker());
        let (orders, inbox) = mailbox(256, late as Arc<dyn Wake>);
        let (outlet, notices) = mailbox(64, Arc::new(Nobody) as Arc<dyn Wake>);
        let setup = Setup {
            index: 0,
            workers: 1,
            core: None,
            driver: DriverKind::Epoll,
            spin: std::time::Duration::ZERO,
            listeners: vec![ListenerSetup {
                address: SocketAddr::from(([127, 0, 0, 1], 6432)),
                socket: no_socket(),
                rules: Arc::new(ListenerRules::new(ListenerTls::Off, ListenerAuth::Scram)),
                tls: None,
            }],
            snapshot: snapshots.next(true),
            inbox,
            outlet,
            peers: vec![orders.clone()],
            counters: Arc::new(Counters::default()),
            lane_limits: Arc::new(lockgate_lane::Limits::default()),
            limits: Limits::default(),
            recording: RecordingSetup {
                start: SeriesStart {
                    worker: 0,
                    node: 1,
                    boot: 2 + life,
                    recovery,
                    now: Time { monotonic_ns: 0, wall_us: 0 },
                },
                segment: segment(first_segment),
                durability: if durable { Durability::Os } else { Durability::Async },
            },
            started: sim.started(),
            wake: Box::new(|_| ()),
        };
        let worker = Worker::new(sim, setup, entropy).unwrap();
        let crash_at_ns = if plan.end == Ending::Crash { random.below(4_000_000_000) } else { u64::MAX };
        let mut world = World {
            plan,
            random,
            worker,
            shared,
            orders,
            notices,
            folder,
            first_segment,
            snapshots,
            turns: 0,
            empty_turns: 0,
            empty_since_ns: 0,
            ending: false,
            crash_at_ns,
        };
        world.people(life);
        world
    }

    /// Server and clients.
    fn people(&mut self, life: u64) {
        let shared = Rc::clone(&self.shared);
        let listener = self.worker.listeners[0].sockets[0];
        self.worker.ring.host(SERVER, move || Box::new(Server::new(&shared)));
        let mut next_marker = u32::try_from(life).unwrap() * 100_000;
        let clients = self.random.length(1, 5);
        for number in 0..clients {
            let client = self.client(number, listener, &mut next_marker);
            let at_ns = self.random.below(1_000_000_000);
            let from = SocketAddr::from(([10, 0, 0, u8::try_from(number).unwrap()], 1000));
            self.shared.borrow_mut().running += 1;
            self.worker.ring.connect(at_ns, listener, from, Box::new(client));
        }
        for _ in 0..self.random.below(3) {
            let at_ns = self.random.below(3_000_000_000);
            let admits = self.plan.is_calm() || !self.random.chance(200);
            let order = Order::Adopt(self.snapshots.next(admits));
            self.order_at(at_ns, order);
        }
        if self.plan.end == Ending::Early {
            let at_ns = self.random.below(4_000_000_000);
            self.order_end(at_ns);
        }
    }

    fn client(&mut self, number: usize, listener: ListenerId, next_marker: &mut u32) -> Client {
        let rounds = self.random.length(1, 14);
        let manner = match self.random.below(20) {
            0 => Manner::WrongPassword,
            1 => Manner::Silent,
            2 => Manner::Raves,
            3 => Manner::Resets(self.random.length(0, rounds)),
            4 => Manner::Finishes(self.random.length(0, rounds)),
            5..=7 => Manner::Slow,
            _ => Manner::Good,
        };
        let masks = self.snapshots.masks;
        let script = Author { random: &mut self.random, masks, next_marker }.script(rounds);
        Client {
            number,
            shared: Rc::clone(&self.shared),
            manner,
            listener,
            script: script.into(),
            asks_for_tls: self.random.chance(200),
            state: State::New,
            wants: VecDeque::new(),
            rounds: 0,
            key: (0, Vec::new()),
            heard_ns: 0,
            rests_until_ns: 0,
            waits: true,
        }
    }

    fn order_at(&mut self, at_ns: u64, order: Order) {
        let orders = self.orders.clone();
        // A mailbox that is full, or whose worker has ended, loses nothing that anybody waits for here.
        self.worker.ring.later(at_ns, move || drop(orders.send(order)));
    }

    fn order_end(&mut self, at_ns: u64) {
        self.ending = true;
        let order = if self.random.chance(500) {
            let ending = if self.random.chance(300) {
                lockgate_bridge::Ending::ByThemselves
            } else {
                lockgate_bridge::Ending::WhenIdle
            };
            Order::Drain { deadline_ns: at_ns + self.random.below(10_000_000_000), ending }
        } else {
            Order::Stop
        };
        self.order_at(at_ns, order);
    }

    /// Runs to the end; then what must hold is looked at, and after a crash there is another life.
    pub(super) fn run(mut self) -> Remains {
        let trouble = self.turns().err();
        if let Some(trouble) = trouble {
            self.shared.borrow_mut().complain(trouble);
        }
        let crashed = self.plan.end == Ending::Crash && !self.worker.is_over();
        if crashed {
            self.shared.borrow_mut().tally.crashes += 1;
        } else {
            self.check_ended();
        }
        let World { worker, shared, folder, first_segment, plan, turns, .. } = self;
        let mut remains = Remains {
            trace: worker.ring.trace(),
            tally: shared.borrow().tally,
            turns,
            virtual_ns: worker.ring.now_ns(),
            journal: worker.ring.journal().map(str::to_owned).collect(),
            violations: Vec::new(),
        };
        let Worker { ring, .. } = worker;
        let disk = ring.crash();
        save(&disk, folder.path(), first_segment);
        let complete = shared.borrow().durable || (!plan.disk && !crashed);
        check_recording(folder.path(), &mut shared.borrow_mut(), complete, crashed);
        let again = lockgate_recording::recover(folder.path(), 0).unwrap();
        if !crashed && !plan.disk && again.crash.is_some() {
            let what = format!("a clean end looks like a crash: {:?}", again.crash);
            shared.borrow_mut().complain(what);
        }
        remains.tally.commands = shared.borrow().seen.len() as u64;
        remains.violations = std::mem::take(&mut shared.borrow_mut().violations);
        if crashed && remains.violations.is_empty() {
            let plan = Plan { network: false, disk: false, end: Ending::Late, ..plan };
            let second = World::new(plan, 0, folder, 1).run();
            remains.trace ^= second.trace.rotate_left(1);
            remains.violations = second.violations;
        }
        remains
    }

    fn turns(&mut self) -> Result<(), String> {
        let mut events = Vec::new();
        while !self.worker.is_over() {
            let before = (self.worker.ring.events_told(), self.worker.ring.counts().queued_bytes);
            if let Err(error) = self.worker.turn(&mut events) {
                // The last one may have gone without the worker's having anything to do with it, or its hearing of it.
                let gone = self.shared.borrow().running == 0;
                let heard = self.worker.sessions.is_empty() || !self.snapshots.last_call;
                if self.ending || !gone || !heard {
                    return Err(error.to_string());
                }
            }
            // Bytes that leave in small pieces are something, too.
            let found = (self.worker.ring.events_told(), self.worker.ring.counts().queued_bytes) != before;
            self.turns += 1;
            self.control();
            self.watch(found)?;
            let now_ns = self.worker.ring.now_ns();
            if now_ns >= self.crash_at_ns {
                return Ok(());
            }
            if self.shared.borrow().running == 0 && !self.ending {
                let alone = self.worker.sessions.is_empty() && self.worker.couriers.is_empty();
                if alone {
                    self.check_empty();
                    self.order_end(now_ns);
                } else if !std::mem::replace(&mut self.snapshots.last_call, true) {
                    let orders = self.orders.clone();
                    self.worker.ring.later(now_ns + AFTERWARDS_NS, move || drop(orders.send(Order::Stop)));
                }
            }
        }
        Ok(())
    }

    /// A worker may not run in circles, nor for ever.
    fn watch(&mut self, found: bool) -> Result<(), String> {
        let now_ns = self.worker.ring.now_ns();
        if found || now_ns > self.empty_since_ns + 1_000_000 {
            (self.empty_turns, self.empty_since_ns) = (0, now_ns);
        }
        self.empty_turns += 1;
        if self.empty_turns > EMPTY_TURNS_MAX {
            return Err(format!("{EMPTY_TURNS_MAX} turns found nothing"));
        }
        if self.turns > TURNS_MAX {
            return Err(format!("it does not end in {TURNS_MAX} turns"));
        }
        Ok(())
    }

    /// What control does: it answers, sooner or later.
    fn control(&mut self) {
        while let Some(notice) = self.notices.take() {
            let order = match notice {
                Notice::CancelElsewhere { ticket, .. } => Order::CancelDone { ticket },
                Notice::SegmentWanted { .. } if self.plan.disk && self.random.chance(200) => {
                    Order::SegmentFailed { error: String::from("disk full") }
                }
                Notice::SegmentWanted { number, .. } => {
                    let Segment { number, file, direct, path } = segment(number);
                    Order::Segment { number, file, direct, path }
                }
                Notice::Salt { ticket, request, .. } => {
                    let key =
                        Verifier::salt_password(request.password.expose(), &request.salt, request.iterations);
                    Order::Salted { ticket, key: SaltedKey(key) }
                }
                _ => continue,
            };
            let delay_ns = self.random.below(50_000_000);
            self.order_at(self.worker.ring.now_ns() + delay_ns, order);
        }
    }

    /// Everybody has gone: so must everything be that was kept for them.
    fn check_empty(&mut self) {
        let worker = &self.worker;
        let kept = [
            ("sessions behind gates", worker.gated.len()),
            ("cancel keys", worker.keys.len()),
            ("cancels passed on", worker.passed_on.len()),
            ("unauthenticated connections", worker.admission.waiting()),
        ];
        for (what, count) in kept {
            if count > 0 {
                self.shared.borrow_mut().complain(format!("{count} {what} are left of nobody"));
            }
        }
    }

    /// The worker has ended: nothing may be left of it.
    fn check_ended(&mut self) {
        let sessions = self.worker.sessions.len();
        let ring = &mut self.worker.ring;
        // Connections that were refused at the last moment may still be closing.
        let mut events = Vec::new();
        for _ in 0..1000 {
            let deadline = ring.now().instant + std::time::Duration::from_secs(1);
            if ring.counts().connections == 0 || ring.turn(Wait::Until(deadline), &mut events).is_err() {
                break;
            }
            for event in events.drain(..) {
                match event {
                    Event::Received { lease, .. } => ring.release(lease),
                    Event::Accepted { conn, .. } => ring.close(conn, false),
                    _ => {}
                }
            }
        }
        let counts = ring.counts();
        let empty = lockgate_ring::sim::Counts {
            connections: 0,
            files: 0,
            slots_in_use: 0,
            queued_bytes: 0,
            listeners: 0,
        };
        let stalled = self.plan.disk && counts.files > 0;
        let counts = if stalled { lockgate_ring::sim::Counts { files: 0, ..counts } } else { counts };
        if counts != empty || sessions > 0 {
            let text = format!("left at the end: {counts:?}, {sessions} sessions");
            self.shared.borrow_mut().complain(text);
        }
        let running = self.shared.borrow().running;
        if self.plan.end == Ending::Late && running > 0 {
            self.shared.borrow_mut().complain(format!("{running} clients never came to an end"));
        }
    }
}

fn sim(plan: &Plan, random: &mut Random, journal_lines: usize) -> Sim {
    let mut faults = Faults::calm(random);
    if plan.network {
        faults = faults.with_network(random);
    }
    if plan.disk {
        faults = faults.with_disk(random);
    }
    let config = Config {
        slots: u16::try_from(random.between(1, 40)).unwrap(),
        slot_bytes: u32::try_from([64, 700, 4096, 16_384][random.length(0, 3)]).unwrap(),
        window_bytes_max: [1 << 10, 16 << 10, 256 << 10][random.length(0, 2)],
        faults,
        journal_lines,
        ..Config::default()
    };
    Sim::new(random.bits(), config).unwrap()
}

fn segment(number: u64) -> Segment {
    Segment {
        number,
        file: SEGMENT.try_clone().unwrap().into(),
        direct: None,
        path: format!("segment {number}"),
    }
}

/// Puts a simulated disk where the recording's own tools read.
fn save(disk: &Disk, folder: &Path, first_segment: u64) {
    for (number, image) in (first_segment..).zip(disk.images()) {
        let path = segment_path(folder, 0, number);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, image).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(SEGMENT_BYTES_MIN).unwrap();
    }
}

/// What was recorded verifies, and holds every command that the server saw.
fn check_recording(folder: &Path, shared: &mut Shared, complete: bool, crashed: bool) {
    let report = lockgate_recording::verify(folder).unwrap();
    if !report.ok() {
        shared.complain(format!("the recording does not verify: {report:?}"));
    }
    let mut recorded = Vec::new();
    let problems = lockgate_recording::read_series(folder, 0, &mut |entry| {
        if let lockgate_recording::Record::Command { statement, .. } = &entry.record {
            recorded.extend_from_slice(statement);
            recorded.push(b' ');
        }
    });
    if !problems.unwrap().is_empty() && !crashed {
        shared.complain(String::from("the recording cannot be read to its end"));
    }
    if !complete {
        return;
    }
    let recorded = markers(&recorded);
    let lost: Vec<&String> = shared.seen.difference(&recorded).collect();
    if !lost.is_empty() {
        let what = format!("the server carried out what no record tells of: {lost:?}");
        shared.complain(what);
    }
}

/// Makes snapshots of one user and one target.
struct Snapshots {
    epoch: u64,
    masks: bool,
    target: Arc<Target>,
    target_verifier: Option<Arc<Verifier>>,
    addresses: Vec<SocketAddr>,
    target_seats: Arc<Seats>,
    user_seats: Arc<Seats>,
    sessions_max: u32,
    queue: Queue,
    /// The worker is told to stop, should it not come to an end.
    last_call: bool,
}

impl Snapshots {
    fn draw(random: &mut Random, calm: bool) -> Snapshots {
        let password = random.chance(500);
        let mut addresses = vec![SERVER];
        if random.chance(300) {
            addresses.insert(0, NOBODY_THERE);
        }
        Snapshots {
            epoch: 0,
            masks: random.chance(400),
            target: Arc::new(Target {
                name: String::from(TARGET),
                attrs: SessionAttrs::Any,
                database: String::from("orders"),
                user: String::from("orders_app"),
                password: password.then(|| Secret::new(TARGET_PASSWORD.to_vec())),
                tls: TargetTls::Disable,
            }),
            target_verifier: password.then(|| Arc::new(Verifier::derive(TARGET_PASSWORD, vec![5; 16], 64))),
            addresses,
            target_seats: Arc::new(Seats::new(1)),
            user_seats: Arc::new(Seats::new(1)),
            sessions_max: if random.chance(300) { 2 } else { u32::MAX },
            // Where nothing fails, everybody's turn comes.
            queue: Queue { max: 100, ns_max: if calm { AFTERWARDS_NS } else { 5_000_000_000 } },
            last_call: false,
        }
    }

    fn next(&mut self, admits: bool) -> Arc<Snapshot> {
        self.epoch += 1;
        let identity = Arc::new(Identity { name: String::from(USER), groups: vec![String::from("pilot")] });
        let mut masks = lockgate_mask::ColumnMasks::default();
        if self.masks {
            let rule = lockgate_mask::Rule {
                name: Arc::from("all/mask"),
                place: Arc::from("public.t.secret"),
                mask: lockgate_mask::Mask::Redact,
            };
            masks.add(TABLE, 2, rule);
        }
        let standing = Standing {
            epoch: self.epoch,
            program: POLICIES.program(USER, &identity.groups, TARGET).unwrap(),
            catalog: Arc::new(lockgate_facts::postgres::Catalog::empty()),
            masks,
        };
        let mut standings = HashMap::new();
        if admits {
            standings.insert((String::from(USER), String::from(TARGET)), Arc::new(standing));
        }
        let places = self.addresses.iter().map(|address| Place { address: *address, tls: None }).collect();
        let destination = Destination {
            known: true,
            target: Arc::clone(&self.target),
            places,
            seats: Arc::clone(&self.target_seats),
            sessions_max: SessionsMax { max: self.sessions_max, key: "target.sessions_max" },
            queue: self.queue,
        };
        let admission = Admission {
            identity,
            verifier: Arc::clone(&VERIFIER),
            certificate_name: Arc::from("u"),
            seats: Arc::clone(&self.user_seats),
            sessions_max: SessionsMax { max: u32::MAX, key: "user.sessions_max" },
        };
        Arc::new(Snapshot {
            epoch: self.epoch,
            users: HashMap::from([(String::from(USER), admission)]),
            targets: HashMap::from([(String::from(TARGET), destination)]),
            standings,
            decoy_key: [9; 32],
        })
    }
}

static VERIFIER: LazyLock<Arc<Verifier>> =
    LazyLock::new(|| Arc::new(Verifier::derive(PASSWORD.as_bytes(), vec![7; 16], 64)));

static POLICIES: LazyLock<lockgate_policy_dsl::PolicySet> = LazyLock::new(|| {
    let text =
        "policy all for group \"pilot\" on target * {\n    allow * on *\n    deny drop because \"no\"\n}\n";
    let source = Source { name: String::from("test.policy"), text: String::from(text) };
    lockgate_policy_dsl::compile(&[source]).unwrap().0
});

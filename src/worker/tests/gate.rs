//! One worker under test, and a stand-in for control that answers its notices.

use std::collections::HashMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lockgate_bridge::snapshot::{Admission, Destination, DestinationTls, Place, Queue, SessionsMax};
use lockgate_bridge::{
    Counters, Ending, LateWake, ListenerSettings, Notice, Order, Outlet, Seats, Settings, Snapshot, Wake,
    mailbox,
};
use lockgate_lane::{
    Identity, ListenerAuth, ListenerRules, ListenerTls, SessionAttrs, Standing, Target, TargetTls, Verifier,
};
use lockgate_policy_dsl::Source;
use lockgate_recording::{
    Recovery, SEGMENT_BYTES_MIN, SegmentFile, SeriesStart, Time, create_segment, verify,
};
use lockgate_ring::DriverKind;

use super::server::Server;
use crate::tls::tests::{fixture, name, server_tls};
use crate::{Durability, Limits, ListenerSetup, RecordingSetup, Segment, Setup, run};

pub(crate) const USER: &str = "agent-7";
pub(crate) const PASSWORD: &str = "correct horse";
pub(crate) const TARGET: &str = "orders";

pub(crate) struct Options {
    pub(crate) driver: DriverKind,
    pub(crate) server_tls: bool,
    /// The gateway does not trust the server's certificate.
    pub(crate) distrust: bool,
    pub(crate) durability: Durability,
    pub(crate) limits: Limits,
    pub(crate) lane_limits: lockgate_lane::Limits,
    /// The first segment cannot be written, and there is no other before [`Gate::supply_segments`].
    pub(crate) broken_segment: bool,
    pub(crate) dead_address_first: bool,
    pub(crate) sessions_max: u32,
    pub(crate) user_sessions_max: u32,
    pub(crate) queue: Queue,
}

impl Options {
    pub(crate) fn on(driver: DriverKind) -> Options {
        Options {
            driver,
            server_tls: false,
            distrust: false,
            durability: Durability::Async,
            limits: Limits::default(),
            lane_limits: lockgate_lane::Limits::default(),
            broken_segment: false,
            dead_address_first: false,
            sessions_max: u32::MAX,
            user_sessions_max: u32::MAX,
            queue: Queue { max: 0, ns_max: 0 },
        }
    }
}

pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    pub(crate) server: Server,
    pub(crate) trusts_gate: Arc<rustls::ClientConfig>,
    orders: Outlet<Order>,
    started: Instant,
    folder: tempfile::TempDir,
    control: Arc<Control>,
    worker: Option<JoinHandle<std::io::Result<()>>>,
    snapshots: Snapshots,
}

/// What control has been told.
#[derive(Default)]
struct Control {
    bell: (Mutex<bool>, Condvar),
    adopted: AtomicU64,
    stopped: AtomicBool,
    segments: AtomicBool,
    /// Answers to questions of control's.
    answers: AtomicU64,
    /// Secrets of cancel requests that are nobody's here.
    elsewhere: Mutex<Vec<Vec<u8>>>,
}

struct Bell(Arc<Control>);

impl Wake for Bell {
    fn wake(&self) {
        *self.0.bell.0.lock().unwrap() = true;
        self.0.bell.1.notify_all();
    }
}

impl Gate {
    pub(crate) fn start(options: Options) -> Gate {
        let gate_tls = fixture(&[&rustls::version::TLS12, &rustls::version::TLS13]);
        let target_tls = fixture(&[&rustls::version::TLS13]);
        let stranger = fixture(&[&rustls::version::TLS13]);
        let server = Server::start(options.server_tls.then(|| Arc::clone(&target_tls.server)));
        let trust = if options.distrust { stranger.client } else { target_tls.client };
        let mut addresses = vec![server.address];
        if options.dead_address_first {
            addresses.insert(0, TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        }
        let snapshots = Snapshots {
            addresses,
            tls: options.server_tls.then_some(trust),
            target_seats: Arc::new(Seats::new(1)),
            user_seats: Arc::new(Seats::new(1)),
            sessions_max: options.sessions_max,
            user_sessions_max: options.user_sessions_max,
            queue: options.queue,
        };
        let folder = tempfile::tempdir().unwrap();
        let SegmentFile { file, direct } = create_segment(folder.path(), 0, 0, SEGMENT_BYTES_MIN).unwrap();
        let file = if options.broken_segment {
            drop(file);
            // Open for reading only: the first write fails.
            File::open(lockgate_recording::segment_path(folder.path(), 0, 0)).unwrap()
        } else {
            file
        };
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let late = Arc::new(LateWake::default());
        let (orders, inbox) = mailbox(64, late.clone() as Arc<dyn Wake>);
        let control = Arc::new(Control::default());
        control.segments.store(!options.broken_segment, Ordering::SeqCst);
        let (outlet, notices) = mailbox(64, Arc::new(Bell(Arc::clone(&control))) as Arc<dyn Wake>);
        let started = Instant::now();
        let setup = Setup {
            index: 0,
            workers: 1,
            driver: options.driver,
            spin: Duration::from_micros(50),
            core: None,
            listeners: vec![ListenerSetup {
                address,
                socket,
                rules: Arc::new(ListenerRules::new(ListenerTls::Optional, ListenerAuth::Scram)),
                tls: Some(server_tls(&gate_tls)),
            }],
            snapshot: snapshots.make(1, true),
            inbox,
            outlet,
            peers: vec![orders.clone()],
            counters: Arc::new(Counters::default()),
            lane_limits: Arc::new(options.lane_limits),
            limits: options.limits,
            recording: RecordingSetup {
                start: SeriesStart {
                    worker: 0,
                    node: 1,
                    boot: 2,
                    recovery: Recovery::default(),
                    now: Time { monotonic_ns: 0, wall_us: 0 },
                },
                segment: Segment {
                    number: 0,
                    file: file.into(),
                    direct: direct.map(Into::into),
                    path: String::from("first"),
                },
                durability: options.durability,
            },
            started,
            wake: Box::new(move |waker| late.fill(waker)),
        };
        let worker = std::thread::spawn(move || run(setup));
        let (shared, answers, root) = (Arc::clone(&control), orders.clone(), folder.path().to_owned());
        std::thread::spawn(move || {
            while !shared.stopped.load(Ordering::SeqCst) {
                while let Some(notice) = notices.take() {
                    shared.take(notice, &answers, &root);
                }
                let mut rung = shared.bell.0.lock().unwrap();
                while !*rung {
                    rung = shared.bell.1.wait(rung).unwrap();
                }
                *rung = false;
            }
        });
        Gate {
            address,
            server,
            trusts_gate: gate_tls.client,
            orders,
            started,
            folder,
            control,
            worker: Some(worker),
            snapshots,
        }
    }

    pub(crate) fn adopt(&self, epoch: u64, admits: bool) {
        self.orders.send(Order::Adopt(self.snapshots.make(epoch, admits))).unwrap();
    }

    pub(crate) fn adopted(&self, epoch: u64) -> bool {
        self.control.adopted.load(Ordering::SeqCst) == epoch
    }

    pub(crate) fn drain(&self, within: Duration, ending: Ending) {
        let deadline = self.started.elapsed() + within;
        let deadline_ns = u64::try_from(deadline.as_nanos()).unwrap();
        self.orders.send(Order::Drain { deadline_ns, ending }).unwrap();
    }

    pub(crate) fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
    }

    /// How many questions the worker has answered.
    pub(crate) fn answers(&self) -> u64 {
        self.control.answers.load(Ordering::SeqCst)
    }

    /// Secrets of cancel requests that control was asked about.
    pub(crate) fn elsewhere(&self) -> Vec<Vec<u8>> {
        self.control.elsewhere.lock().unwrap().clone()
    }

    /// Listens on these sockets and nowhere else.
    pub(crate) fn configure(&self, listeners: Vec<(SocketAddr, Vec<TcpListener>)>, limits: Limits) {
        let rules = Arc::new(ListenerRules::new(ListenerTls::Off, ListenerAuth::Scram));
        let listeners = listeners.into_iter().map(|(address, sockets)| ListenerSettings {
            address,
            sockets,
            rules: Arc::clone(&rules),
            tls: None,
        });
        let listeners = listeners.collect();
        let before = self.answers();
        let (lane_limits, durability) = (Arc::default(), Durability::Async);
        self.order(Order::Configure(Box::new(Settings { limits, lane_limits, durability, listeners })));
        until(|| (self.answers() > before).then_some(()));
    }

    pub(crate) fn supply_segments(&self) {
        self.control.segments.store(true, Ordering::SeqCst);
    }

    /// Stops the worker and verifies what it recorded.
    pub(crate) fn stop_and_verify(self, case: &str) {
        self.orders.send(Order::Stop).unwrap();
        self.stopped_and_verified(case);
    }

    /// The worker ends by itself; what it recorded verifies.
    pub(crate) fn stopped_and_verified(mut self, case: &str) {
        let worker = self.worker.take().unwrap();
        let started = Instant::now();
        while !worker.is_finished() {
            assert!(started.elapsed() < Duration::from_secs(30), "{case}: the worker does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
        worker.join().unwrap().unwrap();
        until(|| self.control.stopped.load(Ordering::SeqCst).then_some(()));
        let report = verify(self.folder.path()).unwrap();
        assert!(report.ok(), "{case}: {report:?}");
    }
}

impl Control {
    fn take(&self, notice: Notice, answers: &Outlet<Order>, root: &std::path::Path) {
        let answer = match notice {
            Notice::Adopted { epoch, .. } => return self.adopted.store(epoch, Ordering::SeqCst),
            Notice::Stopped { .. } => return self.stopped.store(true, Ordering::SeqCst),
            Notice::RecordingFailed { .. } => return,
            Notice::Configured { .. } | Notice::Pong { .. } | Notice::CancelDone { .. } => {
                self.answers.fetch_add(1, Ordering::SeqCst);
                return;
            }
            Notice::CancelElsewhere { ticket, request, .. } => {
                self.elsewhere.lock().unwrap().push(request.secret);
                Order::CancelDone { ticket }
            }
            Notice::SegmentWanted { number, .. } if self.segments.load(Ordering::SeqCst) => {
                let SegmentFile { file, direct } =
                    create_segment(root, 0, number, SEGMENT_BYTES_MIN).unwrap();
                let (file, direct) = (file.into(), direct.map(Into::into));
                Order::Segment { number, file, direct, path: format!("segment {number}") }
            }
            Notice::SegmentWanted { .. } => Order::SegmentFailed { error: String::from("disk full") },
            Notice::Salt { ticket, request, .. } => {
                let key =
                    Verifier::salt_password(request.password.expose(), &request.salt, request.iterations);
                Order::Salted { ticket, key: lockgate_lane::SaltedKey(key) }
            }
        };
        // A worker that has ended takes no answer.
        let _ = answers.send(answer);
    }
}

/// Makes snapshots with one user and one target.
struct Snapshots {
    addresses: Vec<SocketAddr>,
    tls: Option<Arc<rustls::ClientConfig>>,
    target_seats: Arc<Seats>,
    user_seats: Arc<Seats>,
    sessions_max: u32,
    user_sessions_max: u32,
    queue: Queue,
}

impl Snapshots {
    fn make(&self, epoch: u64, admits: bool) -> Arc<Snapshot> {
        let identity = Arc::new(Identity { name: String::from(USER), groups: vec![String::from("pilot")] });
        let target = Arc::new(Target {
            name: String::from(TARGET),
            attrs: SessionAttrs::Any,
            database: String::from("orders"),
            user: String::from("orders_app"),
            password: None,
            tls: if self.tls.is_some() { TargetTls::VerifyFull } else { TargetTls::Disable },
        });
        let source = Source {
            name: String::from("test.policy"),
            text: String::from("policy all for group \"pilot\" on target * {\n    allow * on *\n}\n"),
        };
        let (policies, _) = lockgate_policy_dsl::compile(&[source]).unwrap();
        let program = policies.program(USER, &identity.groups, TARGET).unwrap();
        let standing = Standing {
            epoch,
            program,
            catalog: Arc::new(lockgate_facts::postgres::Catalog::empty()),
            masks: lockgate_mask::ColumnMasks::default(),
        };
        let mut standings = HashMap::new();
        if admits {
            standings.insert((String::from(USER), String::from(TARGET)), Arc::new(standing));
        }
        let verifier = Arc::new(Verifier::derive(PASSWORD.as_bytes(), vec![7; 16], 4096));
        let tls = self.tls.clone().map(|config| DestinationTls { config, name: name() });
        let places =
            self.addresses.iter().map(|address| Place { address: *address, tls: tls.clone() }).collect();
        let destination = Destination {
            known: true,
            target,
            places,
            seats: Arc::clone(&self.target_seats),
            sessions_max: SessionsMax { max: self.sessions_max, key: "target.sessions_max" },
            queue: self.queue,
        };
        let admission = Admission {
            certificate_name: Arc::from(USER),
            identity,
            verifier,
            seats: Arc::clone(&self.user_seats),
            sessions_max: SessionsMax { max: self.user_sessions_max, key: "user.sessions_max" },
        };
        Arc::new(Snapshot {
            epoch,
            users: HashMap::from([(String::from(USER), admission)]),
            targets: HashMap::from([(String::from(TARGET), destination)]),
            standings,
            decoy_key: [9; 32],
        })
    }
}

/// Tries until there is a result, for ten seconds.
pub(crate) fn until<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "it never came to that");
        std::thread::sleep(Duration::from_millis(10));
    }
}

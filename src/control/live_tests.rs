//! Control against a real PostgreSQL: catalogs are read, followed when they change, and published to workers; a target
//! that is down or comes back is told.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::{
    Account, Bell, Control, Host, Reload, Setup, TargetHost, TargetSetup, UserSetup, Work, WorkerLink,
    policies,
};
use lockgate_bridge::{
    Durability, Inbox, Limits, Notice, Order, Outlet, Queue, SessionsMax, Snapshot, Wake, mailbox,
};
use lockgate_lane::{Identity, SaltRequest, Secret, SessionAttrs, Target, TargetTls, Verifier};

/// Where Debian puts the server's programs.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

const POLICY: &str = r#"
policy agents for group "ai" on target "orders" {
    allow read on public.customers
    mask  public.customers.email with redact
    mask  public.*.phone         with null
    mask  public.customers.lost  with null
}
"#;

/// A server of this test's own, stopped when it is dropped.
struct Server {
    folder: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl Server {
    fn new(name: &str) -> Server {
        let folder = std::env::temp_dir().join(format!("lockgate-control-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        let password = folder.join("password");
        fs::write(&password, "grüße\n").unwrap();
        let data = folder.join("data");
        let made = server_command("initdb")
            .args([
                "--auth=scram-sha-256",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ])
            .arg(format!("--pwfile={}", password.display()))
            .arg("-D")
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Server { folder, port, process: None };
        server.start();
        server
    }

    fn start(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log")).unwrap();
        let process = server_command("postgres")
            .arg("-D")
            .arg(self.folder.join("data"))
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c"])
            .arg(format!("unix_socket_directories={}", self.folder.join("data").display()))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        until("the server answers", || self.psql("SELECT 1"));
    }

    fn psql(&self, sql: &str) -> Option<()> {
        TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let done = Command::new(Path::new(PROGRAMS).join("psql"))
            .env("PGPASSWORD", "grüße")
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres", "-d", "postgres"])
            .args(["-v", "ON_ERROR_STOP=1", "-qc", sql])
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status();
        done.is_ok_and(|status| status.success()).then_some(())
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // The postmaster's own pid: SIGINT is a fast shutdown.
            let pid = fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap_or_default();
            let pid = pid.lines().next().unwrap_or("0").to_owned();
            let _ = Command::new("kill").args(["-INT", &pid]).status();
            let _ = process.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A server's program as an ordinary user, which servers insist on.
fn server_command(program: &str) -> Command {
    let program = Path::new(PROGRAMS).join(program);
    let root = fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command
}

fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Deaf;

impl Wake for Deaf {
    fn wake(&self) {}
}

/// The binary around control: its next configurations, in order.
#[derive(Default)]
struct Configurations(Mutex<Vec<Result<Reload, Vec<String>>>>);

impl Host for Configurations {
    fn reload(&self, _: Option<&[std::net::SocketAddr]>) -> Result<Reload, Vec<String>> {
        self.0.lock().unwrap().remove(0)
    }

    fn start_successor(&self) -> std::io::Result<u32> {
        Err(std::io::Error::other("none here"))
    }
}

fn work() -> Work {
    Work { limits: Limits::default(), lane_limits: Arc::default(), durability: Durability::Async }
}

fn target(server: &Server) -> TargetSetup {
    let secret = || Secret::new("grüße".as_bytes().to_vec());
    let target = Target {
        name: String::from("orders"),
        attrs: SessionAttrs::Any,
        database: String::from("postgres"),
        user: String::from("postgres"),
        password: Some(secret()),
        tls: TargetTls::Disable,
    };
    TargetSetup {
        target: Arc::new(target),
        hosts: vec![TargetHost { name: String::from("localhost"), port: server.port, tls: None }],
        catalog: Account { user: String::from("postgres"), password: Some(secret()) },
        catalog_poll: Duration::from_secs(1),
        sessions_max: SessionsMax { max: u32::MAX, key: "" },
        queue: Queue { max: 0, ns_max: 0 },
    }
}

fn user(name: &str) -> UserSetup {
    let groups = vec![String::from("ai")];
    UserSetup {
        identity: Arc::new(Identity { name: name.to_owned(), groups }),
        password: Some(Secret::new(b"pw".to_vec())),
        certificate_name: Arc::from(name),
        sessions_max: SessionsMax { max: u32::MAX, key: "" },
    }
}

/// Control with one worker that this test plays.
struct Gateway {
    control: Control,
    first: Arc<Snapshot>,
    orders: Inbox<Order>,
    notices: Outlet<Notice>,
    admin: std::net::SocketAddr,
    recordings: PathBuf,
    host: Arc<Configurations>,
}

impl Gateway {
    fn new(server: &Server) -> Gateway {
        let recordings = server.folder.join("recordings");
        let policy = server.folder.join("orders.policy");
        fs::write(&policy, POLICY).unwrap();
        let (outlet, orders) = mailbox(4, Arc::new(Deaf));
        let bell = Arc::new(Bell::default());
        let (notices, inbox) = mailbox(64, bell.clone());
        let admin = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = admin.local_addr().unwrap();
        let run = server.folder.join("run");
        fs::create_dir_all(&run).unwrap();
        let lock = fs::File::create(server.folder.join("lock")).unwrap();
        let host = Arc::new(Configurations::default());
        let setup = Setup {
            targets: vec![target(server)],
            users: vec![user("agent-7")],
            policies: policies::load(&[policy]).unwrap(),
            admin: Some(admin),
            doors: Vec::new(),
            work: work(),
            host: host.clone(),
            run,
            lock,
            recordings: recordings.clone(),
            series: vec![0],
            segment_bytes: 4 << 20,
            drain_timeout: Duration::from_secs(30),
            handover_timeout: Duration::from_secs(30),
            started: Instant::now(),
            notices: inbox,
            bell,
            workers: vec![WorkerLink { outlet, counters: Arc::default() }],
        };
        let (control, first) = crate::start(setup).unwrap();
        control.announce(None).unwrap();
        Gateway { control, first, orders, notices, admin: address, recordings, host }
    }

    /// The next order that `wanted` takes; others are passed over.
    fn order<T>(&self, what: &str, mut wanted: impl FnMut(Order) -> Option<T>) -> T {
        until(what, || self.orders.take().and_then(&mut wanted))
    }

    fn get(&self, path: &str) -> String {
        use std::io::{Read as _, Write as _};
        let mut stream = TcpStream::connect(self.admin).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// Masks of a snapshot by place.
fn masks(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let pair = (String::from("agent-7"), String::from("orders"));
    let Some(standing) = snapshot.standings.get(&pair) else { return BTreeMap::new() };
    let rules = standing.masks.rules.values();
    rules.map(|rule| (rule.place.to_string(), format!("{:?}", rule.mask))).collect()
}

fn adopted(order: Order) -> Option<Arc<Snapshot>> {
    match order {
        Order::Adopt(snapshot) => Some(snapshot),
        _ => None,
    }
}

fn places(all: &[(&str, &str)]) -> BTreeMap<String, String> {
    all.iter().map(|(place, mask)| ((*place).to_owned(), (*mask).to_owned())).collect()
}

#[test]
fn catalogs_are_read_followed_and_missed() {
    let mut server = Server::new("follow");
    server.psql("CREATE TABLE customers (id int, email text, phone text)").unwrap();
    let gateway = Gateway::new(&server);
    let expected = [("public.customers.email", "Redact"), ("public.customers.phone", "Null")];
    assert_eq!(masks(&gateway.first), places(&expected));
    assert!(gateway.first.targets["orders"].places.iter().all(|place| place.address.ip().is_loopback()));

    gateway.notices.send(Notice::Adopted { worker: 0, epoch: gateway.first.epoch }).unwrap();
    until("ready", || gateway.get("/readyz").starts_with("HTTP/1.1 200").then_some(()));

    let changed = Instant::now();
    server.psql("CREATE TABLE suppliers (phone text)").unwrap();
    let more = [expected[0], expected[1], ("public.suppliers.phone", "Null")];
    gateway.order("a table that was made", |order| {
        adopted(order).filter(|snapshot| masks(snapshot) == places(&more))
    });
    assert!(changed.elapsed() < Duration::from_secs(5), "found after {:?}", changed.elapsed());

    server.stop();
    until("down", || {
        gateway.get("/metrics").contains("lockgate_target_up{target=\"orders\"} 0").then_some(())
    });
    assert!(gateway.get("/readyz").contains("cannot be checked"), "{}", gateway.get("/readyz"));
    server.start();
    until("up", || gateway.get("/metrics").contains("lockgate_target_up{target=\"orders\"} 1").then_some(()));
    server.psql("ALTER TABLE customers DROP COLUMN phone").unwrap();
    let less = [expected[0], ("public.suppliers.phone", "Null")];
    gateway.order("a column that was dropped", |order| {
        adopted(order).filter(|snapshot| masks(snapshot) == places(&less))
    });
    gateway.control.finish();
}

#[test]
fn a_target_that_is_down_at_start_is_waited_for_and_nobody_connects_meanwhile() {
    let mut server = Server::new("down");
    server.psql("CREATE TABLE customers (id int, email text)").unwrap();
    server.stop();
    let gateway = Gateway::new(&server);
    assert!(gateway.first.standings.is_empty());
    let answer = gateway.get("/readyz");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\"name\":\"orders\""), "{answer}");
    server.start();
    gateway.order("the catalog", |order| adopted(order).filter(|snapshot| !masks(snapshot).is_empty()));
    gateway.control.finish();
}

#[test]
fn workers_get_segments_salted_passwords_and_their_end() {
    let server = Server::new("notices");
    let gateway = Gateway::new(&server);
    gateway.notices.send(Notice::SegmentWanted { worker: 0, number: 7 }).unwrap();
    let path = gateway.order("a segment", |order| match order {
        Order::Segment { number: 7, file, path, .. } => {
            assert_eq!(fs::File::from(file).metadata().unwrap().len(), 4 << 20);
            Some(path)
        }
        _ => None,
    });
    assert!(Path::new(&path).starts_with(&gateway.recordings), "{path}");

    let password = Secret::new("I\u{ad}X".as_bytes().to_vec());
    let request = SaltRequest { password, salt: b"salt".to_vec(), iterations: 4096, number: 0 };
    gateway.notices.send(Notice::Salt { worker: 0, ticket: 5, request }).unwrap();
    let key = gateway.order("a salted password", |order| match order {
        Order::Salted { ticket: 5, key } => Some(key),
        _ => None,
    });
    assert_eq!(key.0, Verifier::salt_password(b"IX", b"salt", 4096), "prepared by SASLprep");

    // A segment that is in the way can not be made, and is tried until it can.
    let blocked = lockgate_recording::segment_path(&gateway.recordings, 0, 8);
    fs::write(&blocked, "in the way").unwrap();
    gateway.notices.send(Notice::SegmentWanted { worker: 0, number: 8 }).unwrap();
    let error = gateway.order("a failure", |order| match order {
        Order::SegmentFailed { error } => Some(error),
        _ => None,
    });
    assert!(error.contains(&*blocked.display().to_string()), "{error}");
    assert!(gateway.get("/readyz").contains("\"what\":\"recording\""), "{}", gateway.get("/readyz"));
    fs::remove_file(&blocked).unwrap();
    gateway.order("the segment after all", |order| {
        matches!(order, Order::Segment { number: 8, .. }).then_some(())
    });
    assert!(!gateway.get("/readyz").contains("\"what\":\"recording\""), "{}", gateway.get("/readyz"));

    gateway.control.drain();
    gateway.order("a drain", |order| matches!(order, Order::Drain { .. }).then_some(()));
    gateway.control.stop();
    gateway.order("a stop", |order| matches!(order, Order::Stop).then_some(()));
    assert!(gateway.get("/readyz").contains("shutting down"));
    gateway.control.finish();
}

#[test]
fn a_reload_holds_at_once_or_not_at_all() {
    let server = Server::new("reload");
    server.psql("CREATE TABLE customers (id int, email text)").unwrap();
    let gateway = Gateway::new(&server);
    let policy = server.folder.join("orders.policy");
    fs::write(&policy, POLICY.replace("with redact", "with null")).unwrap();
    let reload = |users: &[&str]| Reload {
        targets: vec![target(&server)],
        users: users.iter().map(|name| user(name)).collect(),
        policies: policies::load(std::slice::from_ref(&policy)).unwrap(),
        doors: Vec::new(),
        work: work(),
        segment_bytes: 4 << 20,
        drain_timeout: Duration::from_secs(30),
        handover_timeout: Duration::from_secs(30),
        warnings: Vec::new(),
        changes: Vec::new(),
        fixed: Vec::new(),
    };
    let mistakes = vec![String::from("line 3: no such key"), String::from("line 7: no such key")];
    let next = [Err(mistakes), Ok(reload(&["agent-8"])), Ok(reload(&["agent-8"]))];
    gateway.host.0.lock().unwrap().extend(next);

    gateway.control.announce(None).unwrap();
    gateway.control.reload();
    until("refused", || gateway.get("/readyz").contains("refused for 2 mistakes").then_some(()));
    assert!(gateway.get("/metrics").contains("lockgate_reloads_total{result=\"refused\"} 1"));

    gateway.control.reload();
    let snapshot = gateway.order("a snapshot of the new configuration", adopted);
    assert!(snapshot.epoch > gateway.first.epoch);
    assert_eq!(snapshot.users.keys().collect::<Vec<_>>(), ["agent-8"]);
    let pair = (String::from("agent-8"), String::from("orders"));
    let masks: Vec<_> = snapshot.standings[&pair].masks.rules.values().map(|rule| rule.mask).collect();
    assert_eq!(masks, [lockgate_mask::Mask::Null], "with the catalog that was read before");
    let successful = || gateway.get("/metrics").contains("lockgate_last_reload_successful 1").then_some(());
    until("the reload counts as done", successful);

    gateway.control.reload();
    let again = gateway.order("an epoch for each reload", adopted);
    assert_eq!(again.epoch, snapshot.epoch + 1);
    gateway.control.finish();
}

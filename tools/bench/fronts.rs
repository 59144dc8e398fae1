//! What can stand between a client and the server, and how each of them is set up so that they can be compared: one
//! thread each, SCRAM on both legs where they authenticate, one session of the server's for each of the client's.

use std::fs;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use crate::bed::{Bed, DATABASE, USER, answers, free_address, give, shown};
use crate::process::{self, Process, Who};

mod lockgate;

pub use lockgate::Variant;

/// Where clients connect, and whose time and memory it costs.
type Started = (SocketAddr, Option<Process>);

const START: Duration = Duration::from_secs(60);
/// More than any file has, but for a policy of thousands of rules.
const CONFIGURATION_LINES: usize = 80;

/// What is compared: a name, and how it comes to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// In reports.
    pub name: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Direct,
    PgBouncer,
    HaProxy,
    Relay(&'static str),
    Lockgate(Variant),
    /// Another build of Lockgate, everything on.
    Build(PathBuf),
    /// It stands already, and knows the same user and database.
    Given(SocketAddr),
}

/// How fronts are started.
#[derive(Debug, Clone, clap::Args)]
pub struct Setup {
    /// Lockgate's program [default: beside this one]
    #[arg(long, value_name = "FILE")]
    lockgate: Option<PathBuf>,
    /// The bare relay: cargo build --release -p lockgate-ring --example relay [default: examples/relay beside this one]
    #[arg(long, value_name = "FILE")]
    relay: Option<PathBuf>,
    /// Threads of Lockgate and of HAProxy; PgBouncer and the relay have one.
    #[arg(long, default_value_t = 1, value_name = "N")]
    workers: u32,
    /// Fronts speak TLS with the server (those that terminate it: PgBouncer, Lockgate).
    #[arg(long)]
    server_tls: bool,
}

/// One that stands.
#[derive(Debug)]
pub struct Front {
    /// As in its [`Spec`].
    pub name: String,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Protected columns come back masked.
    pub masked: bool,
    /// Whose time and memory it costs; `None`: nothing stands in between, or it is not ours.
    pub process: Option<Process>,
    /// What it was told, file by file.
    pub configuration: String,
}

impl Drop for Front {
    /// What it wrote goes with it: a recording of gigabytes is in nobody's interest.
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            let place = process.place();
            drop(process);
            // Whatever stays goes with the bed's folder.
            let _ = fs::remove_dir_all(place);
        }
    }
}

/// Name, sentence and kind of all that this tool can start.
const KNOWN: &[(&str, &str, Kind)] = &[
    ("direct", "the server itself", Kind::Direct),
    ("pgbouncer", "PgBouncer, session pooling", Kind::PgBouncer),
    ("haproxy", "HAProxy, mode tcp", Kind::HaProxy),
    ("relay", "a bare relay on Lockgate's ring: what io_uring costs at the least", Kind::Relay("io_uring")),
    ("relay-epoll", "a bare relay by epoll", Kind::Relay("epoll")),
    (
        "lockgate",
        "Lockgate with everything on: policy, masks, recording (async)",
        Kind::Lockgate(Variant::ALL),
    ),
    (
        "lockgate-epoll",
        "everything on, by epoll",
        Kind::Lockgate(Variant { driver: "epoll", ..Variant::ALL }),
    ),
    (
        "lockgate-os",
        "everything on, durability os",
        Kind::Lockgate(Variant { durability: "os", ..Variant::ALL }),
    ),
    (
        "lockgate-spin",
        "everything on, a worker looks for 60 µs before it sleeps",
        Kind::Lockgate(Variant { spin: "60us", ..Variant::ALL }),
    ),
    (
        "lockgate-unmasked",
        "policy and recording, no mask",
        Kind::Lockgate(Variant { masks: false, ..Variant::ALL }),
    ),
    (
        "lockgate-off",
        "a policy that allows everything, no mask; it records all the same",
        Kind::Lockgate(Variant::OFF),
    ),
    (
        "lockgate-rules-10",
        "everything on, 10 rules more",
        Kind::Lockgate(Variant { rules: 10, ..Variant::ALL }),
    ),
    (
        "lockgate-rules-1000",
        "everything on, 1,000 rules more",
        Kind::Lockgate(Variant { rules: 1000, ..Variant::ALL }),
    ),
    (
        "lockgate-rules-10000",
        "everything on, 10,000 rules more",
        Kind::Lockgate(Variant { rules: 10_000, ..Variant::ALL }),
    ),
];

impl Spec {
    /// One of those known, NAME=HOST:PORT, or NAME=FILE (with a slash in it).
    pub fn parse(text: &str) -> Result<Spec, String> {
        if let Some((name, _, kind)) = KNOWN.iter().find(|(name, ..)| *name == text) {
            return Ok(Spec { name: (*name).into(), kind: kind.clone() });
        }
        let known: Vec<&str> = KNOWN.iter().map(|(name, ..)| *name).collect();
        let help = || {
            format!("there is no such front; there are {}, NAME=HOST:PORT and NAME=FILE", known.join(", "))
        };
        let (name, address) = text.split_once('=').ok_or_else(help)?;
        if address.contains('/') {
            return Ok(Spec { name: name.into(), kind: Kind::Build(address.into()) });
        }
        let mut found = address.to_socket_addrs().map_err(|error| format!("{address}: {error}"))?;
        let address = found.next().ok_or_else(|| format!("{address} has no address"))?;
        Ok(Spec { name: name.into(), kind: Kind::Given(address) })
    }

    /// It stands already.
    pub fn is_given(&self) -> bool {
        matches!(self.kind, Kind::Given(_))
    }

    /// What it is, for a report's reader.
    pub fn what(&self) -> String {
        let known = KNOWN.iter().find(|(name, ..)| *name == self.name);
        match (&self.kind, known) {
            (Kind::Given(address), _) => format!("what listens on {address}"),
            (Kind::Build(_), _) => "another build of Lockgate with everything on".into(),
            (_, Some((_, what, _))) => (*what).into(),
            _ => self.name.clone(),
        }
    }

    /// Starts it; an error says why that cannot be here.
    pub fn start(&self, bed: &Bed, setup: &Setup) -> io::Result<Front> {
        let (masked, (address, process)) = match &self.kind {
            Kind::Direct => (false, (bed.upstream, None)),
            Kind::Given(address) => (false, (*address, None)),
            Kind::PgBouncer => (false, pgbouncer(bed, setup)?),
            Kind::HaProxy => (false, haproxy(bed, setup)?),
            Kind::Relay(driver) => (false, relay(bed, setup, driver)?),
            Kind::Lockgate(variant) => {
                let program = setup.program(setup.lockgate.as_deref(), "lockgate")?;
                (variant.masks, lockgate::start(bed, setup, &program, &self.name, variant)?)
            }
            Kind::Build(program) => {
                let program = setup.program(Some(program), "lockgate")?;
                (Variant::ALL.masks, lockgate::start(bed, setup, &program, &self.name, &Variant::ALL)?)
            }
        };
        let configuration =
            process.as_ref().map_or_else(String::new, |process| configuration(&process.place(), bed));
        Ok(Front { name: self.name.clone(), address, masked, process, configuration })
    }

    /// What its program says of its version, where it has one.
    pub fn version(&self, setup: &Setup) -> Option<String> {
        let (program, word) = match &self.kind {
            Kind::PgBouncer => (process::program("pgbouncer")?, "--version"),
            Kind::HaProxy => (process::program("haproxy")?, "-v"),
            Kind::Lockgate(_) => (setup.program(setup.lockgate.as_deref(), "lockgate").ok()?, "--version"),
            Kind::Build(program) => (setup.program(Some(program), "lockgate").ok()?, "--version"),
            Kind::Direct | Kind::Relay(_) | Kind::Given(_) => return None,
        };
        let said = process::run(Who::Ourselves, &program, &[word.into()]).ok()?;
        said.lines().next().map(str::to_owned)
    }
}

impl Setup {
    /// The program that was named, or the one that was built beside us.
    fn program(&self, named: Option<&Path>, name: &str) -> io::Result<PathBuf> {
        let beside = || Some(std::env::current_exe().ok()?.parent()?.join(name));
        let path = named.map(Path::to_owned).or_else(beside).unwrap_or_default();
        let missing =
            || io::Error::other(format!("{} is not there: build it, or name another", path.display()));
        path.canonicalize().ok().filter(|path| path.is_file()).ok_or_else(missing)
    }
}

/// What a reader needs to do the same: the files, without what is different each time.
fn configuration(place: &Path, bed: &Bed) -> String {
    let mut text = String::new();
    for name in ["pgbouncer.ini", "haproxy.cfg", "lockgate.toml", "policies/bench.policy"] {
        let Ok(file) = fs::read_to_string(place.join(name)) else { continue };
        let file = file.replace(&bed.home(), "…");
        let lines: Vec<&str> = file.lines().take(CONFIGURATION_LINES).collect();
        let rest = file.lines().count() - lines.len();
        text += &format!("# {name}\n{}\n", lines.join("\n"));
        if rest > 0 {
            text += &format!("… and {rest} lines of the same kind\n");
        }
    }
    text
}

fn packaged(name: &str) -> io::Result<PathBuf> {
    let missing = || io::Error::other(format!("{name} is not installed (Debian: apt-get install {name})"));
    process::program(name).ok_or_else(missing)
}

/// Session pooling and no reset query: one session of the server's for each of the client's, as for all others. With the
/// password in its list it does SCRAM on both legs.
fn pgbouncer(bed: &Bed, setup: &Setup) -> io::Result<Started> {
    let program = packaged("pgbouncer")?;
    let place = bed.place("pgbouncer", Who::Ordinary)?;
    let (address, upstream) = (free_address()?, bed.upstream);
    let (certificate, key) = bed.certificate();
    let sessions = bed.sessions_max;
    let server_tls = if setup.server_tls { "require" } else { "disable" };
    let ini = format!(
        "[databases]
{DATABASE} = host={} port={} dbname={DATABASE}

[pgbouncer]
listen_addr = {}
listen_port = {}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {}/users.txt
client_tls_sslmode = allow
client_tls_cert_file = {certificate}
client_tls_key_file = {key}
server_tls_sslmode = {server_tls}
pool_mode = session
server_reset_query =
default_pool_size = {sessions}
max_client_conn = {sessions}
listen_backlog = 4096
log_connections = 0
log_disconnections = 0
",
        upstream.ip(),
        upstream.port(),
        address.ip(),
        address.port(),
        shown(&place),
    );
    let users = format!("\"{USER}\" \"{}\"\n", bed.password);
    for (name, text) in [("pgbouncer.ini", ini), ("users.txt", users)] {
        fs::write(place.join(name), text)?;
        give(&place.join(name), Who::Ordinary)?;
    }
    let words = [shown(&place.join("pgbouncer.ini"))];
    let mut process = Process::start(Who::Ordinary, &program, &words, &place.join("log"))?;
    process.await_up(START, || answers(address))?;
    Ok((address, Some(process)))
}

fn haproxy(bed: &Bed, setup: &Setup) -> io::Result<Started> {
    let program = packaged("haproxy")?;
    let place = bed.place("haproxy", Who::Ourselves)?;
    let (address, upstream) = (free_address()?, bed.upstream);
    // It does not start where there may be more than it may have open, two for each and some for itself.
    let open_max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let connections = u64::from(bed.sessions_max + 10).min(open_max.saturating_sub(100) / 2);
    let text = format!(
        "global
    maxconn {connections}
    nbthread {}
defaults
    mode tcp
    maxconn {connections}
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen bench
    bind {address} backlog 4096
    server upstream {upstream}
",
        setup.workers,
    );
    fs::write(place.join("haproxy.cfg"), text)?;
    let words = ["-db".into(), "-f".into(), shown(&place.join("haproxy.cfg"))];
    let mut process = Process::start(Who::Ourselves, &program, &words, &place.join("log"))?;
    process.await_up(START, || answers(address))?;
    Ok((address, Some(process)))
}

fn relay(bed: &Bed, setup: &Setup, driver: &str) -> io::Result<Started> {
    let program = setup.program(setup.relay.as_deref(), "examples/relay")?;
    let place = bed.place(&format!("relay-{driver}"), Who::Ourselves)?;
    let address = free_address()?;
    let words = [address.to_string(), bed.upstream.to_string(), driver.into()];
    let mut process = Process::start(Who::Ourselves, &program, &words, &place.join("log"))?;
    process.await_up(START, || answers(address))?;
    Ok((address, Some(process)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_table_or_an_address() {
        for (name, ..) in KNOWN {
            assert_eq!(Spec::parse(name).unwrap().name, *name);
        }
        let given = Spec::parse("pgcat=127.0.0.1:6432").unwrap();
        assert_eq!((given.name.as_str(), given.what().as_str()), ("pgcat", "what listens on 127.0.0.1:6432"));
        let build = Spec::parse("before=target/before/lockgate").unwrap();
        assert_eq!(
            (build.name.as_str(), build.kind),
            ("before", Kind::Build("target/before/lockgate".into()))
        );
        assert!(Spec::parse("pgcat").unwrap_err().contains("there are direct, pgbouncer"));
        Spec::parse("pgcat=nowhere").unwrap_err();
    }
}

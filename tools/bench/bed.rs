//! What fronts stand before: a throw-away PostgreSQL with the workloads' tables, in a folder of its own.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lockgate_client::scram::Password;
use rustix::process::Signal;
use rustls::ClientConfig;
use tempfile::TempDir;

use crate::client::{Client, Door};
use crate::process::{self, Process, Who};
use crate::runtime::block_on;
use crate::workload::tables;

/// The database, and its name at every front.
pub const DATABASE: &str = "bench";
/// The role that clients come as and sessions use.
pub const USER: &str = "bench_app";
/// The role that a gateway reads the catalog with.
pub const CATALOG: &str = "bench_catalog";
const PREFIX: &str = "lockgate-bench-";
const SUPERUSER: &str = "postgres";
const START: Duration = Duration::from_secs(60);
/// Nothing of the server's own is to come in between: no checkpoint, no vacuum, no plan that is made anew. A crash need
/// not survive a power cut.
pub const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
fsync = off
shared_buffers = 512MB
max_wal_size = 8GB
checkpoint_timeout = 1h
autovacuum = off
jit = off
max_parallel_workers_per_gather = 0
log_min_messages = fatal
ssl = on
";

/// A server that runs, and a place for those in front of it.
#[derive(Debug)]
pub struct Bed {
    folder: TempDir,
    server: Process,
    /// Where the server listens.
    pub server_address: SocketAddr,
    /// What fronts connect to: the server, or a stand-in of it.
    pub upstream: SocketAddr,
    /// Of [`USER`].
    pub password: String,
    /// Of [`CATALOG`].
    pub catalog_password: String,
    superuser_password: String,
    /// What the server says of its version.
    pub version: String,
    /// For so many sessions at a time fronts are set up.
    pub sessions_max: u32,
}

impl Bed {
    /// Starts a server and fills it: for so many sessions that ask, and so many that rest before a stand-in. On a port
    /// that others know, its user has the password that they know.
    pub fn make(asking: u32, resting: u32, known_port: Option<u16>) -> io::Result<Bed> {
        sweep();
        let (server_address, password) = match known_port {
            Some(port) => (known_address(port)?, known_password()?),
            None => (free_address()?, new_password()?),
        };
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in("/tmp")?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        certify(folder.path())?;
        let bin = server_programs()?;
        let superuser_password = new_password()?;
        let home = init(folder.path(), &bin, &superuser_password, asking)?;
        let words =
            [String::from("-D"), shown(&home.join("data")), "-p".into(), server_address.port().to_string()];
        let server = Process::start(
            Who::Ordinary,
            &bin.join("postgres"),
            &words,
            &folder.path().join("postgres.log"),
        )?;
        let mut bed = Bed {
            folder,
            server: server.ended_by(Signal::INT),
            server_address,
            upstream: server_address,
            password,
            catalog_password: new_password()?,
            superuser_password,
            version: process::run(Who::Ourselves, &bin.join("postgres"), &["--version".into()])?
                .trim()
                .to_owned(),
            // Those of the round before may not all have been taken leave of.
            sessions_max: 2 * asking.max(resting) + 10,
        };
        bed.fill()?;
        Ok(bed)
    }

    fn fill(&mut self) -> io::Result<()> {
        let door = self.superuser("postgres");
        let accepts = || block_on(Client::connect(&door)).is_ok_and(|client| client.is_ok());
        self.server.await_up(START, accepts)?;
        self.batch("postgres", &[format!("CREATE DATABASE {DATABASE}")])?;
        let role = |name: &str, password: &str| format!("CREATE ROLE {name} LOGIN PASSWORD '{password}'");
        let mut statements = vec![role(USER, &self.password), role(CATALOG, &self.catalog_password)];
        statements.extend(tables());
        statements.push(format!("GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {USER}"));
        statements.push("CHECKPOINT".into());
        self.batch(DATABASE, &statements)
    }

    /// Runs statements on the server itself, as its superuser.
    pub fn batch(&self, database: &str, statements: &[String]) -> io::Result<()> {
        let door = self.superuser(database);
        block_on(async {
            let mut client = Client::connect(&door).await?;
            for statement in statements {
                client.batch(statement).await?;
            }
            client.close().await
        })?
    }

    fn superuser(&self, database: &str) -> Door {
        let password = Password::new(self.superuser_password.clone());
        let (user, database) = (SUPERUSER.into(), database.into());
        Door { address: self.server_address, user, database, password, tls: None }
    }

    /// How a client comes in at a front.
    pub fn door(&self, address: SocketAddr, tls: Option<Arc<ClientConfig>>) -> Door {
        let password = Password::new(self.password.clone());
        Door { address, user: USER.into(), database: DATABASE.into(), password, tls }
    }

    /// The folder that everything is in.
    pub fn home(&self) -> String {
        shown(self.folder.path())
    }

    /// The server's first process.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// A new, empty folder for a program; whoever it runs as owns it.
    pub fn place(&self, name: &str, who: Who) -> io::Result<PathBuf> {
        let place = self.folder.path().join(name);
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        fs::create_dir(&place)?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o700))?;
        give(&place, who)?;
        Ok(place)
    }

    /// PEM files that every front shows to clients.
    pub fn certificate(&self) -> (String, String) {
        (shown(&self.folder.path().join("front.crt")), shown(&self.folder.path().join("front.key")))
    }
}

/// Removes what runs left that were killed: their servers have ended with them, their folders have not.
fn sweep() {
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let owner = entry.file_name().to_str().and_then(owner);
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Somebody else's stays.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The process that made a folder of this name.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

/// A self-signed certificate, on the curve that is in general use.
fn certify(folder: &Path) -> io::Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".into()]).map_err(io::Error::other)?;
    let key = folder.join("front.key");
    fs::write(folder.join("front.crt"), made.cert.pem())?;
    secret(&key, &made.signing_key.serialize_pem(), Who::Ordinary)
}

fn init(folder: &Path, bin: &Path, password: &str, asking: u32) -> io::Result<PathBuf> {
    let home = folder.join("postgres");
    fs::create_dir(&home)?;
    give(&home, Who::Ordinary)?;
    secret(&home.join("password"), password, Who::Ordinary)?;
    let data = home.join("data");
    let mut words = vec![String::from("-D"), shown(&data), "-U".into(), SUPERUSER.into(), "-A".into()];
    words.extend(["scram-sha-256", "--no-sync", "-E", "UTF8", "--no-locale"].map(String::from));
    words.push(format!("--pwfile={}", shown(&home.join("password"))));
    process::run(Who::Ordinary, &bin.join("initdb"), &words)?;
    let conf = data.join("postgresql.conf");
    let (certificate, key) = (shown(&folder.join("front.crt")), shown(&folder.join("front.key")));
    let own = format!(
        "ssl_cert_file = '{certificate}'\nssl_key_file = '{key}'\nunix_socket_directories = '{}'\nmax_connections = {}\n",
        shown(&home),
        // PgBouncer keeps its own while another front has its turn, up to twice as many as ask, and those of the turn
        // before may not all have ended.
        4 * asking + 50
    );
    fs::write(&conf, fs::read_to_string(&conf)? + SETTINGS + &own)?;
    Ok(home)
}

/// The newest server that Debian's packages have put there, or one in PATH.
fn server_programs() -> io::Result<PathBuf> {
    let majors = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let packaged = majors.map(|entry| entry.path()).filter(|path| path.join("bin/postgres").exists());
    let newest = packaged.max_by_key(|path| number(path)).map(|path| path.join("bin"));
    let in_path = || process::program("postgres").and_then(|path| path.parent().map(Path::to_owned));
    newest.or_else(in_path).ok_or_else(|| {
        io::Error::other(
            "there is no PostgreSQL server here: install one (Debian: apt-get install postgresql)",
        )
    })
}

/// Writes a file that only its owner can read.
pub fn secret(path: &Path, text: &str, who: Who) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    give(path, who)
}

/// Makes a path that of whoever will use it.
pub fn give(path: &Path, who: Who) -> io::Result<()> {
    match (who, process::ordinary_user()?) {
        (Who::Ordinary, Some(user)) => chown(path, Some(user), Some(user)),
        _ => Ok(()),
    }
}

/// An address on which nobody listens.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// Somebody listens there.
pub fn answers(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

/// A path for a configuration file.
pub fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// A port of ours, if nobody has it.
fn known_address(port: u16) -> io::Result<SocketAddr> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match TcpListener::bind(address) {
        Ok(_) => Ok(address),
        Err(error) => Err(io::Error::other(format!("the server cannot listen on {address}: {error}"))),
    }
}

/// PGPASSWORD, where it can stand in statements and in every front's configuration as it is.
fn known_password() -> io::Result<String> {
    let known = std::env::var("PGPASSWORD").unwrap_or_default();
    if known.is_empty() || !known.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
        return Err(io::Error::other("PGPASSWORD must be set, of letters, digits, `-` and `_`"));
    }
    Ok(known)
}

fn new_password() -> io::Result<String> {
    let mut bytes = [0; 18];
    rand::fill(&mut bytes).map_err(|_| io::Error::other("no random numbers"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_folders_have_an_owner() {
        assert_eq!(owner("lockgate-bench-4711-aB3dE6"), Some(4711));
        for other in
            ["lockgate-bench", "lockgate-bench-notes-1", "lockgate-4711-aB3dE6", "lockgate-bench-4711"]
        {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}

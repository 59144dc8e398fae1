//! The configuration, checked: whoever holds a [`Config`] holds one that can be served.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use lockgate_bridge::{Queue, ServerTls, SessionsMax};
use lockgate_control::target_tls::{self, Part, TargetTlsError};
use lockgate_control::{Account, Policies, TargetHost, TargetSetup, UserSetup, policies};
use lockgate_lane::{
    CertificateName, ClientCertificate, Identity, ListenerAuth, ListenerRules, ListenerTls, SessionAttrs,
    Target, TargetTls,
};
use lockgate_worker::Durability;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::driver::DriverChoice;
use crate::section::{Mistake, Reading, Section};
use crate::tls::{self, Clients, ClientsFault};

/// Everything that was configured.
#[derive(Debug)]
pub struct Config {
    /// The file that was read.
    pub file: PathBuf,
    /// Folder of all state.
    pub data_dir: PathBuf,
    /// Number of worker threads.
    pub workers: u32,
    /// How long an idle one looks for work before it sleeps.
    pub spin: Duration,
    /// How they reach the kernel.
    pub driver: DriverChoice,
    /// What bounds every peer.
    pub limits: Limits,
    /// When a command may be forwarded.
    pub durability: Durability,
    /// Bytes of one segment file.
    pub segment_bytes: u64,
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// What stands behind the gateway.
    pub targets: Vec<TargetSetup>,
    /// Local identities.
    pub users: Vec<UserSetup>,
    /// The policies, compiled.
    pub policies: Policies,
    /// Health and metrics.
    pub admin: Option<SocketAddr>,
    /// The log.
    pub log: Log,
    /// What was probably not meant so.
    pub warnings: Vec<Mistake>,
}

/// `[limits]`.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Limits of lanes.
    pub lane: lockgate_lane::Limits,
    /// Time to connect to one address of a target.
    pub connect_timeout: Duration,
    /// Time that sessions get to end when the gateway is told to.
    pub drain_timeout: Duration,
    /// Time that sessions get when another process has taken over.
    pub handover_timeout: Duration,
    /// Client connections, over all workers.
    pub sessions_max: u32,
    /// Sessions of one identity, over all workers.
    pub sessions_per_identity_max: Option<u32>,
    /// Client connections not yet authenticated.
    pub unauthenticated_max: u32,
    /// Of those, from one address.
    pub unauthenticated_per_address_max: u32,
}

/// `[[listener]]`.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Address to bind to.
    pub bind: SocketAddr,
    /// What it demands of clients.
    pub rules: ListenerRules,
    /// TLS with its own certificate; `None`: no TLS, or with the certificate that is made on first start.
    pub tls: Option<ServerTls>,
    /// Whose certificates clients may show; `None`: they are not asked for any.
    pub clients: Option<Clients>,
}

/// `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// One JSON object per line; else text.
    pub json: bool,
    /// The least level that is written.
    pub level: tracing::Level,
}

/// What is wrong with a configuration, and what is merely odd.
#[derive(Debug, Default)]
pub struct Findings {
    /// Every mistake.
    pub mistakes: Vec<Mistake>,
    /// Every warning.
    pub warnings: Vec<Mistake>,
}

impl Config {
    /// Reads and checks a file and all that it names. Connects to nothing and changes nothing.
    pub fn load(file: &Path) -> Result<Config, Findings> {
        let failed = |text: String| Findings {
            mistakes: vec![Mistake { line: 0, path: String::new(), text }],
            warnings: Vec::new(),
        };
        let file = std::path::absolute(file)
            .map_err(|error| failed(format!("{} is no path: {error}", file.display())))?;
        let text = std::fs::read_to_string(&file)
            .map_err(|error| failed(format!("{} cannot be read: {error}", file.display())))?;
        Config::parse(file, &text)
    }

    fn parse(file: PathBuf, text: &str) -> Result<Config, Findings> {
        let folder = file.parent().unwrap_or(Path::new("/")).to_owned();
        let reading = Reading::new(text, &folder);
        let table = reading.parse();
        let config = table.as_ref().and_then(|table| read(&Section::top(&reading, table), file));
        drop(table);
        let (mistakes, warnings) = reading.finish();
        match config {
            Some(config) if mistakes.is_empty() => Ok(Config { warnings, ..config }),
            _ => Err(Findings { mistakes, warnings }),
        }
    }

    /// One line for `check`.
    pub fn summary(&self) -> String {
        let count =
            |number: usize, word: &str| format!("{number} {word}{}", if number == 1 { "" } else { "s" });
        [
            count(self.listeners.len(), "listener"),
            count(self.targets.len(), "target"),
            count(self.users.len(), "user"),
            count(self.policies.sources().len(), "policy file"),
            count(usize::try_from(self.workers).unwrap_or(usize::MAX), "worker"),
        ]
        .join(", ")
    }
}

/// Reads every section before anything is given up, so that all mistakes are found.
fn read(top: &Section<'_>, file: PathBuf) -> Option<Config> {
    let data_dir = top.path("data_dir");
    let (workers, driver, spin) = workers(&top.section("workers"));
    let limits = limits(&top.section("limits"));
    let identity_max = limits.as_ref().and_then(|limits| limits.sessions_per_identity_max);
    let recording = recording(&top.section("recording"));
    let listeners = gather(&top.sections("listener"), listener);
    let targets = gather(&top.sections("target"), target);
    let users = gather(&top.sections("user"), |section| user(section, identity_max));
    let policies = policy(&top.section("policy"));
    let admin = admin(&top.section("admin"));
    let log = log(&top.section("log"));
    refuse_twins(top, "target", "name", targets.iter().map(|target| target.target.name.clone()));
    refuse_twins(top, "user", "name", users.iter().map(|user| user.identity.name.clone()));
    refuse_unprovable(top, &users, &listeners);
    refuse_same_binds(top, &listeners, admin);
    let policies = policies?;
    warn_of_nobodies(top, &users, &targets, &policies);
    let (durability, segment_bytes) = recording?;
    Some(Config {
        file,
        data_dir: data_dir?,
        workers: workers?,
        driver: driver?,
        spin: spin?,
        limits: limits?,
        durability,
        segment_bytes,
        listeners,
        targets,
        users,
        policies,
        admin,
        log: log?,
        warnings: Vec::new(),
    })
}

fn gather<T>(sections: &[Section<'_>], read: impl Fn(&Section<'_>) -> Option<T>) -> Vec<T> {
    sections.iter().filter_map(read).collect()
}

fn workers(section: &Section<'_>) -> (Option<u32>, Option<DriverChoice>, Option<Duration>) {
    let count = match section.has("count") {
        true => section.integer("count").and_then(|count| u32::try_from(count).ok()),
        false => {
            Some(available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1)).min(256))
        }
    };
    (count, section.text("driver").map(|driver| DriverChoice::of(&driver)), section.duration("spin"))
}

fn limits(section: &Section<'_>) -> Option<Limits> {
    let login_timeout = section.duration("login_timeout");
    let connect_timeout = section.duration("connect_timeout");
    let drain_timeout = section.duration("drain_timeout");
    let handover_timeout = section.duration("handover_timeout");
    let [sessions_max, unauthenticated_max, unauthenticated_per_address_max, scram_iterations_max] =
        ["sessions_max", "unauthenticated_max", "unauthenticated_per_address_max", "scram_iterations_max"]
            .map(|name| section.integer(name).and_then(|value| u32::try_from(value).ok()));
    let sessions_per_identity_max = section.integer("sessions_per_identity_max");
    let [statement_bytes_max, bind_bytes_max, row_bytes_max] =
        ["statement_bytes_max", "bind_bytes_max", "row_bytes_max"]
            .map(|name| section.size(name).and_then(|value| u32::try_from(value).ok()));
    let lane = lockgate_lane::Limits {
        login_ns_max: u64::try_from(login_timeout?.as_nanos()).ok()?,
        statement_bytes_max: statement_bytes_max?,
        bind_bytes_max: bind_bytes_max?,
        row_bytes_max: row_bytes_max?,
        scram_iterations_max: scram_iterations_max?,
    };
    Some(Limits {
        lane,
        connect_timeout: connect_timeout?,
        drain_timeout: drain_timeout?,
        handover_timeout: handover_timeout?,
        sessions_max: sessions_max?,
        sessions_per_identity_max: sessions_per_identity_max.and_then(|max| u32::try_from(max).ok()),
        unauthenticated_max: unauthenticated_max?,
        unauthenticated_per_address_max: unauthenticated_per_address_max?,
    })
}

fn recording(section: &Section<'_>) -> Option<(Durability, u64)> {
    let durability = section.text("durability");
    let segment_bytes = section.size("segment_bytes");
    let durability = match durability?.as_str() {
        "os" => Durability::Os,
        _ => Durability::Async,
    };
    Some((durability, segment_bytes?))
}

fn listener(section: &Section<'_>) -> Option<Listener> {
    section.text("protocol");
    let bind = section.socket("bind");
    let tls = section.text("tls").map(|tls| match tls.as_str() {
        "off" => ListenerTls::Off,
        "optional" => ListenerTls::Optional,
        _ => ListenerTls::Required,
    });
    let auth = section.text("auth").map(|auth| match auth.as_str() {
        "password" => ListenerAuth::Password,
        "certificate" => ListenerAuth::Certificate,
        _ => ListenerAuth::Scram,
    });
    if auth == Some(ListenerAuth::Password) && tls == Some(ListenerTls::Off) {
        section.mistake(
            "auth",
            "\"password\" sends passwords in clear text, which only TLS makes safe; write tls = \"required\" or auth = \"scram\"",
        );
    }
    let client_certificate = client_certificate(section, tls, auth);
    let clients = clients(section, client_certificate);
    let server = certificate(section, tls, clients.as_ref());
    let rules = ListenerRules { tls: tls?, auth: auth?, client_certificate: client_certificate? };
    Some(Listener { bind: bind?, rules, tls: server, clients })
}

fn client_certificate(
    section: &Section<'_>,
    tls: Option<ListenerTls>,
    auth: Option<ListenerAuth>,
) -> Option<ClientCertificate> {
    let client_certificate = section.text("client_certificate").map(|text| match text.as_str() {
        "optional" => ClientCertificate::Optional,
        "required" => ClientCertificate::Required,
        _ => ClientCertificate::Off,
    })?;
    if auth == Some(ListenerAuth::Certificate) && client_certificate != ClientCertificate::Required {
        section.mistake(
            "auth",
            "\"certificate\" lets in by that alone; write client_certificate = \"required\"",
        );
    }
    if tls == Some(ListenerTls::Off) && client_certificate != ClientCertificate::Off {
        section.mistake(
            "client_certificate",
            "is of no use with tls = \"off\": certificates are shown inside of TLS; write tls = \"required\"",
        );
        return None;
    }
    Some(client_certificate)
}

/// Whose certificates clients may show. A mistake is noted.
fn clients(section: &Section<'_>, asked: Option<ClientCertificate>) -> Option<Clients> {
    let (ca, crl) = (section.path("client_ca"), section.path("client_crl"));
    let name = section.text("client_name").map(|name| match name.as_str() {
        "dns" => CertificateName::Dns,
        "email" => CertificateName::Email,
        "uri" => CertificateName::Uri,
        _ => CertificateName::CommonName,
    });
    if asked? == ClientCertificate::Off {
        for name in ["client_ca", "client_crl", "client_name"].into_iter().filter(|name| section.has(name)) {
            section.mistake(name, "is of no use where no certificate is asked for; write client_certificate = \"required\" (or \"optional\")");
        }
        return None;
    }
    let Some(ca) = ca else {
        if !section.has("client_ca") {
            section.mistake("client_ca", "is missing: write client_ca = \"tls/clients.pem\", the authorities whose certificates clients may show");
        }
        return None;
    };
    match tls::clients(&ca, crl.as_deref()) {
        Ok(verifier) => Some(Clients { verifier, name: name? }),
        Err(ClientsFault { of_crl, text }) => {
            section.mistake(if of_crl { "client_crl" } else { "client_ca" }, text);
            None
        }
    }
}

fn certificate(
    section: &Section<'_>,
    tls: Option<ListenerTls>,
    clients: Option<&Clients>,
) -> Option<ServerTls> {
    let (certificate, key) = (section.path("certificate"), section.path("key"));
    if tls == Some(ListenerTls::Off) {
        for name in ["certificate", "key"].into_iter().filter(|name| section.has(name)) {
            section.mistake(name, "is of no use with tls = \"off\"; remove it, or write tls = \"required\"");
        }
        return None;
    }
    match (certificate, key) {
        (Some(certificate), Some(key)) => match tls::server(&certificate, &key, clients) {
            Ok(server) => Some(server),
            Err(tls::Fault { of_key, text }) => {
                section.mistake(if of_key { "key" } else { "certificate" }, text);
                None
            }
        },
        (Some(_), None) if !section.has("key") => {
            section.mistake("key", "is missing beside certificate: write key = \"tls/server.key\"");
            None
        }
        (None, Some(_)) if !section.has("certificate") => {
            section.mistake("certificate", "is missing beside key: write certificate = \"tls/server.pem\"");
            None
        }
        _ => None,
    }
}

fn target(section: &Section<'_>) -> Option<TargetSetup> {
    section.text("protocol");
    let name = section.text("name");
    let address = section.host_ports("address");
    let attrs = section.text("target_session_attrs").map(|attrs| match attrs.as_str() {
        "read-write" => SessionAttrs::ReadWrite,
        "read-only" => SessionAttrs::ReadOnly,
        "primary" => SessionAttrs::Primary,
        "standby" => SessionAttrs::Standby,
        "prefer-standby" => SessionAttrs::PreferStandby,
        _ => SessionAttrs::Any,
    });
    let sessions_max = sessions_max(section, "sessions_max", "target.sessions_max", None);
    let queue = queue(section);
    let database = section.text("database");
    let user = section.text("user");
    let password = section.secret("password");
    let tls = section.text("tls").map(|tls| match tls.as_str() {
        "disable" => TargetTls::Disable,
        "require" => TargetTls::Require,
        "verify-ca" => TargetTls::VerifyCa,
        _ => TargetTls::VerifyFull,
    });
    let catalog = section.has("catalog").then(|| account(&section.section("catalog")));
    let catalog_poll = section.duration("catalog_poll");
    let ca = section.path("ca");
    let shown = shown(section, tls)?;
    let hosts: Option<Vec<TargetHost>> = address?
        .into_iter()
        .map(|address| host(section, tls?, address, ca.as_deref(), shown.as_ref()))
        .collect();
    let target = Target { name: name?, attrs: attrs?, database: database?, user: user?, password, tls: tls? };
    let catalog = match catalog {
        Some(account) => account?,
        None => Account { user: target.user.clone(), password: target.password.clone() },
    };
    Some(TargetSetup {
        target: Arc::new(target),
        hosts: hosts?,
        catalog,
        catalog_poll: catalog_poll?,
        sessions_max,
        queue: queue?,
    })
}

/// A limit on sessions, named as whoever is refused hears it; where the key is absent, another limit or none.
fn sessions_max(
    section: &Section<'_>,
    name: &str,
    key: &'static str,
    otherwise: Option<(u32, &'static str)>,
) -> SessionsMax {
    let own = section.integer(name).and_then(|max| u32::try_from(max).ok()).map(|max| (max, key));
    let (max, key) = own.or(otherwise).unwrap_or((u32::MAX, key));
    SessionsMax { max, key }
}

fn queue(section: &Section<'_>) -> Option<Queue> {
    let (max, timeout) = (section.integer("queue_max"), section.duration("queue_timeout"));
    let queue = Queue { max: u32::try_from(max?).ok()?, ns_max: u64::try_from(timeout?.as_nanos()).ok()? };
    for name in ["queue_max", "queue_timeout"].into_iter().filter(|name| section.has(name)) {
        if !section.has("sessions_max") {
            section.warning(name, "is of no use without sessions_max; write sessions_max = 80, or remove it");
        } else if name == "queue_timeout" && queue.max == 0 {
            section.warning(name, "is of no use where nobody waits; write queue_max = 500, or remove it");
        }
    }
    Some(queue)
}

/// One of a target's hosts, and how TLS to it is begun; `None` is a mistake that was noted.
fn host(
    section: &Section<'_>,
    tls: TargetTls,
    (name, port): (String, u16),
    ca: Option<&Path>,
    shown: Option<&Shown>,
) -> Option<TargetHost> {
    if section.has("ca") && matches!(tls, TargetTls::Disable | TargetTls::Require) {
        section
            .mistake("ca", "is of no use with this tls, which verifies nothing; write tls = \"verify-full\"");
        return None;
    }
    match target_tls::client(tls, &name, ca, shown.map(|(chain, key)| (chain.clone(), key.clone_key()))) {
        Ok(tls) => Some(TargetHost { name, port, tls }),
        Err(TargetTlsError { of, text }) => {
            let key = match of {
                Part::Address => "address",
                Part::Authorities => "ca",
                Part::Certificate => "certificate",
            };
            section.mistake(key, text);
            None
        }
    }
}

/// A certificate that a target is shown, and its key.
type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What a target is shown; the outer `None` is a mistake that was noted.
fn shown(section: &Section<'_>, tls: Option<TargetTls>) -> Option<Option<Shown>> {
    let (certificate, key) = (section.path("certificate"), section.path("key"));
    if tls == Some(TargetTls::Disable) && (section.has("certificate") || section.has("key")) {
        let name = if section.has("certificate") { "certificate" } else { "key" };
        section.mistake(name, "is of no use with tls = \"disable\"; write tls = \"verify-full\"");
        return None;
    }
    let of = |name, text: String| section.mistake(name, text);
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let chain = tls::chain(&certificate).map_err(|text| of("certificate", text)).ok()?;
            let key = tls::private_key(&key).map_err(|text| of("key", text)).ok()?;
            Some(Some((chain, key)))
        }
        (Some(_), None) => {
            of("key", String::from("is missing beside certificate: write key = \"tls/client.key\""));
            None
        }
        (None, Some(_)) => {
            let text = "is missing beside key: write certificate = \"tls/client.pem\"";
            of("certificate", String::from(text));
            None
        }
        (None, None) => Some(None),
    }
}

fn account(section: &Section<'_>) -> Option<Account> {
    let user = section.text("user");
    let password = section.secret("password");
    Some(Account { user: user?, password })
}

fn user(section: &Section<'_>, identity_max: Option<u32>) -> Option<UserSetup> {
    let name = section.text("name");
    let mut groups = section.texts("groups");
    let password = section.secret("password");
    let certificate_name = section.text("certificate_name");
    let otherwise = identity_max.map(|max| (max, "limits.sessions_per_identity_max"));
    let sessions_max = sessions_max(section, "sessions_max", "user.sessions_max", otherwise);
    groups.sort();
    groups.dedup();
    if section.has("password") && password.is_none() {
        return None;
    }
    let name = name?;
    let certificate_name = Arc::from(certificate_name.as_ref().unwrap_or(&name).as_str());
    let identity = Arc::new(Identity { name, groups });
    Some(UserSetup { identity, password, certificate_name, sessions_max })
}

/// Without a password there is only the certificate.
fn refuse_unprovable(top: &Section<'_>, users: &[UserSetup], listeners: &[Listener]) {
    if listeners.iter().any(|listener| listener.rules.auth == ListenerAuth::Certificate) {
        return;
    }
    for user in users.iter().filter(|user| user.password.is_none()) {
        let name = &user.identity.name;
        top.mistake("user", format!("\"{name}\" has no password, and no listener has auth = \"certificate\": it could never connect; write password = {{ file = \"…\" }}"));
    }
}

fn policy(section: &Section<'_>) -> Option<Policies> {
    let paths = section.paths("paths");
    if paths.is_empty() {
        if section.is_list("paths") {
            section.mistake("paths", "names no file or folder; write paths = [\"policies/\"]");
        }
        return None;
    }
    match policies::load(&paths) {
        Ok(policies) => {
            policies.warnings().iter().for_each(|text| section.warning("paths", text.clone()));
            Some(policies)
        }
        Err(errors) => {
            errors.into_iter().for_each(|text| section.mistake("paths", text));
            None
        }
    }
}

fn admin(section: &Section<'_>) -> Option<SocketAddr> {
    let bind = section.socket("bind")?;
    if !bind.ip().is_loopback() {
        section.mistake(
            "bind",
            format!("{bind} can be reached from other machines, and nothing asks its readers who they are yet; write \"127.0.0.1:{}\"", bind.port()),
        );
        return None;
    }
    Some(bind)
}

fn log(section: &Section<'_>) -> Option<Log> {
    let format = section.text("format");
    let level = section.text("level");
    let level = match level?.as_str() {
        "error" => tracing::Level::ERROR,
        "warn" => tracing::Level::WARN,
        "debug" => tracing::Level::DEBUG,
        _ => tracing::Level::INFO,
    };
    Some(Log { json: format? == "json", level })
}

fn refuse_twins(top: &Section<'_>, table: &str, name: &str, values: impl Iterator<Item = String>) {
    let mut count: HashMap<String, usize> = HashMap::new();
    values.for_each(|value| *count.entry(value).or_default() += 1);
    let mut twins: Vec<String> =
        count.into_iter().filter(|(_, count)| *count > 1).map(|(value, _)| value).collect();
    twins.sort();
    for value in twins {
        top.mistake(table, format!("more than one has {name} = \"{value}\"; each needs its own"));
    }
}

fn refuse_same_binds(top: &Section<'_>, listeners: &[Listener], admin: Option<SocketAddr>) {
    let binds = listeners.iter().map(|listener| listener.bind).chain(admin);
    // Port 0 is a free port, another one each time.
    refuse_twins(top, "listener", "bind", binds.filter(|bind| bind.port() != 0).map(|bind| bind.to_string()));
}

/// A user whom no policy lets connect anywhere is most likely a misspelt group.
fn warn_of_nobodies(top: &Section<'_>, users: &[UserSetup], targets: &[TargetSetup], policies: &Policies) {
    for (index, user) in users.iter().enumerate() {
        let identity = &user.identity;
        let anywhere = targets.iter().any(|target| policies.program(identity, &target.target.name).is_some());
        if !anywhere {
            let groups = identity.groups.join(", ");
            top.warning(
                &format!("user[{index}]"),
                format!(
                    "no policy lets \"{}\" (groups: {}) connect to any target",
                    identity.name,
                    if groups.is_empty() { "none" } else { &groups }
                ),
            );
        }
    }
    if users.is_empty() {
        top.warning("user", "there is none: nobody can connect");
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;

//! Lockgate's side of a comparison: its configuration and policies, written for each variant.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::{START, Setup, Started};
use crate::bed::{Bed, CATALOG, DATABASE, USER, free_address, secret, shown};
use crate::process::{Process, Who};

const HEALTH: Duration = Duration::from_secs(1);

/// Which switches are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// A policy as one would write it, or one that allows everything.
    pub judges: bool,
    /// Two columns of each table are masked.
    pub masks: bool,
    /// As in the configuration.
    pub durability: &'static str,
    /// As in the configuration.
    pub driver: &'static str,
    /// As in the configuration.
    pub spin: &'static str,
    /// Rules beside, on tables that nobody asks for.
    pub rules: u32,
}

impl Variant {
    /// Everything on.
    pub const ALL: Variant =
        Variant { judges: true, masks: true, durability: "async", driver: "io_uring", spin: "0us", rules: 0 };
    /// As little as there can be: recording cannot be switched off.
    pub const OFF: Variant = Variant { judges: false, masks: false, ..Variant::ALL };

    fn policy(&self) -> String {
        if !self.judges {
            return format!(
                "policy everything for group \"bench\" on target \"{DATABASE}\" {{\n    allow * on *\n}}\n"
            );
        }
        let mut text = format!(
            "policy bench for group \"bench\" on target \"{DATABASE}\" {{
    allow transaction
    allow set    on @driver_settings
    allow read, copy_out on public.*
    allow call   on pg_catalog.generate_series
    allow insert, copy_in on public.intake
    deny  drop, truncate, alter         because \"schema changes go through migrations\"
    deny  update, delete when unbounded because \"an UPDATE or DELETE needs a WHERE\"
"
        );
        if self.masks {
            text += "    mask  public.accounts.email, public.documents.email with keep domain\n";
            text += "    mask  public.accounts.card, public.documents.card with keep last 4\n";
        }
        for number in 0..self.rules {
            let _ = writeln!(
                text,
                "    deny  insert on public.archive_{number:05} because \"it is kept as it is\""
            );
        }
        text + "}\n"
    }

    fn toml(&self, bed: &Bed, setup: &Setup, address: SocketAddr, admin: SocketAddr) -> String {
        let (certificate, key) = bed.certificate();
        let (workers, upstream) = (setup.workers, bed.upstream);
        let Variant { durability, driver, spin, .. } = self;
        let server_tls = if setup.server_tls { "require" } else { "disable" };
        format!(
            "data_dir = \"var\"

[workers]
count = {workers}
driver = \"{driver}\"
spin = \"{spin}\"

[limits]
unauthenticated_per_address_max = 20000

[recording]
durability = \"{durability}\"

[[listener]]
protocol = \"postgres\"
bind = \"{address}\"
tls = \"optional\"
certificate = \"{certificate}\"
key = \"{key}\"

[[target]]
name = \"{DATABASE}\"
protocol = \"postgres\"
address = \"{upstream}\"
database = \"{DATABASE}\"
user = \"{USER}\"
password = {{ file = \"secrets/app\" }}
tls = \"{server_tls}\"

[target.catalog]
user = \"{CATALOG}\"
password = {{ file = \"secrets/catalog\" }}

[[user]]
name = \"{USER}\"
groups = [\"bench\"]
password = {{ file = \"secrets/app\" }}

[policy]
paths = [\"policies/\"]

[admin]
bind = \"{admin}\"

[log]
level = \"warn\"
"
        )
    }
}

/// Starts a gateway and waits until clients may come.
pub fn start(bed: &Bed, setup: &Setup, program: &Path, name: &str, variant: &Variant) -> io::Result<Started> {
    let place = bed.place(name, Who::Ourselves)?;
    fs::create_dir(place.join("secrets"))?;
    fs::create_dir(place.join("policies"))?;
    secret(&place.join("secrets/app"), &bed.password, Who::Ourselves)?;
    secret(&place.join("secrets/catalog"), &bed.catalog_password, Who::Ourselves)?;
    fs::write(place.join("policies/bench.policy"), variant.policy())?;
    let (address, admin) = (free_address()?, free_address()?);
    let config = place.join("lockgate.toml");
    fs::write(&config, variant.toml(bed, setup, address, admin))?;
    let words = ["serve".into(), "--config".into(), shown(&config)];
    let mut process = Process::start(Who::Ourselves, program, &words, &place.join("log"))?;
    process.await_up(START, || is_ready(admin).unwrap_or(false))?;
    Ok((address, Some(process)))
}

fn is_ready(admin: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&admin, HEALTH)?;
    stream.set_read_timeout(Some(HEALTH))?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer.split(|byte| *byte == b' ').nth(1) == Some(b"200"))
}

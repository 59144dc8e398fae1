//! Connects to a target as sessions do: its addresses in their order, and only to a server that its
//! `target_session_attrs` takes.

use std::net::SocketAddr;
use std::time::Duration;

use lockgate_lane::SessionAttrs;
use tokio::net::lookup_host;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{TargetHost, TargetSetup, resolve, text};

/// Time that one address gets.
const ADDRESS_MAX: Duration = Duration::from_secs(5);
/// A server that acknowledges nothing for this long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What kind of server it is, in two words. The setting is that of a new session: this connection changes its own.
const POSTURE: &str = "SELECT pg_catalog.pg_is_in_recovery(), reset_val FROM pg_catalog.pg_settings \
    WHERE name = 'default_transaction_read_only'";

/// A connection and the task that drives it, which ends with it.
pub(crate) struct Connection {
    pub client: Client,
    driver: JoinHandle<()>,
}

impl Connection {
    /// Returns when it is of no use any more.
    pub(crate) async fn lost(&mut self) {
        let _ = (&mut self.driver).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Connects to the first server that will do.
pub(crate) async fn connect(setup: &TargetSetup) -> Result<Connection, String> {
    let mut failures = Vec::new();
    for &attrs in passes(setup.target.attrs) {
        for host in &setup.hosts {
            if let Some(connection) = connect_host(setup, host, attrs, &mut failures).await {
                return Ok(connection);
            }
        }
    }
    failures.dedup();
    Err(failures.join("; "))
}

/// `prefer-standby` looks for a standby first and then takes any server.
fn passes(attrs: SessionAttrs) -> &'static [SessionAttrs] {
    match attrs {
        SessionAttrs::Any => &[SessionAttrs::Any],
        SessionAttrs::ReadWrite => &[SessionAttrs::ReadWrite],
        SessionAttrs::ReadOnly => &[SessionAttrs::ReadOnly],
        SessionAttrs::Primary => &[SessionAttrs::Primary],
        SessionAttrs::Standby => &[SessionAttrs::Standby],
        SessionAttrs::PreferStandby => &[SessionAttrs::Standby, SessionAttrs::Any],
    }
}

async fn connect_host(
    setup: &TargetSetup,
    host: &TargetHost,
    attrs: SessionAttrs,
    failures: &mut Vec<String>,
) -> Option<Connection> {
    let addresses: Vec<SocketAddr> = match resolve::literal(&host.name, host.port) {
        Some(address) => vec![address],
        None => match timeout(ADDRESS_MAX, lookup_host((host.name.as_str(), host.port))).await {
            Ok(Ok(found)) => found.collect(),
            Ok(Err(error)) => {
                failures.push(format!("\"{}\" cannot be resolved: {error}", host.name));
                return None;
            }
            Err(_) => {
                failures.push(format!("\"{}\" cannot be resolved: no answer", host.name));
                return None;
            }
        },
    };
    for address in addresses {
        match timeout(ADDRESS_MAX, connect_address(setup, host, address, attrs)).await {
            Ok(Ok(connection)) => return Some(connection),
            Ok(Err(error)) => failures.push(format!("{address}: {error}")),
            Err(_) => failures.push(format!("{address}: no answer within {} s", ADDRESS_MAX.as_secs())),
        }
    }
    None
}

async fn connect_address(
    setup: &TargetSetup,
    host: &TargetHost,
    address: SocketAddr,
    attrs: SessionAttrs,
) -> Result<Connection, String> {
    let mut config = Config::new();
    config
        .host(&host.name)
        .hostaddr(address.ip())
        .port(address.port())
        .dbname(&setup.target.database)
        .user(&setup.catalog.user)
        .application_name("lockgate catalog")
        .tcp_user_timeout(SILENCE_MAX);
    if let Some(password) = &setup.catalog.password {
        config.password(password.expose());
    }
    let connection = match &host.tls {
        None => connect_with(&config, NoTls).await?,
        Some(tls) => {
            // Never `prefer`: the rest of the mode is the verifier's.
            config.ssl_mode(SslMode::Require);
            connect_with(&config, MakeRustlsConnect::new((*tls.config).clone())).await?
        }
    };
    check(&connection.client, attrs).await?;
    Ok(connection)
}

async fn connect_with<T>(config: &Config, tls: T) -> Result<Connection, String>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (client, connection) =
        config.connect(tls).await.map_err(|error| with_help(text::with_causes(&error)))?;
    // What fails here fails the client's next query too, with the reason.
    let driver = tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(Connection { client, driver })
}

fn with_help(error: String) -> String {
    if !error.contains("invalid peer certificate") {
        return error;
    }
    format!(
        "{error}; the target's `address` must be a name in its certificate, and `ca` name the authority (or that very certificate)"
    )
}

/// Whether the server still is of the kind that the target's sessions go to. It may have been promoted.
pub(crate) async fn still_suits(client: &Client, attrs: SessionAttrs) -> Result<(), String> {
    match attrs {
        SessionAttrs::Any | SessionAttrs::PreferStandby => Ok(()),
        attrs => check(client, attrs).await,
    }
}

async fn check(client: &Client, attrs: SessionAttrs) -> Result<(), String> {
    if attrs == SessionAttrs::Any {
        return Ok(());
    }
    let answers = client.simple_query(POSTURE).await.map_err(|error| text::with_causes(&error))?;
    let row = answers.iter().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.ok_or("the server does not say whether it is in recovery")?;
    suits(attrs, row.get(0) == Some("t"), row.get(1) == Some("on")).map_err(str::to_owned)
}

fn suits(attrs: SessionAttrs, standby: bool, read_only: bool) -> Result<(), &'static str> {
    let writes = !standby && !read_only;
    match attrs {
        SessionAttrs::ReadWrite if !writes => Err("session is read-only"),
        SessionAttrs::ReadOnly if writes => Err("session is not read-only"),
        SessionAttrs::Primary if standby => Err("server is in hot standby mode"),
        SessionAttrs::Standby if !standby => Err("server is not in hot standby mode"),
        _ => Ok(()),
    }
}

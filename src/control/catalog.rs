//! Reads each target's catalog over a connection of its own, and again whenever it changes.

use std::sync::Arc;
use std::time::Duration;

use lockgate_facts::postgres::Catalog;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{Event, TargetSetup, text};

/// Time between two looks at the fingerprint: what changes behind the gateway's back is found within it.
const POLL: Duration = Duration::from_secs(1);
/// Time that connecting, or one reading of the catalog, gets.
const EXCHANGE_MAX: Duration = Duration::from_secs(30);
/// First pause after a failure; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause after a failure.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Most bytes of one catalog's rows: some hundred thousand relations.
const CATALOG_BYTES_MAX: usize = 512 << 20;

/// Every column's name: mask rules may have patterns in theirs.
const COLUMNS: &str = "SELECT n.nspname::text, c.relname::text, a.attname::text FROM pg_catalog.pg_attribute a \
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE a.attnum <> 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
    AND n.nspname !~ '^pg_(toast|temp_|toast_temp_)'";

/// A catalog as it was at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub catalog: Arc<Catalog>,
    /// The names of all columns.
    pub columns: Arc<[ColumnName]>,
}

/// A column's name, as the catalog stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ColumnName {
    pub schema: String,
    pub table: String,
    pub column: String,
}

/// Rows of one query, as text or NULL.
type Rows = Vec<Vec<Option<String>>>;

/// Watches one target's catalog for ever; ends when nobody listens any more. Another setup (another password, say) takes
/// effect at once; it is of the same database, so what was read stays good.
pub(crate) async fn watch(
    target: usize,
    mut setups: watch::Receiver<TargetSetup>,
    events: mpsc::Sender<Event>,
) {
    let setup = setups.borrow_and_update().clone();
    let mut watch = Watch { target, setup, events, version: 0, fingerprint: None };
    let mut pause = PAUSE_MIN;
    loop {
        let before = watch.version;
        let ended = tokio::select! {
            ended = watch.connection() => Some(ended),
            changed = setups.changed() => match changed {
                Ok(()) => None,
                Err(_) => return,
            },
        };
        let Some(ended) = ended else {
            watch.setup = setups.borrow_and_update().clone();
            continue;
        };
        let Err(Stop::Failed(error)) = ended else { return };
        if watch.events.send(Event::CatalogFailed { target, error }).await.is_err() {
            return;
        }
        // A connection that was good for something starts the count anew.
        pause = if watch.version > before { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        // A change ends the pause; it is looked at above.
        let _ = timeout(pause, setups.changed()).await;
        watch.setup = setups.borrow_and_update().clone();
    }
}

/// Why a connection's use ended.
enum Stop {
    /// Nobody listens any more.
    Done,
    /// It failed.
    Failed(String),
}

impl From<String> for Stop {
    fn from(error: String) -> Stop {
        Stop::Failed(error)
    }
}

struct Watch {
    target: usize,
    setup: TargetSetup,
    events: mpsc::Sender<Event>,
    version: u64,
    fingerprint: Option<String>,
}

impl Watch {
    /// One connection, for as long as it lasts.
    async fn connection(&mut self) -> Result<(), Stop> {
        let connection = in_time("connecting", connect(&self.setup)).await?;
        let client = &connection.client;
        in_time("setting up", prepare(client, &self.setup.target.user)).await?;
        loop {
            let now = in_time("looking for changes", fingerprint(client)).await?;
            let event = if self.fingerprint.as_ref() == Some(&now) {
                Event::CatalogConfirmed { target: self.target }
            } else {
                let (fingerprint, read) =
                    in_time("reading the catalog", read(client, self.version + 1)).await?;
                self.version += 1;
                self.fingerprint = Some(fingerprint);
                Event::Catalog { target: self.target, read }
            };
            self.events.send(event).await.map_err(|_| Stop::Done)?;
            sleep(POLL).await;
        }
    }
}

async fn in_time<T>(doing: &str, what: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match timeout(EXCHANGE_MAX, what).await {
        Ok(result) => result.map_err(|error| format!("{doing} failed: {error}")),
        Err(_) => Err(format!("{doing} took longer than {} s", EXCHANGE_MAX.as_secs())),
    }
}

/// A connection and the task that drives it, which ends with it.
struct Connection {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn connect(setup: &TargetSetup) -> Result<Connection, String> {
    let mut config = Config::new();
    config
        .host(&setup.host)
        .port(setup.port)
        .dbname(&setup.target.database)
        .user(&setup.catalog.user)
        .application_name("lockgate catalog")
        .connect_timeout(EXCHANGE_MAX);
    if let Some(password) = &setup.catalog.password {
        config.password(password.expose());
    }
    match &setup.tls {
        None => connect_with(&config, NoTls).await,
        Some(tls) => {
            // Never `prefer`: the rest of the mode is the verifier's.
            config.ssl_mode(SslMode::Require);
            connect_with(&config, MakeRustlsConnect::new((*tls.config).clone())).await
        }
    }
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

/// The connection can not write. `lockgate.role` says whose search path counts, where another account reads.
async fn prepare(client: &Client, role: &str) -> Result<(), String> {
    let role = role.replace('\'', "''");
    let sql = format!(
        "SET default_transaction_read_only = on; SET standard_conforming_strings = on; SET statement_timeout = '{}s'; \
         SET lockgate.role = '{role}'",
        EXCHANGE_MAX.as_secs()
    );
    client.batch_execute(&sql).await.map_err(|error| text::with_causes(&error))
}

async fn fingerprint(client: &Client) -> Result<String, String> {
    let rows = ask(client, Catalog::FINGERPRINT, &mut CATALOG_BYTES_MAX.clone()).await?;
    match rows.into_iter().next().and_then(|row| row.into_iter().next()) {
        Some(Some(value)) => Ok(value),
        _ => Err(String::from("the fingerprint query gave no value")),
    }
}

/// Fingerprint and catalog of one moment.
async fn read(client: &Client, version: u64) -> Result<(String, Read), String> {
    let run = async |sql: &str| client.batch_execute(sql).await.map_err(|error| text::with_causes(&error));
    run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let fingerprint = fingerprint(client).await?;
    let mut answers = Vec::with_capacity(Catalog::QUERIES.len());
    let mut bytes_left = CATALOG_BYTES_MAX;
    for query in Catalog::QUERIES {
        let rows = ask(client, query.sql, &mut bytes_left).await;
        answers.push(rows.map_err(|error| format!("query \"{}\": {error}", query.name))?);
    }
    let columns = ask(client, COLUMNS, &mut bytes_left).await?;
    run("COMMIT").await?;
    let catalog = Catalog::build(version, &answers)
        .map_err(|error| format!("the catalog cannot be understood: {error}"))?;
    let columns = columns.into_iter().filter_map(column_name).collect();
    Ok((fingerprint, Read { catalog: Arc::new(catalog), columns }))
}

fn column_name(row: Vec<Option<String>>) -> Option<ColumnName> {
    let mut cells = row.into_iter();
    Some(ColumnName { schema: cells.next()??, table: cells.next()??, column: cells.next()?? })
}

/// Rows of a query; more bytes than `bytes_left` are an error, not memory.
async fn ask(client: &Client, sql: &str, bytes_left: &mut usize) -> Result<Rows, String> {
    let stream = client.simple_query_raw(sql).await.map_err(|error| text::with_causes(&error))?;
    let mut stream = std::pin::pin!(stream);
    let mut rows = Rows::new();
    loop {
        let message =
            std::future::poll_fn(|context| futures_core::Stream::poll_next(stream.as_mut(), context));
        match message.await {
            None => return Ok(rows),
            Some(Err(error)) => return Err(text::with_causes(&error)),
            Some(Ok(SimpleQueryMessage::Row(row))) => {
                let cells: Vec<Option<String>> =
                    (0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect();
                let bytes: usize = cells.iter().flatten().map(String::len).sum();
                *bytes_left = bytes_left
                    .checked_sub(bytes)
                    .ok_or_else(|| format!("more than {CATALOG_BYTES_MAX} bytes of catalog"))?;
                rows.push(cells);
            }
            Some(Ok(_)) => {}
        }
    }
}

//! Reads each target's catalog over a connection of its own, and again whenever it changes.

use std::sync::Arc;
use std::time::Duration;

use lockgate_facts::postgres::Catalog;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::{Event, TargetSetup, attach, text};

/// Time between two looks at the fingerprint: what changes behind the gateway's back is found within it.
const POLL: Duration = Duration::from_secs(1);
/// Time that one reading of the catalog gets.
const EXCHANGE_MAX: Duration = Duration::from_secs(30);
/// Time that a look at the fingerprint gets.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// First pause after a failure; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause after a failure: how late it may be found that the target is back.
const PAUSE_MAX: Duration = Duration::from_secs(1);
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

/// Watches one target's catalog for ever; ends when nobody listens any more.
pub(crate) async fn watch(target: usize, setup: TargetSetup, events: mpsc::Sender<Event>) {
    let mut watch = Watch { target, setup, events, version: 0, fingerprint: None };
    let mut pause = PAUSE_MIN;
    loop {
        let before = watch.version;
        let Err(Stop::Failed(error)) = watch.connection().await else { return };
        if watch.events.send(Event::CatalogFailed { target, error }).await.is_err() {
            return;
        }
        // A connection that was good for something starts the count anew.
        pause = if watch.version > before { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        sleep(pause).await;
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
        let connection =
            attach::connect(&self.setup).await.map_err(|error| format!("connecting failed: {error}"))?;
        let client = &connection.client;
        in_time("setting up", LOOK_MAX, prepare(client, &self.setup.target.user)).await?;
        loop {
            in_time("looking at the server", LOOK_MAX, attach::still_suits(client, self.setup.target.attrs))
                .await?;
            let now = in_time("looking for changes", LOOK_MAX, fingerprint(client)).await?;
            let event = if self.fingerprint.as_ref() == Some(&now) {
                Event::CatalogConfirmed { target: self.target }
            } else {
                let (fingerprint, read) =
                    in_time("reading the catalog", EXCHANGE_MAX, read(client, self.version + 1)).await?;
                self.version += 1;
                self.fingerprint = Some(fingerprint);
                Event::Catalog { target: self.target, read }
            };
            self.events.send(event).await.map_err(|_| Stop::Done)?;
            sleep(POLL).await;
        }
    }
}

async fn in_time<T>(
    doing: &str,
    max: Duration,
    what: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    match timeout(max, what).await {
        Ok(result) => result.map_err(|error| format!("{doing} failed: {error}")),
        Err(_) => Err(format!("{doing} took longer than {} s", max.as_secs())),
    }
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

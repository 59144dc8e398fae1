//! Reads each target's catalog over a connection of its own, and again whenever it changes.

use std::sync::Arc;
use std::time::Duration;

use lockgate_facts::postgres::Catalog;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::{Event, TargetSetup, attach, text};

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

/// Which transactions a snapshot of this moment sees, in microseconds: where the text is the same as before, nothing can
/// have changed. A standby's snapshots do not list the transactions in progress, so there it says nothing.
const MOMENT: &str = "SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
    THEN pg_catalog.pg_current_snapshot()::pg_catalog.text END";

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
        let mut connection =
            attach::connect(&self.setup).await.map_err(|error| format!("connecting failed: {error}"))?;
        in_time("setting up", LOOK_MAX, prepare(&connection.client, &self.setup.target.user)).await?;
        let mut looked = None;
        loop {
            let client = &connection.client;
            let suits = attach::still_suits(client, self.setup.target.attrs);
            in_time("looking at the server", LOOK_MAX, suits).await?;
            let now = in_time("looking for transactions", LOOK_MAX, moment(client)).await?;
            let same = now.is_some() && now == looked;
            let (event, seen) = if same { self.same() } else { self.look(client).await? };
            self.events.send(event).await.map_err(|_| Stop::Done)?;
            looked = now;
            // Not before it is told: another setup may end this connection at any moment.
            if let Some(seen) = seen {
                self.version += 1;
                self.fingerprint = Some(seen);
            }
            // A connection that is lost meanwhile is missed at once, not at the next look.
            if timeout(self.setup.catalog_poll, connection.lost()).await.is_ok() {
                return Err(Stop::Failed(String::from("the connection was lost")));
            }
        }
    }

    fn same(&self) -> (Event, Option<String>) {
        (Event::CatalogConfirmed { target: self.target }, None)
    }

    /// Reads the catalog if it is another than the one that was read last; then with its fingerprint.
    async fn look(&self, client: &Client) -> Result<(Event, Option<String>), Stop> {
        let now = in_time("looking for changes", EXCHANGE_MAX, fingerprint(client)).await?;
        if self.fingerprint.as_ref() == Some(&now) {
            return Ok(self.same());
        }
        let (fingerprint, read) =
            in_time("reading the catalog", EXCHANGE_MAX, read(client, self.version + 1)).await?;
        Ok((Event::Catalog { target: self.target, read }, Some(fingerprint)))
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

/// The connection can not write, and compiles nothing: the catalog's statistics promise the planner more rows than there
/// are. `lockgate.role` says whose search path counts, where another account reads.
async fn prepare(client: &Client, role: &str) -> Result<(), String> {
    let role = role.replace('\'', "''");
    let sql = format!(
        "SET default_transaction_read_only = on; SET jit = off; SET standard_conforming_strings = on; SET statement_timeout = '{}s'; \
         SET lockgate.role = '{role}'",
        EXCHANGE_MAX.as_secs()
    );
    client.batch_execute(&sql).await.map_err(|error| text::with_causes(&error))
}

async fn moment(client: &Client) -> Result<Option<String>, String> {
    Ok(sole(ask(client, MOMENT).await?))
}

async fn fingerprint(client: &Client) -> Result<String, String> {
    let answers = ask(client, Catalog::FINGERPRINT).await?;
    sole(answers).ok_or_else(|| String::from("the fingerprint query gave no value"))
}

/// The only value of the first answer.
fn sole(answers: Vec<Rows>) -> Option<String> {
    answers.into_iter().next()?.into_iter().next()?.into_iter().next()?
}

/// Fingerprint and catalog of one moment. All is asked in one message: while the snapshot lives, the target's VACUUM
/// must spare every row that it sees, so no answer waits for the next question.
async fn read(client: &Client, version: u64) -> Result<(String, Read), String> {
    let mut sql = String::from("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
    let queries = Catalog::QUERIES.iter().map(|query| query.sql);
    for query in std::iter::once(Catalog::FINGERPRINT).chain(queries).chain([COLUMNS]) {
        sql.push_str("; ");
        sql.push_str(query);
    }
    sql.push_str("; COMMIT");
    let mut answers = ask(client, &sql).await?;
    let columns = answers.pop().unwrap_or_default();
    let mut answers = answers.into_iter();
    let fingerprint = sole(answers.next().into_iter().collect());
    let fingerprint = fingerprint.ok_or_else(|| String::from("the fingerprint query gave no value"))?;
    let catalog = Catalog::build(version, &answers.collect::<Vec<_>>())
        .map_err(|error| format!("the catalog cannot be understood: {error}"))?;
    let columns = columns.into_iter().filter_map(column_name).collect();
    Ok((fingerprint, Read { catalog: Arc::new(catalog), columns }))
}

fn column_name(row: Vec<Option<String>>) -> Option<ColumnName> {
    let mut cells = row.into_iter();
    Some(ColumnName { schema: cells.next()??, table: cells.next()??, column: cells.next()?? })
}

/// The rows of each query in the text; more than [`CATALOG_BYTES_MAX`] are an error, not memory.
async fn ask(client: &Client, sql: &str) -> Result<Vec<Rows>, String> {
    let stream = client.simple_query_raw(sql).await.map_err(|error| text::with_causes(&error))?;
    let mut stream = std::pin::pin!(stream);
    let mut answers: Vec<Rows> = Vec::new();
    let (mut bytes_left, mut complete) = (CATALOG_BYTES_MAX, 0);
    loop {
        let message =
            std::future::poll_fn(|context| futures_core::Stream::poll_next(stream.as_mut(), context));
        match message.await {
            None => return Ok(answers),
            Some(Err(error)) => {
                return Err(format!("statement {}: {}", complete + 1, text::with_causes(&error)));
            }
            Some(Ok(SimpleQueryMessage::RowDescription(_))) => answers.push(Rows::new()),
            Some(Ok(SimpleQueryMessage::Row(row))) => {
                let cells: Vec<Option<String>> =
                    (0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect();
                let bytes: usize = cells.iter().flatten().map(String::len).sum();
                bytes_left = bytes_left
                    .checked_sub(bytes)
                    .ok_or_else(|| format!("more than {CATALOG_BYTES_MAX} bytes of catalog"))?;
                let rows = answers.last_mut().ok_or("a row came before its description")?;
                rows.push(cells);
            }
            Some(Ok(_)) => complete += 1,
        }
    }
}

//! Sessions that go about their work while somebody else misbehaves: point queries at a steady rate, each wait counted
//! from the moment the query was due (so that a stall counts for every query that it delayed).

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use lockgate_client::scram::Password;
use lockgate_client::tls;

use crate::pg::Session;
use crate::{Door, tell};

/// Of the victims.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    door: Door,
    /// How many.
    #[arg(long, default_value_t = 8)]
    sessions: u32,
    /// Queries per second, all together.
    #[arg(long, default_value_t = 400)]
    rate: u32,
    /// What they ask.
    #[arg(long, default_value = "SELECT 1")]
    sql: String,
    /// Inside TLS.
    #[arg(long)]
    tls: bool,
}

/// What one query came to.
type Wait = Result<Duration, String>;

/// Asks until standard input ends.
pub fn run(options: &Options) -> io::Result<()> {
    let password = std::sync::Arc::new(Password::new(std::env::var("LOCKGATE_PASSWORD").unwrap_or_default()));
    let config = if options.tls { Some(tls::config()?) } else { None };
    let (waits, taken) = channel();
    let begun = Instant::now() + Duration::from_millis(100);
    let interval = Duration::from_secs(1) * options.sessions / options.rate.max(1);
    for number in 0..options.sessions {
        let session = Session::begin(&options.door, &password, config.as_ref())?;
        let (waits, sql) = (waits.clone(), options.sql.clone());
        let first = begun + interval * number / options.sessions.max(1);
        thread::spawn(move || ask(session, &sql, first, interval, &waits));
    }
    tell("ready")?;
    for line in io::stdin().lines() {
        if line?.trim() == "take" {
            tell(&summary(&taken))?;
        }
    }
    Ok(())
}

/// One victim's life. Its first error is its last word.
fn ask(mut session: Session, sql: &str, first: Instant, interval: Duration, waits: &Sender<Wait>) {
    let mut due = first;
    loop {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let wait = session.query(sql).map(|_| due.elapsed()).map_err(|error| error.to_string());
        let over = wait.is_err();
        if waits.send(wait).is_err() || over {
            return;
        }
        due += interval;
    }
}

fn summary(taken: &Receiver<Wait>) -> String {
    let mut waits = Vec::new();
    let mut errors = Vec::new();
    for wait in taken.try_iter() {
        match wait {
            Ok(wait) => waits.push(wait),
            Err(error) => errors.push(format!("{error:?}")),
        }
    }
    waits.sort_unstable();
    let micros = |share: f64| percentile(&waits, share).as_micros();
    format!(
        "{{\"count\":{},\"p50_us\":{},\"p99_us\":{},\"max_us\":{},\"errors\":[{}]}}",
        waits.len(),
        micros(0.5),
        micros(0.99),
        micros(1.0),
        errors.join(",")
    )
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rank among at most millions of waits"
)]
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_field() {
        let waits: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&waits, 0.5), Duration::from_millis(100));
        assert_eq!(percentile(&waits, 0.99), Duration::from_millis(198));
        assert_eq!(percentile(&waits, 1.0), Duration::from_millis(200));
        assert_eq!(percentile(&waits[..1], 0.99), Duration::from_millis(1));
        assert_eq!(percentile(&[], 0.99), Duration::ZERO);
    }
}

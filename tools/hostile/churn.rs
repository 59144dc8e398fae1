//! Sessions that begin, ask once and end, again and again; a part of them ends as no session should.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use lockgate_client::scram::Password;
use lockgate_client::{tls, wire};
use rustls::ClientConfig;

use crate::pg::{self, Session};
use crate::{Door, tell};

/// Of the comings and goings.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    door: Door,
    /// How many sessions begin, in all.
    #[arg(long)]
    sessions: u64,
    /// How many of them at a time.
    #[arg(long, default_value_t = 16)]
    at_once: u32,
    /// One session in so many is inside TLS; 0: none.
    #[arg(long, default_value_t = 0)]
    tls_every: u64,
}

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Terminate, then FIN.
    Goodbye,
    /// FIN without a word.
    Silent,
    /// An answer is left unread, so that the kernel sends a reset.
    Reset,
    /// Inside of a transaction.
    InTransaction,
    /// In the middle of a message.
    InMessage,
    /// Before it has proven anything.
    BeforeProof,
    /// Somebody cancels it with its own key, and is gone before that is done.
    Cancelled,
}

/// Of 20 sessions, how many end how.
const ENDS: &[(u64, End)] = &[
    (12, End::Goodbye),
    (2, End::Silent),
    (2, End::Reset),
    (1, End::InTransaction),
    (1, End::InMessage),
    (1, End::BeforeProof),
    (1, End::Cancelled),
];

#[derive(Debug, Default)]
struct Count {
    begun: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
}

/// Runs all sessions; a line for each second, and one at the end.
pub fn run(options: &Options) -> io::Result<()> {
    let password = Arc::new(Password::new(std::env::var("LOCKGATE_PASSWORD").unwrap_or_default()));
    let config = if options.tls_every > 0 { Some(tls::config()?) } else { None };
    let count = Arc::new(Count::default());
    let threads: Vec<_> = (0..options.at_once)
        .map(|_| {
            let (options, password) = (options.clone(), Arc::clone(&password));
            let (config, count) = (config.clone(), Arc::clone(&count));
            thread::spawn(move || work(&options, &password, config.as_ref(), &count))
        })
        .collect();
    while threads.iter().any(|thread| !thread.is_finished()) {
        thread::sleep(Duration::from_secs(1));
        tell(&progress(&count))?;
    }
    let errors = threads.into_iter().filter_map(|thread| thread.join().unwrap_or(None)).next();
    tell(&progress(&count))?;
    errors.map_or(Ok(()), Err)
}

fn progress(count: &Count) -> String {
    let (done, failed) = (count.done.load(Ordering::Relaxed), count.failed.load(Ordering::Relaxed));
    format!("{{\"done\":{done},\"failed\":{failed}}}")
}

/// Sessions one after the other, until all have begun. The first error is kept.
fn work(
    options: &Options,
    password: &Password,
    config: Option<&Arc<ClientConfig>>,
    count: &Count,
) -> Option<io::Error> {
    let mut first = None;
    loop {
        let number = count.begun.fetch_add(1, Ordering::Relaxed);
        if number >= options.sessions {
            return first;
        }
        let inside = options.tls_every > 0 && number.is_multiple_of(options.tls_every);
        let result = live(&options.door, password, config.filter(|_| inside), end_of(number));
        count.done.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = result {
            count.failed.fetch_add(1, Ordering::Relaxed);
            first = first.or(Some(error));
        }
    }
}

fn end_of(number: u64) -> End {
    let mut rest = (number / 3) % 20;
    for (share, end) in ENDS {
        match rest.checked_sub(*share) {
            Some(less) => rest = less,
            None => return *end,
        }
    }
    End::Goodbye
}

fn live(door: &Door, password: &Password, config: Option<&Arc<ClientConfig>>, end: End) -> io::Result<()> {
    if end == End::BeforeProof {
        let mut socket = pg::connect(&door.address)?;
        return socket.write_all(&pg::startup(door));
    }
    let mut session = Session::begin(door, password, config)?;
    if session.query("SELECT 1")? != 1 {
        return Err(io::Error::other("not one row"));
    }
    match end {
        End::Goodbye => session.stream.write_all(&wire::terminate())?,
        End::Silent | End::BeforeProof => {}
        End::Reset => {
            session.ask("SELECT 1")?;
            session.stream.socket().peek(&mut [0])?;
        }
        End::InTransaction => drop(session.query("BEGIN")?),
        End::InMessage => session.stream.write_all(b"Q\0\0\0\x20SELECT")?,
        End::Cancelled => pg::connect(&door.address)?.write_all(&wire::cancel(&session.key))?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_share() {
        assert_eq!(ENDS.iter().map(|(share, _)| share).sum::<u64>(), 20);
        for (share, end) in ENDS {
            let found = (0..60).filter(|number| end_of(*number) == *end).count();
            assert_eq!(u64::try_from(found).unwrap(), 3 * share, "{end:?}");
        }
    }
}

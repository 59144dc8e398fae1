//! Which sessions there are: one summary each, from their records.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use lockgate_recording::{Entry, Problem, Record, Ruling, SessionId, Time, read_series, workers};

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has no end yet.
    Open,
    /// It has one; whose fault, and why.
    Closed { fault: String, reason: String },
    /// The gateway ended before it did.
    Crashed,
    /// Nobody was let in.
    LoginFailed { reason: String },
}

impl Outcome {
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Outcome::Open => "open",
            Outcome::Closed { .. } => "closed",
            Outcome::Crashed => "crashed",
            Outcome::LoginFailed { .. } => "login failed",
        }
    }
    pub(crate) fn reason(&self) -> &str {
        match self {
            Outcome::Closed { reason, .. } | Outcome::LoginFailed { reason } => reason,
            Outcome::Open | Outcome::Crashed => "",
        }
    }
    pub(crate) fn fault(&self) -> &str {
        match self {
            Outcome::Closed { fault, .. } => fault,
            _ => "",
        }
    }
}

/// One session in short.
#[derive(Debug, Clone)]
pub(crate) struct Summary {
    pub(crate) id: SessionId,
    pub(crate) worker: u32,
    pub(crate) first: Time,
    pub(crate) last: Time,
    pub(crate) user: String,
    pub(crate) groups: Vec<String>,
    pub(crate) target: String,
    pub(crate) client: String,
    pub(crate) commands: u64,
    pub(crate) denied: u64,
    pub(crate) rows: u64,
    pub(crate) outcome: Outcome,
}

impl Summary {
    pub(crate) fn duration_ns(&self) -> u64 {
        self.last.monotonic_ns.saturating_sub(self.first.monotonic_ns)
    }
}

/// What there is, in the order in which it began, and what is wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    pub(crate) sessions: Vec<Summary>,
    pub(crate) problems: Vec<Problem>,
}

impl Catalogue {
    pub(crate) fn read(root: &Path) -> io::Result<Catalogue> {
        let mut catalogue = Catalogue::default();
        for worker in workers(root)? {
            let mut found = HashMap::new();
            let problems = read_series(root, worker, &mut |entry| note(&mut found, worker, entry))?;
            catalogue.problems.extend(problems);
            catalogue.sessions.extend(found.into_values());
        }
        catalogue.sessions.sort_by_key(|session| (session.first.wall_us, session.id));
        Ok(catalogue)
    }
}

fn note(found: &mut HashMap<SessionId, Summary>, worker: u32, entry: &Entry<'_>) {
    if let Record::Recovered { sessions, .. } = &entry.record {
        for session in sessions {
            if let Some(session) = found.get_mut(session) {
                session.outcome = Outcome::Crashed;
            }
        }
    }
    if entry.session == SessionId::NONE {
        return;
    }
    let session = found.entry(entry.session).or_insert_with(|| Summary {
        id: entry.session,
        worker,
        first: entry.at,
        last: entry.at,
        user: String::new(),
        groups: Vec::new(),
        target: String::new(),
        client: String::new(),
        commands: 0,
        denied: 0,
        rows: 0,
        outcome: Outcome::Open,
    });
    session.last = entry.at;
    session.note(&entry.record);
}

impl Summary {
    fn note(&mut self, record: &Record<'_>) {
        match record {
            Record::SessionOpened { user, groups, client, target, .. } => {
                (self.user, self.target) = ((*user).to_owned(), (*target).to_owned());
                self.client = (*client).to_owned();
                self.groups = groups.iter().map(|group| (*group).to_owned()).collect();
            }
            Record::LoginFailed { user, database, client, reason } => {
                (self.user, self.target) = ((*user).to_owned(), (*database).to_owned());
                self.client = (*client).to_owned();
                self.outcome = Outcome::LoginFailed { reason: (*reason).to_owned() };
            }
            Record::Command { .. } => self.commands += 1,
            Record::Verdict { ruling: Ruling::Deny | Ruling::Refuse, .. } => self.denied += 1,
            Record::Completed { rows, .. } => self.rows = self.rows.saturating_add(*rows),
            Record::SessionClosed { reason, fault, .. } if self.outcome == Outcome::Open => {
                self.outcome = Outcome::Closed { fault: (*fault).to_owned(), reason: (*reason).to_owned() };
            }
            _ => {}
        }
    }
}

//! How the session reads SQL, followed through SET, transactions and what could have changed it unseen.

use lockgate_facts::postgres::{Change, Reading, SearchPath, Understood};
use lockgate_policy_dsl::Effect;

/// What a command will have done to the reading once it has succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turned {
    /// The search path is this from then on.
    Path(SearchPath),
    /// The search path is again what the session began with.
    Reset,
    /// Something that was not understood.
    Unclear,
}

/// The reading of a session, and what is not settled about it.
#[derive(Debug)]
pub(super) struct Tracker {
    reading: Reading,
    generation: u64,
    /// The search path that the session began with.
    start: SearchPath,
    /// The search path that a rollback brings back.
    committed: SearchPath,
    /// The search path as the last completed command left it.
    current: SearchPath,
    /// As the server last reported.
    conforming: bool,
    /// Commands under way that may change the reading.
    unsettled: usize,
    /// A command has failed since the transaction last ended.
    failed: bool,
    /// ROLLBACK has completed, to a savepoint or not, and nothing has set the path since.
    rolled_back: bool,
    /// The path was set since the last ReadyForQuery.
    set: bool,
}

impl Tracker {
    pub(super) fn new(reading: Reading) -> Tracker {
        Tracker {
            generation: 0,
            start: reading.search_path.clone(),
            committed: reading.search_path.clone(),
            current: reading.search_path.clone(),
            conforming: reading.standard_conforming_strings,
            reading,
            unsettled: 0,
            failed: false,
            rolled_back: false,
            set: false,
        }
    }

    pub(super) fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Differs whenever the reading does.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// A command is on its way: from now on, and until it is known how it ended, nothing is certain that it may
    /// change. The result is to be given back to [`Tracker::ended`].
    pub(super) fn sent(&mut self, understood: &Understood) -> Option<Turned> {
        for change in &understood.changes {
            if let Change::Touched(touched) = change {
                self.reading.overlay = self.reading.overlay.with(touched);
                self.generation = self.generation.saturating_add(1);
            }
        }
        let turned = turned(understood)?;
        self.unsettled = self.unsettled.saturating_add(1);
        self.settle();
        Some(turned)
    }

    /// The same for a command of which nothing is known.
    pub(super) fn sent_unclear(&mut self) -> Turned {
        self.unsettled = self.unsettled.saturating_add(1);
        self.settle();
        Turned::Unclear
    }

    /// A command that [`Tracker::sent`] answered for is over.
    pub(super) fn ended(&mut self, turned: &Turned, succeeded: bool) {
        self.unsettled = self.unsettled.saturating_sub(1);
        match turned {
            Turned::Reset if succeeded => self.set(self.start.clone()),
            Turned::Path(path) if succeeded => self.set(path.clone()),
            Turned::Path(_) | Turned::Reset => {}
            // A COMMIT inside of what is not understood may have made it last: no rollback takes that back.
            Turned::Unclear => self.lose(),
        }
        self.settle();
    }

    fn set(&mut self, path: SearchPath) {
        self.current = path;
        self.set = true;
        self.rolled_back = false;
    }

    fn lose(&mut self) {
        self.current = SearchPath::Unknown;
        self.committed = SearchPath::Unknown;
    }

    /// CommandComplete with this tag.
    pub(super) fn completed(&mut self, tag: &[u8]) {
        match tag {
            // What failed ends with the tag ROLLBACK, whatever ended it.
            b"COMMIT" => {
                self.committed = self.current.clone();
                self.failed = false;
            }
            // Whether it went back to a savepoint is known only at ReadyForQuery.
            b"ROLLBACK" => {
                if self.current != self.committed {
                    self.current = SearchPath::Unknown;
                }
                self.rolled_back = true;
                self.failed = false;
            }
            _ => return,
        }
        self.settle();
    }

    /// ErrorResponse.
    pub(super) fn failed(&mut self) {
        self.failed = true;
    }

    /// ParameterStatus of `standard_conforming_strings`.
    pub(super) fn reported_conforming(&mut self, on: bool) {
        self.conforming = on;
        self.settle();
    }

    /// ReadyForQuery.
    pub(super) fn ready(&mut self, status: u8) {
        let undone = self.failed || self.rolled_back;
        match status {
            // Set and undone before anybody looked: which of the two came last in the transaction's own order, and
            // whether the server had committed in between, is not to be told from here.
            b'I' if undone && self.set => self.lose(),
            b'I' if undone => self.current = self.committed.clone(),
            b'I' => self.committed = self.current.clone(),
            b'T' if undone && self.current != self.committed => self.current = SearchPath::Unknown,
            _ => {}
        }
        if status != b'E' {
            self.failed = false;
        }
        self.rolled_back = false;
        self.set = false;
        self.settle();
    }

    fn settle(&mut self) {
        let certain = self.unsettled == 0;
        let path = if certain { &self.current } else { &SearchPath::Unknown };
        let conforming = certain && self.conforming;
        if self.reading.search_path != *path || self.reading.standard_conforming_strings != conforming {
            self.reading.search_path = path.clone();
            self.reading.standard_conforming_strings = conforming;
            self.generation = self.generation.saturating_add(1);
        }
    }
}

fn turned(understood: &Understood) -> Option<Turned> {
    let mut last = None;
    for change in &understood.changes {
        match change {
            Change::SearchPath(path) => last = Some(Turned::Path(path.clone())),
            Change::SearchPathReset => last = Some(Turned::Reset),
            Change::ReadingUnknown => return Some(Turned::Unclear),
            _ => {}
        }
    }
    let unknown = understood.facts.pairs.iter().any(|pair| pair.effect == Effect::Unknown);
    match last {
        // What is not understood may have changed the path as well; in a string of several statements the last
        // success cannot be told from an earlier one.
        Some(_) if unknown || understood.statements > 1 => Some(Turned::Unclear),
        None if unknown => Some(Turned::Unclear),
        turned => turned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn path(name: &str) -> SearchPath {
        SearchPath::Known(vec![Arc::from(name)])
    }

    fn tracker() -> Tracker {
        Tracker::new(Reading::new())
    }

    /// Runs `SET search_path` to completion; the reading is uncertain while it is under way.
    fn set(tracker: &mut Tracker, name: &str, status: u8) {
        let turned = Turned::Path(path(name));
        tracker.unsettled += 1;
        tracker.settle();
        assert_eq!(tracker.reading().search_path, SearchPath::Unknown);
        assert!(!tracker.reading().standard_conforming_strings);
        tracker.ended(&turned, true);
        tracker.ready(status);
    }

    #[test]
    fn outside_of_a_transaction_a_set_stays() {
        let mut tracker = tracker();
        set(&mut tracker, "a", b'I');
        assert_eq!(tracker.reading().search_path, path("a"));
    }

    #[test]
    fn a_rollback_brings_the_old_path_back() {
        let mut tracker = tracker();
        tracker.ready(b'T');
        set(&mut tracker, "a", b'T');
        assert_eq!(tracker.reading().search_path, path("a"));
        tracker.completed(b"ROLLBACK");
        tracker.ready(b'I');
        assert_eq!(tracker.reading().search_path, SearchPath::Default);
    }

    #[test]
    fn a_commit_keeps_the_path_and_so_does_commit_and_chain() {
        for (status, tag) in [(b'I', &b"COMMIT"[..]), (b'T', b"COMMIT")] {
            let mut tracker = tracker();
            tracker.ready(b'T');
            set(&mut tracker, "a", b'T');
            tracker.completed(tag);
            tracker.ready(status);
            tracker.completed(b"ROLLBACK");
            tracker.ready(b'I');
            assert_eq!(tracker.reading().search_path, path("a"));
        }
    }

    #[test]
    fn after_a_rollback_to_a_savepoint_the_path_is_unknown_until_the_transaction_ends() {
        let mut tracker = tracker();
        tracker.ready(b'T');
        set(&mut tracker, "a", b'T');
        tracker.completed(b"ROLLBACK");
        tracker.ready(b'T');
        assert_eq!(tracker.reading().search_path, SearchPath::Unknown);
        tracker.completed(b"ROLLBACK");
        tracker.ready(b'I');
        assert_eq!(tracker.reading().search_path, SearchPath::Default);
    }

    #[test]
    fn a_failed_transaction_rolls_back_even_when_commit_ends_it() {
        let mut tracker = tracker();
        tracker.ready(b'T');
        set(&mut tracker, "a", b'T');
        tracker.failed();
        tracker.ready(b'E');
        tracker.completed(b"ROLLBACK");
        tracker.ready(b'I');
        assert_eq!(tracker.reading().search_path, SearchPath::Default);
    }

    /// One pipeline: commands that complete before one ReadyForQuery.
    fn pipeline(commands: &[&str], status: u8) -> SearchPath {
        let mut tracker = tracker();
        for command in commands {
            match *command {
                "error" => tracker.failed(),
                "ROLLBACK" | "COMMIT" => tracker.completed(command.as_bytes()),
                name => {
                    tracker.unsettled += 1;
                    tracker.ended(&Turned::Path(path(name)), true);
                }
            }
        }
        tracker.ready(status);
        tracker.reading().search_path.clone()
    }

    #[test]
    fn inside_of_a_pipeline_the_order_of_ends_and_sets_counts() {
        // (commands, status, what the server's path is then): the tracker knows it, or knows that it does not.
        for (commands, status, truth) in [
            (&["ROLLBACK", "a"][..], b'I', path("a")),
            (&["a", "ROLLBACK"], b'I', SearchPath::Default),
            (&["a", "COMMIT", "error"], b'I', path("a")),
            (&["a", "COMMIT", "b", "error"], b'I', path("a")),
            (&["a", "COMMIT", "b"], b'I', path("b")),
            (&["a", "error"], b'I', SearchPath::Default),
            (&["a", "ROLLBACK", "b", "ROLLBACK"], b'I', SearchPath::Default),
            (&["ROLLBACK", "a", "COMMIT"], b'I', path("a")),
            (&["ROLLBACK", "a"], b'T', path("a")),
        ] {
            let told = pipeline(commands, status);
            assert!(told == truth || told == SearchPath::Unknown, "{commands:?}: {told:?} is {truth:?}");
        }
        assert_eq!(pipeline(&["a", "COMMIT", "b"], b'I'), path("b"));
        assert_eq!(pipeline(&["ROLLBACK"], b'I'), SearchPath::Default);
    }

    #[test]
    fn a_set_behind_the_end_of_a_failed_transaction_stays() {
        let mut tracker = tracker();
        tracker.ready(b'T');
        tracker.failed();
        tracker.ready(b'E');
        tracker.completed(b"ROLLBACK");
        tracker.unsettled += 1;
        tracker.ended(&Turned::Path(path("a")), true);
        tracker.ready(b'I');
        assert_eq!(tracker.reading().search_path, path("a"));
    }

    #[test]
    fn what_is_not_understood_leaves_the_path_unknown() {
        let mut tracker = tracker();
        tracker.unsettled += 1;
        tracker.ended(&Turned::Unclear, true);
        tracker.ready(b'I');
        assert_eq!(tracker.reading().search_path, SearchPath::Unknown);
    }
}

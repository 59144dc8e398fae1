//! Salted passwords that control has derived before, and the sessions that wait for one.

use std::collections::HashMap;

use aws_lc_rs::digest::{Context, SHA256};
use lockgate_lane::SaltRequest;
use zeroize::Zeroizing;

use crate::table::Key;

/// Most salted passwords kept: one for each target and credential is needed, so this is far more than any
/// configuration has; past it all are forgotten and derived anew.
const SALTS_MAX: usize = 1024;

/// What is derived, as a digest: the cache holds no password.
type Question = [u8; 32];

/// What to do about a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Salt {
    /// It is known.
    Known([u8; 32]),
    /// Control must be asked, under this ticket.
    Ask(u64),
    /// Control has been asked already.
    Waiting,
}

/// One worker's salted passwords.
#[derive(Debug, Default)]
pub(crate) struct Salts {
    known: HashMap<Question, Zeroizing<[u8; 32]>>,
    asked: HashMap<u64, Question>,
    /// Sessions, each with its own number for the question.
    waiting: HashMap<Question, Vec<(Key, u32)>>,
    last_ticket: u64,
}

impl Salts {
    /// Looks a request up for `session`; unless it is known, the session is among those that
    /// [`Salts::answered`] names.
    pub(crate) fn ask(&mut self, request: &SaltRequest, session: Key) -> Salt {
        let question = question(request);
        if let Some(key) = self.known.get(&question) {
            return Salt::Known(**key);
        }
        let waiting = self.waiting.entry(question).or_default();
        waiting.push((session, request.number));
        if waiting.len() > 1 {
            return Salt::Waiting;
        }
        self.last_ticket += 1;
        self.asked.insert(self.last_ticket, question);
        Salt::Ask(self.last_ticket)
    }

    /// Control answered: who waited for it.
    pub(crate) fn answered(&mut self, ticket: u64, key: [u8; 32]) -> Vec<(Key, u32)> {
        let Some(question) = self.asked.remove(&ticket) else { return Vec::new() };
        if self.known.len() >= SALTS_MAX {
            self.known.clear();
        }
        self.known.insert(question, Zeroizing::new(key));
        self.waiting.remove(&question).unwrap_or_default()
    }
}

fn question(request: &SaltRequest) -> Question {
    let mut context = Context::new(&SHA256);
    for part in [request.password.expose(), &request.salt] {
        // Lengths go in too, so that no two requests are one stream of bytes.
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    context.update(&request.iterations.to_be_bytes());
    let mut question = [0; 32];
    question.copy_from_slice(context.finish().as_ref());
    question
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Table;
    use lockgate_lane::Secret;

    fn request(password: &str, salt: &str, iterations: u32) -> SaltRequest {
        SaltRequest {
            password: Secret::new(password.as_bytes().to_vec()),
            salt: salt.as_bytes().to_vec(),
            iterations,
            number: 7,
        }
    }

    #[test]
    fn one_question_is_asked_once() {
        let mut table = Table::new();
        let (a, b) = (table.insert(()).unwrap(), table.insert(()).unwrap());
        let mut salts = Salts::default();
        let Salt::Ask(ticket) = salts.ask(&request("p", "s", 1), a) else { panic!("unknown yet") };
        assert_eq!(salts.ask(&request("p", "s", 1), b), Salt::Waiting);
        assert_eq!(salts.answered(ticket, [7; 32]), vec![(a, 7), (b, 7)]);
        assert_eq!(salts.ask(&request("p", "s", 1), a), Salt::Known([7; 32]));
        assert_eq!(salts.answered(ticket, [8; 32]), vec![]);
        assert_eq!(
            salts.ask(&request("p", "s", 1), a),
            Salt::Known([7; 32]),
            "a late answer changes nothing"
        );
    }

    #[test]
    fn every_part_of_the_question_counts() {
        let mut table = Table::new();
        let a = table.insert(()).unwrap();
        let mut salts = Salts::default();
        for (password, salt, iterations) in
            [("p", "s", 1), ("p", "s", 2), ("p", "t", 1), ("ps", "", 1), ("", "ps", 1)]
        {
            assert!(matches!(salts.ask(&request(password, salt, iterations), a), Salt::Ask(_)));
        }
    }
}

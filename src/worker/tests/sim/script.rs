//! What a simulated client says, and what it must hear: drawn from the seed, worked out with the same backend that the
//! simulated server runs.

use lockgate_codecs::postgres::{backend as wire, frame, frontend};
use lockgate_ring::sim::Random;

use super::backend::{Backend, Next, masked};
use crate::tests::server::message;

/// One message that must come.
#[derive(Debug, Clone)]
pub(super) enum Want {
    /// Exactly these bytes.
    Exact(Vec<u8>),
    /// An error with this SQLSTATE, in the gateway's words.
    Error(&'static str),
}

/// What goes out together.
#[derive(Debug, Clone, Default)]
pub(super) struct Round {
    pub(super) send: Vec<u8>,
    pub(super) wants: Vec<Want>,
    /// The next round does not wait for the answers to this one.
    pub(super) pipelined: bool,
    /// Somebody is to cancel it.
    pub(super) sleeps: bool,
}

/// Draws scripts.
pub(super) struct Author<'a> {
    pub(super) random: &'a mut Random,
    /// Columns are masked.
    pub(super) masks: bool,
    /// For markers, which no two statements share.
    pub(super) next_marker: &'a mut u32,
}

/// Text that policy denies; the server must never see it.
pub(super) const DENIED: &str = "DROP TABLE";

impl Author<'_> {
    pub(super) fn script(&mut self, rounds: usize) -> Vec<Round> {
        let mut backend = Backend::new();
        let mut script = Vec::new();
        while script.len() < rounds {
            match self.random.below(20) {
                0..=6 => script.push(self.simple(&mut backend)),
                7..=12 => script.push(self.extended(&mut backend)),
                13 => self.copy_in(&mut backend, &mut script),
                14 => self.transaction(&mut backend, &mut script),
                15 if self.random.chance(300) => script.push(self.sleep(&mut backend)),
                16 => script.push(self.copy_out(&mut backend)),
                _ => self.burst(&mut backend, &mut script),
            }
        }
        if backend.is_in_transaction() {
            let end = self.text("ROLLBACK /* {} */");
            script.push(self.query(&mut backend, &end));
        }
        script
    }

    fn text(&mut self, text: &str) -> String {
        *self.next_marker += 1;
        text.replace("{}", &format!("m{:06}", self.next_marker))
    }

    /// A statement: mostly rows, sometimes many or long ones, sometimes an error, sometimes one that is denied.
    fn statement(&mut self) -> String {
        let (rows, bytes) = match self.random.below(20) {
            0 => (self.random.below(3), 100_000),
            1 => (self.random.below(400), 300),
            _ => (self.random.below(6), self.random.below(200)),
        };
        match self.random.below(10) {
            0 => self.text(&format!("{DENIED} {{}}")),
            1 => self.text("SELECT '{}', 'fail'"),
            2 => {
                let padding = self.random.length(0, 12_000);
                self.text(&format!("SELECT '{{}}', {rows}, {bytes} /* {} */", "p".repeat(padding)))
            }
            _ => self.text(&format!("SELECT '{{}}', {rows}, {bytes}")),
        }
    }

    fn simple(&mut self, backend: &mut Backend) -> Round {
        let mut text = self.statement();
        if self.random.chance(200) {
            text = format!("{text}; {}", self.statement());
        }
        self.query(backend, &text)
    }

    fn query(&mut self, backend: &mut Backend, text: &str) -> Round {
        let send = message(frontend::QUERY, format!("{text}\0").as_bytes());
        let mut round = Round { send, ..Round::default() };
        let denied = self.is_denied(text);
        let said = if denied { String::from("lockgate refused") } else { text.to_owned() };
        let answer = self.answer(backend, &message(frontend::QUERY, format!("{said}\0").as_bytes()));
        round.wants = self.wants(&answer, denied);
        round
    }

    fn is_denied(&self, text: &str) -> bool {
        text.contains(DENIED) || (self.masks && text.contains("TO STDOUT"))
    }

    /// What the backend answers to some messages.
    fn answer(&mut self, backend: &mut Backend, messages: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = messages;
        while let Some(message) = frame::split(rest).unwrap() {
            if backend.message(message.kind, message.body, &mut out, &mut |_| ()) == Next::Sleep {
                backend.wake(&mut out);
            }
            rest = message.behind;
        }
        out
    }

    /// What of it the client sees. `denied`: its first error is the gateway's own.
    fn wants(&self, answer: &[u8], mut denied: bool) -> Vec<Want> {
        let mut wants = Vec::new();
        let mut rest = answer;
        while let Some(message) = frame::split(rest).unwrap() {
            let whole = &rest[..rest.len() - message.behind.len()];
            rest = message.behind;
            wants.push(match message.kind {
                wire::ERROR if std::mem::take(&mut denied) => Want::Error("42501"),
                wire::DATA_ROW if self.masks => Want::Exact(masked(whole)),
                _ => Want::Exact(whole.to_vec()),
            });
        }
        wants
    }

    /// A pipeline up to its Sync.
    fn extended(&mut self, backend: &mut Backend) -> Round {
        let mut round = Round::default();
        let mut unsent = Vec::new();
        let mut refused = false;
        for _ in 0..self.random.between(1, 4) {
            let known: Vec<Vec<u8>> = backend.statements.keys().cloned().collect();
            let again = !known.is_empty() && self.random.chance(300);
            let name = match self.random.below(3) {
                _ if again => known[self.random.length(0, known.len() - 1)].clone(),
                0 => format!("s{}", self.random.below(4)).into_bytes(),
                _ => Vec::new(),
            };
            let mut part = Vec::new();
            if !again {
                let text = self.statement();
                let denied = self.is_denied(&text) && !refused;
                if !name.is_empty() {
                    part.extend(message(frontend::CLOSE, &[b"S", &name[..], b"\0"].concat()));
                }
                part.extend(parse(&name, &text));
                if denied {
                    refused = true;
                    round.send.extend(part);
                    continue;
                }
            }
            self.use_statement(&name, &mut part);
            round.send.extend_from_slice(&part);
            if !refused {
                unsent.extend(part);
            }
            if self.random.chance(100) {
                round.send.extend(message(frontend::FLUSH, b""));
                if !refused {
                    let answer = self.answer(backend, &std::mem::take(&mut unsent));
                    round.wants.extend(self.wants(&answer, false));
                }
            }
        }
        round.send.extend(message(frontend::SYNC, b""));
        // A refusal discards what has not gone on, and the server refuses a stand-in.
        let mut seen = if refused { parse(b"", "lockgate refused") } else { unsent };
        seen.extend(message(frontend::SYNC, b""));
        let answer = self.answer(backend, &seen);
        // Where the server has failed the pipeline before, that was the error.
        let failed = round.wants.iter().any(|want| matches!(want, Want::Exact(bytes) if bytes[0] == b'E'));
        round.wants.extend(self.wants(&answer, refused && !failed));
        round
    }

    fn use_statement(&mut self, name: &[u8], part: &mut Vec<u8>) {
        if self.random.chance(300) {
            part.extend(message(frontend::DESCRIBE, &[b"S", name, b"\0"].concat()));
        }
        let value = vec![b'v'; self.random.length(0, 300)];
        let length = u32::try_from(value.len()).unwrap().to_be_bytes();
        let bind = [b"\0", name, b"\0", &[0, 0, 0, 1], &length, &value, &[0, 0]].concat();
        part.extend(message(frontend::BIND, &bind));
        if self.random.chance(500) {
            part.extend(message(frontend::DESCRIBE, b"P\0"));
        }
        let most = if self.random.chance(300) { 2_u32 } else { 0 };
        for _ in 0..if most > 0 { self.random.between(1, 3) } else { 1 } {
            part.extend(message(frontend::EXECUTE, &[&b"\0"[..], &most.to_be_bytes()].concat()));
        }
    }

    fn transaction(&mut self, backend: &mut Backend, script: &mut Vec<Round>) {
        let text = if backend.is_in_transaction() {
            if self.random.chance(500) { "COMMIT /* {} */" } else { "ROLLBACK /* {} */" }
        } else {
            "BEGIN /* {} */"
        };
        let text = self.text(text);
        script.push(self.query(backend, &text));
    }

    /// Several rounds without waiting.
    fn burst(&mut self, backend: &mut Backend, script: &mut Vec<Round>) {
        for _ in 0..self.random.between(2, 5) {
            let mut round =
                if self.random.chance(500) { self.simple(backend) } else { self.extended(backend) };
            round.pipelined = true;
            script.push(round);
        }
    }

    fn copy_in(&mut self, backend: &mut Backend, script: &mut Vec<Round>) {
        let text = self.text("COPY t FROM STDIN /* {} */");
        script.push(self.query(backend, &text));
        if backend.copying.is_none() {
            return;
        }
        let mut send = Vec::new();
        for _ in 0..self.random.below(20) {
            let most = if self.random.chance(100) { 60_000 } else { 300 };
            let mut data = vec![0; self.random.length(0, most)];
            self.random.fill(&mut data);
            send.extend(message(frontend::COPY_DATA, &data));
        }
        if self.random.chance(200) {
            send.extend(message(frontend::COPY_FAIL, b"enough\0"));
        } else {
            send.extend(message(frontend::COPY_DONE, b""));
        }
        let answer = self.answer(backend, &send);
        script.push(Round { wants: self.wants(&answer, false), send, ..Round::default() });
    }

    fn copy_out(&mut self, backend: &mut Backend) -> Round {
        let (rows, bytes) = (self.random.below(30), self.random.below(2_000));
        let text = self.text(&format!("COPY t TO STDOUT /* {{}} {rows} {bytes} */"));
        self.query(backend, &text)
    }

    fn sleep(&mut self, backend: &mut Backend) -> Round {
        let text = self.text("SELECT '{}', 'sleep'");
        Round { sleeps: true, ..self.query(backend, &text) }
    }
}

fn parse(name: &[u8], text: &str) -> Vec<u8> {
    message(frontend::PARSE, &[name, b"\0", text.as_bytes(), b"\0\0\0"].concat())
}

//! What has happened, as a digest that two runs can be compared by, and as lines for people.

use std::collections::VecDeque;

/// FNV-1a over everything noted: any difference between two runs, in what or when, shows.
pub(super) struct Trace {
    digest: u64,
    lines: VecDeque<String>,
    lines_max: usize,
}

impl Trace {
    pub(super) fn new(lines_max: usize) -> Trace {
        Trace { digest: 0xcbf2_9ce4_8422_2325, lines: VecDeque::new(), lines_max }
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    fn fold(&mut self, word: u64) {
        self.digest = (self.digest ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// Notes that something happened; `line` is asked only where somebody will read it.
    pub(super) fn note(&mut self, now_ns: u64, words: &[u64], bytes: &[u8], line: impl FnOnce() -> String) {
        self.fold(now_ns);
        for word in words {
            self.fold(*word);
        }
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(part) {
                *to = *from;
            }
            self.fold(u64::from_le_bytes(word));
        }
        if self.lines_max > 0 {
            if self.lines.len() >= self.lines_max {
                self.lines.pop_front();
            }
            let (s, us) = (now_ns / 1_000_000_000, now_ns / 1_000 % 1_000_000);
            self.lines.push_back(format!("{s:>5}.{us:06} {}", line()));
        }
    }
}

//! Mistakes and warnings: where, what is wrong, what to write instead. The codes stand in `GRAMMAR.md`.

use std::fmt::Write as _;

use crate::{SOURCE_BYTES_MAX, SOURCES_BYTES_MAX, Source};

/// No more errors than this are told: the rest would be noise, and hostile text must not fill memory.
pub(crate) const ERRORS_MAX: usize = 100;
/// Nor more warnings.
const WARNINGS_MAX: usize = 100;
/// Longest piece of a source line that is shown, in characters.
const SHOWN_CHARS_MAX: usize = 160;
/// Longest text that a message quotes from a source, in characters.
const QUOTED_CHARS_MAX: usize = 60;

/// One mistake or warning with the place it stands at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// `P…`; the table stands in `GRAMMAR.md`.
    pub code: &'static str,
    /// Whether it keeps the policies from being used.
    pub severity: Severity,
    /// The [`Source`]'s name.
    pub file: String,
    /// Byte offsets in the [`Source`]'s text.
    pub span: std::ops::Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The policies cannot be used.
    Error,
    /// They can, and probably do not say what was meant.
    Warning,
}

impl Diagnostic {
    /// As rustc prints: file:line:column, the line, the underlined span, the help. Ends with a newline.
    pub fn render(&self, source: &str) -> String {
        let before = source.get(..self.span.start).unwrap_or(source);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_number = before.matches('\n').count() + 1;
        let line = source.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or("");
        let column = before.get(line_start..).map_or(0, |text| text.chars().count());
        let underlined = source.get(self.span.clone()).and_then(|text| text.lines().next()).unwrap_or("");
        let (shown, indent) = window(line, column);
        let width = underlined.chars().count().clamp(1, SHOWN_CHARS_MAX - indent.min(SHOWN_CHARS_MAX - 1));
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let number = line_number.to_string();
        let margin = " ".repeat(number.len());
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{severity}[{}]: {}", self.code, self.message);
        let _ = writeln!(out, "{margin}--> {}:{line_number}:{}", self.file, column + 1);
        let _ = writeln!(out, "{margin} |");
        let _ = writeln!(out, "{number} | {shown}");
        let _ = writeln!(out, "{margin} | {}{}", " ".repeat(indent), "^".repeat(width));
        if !self.help.is_empty() {
            let _ = writeln!(out, "{margin} = help: {}", self.help);
        }
        out
    }
}

/// The part of a line to show, printable, and how far into it `column` is.
fn window(line: &str, column: usize) -> (String, usize) {
    let skipped = if column < SHOWN_CHARS_MAX / 2 { 0 } else { column - SHOWN_CHARS_MAX / 4 };
    let printable = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    (line.chars().skip(skipped).take(SHOWN_CHARS_MAX).map(printable).collect(), column - skipped)
}

/// Where something stands in the sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub file: usize,
    pub start: usize,
    pub end: usize,
}

impl Place {
    /// From the start of this to the end of `other`, in the same file.
    pub(crate) fn to(self, other: Place) -> Place {
        Place { end: other.end.max(self.end), ..self }
    }
}

/// What is found while compiling.
#[derive(Debug)]
pub(crate) struct Diagnostics<'a> {
    sources: &'a [Source],
    list: Vec<(usize, Diagnostic)>,
    errors: usize,
    warnings: usize,
}

impl<'a> Diagnostics<'a> {
    pub(crate) fn new(sources: &'a [Source]) -> Diagnostics<'a> {
        Diagnostics { sources, list: Vec::new(), errors: 0, warnings: 0 }
    }

    pub(crate) fn error(
        &mut self,
        code: &'static str,
        place: Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.errors += 1;
        if self.errors < ERRORS_MAX {
            self.push(code, Severity::Error, place, message.into(), help.into());
        } else if self.errors == ERRORS_MAX {
            let help = "mend these first; the rest was not looked at";
            self.push("P005", Severity::Error, place, String::from("too many mistakes"), help.to_owned());
        }
    }

    pub(crate) fn warning(
        &mut self,
        code: &'static str,
        place: Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.warnings += 1;
        if self.warnings <= WARNINGS_MAX {
            self.push(code, Severity::Warning, place, message.into(), help.into());
        }
    }

    pub(crate) fn too_large(&mut self, file: usize, bytes: usize) {
        let message = format!("the file is {bytes} bytes long and was not read");
        let help = format!(
            "one file may have {SOURCE_BYTES_MAX} bytes, all together {SOURCES_BYTES_MAX}: \
             use sets and `*` instead of long lists"
        );
        self.error("P001", Place { file, start: 0, end: 0 }, message, help);
    }

    /// Whether the policies cannot be used.
    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// No further mistake will be told: looking for more is a waste.
    pub(crate) fn is_full(&self) -> bool {
        self.errors >= ERRORS_MAX
    }

    fn push(&mut self, code: &'static str, severity: Severity, place: Place, message: String, help: String) {
        let file = self.sources.get(place.file).map(|source| source.name.clone()).unwrap_or_default();
        let span = place.start..place.end;
        self.list.push((place.file, Diagnostic { code, severity, file, span, message, help }));
    }

    /// Whether there was an error; and everything, by place.
    pub(crate) fn finish(mut self) -> (bool, Vec<Diagnostic>) {
        self.list.sort_by_key(|(file, diagnostic)| (*file, diagnostic.span.start, diagnostic.span.end));
        (self.errors > 0, self.list.into_iter().map(|(_, diagnostic)| diagnostic).collect())
    }
}

/// A text of a source as messages quote it: short and printable.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String =
        text.chars().take(QUOTED_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// The candidate that `word` is a misspelling of, if one is near.
pub(crate) fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    /// More are not compared: hostile text must not cost quadratic time.
    const CANDIDATES_MAX: usize = 500;
    /// Longer words are not compared.
    const CHARS_MAX: usize = 40;
    if word.len() > CHARS_MAX {
        return None;
    }
    let word = word.to_ascii_lowercase();
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .take(CANDIDATES_MAX)
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= allowed)
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, with a swap of two neighbours counting one.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    let mut last = None;
    for (line, a) in left.chars().enumerate() {
        let mut next = vec![line + 1];
        for (at, b) in right.iter().enumerate() {
            let of = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX / 2);
            let changed = of(&row, at) + usize::from(a != *b);
            let mut cost = changed.min(of(&row, at + 1) + 1).min(of(&next, at) + 1);
            if at > 0 && last == Some(*b) && right.get(at - 1) == Some(&a) {
                cost = cost.min(of(&before, at - 1) + 1);
            }
            next.push(cost);
        }
        before = std::mem::replace(&mut row, next);
        last = Some(a);
    }
    row.last().copied().unwrap_or(usize::MAX / 2)
}

//! Policies: text → tokens → tree → checked tree → program, and the vocabulary of facts and verdicts in which
//! every protocol speaks to it. Who holds a [`Program`] holds one that was checked and verified.
//!
//! Each stage is a module: `lexer`, `parser` (into `tree`), `check`, `program`. What is accepted stands
//! in `GRAMMAR.md`. No socket, no thread, no clock, no file: texts are arguments.
#![forbid(unsafe_code)]

mod check;
mod diagnostic;
mod glob;
mod lexer;
mod parser;
mod program;
mod shipped;
mod tree;
mod verdict;
mod vocabulary;

#[doc(hidden)]
pub mod fuzzing;

#[cfg(test)]
mod tests;

pub use diagnostic::{Diagnostic, Severity};
pub use glob::glob_matches;
pub use program::{PolicySet, Program};
pub use verdict::{Decision, MaskKind, MaskRule, Verdict};
pub use vocabulary::{Effect, EffectSet, Facts, KINDS, Object, Pair, ParseError};

/// Longest policy file, in bytes: ten thousand rules take about one.
pub const SOURCE_BYTES_MAX: usize = 4 << 20;
/// All policy files together, in bytes.
pub const SOURCES_BYTES_MAX: usize = 16 << 20;

/// One `.policy` file.
#[derive(Debug, Clone)]
pub struct Source {
    /// What messages call it: its path as the operator knows it.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// Compiles files together; all errors at once, at most a hundred. Warnings come beside a good
/// set. Neither the order of the files nor that of the rules in them means anything.
///
/// # Errors
/// Every mistake in any of the files, and the warnings too, by file and place.
pub fn compile(sources: &[Source]) -> Result<(PolicySet, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut diagnostics = diagnostic::Diagnostics::new(sources);
    let mut tree = tree::Tree::default();
    let mut bytes_left = SOURCES_BYTES_MAX;
    for (file, source) in sources.iter().enumerate() {
        let bytes_max = SOURCE_BYTES_MAX.min(bytes_left);
        if source.text.len() > bytes_max {
            diagnostics.too_large(file, source.text.len());
            continue;
        }
        bytes_left -= source.text.len();
        let tokens = lexer::lex(file, &source.text, &mut diagnostics);
        parser::parse(file, &source.text, &tokens, &mut tree, &mut diagnostics);
    }
    let policies = check::check(&tree, &mut diagnostics);
    let (failed, list) = diagnostics.finish();
    if failed { Err(list) } else { Ok((PolicySet::new(policies), list)) }
}

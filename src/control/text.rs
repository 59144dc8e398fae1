//! Errors in one line: what happened, and what caused it.

use std::error::Error;

/// An error with its causes, as a lone `Display` often leaves out the one thing that matters.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

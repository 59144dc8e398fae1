//! The PostgreSQL frontend/backend protocol, versions 3.0 and 3.2 (PostgreSQL documentation, chapter
//! "Frontend/Backend Protocol", section "Message Formats").

pub mod backend;
pub mod frame;
pub mod frontend;
pub mod read;
pub mod startup;
pub mod write;

use std::fmt;

/// Bytes that are not what their own type, length and counts say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// What was being read.
    pub what: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed {}", self.what)
    }
}

impl std::error::Error for Malformed {}

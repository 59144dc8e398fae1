//! What a test's client of PostgreSQL needs, without a socket: messages, SCRAM-SHA-256, and TLS that trusts whoever
//! answers. What has something to protect must not be built on it.

#![forbid(unsafe_code)]

pub mod scram;
pub mod tls;
pub mod wire;

//! What statements do, checked against a catalog that a real server (PostgreSQL 15 with the corpus' schema) answered.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by a panic, and says what it measured"
)]

mod cases;
mod check;
mod corpus;
mod hostile;
mod session;
mod shapes;

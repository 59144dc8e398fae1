//! What statements do, checked against a catalog that a real server (PostgreSQL 15 with the corpus' schema) answered.

mod cases;
mod check;
mod corpus;
mod hostile;
mod session;

//! What a command does: who holds [`Understood`](postgres::Understood) facts holds all effects of the command, or `unknown` among them.
//!
//! Each protocol is a module. No socket, no thread, no clock.

#![deny(unsafe_code)]

pub mod postgres;

//! Wire formats as spans over borrowed bytes: a codec can not read past what it was given, allocate what a peer
//! asks for, or learn of a policy.
//!
//! One module for each protocol. No socket, no clock, no state: bytes in, borrowed messages out, and back.
#![forbid(unsafe_code)]

pub mod postgres;

#[doc(hidden)]
pub mod fuzzing;

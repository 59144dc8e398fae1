//! The contract, in memory.

//! Any text as a statement, read in the ways that a session can read it.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate_facts::postgres::fuzzing::understand(bytes));

//! Rows of any shape under any plan.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate_mask::fuzzing::rows(bytes));

//! A segment file.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate_recording::fuzzing::fuzz(bytes));

//! A whole session, both peers hostile.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate_lane::fuzzing::lane(bytes));

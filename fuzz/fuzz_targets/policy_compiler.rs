//! Policy text.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate_policy_dsl::fuzzing::compile(bytes));

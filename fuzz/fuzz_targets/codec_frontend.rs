//! Bytes of a client: framing and every message's reader.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockgate_codecs::fuzzing::frontend(bytes));

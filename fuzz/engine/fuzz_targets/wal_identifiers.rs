#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tercet_fuzz::fuzz("wal_identifiers", input));

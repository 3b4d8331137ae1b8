//! A Pod in JSON.
#![no_main]
use controller_object::media::MediaType;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::body(MediaType::Json, bytes));

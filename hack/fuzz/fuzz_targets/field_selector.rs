//! A field selector of a query.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(selector) = api::field::FieldSelector::parse(text) {
        let _ = selector.matches_with(|path| (path.len() % 2 == 0).then(|| "a".to_owned()));
    }
});

//! A label selector of a query.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(selector) = api::selector::Selector::parse(text) {
        let _ = selector.matches_with(|key| (key.len() % 2 == 0).then_some("a"));
    }
});

//! A quantity: what was read is written so that it is read the same.
#![no_main]
use api::quantity::Quantity;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(quantity) = Quantity::parse(text) {
        let again = Quantity::parse(&quantity.to_string()).expect("what is written is read");
        assert_eq!(again.nano(), quantity.nano());
        let _ = (quantity.plus(again), quantity.minus(again), quantity.milli(), quantity.value());
    }
});

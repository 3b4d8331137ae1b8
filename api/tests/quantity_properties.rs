//! Quantities survive printing and reading, and never panic on hostile text.
use api::quantity::Quantity;
use proptest::prelude::*;

proptest! {
    #[test]
    fn printing_and_reading_keeps_the_amount(whole in 0u64..1_000_000_000, fraction in 0u32..1000,
        suffix in prop::sample::select(vec!["", "m", "k", "M", "Ki", "Mi", "Gi", "e3", "u", "n"])) {
        let text = format!("{whole}.{fraction:03}{suffix}");
        let first = Quantity::parse(&text).unwrap();
        let printed = first.to_string();
        let second = Quantity::parse(&printed).unwrap();
        prop_assert_eq!(first, second);
        prop_assert_eq!(second.to_string(), printed);
    }

    #[test]
    fn order_agrees_with_subtraction(a in -1_000_000i64..1_000_000, b in -1_000_000i64..1_000_000) {
        let (a, b) = (Quantity::from_milli(a), Quantity::from_milli(b));
        prop_assert_eq!(a > b, !a.minus(b).is_zero() && !a.minus(b).is_negative());
    }

    #[test]
    fn arbitrary_text_never_panics(text in ".{0,40}") {
        let _ = Quantity::parse(&text);
        let _ = api::selector::Selector::parse(&text);
        let _ = api::field::FieldSelector::parse(&text);
    }
}

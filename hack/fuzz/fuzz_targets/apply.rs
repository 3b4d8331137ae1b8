//! An apply of the second line to an object that has what the first says, `managedFields` too; applied again it
//! changes nothing.
#![no_main]
use controller_object::apply::{Operation, apply, track_update};
use controller_object::decode::{FieldValidation, conform};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((mut live, mut wanted)) = fuzz::two(bytes) else { return };
    let conforms = |value| conform(fuzz::pods(), value, FieldValidation::Ignore).is_ok();
    if !live.is_object() || !wanted.is_object() || !conforms(&mut live) || !conforms(&mut wanted) {
        return;
    }
    track_update(fuzz::pods(), None, &mut live, &fuzz::manager("one", Operation::Update));
    let me = fuzz::manager("me", Operation::Apply);
    let Ok(first) = apply(fuzz::pods(), Some(&live), &wanted, &me, true) else { return };
    let again = apply(fuzz::pods(), Some(&first), &wanted, &me, true).expect("applied once");
    assert_eq!(first, again);
});

//! A JSON patch of a Pod: the second line to the first, or all of it to a pod.
#![no_main]
use controller_object::patch::json_patch;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (base, patch) = match (fuzz::two(bytes), serde_json::from_slice(bytes)) {
        (Some(two), _) => two,
        (None, Ok(patch)) => (fuzz::pod(), patch),
        (None, Err(_)) => return,
    };
    if let Ok(patched) = json_patch(&base, &patch) {
        fuzz::patched(patched);
    }
});

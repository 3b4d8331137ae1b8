//! Objects in another of their versions, as the rule that matched a request names it.

use std::borrow::Cow;

use controller_object::conversion;
use controller_object::resource::Resource;
use serde_json::Value;

fn is_same(one: &Resource, other: &Resource) -> bool {
    (&one.group, &one.version) == (&other.group, &other.version)
}

/// An object of `from` as one of `to`; both are stored as the same kind.
pub(super) fn converted<'a>(from: &Resource, to: &Resource, object: &'a Value) -> Cow<'a, Value> {
    if is_same(from, to) {
        return Cow::Borrowed(object);
    }
    let mut object = object.clone();
    conversion::to_storage(from, &mut object);
    conversion::from_storage(to, &mut object);
    Cow::Owned(object)
}

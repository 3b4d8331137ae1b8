//! Objects in another of their versions, as the rule that matched a request names it.

use std::borrow::Cow;

use controller_object::conversion;
use controller_object::resource::Resource;
use controller_object::status::Status;
use serde_json::Value;

use super::attributes::Attributes;
use super::matching::Shown;
use crate::custom::convert;

/// The objects of a request, in the version that somebody reads.
pub(super) struct Seen<'a> {
    pub(super) object: Option<Cow<'a, Value>>,
    pub(super) old: Option<Cow<'a, Value>>,
}

/// The objects of a request as `shown` says.
pub(super) async fn seen<'a>(
    attributes: &Attributes<'a>,
    shown: &Shown,
    object: Option<&'a Value>,
) -> Result<Seen<'a>, Status> {
    Ok(Seen {
        object: match object {
            Some(object) => Some(converted(attributes, attributes.resource, &shown.resource, object).await?),
            None => None,
        },
        old: match attributes.old {
            Some(old) => Some(converted(attributes, attributes.resource, &shown.resource, old).await?),
            None => None,
        },
    })
}

/// An object that somebody changed as he saw it, in the version of the request again.
pub(super) async fn back(attributes: &Attributes<'_>, shown: &Shown, object: Value) -> Result<Value, Status> {
    Ok(converted(attributes, &shown.resource, attributes.resource, &object).await?.into_owned())
}

/// An object of `from` as one of `to`; both are stored as the same kind.
async fn converted<'a>(
    attributes: &Attributes<'_>,
    from: &Resource,
    to: &Resource,
    object: &'a Value,
) -> Result<Cow<'a, Value>, Status> {
    // What a path exchanges has the same kind for every version of its parent.
    let exchanges = attributes.subresource.is_some_and(|sub| sub.kind().is_some());
    if exchanges || (&from.group, &from.version) == (&to.group, &to.version) {
        return Ok(Cow::Borrowed(object));
    }
    if convert::has_webhook(to) {
        return convert::between(&attributes.state.registry.webhooks, to, object).await.map(Cow::Owned);
    }
    let mut object = object.clone();
    conversion::to_storage(from, &mut object);
    conversion::from_storage(to, &mut object);
    Ok(Cow::Owned(object))
}

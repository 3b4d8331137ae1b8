//! Label and field selectors of a list or watch.

use api::field::FieldSelector;
use api::selector::Selector;
use bytes::Bytes;
use controller_object::field;
use controller_object::resource::Resource;
use controller_object::status::Status;
use serde_json::Value;

use super::Context;
use crate::topic;

/// Which objects a client wants to see.
pub(super) struct Filter {
    labels: Option<Selector>,
    fields: Option<FieldSelector>,
    /// The name in the path of a single-object watch.
    name: Option<String>,
}

impl Filter {
    pub(super) fn of(context: &Context) -> Result<Self, Status> {
        let labels = match context.query.get("labelSelector") {
            None => None,
            Some(text) => Some(Selector::parse(text).map_err(|error| {
                Status::bad_request(format!("unable to parse requirement: labelSelector {text:?}: {error}"))
            })?),
        };
        let fields = match context.query.get("fieldSelector") {
            None => None,
            Some(text) => {
                let fields = FieldSelector::parse(text)
                    .map_err(|error| Status::bad_request(format!("fieldSelector {text:?}: {error}")))?;
                for requirement in &fields.requirements {
                    if !field::supported(&context.resource, &requirement.path) {
                        return Err(Status::bad_request(format!("field label not supported: {}", requirement.path)));
                    }
                }
                Some(fields)
            }
        };
        Ok(Self { labels, fields, name: context.request.name.clone() })
    }

    /// Whether every object passes, so that none needs to be looked at.
    pub(super) fn takes_all(&self) -> bool {
        self.labels.is_none() && self.fields.is_none() && self.name.is_none()
    }

    /// The one name that objects can have to pass, if there is one.
    pub(super) fn only_name(&self) -> Option<&str> {
        self.name.as_deref().or_else(|| self.fields.as_ref()?.exact("metadata.name"))
    }

    /// What objects must be about to pass, where the store knows such a topic.
    pub(super) fn topic(&self, resource: &Resource) -> Option<Bytes> {
        let requirements = self.fields.iter().flat_map(|fields| &fields.requirements);
        requirements.filter(|one| one.equal).find_map(|one| topic::wanted(resource, &one.path, &one.value))
    }

    pub(super) fn matches(&self, resource: &Resource, object: &Value) -> bool {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
        let label = |key: &str| object["metadata"]["labels"][key].as_str();
        self.name.as_deref().is_none_or(|name| text("/metadata/name") == Some(name))
            && self.labels.as_ref().is_none_or(|labels| labels.matches_with(label))
            && self
                .fields
                .as_ref()
                .is_none_or(|fields| fields.matches_with(|path| field::selectable(resource, object, path)))
    }
}

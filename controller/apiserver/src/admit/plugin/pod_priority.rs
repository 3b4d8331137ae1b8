//! Priority: the class of a pod, or of a group of pods, becomes its number.

use controller_object::status::{About, Status};
use serde_json::Value;

use crate::admit::Attributes;
use crate::registry::{Registry, names};

const GROUP: &str = "scheduling.k8s.io";
const CLASSES: &str = "priorityclasses";
/// What is asked of a class.
const OF_A_CLASS: [&str; 4] = ["metadata.name", "globalDefault", "value", "preemptionPolicy"];

pub(super) fn admit(attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Status> {
    let is_group = attributes.creates(GROUP, "podgroups");
    if !is_group && !attributes.creates("", "pods") {
        return Ok(());
    }
    let registry = &attributes.state.registry;
    let own_name = names(object).1.to_owned();
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    let wanted = spec.get("priorityClassName").and_then(Value::as_str).filter(|name| !name.is_empty());
    let class = match wanted {
        Some(name) => Some(registry.peek_at((GROUP, "v1", CLASSES), None, name, &OF_A_CLASS).ok_or_else(|| {
            let detail = format!("no PriorityClass with name {name} was found");
            Status::forbidden(About::resource(attributes.resource, &own_name), &detail)
        })?),
        None => default_class(registry)?,
    };
    let value = class.as_ref().and_then(|class| class["value"].as_i64()).unwrap_or(0);
    if let Some(given) = spec.get("priority").and_then(Value::as_i64)
        && given != value
    {
        let detail = format!(
            "the integer value of priority ({given}) must not be provided in {} spec; priority admission controller computed {value} from the given PriorityClass name",
            if is_group { "pod group" } else { "pod" }
        );
        return Err(Status::forbidden(About::resource(attributes.resource, &own_name), &detail));
    }
    spec.insert("priority".into(), value.into());
    // The field of a group needs a feature that is off; its pods say whether others leave for them.
    if !is_group {
        let policy = class.as_ref().and_then(|class| class["preemptionPolicy"].as_str());
        spec.insert("preemptionPolicy".into(), policy.unwrap_or("PreemptLowerPriority").into());
    }
    if let Some(name) = class.as_ref().and_then(|class| class.pointer("/metadata/name")) {
        spec.insert("priorityClassName".into(), name.clone());
    }
    Ok(())
}

/// Only one class may be that of pods which name none.
pub(super) fn validate(attributes: &Attributes<'_>, class: &Value) -> Result<(), Status> {
    let writes = attributes.creates(GROUP, CLASSES) || attributes.updates(GROUP, CLASSES);
    if !writes || class["globalDefault"] != Value::Bool(true) {
        return Ok(());
    }
    let own = names(class).1;
    match default_class(&attributes.state.registry)?.filter(|default| names(default).1 != own) {
        None => Ok(()),
        Some(default) => {
            let detail =
                format!("PriorityClass {} is already marked as default. Only one default can exist", names(&default).1);
            Err(Status::forbidden(About::resource(attributes.resource, own), &detail))
        }
    }
}

/// The class for pods that name none.
fn default_class(registry: &Registry) -> Result<Option<Value>, Status> {
    let classes = registry.list_at((GROUP, "v1", CLASSES), &OF_A_CLASS)?;
    Ok(classes.into_iter().find(|class| class["globalDefault"] == Value::Bool(true)))
}

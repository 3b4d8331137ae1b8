//! Between a served version and the one that is stored, for kinds that share storage.
pub(crate) mod autoscaler;

use crate::resource::{Resource, join_version};
use serde_json::Value;

/// Rewrites an object of `resource` to the form that is stored.
pub fn to_storage(resource: &Resource, object: &mut Value) {
    if resource.custom.is_some() {
        object["apiVersion"] = join_version(&resource.storage_group, &resource.storage_version).into();
        return;
    }
    match (resource.group.as_str(), resource.version.as_str(), resource.plural.as_str()) {
        ("events.k8s.io", _, "events") => event_to_core(object),
        ("autoscaling", "v1", "horizontalpodautoscalers") => autoscaler::to_v2(object),
        _ => {}
    }
    object["apiVersion"] = join_version(&resource.storage_group, &resource.storage_version).into();
}

/// Rewrites a stored object to the form that `resource` serves.
pub fn from_storage(resource: &Resource, object: &mut Value) {
    if let Some(custom) = &resource.custom {
        object["apiVersion"] = resource.api_version().into();
        object["kind"] = resource.kind.as_str().into();
        crate::custom::read(custom, object);
        return;
    }
    match (resource.group.as_str(), resource.version.as_str(), resource.plural.as_str()) {
        ("events.k8s.io", _, "events") => event_from_core(object),
        ("autoscaling", "v1", "horizontalpodautoscalers") => autoscaler::from_v2(object),
        _ => {}
    }
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.as_str().into();
}

/// Core name beside the name in `events.k8s.io`.
const EVENT_FIELDS: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];
/// `reportingComponent` of core is `reportingController` there.
const REPORTER: (&str, &str) = ("reportingComponent", "reportingController");

fn rename(object: &mut Value, from: &str, to: &str) {
    if let Some(map) = object.as_object_mut()
        && let Some(value) = map.remove(from)
    {
        map.insert(to.to_owned(), value);
    }
}

fn event_to_core(object: &mut Value) {
    for (core, events) in EVENT_FIELDS.into_iter().chain([REPORTER]) {
        rename(object, events, core);
    }
}

fn event_from_core(object: &mut Value) {
    for (core, events) in EVENT_FIELDS.into_iter().chain([REPORTER]) {
        rename(object, core, events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Table;
    use serde_json::json;

    #[test]
    fn events_round_trip() {
        let resource = Table::builtin().find("events.k8s.io", "v1", "events").unwrap();
        let original = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "regarding": {"kind": "Pod"}, "note": "x", "reportingController": "c", "deprecatedCount": 2});
        let mut object = original.clone();
        to_storage(resource, &mut object);
        assert_eq!(object["apiVersion"], "v1");
        assert_eq!(object["involvedObject"]["kind"], "Pod");
        assert_eq!(object["reportingComponent"], "c");
        from_storage(resource, &mut object);
        assert_eq!(object, original);
    }

    #[test]
    fn autoscalers_round_trip() {
        let resource = Table::builtin().find("autoscaling", "v1", "horizontalpodautoscalers").unwrap();
        let original = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 80}, "status": {"currentReplicas": 1}});
        let mut object = original.clone();
        to_storage(resource, &mut object);
        assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        from_storage(resource, &mut object);
        assert_eq!(object, original);
    }
}

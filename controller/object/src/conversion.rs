//! Between a served version and the one that is stored, for kinds that share storage.
use crate::resource::{Resource, join_version};
use serde_json::{Map, Value, json};

/// Rewrites an object of `resource` to the form that is stored.
pub fn to_storage(resource: &Resource, object: &mut Value) {
    if resource.custom.is_some() {
        object["apiVersion"] = join_version(&resource.storage_group, &resource.storage_version).into();
        return;
    }
    match (resource.group.as_str(), resource.version.as_str(), resource.plural.as_str()) {
        ("events.k8s.io", _, "events") => event_to_core(object),
        ("autoscaling", "v1", "horizontalpodautoscalers") => hpa_to_v2(object),
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
        ("autoscaling", "v1", "horizontalpodautoscalers") => hpa_from_v2(object),
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

/// Annotations that carry through v1 what only v2 can say.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

fn is_cpu_utilization(metric: &Value) -> bool {
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu"
}

fn hpa_to_v2(object: &mut Value) {
    let mut metrics = Vec::new();
    if let Some(target) = take(object, "spec", "targetCPUUtilizationPercentage") {
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}}}));
    }
    if let Some(Value::Array(more)) = take_annotation(object, METRICS) {
        metrics.extend(more);
    }
    put(object, "spec", "metrics", (!metrics.is_empty()).then_some(Value::Array(metrics)));
    let behavior = take_annotation(object, BEHAVIOR);
    put(object, "spec", "behavior", behavior);
    let mut current = Vec::new();
    if let Some(now) = take(object, "status", "currentCPUUtilizationPercentage") {
        current.push(json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": now}}}));
    }
    if let Some(Value::Array(more)) = take_annotation(object, CURRENT) {
        current.extend(more);
    }
    put(object, "status", "currentMetrics", (!current.is_empty()).then_some(Value::Array(current)));
    let conditions = take_annotation(object, CONDITIONS);
    put(object, "status", "conditions", conditions);
}

fn hpa_from_v2(object: &mut Value) {
    let metrics = take(object, "spec", "metrics");
    let (target, others) = split(metrics, |m| m["resource"]["target"]["averageUtilization"].clone());
    put(object, "spec", "targetCPUUtilizationPercentage", target);
    annotate(object, METRICS, others);
    let behavior = take(object, "spec", "behavior");
    annotate(object, BEHAVIOR, behavior);
    let current = take(object, "status", "currentMetrics");
    let (now, others) = split(current, |m| m["resource"]["current"]["averageUtilization"].clone());
    put(object, "status", "currentCPUUtilizationPercentage", now);
    annotate(object, CURRENT, others);
    let conditions = take(object, "status", "conditions");
    annotate(object, CONDITIONS, conditions);
}

/// The cpu utilization of a metric list, and what else is in it.
fn split(metrics: Option<Value>, utilization: impl Fn(&Value) -> Value) -> (Option<Value>, Option<Value>) {
    let Some(Value::Array(metrics)) = metrics else { return (None, None) };
    let mut cpu = None;
    let mut others = Vec::new();
    for metric in metrics {
        let value = utilization(&metric);
        if cpu.is_none() && is_cpu_utilization(&metric) && value.is_number() {
            cpu = Some(value);
        } else {
            others.push(metric);
        }
    }
    (cpu, (!others.is_empty()).then_some(Value::Array(others)))
}

fn take(object: &mut Value, part: &str, key: &str) -> Option<Value> {
    object.get_mut(part)?.as_object_mut()?.remove(key)
}

fn put(object: &mut Value, part: &str, key: &str, value: Option<Value>) {
    if let Some(value) = value
        && let Some(part) = crate::tree::child(object, part)
    {
        part[key] = value;
    }
}

fn take_annotation(object: &mut Value, name: &str) -> Option<Value> {
    let annotations = object.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()?;
    let text = annotations.remove(name)?;
    if annotations.is_empty() {
        object.get_mut("metadata")?.as_object_mut()?.remove("annotations");
    }
    serde_json::from_str(text.as_str()?).ok()
}

fn annotate(object: &mut Value, name: &str, value: Option<Value>) {
    let Some(value) = value else { return };
    if let Some(metadata) = crate::tree::child(object, "metadata") {
        crate::tree::fill(metadata, "annotations", Map::new());
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.insert(name.to_owned(), value.to_string().into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Table;

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
        let v2 = json!({"metadata": {}, "spec": {"metrics": [{"type": "Pods", "pods": {"x": 1}}], "behavior": {"scaleUp": {}}}});
        let mut object = v2.clone();
        from_storage(resource, &mut object);
        to_storage(resource, &mut object);
        assert_eq!(object["spec"], v2["spec"]);
    }
}

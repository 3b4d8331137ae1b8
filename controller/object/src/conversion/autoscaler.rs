//! `autoscaling/v1` and `v2` of HorizontalPodAutoscalers. What v1 cannot say goes through it in annotations, in the
//! forms that Kubernetes writes there (facts from its `pkg/apis/autoscaling/v1/conversion.go`).
use serde_json::{Map, Value, json};

/// Annotations that carry through v1 what only v2 can say.
pub(crate) const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// Where a field stands in v2, and what it is called in the annotations.
type Names = &'static [(&'static [&'static str], &'static str)];

/// By the kind of a metric, with the side of it that the object asks for and the one that its status tells.
const FIELDS: [(&str, Names, Names); 5] = [
    (
        "resource",
        &[
            (&["target", "averageUtilization"], "targetAverageUtilization"),
            (&["target", "averageValue"], "targetAverageValue"),
        ],
        &[
            (&["current", "averageUtilization"], "currentAverageUtilization"),
            (&["current", "averageValue"], "currentAverageValue"),
        ],
    ),
    (
        "containerResource",
        &[
            (&["target", "averageUtilization"], "targetAverageUtilization"),
            (&["target", "averageValue"], "targetAverageValue"),
        ],
        &[
            (&["current", "averageUtilization"], "currentAverageUtilization"),
            (&["current", "averageValue"], "currentAverageValue"),
        ],
    ),
    (
        "pods",
        &[
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "selector"),
            (&["target", "averageValue"], "targetAverageValue"),
        ],
        &[
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "selector"),
            (&["current", "averageValue"], "currentAverageValue"),
        ],
    ),
    (
        "object",
        &[
            (&["describedObject"], "target"),
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "selector"),
            (&["target", "value"], "targetValue"),
            (&["target", "averageValue"], "averageValue"),
        ],
        &[
            (&["describedObject"], "target"),
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "selector"),
            (&["current", "value"], "currentValue"),
            (&["current", "averageValue"], "averageValue"),
        ],
    ),
    (
        "external",
        &[
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "metricSelector"),
            (&["target", "value"], "targetValue"),
            (&["target", "averageValue"], "targetAverageValue"),
        ],
        &[
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "metricSelector"),
            (&["current", "value"], "currentValue"),
            (&["current", "averageValue"], "currentAverageValue"),
        ],
    ),
];

/// What an object asks for, or what its status tells.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Target,
    Current,
}

/// The form that is stored.
pub(crate) fn to_v2(object: &mut Value) {
    let mut metrics = Vec::new();
    if let Some(target) = take(object, "spec", "targetCPUUtilizationPercentage") {
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}}}));
    }
    if let Some(Value::Array(more)) = take_annotation(object, METRICS) {
        metrics.extend(more.into_iter().map(|metric| converted(metric, Side::Target, nest)));
    }
    put(object, "spec", "metrics", (!metrics.is_empty()).then_some(Value::Array(metrics)));
    let behavior = take_annotation(object, BEHAVIOR).map(|behavior| with_keys(behavior, str::to_ascii_lowercase));
    put(object, "spec", "behavior", behavior);
    let percent = take(object, "status", "currentCPUUtilizationPercentage");
    let current = match take_annotation(object, CURRENT) {
        // It tells all, the percentage among it.
        Some(Value::Array(all)) => {
            Some(all.into_iter().map(|metric| converted(metric, Side::Current, nest)).collect())
        }
        _ => percent.map(|percent| {
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}])
        }),
    };
    put(object, "status", "currentMetrics", current);
    let conditions = take_annotation(object, CONDITIONS);
    put(object, "status", "conditions", conditions);
}

/// The form that v1 serves.
pub(super) fn from_v2(object: &mut Value) {
    let metrics = list(take(object, "spec", "metrics"));
    let (cpu, others): (Vec<Value>, Vec<Value>) =
        metrics.into_iter().partition(|metric| cpu_utilization(metric, "target").is_some());
    let target = cpu.first().and_then(|metric| cpu_utilization(metric, "target"));
    put(object, "spec", "targetCPUUtilizationPercentage", target);
    annotate_list(object, METRICS, others, Side::Target);
    let behavior = take(object, "spec", "behavior").map(|behavior| with_keys(behavior, str::to_ascii_uppercase));
    annotate(object, BEHAVIOR, behavior);
    let current = list(take(object, "status", "currentMetrics"));
    let now = current.iter().find_map(|metric| cpu_utilization(metric, "current"));
    put(object, "status", "currentCPUUtilizationPercentage", now);
    annotate_list(object, CURRENT, current, Side::Current);
    let conditions = take(object, "status", "conditions");
    annotate(object, CONDITIONS, conditions);
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

/// The percentage of a metric of CPU time.
fn cpu_utilization(metric: &Value, side: &str) -> Option<Value> {
    let is_cpu = metric["type"] == "Resource" && metric["resource"]["name"] == "cpu";
    Some(metric["resource"][side]["averageUtilization"].clone()).filter(|value| is_cpu && value.is_number())
}

/// A metric in the other form.
fn converted(mut metric: Value, side: Side, convert: fn(&mut Map<String, Value>, Names, Side)) -> Value {
    for (kind, target, current) in FIELDS {
        let names = if side == Side::Target { target } else { current };
        if let Some(part) = metric.get_mut(kind).and_then(Value::as_object_mut) {
            convert(part, names, side);
        }
    }
    metric
}

/// From v2 to the annotations.
fn flatten(part: &mut Map<String, Value>, names: Names, _: Side) {
    let old = Value::Object(std::mem::take(part));
    keep_own(part, &old);
    for (path, name) in names {
        if let Some(value) = crate::tree::at(&old, path) {
            part.insert((*name).to_owned(), value.clone());
        }
    }
}

/// From the annotations to v2. What has its form already is left so.
fn nest(part: &mut Map<String, Value>, names: Names, side: Side) {
    let is_v2 = part.get("metric").is_some_and(Value::is_object)
        || part.get("current").is_some_and(Value::is_object)
        || part.get("target").is_some_and(|target| target.get("type").is_some());
    if is_v2 {
        return;
    }
    let old = Value::Object(std::mem::take(part));
    keep_own(part, &old);
    for (path, name) in names {
        let value = old.get(*name).filter(|value| !value.is_null());
        // A plain text of Go's form is there even where nobody meant it.
        let is_meant = !(*name == "targetValue" && value.is_some_and(|value| value == "0"));
        let Some(value) = value.filter(|_| is_meant) else { continue };
        match path {
            [holder, key] => {
                let holder = part.entry(*holder).or_insert_with(|| json!({}));
                holder[*key] = value.clone();
            }
            [key] => {
                part.insert((*key).to_owned(), value.clone());
            }
            _ => {}
        }
    }
    if side == Side::Target
        && let Some(target) = part.get_mut("target")
    {
        let has = |key: &str| target.get(key).is_some();
        let kind = match (has("averageUtilization"), has("averageValue")) {
            (true, _) => "Utilization",
            (false, true) => "AverageValue",
            (false, false) => "Value",
        };
        target["type"] = kind.into();
    }
}

/// What has the same name in both forms.
fn keep_own(part: &mut Map<String, Value>, old: &Value) {
    for key in ["name", "container"] {
        if let Some(value) = old.get(key) {
            part.insert(key.to_owned(), value.clone());
        }
    }
}

/// The value with the first letters of all its keys changed, without what is null: Kubernetes writes a behavior with the
/// names that its own program has for the fields.
fn with_keys(value: Value, change: fn(&str) -> String) -> Value {
    match value {
        Value::Object(map) => {
            let fields = map.into_iter().filter(|(_, value)| !value.is_null());
            let renamed = |key: &str| match key.split_at_checked(1) {
                Some((first, rest)) => format!("{}{rest}", change(first)),
                None => key.to_owned(),
            };
            fields.map(|(key, value)| (renamed(&key), with_keys(value, change))).collect()
        }
        Value::Array(items) => items.into_iter().map(|item| with_keys(item, change)).collect(),
        other => other,
    }
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

fn annotate_list(object: &mut Value, name: &str, metrics: Vec<Value>, side: Side) {
    let metrics: Vec<Value> = metrics.into_iter().map(|metric| converted(metric, side, flatten)).collect();
    annotate(object, name, (!metrics.is_empty()).then_some(Value::Array(metrics)));
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

    /// A metric of each kind, with each target that it may have.
    fn full() -> Value {
        json!({"metadata": {"name": "a"}, "spec": {
            "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}},
                {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
                    "target": {"type": "Utilization", "averageUtilization": 60}}},
                {"type": "Pods", "pods": {"metric": {"name": "p", "selector": {"matchLabels": {"a": "b"}}},
                    "target": {"type": "AverageValue", "averageValue": "5"}}},
                {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "o"},
                    "target": {"type": "Value", "value": "7"}}},
                {"type": "External", "external": {"metric": {"name": "e", "selector": {"matchLabels": {"a": "b"}}},
                    "target": {"type": "AverageValue", "averageValue": "9"}}}],
            "behavior": {"scaleDown": {"selectPolicy": "Max", "stabilizationWindowSeconds": 5,
                "policies": [{"type": "Percent", "value": 10, "periodSeconds": 15}]}}},
          "status": {
            "currentMetrics": [
                {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 7, "averageValue": "70m"}}},
                {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "o"},
                    "current": {"value": "3"}}},
                {"type": ""}],
            "conditions": [{"type": "AbleToScale", "status": "True"}]}})
    }

    #[test]
    fn nothing_is_lost_through_v1() {
        let mut object = full();
        from_v2(&mut object);
        assert_eq!(object["spec"], json!({"targetCPUUtilizationPercentage": 70}));
        assert_eq!(object["status"], json!({"currentCPUUtilizationPercentage": 7}));
        to_v2(&mut object);
        assert_eq!(object, full());
    }

    #[test]
    fn annotations_have_the_words_of_kubernetes() {
        let mut object = full();
        from_v2(&mut object);
        let told = |name: &str| -> Value {
            serde_json::from_str(object["metadata"]["annotations"][name].as_str().unwrap()).unwrap()
        };
        assert_eq!(
            told(METRICS),
            json!([
                {"type": "Resource", "resource": {"name": "memory", "targetAverageValue": "1Gi"}},
                {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c", "targetAverageUtilization": 60}},
                {"type": "Pods", "pods": {"metricName": "p", "selector": {"matchLabels": {"a": "b"}}, "targetAverageValue": "5"}},
                {"type": "Object", "object": {"target": {"kind": "Service", "name": "s"}, "metricName": "o", "targetValue": "7"}},
                {"type": "External", "external": {"metricName": "e", "metricSelector": {"matchLabels": {"a": "b"}}, "targetAverageValue": "9"}}
            ])
        );
        assert_eq!(
            told(CURRENT)[0],
            json!({"type": "Resource", "resource": {"name": "cpu", "currentAverageUtilization": 7, "currentAverageValue": "70m"}})
        );
        assert_eq!(
            told(BEHAVIOR),
            json!({"ScaleDown": {"SelectPolicy": "Max", "StabilizationWindowSeconds": 5,
                "Policies": [{"Type": "Percent", "Value": 10, "PeriodSeconds": 15}]}})
        );
        assert_eq!(told(CONDITIONS)[0]["type"], "AbleToScale");
    }

    #[test]
    fn the_form_of_older_servers_of_ours_is_read() {
        let v2 = json!([{"type": "Pods", "pods": {"metric": {"name": "p"}, "target": {"type": "AverageValue", "averageValue": "5"}}}]);
        let mut object = json!({"metadata": {"annotations": {METRICS: v2.to_string(), "own": "x"}}, "spec": {}});
        to_v2(&mut object);
        assert_eq!(object, json!({"metadata": {"annotations": {"own": "x"}}, "spec": {"metrics": v2}}));
    }
}

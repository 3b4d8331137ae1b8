//! LimitRanger: containers get the namespace's defaults, and pods, containers and claims stay within its bounds.
//! Kubernetes documentation, "Limit Ranges"; messages of plugin/pkg/admission/limitranger.

use api::pod::Amounts;
use api::quantity::Quantity;
use api::quota::amounts;
use controller_object::resource::Subresource;
use controller_object::status::{About, Status};
use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::admit::{Attributes, Operation};
use crate::registry::names;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Larger amounts are compared by whole units (apimachinery, resource.MaxMilliValue).
const MAX_MILLI: i64 = i64::MAX / 1000;

/// Fills in what containers leave open.
pub(super) fn mutate(attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if attributes.creates("", "pods") {
        for range in ranges(attributes)? {
            fill(&range, pod);
        }
    }
    Ok(())
}

/// Refuses what lies outside.
pub(super) fn validate(attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    let resizes = attributes.is("", "pods") && attributes.subresource == Some(Subresource::Resize);
    let claims = attributes.is("", "persistentvolumeclaims") && attributes.subresource.is_none();
    let changes = matches!(attributes.operation, Operation::Create | Operation::Update);
    if !(attributes.creates("", "pods") || resizes || claims && changes) {
        return Ok(());
    }
    if attributes.old.is_some_and(|old| old.pointer("/metadata/deletionTimestamp").is_some()) {
        return Ok(());
    }
    for range in ranges(attributes)? {
        let faults = match claims {
            true => claim_faults(&range, object),
            false => pod_faults(&range, object),
        };
        let detail = match faults.as_slice() {
            [] => continue,
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        return Err(Status::forbidden(About::resource(attributes.resource, names(object).1), &detail));
    }
    Ok(())
}

fn ranges(attributes: &Attributes<'_>) -> Result<Vec<Value>, Status> {
    match attributes.namespace {
        Some(namespace) => attributes.state.registry.list("", "v1", "limitranges", Some(namespace)),
        None => Ok(Vec::new()),
    }
}

/// The limits of a range for one type of objects.
fn limits<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    let limits = range.pointer("/spec/limits").and_then(Value::as_array).into_iter().flatten();
    limits.filter(move |limit| limit["type"] == kind)
}

fn fill(range: &Value, pod: &mut Value) {
    let (mut requested, mut limited) = (serde_json::Map::new(), serde_json::Map::new());
    for limit in limits(range, "Container") {
        for (into, key) in [(&mut requested, "defaultRequest"), (&mut limited, "default")] {
            into.extend(limit.get(key).and_then(Value::as_object).cloned().unwrap_or_default());
        }
    }
    let mut told = Vec::new();
    for (field, what) in [("containers", "container"), ("initContainers", "init container")] {
        let list = pod.pointer_mut(&format!("/spec/{field}")).and_then(Value::as_array_mut);
        for container in list.into_iter().flatten().filter(|container| container.is_object()) {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (key, word, defaults) in [("requests", "request", &requested), ("limits", "limit", &limited)] {
                if defaults.is_empty() {
                    continue;
                }
                let set = fill_one(container, key, defaults);
                if !set.is_empty() {
                    told.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if told.is_empty() {
        return;
    }
    let text = format!("LimitRanger plugin set: {}", told.join("; "));
    let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(ANNOTATION.into(), text.into());
    }
}

/// The names that were filled in.
fn fill_one(container: &mut Value, key: &str, defaults: &serde_json::Map<String, Value>) -> Vec<String> {
    let Some(container) = container.as_object_mut() else { return Vec::new() };
    let resources = container.entry("resources").or_insert_with(|| json!({}));
    let Some(resources) = resources.as_object_mut() else { return Vec::new() };
    let Some(own) = resources.entry(key).or_insert_with(|| json!({})).as_object_mut() else { return Vec::new() };
    let mut set = Vec::new();
    for (name, value) in defaults {
        if !own.contains_key(name) {
            own.insert(name.clone(), value.clone());
            set.push(name.clone());
        }
    }
    set.sort_unstable();
    set
}

fn pod_faults(range: &Value, pod: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let containers = ["containers", "initContainers"].into_iter();
    let containers = containers.flat_map(|field| pod["spec"][field].as_array().into_iter().flatten());
    let containers: Vec<(Amounts, Amounts)> = containers
        .map(|one| (amounts(one.pointer("/resources/requests")), amounts(one.pointer("/resources/limits"))))
        .collect();
    for limit in limits(range, "Container") {
        for (requests, limits) in &containers {
            bounds("Container", limit, requests, limits, &mut faults);
        }
    }
    for limit in limits(range, "Pod") {
        let spec = pod.get("spec").and_then(|spec| PodSpec::deserialize(spec).ok()).unwrap_or_default();
        bounds("Pod", limit, &api::pod::requests(&spec), &api::pod::limits(&spec), &mut faults);
    }
    faults
}

fn claim_faults(range: &Value, claim: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let kind = "PersistentVolumeClaim";
    let requests = amounts(claim.pointer("/spec/resources/requests"));
    for limit in limits(range, kind) {
        for (name, least) in amounts(limit.get("min")) {
            faults.extend(below(kind, &name, least, &requests, &Amounts::new()));
        }
        // What is asked for counts; claims have no other limit.
        for (name, most) in amounts(limit.get("max")) {
            faults.extend(match requests.get(&name) {
                None => Some(format!("maximum {name} usage per {kind} is {most}.  No request is specified")),
                Some(asked) if over(*asked, most) => {
                    Some(format!("maximum {name} usage per {kind} is {most}, but request is {asked}"))
                }
                Some(_) => None,
            });
        }
    }
    faults
}

fn bounds(kind: &str, limit: &Value, requests: &Amounts, limits: &Amounts, faults: &mut Vec<String>) {
    for (name, least) in amounts(limit.get("min")) {
        faults.extend(below(kind, &name, least, requests, limits));
    }
    for (name, most) in amounts(limit.get("max")) {
        faults.extend(match (requests.get(&name), limits.get(&name)) {
            (_, None) => Some(format!("maximum {name} usage per {kind} is {most}.  No limit is specified")),
            (_, Some(own)) if over(*own, most) => {
                Some(format!("maximum {name} usage per {kind} is {most}, but limit is {own}"))
            }
            (Some(own), _) if over(*own, most) => {
                Some(format!("maximum {name} usage per {kind} is {most}, but request is {own}"))
            }
            _ => None,
        });
    }
    for (name, ratio) in amounts(limit.get("maxLimitRequestRatio")) {
        faults.extend(ratio_fault(kind, &name, ratio, requests.get(&name), limits.get(&name)));
    }
}

fn below(kind: &str, name: &str, least: Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    match (requests.get(name), limits.get(name)) {
        (None, _) => Some(format!("minimum {name} usage per {kind} is {least}.  No request is specified")),
        (Some(own), _) if over(least, *own) => {
            Some(format!("minimum {name} usage per {kind} is {least}, but request is {own}"))
        }
        (_, Some(own)) if over(least, *own) => {
            Some(format!("minimum {name} usage per {kind} is {least}, but limit is {own}"))
        }
        _ => None,
    }
}

fn over(one: Quantity, other: Quantity) -> bool {
    one.nano() > other.nano()
}

fn ratio_fault(
    kind: &str,
    name: &str,
    most: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let told = |detail: &str| Some(format!("{name} max limit to request ratio per {kind} is {most}, but {detail}"));
    let Some(request) = request.filter(|request| !request.is_zero()) else {
        return told("no request is specified or request is 0");
    };
    let Some(limit) = limit.filter(|limit| !limit.is_zero()) else {
        return told("no limit is specified or limit is 0");
    };
    // Only the ratio is shown with a fraction; what is compared is exact.
    let shown = limit.nano() as f64 / request.nano() as f64;
    let exceeds = match most.value() <= MAX_MILLI {
        true => limit.nano().saturating_mul(1000) > request.nano().saturating_mul(i128::from(most.milli())),
        false => limit.nano() > request.nano().saturating_mul(i128::from(most.value())),
    };
    if exceeds { told(&format!("provided ratio is {shown:.6}")) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(limits: Value) -> Value {
        json!({"spec": {"limits": limits}})
    }

    fn pod(requests: Value, limits: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": {"requests": requests, "limits": limits}}]}})
    }

    #[test]
    fn containers_get_defaults_and_the_pod_says_which() {
        let range = range(json!([{"type": "Container", "default": {"cpu": "2", "memory": "2Gi"},
            "defaultRequest": {"cpu": "1"}}, {"type": "Pod", "default": {"cpu": "9"}}]));
        let mut pod = pod(json!({}), json!({"cpu": "3"}));
        fill(&range, &mut pod);
        let resources = &pod["spec"]["containers"][0]["resources"];
        assert_eq!(*resources, json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3", "memory": "2Gi"}}));
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; memory limit for container c"
        );
        let again = pod.clone();
        fill(&range, &mut pod);
        assert_eq!(pod, again);
    }

    #[test]
    fn bounds_are_told_as_kubernetes_tells_them() {
        let cpu = |key: &str, value: &str| range(json!([{"type": "Container", key: {"cpu": value}}]));
        let both = |request: &str, limit: &str| pod(json!({"cpu": request}), json!({"cpu": limit}));
        for (range, pod, expected) in [
            (cpu("min", "100m"), both("100m", "100m"), None),
            (
                cpu("min", "100m"),
                pod(json!({}), json!({})),
                Some("minimum cpu usage per Container is 100m.  No request is specified"),
            ),
            (cpu("min", "100m"), both("50m", "1"), Some("minimum cpu usage per Container is 100m, but request is 50m")),
            (
                cpu("max", "1"),
                pod(json!({"cpu": "2"}), json!({})),
                Some("maximum cpu usage per Container is 1.  No limit is specified"),
            ),
            (cpu("max", "1"), both("1", "2"), Some("maximum cpu usage per Container is 1, but limit is 2")),
            (cpu("maxLimitRequestRatio", "2"), both("1", "2"), None),
            (
                cpu("maxLimitRequestRatio", "1500m"),
                both("1", "2"),
                Some("cpu max limit to request ratio per Container is 1500m, but provided ratio is 2.000000"),
            ),
            (
                cpu("maxLimitRequestRatio", "2"),
                pod(json!({}), json!({"cpu": "1"})),
                Some("cpu max limit to request ratio per Container is 2, but no request is specified or request is 0"),
            ),
        ] {
            assert_eq!(pod_faults(&range, &pod).first().map(String::as_str), expected, "{range} {pod}");
        }
        let whole = range(json!([{"type": "Pod", "max": {"memory": "1Gi"}}]));
        assert_eq!(
            pod_faults(&whole, &pod(json!({}), json!({"memory": "2Gi"}))),
            ["maximum memory usage per Pod is 1Gi, but limit is 2Gi"]
        );
        let claims =
            range(json!([{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]));
        let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        assert!(claim_faults(&claims, &claim("1Gi")).is_empty());
        assert_eq!(
            claim_faults(&claims, &claim("3Gi")),
            ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"]
        );
    }
}

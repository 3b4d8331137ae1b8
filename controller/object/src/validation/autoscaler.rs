//! Rules of HorizontalPodAutoscalers (facts from Kubernetes' `pkg/apis/autoscaling/validation`).
use super::check::{Faults, amount, is_blank, join};
use crate::conversion;
use crate::resource::Resource;
use crate::status::Cause;
use crate::tree::{integer, list, text};
use serde_json::Value;

/// No window is longer.
const MAX_WINDOW_SECONDS: i64 = 3600;
/// No policy looks back further.
const MAX_PERIOD_SECONDS: i64 = 1800;

/// The kinds of metrics, and the fields that hold them.
const SOURCES: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

pub(super) fn autoscaler(resource: &Resource, object: &Value, faults: &mut Faults) {
    if resource.version == "v1" {
        let mut stored = object.clone();
        conversion::autoscaler::to_v2(&mut stored);
        return spec(&stored["spec"], faults);
    }
    spec(&object["spec"], faults);
}

/// The status that a controller writes.
pub(super) fn status(object: &Value, faults: &mut Faults) {
    for field in ["currentReplicas", "desiredReplicas"] {
        faults.not_negative(&object["status"], field, "status");
    }
}

fn spec(spec: &Value, faults: &mut Faults) {
    let max = integer(spec, &["maxReplicas"]).unwrap_or(0);
    let min = integer(spec, &["minReplicas"]);
    if let Some(min) = min.filter(|min| *min < 0) {
        faults.invalid("spec.minReplicas", min, "must be greater than or equal to 0");
    }
    if max < 1 {
        faults.invalid("spec.maxReplicas", max, "must be greater than 0");
    }
    if min.is_some_and(|min| max < min) {
        faults.invalid("spec.maxReplicas", max, "must be greater than or equal to `minReplicas`");
    }
    reference(&spec["scaleTargetRef"], "spec.scaleTargetRef", faults);
    for (index, one) in list(spec, &["metrics"]).iter().enumerate() {
        metric(one, &format!("spec.metrics[{index}]"), faults);
    }
    // Nobody is there then who could be measured.
    let is_measured_elsewhere = |one: &Value| matches!(text(one, &["type"]), Some("Object" | "External"));
    if min == Some(0) && !list(spec, &["metrics"]).iter().any(is_measured_elsewhere) {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        faults.forbidden("spec.metrics", detail);
    }
    for direction in ["scaleUp", "scaleDown"] {
        if let Some(own) = spec["behavior"].get(direction) {
            rules(own, &format!("spec.behavior.{direction}"), faults);
        }
    }
}

fn reference(target: &Value, path: &str, faults: &mut Faults) {
    for key in ["kind", "name"] {
        let field = join(path, key);
        match text(target, &[key]).filter(|value| !value.is_empty()) {
            Some(value) => faults.rule(&field, value, api::name::path_segment(value)),
            None => faults.required(field, ""),
        }
    }
    if let Some(version) = text(target, &["apiVersion"]).filter(|version| version.matches('/').count() > 1) {
        let detail = format!("unexpected GroupVersion string: {version}");
        faults.invalid(join(path, "apiVersion"), version, &detail);
    }
}

fn metric(metric: &Value, path: &str, faults: &mut Faults) {
    let kind = text(metric, &["type"]).unwrap_or_default();
    if kind.is_empty() {
        return faults.required(join(path, "type"), "must specify a metric source type");
    }
    let Some((_, expected)) = SOURCES.iter().find(|(name, _)| *name == kind) else {
        return faults.add(Cause::unsupported(join(path, "type"), &metric["type"], &SOURCES.map(|(name, _)| name)));
    };
    for (_, field) in SOURCES {
        let at = join(path, field);
        match metric.get(field).filter(|own| !own.is_null()) {
            Some(own) if field == *expected => source(own, field, &at, faults),
            Some(_) => faults.forbidden(at, "must populate the given metric source only"),
            None if field == *expected => {
                faults.required(at, "must populate information for the given metric source");
            }
            None => {}
        }
    }
}

fn source(source: &Value, field: &str, path: &str, faults: &mut Faults) {
    let has = |key: &str| source["target"].get(key).is_some_and(|value| !value.is_null());
    let (has_value, has_average, has_utilization) = (has("value"), has("averageValue"), has("averageUtilization"));
    let at = |key: &str| join(path, &format!("target.{key}"));
    match field {
        "resource" | "containerResource" => {
            if is_blank(source.get("name")) {
                faults.required(join(path, "name"), "must specify a resource name");
            }
            if field == "containerResource" && is_blank(source.get("container")) {
                faults.required(join(path, "container"), "must specify a container");
            }
        }
        "object" => reference(&source["describedObject"], &join(path, "describedObject"), faults),
        _ => {}
    }
    if !matches!(field, "resource" | "containerResource") {
        let name = join(path, "metric.name");
        match text(source, &["metric", "name"]).filter(|value| !value.is_empty()) {
            Some(value) => faults.rule(&name, value, api::name::path_segment(value)),
            None => faults.required(name, "must specify a metric name"),
        }
    }
    target(&source["target"], &join(path, "target"), faults);
    match field {
        "resource" | "containerResource" => {
            if !has_utilization && !has_average {
                let detail = "must set either a target raw value or a target utilization";
                faults.required(at("averageUtilization"), detail);
            } else if has_utilization && has_average {
                let detail = "may not set both a target raw value and a target utilization";
                faults.forbidden(at("averageValue"), detail);
            }
        }
        "pods" => {
            if !has_average {
                faults.required(at("averageValue"), "must specify a positive target averageValue");
            }
        }
        "object" => {
            if !has_value && !has_average {
                faults.required(at("averageValue"), "must set either a target value or averageValue");
            }
        }
        _ => {
            if !has_value && !has_average {
                let detail = "must set either a target value for metric or a per-pod target";
                faults.required(at("averageValue"), detail);
            } else if has_value && has_average {
                let detail = "may not set both a target value for metric and a per-pod target";
                faults.forbidden(at("value"), detail);
            }
        }
    }
}

fn target(target: &Value, path: &str, faults: &mut Faults) {
    let field = join(path, "type");
    match text(target, &["type"]).unwrap_or_default() {
        "" => faults.required(field, "must specify a metric target type"),
        "Utilization" | "Value" | "AverageValue" => {}
        other => faults.invalid(field, other, "must be either Utilization, Value, or AverageValue"),
    }
    for key in ["value", "averageValue"] {
        let own = amount(target, &[key]).filter(|own| own.is_negative() || own.is_zero());
        if own.is_some() {
            faults.invalid(join(path, key), target[key].clone(), "must be positive");
        }
    }
    if let Some(percent) = integer(target, &["averageUtilization"]).filter(|percent| *percent < 1) {
        faults.invalid(join(path, "averageUtilization"), percent, "must be greater than 0");
    }
}

fn rules(rules: &Value, path: &str, faults: &mut Faults) {
    let window = join(path, "stabilizationWindowSeconds");
    match integer(rules, &["stabilizationWindowSeconds"]) {
        Some(seconds) if seconds < 0 => faults.invalid(window, seconds, "must be greater than or equal to zero"),
        Some(seconds) if seconds > MAX_WINDOW_SECONDS => {
            let detail = format!("must be less than or equal to {MAX_WINDOW_SECONDS}");
            faults.invalid(window, seconds, &detail);
        }
        Some(_) | None => {}
    }
    faults.one_of(rules, "selectPolicy", path, &["Disabled", "Max", "Min"]);
    if amount(rules, &["tolerance"]).is_some_and(|tolerance| tolerance.is_negative()) {
        faults.invalid(join(path, "tolerance"), rules["tolerance"].clone(), "must be greater than or equal to 0");
    }
    let policies = list(rules, &["policies"]);
    if policies.is_empty() {
        faults.required(join(path, "policies"), "must specify at least one Policy");
    }
    for (index, policy) in policies.iter().enumerate() {
        let path = join(path, &format!("policies[{index}]"));
        if !matches!(text(policy, &["type"]), Some("Pods" | "Percent")) {
            faults.add(Cause::unsupported(join(&path, "type"), &policy["type"], &["Percent", "Pods"]));
        }
        let number = |key: &str| integer(policy, &[key]).unwrap_or(0);
        for key in ["value", "periodSeconds"] {
            if number(key) < 1 {
                faults.invalid(join(&path, key), number(key), "must be greater than zero");
            }
        }
        if number("periodSeconds") > MAX_PERIOD_SECONDS {
            let detail = format!("must be less than or equal to {MAX_PERIOD_SECONDS}");
            faults.invalid(join(&path, "periodSeconds"), number("periodSeconds"), &detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaulting;
    use crate::resource::Table;
    use serde_json::json;

    fn faulty(version: &str, spec: Value) -> Vec<String> {
        let resource = Table::builtin().find("autoscaling", version, "horizontalpodautoscalers").unwrap();
        let mut object = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        defaulting::default(resource, &mut object);
        let mut faults = Faults::default();
        autoscaler(resource, &object, &mut faults);
        faults.into_causes().into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[track_caller]
    fn refused(spec: Value, expected: &[&str]) {
        assert_eq!(faulty("v2", spec), expected);
    }

    #[test]
    fn bounds_and_references() {
        refused(json!({}), &[]);
        refused(
            json!({"minReplicas": 5}),
            &["spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"],
        );
        refused(
            json!({"minReplicas": 0}),
            &[
                "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas",
            ],
        );
        refused(
            json!({"maxReplicas": 0}),
            &[
                "spec.maxReplicas: Invalid value: 0: must be greater than 0",
                "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
            ],
        );
        refused(
            json!({"scaleTargetRef": {"kind": "a/b"}}),
            &[
                "spec.scaleTargetRef.kind: Invalid value: \"a/b\": may not contain '/'",
                "spec.scaleTargetRef.name: Required value",
            ],
        );
    }

    #[test]
    fn metrics_have_one_source_and_a_goal() {
        let target = json!({"type": "Value", "value": "5"});
        refused(json!({"metrics": [{}]}), &["spec.metrics[0].type: Required value: must specify a metric source type"]);
        refused(
            json!({"metrics": [{"type": "Pods"}]}),
            &["spec.metrics[0].pods: Required value: must populate information for the given metric source"],
        );
        refused(
            json!({"minReplicas": 0, "metrics": [{"type": "External", "external": {"metric": {"name": "a"}, "target": target},
                "pods": {}}]}),
            &["spec.metrics[0].pods: Forbidden: must populate the given metric source only"],
        );
        refused(
            json!({"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]}),
            &[
                "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a \
               target utilization",
            ],
        );
        refused(
            json!({"metrics": [{"type": "ContainerResource", "containerResource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 0}}}]}),
            &[
                "spec.metrics[0].containerResource.container: Required value: must specify a container",
                "spec.metrics[0].containerResource.target.averageUtilization: Invalid value: 0: must be greater than 0",
            ],
        );
        refused(
            json!({"metrics": [{"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"},
                "metric": {"name": "a"}, "target": {"type": "Odd", "value": "-1"}}}]}),
            &[
                "spec.metrics[0].object.target.type: Invalid value: \"Odd\": must be either Utilization, Value, or AverageValue",
                "spec.metrics[0].object.target.value: Invalid value: \"-1\": must be positive",
            ],
        );
    }

    #[test]
    fn behaviors_have_limits() {
        let rules = |own: Value| json!({"behavior": {"scaleUp": own}});
        refused(rules(json!({})), &[]);
        refused(
            rules(
                json!({"stabilizationWindowSeconds": 3601, "selectPolicy": "Best", "policies": [], "tolerance": "-1"}),
            ),
            &[
                "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"Best\": supported values: \"Disabled\", \"Max\", \"Min\"",
                "spec.behavior.scaleUp.tolerance: Invalid value: \"-1\": must be greater than or equal to 0",
                "spec.behavior.scaleUp.policies: Required value: must specify at least one Policy",
            ],
        );
        refused(
            rules(json!({"policies": [{"type": "Pods", "value": 0, "periodSeconds": 1801}]})),
            &[
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
            ],
        );
    }

    #[test]
    fn v1_is_checked_by_what_it_means() {
        assert_eq!(faulty("v1", json!({})), [] as [&str; 0]);
        assert_eq!(
            faulty("v1", json!({"targetCPUUtilizationPercentage": 0})),
            ["spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0"]
        );
    }
}

//! What is said about HorizontalPodAutoscalers.

use serde_json::Value;

use super::kinds::{at, head, labels, number, text};
use super::page::{Page, local_time};
use super::template::{list, shown, string};

/// Writes a HorizontalPodAutoscaler.
pub(super) fn write(page: &mut Page, object: &Value) {
    let null = Value::Null;
    let (spec, status) = (object.get("spec").unwrap_or(&null), object.get("status").unwrap_or(&null));
    head(page, object);
    labels(page, object);
    page.field(0, "CreationTimestamp", local_time(&text(object, "/metadata/creationTimestamp")));
    let kind = text(spec, "/scaleTargetRef/kind");
    page.field(0, "Reference", format!("{kind}/{}", text(spec, "/scaleTargetRef/name")));
    page.field(0, "Metrics", "( current / target )");
    let current: Vec<&Value> = list(status, "currentMetrics").collect();
    for (index, metric) in list(spec, "metrics").enumerate() {
        let (name, value) = measured(metric, current.get(index).copied().unwrap_or(&null));
        page.field(1, &name, value);
    }
    let min = at(spec, "/minReplicas").map_or_else(|| "<unset>".to_owned(), |min| shown(Some(min)));
    page.field(0, "Min replicas", min);
    page.field(0, "Max replicas", number(spec, "/maxReplicas").to_string());
    if let Some(behavior) = spec.get("behavior") {
        page.heading(0, "Behavior");
        for (key, title) in [("scaleUp", "Scale Up"), ("scaleDown", "Scale Down")] {
            if let Some(rules) = behavior.get(key) {
                self::rules(page, title, rules);
            }
        }
    }
    let (now, wanted) = (number(status, "/currentReplicas"), number(status, "/desiredReplicas"));
    page.field(0, &format!("{kind} pods"), format!("{now} current / {wanted} desired"));
    let conditions: Vec<&Value> = list(status, "conditions").collect();
    if !conditions.is_empty() {
        page.heading(0, "Conditions");
        page.cells(1, ["Type", "Status", "Reason", "Message"].map(str::to_owned));
        page.cells(1, ["----", "------", "------", "-------"].map(str::to_owned));
        for condition in conditions {
            page.cells(1, ["type", "status", "reason", "message"].map(|key| shown(condition.get(key))));
        }
    }
}

/// What a metric is of, and its values.
fn measured(metric: &Value, current: &Value) -> (String, String) {
    let kind = string(metric, "type").unwrap_or_default();
    let mut letters = kind.chars();
    let part: String = letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect();
    let own = |pointer: &str| text(metric, &format!("/{part}/{pointer}"));
    let is_average = at(metric, &format!("/{part}/target/averageValue")).is_some();
    let average = if is_average { " (target average value)" } else { " (target value)" };
    let percentage = "  (as a percentage of request)";
    let key = if is_average { "averageValue" } else { "value" };
    let known = |pointer: &str| at(current, &format!("/{part}/current/{pointer}")).map(|value| shown(Some(value)));
    let values =
        |now: Option<String>, wanted: String| format!("{} / {wanted}", now.unwrap_or_else(|| "<unknown>".to_owned()));
    let of_pods = |name: String| match at(metric, &format!("/{part}/target/averageUtilization")) {
        Some(percent) if !is_average => {
            let now = known("averageUtilization")
                .map(|now| format!("{now}% ({})", known("averageValue").unwrap_or_default()));
            (format!("{name}{percentage}"), values(now, format!("{}%", shown(Some(percent)))))
        }
        _ => (name, values(known("averageValue"), own("target/averageValue"))),
    };
    let of_value = |name: String| (format!("{name}{average}"), values(known(key), own(&format!("target/{key}"))));
    match part.as_str() {
        "resource" => of_pods(format!("resource {} on pods", own("name"))),
        "containerResource" => {
            of_pods(format!("resource {} of container \"{}\" on pods", own("name"), own("container")))
        }
        "pods" => of_pods(format!("\"{}\" on pods", own("metric/name"))),
        "object" => {
            let object = format!("{}/{}", own("describedObject/kind"), own("describedObject/name"));
            of_value(format!("\"{}\" on {object}", own("metric/name")))
        }
        "external" => of_value(format!("\"{}\"", own("metric/name"))),
        _ => ("<unknown metric type>".to_owned(), String::new()),
    }
}

fn rules(page: &mut Page, title: &str, rules: &Value) {
    page.heading(1, title);
    if let Some(seconds) = rules.get("stabilizationWindowSeconds") {
        page.cells(2, [format!("Stabilization Window: {} seconds", shown(Some(seconds)))]);
    }
    if list(rules, "policies").next().is_none() {
        return;
    }
    page.cells(2, [format!("Select Policy: {}", string(rules, "selectPolicy").unwrap_or("Max"))]);
    page.heading(2, "Policies");
    for policy in list(rules, "policies") {
        let own = |key: &str| shown(policy.get(key));
        page.cells(
            3,
            [
                format!("- Type: {}", own("type")),
                format!("Value: {}", own("value")),
                format!("Period: {} seconds", own("periodSeconds")),
            ],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_page_has_kubectls_lines() {
        let object = json!({"metadata": {"name": "h", "namespace": "n", "creationTimestamp": ""},
            "spec": {"minReplicas": 1, "maxReplicas": 9, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 50}}},
                    {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "m"},
                        "target": {"value": "7"}}}],
                "behavior": {"scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
                    {"type": "Pods", "value": 4, "periodSeconds": 15}]}}},
            "status": {"currentReplicas": 2, "desiredReplicas": 3, "currentMetrics": [
                {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 70, "averageValue": "14m"}}}],
                "conditions": [{"type": "AbleToScale", "status": "True", "reason": "R", "message": "m"}]}});
        let mut page = Page::default();
        write(&mut page, &object);
        let page = page.text();
        let words: Vec<String> =
            page.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for line in [
            "Reference: Deployment/d",
            "Metrics: ( current / target )",
            "resource cpu on pods (as a percentage of request): 70% (14m) / 50%",
            "\"m\" on Service/s (target value): <unknown> / 7",
            "Min replicas: 1",
            "Stabilization Window: 0 seconds",
            "Select Policy: Max",
            "- Type: Pods Value: 4 Period: 15 seconds",
            "Deployment pods: 2 current / 3 desired",
            "AbleToScale True R m",
        ] {
            assert!(words.iter().any(|own| own == line), "{line} in {page}");
        }
    }
}

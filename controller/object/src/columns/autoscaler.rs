//! The row of a HorizontalPodAutoscaler.
use super::cells::age;
use crate::conversion;
use crate::tree::{at, integer, list, text};
use serde_json::Value;

/// More metrics than this are only counted.
const SHOWN: usize = 2;

pub(super) fn autoscaler(o: &Value, now: i64) -> Vec<Value> {
    let mut object = o.clone();
    // Whatever the version is that somebody asks in.
    if at(o, &["spec", "metrics"]).is_none() {
        conversion::autoscaler::to_v2(&mut object);
    }
    let target = |key: &str| text(&object, &["spec", "scaleTargetRef", key]).unwrap_or_default();
    let number = |path: &[&str]| integer(&object, path);
    let min = number(&["spec", "minReplicas"]).map_or_else(|| "<unset>".to_owned(), |min| min.to_string());
    vec![
        format!("{}/{}", target("kind"), target("name")).into(),
        targets(&object).into(),
        min.into(),
        number(&["spec", "maxReplicas"]).unwrap_or(0).to_string().into(),
        number(&["status", "currentReplicas"]).unwrap_or(0).to_string().into(),
        age(&object, now),
    ]
}

/// What each metric is, and what it is to be.
fn targets(object: &Value) -> String {
    let metrics = list(object, &["spec", "metrics"]);
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let current = list(object, &["status", "currentMetrics"]);
    let told = |(index, metric): (usize, &Value)| one(metric, current.get(index).unwrap_or(&Value::Null));
    let shown: Vec<String> = metrics.iter().enumerate().take(SHOWN).map(told).collect();
    let shown = shown.join(", ");
    match metrics.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

fn one(metric: &Value, current: &Value) -> String {
    let kind = text(metric, &["type"]).unwrap_or_default();
    let mut letters = kind.chars();
    let part: String = letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect();
    let value = |side: &Value, name: &str, key: &str| text(side, &[&part, name, key]).map(str::to_owned);
    let percent = |side: &Value, name: &str| {
        integer(side, &[&part, name, "averageUtilization"]).map(|percent| format!("{percent}%"))
    };
    let average = value(metric, "target", "averageValue");
    let of_pods = average.is_some();
    let (now, wanted) = match average {
        Some(wanted) => (value(current, "current", "averageValue"), wanted),
        None if part == "resource" || part == "containerResource" => {
            (percent(current, "current"), percent(metric, "target").unwrap_or_else(|| "<auto>".to_owned()))
        }
        None => (value(current, "current", "value"), value(metric, "target", "value").unwrap_or_default()),
    };
    let now = now.unwrap_or_else(|| "<unknown>".to_owned());
    match part.as_str() {
        "resource" | "containerResource" => {
            format!("{}: {now}/{wanted}", text(metric, &[&part, "name"]).unwrap_or_default())
        }
        "object" | "external" if of_pods => format!("{now}/{wanted} (avg)"),
        "object" | "external" | "pods" => format!("{now}/{wanted}"),
        _ => "<unknown type>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(metrics: Value, current: Value) -> String {
        targets(&json!({"spec": {"metrics": metrics}, "status": {"currentMetrics": current}}))
    }

    #[test]
    fn targets_are_written_as_kubernetes_writes_them() {
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}});
        let pods = json!({"type": "Pods", "pods": {"target": {"averageValue": "5"}}});
        let external = json!({"type": "External", "external": {"target": {"averageValue": "100m"}}});
        let object = json!({"type": "Object", "object": {"target": {"value": "7"}}});
        let used = json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 12, "averageValue": "3m"}}});
        assert_eq!(shown(json!([]), json!([])), "<none>");
        assert_eq!(shown(json!([cpu]), json!([])), "cpu: <unknown>/80%");
        assert_eq!(shown(json!([cpu, pods]), json!([used, {"type": ""}])), "cpu: 12%/80%, <unknown>/5");
        let current =
            json!([{"external": {"current": {"averageValue": "5"}}}, {"object": {"current": {"value": "3"}}}]);
        assert_eq!(shown(json!([external, object, cpu]), current), "5/100m (avg), 3/7 + 1 more...");
    }

    #[test]
    fn v1_is_shown_as_v2() {
        let object = json!({"metadata": {}, "spec": {"maxReplicas": 3, "minReplicas": 1, "targetCPUUtilizationPercentage": 50,
            "scaleTargetRef": {"kind": "Deployment", "name": "d"}},
            "status": {"currentReplicas": 2, "currentCPUUtilizationPercentage": 4}});
        let row = autoscaler(&object, 0);
        assert_eq!(row[..5], [json!("Deployment/d"), json!("cpu: 4%/50%"), json!("1"), json!("3"), json!("2")]);
    }
}

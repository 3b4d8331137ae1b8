//! Defaults of what makes pods.
use super::pod::template;
use crate::tree::{at, child, fill, fill_text, list_mut, text};
use serde_json::{Value, json};

pub(super) fn deployment(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", 10);
    fill(spec, "progressDeadlineSeconds", 600);
    if let Some(strategy) = child(spec, "strategy") {
        fill_text(strategy, "type", "RollingUpdate");
        rolling(strategy, &[("maxUnavailable", json!("25%")), ("maxSurge", json!("25%"))]);
    }
    template(spec, "template");
}

fn rolling(strategy: &mut Value, defaults: &[(&str, Value)]) {
    if text(strategy, &["type"]) != Some("RollingUpdate") {
        return;
    }
    if let Some(rolling) = child(strategy, "rollingUpdate") {
        for (key, value) in defaults {
            fill(rolling, key, value.clone());
        }
    }
}

pub(super) fn replica_set(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    fill(spec, "replicas", 1);
    template(spec, "template");
}

pub(super) fn replication_controller(object: &mut Value) {
    let labels = at(object, &["spec", "template", "metadata", "labels"]).cloned();
    if let Some(labels) = labels {
        if at(object, &["spec", "selector"]).is_none()
            && let Some(spec) = child(object, "spec")
        {
            spec["selector"] = labels.clone();
        }
        if at(object, &["metadata", "labels"]).is_none()
            && let Some(metadata) = child(object, "metadata")
        {
            metadata["labels"] = labels;
        }
    }
    replica_set(object);
}

pub(super) fn stateful_set(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    fill_text(spec, "podManagementPolicy", "OrderedReady");
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", 10);
    if let Some(strategy) = child(spec, "updateStrategy") {
        fill_text(strategy, "type", "RollingUpdate");
        rolling(strategy, &[("partition", json!(0)), ("maxUnavailable", json!(1))]);
    }
    if let Some(retention) = child(spec, "persistentVolumeClaimRetentionPolicy") {
        fill_text(retention, "whenDeleted", "Retain");
        fill_text(retention, "whenScaled", "Retain");
    }
    for claim in list_mut(spec, &["volumeClaimTemplates"]) {
        fill_text(claim, "apiVersion", "v1");
        fill_text(claim, "kind", "PersistentVolumeClaim");
        if let Some(claim_spec) = child(claim, "spec") {
            super::claim_spec(claim_spec);
        }
        fill(claim, "status", json!({"phase": "Pending"}));
    }
    template(spec, "template");
}

pub(super) fn daemon_set(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    fill(spec, "revisionHistoryLimit", 10);
    if let Some(strategy) = child(spec, "updateStrategy") {
        fill_text(strategy, "type", "RollingUpdate");
        rolling(strategy, &[("maxUnavailable", json!(1)), ("maxSurge", json!(0))]);
    }
    template(spec, "template");
}

pub(super) fn job(object: &mut Value) {
    if let Some(spec) = child(object, "spec") {
        job_spec(spec);
    }
}

fn job_spec(spec: &mut Value) {
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        fill(spec, "completions", 1);
    }
    fill(spec, "parallelism", 1);
    fill(spec, "backoffLimit", if spec.get("backoffLimitPerIndex").is_some() { i64::from(i32::MAX) } else { 6 });
    fill_text(spec, "completionMode", "NonIndexed");
    fill(spec, "suspend", false);
    fill(spec, "manualSelector", false);
    let policy = if spec.get("podFailurePolicy").is_some() { "Failed" } else { "TerminatingOrFailed" };
    fill_text(spec, "podReplacementPolicy", policy);
    for rule in list_mut(spec, &["podFailurePolicy", "rules"]) {
        for condition in list_mut(rule, &["onPodConditions"]) {
            fill_text(condition, "status", "True");
        }
    }
    template(spec, "template");
}

pub(super) fn cron_job(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    fill_text(spec, "concurrencyPolicy", "Allow");
    fill(spec, "suspend", false);
    fill(spec, "successfulJobsHistoryLimit", 3);
    fill(spec, "failedJobsHistoryLimit", 1);
    if let Some(template) = spec.get_mut("jobTemplate").and_then(|t| t.get_mut("spec")) {
        // Jobs are completed when they are made; only the pod template is filled in here.
        super::pod::template(template, "template");
    }
}

pub(super) fn autoscaler(object: &mut Value, version: &str) {
    let has_more = at(object, &["metadata", "annotations", crate::conversion::autoscaler::METRICS]).is_some();
    let Some(spec) = child(object, "spec") else { return };
    fill(spec, "minReplicas", 1);
    if version == "v1" {
        // What v2 says of a list without metrics.
        if !has_more {
            fill(spec, "targetCPUUtilizationPercentage", 80);
        }
        return;
    }
    if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]);
    }
    let Some(behavior) = spec.get_mut("behavior") else { return };
    for (key, policies) in [
        (
            "scaleUp",
            json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]),
        ),
        ("scaleDown", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}])),
    ] {
        if let Some(rules) = child(behavior, key) {
            fill_text(rules, "selectPolicy", "Max");
            fill(rules, "policies", policies);
            if key == "scaleUp" {
                fill(rules, "stabilizationWindowSeconds", 0);
            }
        }
    }
}

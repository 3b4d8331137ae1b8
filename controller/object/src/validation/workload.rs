//! Rules of what makes pods, and of what protects them.
use super::check::{Faults, is_blank, join, selector};
use super::pod::template;
use crate::tree::{at, entries, text};
use api::selector::Selector;
use serde_json::Value;

/// The selector must be there and match the template's labels.
fn selector_matches_template(spec: &Value, kind: &str, faults: &mut Faults) {
    let wanted = spec.get("selector");
    if is_blank(wanted) {
        faults.required("spec.selector", "");
        return;
    }
    let wanted = &spec["selector"];
    selector(wanted, "spec.selector", faults);
    if is_blank(wanted.get("matchLabels")) && is_blank(wanted.get("matchExpressions")) {
        let detail = format!("empty selector is invalid for {}", kind.to_lowercase());
        faults.invalid("spec.selector", wanted.clone(), &detail);
        return;
    }
    selects_template(spec, faults);
}

/// The selector takes the pods of the template.
pub(super) fn selects_template(spec: &Value, faults: &mut Faults) {
    let labels = at(spec, &["template", "metadata", "labels"]);
    let lookup = |key: &str| labels.and_then(|l| l.get(key)).and_then(Value::as_str);
    if Selector::from_value(&spec["selector"]).is_ok_and(|s| !s.matches_with(lookup)) {
        let shown = labels.cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        faults.invalid("spec.template.metadata.labels", shown, "`selector` does not match template `labels`");
    }
}

fn always_restarts(spec: &Value, path: &str, kind: &str, faults: &mut Faults) {
    let policy = &spec["template"]["spec"]["restartPolicy"];
    if policy != "Always" && !is_blank(Some(policy)) {
        let field = join(path, "template.spec.restartPolicy");
        faults.add(crate::status::Cause::unsupported(field, policy, &["Always"]));
    }
    if spec["template"]["spec"].get("activeDeadlineSeconds").is_some() {
        faults.forbidden(
            join(path, "template.spec.activeDeadlineSeconds"),
            &format!("activeDeadlineSeconds in {kind} is not Supported"),
        );
    }
}

fn common(object: &Value, kind: &str, faults: &mut Faults) {
    common_with(object, &object["spec"]["template"], kind, faults);
}

/// What every kind of group apps has: a template of pods and a selector for them.
pub(super) fn common_with(object: &Value, pods: &Value, kind: &str, faults: &mut Faults) {
    let spec = &object["spec"];
    for key in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        faults.not_negative(spec, key, "spec");
    }
    selector_matches_template(spec, kind, faults);
    template(pods, "spec.template", faults);
    always_restarts(spec, "spec", kind, faults);
}

/// A number or percentage that is nothing.
pub(super) fn is_zero(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Number(n)) => n.as_i64() == Some(0),
        Some(Value::String(text)) => text.trim_end_matches('%').parse() == Ok(0),
        _ => false,
    }
}

fn rolling(strategy: &Value, path: &str, faults: &mut Faults) {
    let rolling = &strategy["rollingUpdate"];
    let path = join(path, "rollingUpdate");
    faults.count_or_percent(rolling, "maxUnavailable", &path, true);
    faults.count_or_percent(rolling, "maxSurge", &path, false);
    if is_zero(rolling.get("maxUnavailable")) && is_zero(rolling.get("maxSurge")) {
        faults.invalid(
            join(&path, "maxUnavailable"),
            rolling["maxUnavailable"].clone(),
            "may not be 0 when `maxSurge` is 0",
        );
    }
}

pub(super) fn deployment(object: &Value, faults: &mut Faults) {
    common(object, "ReplicaSet", faults);
    let spec = &object["spec"];
    let strategy = &spec["strategy"];
    match text(strategy, &["type"]) {
        Some("Recreate") if strategy.get("rollingUpdate").is_some() => {
            faults.forbidden("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'");
        }
        Some("RollingUpdate") => rolling(strategy, "spec.strategy", faults),
        _ => faults.needs_one_of(strategy, "type", "spec.strategy", &["Recreate", "RollingUpdate"]),
    }
    faults.not_negative(spec, "progressDeadlineSeconds", "spec");
    let number = |key: &str| spec.get(key).and_then(Value::as_i64).unwrap_or(0);
    if spec.get("progressDeadlineSeconds").is_some() && number("progressDeadlineSeconds") <= number("minReadySeconds") {
        faults.invalid(
            "spec.progressDeadlineSeconds",
            number("progressDeadlineSeconds"),
            "must be greater than minReadySeconds",
        );
    }
}

pub(super) fn replica_set(object: &Value, faults: &mut Faults) {
    common(object, "ReplicaSet", faults);
}

pub(super) fn replication_controller(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    faults.not_negative(spec, "replicas", "spec");
    faults.not_negative(spec, "minReadySeconds", "spec");
    if is_blank(spec.get("selector")) {
        faults.required("spec.selector", "");
    }
    let labels = at(spec, &["template", "metadata", "labels"]);
    if entries(spec, &["selector"]).any(|(key, value)| labels.and_then(|l| l.get(key)) != Some(value)) {
        let shown = labels.cloned().unwrap_or_default();
        faults.invalid("spec.template.metadata.labels", shown, "`selector` does not match template `labels`");
    }
    template(&spec["template"], "spec.template", faults);
    always_restarts(spec, "spec", "ReplicaSet", faults);
}

pub(super) fn disruption_budget(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    if spec.get("minAvailable").is_some() && spec.get("maxUnavailable").is_some() {
        faults.invalid("spec", spec.clone(), "minAvailable and maxUnavailable cannot be both set");
    }
    faults.count_or_percent(spec, "minAvailable", "spec", true);
    faults.count_or_percent(spec, "maxUnavailable", "spec", true);
    faults.one_of(spec, "unhealthyPodEvictionPolicy", "spec", &["AlwaysAllow", "IfHealthyBudget"]);
    selector(&spec["selector"], "spec.selector", faults);
}

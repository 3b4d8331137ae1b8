//! Rules of Jobs and CronJobs. Kubernetes documentation, "Jobs" and "CronJob", and the descriptions of the fields.
use super::check::{Faults, is_blank, join, selector};
use super::pod::template;
use super::workload::selects_template;
use crate::status::Cause;
use crate::tree::{at, integer, list, text};
use api::indexes::Indexes;
use api::schedule::Schedule;
use api::well_known::{LABEL_JOB_CONTROLLER_UID, LABEL_JOB_CONTROLLER_UID_OLD, LABEL_JOB_NAME, LABEL_JOB_NAME_OLD};
use serde_json::{Value, json};

/// Pods of an indexed Job at once.
const PARALLELISM_MOST: i64 = 100_000;
/// Where there are more completions than this, what may fail and what may run at once is bounded further.
const COMPLETIONS_MANY: i64 = 100_000;
const MANY_MOST: i64 = 10_000;
const RULES_MOST: usize = 20;
const VALUES_MOST: usize = 255;
const MANAGED_BY_MOST: usize = 63;
/// A CronJob's name leaves room for the eleven characters that its Jobs have besides.
const CRON_NAME_MOST: usize = 52;

pub(super) fn job(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    generated_selector(object, faults);
    job_spec(spec, "spec", faults);
    let completions = integer(spec, &["completions"]).unwrap_or(0);
    if spec["completionMode"] == "Indexed"
        && completions > 0
        && let Some(name) = text(object, &["metadata", "name"])
    {
        // Pods have it in their host names.
        let longest = format!("{name}-{}", completions - 1);
        faults.rule("metadata.name", &longest, api::name::rfc1123_label(&longest));
    }
    if is_blank(spec.get("selector")) {
        faults.required("spec.selector", "");
        return;
    }
    selector(&spec["selector"], "spec.selector", faults);
    selects_template(spec, faults);
}

/// Unless somebody chooses the selector, it and its labels are those that the server makes.
fn generated_selector(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    let uid = text(object, &["metadata", "uid"]).unwrap_or_default();
    if spec["manualSelector"] == true || uid.is_empty() {
        return;
    }
    let name = text(object, &["metadata", "name"]).unwrap_or_default();
    for (key, value) in [
        (LABEL_JOB_CONTROLLER_UID, uid),
        (LABEL_JOB_NAME, name),
        (LABEL_JOB_CONTROLLER_UID_OLD, uid),
        (LABEL_JOB_NAME_OLD, name),
    ] {
        let found = at(spec, &["template", "metadata", "labels", key]);
        if found.and_then(Value::as_str) != Some(value) {
            let shown = found.cloned().unwrap_or_default();
            faults.invalid(format!("spec.template.metadata.labels[{key}]"), shown, &format!("must be '{value}'"));
        }
    }
    let by = |key: &str| json!({"matchLabels": {key: uid}});
    let found = spec.get("selector").cloned().unwrap_or_default();
    if found != by(LABEL_JOB_CONTROLLER_UID) && found != by(LABEL_JOB_CONTROLLER_UID_OLD) {
        faults.invalid("spec.selector", found, "`selector` not auto-generated");
    }
}

fn at_most(spec: &Value, key: &str, path: &str, most: i64, faults: &mut Faults) {
    if let Some(value) = integer(spec, &[key]).filter(|value| *value > most) {
        faults.invalid(join(path, key), value, &format!("must be less than or equal to {most}"));
    }
}

fn job_spec(spec: &Value, path: &str, faults: &mut Faults) {
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        faults.not_negative(spec, key, path);
    }
    faults.one_of(spec, "completionMode", path, &["Indexed", "NonIndexed"]);
    if spec["completionMode"] == "Indexed" {
        indexed(spec, path, faults);
    } else {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
            if let Some(value) = spec.get(key) {
                faults.invalid(join(path, key), value.clone(), "requires indexed completion mode");
            }
        }
    }
    if let Some(name) = text(spec, &["managedBy"]) {
        managed_by(name, &join(path, "managedBy"), faults);
    }
    let pods = &spec["template"]["spec"];
    let policy = &pods["restartPolicy"];
    let field = join(path, "template.spec.restartPolicy");
    if policy != "OnFailure" && policy != "Never" {
        faults.add(Cause::unsupported(field, policy, &["OnFailure", "Never"]));
    } else if policy != "Never" {
        // A container that is restarted in its pod leaves no failed pod to judge by.
        for key in ["podFailurePolicy", "backoffLimitPerIndex"].into_iter().filter(|key| spec.get(*key).is_some()) {
            let detail = format!("only \"Never\" is supported when {key} is specified");
            faults.invalid(field.clone(), policy.clone(), &detail);
        }
    }
    let replacement = match spec.get("podFailurePolicy") {
        Some(_) => &["Failed"][..],
        None => &["Failed", "TerminatingOrFailed"],
    };
    faults.one_of(spec, "podReplacementPolicy", path, replacement);
    if let Some(policy) = spec.get("podFailurePolicy") {
        failure_policy(policy, spec, &join(path, "podFailurePolicy"), faults);
    }
    if let Some(policy) = spec.get("successPolicy").filter(|_| spec["completionMode"] == "Indexed") {
        success_policy(policy, spec, &join(path, "successPolicy"), faults);
    }
    template(&spec["template"], &join(path, "template"), faults);
}

fn indexed(spec: &Value, path: &str, faults: &mut Faults) {
    let Some(completions) = integer(spec, &["completions"]) else {
        return faults.required(join(path, "completions"), "when completion mode is Indexed");
    };
    at_most(spec, "parallelism", path, PARALLELISM_MOST, faults);
    let is_per_index = spec.get("backoffLimitPerIndex").is_some();
    if spec.get("maxFailedIndexes").is_some() && !is_per_index {
        faults.required(join(path, "backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    at_most(spec, "maxFailedIndexes", path, completions, faults);
    if is_per_index && completions > COMPLETIONS_MANY {
        match spec.get("maxFailedIndexes") {
            None => {
                faults.required(join(path, "maxFailedIndexes"), "must be specified when completions is above 100000")
            }
            Some(_) => at_most(spec, "maxFailedIndexes", path, MANY_MOST.min(completions), faults),
        }
        at_most(spec, "parallelism", path, MANY_MOST, faults);
    }
}

/// A path with a domain before it, as `acme.io/foo`.
fn managed_by(name: &str, field: &str, faults: &mut Faults) {
    let (domain, rest) = name.split_once('/').unwrap_or((name, ""));
    let is_path = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@%/".contains(c);
    if rest.is_empty() || domain.is_empty() || !rest.chars().all(is_path) {
        faults.invalid(field, name, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    } else {
        faults.rule(field, name, api::name::rfc1123_subdomain(domain));
    }
    if name.len() > MANAGED_BY_MOST {
        faults.add(Cause::too_long(field, MANAGED_BY_MOST));
    }
}

fn failure_policy(policy: &Value, spec: &Value, path: &str, faults: &mut Faults) {
    let (rules, path) = (list(policy, &["rules"]), join(path, "rules"));
    if rules.len() > RULES_MOST {
        faults.add(Cause::too_many(path.clone(), rules.len(), RULES_MOST));
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{index}]");
        faults.needs_one_of(rule, "action", &path, &["Count", "FailIndex", "FailJob", "Ignore"]);
        if rule["action"] == "FailIndex" && spec.get("backoffLimitPerIndex").is_none() {
            faults.invalid(join(&path, "action"), "FailIndex", "requires the backoffLimitPerIndex to be set");
        }
        let conditions = list(rule, &["onPodConditions"]);
        match (rule.get("onExitCodes"), conditions.is_empty()) {
            (Some(_), false) => {
                let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
                faults.invalid(path, Value::Null, detail);
            }
            (Some(codes), true) => exit_codes(codes, spec, &join(&path, "onExitCodes"), faults),
            (None, false) => pod_conditions(conditions, &join(&path, "onPodConditions"), faults),
            (None, true) => {
                let detail = "specifying one of OnExitCodes and OnPodConditions is required";
                faults.invalid(path, Value::Null, detail);
            }
        }
    }
}

fn exit_codes(codes: &Value, spec: &Value, path: &str, faults: &mut Faults) {
    faults.needs_one_of(codes, "operator", path, &["In", "NotIn"]);
    if let Some(name) = text(codes, &["containerName"]) {
        let pods = &spec["template"]["spec"];
        let mut all = list(pods, &["containers"]).iter().chain(list(pods, &["initContainers"]));
        if !all.any(|container| container["name"] == name) {
            let detail = "must be one of the container or initContainer names in the pod template";
            faults.invalid(join(path, "containerName"), name, detail);
        }
    }
    let (values, field) = (list(codes, &["values"]), join(path, "values"));
    if values.is_empty() {
        faults.invalid(field, Value::Array(Vec::new()), "at least one value is required");
        return;
    }
    if values.len() > VALUES_MOST {
        faults.add(Cause::too_many(field.clone(), values.len(), VALUES_MOST));
    }
    let mut before = None;
    for (index, value) in values.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let code = value.as_i64();
        if codes["operator"] == "In" && code == Some(0) {
            faults.invalid(field.clone(), 0, "must not be 0 for the In operator");
        }
        if before.is_some() && before == code {
            faults.add(Cause::duplicate(field, value));
        } else if before > code {
            faults.invalid(field, value.clone(), "must be ordered");
        }
        before = code;
    }
}

fn pod_conditions(conditions: &[Value], path: &str, faults: &mut Faults) {
    if conditions.len() > RULES_MOST {
        faults.add(Cause::too_many(path, conditions.len(), RULES_MOST));
    }
    for (index, condition) in conditions.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let kind = text(condition, &["type"]).unwrap_or_default();
        faults.rule(&join(&path, "type"), kind, api::name::qualified_name(kind));
        // The default may not be filled in where the template is not a Job yet.
        faults.one_of(condition, "status", &path, &["False", "True", "Unknown"]);
    }
}

fn success_policy(policy: &Value, spec: &Value, path: &str, faults: &mut Faults) {
    let (rules, path) = (list(policy, &["rules"]), join(path, "rules"));
    if rules.is_empty() {
        faults.required(path.clone(), "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > RULES_MOST {
        faults.add(Cause::too_many(path.clone(), rules.len(), RULES_MOST));
    }
    let completions = integer(spec, &["completions"]).unwrap_or(0);
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let (count, indexes) = (integer(rule, &["succeededCount"]), text(rule, &["succeededIndexes"]));
        if count.is_none() && indexes.is_none() {
            faults.required(path.clone(), "at least one of succeededCount or succeededIndexes must be specified");
        }
        faults.not_negative(rule, "succeededCount", &path);
        let mut most = completions;
        if let Some(text) = indexes {
            match Indexes::parse(text, u32::try_from(completions).unwrap_or(0)) {
                Ok(indexes) => most = i64::from(indexes.count()),
                Err(error) => {
                    let detail = format!("error parsing succeededIndexes: {error}");
                    faults.invalid(join(&path, "succeededIndexes"), text, &detail);
                }
            }
        }
        at_most(rule, "succeededCount", &path, most, faults);
    }
}

pub(super) fn update(old: &Value, new: &Value, faults: &mut Faults) {
    let count = |object: &Value, key: &str| integer(object, &["spec", key]);
    if count(old, "completions") != count(new, "completions") {
        let shown = new["spec"].get("completions").cloned().unwrap_or_default();
        if old["spec"]["completionMode"] != "Indexed" {
            faults.invalid("spec.completions", shown, "field is immutable");
        } else if count(new, "completions") != count(new, "parallelism") {
            faults.invalid("spec.completions", shown, "can only be modified in tandem with parallelism");
        }
    }
    let (before, after) = (&old["spec"]["template"], &new["spec"]["template"]);
    let has_not_begun = old["spec"]["suspend"] == true && at(old, &["status", "startTime"]).is_none();
    let is_same = match has_not_begun {
        // Who queues Jobs says where they run when their turn comes.
        true => bound(before) == bound(after),
        false => before == after,
    };
    if !is_same {
        faults.invalid("spec.template", after.clone(), "field is immutable");
    }
}

/// A template without what may change before the Job begins.
fn bound(template: &Value) -> Value {
    let mut bound = template.clone();
    let remove = |value: &mut Value, key: &str| drop(value.as_object_mut().map(|map| map.remove(key)));
    for key in ["labels", "annotations"] {
        remove(&mut bound["metadata"], key);
    }
    let spec = &mut bound["spec"];
    for key in ["nodeSelector", "tolerations", "schedulingGates"] {
        remove(spec, key);
    }
    if let Some(affinity) = spec.get_mut("affinity") {
        remove(affinity, "nodeAffinity");
        if affinity.as_object().is_none_or(serde_json::Map::is_empty) {
            remove(spec, "affinity");
        }
    }
    for part in ["containers", "initContainers"] {
        for container in spec.get_mut(part).and_then(Value::as_array_mut).into_iter().flatten() {
            remove(container, "resources");
        }
    }
    bound
}

pub(super) fn cron_job(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    match text(spec, &["schedule"]) {
        None | Some("") => faults.required("spec.schedule", ""),
        Some(schedule) if schedule.contains("TZ") => {
            let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            faults.invalid("spec.schedule", schedule, detail);
        }
        Some(schedule) => {
            if let Err(error) = schedule.parse::<Schedule>() {
                faults.invalid("spec.schedule", schedule, &error.to_string());
            }
        }
    }
    if let Some(zone) = spec.get("timeZone").filter(|zone| !zone.is_null()) {
        let name = zone.as_str().unwrap_or_default();
        if name.is_empty() {
            faults.invalid("spec.timeZone", zone.clone(), "must be nil or non-empty string");
        } else if name.eq_ignore_ascii_case("local") {
            faults.invalid(
                "spec.timeZone",
                name,
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            );
        } else if api::schedule::zone(name).is_none() {
            faults.invalid("spec.timeZone", name, &format!("unknown time zone {name}"));
        }
    }
    faults.needs_one_of(spec, "concurrencyPolicy", "spec", &["Allow", "Forbid", "Replace"]);
    for key in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        faults.not_negative(spec, key, "spec");
    }
    if text(object, &["metadata", "name"]).is_some_and(|name| name.len() > CRON_NAME_MOST) {
        let detail = format!("must be no more than {CRON_NAME_MOST} characters");
        faults.invalid("metadata.name", object["metadata"]["name"].clone(), &detail);
    }
    let (template, path) = (&spec["jobTemplate"]["spec"], "spec.jobTemplate.spec");
    if !is_blank(template.get("selector")) {
        faults.invalid(join(path, "selector"), template["selector"].clone(), "`selector` will be auto-generated");
    }
    if template["manualSelector"] == true {
        faults.add(Cause::unsupported(join(path, "manualSelector"), &Value::Bool(true), &["nil", "false"]));
    }
    job_spec(template, path, faults);
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;

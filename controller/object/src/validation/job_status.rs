//! Rules of a Job's status. More than one controller may write it (`spec.managedBy`), and many wait for what it says: an
//! end is an end, counts of what has ended do not go back, and an ended Job has no pods.
use super::check::Faults;
use crate::tree::{at, integer, list};
use api::indexes::Indexes;
use serde_json::Value;

const CONDITIONS: &str = "status.conditions";

fn count(object: &Value, field: &str) -> i64 {
    integer(object, &["status", field]).unwrap_or(0)
}

fn holds(object: &Value, kind: &str) -> bool {
    list(object, &["status", "conditions"]).iter().any(|one| one["type"] == kind && one["status"] == "True")
}

fn time(object: &Value, field: &str) -> Option<jiff::Timestamp> {
    at(object, &["status", field])?.as_str()?.parse().ok()
}

pub(super) fn update(old: &Value, new: &Value, faults: &mut Faults) {
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        faults.not_negative(&new["status"], field, "status");
    }
    counts(old, new, faults);
    let told =
        |object: &Value| ["completedIndexes", "failedIndexes"].map(|field| at(object, &["status", field]).cloned());
    // A Job that has become smaller may not have been looked at yet.
    if told(old) != told(new) {
        indexes(new, faults);
    }
    conditions(old, new, faults);
    times(old, new, faults);
    if holds(new, "Complete") || holds(new, "Failed") {
        ended(old, new, faults);
    }
}

/// What has been counted stays counted, unless an indexed Job has become smaller.
fn counts(old: &Value, new: &Value, faults: &mut Faults) {
    let may_shrink = new["spec"]["completionMode"] == "Indexed";
    for (field, is_fixed) in [("failed", true), ("succeeded", !may_shrink)] {
        if is_fixed && count(new, field) < count(old, field) {
            let detail = format!("cannot decrease the {field} counter");
            faults.invalid(format!("status.{field}"), count(new, field), &detail);
        }
    }
    if count(new, "ready") > count(new, "active") {
        faults.invalid("status.ready", count(new, "ready"), "cannot set more ready pods than active");
    }
}

fn indexes(new: &Value, faults: &mut Faults) {
    let end = at(new, &["spec", "completions"]).and_then(Value::as_u64).and_then(|end| u32::try_from(end).ok());
    let mut read = |field: &str, is_allowed: bool, why: &str| {
        let text = at(new, &["status", field]).and_then(Value::as_str).filter(|text| !text.is_empty())?;
        let path = format!("status.{field}");
        if !is_allowed {
            faults.invalid(path, text, why);
            return None;
        }
        match Indexes::parse(text, end.unwrap_or(0)) {
            Ok(indexes) => Some(indexes),
            Err(error) => {
                faults.invalid(path, text, &format!("cannot parse: {error}"));
                None
            }
        }
    };
    let is_indexed = new["spec"]["completionMode"] == "Indexed";
    let is_per_index = new["spec"].get("backoffLimitPerIndex").is_some();
    let done =
        read("completedIndexes", is_indexed, "cannot set non-empty completedIndexes when non-indexed completion mode");
    let failed =
        read("failedIndexes", is_per_index, "cannot set non-empty failedIndexes when backoffLimitPerIndex is null");
    if let (Some(done), Some(failed)) = (done, failed)
        && done.count_common(&failed) > 0
    {
        let shown = new["status"]["failedIndexes"].clone();
        faults.invalid("status.failedIndexes", shown, "failedIndexes and completedIndexes overlap");
    }
}

fn conditions(old: &Value, new: &Value, faults: &mut Faults) {
    for kind in ["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"] {
        if holds(old, kind) && !holds(new, kind) {
            faults.invalid(CONDITIONS, Value::Null, &format!("cannot disable the terminal {kind}=True condition"));
        }
    }
    for (one, other) in [
        ("Complete", "Failed"),
        ("Complete", "FailureTarget"),
        ("SuccessCriteriaMet", "Failed"),
        ("SuccessCriteriaMet", "FailureTarget"),
    ] {
        if holds(new, one) && holds(new, other) {
            faults.invalid(CONDITIONS, Value::Null, &format!("cannot set {one}=True and {other}=True conditions"));
        }
    }
    // Whose interim condition was never told has not been decided upon.
    for (end, before) in [("Complete", "SuccessCriteriaMet"), ("Failed", "FailureTarget")] {
        if holds(new, end) && !holds(old, end) && !holds(new, before) {
            let detail = format!("cannot set {end}=True condition without the {before}=true condition");
            faults.invalid(CONDITIONS, Value::Null, &detail);
        }
    }
}

fn times(old: &Value, new: &Value, faults: &mut Faults) {
    let (before, after) = (time(old, "startTime"), time(new, "startTime"));
    // A Job that is suspended or resumed begins anew.
    let is_resumed = holds(old, "Suspended") != holds(new, "Suspended") || new["spec"]["suspend"] == true;
    if before.is_some() && before != after && !is_resumed {
        let detail = match after {
            None => "startTime cannot be removed for unsuspended job",
            Some(_) => "startTime cannot be modified for unsuspended job",
        };
        faults.required("status.startTime", detail);
    }
    let (before, done) = (time(old, "completionTime"), time(new, "completionTime"));
    let shown = || new["status"]["completionTime"].clone();
    if before.is_some() && before != done {
        faults.invalid("status.completionTime", shown(), "field is immutable");
    }
    if done.is_some() && !holds(new, "Complete") {
        let detail = "cannot set completionTime when there is no Complete=True condition";
        faults.invalid("status.completionTime", shown(), detail);
    }
    if let (Some(begun), Some(done)) = (after, done)
        && done < begun
    {
        faults.invalid("status.completionTime", shown(), "completionTime cannot be set before startTime");
    }
}

fn ended(old: &Value, new: &Value, faults: &mut Faults) {
    for field in ["active", "terminating"] {
        if count(new, field) > 0 {
            faults.invalid(
                format!("status.{field}"),
                count(new, field),
                &format!("{field} must be 0 for a finished job"),
            );
        }
    }
    let uncounted = ["succeeded", "failed"].map(|kind| list(new, &["status", "uncountedTerminatedPods", kind]).len());
    if uncounted.iter().sum::<usize>() > 0 {
        let shown = new["status"]["uncountedTerminatedPods"].clone();
        faults.invalid(
            "status.uncountedTerminatedPods",
            shown,
            "uncountedTerminatedPods needs to be empty for finished job",
        );
    }
    let is_new = !holds(old, "Complete") && !holds(old, "Failed");
    if is_new && time(new, "startTime").is_none() {
        faults.required("status.startTime", "startTime is required for finished job");
    }
    if is_new && holds(new, "Complete") && time(new, "completionTime").is_none() {
        faults.required("status.completionTime", "completionTime is required for Complete jobs");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(spec: Value, old: Value, new: Value) -> Vec<String> {
        let mut faults = Faults::default();
        let job = |status: Value| json!({"spec": spec, "status": status});
        update(&job(old), &job(new), &mut faults);
        faults.into_causes().into_iter().map(|cause| cause.describe()).collect()
    }

    fn conditions(kinds: &[&str]) -> Value {
        kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect()
    }

    #[test]
    fn the_usual_way_is_open() {
        let none = Vec::<String>::new();
        let begun = json!({"startTime": "2026-01-01T00:00:00Z", "active": 2, "ready": 1});
        assert_eq!(told(json!({}), json!({}), begun.clone()), none);
        let met = json!({"startTime": "2026-01-01T00:00:00Z", "succeeded": 1, "uncountedTerminatedPods":
            {"succeeded": ["a"]}, "conditions": conditions(&["SuccessCriteriaMet"])});
        assert_eq!(told(json!({}), begun, met.clone()), none);
        let done = json!({"startTime": "2026-01-01T00:00:00Z", "succeeded": 2, "uncountedTerminatedPods": {},
            "completionTime": "2026-01-01T00:01:00Z", "conditions": conditions(&["SuccessCriteriaMet", "Complete"])});
        assert_eq!(told(json!({}), met, done), none);
        let suspended = json!({"conditions": conditions(&["Suspended"])});
        assert_eq!(told(json!({"suspend": true}), json!({"startTime": "2026-01-01T00:00:00Z"}), suspended), none);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let start = "2026-01-01T00:00:00Z";
        for (spec, old, new, field) in [
            (json!({}), json!({"failed": 2}), json!({"failed": 1}), "status.failed"),
            (json!({}), json!({"succeeded": 2}), json!({"succeeded": 1}), "status.succeeded"),
            (json!({}), json!({}), json!({"active": 1, "ready": 2}), "status.ready"),
            (json!({}), json!({}), json!({"completedIndexes": "1"}), "status.completedIndexes"),
            (
                json!({"completionMode": "Indexed", "completions": 1}),
                json!({}),
                json!({"completedIndexes": "1"}),
                "status.completedIndexes",
            ),
            (json!({}), json!({"startTime": start}), json!({}), "status.startTime"),
            (json!({}), json!({}), json!({"completionTime": start}), "status.completionTime"),
            (json!({}), json!({"conditions": conditions(&["FailureTarget"])}), json!({}), CONDITIONS),
            (json!({}), json!({}), json!({"startTime": start, "conditions": conditions(&["Failed"])}), CONDITIONS),
            (
                json!({}),
                json!({}),
                json!({"conditions": conditions(&["SuccessCriteriaMet", "FailureTarget"])}),
                CONDITIONS,
            ),
            (
                json!({}),
                json!({}),
                json!({"startTime": start, "active": 1, "conditions": conditions(&["FailureTarget", "Failed"])}),
                "status.active",
            ),
        ] {
            let found = told(spec, old, new.clone());
            assert!(found.len() == 1 && found[0].starts_with(field), "{new}: {found:?}");
        }
        let both = json!({"completionMode": "Indexed", "completions": 9, "backoffLimitPerIndex": 1});
        let found = told(both, json!({}), json!({"completedIndexes": "1-3", "failedIndexes": "3"}));
        assert_eq!(found, ["status.failedIndexes: Invalid value: \"3\": failedIndexes and completedIndexes overlap"]);
        let smaller = json!({"completionMode": "Indexed", "completions": 1, "parallelism": 1});
        assert_eq!(told(smaller, json!({"succeeded": 2}), json!({"succeeded": 1})), Vec::<String>::new());
    }
}

//! What is said about Jobs, CronJobs, StatefulSets and DaemonSets.

use jiff::Timestamp;
use serde_json::Value;

use super::kinds::{annotations, at, head, labels, number, owner, selector, text};
use super::page::{Page, local_time};
use super::related::phases;
use super::template::{self, list, pairs, shown};

fn template_of(object: &Value) -> &Value {
    at(object, "/spec/template").unwrap_or(&Value::Null)
}

/// Writes a Job.
pub(super) fn job(page: &mut Page, object: &Value) {
    head(page, object);
    page.field(0, "Selector", selector(object));
    labels(page, object);
    owner(page, object);
    let null = Value::Null;
    let (spec, status) = (object.get("spec").unwrap_or(&null), object.get("status").unwrap_or(&null));
    let known = |value: &Value, key: &str| Some(shown(value.get(key))).filter(|text| !text.is_empty());
    page.field(0, "Parallelism", known(spec, "parallelism").unwrap_or_else(|| "<unset>".into()));
    page.field(0, "Completions", known(spec, "completions").unwrap_or_else(|| "<unset>".into()));
    let indexed = text(spec, "/completionMode") == "Indexed";
    for (key, title) in
        [("completionMode", "Completion Mode"), ("suspend", "Suspend"), ("backoffLimit", "Backoff Limit")]
    {
        if let Some(text) = known(spec, key) {
            page.field(0, title, text);
        }
    }
    if let Some(seconds) = known(spec, "ttlSecondsAfterFinished") {
        page.field(0, "TTL Seconds After Finished", seconds);
    }
    let (start, end) = (known(status, "startTime"), known(status, "completionTime"));
    if let Some(start) = &start {
        page.field(0, "Start Time", local_time(start));
    }
    if let Some(end) = &end {
        page.field(0, "Completed At", local_time(end));
    }
    let time = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
    if let (Some(_), Some(end)) = (time(&start), time(&end)) {
        page.field(0, "Duration", crate::duration::age(start.as_deref(), end));
    }
    if let Some(seconds) = known(spec, "activeDeadlineSeconds") {
        page.field(0, "Active Deadline Seconds", format!("{seconds}s"));
    }
    let count = |key: &str| status.get(key).and_then(Value::as_i64).unwrap_or(0);
    let ready = status.get("ready").and_then(Value::as_i64);
    let ready = ready.map(|ready| format!(" ({ready} Ready)")).unwrap_or_default();
    let (active, done, failed) = (count("active"), count("succeeded"), count("failed"));
    page.field(0, "Pods Statuses", format!("{active} Active{ready} / {done} Succeeded / {failed} Failed"));
    if indexed {
        page.field(0, "Completed Indexes", known(status, "completedIndexes").unwrap_or_else(|| "<none>".into()));
    }
    template::write(page, template_of(object));
}

/// Writes a CronJob.
pub(super) fn cron_job(page: &mut Page, object: &Value) {
    head(page, object);
    labels(page, object);
    let null = Value::Null;
    let spec = object.get("spec").unwrap_or(&null);
    let work = at(spec, "/jobTemplate/spec").unwrap_or(&null);
    let or_unset = |value: &Value, key: &str, unit: &str| match value.get(key).filter(|value| !value.is_null()) {
        Some(value) => format!("{}{unit}", shown(Some(value))),
        None => "<unset>".to_owned(),
    };
    page.field(0, "Schedule", text(spec, "/schedule"));
    page.field(0, "Concurrency Policy", text(spec, "/concurrencyPolicy"));
    let suspended = spec.get("suspend").and_then(Value::as_bool);
    let suspended = suspended.map_or("<unset>", |suspended| if suspended { "True" } else { "False" });
    page.field(0, "Suspend", suspended);
    page.field(0, "Successful Job History Limit", or_unset(spec, "successfulJobsHistoryLimit", ""));
    page.field(0, "Failed Job History Limit", or_unset(spec, "failedJobsHistoryLimit", ""));
    page.field(0, "Starting Deadline Seconds", or_unset(spec, "startingDeadlineSeconds", "s"));
    let chosen = work.get("selector").map(crate::pods::selector_text);
    page.field(0, "Selector", chosen.unwrap_or_else(|| "<unset>".to_owned()));
    page.field(0, "Parallelism", or_unset(work, "parallelism", ""));
    page.field(0, "Completions", or_unset(work, "completions", ""));
    if work.get("activeDeadlineSeconds").is_some() {
        page.field(0, "Active Deadline Seconds", or_unset(work, "activeDeadlineSeconds", "s"));
    }
    template::write(page, work.get("template").unwrap_or(&null));
    let status = object.get("status").unwrap_or(&null);
    let last = status.get("lastScheduleTime").and_then(Value::as_str).map(local_time);
    page.field(0, "Last Schedule Time", last.unwrap_or_else(|| "<unset>".to_owned()));
    let active: Vec<String> = list(status, "active").map(|job| shown(job.get("name"))).collect();
    page.field(0, "Active Jobs", if active.is_empty() { "<none>".to_owned() } else { active.join(", ") });
}

/// Writes a StatefulSet with its pods.
pub(super) fn stateful_set(page: &mut Page, object: &Value, pods: &[Value]) {
    head(page, object);
    page.field(0, "CreationTimestamp", local_time(&text(object, "/metadata/creationTimestamp")));
    page.field(0, "Selector", selector(object));
    labels(page, object);
    let desired = at(object, "/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    page.field(0, "Replicas", format!("{desired} desired | {} total", number(object, "/status/replicas")));
    page.field(0, "Update Strategy", text(object, "/spec/updateStrategy/type"));
    if let Some(partition) = at(object, "/spec/updateStrategy/rollingUpdate/partition") {
        page.field(1, "Partition", shown(Some(partition)));
        if let Some(most) = at(object, "/spec/updateStrategy/rollingUpdate/maxUnavailable") {
            page.field(1, "MaxUnavailable", shown(Some(most)));
        }
    }
    page.field(0, "Pods Status", phases(pods));
    template::write(page, template_of(object));
    let mut claims = list(object.get("spec").unwrap_or(&Value::Null), "volumeClaimTemplates").peekable();
    if claims.peek().is_none() {
        return page.field(0, "Volume Claims", "<none>");
    }
    page.heading(0, "Volume Claims");
    for claim in claims {
        page.field(1, "Name", text(claim, "/metadata/name"));
        page.field(1, "StorageClass", text(claim, "/spec/storageClassName"));
        page.values(1, "Labels", &pairs(at(claim, "/metadata/labels"), "="));
        page.values(1, "Annotations", &annotations(claim));
        let size = text(claim, "/spec/resources/requests/storage");
        page.field(1, "Capacity", if size.is_empty() { "<default>".into() } else { size });
        let modes: Vec<String> =
            list(claim.get("spec").unwrap_or(&Value::Null), "accessModes").map(|mode| shown(Some(mode))).collect();
        page.field(1, "Access Modes", format!("[{}]", modes.join(" ")));
    }
}

/// Writes a DaemonSet with its pods.
pub(super) fn daemon_set(page: &mut Page, object: &Value, pods: &[Value]) {
    page.field(0, "Name", text(object, "/metadata/name"));
    page.field(0, "Selector", selector(object));
    let chosen = pairs(at(object, "/spec/template/spec/nodeSelector"), "=");
    page.field(0, "Node-Selector", if chosen.is_empty() { "<none>".into() } else { chosen.join(",") });
    labels(page, object);
    let counts = [
        ("desiredNumberScheduled", "Desired Number of Nodes Scheduled"),
        ("currentNumberScheduled", "Current Number of Nodes Scheduled"),
        ("updatedNumberScheduled", "Number of Nodes Scheduled with Up-to-date Pods"),
        ("numberAvailable", "Number of Nodes Scheduled with Available Pods"),
        ("numberMisscheduled", "Number of Nodes Misscheduled"),
    ];
    for (key, title) in counts {
        page.field(0, title, number(object, &format!("/status/{key}")).to_string());
    }
    page.field(0, "Pods Status", phases(pods));
    template::write(page, template_of(object));
}

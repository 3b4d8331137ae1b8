//! How far a rollout is, in kubectl's words (pkg/polymorphichelpers/rollout_status.go). Pure.

use serde_json::Value;

/// How far a rollout is.
#[derive(Debug, PartialEq)]
pub(crate) enum Progress {
    /// Under way: what is waited for.
    Waiting(String),
    /// Finished: the closing words.
    Done(String),
    /// Cannot be told, or will not finish.
    Failed(String),
}

/// Judges a workload of a kind.
pub(crate) fn progress(kind: &str, object: &Value, revision: Option<i64>) -> Progress {
    match kind {
        "Deployment" => deployment(object, revision),
        "DaemonSet" => daemon_set(object),
        "StatefulSet" => stateful_set(object),
        other => Progress::Failed(format!("no status viewer has been implemented for {other}")),
    }
}

/// The revision of a Deployment or ReplicaSet.
pub(crate) fn revision(object: &Value) -> Option<i64> {
    let annotations = object.pointer("/metadata/annotations")?;
    annotations.get("deployment.kubernetes.io/revision")?.as_str()?.parse().ok()
}

fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn name(object: &Value) -> String {
    let name = crate::output::name_of(object);
    format!("{name:?}")
}

fn is_observed(object: &Value) -> bool {
    number(object, "/metadata/generation") <= number(object, "/status/observedGeneration")
}

fn deployment(object: &Value, wanted: Option<i64>) -> Progress {
    let name = name(object);
    if let Some(wanted) = wanted {
        let now = revision(object).unwrap_or(0);
        if wanted != now {
            return Progress::Failed(format!(
                "desired revision ({wanted}) is different from the running revision ({now})"
            ));
        }
    }
    if !is_observed(object) {
        return Progress::Waiting("Waiting for deployment spec update to be observed...".into());
    }
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let stuck = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded");
    if stuck {
        return Progress::Failed(format!("deployment {name} exceeded its progress deadline"));
    }
    let replicas = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let updated = number(object, "/status/updatedReplicas");
    let available = number(object, "/status/availableReplicas");
    let old = number(object, "/status/replicas") - updated;
    let waiting =
        |what: String| Progress::Waiting(format!("Waiting for deployment {name} rollout to finish: {what}..."));
    if updated < replicas {
        return waiting(format!("{updated} out of {replicas} new replicas have been updated"));
    }
    if old > 0 {
        return waiting(format!("{old} old replicas are pending termination"));
    }
    if available < updated {
        return waiting(format!("{available} of {updated} updated replicas are available"));
    }
    Progress::Done(format!("deployment {name} successfully rolled out"))
}

fn rolls(object: &Value) -> bool {
    object.pointer("/spec/updateStrategy/type").and_then(Value::as_str).unwrap_or("RollingUpdate") == "RollingUpdate"
}

fn daemon_set(object: &Value) -> Progress {
    if !rolls(object) {
        return Progress::Failed("rollout status is only available for RollingUpdate strategy type".into());
    }
    if !is_observed(object) {
        return Progress::Waiting("Waiting for daemon set spec update to be observed...".into());
    }
    let name = name(object);
    let desired = number(object, "/status/desiredNumberScheduled");
    let updated = number(object, "/status/updatedNumberScheduled");
    let available = number(object, "/status/numberAvailable");
    let waiting =
        |what: String| Progress::Waiting(format!("Waiting for daemon set {name} rollout to finish: {what}..."));
    if updated < desired {
        return waiting(format!("{updated} out of {desired} new pods have been updated"));
    }
    if available < desired {
        return waiting(format!("{available} of {desired} updated pods are available"));
    }
    Progress::Done(format!("daemon set {name} successfully rolled out"))
}

fn stateful_set(object: &Value) -> Progress {
    if !rolls(object) {
        return Progress::Failed("rollout status is only available for RollingUpdate strategy type".into());
    }
    if number(object, "/status/observedGeneration") == 0 || !is_observed(object) {
        return Progress::Waiting("Waiting for statefulset spec update to be observed...".into());
    }
    let replicas = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let ready = number(object, "/status/readyReplicas");
    if ready < replicas {
        return Progress::Waiting(format!("Waiting for {} pods to be ready...", replicas - ready));
    }
    let updated = number(object, "/status/updatedReplicas");
    let partition = number(object, "/spec/updateStrategy/rollingUpdate/partition");
    if partition > 0 {
        if updated < replicas - partition {
            return Progress::Waiting(format!(
                "Waiting for partitioned roll out to finish: {updated} out of {} new pods have been updated...",
                replicas - partition
            ));
        }
        return Progress::Done(format!("partitioned roll out complete: {updated} new pods have been updated..."));
    }
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let revision = text("/status/updateRevision");
    if revision != text("/status/currentRevision") {
        return Progress::Waiting(format!(
            "waiting for statefulset rolling update to complete {updated} pods at revision {revision}..."
        ));
    }
    let current = number(object, "/status/currentReplicas");
    Progress::Done(format!("statefulset rolling update complete {current} pods at revision {revision}..."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(replicas: i64, updated: i64, available: i64) -> Value {
        json!({"metadata": {"name": "x", "generation": 2}, "spec": {"replicas": 2}, "status": {
            "observedGeneration": 2, "replicas": replicas, "updatedReplicas": updated, "availableReplicas": available}})
    }

    #[test]
    fn a_deployment_rolls_out_step_by_step() {
        let told = |object: &Value| match progress("Deployment", object, None) {
            Progress::Waiting(text) | Progress::Done(text) | Progress::Failed(text) => text,
        };
        let prefix = "Waiting for deployment \"x\" rollout to finish: ";
        assert_eq!(told(&at(2, 1, 2)), format!("{prefix}1 out of 2 new replicas have been updated..."));
        assert_eq!(told(&at(3, 2, 2)), format!("{prefix}1 old replicas are pending termination..."));
        assert_eq!(told(&at(2, 2, 1)), format!("{prefix}1 of 2 updated replicas are available..."));
        assert_eq!(
            progress("Deployment", &at(2, 2, 2), None),
            Progress::Done("deployment \"x\" successfully rolled out".into())
        );
        let mut stale = at(2, 2, 2);
        stale["metadata"]["generation"] = json!(3);
        assert_eq!(told(&stale), "Waiting for deployment spec update to be observed...");
        let mut stuck = at(2, 1, 1);
        stuck["status"]["conditions"] = json!([{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]);
        assert!(matches!(progress("Deployment", &stuck, None), Progress::Failed(_)));
        assert!(matches!(progress("Deployment", &at(2, 2, 2), Some(5)), Progress::Failed(_)));
        assert!(matches!(progress("Pod", &at(2, 2, 2), None), Progress::Failed(_)));
    }
}

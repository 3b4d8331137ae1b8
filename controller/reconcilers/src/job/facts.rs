//! What a Job needs to know of its pods, besides what everybody does.
use crate::pod::controller_of;
use api::well_known::{
    ANNOTATION_JOB_INDEX_FAILURES, ANNOTATION_JOB_INDEX_IGNORED_FAILURES, FINALIZER_JOB_TRACKING,
    LABEL_JOB_COMPLETION_INDEX,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

/// How a pod ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    Failed,
}

/// What is kept of pods of Jobs only.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RunFacts {
    /// It has the finalizer: no status has it as a number yet.
    pub(crate) is_tracked: bool,
    pub(crate) outcome: Option<Outcome>,
    /// The completion index that it is for.
    pub(crate) index: Option<u32>,
    /// How often that index failed before.
    pub(crate) failures: u32,
    /// How often it failed in ways that are ignored.
    pub(crate) ignored_failures: u32,
    /// When it ended, in seconds since 1970.
    pub(crate) finished: Option<i64>,
    /// Restarts of all its containers.
    pub(crate) restarts: i32,
    /// The containers that ended badly, with their codes.
    pub(crate) exit_codes: Vec<(Box<str>, i32)>,
    /// Types and states of its conditions, once it is ending.
    pub(crate) conditions: Vec<(Box<str>, Box<str>)>,
}

impl RunFacts {
    /// Takes the facts out; `None` of a pod that no Job has to do with.
    pub(crate) fn new(pod: &Pod) -> Option<Box<Self>> {
        let metadata = &pod.metadata;
        let is_tracked = metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER_JOB_TRACKING);
        let is_of_job = controller_of(metadata.owner_references.as_ref()).is_some_and(|owner| owner.kind == "Job");
        if !is_tracked && !is_of_job {
            return None;
        }
        let none = PodStatus::default();
        let status = pod.status.as_ref().unwrap_or(&none);
        let note = |name: &str| metadata.annotations.as_ref().and_then(|notes| notes.get(name)?.parse().ok());
        let outcome = match status.phase.as_deref() {
            Some("Succeeded") => Some(Outcome::Succeeded),
            Some("Failed") => Some(Outcome::Failed),
            Some(_) | None => None,
        };
        let is_ending = outcome.is_some() || metadata.deletion_timestamp.is_some();
        let containers = || status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let conditions = status.conditions.iter().flatten().filter(|_| is_ending);
        Some(Box::new(Self {
            is_tracked,
            outcome,
            index: note(LABEL_JOB_COMPLETION_INDEX),
            failures: note(ANNOTATION_JOB_INDEX_FAILURES).unwrap_or_default(),
            ignored_failures: note(ANNOTATION_JOB_INDEX_IGNORED_FAILURES).unwrap_or_default(),
            finished: is_ending.then(|| finished(pod)),
            restarts: containers().map(|container| container.restart_count).sum(),
            exit_codes: containers().filter(|_| is_ending).filter_map(failure).collect(),
            conditions: conditions.map(|c| (c.type_.as_str().into(), c.status.as_str().into())).collect(),
        }))
    }
}

fn failure(container: &ContainerStatus) -> Option<(Box<str>, i32)> {
    let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
    (code != 0).then(|| (container.name.as_str().into(), code))
}

/// When its last container ended; where that is not told, when it stopped to be ready, when its deletion was asked for,
/// or when it was made.
fn finished(pod: &Pod) -> i64 {
    let status = pod.status.as_ref();
    let ends: Option<Vec<i64>> = status.and_then(|status| {
        let containers = status.container_statuses.as_ref().filter(|all| !all.is_empty())?;
        let end = |one: &ContainerStatus| Some(one.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0);
        containers.iter().map(|one| end(one).map(|time| time.as_second())).collect()
    });
    if let Some(last) = ends.and_then(|ends| ends.into_iter().max()) {
        return last;
    }
    let unready = status.and_then(|status| {
        let conditions = status.conditions.as_ref()?;
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "False")?;
        ready.last_transition_time.as_ref()
    });
    let metadata = &pod.metadata;
    let asked = metadata.deletion_timestamp.as_ref().map(|time| {
        // The timestamp is that of the end of its grace.
        time.0.as_second() - metadata.deletion_grace_period_seconds.unwrap_or_default()
    });
    let made = metadata.creation_timestamp.as_ref();
    unready.map(|time| time.0.as_second()).or(asked).or(made.map(|time| time.0.as_second())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts(pod: serde_json::Value) -> Option<Box<RunFacts>> {
        RunFacts::new(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn other_pods_cost_nothing() {
        assert_eq!(facts(json!({"metadata": {"name": "p"}})), None);
    }

    #[test]
    fn a_failed_pod_tells_how() {
        let found = facts(json!({
            "metadata": {"finalizers": ["batch.kubernetes.io/job-tracking"], "annotations": {
                "batch.kubernetes.io/job-completion-index": "3", "batch.kubernetes.io/job-index-failure-count": "2"}},
            "status": {"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True"}],
                "containerStatuses": [
                    {"name": "a", "restartCount": 1, "image": "", "imageID": "", "ready": false, "state": {"terminated":
                        {"exitCode": 42, "finishedAt": "2026-01-01T00:00:07Z"}}},
                    {"name": "b", "restartCount": 0, "image": "", "imageID": "", "ready": false, "state": {"terminated":
                        {"exitCode": 0, "finishedAt": "2026-01-01T00:00:09Z"}}}]},
        }))
        .unwrap();
        assert_eq!((found.index, found.failures, found.restarts), (Some(3), 2, 1));
        assert_eq!(found.exit_codes, [("a".into(), 42)]);
        assert_eq!(found.conditions, [("DisruptionTarget".into(), "True".into())]);
        assert_eq!(found.finished, Some("2026-01-01T00:00:09Z".parse::<jiff::Timestamp>().unwrap().as_second()));
    }
}

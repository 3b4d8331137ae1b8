//! The status: counts, and the conditions that `kubectl rollout status` reads.
use super::bounds::{bounds, wanted};
use super::plan::{Drafts, available};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// All pods are new and available.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let goal = Some(wanted(deployment));
    status.updated_replicas == goal
        && status.replicas == goal
        && status.available_replicas == goal
        && status.observed_generation >= deployment.metadata.generation
}

fn condition(now: jiff::Timestamp, type_: &str, status: &str, reason: &str, message: String) -> DeploymentCondition {
    DeploymentCondition {
        type_: Some(type_.to_owned()),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(now)),
        last_update_time: Some(Time(now)),
    }
}

fn find<'a>(conditions: &'a [DeploymentCondition], type_: &str) -> Option<&'a DeploymentCondition> {
    conditions.iter().find(|c| c.type_.as_deref() == Some(type_))
}

/// Puts a condition in; one with the same status and reason stays as it is.
fn set(conditions: &mut Vec<DeploymentCondition>, mut new: DeploymentCondition) {
    if let Some(old) = find(conditions, new.type_.as_deref().unwrap_or_default()) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    conditions.retain(|c| c.type_ != new.type_);
    conditions.push(new);
}

/// The status, and in how many seconds the deadline for progress comes.
pub(super) fn status(
    deployment: &Deployment,
    drafts: &Drafts,
    is_paused: bool,
    now: jiff::Timestamp,
) -> (DeploymentStatus, Option<i64>) {
    let old = deployment.status.clone().unwrap_or_default();
    let sum = |field: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
        drafts.all().filter_map(|draft| draft.set.status.as_ref()).map(field).sum()
    };
    let is_available = drafts.all().map(|draft| available(&draft.set)).sum::<i32>();
    let updated = drafts.new.as_ref().and_then(|new| new.set.status.as_ref()).map_or(0, |status| status.replicas);
    let mut new = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(sum(|s| s.replicas)),
        updated_replicas: Some(updated),
        ready_replicas: Some(sum(|s| s.ready_replicas.unwrap_or_default())),
        available_replicas: Some(is_available),
        unavailable_replicas: Some((drafts.total() - is_available).max(0)),
        terminating_replicas: Some(sum(|s| s.terminating_replicas.unwrap_or_default())),
        collision_count: old.collision_count,
        conditions: None,
    };
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let enough = is_available >= wanted(deployment) - bounds(deployment).unavailable;
    let (status, reason, words) = match enough {
        true => ("True", "MinimumReplicasAvailable", "has minimum availability."),
        false => ("False", "MinimumReplicasUnavailable", "does not have minimum availability."),
    };
    set(&mut conditions, condition(now, "Available", status, reason, format!("Deployment {words}")));
    let next = progress(deployment, drafts, is_paused, (&old, &new), &mut conditions, now);
    let failure = drafts
        .new
        .iter()
        .chain(&drafts.old)
        .filter_map(|draft| draft.set.status.as_ref()?.conditions.as_ref())
        .find_map(|conditions| {
            conditions
                .iter()
                .find(|c| c.type_.as_deref() == Some("ReplicaFailure") && c.status.as_deref() == Some("True"))
        });
    match failure {
        Some(failure) => {
            let (reason, message) = (failure.reason.as_deref(), failure.message.clone());
            let told =
                condition(now, "ReplicaFailure", "True", reason.unwrap_or_default(), message.unwrap_or_default());
            set(&mut conditions, told);
        }
        None => conditions.retain(|c| c.type_.as_deref() != Some("ReplicaFailure")),
    }
    new.conditions = Some(conditions);
    (new, next)
}

fn progress(
    deployment: &Deployment,
    drafts: &Drafts,
    is_paused: bool,
    (old, new): (&DeploymentStatus, &DeploymentStatus),
    conditions: &mut Vec<DeploymentCondition>,
    now: jiff::Timestamp,
) -> Option<i64> {
    let deadline = deployment.spec.progress_deadline_seconds.unwrap_or(600);
    if deadline == i32::MAX {
        conditions.retain(|c| c.type_.as_deref() != Some("Progressing"));
        return None;
    }
    let current = find(conditions, "Progressing").cloned();
    let reason = current.as_ref().and_then(|c| c.reason.clone()).unwrap_or_default();
    if is_paused {
        set(conditions, condition(now, "Progressing", "Unknown", PAUSED, "Deployment is paused".to_owned()));
        return None;
    }
    if reason == PAUSED {
        let told = condition(now, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed".to_owned());
        set(conditions, told);
        return Some(deadline.into());
    }
    if reason == COMPLETE && new.replicas == new.updated_replicas && new.updated_replicas > Some(0) {
        return None;
    }
    let name = match &drafts.new {
        Some(new) => format!("ReplicaSet {:?}", new.set.metadata.name.as_deref().unwrap_or_default()),
        None => format!("Deployment {:?}", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    let made = drafts.new.as_ref().is_some_and(|new| new.is_missing);
    let moved = new.updated_replicas > old.updated_replicas.or(Some(0))
        || difference(new) < difference(old)
        || new.ready_replicas > old.ready_replicas.or(Some(0))
        || new.available_replicas > old.available_replicas.or(Some(0));
    let told = if made {
        let name = drafts.new.as_ref().and_then(|new| new.set.metadata.name.clone()).unwrap_or_default();
        Some(condition(now, "Progressing", "True", "NewReplicaSetCreated", format!("Created new replica set {name:?}")))
    } else if is_complete(deployment, new) {
        Some(condition(now, "Progressing", "True", COMPLETE, format!("{name} has successfully progressed.")))
    } else if moved || current.is_none() || reason == COMPLETE {
        Some(condition(now, "Progressing", "True", "ReplicaSetUpdated", format!("{name} is progressing.")))
    } else {
        None
    };
    let since = |condition: &DeploymentCondition| condition.last_update_time.as_ref().map_or(0, |t| t.0.as_second());
    match told {
        Some(mut told) => {
            if let Some(current) = current.filter(|c| c.status == told.status) {
                told.last_transition_time = current.last_transition_time;
            }
            let done = told.reason.as_deref() == Some(COMPLETE);
            conditions.retain(|c| c.type_.as_deref() != Some("Progressing"));
            conditions.push(told);
            (!done).then_some(i64::from(deadline) + 1)
        }
        None if reason == TIMED_OUT => None,
        None => {
            let left = current.as_ref().map_or(0, since) + i64::from(deadline) - now.as_second();
            if left >= 0 {
                return Some(left + 1);
            }
            let told = condition(now, "Progressing", "False", TIMED_OUT, format!("{name} has timed out progressing."));
            set(conditions, told);
            None
        }
    }
}

/// Pods of old templates that are still there.
fn difference(status: &DeploymentStatus) -> i32 {
    status.replicas.unwrap_or_default() - status.updated_replicas.unwrap_or_default()
}

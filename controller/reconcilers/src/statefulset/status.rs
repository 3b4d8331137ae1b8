//! What a StatefulSet's status says: pure.
use super::plan::{Scene, is_ready, revision_of};
use k8s_openapi::api::apps::v1::StatefulSetStatus;

/// The status, and in how many seconds it changes by time alone.
pub(super) fn status(scene: &Scene<'_>, collisions: i32) -> (StatefulSetStatus, Option<i64>) {
    let seconds = scene.set.spec.min_ready_seconds.unwrap_or_default();
    let (mut replicas, mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0, 0);
    let mut next: Option<i64> = None;
    for pod in scene.pods {
        replicas += 1;
        if is_ready(pod) {
            ready += 1;
            match pod.availability(seconds, scene.now) {
                Ok(()) => available += 1,
                Err(missing) => next = next.into_iter().chain(missing).min(),
            }
        }
        if !pod.is_deleting {
            current += i32::from(revision_of(pod) == scene.current);
            updated += i32::from(revision_of(pod) == scene.update);
        }
    }
    let wanted = scene.set.spec.replicas.unwrap_or(1);
    let strategy = scene.set.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    // The update is complete: what it led to is what pods have from now on.
    let is_complete = strategy != Some("OnDelete") && [replicas, ready, updated].iter().all(|count| *count == wanted);
    if is_complete {
        current = updated;
    }
    let status = StatefulSetStatus {
        observed_generation: scene.set.metadata.generation,
        replicas,
        ready_replicas: Some(ready),
        available_replicas: Some(available),
        current_replicas: Some(current),
        updated_replicas: Some(updated),
        current_revision: Some(if is_complete { scene.update } else { scene.current }.to_owned()),
        update_revision: Some(scene.update.to_owned()),
        collision_count: Some(collisions),
        conditions: scene.set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    (status, next)
}

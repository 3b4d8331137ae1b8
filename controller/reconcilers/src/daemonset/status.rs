//! What a DaemonSet's status says: pure.
use super::place::Fitness;
use super::plan::{Scene, places};
use k8s_openapi::api::apps::v1::DaemonSetStatus;

/// The status, and in how many seconds it changes by time alone.
pub(super) fn status(scene: &Scene<'_>, collisions: Option<i32>) -> (DaemonSetStatus, Option<i64>) {
    let seconds = scene.set.spec.min_ready_seconds.unwrap_or_default();
    let mut status = DaemonSetStatus {
        observed_generation: scene.set.metadata.generation,
        collision_count: collisions,
        conditions: scene.set.status.as_ref().and_then(|status| status.conditions.clone()),
        ..DaemonSetStatus::default()
    };
    let (mut available, mut updated) = (0, 0);
    let mut next: Option<i64> = None;
    for place in places(scene) {
        let first = place.pods.first();
        if place.fitness != Fitness::Wanted {
            status.number_misscheduled += i32::from(first.is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pod) = first else { continue };
        status.current_number_scheduled += 1;
        updated += i32::from(scene.is_updated(pod));
        if pod.ready_since.is_some() {
            status.number_ready += 1;
            match pod.availability(seconds, scene.now) {
                Ok(()) => available += 1,
                Err(missing) => next = next.into_iter().chain(missing).min(),
            }
        }
    }
    // With a surge the second pod of a node becomes available too.
    let second = scene.pods.iter().filter_map(|pod| pod.availability(seconds, scene.now).err().flatten());
    next = next.into_iter().chain(second).min();
    status.number_available = Some(available);
    status.number_unavailable = Some(status.desired_number_scheduled - available);
    status.updated_number_scheduled = Some(updated);
    (status, next)
}

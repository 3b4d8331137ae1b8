//! Another number of replicas while a rollout is under way or paused: in proportion.
use super::bounds::{bounds, recreates, wanted};
use super::plan::{Draft, Drafts, available};
use super::revision::{note_size, number};
use api::well_known::{ANNOTATION_DESIRED_REPLICAS, ANNOTATION_MAX_REPLICAS};
use k8s_openapi::api::apps::v1::Deployment;
use std::cmp::Reverse;

/// Brings all ReplicaSets to the new size.
pub(super) fn scale(deployment: &Deployment, drafts: &mut Drafts) {
    let goal = wanted(deployment);
    let active = drafts.all().filter(|draft| draft.replicas() > 0).count();
    if active <= 1 {
        // The active one, or the newest where there is none.
        let only = match active {
            1 => drafts.all_mut().find(|draft| draft.replicas() > 0),
            _ => drafts.all_mut().last(),
        };
        if let Some(draft) = only {
            set(deployment, draft, goal);
        }
        return;
    }
    let is_saturated = drafts.new.as_ref().is_some_and(|new| {
        let noted = number(&new.set, ANNOTATION_DESIRED_REPLICAS);
        new.replicas() == goal && noted == Some(goal) && available(&new.set) == goal
    });
    if is_saturated {
        for draft in drafts.old.iter_mut().filter(|draft| draft.replicas() > 0) {
            draft.scale(deployment, 0);
        }
    } else if !recreates(deployment) {
        in_proportion(deployment, drafts);
    }
}

fn in_proportion(deployment: &Deployment, drafts: &mut Drafts) {
    let goal = wanted(deployment);
    let allowed = if goal > 0 { goal.saturating_add(bounds(deployment).surge) } else { 0 };
    let to_add = allowed - drafts.total();
    let status_replicas = deployment.status.as_ref().and_then(|s| s.replicas).unwrap_or_default();
    let mut active: Vec<&mut Draft> = drafts.all_mut().filter(|draft| draft.replicas() > 0).collect();
    // The largest takes what rounding leaves; among equals the newer when growing, the older when shrinking.
    match to_add > 0 {
        true => {
            active.reverse();
            active.sort_by_key(|draft| Reverse(draft.replicas()));
        }
        false => active.sort_by_key(|draft| Reverse(draft.replicas())),
    }
    let mut sizes = Vec::with_capacity(active.len());
    let mut added = 0;
    for draft in &active {
        let part = match to_add {
            0 => 0,
            _ if added == to_add => 0,
            _ => {
                let part = fraction(draft, goal, allowed, status_replicas);
                if to_add > 0 { part.clamp(0, to_add - added) } else { part.clamp(to_add - added, 0) }
            }
        };
        added += part;
        sizes.push(draft.replicas() + part);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    for (draft, size) in active.into_iter().zip(sizes) {
        set(deployment, draft, size);
    }
}

/// How many replicas a ReplicaSet gains by its share.
fn fraction(draft: &Draft, goal: i32, allowed: i32, status_replicas: i32) -> i32 {
    if goal == 0 {
        return -draft.replicas();
    }
    let noted = number(&draft.set, ANNOTATION_MAX_REPLICAS).filter(|noted| *noted > 0).unwrap_or(status_replicas);
    if noted <= 0 {
        return 0;
    }
    let size = f64::from(draft.replicas()) * f64::from(allowed) / f64::from(noted);
    size.round() as i32 - draft.replicas()
}

/// Sets the size and, in any case, the note of what was asked for.
fn set(deployment: &Deployment, draft: &mut Draft, size: i32) {
    draft.scale(deployment, size);
    note_size(deployment, &mut draft.set);
}

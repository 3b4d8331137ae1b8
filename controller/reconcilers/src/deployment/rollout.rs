//! The next step from the old pods to the new ones.
use super::bounds::{bounds, wanted};
use super::plan::{Draft, Drafts, available};
use k8s_openapi::api::apps::v1::Deployment;

/// A rolling update: new pods within the surge, old ones down as far as availability allows.
pub(super) fn roll(deployment: &Deployment, drafts: &mut Drafts) {
    let total = drafts.total();
    let most = wanted(deployment).saturating_add(bounds(deployment).surge);
    let Some(new) = &mut drafts.new else { return };
    let (have, goal) = (new.replicas(), wanted(deployment));
    let next = match have {
        have if have >= goal => goal,
        have => have + (most - total).clamp(0, goal - have),
    };
    if next != have || new.is_missing {
        new.scale(deployment, next);
        // One thing at a time: what the old ones may lose depends on how the new ones come up.
        return;
    }
    shrink_old(deployment, drafts);
}

fn shrink_old(deployment: &Deployment, drafts: &mut Drafts) {
    let Some(new) = &drafts.new else { return };
    let least = wanted(deployment) - bounds(deployment).unavailable;
    let new_unavailable = (new.replicas() - available(&new.set)).max(0);
    let may_go = drafts.total() - least - new_unavailable;
    if may_go <= 0 {
        return;
    }
    // Pods that are not available first: nobody misses them.
    let mut left = may_go;
    for draft in &mut drafts.old {
        let broken = (draft.replicas() - available(&draft.set)).clamp(0, left.max(0));
        if broken > 0 {
            left -= broken;
            draft.scale(deployment, draft.replicas() - broken);
        }
    }
    let is_available: i32 = drafts.all().map(|draft| available(&draft.set).min(draft.before.max(0))).sum();
    let mut left = (is_available - least).max(0);
    for draft in &mut drafts.old {
        let down = draft.replicas().min(left);
        if down > 0 {
            left -= down;
            draft.scale(deployment, draft.replicas() - down);
        }
    }
}

/// All old pods go, then the new ones come.
pub(super) fn recreate(deployment: &Deployment, drafts: &mut Drafts, old_pods: bool) {
    let mut waits = old_pods;
    for draft in drafts.old.iter_mut().filter(|draft| draft.replicas() > 0) {
        draft.scale(deployment, 0);
        waits = true;
    }
    if !waits && let Some(new) = &mut drafts.new {
        Draft::scale(new, deployment, wanted(deployment));
    }
}

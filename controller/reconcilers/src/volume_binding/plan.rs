//! What becomes of a claim or of a volume next: pure.
use crate::record::Severity;
use api::volume::{Claim, Class, Volume, best_for};
use api::well_known::{FINALIZER_LOCAL_PATH, PROVISIONER_LOCAL_PATH, PROVISIONER_NONE};
use std::sync::Arc;

/// What people are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) severity: Severity,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Told {
    pub(super) fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Normal, reason, message: message.into() }
    }

    pub(super) fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, reason, message: message.into() }
    }
}

/// What becomes of a claim.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ClaimPlan {
    /// It is as it should be.
    Keep,
    /// It has no volume yet: Pending, and people are told why.
    Wait(Option<Told>),
    /// It and this volume are each other's; both sides are completed.
    Bind(Arc<Volume>),
    /// Its volume is gone or somebody else's.
    Lose(Told),
    /// Somebody outside is to make the volume: the claim is marked for him.
    Announce(String),
    /// We make the volume, on the node that was chosen.
    Provision,
    /// We made its volume, which grows.
    Grow(Arc<Volume>),
    /// Somebody outside is to let it grow.
    GrowElsewhere(Told),
}

/// Decides about a claim. `volumes` are all that there are, `class` is its class if there is one of that name.
pub(super) fn of_claim(claim: &Claim, volumes: &[Arc<Volume>], class: Option<&Class>) -> ClaimPlan {
    match claim.is_bind_completed {
        true => bound(claim, volumes, class),
        false if claim.is_deleting => ClaimPlan::Keep,
        false if claim.volume.is_empty() => unbound(claim, volumes, class),
        false => named(claim, volumes),
    }
}

fn unbound(claim: &Claim, volumes: &[Arc<Volume>], class: Option<&Class>) -> ClaimPlan {
    let wait = |told| ClaimPlan::Wait(Some(told));
    let waits = class.is_some_and(|class| class.waits);
    // Where the class waits for a pod the scheduler chooses, and reserves.
    let found = best_for(claim, volumes.iter().map(Arc::as_ref), None, waits, |_| false);
    if let Some(found) = found.and_then(|found| volumes.iter().find(|volume| volume.name == found.name)) {
        return ClaimPlan::Bind(Arc::clone(found));
    }
    if waits && claim.selected_node.is_none() {
        return wait(Told::normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"));
    }
    match class {
        _ if claim.class.is_empty() => wait(Told::normal(
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        )),
        None => wait(Told::warning(
            "ProvisioningFailed",
            format!("storageclass.storage.k8s.io {:?} not found", claim.class),
        )),
        Some(class) if class.provisioner == PROVISIONER_LOCAL_PATH => ClaimPlan::Provision,
        Some(class) if class.provisioner == PROVISIONER_NONE => {
            wait(Told::warning("ProvisioningFailed", format!("no volume plugin matched name: {PROVISIONER_NONE}")))
        }
        Some(class) => ClaimPlan::Announce(class.provisioner.clone()),
    }
}

/// Its maker named the volume.
fn named(claim: &Claim, volumes: &[Arc<Volume>]) -> ClaimPlan {
    let Some(volume) = volumes.iter().find(|volume| volume.name == claim.volume) else {
        return ClaimPlan::Wait(None);
    };
    match (&volume.claim, volume.misfit(claim)) {
        (None, Some(why)) => ClaimPlan::Wait(Some(Told::warning(
            "VolumeMismatch",
            format!("Cannot bind to requested volume {:?}: {why}", volume.name),
        ))),
        (None, None) if volume.is_deleting => ClaimPlan::Wait(None),
        (None, None) => ClaimPlan::Bind(Arc::clone(volume)),
        (Some(_), _) if volume.is_for(claim) => ClaimPlan::Bind(Arc::clone(volume)),
        (Some(_), _) => ClaimPlan::Wait(Some(Told::warning(
            "FailedBinding",
            format!("volume {:?} already bound to a different claim.", volume.name),
        ))),
    }
}

fn bound(claim: &Claim, volumes: &[Arc<Volume>], class: Option<&Class>) -> ClaimPlan {
    if claim.volume.is_empty() {
        let message = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return ClaimPlan::Lose(Told::warning("ClaimLost", message));
    }
    let Some(volume) = volumes.iter().find(|volume| volume.name == claim.volume) else {
        let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return ClaimPlan::Lose(Told::warning("ClaimLost", message));
    };
    match &volume.claim {
        Some(own) if own.uid == claim.uid => {}
        None => return ClaimPlan::Bind(Arc::clone(volume)),
        Some(_) => {
            let message = "Two claims are bound to the same volume, this one is bound incorrectly";
            return ClaimPlan::Lose(Told::warning("ClaimMisbound", message));
        }
    }
    if claim.phase != "Bound" || volume.phase != "Bound" || claim.capacity.is_none() {
        return ClaimPlan::Bind(Arc::clone(volume));
    }
    if claim.capacity.is_some_and(|capacity| capacity >= claim.requested) || !class.is_some_and(|class| class.can_grow)
    {
        return ClaimPlan::Keep;
    }
    match volume.provisioned_by.as_deref() {
        Some(PROVISIONER_LOCAL_PATH) => ClaimPlan::Grow(Arc::clone(volume)),
        _ => ClaimPlan::GrowElsewhere(Told::normal(
            "ExternalExpanding",
            "waiting for an external controller to expand this PVC",
        )),
    }
}

/// What becomes of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum VolumePlan {
    /// It is as it should be.
    Keep,
    /// Its phase changes; for `Failed` with the reason.
    Phase(&'static str, Option<Told>),
    /// Its claim is gone and nobody wants its data: the object is deleted, and the agent of its node removes the data.
    Delete,
    /// Its claim went elsewhere: it forgets the claim, or, where a person reserved it, only that claim's uid.
    Unbind,
    /// It is being deleted and the node with its data does not exist any more.
    LetGo,
}

/// Decides about a volume. `claim` is the one that it names, if it exists; `has_node` says whether its node does.
pub(super) fn of_volume(volume: &Volume, claim: Option<&Claim>, has_node: bool) -> VolumePlan {
    let phase = |phase: &'static str| match volume.phase == phase {
        true => VolumePlan::Keep,
        false => VolumePlan::Phase(phase, None),
    };
    let Some(own) = &volume.claim else { return let_go(volume, has_node).unwrap_or_else(|| phase("Available")) };
    if own.uid.is_empty() {
        return let_go(volume, has_node).unwrap_or_else(|| phase("Available"));
    }
    match claim.filter(|claim| claim.uid == own.uid) {
        None => reclaim(volume, has_node),
        // The claim's own turn completes it.
        Some(claim) if claim.volume.is_empty() => VolumePlan::Keep,
        Some(claim) if claim.volume == volume.name => phase("Bound"),
        Some(_) if volume.provisioned_by.is_some() && volume.reclaim == "Delete" => reclaim(volume, has_node),
        Some(_) => VolumePlan::Unbind,
    }
}

fn let_go(volume: &Volume, has_node: bool) -> Option<VolumePlan> {
    let waits = volume.is_deleting && volume.finalizers.iter().any(|own| own == FINALIZER_LOCAL_PATH);
    (waits && !has_node).then_some(VolumePlan::LetGo)
}

fn reclaim(volume: &Volume, has_node: bool) -> VolumePlan {
    match (volume.phase.as_str(), volume.reclaim.as_str(), volume.provisioned_by.as_deref()) {
        ("Released" | "Failed", _, _) if let_go(volume, has_node).is_some() => VolumePlan::LetGo,
        ("Failed", _, _) => VolumePlan::Keep,
        ("Released", "Delete", Some(PROVISIONER_LOCAL_PATH)) if !volume.is_deleting => VolumePlan::Delete,
        ("Released", "Delete", None) => {
            let message = format!(
                "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
                volume.name
            );
            VolumePlan::Phase("Failed", Some(Told::warning("VolumeFailedDelete", message)))
        }
        ("Released", "Recycle", _) => {
            let told = Told::warning("VolumeFailedRecycle", "No recycler plugin found for the volume!");
            VolumePlan::Phase("Failed", Some(told))
        }
        ("Released", _, _) => VolumePlan::Keep,
        _ => VolumePlan::Phase("Released", None),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

//! Whom an event can help: waiting pods that could not possibly fit because of it are not tried again. Pure.
use crate::decide::{FitError, taken};
use crate::filter::{self, Reason};
use crate::node::NodeFacts;
use crate::pod::Shape;
use crate::queue::Causes;
use crate::snapshot::{Slot, Snapshot};

/// Something that may let pods fit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moved<'a> {
    /// A node came, or offers other things.
    Node(Slot),
    /// A pod left a node or takes less of it, or the claim of a pod to the node's room was given up.
    Left(Slot),
    /// A pod with this shape came to a node.
    Came(&'a Shape),
    /// Nodes left or were listed anew, or labels of namespaces changed.
    Places,
}

/// What a refusal says of its causes.
pub(crate) fn causes(error: &FitError) -> Causes {
    let is_refused = error.refusal.is_some();
    let mut causes = Causes { relations: false, volumes: is_refused, devices: is_refused };
    for reason in error.reasons.keys() {
        match reason {
            Reason::Spread
            | Reason::SpreadLabel
            | Reason::PodAffinity
            | Reason::PodAntiAffinity
            | Reason::ExistingAntiAffinity => causes.relations = true,
            Reason::VolumeElsewhere
            | Reason::VolumeGone
            | Reason::NoVolume
            | Reason::NoStorage
            | Reason::OnePodClaim
            | Reason::TooManyVolumes => causes.volumes = true,
            Reason::ClaimElsewhere | Reason::CannotAllocate | Reason::ClaimUnclear(_) | Reason::SearchGivenUp => {
                causes.devices = true;
            }
            Reason::Unschedulable
            | Reason::Taint { .. }
            | Reason::Affinity
            | Reason::Ports
            | Reason::TooManyPods
            | Reason::Insufficient(_)
            | Reason::NoVictims
            | Reason::NotHelpful => {}
        }
    }
    causes
}

/// Whether a pod that waits for these causes may fit now, or make room for itself.
pub(crate) fn helps(snapshot: &Snapshot, moved: Moved<'_>, shape: &Shape, causes: Causes) -> bool {
    let has_use_for = |slot: Slot| {
        snapshot.at(slot).is_some_and(|node| {
            filter::standing(node, shape).is_open
                && !filter::is_too_small(node, shape)
                && (filter::has_room(node, &taken(snapshot, slot, node, "", shape), shape)
                    || shape.may_preempt && could_empty(snapshot, slot, node, shape))
        })
    };
    match moved {
        Moved::Node(slot) => causes.relations || has_use_for(slot),
        Moved::Left(slot) => causes.relations || causes.volumes || has_use_for(slot),
        Moved::Came(other) => {
            causes.relations && shape.terms.as_ref().is_some_and(|terms| terms.waits_for(snapshot.seen(other)))
        }
        Moved::Places => causes.relations,
    }
}

/// Whether there would be room without the pods of lower priority. What the node is being emptied for already stays taken.
fn could_empty(snapshot: &Snapshot, slot: Slot, node: &NodeFacts, shape: &Shape) -> bool {
    let mut taken = taken(snapshot, slot, node, "", shape);
    for placed in snapshot.lower(slot, shape.priority) {
        taken.to_mut().subtract(&placed.shape.load);
    }
    filter::has_room(node, &taken, shape)
}

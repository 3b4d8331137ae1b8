//! Who has to leave so that a pod fits that fits nowhere: a dry run on every node where it could help. Pure.
//! Kubernetes documentation, "Pod Priority and Preemption".
use crate::budget::Budget;
use crate::decide::{Decision, FitError, available, taken};
use crate::filter::{self, Reason};
use crate::pod::{PodFacts, PodKey};
use crate::snapshot::{Placed, Slot, Snapshot};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

/// So many candidates are compared at least, and one node in ten at most beyond that (Kubernetes' figures).
const MIN_CANDIDATES: usize = 100;
const SHARE_OF_NODES: usize = 10;
/// Makes any priority positive, so that more victims are never a smaller sum.
const OFFSET: i64 = 1 << 31;

/// A pod that has to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// `namespace/name`.
    pub key: PodKey,
    /// Its uid.
    pub uid: Arc<str>,
}

/// A node, and who leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// The node's name.
    pub node: Box<str>,
    /// Who leaves; nobody where enough pods are on their way out already.
    pub victims: Vec<Victim>,
    /// Pods of lower priority that the node was being emptied for.
    pub displaced: Vec<PodKey>,
}

/// How much is lost at a node, the most weighty first: broken budgets, the highest priority, the sum of priorities, how
/// many, and how long the most important ones have run.
type Loss = (usize, i64, i64, usize, Reverse<i64>);

/// What can be done for a pod that fits nowhere, and if nothing, why.
pub(crate) fn instead(snapshot: &Snapshot, pod: &PodFacts, mut error: FitError) -> Decision {
    if error.nodes == 0 {
        return Decision::Unfit(error);
    }
    let mut obstacles: BTreeMap<Reason, usize> = BTreeMap::new();
    if !pod.shape.may_preempt {
        error.preemption = Some("not eligible due to preemptionPolicy=Never.".to_owned());
        return Decision::Unfit(error);
    }
    let nominated = snapshot.nomination(&pod.key);
    if nominated.is_some_and(|slot| snapshot.is_emptied(slot, pod.shape.priority)) {
        error.preemption = Some("not eligible due to a terminating pod on the nominated node.".to_owned());
        return Decision::Unfit(error);
    }
    if error.refusal.is_some() {
        obstacles.insert(Reason::NotHelpful, error.nodes);
    } else if let Some(preemption) = choose(snapshot, pod, &mut obstacles) {
        return Decision::Preempt(preemption, error);
    }
    error.preemption = Some(available(error.nodes, &obstacles));
    Decision::Unfit(error)
}

fn choose(snapshot: &Snapshot, pod: &PodFacts, obstacles: &mut BTreeMap<Reason, usize>) -> Option<Preemption> {
    let enough = MIN_CANDIDATES.max(snapshot.count() / SHARE_OF_NODES);
    let holders: Vec<&PodKey> = snapshot.claim_holders(pod).map(|(key, _)| key).collect();
    let mut best: Option<(Loss, Slot, Vec<Victim>)> = None;
    let mut found = 0;
    let mut ended = DefaultHasher::new();
    pod.uid.hash(&mut ended);
    // Pods that preempt at the same time begin at different nodes.
    let slots = snapshot.slots();
    let first = usize::try_from(ended.finish() % slots.max(1) as u64).unwrap_or(0);
    for slot in (first..slots).chain(0..first) {
        if snapshot.at(slot).is_none() {
            continue;
        }
        match dry_run(snapshot, slot, pod, &holders) {
            Ok((loss, victims)) => {
                if best.as_ref().is_none_or(|(least, at, _)| (loss, slot) < (*least, *at)) {
                    best = Some((loss, slot, victims));
                }
                found += 1;
                if found >= enough {
                    break;
                }
            }
            Err(reasons) => {
                for reason in reasons {
                    *obstacles.entry(reason).or_default() += 1;
                }
            }
        }
    }
    let (_, slot, victims) = best?;
    let lower = |(_, shape): &&(PodKey, Arc<crate::pod::Shape>)| shape.priority < pod.shape.priority;
    let displaced = snapshot.nominated_at(slot).iter().filter(lower).map(|(key, _)| Arc::clone(key)).collect();
    Some(Preemption { node: snapshot.at(slot)?.name.clone(), victims, displaced })
}

/// Removes all pods of lower priority and takes as many back as possible: first those whose end would break a budget,
/// then the rest, the more important ones first.
fn dry_run(
    snapshot: &Snapshot,
    slot: Slot,
    pod: &PodFacts,
    holders: &[&PodKey],
) -> Result<(Loss, Vec<Victim>), Vec<Reason>> {
    let Some(node) = snapshot.at(slot) else { return Err(Vec::new()) };
    let shape = &pod.shape;
    let is_lower = |placed: &Placed| placed.shape.priority < shape.priority;
    if !filter::is_open(node, shape) || filter::is_too_small(node, shape) {
        return Err(vec![Reason::NotHelpful]);
    }
    if !shape.load.claims.is_empty() && snapshot.volumes.on(node, pod).is_err() {
        return Err(vec![Reason::NotHelpful]);
    }
    let mut lower: Vec<(&PodKey, &Placed)> = snapshot.pods_at(slot).filter(|(_, placed)| is_lower(placed)).collect();
    if lower.is_empty() {
        return Err(vec![Reason::NoVictims]);
    }
    let mut taken = taken(snapshot, slot, node, pod);
    for (_, placed) in &lower {
        taken.to_mut().subtract(&placed.shape.load);
    }
    let left = filter::reasons(node, &taken, shape);
    if !left.is_empty() {
        return Err(left);
    }
    if !holders.iter().all(|holder| lower.iter().any(|(key, _)| key == holder)) {
        return Err(vec![Reason::OnePodClaim]);
    }
    // Who leaves anyway is no victim, and does not come back.
    lower.retain(|(_, placed)| !snapshot.is_leaving(placed));
    lower.sort_by_key(|(key, placed)| (Reverse(placed.shape.priority), placed.started, *key));
    let (breaking, free) = by_budget(snapshot, lower);
    let (mut victims, mut loss) = (Vec::new(), (0, i64::MIN, 0, 0, Reverse(i64::MAX)));
    for (group, breaks) in [(breaking, 1), (free, 0)] {
        for (key, placed) in group {
            taken.to_mut().add(&placed.shape.load);
            if filter::has_room(node, &taken, shape) && !holders.contains(&key) {
                continue;
            }
            taken.to_mut().subtract(&placed.shape.load);
            let priority = i64::from(placed.shape.priority);
            loss.0 += breaks;
            loss.4 = match priority.cmp(&loss.1) {
                std::cmp::Ordering::Greater => Reverse(placed.started),
                std::cmp::Ordering::Equal => Reverse(loss.4.0.min(placed.started)),
                std::cmp::Ordering::Less => loss.4,
            };
            loss.1 = loss.1.max(priority);
            loss.2 += priority + OFFSET;
            loss.3 += 1;
            victims.push(Victim { key: Arc::clone(key), uid: Arc::clone(&placed.uid) });
        }
    }
    Ok((loss, victims))
}

type Group<'a> = Vec<(&'a PodKey, &'a Placed)>;

/// Those whose end would break a budget if all of them ended, and the others.
fn by_budget<'a>(snapshot: &Snapshot, pods: Group<'a>) -> (Group<'a>, Group<'a>) {
    if snapshot.budgets.is_empty() {
        return (Vec::new(), pods);
    }
    let mut left: Vec<(&Budget, i64)> = snapshot.budgets.values().map(|budget| (budget, budget.allowed)).collect();
    pods.into_iter().partition(|(key, placed)| {
        let mut breaks = false;
        for (_, allowed) in left.iter_mut().filter(|(budget, _)| budget.covers(key, &placed.shape)) {
            *allowed -= 1;
            breaks |= *allowed < 0;
        }
        breaks
    })
}

/// Whether the pod fits once the victims, and all who are on their way out, have left: what a preemption promises.
pub fn would_fit(snapshot: &Snapshot, pod: &PodFacts, preemption: &Preemption) -> bool {
    let Some(slot) = snapshot.slot(&preemption.node) else { return false };
    let Some(node) = snapshot.at(slot) else { return false };
    let mut taken = taken(snapshot, slot, node, pod);
    for (key, placed) in snapshot.pods_at(slot) {
        let goes = snapshot.is_leaving(placed) && placed.shape.priority < pod.shape.priority;
        if goes || preemption.victims.iter().any(|victim| victim.key == *key) {
            taken.to_mut().subtract(&placed.shape.load);
        }
    }
    filter::fits(node, &taken, &pod.shape)
}

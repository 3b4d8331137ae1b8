//! Who has to leave so that a pod fits that fits nowhere: a dry run on nodes where it could help. Pure.
//! Kubernetes documentation, "Pod Priority and Preemption".
use crate::budget::Budget;
use crate::class::Class;
use crate::decide::{Decision, FitError, View, available, taken};
use crate::filter::{self, Reason, Tally};
use crate::group::GroupKey;
use crate::memo::Memo;
use crate::node::{NodeFacts, Taken};
use crate::pod::{PodFacts, PodKey, Shape};
use crate::relation::Relations;
use crate::snapshot::{Placed, Slot, Snapshot};
use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

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
pub(crate) type Loss = (usize, i64, i64, usize, Reverse<i64>);

/// What can be done for a pod that fits nowhere, and if nothing, why.
pub(crate) fn instead(view: &View<'_>, mut error: FitError, memo: &mut Memo) -> Decision {
    let (snapshot, pod) = (view.snapshot, view.pod);
    if error.nodes == 0 || !pod.shape.profile.preempts {
        return Decision::Unfit(error);
    }
    if !pod.shape.may_preempt {
        error.preemption = Some("not eligible due to preemptionPolicy=Never.".to_owned());
        return Decision::Unfit(error);
    }
    let nominated = snapshot.nomination(&pod.key);
    if nominated.is_some_and(|slot| snapshot.is_emptied(slot, pod.shape.priority)) {
        error.preemption = Some("not eligible due to a terminating pod on the nominated node.".to_owned());
        return Decision::Unfit(error);
    }
    let obstacles = match &error.refusal {
        Some(_) => BTreeMap::from([(Reason::NotHelpful, error.nodes)]),
        None => {
            let mut obstacles = Tally::default();
            if let Some(preemption) = choose(view, memo, &mut obstacles) {
                return Decision::Preempt(preemption, error);
            }
            obstacles.into_counts()
        }
    };
    error.preemption = Some(available(error.nodes, &obstacles));
    Decision::Unfit(error)
}

fn choose(view: &View<'_>, memo: &mut Memo, obstacles: &mut Tally) -> Option<Preemption> {
    let (snapshot, pod) = (view.snapshot, view.pod);
    let mut run = DryRun {
        view,
        relations: view.relations(),
        holders: snapshot.claim_holders(pod),
        lower: Vec::new(),
        victims: Vec::new(),
        elsewhere: Vec::new(),
    };
    if view.only.is_some() {
        obstacles.add_many(Reason::NotHelpful, snapshot.count() - 1);
    }
    let slot = match run.relations.is_none() && view.is_shared() && view.only.is_none() {
        true => {
            let best = memo.cheapest(snapshot.slots(), |slot| run.on(slot, &mut Tally::default()));
            match best {
                Some((_, slot)) => slot,
                None => {
                    for slot in 0..snapshot.slots() {
                        run.on(slot, obstacles);
                    }
                    return None;
                }
            }
        }
        false => match view.only {
            Some(slot) => slot,
            None => sampled(&mut run, obstacles)?,
        },
    };
    run.on(slot, obstacles)?;
    let name = |placed: &&Placed| Victim { key: Arc::clone(&placed.key), uid: Arc::clone(&placed.uid) };
    let victims = run.victims.iter().chain(&run.elsewhere).map(name).collect();
    let lower = |(_, shape): &&(PodKey, Arc<Shape>)| shape.priority < pod.shape.priority;
    let displaced = snapshot.nominated_at(slot).iter().filter(lower).map(|(key, _)| Arc::clone(key)).collect();
    Some(Preemption { node: snapshot.at(slot)?.name.clone(), victims, displaced })
}

/// The best of the first candidates, where each pod needs a run of its own.
fn sampled(run: &mut DryRun<'_, '_>, obstacles: &mut Tally) -> Option<Slot> {
    let snapshot = run.view.snapshot;
    let profile = &run.view.pod.shape.profile;
    let enough = profile.min_candidates.max(snapshot.count() * profile.candidates_percent / 100).max(1);
    let mut best: Option<(Loss, Slot)> = None;
    let mut found = 0;
    let mut ended = DefaultHasher::new();
    run.view.pod.uid.hash(&mut ended);
    // Pods that preempt at the same time begin at different nodes.
    let slots = snapshot.slots();
    let first = usize::try_from(ended.finish() % slots.max(1) as u64).unwrap_or(0);
    for slot in (first..slots).chain(0..first) {
        let Some(loss) = run.on(slot, obstacles) else { continue };
        if best.is_none_or(|best| (loss, slot) < best) {
            best = Some((loss, slot));
        }
        found += 1;
        if found >= enough {
            break;
        }
    }
    best.map(|(_, slot)| slot)
}

/// What is tried on one node after the other.
struct DryRun<'v, 'a> {
    view: &'v View<'a>,
    relations: Option<Relations<'a>>,
    /// The pods that use a claim that the pod would have to have for itself.
    holders: Vec<PodKey>,
    lower: Vec<&'a Placed>,
    /// Who would have to leave the last node.
    victims: Vec<&'a Placed>,
    /// Pods of other nodes that go with these: their groups leave whole.
    elsewhere: Vec<&'a Placed>,
}

impl<'a> DryRun<'_, 'a> {
    /// Removes all pods of lower priority and takes as many back as possible: first those whose end would break a budget,
    /// then the rest, the more important ones first. Tells what is lost, or why it does not help.
    fn on(&mut self, slot: Slot, obstacles: &mut Tally) -> Option<Loss> {
        let (snapshot, pod) = (self.view.snapshot, self.view.pod);
        let (node, shape) = (snapshot.at(slot)?, &pod.shape);
        self.victims.clear();
        self.elsewhere.clear();
        if !filter::standing(node, shape).is_open || filter::is_too_small(node, shape) {
            obstacles.add(Reason::NotHelpful);
            return None;
        }
        if shape.load.has_claims() && snapshot.preparations(node, pod).is_err() {
            obstacles.add(Reason::NotHelpful);
            return None;
        }
        self.lower.clear();
        self.lower.extend(snapshot.lower(slot, shape.priority));
        if self.lower.is_empty() {
            let is_final = |relations: &mut Relations<'a>| {
                matches!(relations.obstacle(slot), Some(Reason::PodAffinity | Reason::SpreadLabel))
            };
            let is_final = self.relations.as_mut().is_some_and(is_final);
            obstacles.add(if is_final { Reason::NotHelpful } else { Reason::NoVictims });
            return None;
        }
        let mut taken = taken(snapshot, slot, node, &pod.key, shape);
        for placed in &self.lower {
            taken.to_mut().subtract(&placed.shape.load);
        }
        if !filter::tell_room(node, &taken, shape, obstacles) {
            return None;
        }
        let all_lower = std::mem::take(&mut self.lower);
        for placed in &all_lower {
            self.imagine(slot, placed, -1);
        }
        let loss = self.take_back(slot, node, taken.into_owned(), &all_lower, obstacles);
        for placed in &self.victims {
            if let Some(relations) = &mut self.relations {
                relations.imagine(snapshot, slot, &placed.shape, placed.is_terminating, 1);
            }
        }
        for placed in all_lower.iter().filter(|placed| loss.is_none() || snapshot.is_leaving(placed)) {
            self.imagine(slot, placed, 1);
        }
        self.lower = all_lower;
        loss
    }

    fn imagine(&mut self, slot: Slot, placed: &Placed, change: i64) {
        if let Some(relations) = &mut self.relations {
            relations.imagine(self.view.snapshot, slot, &placed.shape, placed.is_terminating, change);
        }
    }

    fn take_back(
        &mut self,
        slot: Slot,
        node: &NodeFacts,
        mut taken: Taken,
        lower: &[&'a Placed],
        obstacles: &mut Tally,
    ) -> Option<Loss> {
        let snapshot = self.view.snapshot;
        let obstacle = match self.holders.iter().all(|holder| lower.iter().any(|placed| placed.key == *holder)) {
            true => self.view.obstacle(self.relations.as_mut(), slot),
            false => Some(Reason::OnePodClaim),
        };
        if let Some(reason) = obstacle {
            let is_final = matches!(reason, Reason::PodAffinity | Reason::SpreadLabel);
            obstacles.add(if is_final { Reason::NotHelpful } else { reason });
            return None;
        }
        // Who leaves anyway is no victim, and does not come back. Groups that leave whole count for more than single pods.
        let mut staying: Group<'a> = lower.iter().copied().filter(|placed| !snapshot.is_leaving(placed)).collect();
        staying.sort_by_key(|placed| {
            let is_single = snapshot.whole_group(placed).is_none();
            (Reverse(placed.shape.priority), is_single, placed.started, &placed.key)
        });
        let (breaking, free) = by_budget(snapshot, staying);
        let mut loss = (0, i64::MIN, 0, 0, Reverse(i64::MAX));
        let mut tried: Vec<&GroupKey> = Vec::new();
        for (group, breaks) in [(&breaking, 1), (&free, 0)] {
            for placed in group {
                let Some(whole) = snapshot.whole_group(placed) else {
                    if !self.takes_back(slot, node, &mut taken, &[placed]) {
                        self.victims.push(placed);
                        lose(&mut loss, placed, breaks);
                    }
                    continue;
                };
                if tried.contains(&whole) {
                    continue;
                }
                tried.push(whole);
                let is_of_it = |other: &&&'a Placed| other.shape.group.as_ref() == Some(whole);
                let here: Group<'a> = breaking.iter().chain(&free).filter(is_of_it).copied().collect();
                if !self.takes_back(slot, node, &mut taken, &here) {
                    let away = snapshot.groups.placed(whole).filter_map(|key| snapshot.placed(key));
                    let away = away.filter(|(at, other)| *at != slot && !snapshot.is_leaving(other));
                    let away: Group<'a> = away.map(|(_, other)| other).collect();
                    for other in here.iter().chain(&away) {
                        lose(&mut loss, other, breaks);
                    }
                    self.victims.extend(here);
                    self.elsewhere.extend(away);
                }
            }
        }
        Some(loss)
    }

    /// Takes pods back together, if the pod fits beside them then; tells whether it did.
    fn takes_back(&mut self, slot: Slot, node: &NodeFacts, taken: &mut Taken, pods: &[&'a Placed]) -> bool {
        for placed in pods {
            taken.add(&placed.shape.load);
        }
        let holds = pods.iter().any(|placed| self.holders.contains(&placed.key));
        if !holds && filter::has_room(node, taken, &self.view.pod.shape) {
            for placed in pods {
                self.imagine(slot, placed, 1);
            }
            if self.view.obstacle(self.relations.as_mut(), slot).is_none() {
                return true;
            }
            for placed in pods {
                self.imagine(slot, placed, -1);
            }
        }
        for placed in pods {
            taken.subtract(&placed.shape.load);
        }
        false
    }
}

/// Counts the end of a pod.
fn lose(loss: &mut Loss, placed: &Placed, breaks: usize) {
    let priority = i64::from(placed.shape.priority);
    loss.0 += breaks;
    loss.4 = match priority.cmp(&loss.1) {
        Ordering::Greater => Reverse(placed.started),
        Ordering::Equal => Reverse(loss.4.0.min(placed.started)),
        Ordering::Less => loss.4,
    };
    loss.1 = loss.1.max(priority);
    loss.2 += priority + OFFSET;
    loss.3 += 1;
}

type Group<'a> = Vec<&'a Placed>;

/// Those whose end would break a budget if all of them ended, and the others.
fn by_budget<'a>(snapshot: &Snapshot, pods: Group<'a>) -> (Group<'a>, Group<'a>) {
    if snapshot.budgets.is_empty() {
        return (Vec::new(), pods);
    }
    let mut left: Vec<(&Budget, i64)> = snapshot.budgets.values().map(|budget| (budget, budget.allowed)).collect();
    pods.into_iter().partition(|placed| {
        let mut breaks = false;
        for (_, allowed) in left.iter_mut().filter(|(budget, _)| budget.covers(&placed.key, &placed.shape)) {
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
    let mut class = Class::new(&pod.shape);
    // Which nodes count is asked for spread alone.
    if pod.shape.terms.as_ref().is_some_and(|terms| !terms.hard.is_empty()) {
        class.follow(snapshot);
    }
    let view = View::new(snapshot, pod, &class);
    let (mut taken, mut relations) = (taken(snapshot, slot, node, &pod.key, &pod.shape), view.relations());
    for placed in snapshot.pods_at(slot) {
        let goes = snapshot.is_leaving(placed) && placed.shape.priority < pod.shape.priority;
        if goes || preemption.victims.iter().any(|victim| victim.key == placed.key) {
            taken.to_mut().subtract(&placed.shape.load);
            if let Some(relations) = &mut relations {
                relations.imagine(snapshot, slot, &placed.shape, placed.is_terminating, -1);
            }
        }
    }
    filter::fits(node, &taken, &pod.shape) && view.obstacle(relations.as_mut(), slot).is_none()
}

//! The decision about a gang: its pods are tried in the snapshot one after another, and kept only if enough of them fit.
//! The snapshot is afterwards what it was before. Pure, and nobody holds half of a gang's room: two gangs cannot wait for
//! each other.
use crate::decide::{Decider, Decision, FitError};
use crate::devices::Pendings;
use crate::group::{GroupFacts, GroupKey, Policy};
use crate::hint;
use crate::pod::{PodFacts, PodKey};
use crate::preempt::{self, Preemption, Victim};
use crate::queue::Causes;
use crate::snapshot::{Lifted, Placed, Slot, Snapshot};
use crate::volumes::{Assumed, Preparation};
use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

/// So many looks at pods of a gang are worth it to spare a victim, where each looks at all places.
const MAX_LOOKS: usize = 256;

/// Where a pod of a gang goes.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The pod.
    pub pod: Arc<PodFacts>,
    /// The node's name.
    pub node: Box<str>,
    /// What has to be done for its volumes before.
    pub work: Vec<Preparation>,
}

/// Why a gang, or what is left of one, has no place. Displays the numbers, and why the first pod did not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GangError {
    min_count: usize,
    /// How many fit, those that have a place already among them.
    fit: usize,
    /// How many pods there are.
    all: usize,
    /// Why the first one that did not fit has no node.
    pub first: FitError,
    /// What kept any of them from a node.
    pub causes: Causes,
}

impl fmt::Display for GangError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min_count, fit, all, first, .. } = self;
        match fit < min_count {
            true => write!(f, "minCount ({min_count}) cannot be satisfied: {fit} of {all} pods fit. {first}"),
            false => first.fmt(f),
        }
    }
}

/// What to do with the pods of a gang that wait.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Some go together; the others, if any, do not fit.
    Bind {
        /// Who goes, and where to.
        placements: Vec<Placement>,
        /// Who does not.
        left: Vec<Arc<PodFacts>>,
        /// Why; there if somebody does not.
        error: Option<GangError>,
    },
    /// Enough of them fit once others have left. A pod that needs nobody to leave has a node, and no victims.
    Preempt(Vec<(Arc<PodFacts>, Preemption)>, GangError),
    /// Nobody goes.
    Unfit(GangError),
}

/// Decides about the pods of a gang that have no place, in this order.
pub fn decide(
    decider: &mut Decider,
    snapshot: &mut Snapshot,
    group: &GroupFacts,
    waiting: &[Arc<PodFacts>],
) -> Verdict {
    let placed = snapshot.staying_of_group(&group.key);
    let min_count = match group.policy {
        Policy::Basic => 1,
        Policy::Gang { min_count } => min_count,
    };
    // Somebody has to go.
    let needed = min_count.saturating_sub(placed).max(1);
    for pod in waiting {
        snapshot.attend(&pod.shape);
    }
    let outcome = Trial::new(snapshot).run(decider, waiting, needed);
    let error = |fit: usize, first: FitError, causes: Causes| GangError {
        min_count,
        fit: placed + fit,
        all: placed + waiting.len(),
        first,
        causes,
    };
    let (fit, first, causes) = match outcome {
        Outcome { placements, left, first, causes, .. } if placements.len() >= needed => {
            let error = first.map(|first| error(placements.len(), first, causes));
            return Verdict::Bind { placements, left, error };
        }
        Outcome { placements, first, causes, .. } => (placements.len(), first.unwrap_or_default(), causes),
    };
    if first.nodes == 0 {
        return Verdict::Unfit(error(fit, first, causes));
    }
    if let Some(why) = keeps_from_preempting(snapshot, waiting) {
        return Verdict::Unfit(error(fit, FitError { preemption: Some(why.to_owned()), ..first }, causes));
    }
    let mut trial = Trial::new(snapshot);
    trial.sends_away = true;
    let outcome = trial.run(decider, waiting, needed);
    match outcome.placements.len() >= needed {
        true => Verdict::Preempt(outcome.preemptions, error(fit, first, causes)),
        // It says why nobody is sent away.
        false => Verdict::Unfit(error(fit, outcome.first.unwrap_or(first), causes.or(outcome.causes))),
    }
}

fn keeps_from_preempting(snapshot: &Snapshot, waiting: &[Arc<PodFacts>]) -> Option<&'static str> {
    if waiting.iter().any(|pod| !pod.shape.may_preempt) {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let is_awaited = |pod: &Arc<PodFacts>| {
        snapshot.nomination(&pod.key).is_some_and(|slot| snapshot.is_emptied(slot, pod.shape.priority))
    };
    waiting.iter().any(is_awaited).then_some("not eligible due to a terminating pod on the nominated node.")
}

/// What a trial found.
struct Outcome {
    placements: Vec<Placement>,
    preemptions: Vec<(Arc<PodFacts>, Preemption)>,
    left: Vec<Arc<PodFacts>>,
    first: Option<FitError>,
    causes: Causes,
}

/// Pods that are in the snapshot, or out of it, for the time of a trial.
struct Trial<'s> {
    snapshot: &'s mut Snapshot,
    sends_away: bool,
    /// Who came, and the node that was being emptied for it before.
    came: Vec<(Arc<PodFacts>, Option<Box<str>>)>,
    left: Vec<Lifted>,
    /// What was assumed of volumes and devices before, if somebody has any.
    assumed: Option<(Assumed, Pendings)>,
    /// What budgets allowed before.
    allowed: Vec<(String, i64)>,
}

impl<'s> Trial<'s> {
    fn new(snapshot: &'s mut Snapshot) -> Self {
        let (came, left, allowed) = (Vec::new(), Vec::new(), Vec::new());
        Self { snapshot, sends_away: false, came, left, assumed: None, allowed }
    }

    fn run(mut self, decider: &mut Decider, waiting: &[Arc<PodFacts>], needed: usize) -> Outcome {
        let (placements, preemptions, left) = (Vec::new(), Vec::new(), Vec::new());
        let mut outcome = Outcome { placements, preemptions, left, first: None, causes: Causes::default() };
        for (n, pod) in waiting.iter().enumerate() {
            // Once the minimum is out of reach the rest need not be looked at.
            if outcome.first.is_some() && outcome.placements.len() + waiting.len() - n < needed {
                outcome.left.extend(waiting.iter().skip(n).cloned());
                break;
            }
            let decision = match self.sends_away {
                true => decider.decide(self.snapshot, pod),
                false => decider.fit(self.snapshot, pod),
            };
            let (preemption, work) = match decision {
                Decision::Bind(node) => (Preemption { node, victims: Vec::new(), displaced: Vec::new() }, Vec::new()),
                Decision::Prepare(node, work) => {
                    (Preemption { node, victims: Vec::new(), displaced: Vec::new() }, work)
                }
                Decision::Preempt(preemption, _) => {
                    // What its claims get there does not hang on who leaves, and the next pod must not be promised the same.
                    let node = self.snapshot.slot(&preemption.node).and_then(|slot| self.snapshot.at(slot));
                    let work = node.and_then(|node| self.snapshot.preparations(node, pod).ok());
                    (preemption, work.unwrap_or_default())
                }
                Decision::Unfit(error) => {
                    outcome.causes = outcome.causes.or(hint::causes(&error));
                    outcome.first.get_or_insert(error);
                    outcome.left.push(Arc::clone(pod));
                    continue;
                }
            };
            self.send_away(&preemption);
            self.put(pod, &preemption.node, &work);
            let (pod, node) = (Arc::clone(pod), preemption.node.clone());
            outcome.preemptions.push((Arc::clone(&pod), preemption));
            outcome.placements.push(Placement { pod, node, work });
        }
        self.spare(&mut outcome);
        self.undo();
        outcome
    }

    /// Victims that need not leave after all, because others do, stay: the more important ones first.
    fn spare(&mut self, outcome: &mut Outcome) {
        if self.left.len() < 2 {
            return;
        }
        let mut units: Vec<(Option<GroupKey>, Vec<Lifted>)> = Vec::new();
        for lifted in std::mem::take(&mut self.left) {
            let whole = self.snapshot.whole_group(&lifted.placed).cloned();
            match units.iter_mut().find(|(group, _)| whole.is_some() && *group == whole) {
                Some((_, unit)) => unit.push(lifted),
                None => units.push((whole, vec![lifted])),
            }
        }
        units.sort_by_cached_key(|(group, unit)| {
            let first = unit.first().map(|lifted| &lifted.placed);
            let rank = |placed: &Placed| (Reverse(placed.shape.priority), placed.started, Arc::clone(&placed.key));
            (first.map(|placed| placed.shape.priority).map(Reverse), group.is_none(), first.map(rank))
        });
        for (_, unit) in units {
            let keys: Vec<(PodKey, Slot)> =
                unit.iter().map(|lifted| (Arc::clone(&lifted.placed.key), lifted.slot)).collect();
            for lifted in unit {
                self.snapshot.put_back(lifted);
            }
            if self.holds(&outcome.placements, &keys) {
                let is_spared = |victim: &Victim| keys.iter().any(|(key, _)| *key == victim.key);
                for (_, preemption) in &mut outcome.preemptions {
                    preemption.victims.retain(|victim| !is_spared(victim));
                }
            } else {
                self.left.extend(keys.iter().filter_map(|(key, _)| self.snapshot.lift(key)));
            }
        }
    }

    /// Whether the placements do with these pods back.
    fn holds(&mut self, placements: &[Placement], back: &[(PodKey, Slot)]) -> bool {
        let is_related = self.snapshot.counts.holds_any() || placements.iter().any(|one| one.pod.shape.terms.is_some());
        // With terms every place may matter; that is not looked at without end.
        if is_related && placements.len() * back.len() > MAX_LOOKS {
            return false;
        }
        placements.iter().all(|placement| {
            let slot = self.snapshot.slot(&placement.node);
            let is_near = back.iter().any(|(_, at)| Some(*at) == slot);
            if !is_near && !is_related {
                return true;
            }
            let node = placement.node.clone();
            let alone = Preemption { node, victims: Vec::new(), displaced: Vec::new() };
            let Some(lifted) = self.snapshot.lift(&placement.pod.key) else { return false };
            let fits = preempt::would_fit(self.snapshot, &placement.pod, &alone);
            self.snapshot.put_back(lifted);
            fits
        })
    }

    fn put(&mut self, pod: &Arc<PodFacts>, node: &str, work: &[Preparation]) {
        let nominated = self.snapshot.nomination(&pod.key).and_then(|slot| self.snapshot.at(slot));
        self.came.push((Arc::clone(pod), nominated.map(|node| node.name.clone())));
        self.snapshot.place(pod, node);
        if !work.is_empty() {
            self.assumed.get_or_insert_with(|| self.snapshot.assumed());
            self.snapshot.assume(node, work);
        }
    }

    fn send_away(&mut self, preemption: &Preemption) {
        for victim in &preemption.victims {
            self.allowed.extend(self.snapshot.spend_budgets(&victim.key));
            self.left.extend(self.snapshot.lift(&victim.key));
        }
    }

    fn undo(self) {
        for (pod, nominated) in self.came.into_iter().rev() {
            self.snapshot.unplace(&pod.key);
            if let Some(node) = nominated {
                self.snapshot.nominate(&pod.key, &pod.shape, &node);
            }
        }
        for lifted in self.left {
            self.snapshot.put_back(lifted);
        }
        if let Some(assumed) = self.assumed {
            self.snapshot.put_back_assumed(assumed);
        }
        // What was spent last was allowed before first.
        for (budget, allowed) in self.allowed.into_iter().rev() {
            self.snapshot.allow(&budget, allowed);
        }
    }
}

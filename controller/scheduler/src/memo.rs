//! What was found out about nodes for pods that are alike, kept until a node changes: why it does not take them, and who
//! would have to leave it.
use crate::filter::{Reason, Tally};
use crate::preempt::Loss;
use crate::snapshot::Slot;
use std::collections::{BTreeMap, HashMap};

/// What emptying a node for the pod would cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Trial {
    #[default]
    Untried,
    /// It would not help.
    Futile,
    Costs(Loss),
}

/// Both kinds of findings by slot.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    trials: Vec<Trial>,
    /// The number of each slot's verdict; 0 is none.
    verdicts: Vec<usize>,
    numbers: HashMap<Vec<Reason>, usize>,
    /// How many slots have each verdict.
    counts: Vec<usize>,
    /// Slots whose verdict has to be found out.
    stale: Vec<Slot>,
}

impl Memo {
    /// Forgets everything about so many slots.
    pub(crate) fn clear(&mut self, slots: usize) {
        self.trials.clear();
        self.verdicts.clear();
        self.verdicts.resize(slots, 0);
        self.numbers.clear();
        self.counts.clear();
        self.stale.clear();
        self.stale.extend(0..slots);
    }

    /// A node changed.
    pub(crate) fn forget(&mut self, slot: Slot) {
        if let Some(trial) = self.trials.get_mut(slot) {
            *trial = Trial::Untried;
        }
        let Some(verdict) = self.verdicts.get_mut(slot) else { return };
        if *verdict > 0 {
            self.counts[*verdict] -= 1;
            *verdict = 0;
            self.stale.push(slot);
        }
    }

    /// Forgets what emptying nodes would cost.
    pub(crate) fn forget_trials(&mut self) {
        self.trials.clear();
    }

    /// How many nodes have each reason; `tell` says those of one node.
    pub(crate) fn reasons(&mut self, mut tell: impl FnMut(Slot, &mut Tally)) -> BTreeMap<Reason, usize> {
        for slot in std::mem::take(&mut self.stale) {
            let mut tally = Tally::default();
            tell(slot, &mut tally);
            let reasons: Vec<Reason> = tally.into_counts().into_keys().collect();
            let next = self.numbers.len() + 1;
            let number = *self.numbers.entry(reasons).or_insert(next);
            if self.counts.len() <= number {
                self.counts.resize(number + 1, 0);
            }
            self.counts[number] += 1;
            self.verdicts[slot] = number;
        }
        let mut sums: BTreeMap<Reason, usize> = BTreeMap::new();
        for (reasons, number) in self.numbers.iter().filter(|(_, number)| self.counts[**number] > 0) {
            for reason in reasons {
                *sums.entry(reason.clone()).or_default() += self.counts[*number];
            }
        }
        sums
    }

    /// The slot whose emptying costs least; `run` tries one.
    pub(crate) fn cheapest(&mut self, slots: usize, mut run: impl FnMut(Slot) -> Option<Loss>) -> Option<(Loss, Slot)> {
        self.trials.resize(slots, Trial::Untried);
        let mut best: Option<(Loss, Slot)> = None;
        for (slot, trial) in self.trials.iter_mut().enumerate() {
            if matches!(trial, Trial::Untried) {
                *trial = run(slot).map_or(Trial::Futile, Trial::Costs);
            }
            if let Trial::Costs(loss) = *trial
                && best.is_none_or(|best| (loss, slot) < best)
            {
                best = Some((loss, slot));
            }
        }
        best
    }
}

//! Pods that are alike share one pass over the nodes: whether each fits and how good it is, kept up as nodes change.
use crate::decide::{FitError, taken};
use crate::filter;
use crate::memo::Memo;
use crate::pod::Shape;
use crate::score::{self, Wishes};
use crate::snapshot::{Slot, Snapshot};
use std::sync::Arc;

/// The score of a node that does not fit.
const UNFIT: i64 = i64::MIN;

/// What is known of a node for one class, beside its score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// It is there.
    pub(crate) is_there: bool,
    /// Selector and node affinity are met.
    pub(crate) is_affine: bool,
    /// Its taints are tolerated.
    pub(crate) is_tolerated: bool,
    /// Room is all that could be lacking.
    pub(crate) is_open: bool,
}

/// The pass.
#[derive(Debug)]
pub(crate) struct Class {
    shape: Arc<Shape>,
    /// The changes that are in it.
    seen: u64,
    standings: Vec<Standing>,
    /// By slot; `UNFIT` where the pod does not fit.
    scores: Vec<i64>,
    wishes: Vec<Wishes>,
    /// How many nodes there are, and how many have each image of the pod; a score is a share of the nodes.
    spread: (usize, Vec<usize>),
    /// How many slots have any wishes.
    wished: usize,
    /// The better slot of each pair, and so on upwards; 1 is the root, 0 means none.
    winners: Vec<u32>,
    leaves: usize,
    /// Why no node takes such a pod, as long as nothing changes.
    pub(crate) unfit: Option<((u64, u64), FitError)>,
    /// When it was used last.
    pub(crate) used: u64,
    pub(crate) memo: Memo,
    /// The version of the snapshot that the memo is of.
    version: u64,
}

impl Class {
    pub(crate) fn new(shape: &Arc<Shape>) -> Self {
        Self {
            shape: Arc::clone(shape),
            seen: 0,
            standings: Vec::new(),
            scores: Vec::new(),
            wishes: Vec::new(),
            spread: (0, Vec::new()),
            wished: 0,
            winners: Vec::new(),
            leaves: 0,
            unfit: None,
            used: 0,
            memo: Memo::default(),
            version: 0,
        }
    }

    pub(crate) fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// Takes in what has changed.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot) {
        let with: Vec<usize> = self.shape.images.iter().map(|image| snapshot.with_image(image)).collect();
        let spread = if with.iter().any(|count| *count > 0) { (snapshot.count(), with) } else { (0, Vec::new()) };
        let is_same = spread == self.spread;
        self.spread = spread;
        match snapshot.since(self.seen) {
            Some(changes)
                if is_same && self.leaves >= snapshot.slots() && self.leaves > 0 && changes.len() < self.leaves =>
            {
                for slot in changes {
                    self.look(snapshot, *slot);
                    self.climb(*slot);
                    self.memo.forget(*slot);
                }
            }
            Some(_) | None => self.build(snapshot),
        }
        if self.version != snapshot.version {
            self.version = snapshot.version;
            self.memo.forget_trials();
        }
        self.seen = snapshot.now();
    }

    fn build(&mut self, snapshot: &Snapshot) {
        self.leaves = snapshot.slots().max(2).next_power_of_two();
        self.standings = vec![Standing::default(); self.leaves];
        self.scores = vec![UNFIT; self.leaves];
        self.wishes = vec![Wishes::default(); self.leaves];
        self.wished = 0;
        self.winners = vec![0; self.leaves];
        self.memo.clear(self.leaves);
        for slot in 0..snapshot.slots() {
            self.look(snapshot, slot);
        }
        for at in (1..self.leaves).rev() {
            self.winners[at] = self.winner(at);
        }
    }

    fn look(&mut self, snapshot: &Snapshot, slot: Slot) {
        self.wished -= usize::from(self.wishes[slot] != Wishes::default());
        let (mut standing, mut score, mut wishes) = (Standing::default(), UNFIT, Wishes::default());
        if let Some(node) = snapshot.at(slot) {
            let taken = taken(snapshot, slot, node, "", &self.shape);
            standing = filter::standing(node, &self.shape);
            wishes = score::wishes(node, &self.shape);
            if standing.is_open && filter::has_room(node, &taken, &self.shape) {
                score = score::score(node, &self.shape, &self.spread);
            }
        }
        self.wished += usize::from(wishes != Wishes::default());
        (self.standings[slot], self.scores[slot], self.wishes[slot]) = (standing, score, wishes);
    }

    fn slot_below(&self, at: usize) -> usize {
        if at >= self.leaves { at - self.leaves } else { self.winners[at] as usize }
    }

    /// Of equals the slot with the lower number.
    fn winner(&self, at: usize) -> u32 {
        let (left, right) = (self.slot_below(2 * at), self.slot_below(2 * at + 1));
        let better = if self.scores[right] > self.scores[left] { right } else { left };
        u32::try_from(better).unwrap_or(0)
    }

    fn climb(&mut self, slot: Slot) {
        let mut at = (slot + self.leaves) / 2;
        while at > 0 {
            self.winners[at] = self.winner(at);
            at /= 2;
        }
    }

    /// The best node that fits, where nothing but the nodes themselves counts.
    pub(crate) fn best(&self) -> Option<Slot> {
        let slot = self.winners[1] as usize;
        (self.scores[slot] != UNFIT).then_some(slot)
    }

    /// Whether the nodes themselves are all that counts.
    pub(crate) fn is_plain(&self) -> bool {
        self.wished == 0
    }

    /// Whether a node fits, and how good it is.
    pub(crate) fn score(&self, slot: Slot) -> Option<i64> {
        self.scores.get(slot).copied().filter(|score| *score != UNFIT)
    }

    pub(crate) fn wishes(&self, slot: Slot) -> Wishes {
        self.wishes.get(slot).copied().unwrap_or_default()
    }

    pub(crate) fn standing(&self, slot: Slot) -> Standing {
        self.standings.get(slot).copied().unwrap_or_default()
    }
}

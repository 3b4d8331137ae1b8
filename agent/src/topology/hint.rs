//! Where the machine could give a container something: sets of NUMA nodes, and whether it would be as close together as it can
//! be. Pure.

use std::collections::BTreeSet;
use std::ops::BitAnd;

/// A set of NUMA nodes, by the kernel's numbers below 64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nodes(u64);

impl Nodes {
    /// One, if its number can be told.
    pub(crate) fn one(number: i64) -> Option<Self> {
        u32::try_from(number).ok().and_then(|number| 1_u64.checked_shl(number)).map(Self)
    }

    /// How many there are.
    pub(crate) fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether both have some.
    pub(crate) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Fewer, or as many of lower numbers.
    pub(super) fn is_narrower(self, other: Self) -> bool {
        (self.count(), self.0) < (other.count(), other.0)
    }

    /// All that can be chosen of these, but nothing at all.
    fn choices(self) -> impl Iterator<Item = Self> {
        // From one choice to the next lower number that has no other bits.
        std::iter::successors(Some(self.0), move |last| Some((last - 1) & self.0).filter(|next| *next != 0))
            .take_while(|own| *own != 0)
            .map(Self)
    }
}

impl BitAnd for Nodes {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl FromIterator<Nodes> for Nodes {
    fn from_iter<T: IntoIterator<Item = Nodes>>(all: T) -> Self {
        Self(all.into_iter().fold(0, |sum, own| sum | own.0))
    }
}

/// Where something could be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hint {
    /// `None`: anywhere.
    pub(crate) nodes: Option<Nodes>,
    /// It could not be closer together.
    pub(crate) is_preferred: bool,
}

/// What there is of something that is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Supply {
    /// Where all of it is, whoever has it.
    pub(crate) all: Vec<Nodes>,
    /// Where that is which nobody has.
    pub(crate) free: Vec<Nodes>,
    /// Where that is which the pod has already and is to use again.
    pub(crate) reused: Vec<Nodes>,
}

impl Supply {
    /// The smallest number of nodes that have so many, whoever has them.
    fn least(&self, machine: Nodes, count: usize) -> u32 {
        let in_reach = |nodes: Nodes| self.all.iter().filter(|own| own.meets(nodes)).count();
        let enough = machine.choices().filter(|nodes| in_reach(*nodes) >= count);
        enough.map(Nodes::count).min().unwrap_or_else(|| machine.count())
    }

    /// Every set of nodes that can give so many. `is_close` tells of one whether it is as good as it can be, where the least
    /// number of nodes is known.
    pub(crate) fn hints(&self, machine: Nodes, count: usize, is_close: impl Fn(Nodes, u32) -> bool) -> Vec<Hint> {
        let least = self.least(machine, count);
        let can = |nodes: &Nodes| {
            let free = self.free.iter().filter(|own| own.meets(*nodes)).count();
            self.reused.iter().all(|own| own.meets(*nodes)) && free + self.reused.len() >= count
        };
        let mut found: Vec<Nodes> = machine.choices().filter(can).collect();
        found.sort_by_key(|nodes| (nodes.count(), *nodes));
        let hint = |nodes: Nodes| Hint { nodes: Some(nodes), is_preferred: is_close(nodes, least) };
        found.into_iter().map(hint).collect()
    }
}

/// The hints of each thing that is asked for, by what is known of it: `None` where it does not matter.
pub(crate) type Hints = Vec<Option<Vec<Hint>>>;

/// All ways to take one of each, put together: the nodes that all of them share, preferred if all are.
pub(super) fn combine(machine: Nodes, lists: &[Vec<Hint>]) -> BTreeSet<(Nodes, bool)> {
    let start = BTreeSet::from([(machine, true)]);
    // Step by step, so that many lists do not multiply: there are not more results than sets of nodes.
    lists.iter().fold(start, |so_far, list| {
        let with = |hint: Hint| {
            let nodes = hint.nodes.unwrap_or(machine);
            so_far.iter().map(move |(own, is_preferred)| (*own & nodes, *is_preferred && hint.is_preferred))
        };
        list.iter().copied().flat_map(with).filter(|(nodes, _)| nodes.count() > 0).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(numbers: &[i64]) -> Nodes {
        numbers.iter().filter_map(|own| Nodes::one(*own)).collect()
    }

    #[test]
    fn the_fewest_nodes_that_could_ever_do_are_preferred() {
        let machine = nodes(&[0, 1]);
        let on = |counts: [usize; 2]| -> Vec<Nodes> {
            counts.into_iter().enumerate().flat_map(|(node, count)| vec![nodes(&[node as i64]); count]).collect()
        };
        let hints = |free: [usize; 2], reused: Vec<Nodes>, count: usize| -> Vec<(Nodes, bool)> {
            let supply = Supply { all: on([4, 4]), free: on(free), reused };
            let all = supply.hints(machine, count, |nodes, least| nodes.count() == least);
            all.into_iter().filter_map(|hint| Some((hint.nodes?, hint.is_preferred))).collect()
        };
        let (first, second, both) = (nodes(&[0]), nodes(&[1]), machine);
        assert_eq!(hints([4, 4], vec![], 2), [(first, true), (second, true), (both, false)]);
        assert_eq!(hints([1, 4], vec![], 2), [(second, true), (both, false)]);
        assert_eq!(hints([1, 1], vec![], 2), [(both, false)], "one node would do if others had less");
        assert_eq!(hints([4, 4], vec![], 6), [(both, true)]);
        assert_eq!(hints([1, 4], vec![first], 2), [(first, true), (both, false)], "what is there is used again");
        assert_eq!(hints([1, 1], vec![], 3), []);
        assert_eq!((Nodes::one(64), Nodes::one(-1)), (None, None));
    }
}

//! What the containers of one pod are given, container by container, before it is written down: each of a Guaranteed pod that
//! asks for whole processors has a set of its own, and what an init container had is the first that later ones get. Pure.

use std::collections::BTreeMap;

use agent_pod::facts::Role;

use super::choose::choose;
use super::options::Options;
use super::set::CpuSet;
use super::topology::{Place, Topology};
use crate::topology::{Hint, Nodes, Supply};

/// Why a container is not given processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CpuError {
    /// There are not as many left.
    TooFew { requested: usize, available: usize },
    /// It asks for parts of cores, and whole ones are given only.
    PartOfCore { requested: usize, per_core: usize },
    /// There are not enough cores left that are whole.
    TooFewCores { requested: usize, available: usize, per_core: usize },
}

impl CpuError {
    /// The reason of a pod that is refused for it, if it has one of its own.
    pub(crate) fn reason(self) -> Option<&'static str> {
        match self {
            Self::TooFew { .. } => None,
            Self::PartOfCore { .. } | Self::TooFewCores { .. } => Some("SMTAlignmentError"),
        }
    }
}

impl std::fmt::Display for CpuError {
    /// The kubelet's words.
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooFew { requested, available } => {
                write!(to, "not enough cpus available to satisfy request: requested={requested}, available={available}")
            }
            Self::PartOfCore { requested, per_core } => {
                write!(to, "SMT Alignment Error: requested {requested} cpus not multiple cpus per core = {per_core}")
            }
            Self::TooFewCores { requested, available, per_core } => write!(
                to,
                "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {available}, requested \
                 CPUs = {requested}, CPUs per core = {per_core}"
            ),
        }
    }
}

/// How processors are given out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) topology: &'a Topology,
    pub(super) options: Options,
}

/// What a pod has so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Draft {
    /// Nobody's.
    free: CpuSet,
    /// What init containers had.
    passed_on: CpuSet,
    pub(super) given: BTreeMap<String, CpuSet>,
}

impl Draft {
    pub(super) fn new(free: CpuSet) -> Self {
        Self { free, ..Self::default() }
    }

    fn usable(&self, rules: Rules<'_>) -> (CpuSet, CpuSet) {
        match rules.options.full_cores_only {
            true => (rules.topology.whole_cores(&self.passed_on), rules.topology.whole_cores(&self.free)),
            false => (self.passed_on.clone(), self.free.clone()),
        }
    }

    /// Where the next container could be given so many.
    pub(super) fn hints(&self, rules: Rules<'_>, count: usize) -> Vec<Hint> {
        let topology = rules.topology;
        let places = |set: &CpuSet| set.iter().filter_map(|cpu| topology.node_of(*cpu)).collect();
        let (reused, free) = self.usable(rules);
        let supply = Supply { all: places(&topology.all()), free: places(&free), reused: places(&reused) };
        let (machine, sockets) = (topology.nodes(), topology.by(|place| place.socket).len());
        let nodes_per_socket = machine.count().checked_div(u32::try_from(sockets).unwrap_or(0)).unwrap_or(0);
        let is_close = |nodes: Nodes, least: u32| {
            let on_fewest_sockets =
                || nodes_per_socket > 0 && topology.sockets(nodes).count() == least.div_ceil(nodes_per_socket) as usize;
            nodes.count() == least || rules.options.align_by_socket && on_fewest_sockets()
        };
        supply.hints(machine, count, is_close)
    }

    /// Gives a container so many, from these nodes first.
    pub(super) fn give(
        &mut self,
        rules: Rules<'_>,
        (name, role): (&str, Role),
        count: usize,
        nodes: Option<Nodes>,
    ) -> Result<(), CpuError> {
        let (topology, options) = (rules.topology, rules.options);
        let (reused, free) = self.usable(rules);
        let per_core = topology.threads_per_core();
        if options.full_cores_only && per_core > 0 && !count.is_multiple_of(per_core) {
            return Err(CpuError::PartOfCore { requested: count, per_core });
        }
        let available = reused.len() + free.len();
        if available < count {
            return Err(match options.full_cores_only {
                true => CpuError::TooFewCores { requested: count, available, per_core },
                false => CpuError::TooFew { requested: count, available },
            });
        }
        let sockets: Vec<i64> = nodes.map(|nodes| topology.sockets(nodes).collect()).unwrap_or_default();
        let is_aligned = |place: &Place| match nodes {
            None => true,
            Some(_) if options.align_by_socket => sockets.contains(&place.socket),
            Some(nodes) => Nodes::one(place.node).is_some_and(|own| own.meets(nodes)),
        };
        let aligned = |cpu: &usize| topology.0.get(cpu).is_some_and(is_aligned);
        let part = |of: &CpuSet, is_near: bool| of.iter().copied().filter(|cpu| aligned(cpu) == is_near).collect();
        let parts: [CpuSet; 4] = [part(&reused, true), part(&free, true), part(&reused, false), part(&free, false)];
        let mut set = CpuSet::new();
        for part in parts {
            let taken = choose(topology, options, &part, part.len().min(count - set.len()));
            set.extend(taken.unwrap_or_default());
        }
        self.free.retain(|cpu| !set.contains(cpu));
        match role {
            Role::Init => self.passed_on.extend(&set),
            Role::Sidecar | Role::App | Role::Ephemeral => self.passed_on.retain(|cpu| !set.contains(cpu)),
        }
        self.given.insert(name.to_owned(), set);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::set::{parse, show};
    use super::super::topology::made;
    use super::*;

    fn nodes(numbers: &[i64]) -> Option<Nodes> {
        Some(numbers.iter().filter_map(|own| Nodes::one(*own)).collect())
    }

    fn shown(draft: &Draft, name: &str) -> String {
        show(&draft.given[name])
    }

    #[test]
    fn processors_come_from_the_nodes_that_were_settled_on_and_then_from_others() {
        // Two nodes of two cores of two threads: 0-3 and 4-7.
        let machine = made([2, 1, 2, 2]);
        let rules = Rules { topology: &machine, options: Options::default() };
        let mut draft = Draft::new(parse("1-7").unwrap());
        draft.give(rules, ("a", Role::App), 2, nodes(&[0])).unwrap();
        assert_eq!(shown(&draft, "a"), "2-3");
        draft.give(rules, ("b", Role::App), 2, nodes(&[0])).unwrap();
        assert_eq!(shown(&draft, "b"), "1,4", "there is no more there");
        draft.give(rules, ("c", Role::App), 1, nodes(&[1])).unwrap();
        assert_eq!(shown(&draft, "c"), "5");
        let none = draft.give(rules, ("d", Role::App), 4, None).unwrap_err();
        assert_eq!(none.to_string(), "not enough cpus available to satisfy request: requested=4, available=2");
        assert!(none.reason().is_none() && !draft.given.contains_key("d"));
    }

    #[test]
    fn what_an_init_container_had_is_used_again_and_hints_hold_on_to_it() {
        let machine = made([2, 1, 2, 2]);
        let rules = Rules { topology: &machine, options: Options::default() };
        let mut draft = Draft::new(machine.all());
        draft.give(rules, ("i", Role::Init), 2, nodes(&[1])).unwrap();
        let hints = draft.hints(rules, 3);
        let told: Vec<_> = hints.iter().map(|hint| (hint.nodes, hint.is_preferred)).collect();
        assert_eq!(told, [(nodes(&[1]), true), (nodes(&[0, 1]), false)]);
        draft.give(rules, ("s", Role::Sidecar), 1, nodes(&[1])).unwrap();
        draft.give(rules, ("a", Role::App), 2, nodes(&[1])).unwrap();
        assert_eq!(["i", "s", "a"].map(|name| shown(&draft, name)), ["4-5", "4", "5-6"]);
    }

    #[test]
    fn whole_cores_are_all_that_is_given_where_that_is_asked_for() {
        let machine = made([1, 1, 4, 2]);
        let options = Options { full_cores_only: true, ..Options::default() };
        let rules = Rules { topology: &machine, options };
        let mut draft = Draft::new(parse("1-7").unwrap());
        let error = draft.give(rules, ("a", Role::App), 3, None).unwrap_err();
        assert_eq!(error.reason(), Some("SMTAlignmentError"));
        assert_eq!(error.to_string(), "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2");
        draft.give(rules, ("a", Role::App), 4, None).unwrap();
        assert_eq!(shown(&draft, "a"), "2-5");
        let error = draft.give(rules, ("b", Role::App), 4, None).unwrap_err();
        assert_eq!(error, CpuError::TooFewCores { requested: 4, available: 2, per_core: 2 });
    }

    #[test]
    fn what_is_on_one_socket_may_count_as_close() {
        // Two sockets of two nodes of two processors.
        let machine = made([2, 2, 2, 1]);
        let close = |align_by_socket| -> Vec<Nodes> {
            let options = Options { align_by_socket, ..Options::default() };
            let hints = Draft::new(parse("1-3,5-7").unwrap()).hints(Rules { topology: &machine, options }, 2);
            hints.into_iter().filter(|hint| hint.is_preferred).filter_map(|hint| hint.nodes).collect()
        };
        let of = |all: &[&[i64]]| all.iter().filter_map(|one| nodes(one)).collect::<Vec<_>>();
        assert_eq!(close(false), of(&[&[1], &[3]]));
        assert_eq!(close(true), of(&[&[1], &[3], &[0, 1], &[2, 3]]));
        let options = Options { align_by_socket: true, ..Options::default() };
        let mut draft = Draft::new(parse("1-3,5-7").unwrap());
        draft.give(Rules { topology: &machine, options }, ("a", Role::App), 3, nodes(&[0])).unwrap();
        assert_eq!(shown(&draft, "a"), "1-3", "beside it is as good");
    }
}

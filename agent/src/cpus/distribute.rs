//! Spreads what one NUMA node cannot give evenly over as few nodes as possible (`distribute-cpus-across-numa`). The rules are
//! the kubelet's (`takeByTopologyNUMADistributed`). Pure.

use super::choose::pack;
use super::options::Options;
use super::set::CpuSet;
use super::topology::Topology;

/// With more nodes than that not all ways to spread are looked at: what is asked for is packed.
const NODES_MAX: usize = 12;

/// So many of the free processors. `None`: one node has them all, or they cannot be spread evenly.
pub(super) fn distribute(topology: &Topology, options: Options, free: &CpuSet, count: usize) -> Option<CpuSet> {
    let group = if options.full_cores_only { topology.threads_per_core() } else { 1 };
    let of_node = |node: CpuSet| node.intersection(free).copied().collect::<CpuSet>();
    let nodes: Vec<CpuSet> = topology.by(|place| place.node).into_values().map(of_node).collect();
    let is_close = nodes.iter().any(|node| node.len() >= count);
    if is_close || group == 0 || !count.is_multiple_of(group) || nodes.len() > NODES_MAX {
        return None;
    }
    for size in 2..=nodes.len() {
        let choices = (1_u32..1 << nodes.len()).filter(|choice| choice.count_ones() as usize == size);
        let plans = choices.filter_map(|choice| plan(&nodes, choice, count, group));
        // Of equal ones that with the lowest nodes.
        if let Some(plan) = plans.min_by_key(|plan| unevenness(&nodes, plan)) {
            let parts = nodes.iter().zip(plan).map(|(node, count)| pack(topology, options, node, count));
            return parts.collect::<Option<Vec<CpuSet>>>().map(|parts| parts.into_iter().flatten().collect());
        }
    }
    None
}

/// How many each node gives; `None` where these nodes cannot.
fn plan(nodes: &[CpuSet], choice: u32, count: usize, group: usize) -> Option<Vec<usize>> {
    let is_chosen = |node: usize| choice >> node & 1 == 1;
    let each = count / choice.count_ones() as usize / group * group;
    let mut plan: Vec<usize> = (0..nodes.len()).map(|node| if is_chosen(node) { each } else { 0 }).collect();
    if nodes.iter().zip(&plan).any(|(node, given)| node.len() < *given) {
        return None;
    }
    let mut rest = count - plan.iter().sum::<usize>();
    while rest > 0 {
        let left = |node: usize| nodes[node].len() - plan[node];
        let most = (0..nodes.len()).filter(|node| is_chosen(*node) && left(*node) >= group);
        // What is left over goes to the nodes that keep the most, each a group in turn.
        let next = most.min_by_key(|node| (plan[*node], std::cmp::Reverse(left(*node)), *node))?;
        plan[next] += group;
        rest -= group;
    }
    Some(plan)
}

/// How unlike the nodes would be afterwards: the sum of squares of what they have left, which is least where all have the same.
fn unevenness(nodes: &[CpuSet], plan: &[usize]) -> usize {
    nodes.iter().zip(plan).map(|(node, given)| (node.len() - given).pow(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::choose::choose;
    use super::super::set::{parse, show};
    use super::super::topology::made;
    use super::*;

    #[test]
    fn what_one_node_cannot_give_comes_from_as_few_as_possible_evenly() {
        // Four nodes of four cores of two threads: 0-7, 8-15, 16-23, 24-31.
        let machine = made([2, 2, 4, 2]);
        let of = |full_cores_only, free: &str, count| {
            let options = Options { distribute: true, full_cores_only, ..Options::default() };
            choose(&machine, options, &parse(free).unwrap(), count).map(|set| show(&set))
        };
        assert_eq!(of(false, "0-31", 8).as_deref(), Some("0-7"), "one node has them");
        assert_eq!(of(false, "0-31", 12).as_deref(), Some("0-5,8-13"));
        assert_eq!(of(false, "0-31", 13).as_deref(), Some("0-6,8-13"));
        assert_eq!(of(true, "0-31", 14).as_deref(), Some("0-13"), "by whole cores");
        assert_eq!(of(false, "0-31", 18).as_deref(), Some("0-5,8-13,16-21"), "two nodes do not have them");
        assert_eq!(
            of(false, "4-31", 12).as_deref(),
            Some("8-13,16-21"),
            "those that have the most are as like the others"
        );
        assert_eq!(of(false, "0-1,8-15,16-17,24-25", 10).as_deref(), Some("0-1,8-11,16-17,24-25"), "as even as can be");
        assert_eq!(of(false, "0-3", 5), None);
    }
}

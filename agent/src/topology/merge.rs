//! What the hints for all that a container asks for come to, and whether the policy takes that. The rules are the kubelet's
//! (`pkg/kubelet/cm/topologymanager`): preferred before others, and then as few nodes as possible. Pure.

use super::Policy;
use super::hint::{Hint, Hints, Nodes, combine};

/// The nodes that a container is to be given things of, `None` for any; `Err` where the policy takes none of the choices.
pub(super) fn settle(policy: Policy, machine: Nodes, hints: Hints) -> Result<Option<Nodes>, ()> {
    let anywhere = |is_preferred| Hint { nodes: None, is_preferred };
    let mut lists: Vec<Vec<Hint>> = hints
        .into_iter()
        .map(|list| match list {
            None => vec![anywhere(true)],
            Some(list) if list.is_empty() => vec![anywhere(false)],
            Some(list) => list,
        })
        .collect();
    if policy == Policy::SingleNumaNode {
        let is_single = |hint: &Hint| hint.is_preferred && hint.nodes.is_none_or(|nodes| nodes.count() == 1);
        lists.iter_mut().for_each(|list| list.retain(is_single));
    }
    let (nodes, is_preferred) = best(machine, &lists);
    let is_taken = match policy {
        Policy::None | Policy::BestEffort => true,
        Policy::Restricted | Policy::SingleNumaNode => is_preferred,
    };
    match is_taken {
        // All of several nodes are none in particular.
        true if policy == Policy::SingleNumaNode && nodes == machine && machine.count() > 1 => Ok(None),
        true => Ok(Some(nodes)),
        false => Err(()),
    }
}

fn best(machine: Nodes, lists: &[Vec<Hint>]) -> (Nodes, bool) {
    // What is not preferred is best where it has as many nodes as the thing that needs the most of them.
    let fewest = |list: &Vec<Hint>| list.iter().filter_map(|hint| hint.nodes).map(Nodes::count).min();
    let wanted = lists.iter().filter_map(fewest).max().unwrap_or(0);
    let choices = combine(machine, lists).into_iter();
    choices.reduce(|best, next| if is_better(next, best, wanted) { next } else { best }).unwrap_or((machine, false))
}

fn is_better(next: (Nodes, bool), best: (Nodes, bool), wanted: u32) -> bool {
    if next.1 != best.1 {
        return next.1;
    }
    let narrower = next.0.is_narrower(best.0);
    if next.1 {
        return narrower;
    }
    let far = |count: u32| (count > wanted, count.abs_diff(wanted));
    let (own, other) = (far(next.0.count()), far(best.0.count()));
    if own == other { narrower } else { own < other }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(bits: &str) -> Nodes {
        let one = |(number, bit): (usize, char)| Nodes::one(number as i64).filter(|_| bit == '1');
        bits.chars().rev().enumerate().filter_map(one).collect()
    }

    /// `10+` is node 1 and preferred, `11` both and not.
    fn list(text: &str) -> Option<Vec<Hint>> {
        let hint =
            |text: &str| Hint { nodes: Some(nodes(text.trim_end_matches('+'))), is_preferred: text.ends_with('+') };
        (text != "any").then(|| text.split_whitespace().map(hint).collect())
    }

    fn settled(policy: Policy, machine: &str, lists: &[&str]) -> Result<Option<Nodes>, ()> {
        settle(policy, nodes(machine), lists.iter().map(|text| list(text)).collect())
    }

    const FREE: &str = "01+ 10+ 11";

    #[test]
    fn what_all_can_share_is_chosen_narrowest_first() {
        use Policy::{BestEffort, Restricted, SingleNumaNode};
        for (lists, best_effort, restricted, single) in [
            (&[FREE, "10+ 11"][..], Ok("10"), Ok("10"), Ok("10")),
            (&["any", "any"], Ok("11"), Ok("11"), Ok("any")),
            (&[], Ok("11"), Ok("11"), Ok("any")),
            (&[FREE, "any"], Ok("01"), Ok("01"), Ok("01")),
            // They have nothing in common but a choice that is not preferred.
            (&["01+ 11", "10+ 11"], Ok("10"), Err(()), Err(())),
            // It takes both nodes, and could not take fewer.
            (&["11+", FREE], Ok("01"), Ok("01"), Err(())),
            (&["11+", "11+"], Ok("11"), Ok("11"), Err(())),
            // It cannot be had at all.
            (&["", FREE], Ok("01"), Err(()), Err(())),
        ] {
            let told = |told: Result<&str, ()>| told.map(|bits| (bits != "any").then(|| nodes(bits)));
            for (policy, expected) in [(BestEffort, best_effort), (Restricted, restricted), (SingleNumaNode, single)] {
                let is_close = |own: Result<Option<Nodes>, ()>| own == told(expected);
                let own = settled(policy, "11", lists);
                // Two choices that are as bad as each other: either will do.
                let either = lists.contains(&"01+ 11") && own == Ok(Some(nodes("01")));
                assert!(is_close(own) || either, "{policy:?} of {lists:?}: {own:?}");
            }
        }
    }

    #[test]
    fn a_machine_of_one_node_has_that_one() {
        assert_eq!(settled(Policy::SingleNumaNode, "1", &["1+"]), Ok(Some(nodes("1"))));
        assert_eq!(settled(Policy::SingleNumaNode, "1", &[""]), Err(()));
    }

    #[test]
    fn what_is_not_preferred_is_as_wide_as_it_has_to_be() {
        let settled = |lists: &[&str]| settled(Policy::BestEffort, "1111", lists).unwrap().unwrap();
        assert_eq!(settled(&["0011 1111", "0001 0011 1111"]), nodes("0011"));
        assert_eq!(settled(&["0001+ 0011 0111 1111", "0110 1111"]), nodes("0011"));
        assert!(is_better((nodes("0001"), false), (nodes("0111"), false), 2), "fewer rather than more");
        assert!(is_better((nodes("0011"), false), (nodes("0001"), false), 2));
        assert_eq!(settled(&["0001+ 0010+ 0011", "0110+ 0111"]), nodes("0010"));
    }

    #[test]
    fn many_lists_of_many_hints_are_settled_at_once() {
        let machine: Nodes = (0..8).filter_map(Nodes::one).collect();
        let all: Vec<Hint> =
            super::super::hint::Supply { all: vec![machine; 8], free: vec![machine; 8], reused: vec![] }.hints(
                machine,
                1,
                |nodes, least| nodes.count() == least,
            );
        assert_eq!(all.len(), 255);
        let many = vec![Some(all); 40];
        assert_eq!(settle(Policy::SingleNumaNode, machine, many), Ok(Nodes::one(0)));
    }
}

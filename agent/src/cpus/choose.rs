//! Which processors a container gets: whole NUMA nodes and sockets, then whole cores, then threads of cores that are in use
//! already, so that as much as possible stays whole for others. The order is the kubelet's (`takeByTopologyNUMAPacked`). Pure.

use super::distribute::distribute;
use super::options::Options;
use super::set::CpuSet;
use super::topology::{Place, Topology};

/// So many of the free processors; `None`: there are not as many.
pub(super) fn choose(topology: &Topology, options: Options, free: &CpuSet, count: usize) -> Option<CpuSet> {
    let spread = || if options.distribute { distribute(topology, options, free, count) } else { None };
    spread().or_else(|| pack(topology, options, free, count))
}

/// What keeps processors together, the widest first: nodes that hold sockets, or sockets that hold nodes.
fn levels(topology: &Topology) -> [fn(Place) -> i64; 2] {
    let [node, socket]: [fn(Place) -> i64; 2] = [|place| place.node, |place| place.socket];
    if topology.by(node).len() <= topology.by(socket).len() { [node, socket] } else { [socket, node] }
}

/// As close together as possible.
pub(super) fn pack(topology: &Topology, options: Options, free: &CpuSet, count: usize) -> Option<CpuSet> {
    let mut chosen = CpuSet::new();
    let levels = levels(topology);
    for level in levels {
        take_whole(&mut chosen, topology.by(level).into_values(), free, count, |_, _| ());
    }
    if options.prefer_cache {
        take_by_cache(&mut chosen, topology, free, count);
    }
    // On each level a place that the container is in already, then the one that has the least left.
    let order = |chosen: &CpuSet, cpu: usize| {
        levels.map(|level| {
            let own = topology.0.get(&cpu).map(|place| level(*place));
            let beside =
                |set: &CpuSet| set.iter().filter(|cpu| topology.0.get(cpu).map(|place| level(*place)) == own).count();
            (usize::from(beside(chosen) == 0), beside(free))
        })
    };
    let cores = topology.by(Place::core);
    take_whole(&mut chosen, cores.clone().into_values(), free, count, |core, chosen| {
        core.first().map(|cpu| order(chosen, *cpu))
    });
    while chosen.len() < count {
        let left = free.difference(&chosen);
        let next = left.min_by_key(|cpu| {
            let core = topology.0.get(cpu).and_then(|place| cores.get(&place.core()));
            let siblings = core.map_or(0, |core| core.iter().filter(|own| free.contains(own)).count());
            (order(&chosen, **cpu), siblings, **cpu)
        });
        let next = *next?;
        chosen.insert(next);
    }
    Some(chosen)
}

/// Takes groups all of whose processors are free, as long as one is not too much.
fn take_whole<K: Ord>(
    chosen: &mut CpuSet,
    groups: impl Iterator<Item = CpuSet>,
    free: &CpuSet,
    count: usize,
    order: impl Fn(&CpuSet, &CpuSet) -> K,
) {
    let mut whole: Vec<CpuSet> = groups.filter(|group| group.is_subset(free) && group.is_disjoint(chosen)).collect();
    loop {
        let fits = |group: &&CpuSet| group.len() + chosen.len() <= count;
        let best = whole.iter().filter(fits).min_by_key(|group| (order(group, chosen), group.first().copied()));
        let Some(best) = best.cloned() else { return };
        whole.retain(|group| *group != best);
        chosen.extend(best);
    }
}

/// Takes whole caches, and then, of the cache that has the least left beside it, the whole cores that are missing.
fn take_by_cache(chosen: &mut CpuSet, topology: &Topology, free: &CpuSet, count: usize) {
    let caches = topology.by(|place| place.cache);
    take_whole(chosen, caches.clone().into_values(), free, count, |_, _| ());
    let missing = count - chosen.len();
    let left = |cache: &CpuSet| {
        let left: CpuSet = cache.iter().filter(|cpu| free.contains(cpu) && !chosen.contains(cpu)).copied().collect();
        topology.whole_cores(&left)
    };
    let enough = caches.into_values().map(|cache| left(&cache)).filter(|left| missing > 0 && left.len() >= missing);
    if let Some(cache) = enough.min_by_key(|left| (left.len(), left.first().copied())) {
        let cores = topology.by(Place::core).into_values().filter(|core| core.is_subset(&cache));
        take_whole(chosen, cores, free, count, |_, _| ());
    }
}

#[cfg(test)]
mod tests {
    use super::super::set::{parse, show};
    use super::super::topology::made;
    use super::*;

    fn packed(machine: [usize; 4], options: Options, free: &str, count: usize) -> Option<String> {
        choose(&made(machine), options, &parse(free).unwrap(), count).map(|set| show(&set))
    }

    #[test]
    fn whole_sockets_and_cores_come_first_and_scraps_before_whole_ones() {
        // Two sockets of two cores of two threads: 0-3 and 4-7, where 0 and 1 are one core.
        let of = |free: &str, count| packed([2, 1, 2, 2], Options::default(), free, count);
        for (free, count, chosen) in [
            ("0-7", 4, "0-3"),
            ("1-7", 4, "4-7"),
            ("0-7", 5, "0-4"),
            ("0-7", 2, "0-1"),
            ("1-7", 2, "2-3"),
            ("1-7", 1, "1"),
            ("1-7", 3, "1-3"),
            ("0-3,6-7", 2, "6-7"),
            ("1,3,5,7", 2, "1,3"),
            ("0-7", 8, "0-7"),
        ] {
            assert_eq!(of(free, count).as_deref(), Some(chosen), "{count} of {free}");
        }
        assert_eq!(of("0-2", 4), None);
    }

    #[test]
    fn a_socket_of_several_nodes_keeps_them_together() {
        // Two sockets of two nodes of two cores: 0-3, 4-7 and 8-11, 12-15.
        let of = |free: &str, count| packed([2, 2, 2, 2], Options::default(), free, count);
        assert_eq!(of("0-15", 4).as_deref(), Some("0-3"));
        assert_eq!(of("2-15", 4).as_deref(), Some("4-7"), "a whole node");
        assert_eq!(of("2-15", 8).as_deref(), Some("8-15"), "a whole socket");
        assert_eq!(of("2-15", 6).as_deref(), Some("2-7"), "a node, and the rest beside it");
    }

    #[test]
    fn processors_that_share_a_cache_come_before_others() {
        // One socket, one node, whose caches are 0-3, 4-7 and 8-11.
        let mut machine = made([1, 1, 6, 2]);
        machine.0.iter_mut().for_each(|(cpu, place)| place.cache = (cpu / 4) as i64);
        let of = |prefer_cache, free: &str, count| {
            let options = Options { prefer_cache, ..Options::default() };
            choose(&machine, options, &parse(free).unwrap(), count).map(|set| show(&set))
        };
        assert_eq!(of(false, "2-11", 4).as_deref(), Some("2-5"));
        assert_eq!(of(true, "2-11", 4).as_deref(), Some("4-7"));
        assert_eq!(of(true, "0-3,6-11", 2).as_deref(), Some("6-7"), "whole caches stay whole");
        assert_eq!(of(true, "2-11", 6).as_deref(), Some("2-7"));
        assert_eq!(of(true, "2-3,6-7,10-11", 6).as_deref(), Some("2-3,6-7,10-11"), "if it must be");
    }
}

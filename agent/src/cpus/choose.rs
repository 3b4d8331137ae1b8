//! Which processors a container gets: whole sockets, then whole cores, then threads of cores that are in use already, so
//! that as much as possible stays whole for others. The order is the kubelet's (`takeByTopologyNUMAPacked`). Pure.

use super::set::CpuSet;
use super::topology::Topology;

/// So many of the free processors; `None`: there are not as many.
pub(super) fn choose(topology: &Topology, free: &CpuSet, count: usize) -> Option<CpuSet> {
    let mut chosen = CpuSet::new();
    let sockets = topology.by(|place| place.socket);
    take_whole(&mut chosen, sockets.into_values(), free, count, |_, _| (0, 0));
    let fullness = |free: &CpuSet, chosen: &CpuSet, cpu: usize| {
        let socket = topology.0.get(&cpu).map(|place| place.socket);
        let beside = |set: &CpuSet| set.iter().filter(|own| topology.0.get(own).map(|p| p.socket) == socket).count();
        // A socket that the container is on already, then the one that has the least left.
        (usize::from(beside(chosen) == 0), beside(free))
    };
    let cores = topology.by(|place| place);
    take_whole(&mut chosen, cores.clone().into_values(), free, count, |core, chosen| {
        core.first().map_or((0, 0), |cpu| fullness(free, chosen, *cpu))
    });
    while chosen.len() < count {
        let left = free.difference(&chosen);
        let next = left.min_by_key(|cpu| {
            let core = topology.0.get(cpu).and_then(|place| cores.get(place));
            let siblings = core.map_or(0, |core| core.iter().filter(|own| free.contains(own)).count());
            (fullness(free, &chosen, **cpu), siblings, **cpu)
        });
        let next = *next?;
        chosen.insert(next);
    }
    Some(chosen)
}

/// Takes groups all of whose processors are free, as long as one is not too much.
fn take_whole(
    chosen: &mut CpuSet,
    groups: impl Iterator<Item = CpuSet>,
    free: &CpuSet,
    count: usize,
    order: impl Fn(&CpuSet, &CpuSet) -> (usize, usize),
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

#[cfg(test)]
mod tests {
    use super::super::set::{parse, show};
    use super::super::topology::Place;
    use super::*;

    /// Two sockets of two cores of two threads: 0-3 and 4-7, where 0 and 1 are one core.
    fn machine() -> Topology {
        let place = |cpu: usize| Place { socket: (cpu / 4) as i64, core: (cpu / 2 % 2) as i64 };
        Topology((0..8).map(|cpu| (cpu, place(cpu))).collect())
    }

    #[test]
    fn whole_sockets_and_cores_come_first_and_scraps_before_whole_ones() {
        let of = |free: &str, count| choose(&machine(), &parse(free).unwrap(), count).map(|set| show(&set));
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
}

//! Which processors are threads of one core, and which cores share a socket, a NUMA node, a cache. Kernel documentation, "CPU
//! topology info"; `Documentation/ABI/stable/sysfs-devices-system-cpu`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::set::{CpuSet, parse};
use crate::topology::Nodes;

/// The cache that the processors of a part of a socket share.
const SHARED_CACHE_LEVEL: i64 = 3;

/// Where a processor is. A core's number counts in its socket alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) socket: i64,
    pub(super) core: i64,
    /// NUMA node.
    pub(super) node: i64,
    /// The lowest processor that shares its outermost cache.
    pub(super) cache: i64,
}

impl Place {
    /// What tells its core from all others.
    pub(super) fn core(self) -> (i64, i64) {
        (self.socket, self.core)
    }
}

/// The processors of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Topology(pub(super) BTreeMap<usize, Place>);

fn number(path: &Path) -> Option<i64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn names(dir: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// The lowest processor of those that share a cache with this one.
fn cache(dir: &Path) -> Option<i64> {
    let cache = dir.join("cache");
    let mut all = names(&cache).filter(|name| name.starts_with("index")).map(|name| cache.join(name));
    let shared = all.find(|index| number(&index.join("level")) == Some(SHARED_CACHE_LEVEL))?;
    let list = parse(&std::fs::read_to_string(shared.join("shared_cpu_list")).ok()?).ok()?;
    list.first().and_then(|cpu| i64::try_from(*cpu).ok())
}

impl Topology {
    /// Of the processors below a directory such as `/sys/devices/system/cpu` that are in use and that `may_use` names.
    pub(super) fn read(dir: &Path, may_use: impl Fn(usize) -> bool) -> Self {
        let place = |name: String| {
            let cpu: usize = name.strip_prefix("cpu")?.parse().ok()?;
            let own = dir.join(&name);
            // A processor that is switched off has none; where there is no number every processor is a core.
            let topology = Some(own.join("topology")).filter(|path| path.is_dir() && may_use(cpu))?;
            let socket = number(&topology.join("physical_package_id")).unwrap_or(0);
            let core = number(&topology.join("core_id")).unwrap_or_else(|| i64::try_from(cpu).unwrap_or(0));
            let node = names(&own).find_map(|name| name.strip_prefix("node")?.parse().ok()).unwrap_or(0);
            // Where no cache is told of, that of a socket is one.
            let cache = cache(&own).unwrap_or(-1 - socket);
            Some((cpu, Place { socket, core, node, cache }))
        };
        Self(names(dir).filter_map(place).collect())
    }

    /// All processors.
    pub(super) fn all(&self) -> CpuSet {
        self.0.keys().copied().collect()
    }

    /// The processors by something of their place.
    pub(super) fn by<K: Ord>(&self, key: impl Fn(Place) -> K) -> BTreeMap<K, CpuSet> {
        let mut groups: BTreeMap<K, CpuSet> = BTreeMap::new();
        for (cpu, place) in &self.0 {
            groups.entry(key(*place)).or_default().insert(*cpu);
        }
        groups
    }

    /// The NUMA node of a processor.
    pub(super) fn node_of(&self, cpu: usize) -> Option<Nodes> {
        Nodes::one(self.0.get(&cpu)?.node)
    }

    /// All NUMA nodes that have processors.
    pub(super) fn nodes(&self) -> Nodes {
        self.0.values().filter_map(|place| Nodes::one(place.node)).collect()
    }

    /// The sockets that have processors of these nodes.
    pub(super) fn sockets(&self, of: Nodes) -> impl Iterator<Item = i64> {
        let is_of = move |place: &Place| Nodes::one(place.node).is_some_and(|own| own.meets(of));
        let all: BTreeSet<i64> = self.0.values().filter(|place| is_of(place)).map(|place| place.socket).collect();
        all.into_iter()
    }

    /// Threads of a core; 0 where there are no processors.
    pub(super) fn threads_per_core(&self) -> usize {
        self.0.len().checked_div(self.by(Place::core).len()).unwrap_or(0)
    }

    /// The processors of these that belong to cores of which all are there.
    pub(super) fn whole_cores(&self, of: &CpuSet) -> CpuSet {
        self.by(Place::core).into_values().filter(|core| core.is_subset(of)).flatten().collect()
    }
}

/// A machine of tests: so many sockets of so many nodes, of so many cores, of so many threads; processors are counted in that
/// order, threads of a core one after the other, and a node has one cache.
#[cfg(test)]
pub(super) fn made([sockets, nodes, cores, threads]: [usize; 4]) -> Topology {
    let of_socket = nodes * cores * threads;
    let place = |cpu: usize| Place {
        socket: (cpu / of_socket) as i64,
        node: (cpu / (cores * threads)) as i64,
        core: (cpu % of_socket / threads) as i64,
        cache: (cpu / (cores * threads)) as i64,
    };
    Topology((0..sockets * of_socket).map(|cpu| (cpu, place(cpu))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_that_are_on_have_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let cpu = |number: usize, socket: &str, core: &str, node: &str, shares: &str| {
            let own = dir.path().join(format!("cpu{number}"));
            let topology = own.join("topology");
            std::fs::create_dir_all(&topology).unwrap();
            std::fs::write(topology.join("physical_package_id"), socket).unwrap();
            std::fs::write(topology.join("core_id"), core).unwrap();
            std::fs::create_dir_all(own.join(node)).unwrap();
            for (index, level, list) in [("index0", "1\n", "0\n"), ("index3", "3\n", shares)] {
                let cache = own.join("cache").join(index);
                std::fs::create_dir_all(&cache).unwrap();
                std::fs::write(cache.join("level"), level).unwrap();
                std::fs::write(cache.join("shared_cpu_list"), list).unwrap();
            }
        };
        cpu(0, "0\n", "4\n", "node0", "0,4-7\n");
        cpu(10, "1\n", "4\n", "node2", "8-11\n");
        cpu(3, "1\n", "0\n", "node1", "3\n");
        std::fs::create_dir_all(dir.path().join("cpu2")).unwrap();
        std::fs::create_dir_all(dir.path().join("cpu11/topology")).unwrap();
        std::fs::create_dir_all(dir.path().join("cpufreq/topology")).unwrap();
        let read = Topology::read(dir.path(), |cpu| cpu != 3);
        let place = |socket, core, node, cache| Place { socket, core, node, cache };
        assert_eq!(read.0, [(0, place(0, 4, 0, 0)), (10, place(1, 4, 2, 8)), (11, place(0, 11, 0, -1))].into());
        assert_eq!(read.by(Place::core).len(), 3, "a core is a socket's");
    }

    #[test]
    fn a_core_is_whole_where_all_its_threads_are() {
        let machine = made([2, 1, 2, 2]);
        assert_eq!((machine.threads_per_core(), Topology::default().threads_per_core()), (2, 0));
        assert_eq!(machine.whole_cores(&parse("0,2-5").unwrap()), parse("2-5").unwrap());
    }
}

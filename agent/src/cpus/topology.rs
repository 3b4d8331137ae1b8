//! Which processors are threads of one core, and which cores share a socket. Kernel documentation, "CPU topology info".

use std::collections::BTreeMap;
use std::path::Path;

use super::set::CpuSet;

/// Where a processor is. A core's number counts in its socket alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) socket: i64,
    pub(super) core: i64,
}

/// The processors of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Topology(pub(super) BTreeMap<usize, Place>);

impl Topology {
    /// Of the processors below a directory such as `/sys/devices/system/cpu` that are in use and that `may_use` names.
    pub(super) fn read(dir: &Path, may_use: impl Fn(usize) -> bool) -> Self {
        let number = |path: &Path| std::fs::read_to_string(path).ok()?.trim().parse::<i64>().ok();
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let place = |entry: std::fs::DirEntry| {
            let cpu: usize = entry.file_name().to_str()?.strip_prefix("cpu")?.parse().ok()?;
            // A processor that is switched off has none; where there is no number every processor is a core.
            let topology = Some(entry.path().join("topology")).filter(|path| path.is_dir() && may_use(cpu))?;
            let socket = number(&topology.join("physical_package_id")).unwrap_or(0);
            let core = number(&topology.join("core_id")).unwrap_or_else(|| i64::try_from(cpu).unwrap_or(0));
            Some((cpu, Place { socket, core }))
        };
        Self(entries.filter_map(place).collect())
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_that_are_on_have_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let cpu = |number: usize, socket: &str, core: &str| {
            let topology = dir.path().join(format!("cpu{number}/topology"));
            std::fs::create_dir_all(&topology).unwrap();
            std::fs::write(topology.join("physical_package_id"), socket).unwrap();
            std::fs::write(topology.join("core_id"), core).unwrap();
        };
        cpu(0, "0\n", "4\n");
        cpu(10, "1\n", "4\n");
        cpu(3, "1\n", "0\n");
        std::fs::create_dir_all(dir.path().join("cpu2")).unwrap();
        std::fs::create_dir_all(dir.path().join("cpufreq/topology")).unwrap();
        let read = Topology::read(dir.path(), |cpu| cpu != 3);
        let place = |socket, core| Place { socket, core };
        assert_eq!(read.0, [(0, place(0, 4)), (10, place(1, 4))].into());
        assert_eq!(read.by(|place| place).len(), 2, "a core is a socket's");
    }
}

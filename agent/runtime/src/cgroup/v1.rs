//! Version 1: one directory per hierarchy.

use std::{
    ffi::CString,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use oci_spec::runtime::LinuxResources;

use super::{
    Cgroup, CgroupError, Hierarchy, Stats, collect_pids, device, field, make_tree, read, read_number,
    remove_common_parent, remove_tree, signal_all, write,
};
use crate::{init::Entrance, plan::CgroupView};

/// A container's group.
#[derive(Debug)]
pub(super) struct Group {
    hierarchies: Vec<Hierarchy>,
    relative: String,
}

impl Group {
    pub(super) fn new(hierarchies: Vec<Hierarchy>, relative: &str) -> Group {
        Group { hierarchies, relative: relative.to_owned() }
    }

    fn directory(&self, controller: &str) -> Option<PathBuf> {
        let hierarchy = self.hierarchies.iter().find(|h| h.controllers.iter().any(|c| c == controller))?;
        Some(hierarchy.mount.join(&self.relative))
    }

    fn need(&self, field: &'static str, controller: &'static str) -> Result<PathBuf, CgroupError> {
        self.directory(controller).ok_or(CgroupError::NoController { field, controller })
    }

    fn state_file(&self) -> Option<PathBuf> {
        Some(self.directory("freezer")?.join("freezer.state"))
    }
}

/// A new cpuset group has no CPUs and takes no process until it is given some: the parent's, which may be as new, or
/// have been made by another process a moment ago.
fn inherit_cpuset(mount: &Path, directory: &Path) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if directory != mount && read(directory.join(file))?.trim().is_empty() {
            let Some(parent) = directory.parent() else { return Ok(()) };
            inherit_cpuset(mount, parent)?;
            write(directory.join(file), read(parent.join(file))?.trim())?;
        }
    }
    Ok(())
}

impl Cgroup for Group {
    fn create(&self) -> Result<Entrance, CgroupError> {
        let mut files = Vec::with_capacity(self.hierarchies.len());
        for hierarchy in &self.hierarchies {
            let directory = make_tree(&hierarchy.mount, &self.relative)?;
            if hierarchy.controllers.iter().any(|c| c == "cpuset") {
                inherit_cpuset(&hierarchy.mount, &directory)?;
            }
            let tasks = directory.join("tasks");
            let file = fs::OpenOptions::new().write(true).open(&tasks);
            files.push(file.map_err(|source| CgroupError::Read { path: tasks, source })?.into());
        }
        Ok(Entrance::Tasks(files))
    }

    fn apply(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        if let Some(devices) = resources.devices().as_ref().filter(|devices| !devices.is_empty()) {
            let directory = self.need("linux.resources.devices", "devices")?;
            for rule in device::rules(devices) {
                let file = if rule.allow { "devices.allow" } else { "devices.deny" };
                write(directory.join(file), rule.line())?;
            }
        }
        if let Some(memory) = resources.memory() {
            let directory = self.need("linux.resources.memory", "memory")?;
            memory_limits(&directory, memory)?;
        }
        if let Some(cpu) = resources.cpu() {
            cpu_limits(self, cpu)?;
        }
        if let Some(pids) = resources.pids() {
            let limit = if pids.limit() > 0 { pids.limit().to_string() } else { "max".to_owned() };
            write(self.need("linux.resources.pids", "pids")?.join("pids.max"), limit)?;
        }
        if let Some(block) = resources.block_io() {
            block_limits(self, block)?;
        }
        for limit in resources.hugepage_limits().iter().flatten() {
            let directory = self.need("linux.resources.hugepageLimits", "hugetlb")?;
            let file = format!("hugetlb.{}.limit_in_bytes", page_size(limit.page_size())?);
            write(directory.join(file), limit.limit().to_string())?;
        }
        if let Some(network) = resources.network() {
            if let Some(class) = network.class_id() {
                let directory = self.need("linux.resources.network.classID", "net_cls")?;
                write(directory.join("net_cls.classid"), class.to_string())?;
            }
            for priority in network.priorities().iter().flatten() {
                let directory = self.need("linux.resources.network.priorities", "net_prio")?;
                write(directory.join("net_prio.ifpriomap"), format!("{} {}", priority.name(), priority.priority()))?;
            }
        }
        if resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()) {
            return Err(CgroupError::NoController { field: "linux.resources.unified", controller: "cgroup v2" });
        }
        Ok(())
    }

    fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let file = self.need("pause", "freezer")?.join("freezer.state");
        let wanted = if frozen { "FROZEN" } else { "THAWED" };
        // FREEZING can last while processes fork: asking again restarts it. v1 has no event to wait for.
        for _ in 0..1000 {
            write(file.clone(), wanted)?;
            if read(file.clone())?.trim() == wanted {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let source = io::Error::from(io::ErrorKind::TimedOut);
        Err(CgroupError::Write { path: file, value: wanted.to_owned(), source })
    }

    fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        // Every process is in every hierarchy; pids is never shared with others' groups.
        let directory = ["pids", "freezer", "memory", "devices"].iter().find_map(|c| self.directory(c));
        let directory = directory.or_else(|| Some(self.hierarchies.first()?.mount.join(&self.relative)));
        let mut pids = Vec::new();
        if let Some(directory) = directory {
            collect_pids(&directory, &mut pids)?;
        }
        Ok(pids)
    }

    fn signal(&self, signal: i32) -> Result<(), CgroupError> {
        if signal == libc::SIGKILL && self.is_frozen() {
            self.freeze(false)?;
        }
        signal_all(|| self.pids(), signal)
    }

    fn stats(&self) -> Result<Stats, CgroupError> {
        let mut stats = Stats::default();
        if let Some(directory) = self.directory("cpuacct") {
            stats.cpu_usage_nanoseconds = read_number(directory.join("cpuacct.usage"))?;
        }
        if let Some(directory) = self.directory("memory") {
            stats.memory_usage_bytes = read_number(directory.join("memory.usage_in_bytes"))?;
            let text = read(directory.join("memory.stat"))?;
            stats.memory_working_set_bytes =
                stats.memory_usage_bytes.saturating_sub(field(&text, "total_inactive_file"));
            stats.memory_rss_bytes = field(&text, "total_rss");
        }
        if let Some(directory) = self.directory("pids") {
            stats.pids = read_number(directory.join("pids.current"))?;
        }
        if let Some(directory) = self.directory("blkio") {
            // A kernel without throttling has no such file; nothing else is worth less for that.
            let text = fs::read_to_string(directory.join("blkio.throttle.io_service_bytes_recursive"));
            (stats.io_read_bytes, stats.io_write_bytes) = text.map_or((0, 0), |text| transferred(&text));
        }
        Ok(stats)
    }

    fn oom_kills(&self) -> u64 {
        self.directory("memory")
            .and_then(|directory| fs::read_to_string(directory.join("memory.oom_control")).ok())
            .map_or(0, |text| field(&text, "oom_kill"))
    }

    fn delete(&self) -> Result<(), CgroupError> {
        let mut first = Ok(());
        for hierarchy in &self.hierarchies {
            let result = remove_tree(&hierarchy.mount.join(&self.relative));
            remove_common_parent(&hierarchy.mount, &self.relative);
            first = first.and(result);
        }
        first
    }

    fn view(&self) -> CgroupView {
        let entry = |hierarchy: &Hierarchy| {
            let name = hierarchy.mount.file_name()?;
            let options = hierarchy.controllers.join(",");
            let directory = hierarchy.mount.join(&self.relative);
            Some((
                CString::new(name.as_bytes()).ok()?,
                CString::new(options).ok()?,
                CString::new(directory.into_os_string().as_bytes()).ok()?,
            ))
        };
        CgroupView { controllers: self.hierarchies.iter().filter_map(entry).collect(), unified: None }
    }

    fn wants_leaves(&self) -> bool {
        false
    }

    fn is_frozen(&self) -> bool {
        self.state_file().and_then(|file| fs::read_to_string(file).ok()).is_some_and(|state| state.starts_with("FR"))
    }
}

fn memory_limits(directory: &Path, memory: &oci_spec::runtime::LinuxMemory) -> Result<(), CgroupError> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    let swap = memory.swap().filter(|swap| *swap != 0);
    let set_limit = || limit.map_or(Ok(()), |v| write(directory.join("memory.limit_in_bytes"), v.to_string()));
    let set_swap = || match swap {
        // A kernel without swap accounting has no such file; no limit asks for nothing.
        Some(v) if v > 0 || directory.join("memory.memsw.limit_in_bytes").exists() => {
            write(directory.join("memory.memsw.limit_in_bytes"), v.to_string())
        }
        _ => Ok(()),
    };
    // memory <= memory + swap must hold at every moment: which goes first depends on the direction.
    if set_limit().is_ok() {
        set_swap()?;
    } else {
        set_swap()?;
        set_limit()?;
    }
    if let Some(reservation) = memory.reservation().filter(|value| *value != 0) {
        write(directory.join("memory.soft_limit_in_bytes"), reservation.to_string())?;
    }
    if let Some(swappiness) = memory.swappiness() {
        write(directory.join("memory.swappiness"), swappiness.to_string())?;
    }
    if memory.disable_oom_killer() == Some(true) {
        write(directory.join("memory.oom_control"), "1")?;
    }
    Ok(())
}

fn cpu_limits(group: &Group, cpu: &oci_spec::runtime::LinuxCpu) -> Result<(), CgroupError> {
    const FIELD: &str = "linux.resources.cpu";
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        write(group.need(FIELD, "cpu")?.join("cpu.shares"), shares.to_string())?;
    }
    if let Some(period) = cpu.period().filter(|period| *period != 0) {
        write(group.need(FIELD, "cpu")?.join("cpu.cfs_period_us"), period.to_string())?;
    }
    if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
        write(group.need(FIELD, "cpu")?.join("cpu.cfs_quota_us"), quota.to_string())?;
    }
    if let Some(burst) = cpu.burst().filter(|burst| *burst != 0) {
        write(group.need(FIELD, "cpu")?.join("cpu.cfs_burst_us"), burst.to_string())?;
    }
    if let Some(idle) = cpu.idle() {
        write(group.need(FIELD, "cpu")?.join("cpu.idle"), idle.to_string())?;
    }
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        write(group.need(FIELD, "cpu")?.join("cpu.rt_period_us"), period.to_string())?;
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        write(group.need(FIELD, "cpu")?.join("cpu.rt_runtime_us"), runtime.to_string())?;
    }
    for (value, file) in [(cpu.cpus(), "cpuset.cpus"), (cpu.mems(), "cpuset.mems")] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            write(group.need(FIELD, "cpuset")?.join(file), value)?;
        }
    }
    Ok(())
}

fn block_limits(group: &Group, block: &oci_spec::runtime::LinuxBlockIo) -> Result<(), CgroupError> {
    let directory = group.need("linux.resources.blockIO", "blkio")?;
    if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
        // The scheduler decides which of the two exists.
        let plain = directory.join("blkio.weight");
        let file = if plain.exists() { plain } else { directory.join("blkio.bfq.weight") };
        write(file, weight.to_string())?;
    }
    for (devices, file) in [
        (block.throttle_read_bps_device(), "blkio.throttle.read_bps_device"),
        (block.throttle_write_bps_device(), "blkio.throttle.write_bps_device"),
        (block.throttle_read_iops_device(), "blkio.throttle.read_iops_device"),
        (block.throttle_write_iops_device(), "blkio.throttle.write_iops_device"),
    ] {
        for device in devices.iter().flatten() {
            write(directory.join(file), format!("{}:{} {}", device.major(), device.minor(), device.rate()))?;
        }
    }
    Ok(())
}

/// A page size becomes part of a file name: `2MB` and the like only.
pub(super) fn page_size(size: &str) -> Result<&str, CgroupError> {
    let digits = size.trim_end_matches("KB").trim_end_matches("MB").trim_end_matches("GB");
    if !digits.is_empty() && digits.len() < size.len() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(size);
    }
    Err(CgroupError::Value {
        field: "linux.resources.hugepageLimits.pageSize",
        value: size.to_owned(),
        expected: "a size such as 2MB",
    })
}

/// Bytes read and written over all devices: lines of `MAJOR:MINOR Read|Write|... BYTES`.
fn transferred(text: &str) -> (u64, u64) {
    let sum = |operation: &str| {
        let of = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            (words.next() == Some(operation)).then(|| words.next()?.parse::<u64>().ok())?
        };
        text.lines().filter_map(of).sum()
    };
    (sum("Read"), sum("Write"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn transfers_of_all_devices_are_summed() {
        let text = "8:0 Read 100\n8:0 Write 20\n8:0 Total 120\n8:16 Read 5\n8:16 Write 1\nTotal 126\n";
        assert_eq!(super::transferred(text), (105, 21));
    }

    use std::sync::Barrier;

    use crate::cgroup::{detect, open};

    /// Two pods of a fresh instance make the parents they share at once; both must be able to take processes.
    #[test]
    fn groups_made_beside_each_other_have_cpus() {
        let hierarchies = &detect().unwrap().v1;
        let cpuset = hierarchies.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == "cpuset"));
        let Some(cpuset) = cpuset.filter(|_| rustix::process::geteuid().is_root()) else {
            println!("skipped: there is no cpuset hierarchy of version 1 to write to");
            return;
        };
        for round in 0..40 {
            let top = format!("gantry-race-{}-{round}", std::process::id());
            let barrier = Barrier::new(2);
            std::thread::scope(|scope| {
                for pod in 0..2 {
                    let (path, barrier) = (format!("{top}/a/b/pod{pod}"), &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        open(&path).unwrap().create().unwrap();
                    });
                }
            });
            let cpus = |pod| {
                std::fs::read_to_string(cpuset.mount.join(&top).join(format!("a/b/pod{pod}/cpuset.cpus"))).unwrap()
            };
            let empty = cpus(0).trim().is_empty() || cpus(1).trim().is_empty();
            open(&top).unwrap().delete().unwrap();
            assert!(!empty, "round {round}");
        }
    }
    /// What the agent goes by when it puts running containers elsewhere.
    #[test]
    fn groups_in_a_group_are_listed_and_take_other_processors() {
        let hierarchies = &detect().unwrap().v1;
        let cpuset = hierarchies.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == "cpuset"));
        let Some(cpuset) = cpuset.filter(|_| rustix::process::geteuid().is_root()) else {
            println!("skipped: there is no cpuset hierarchy of version 1 to write to");
            return;
        };
        let top = format!("gantry-list-{}", std::process::id());
        for name in ["c.0", "d.1"] {
            open(&format!("{top}/{name}")).unwrap().create().unwrap();
        }
        let mut listed = crate::cgroup::groups_in(&format!("/{top}"));
        listed.sort();
        let resources = serde_json::from_str("{\"cpu\": {\"cpus\": \"0\"}}").unwrap();
        let applied = open(&format!("/{top}/c.0")).unwrap().apply(&resources);
        let cpus = std::fs::read_to_string(cpuset.mount.join(&top).join("c.0/cpuset.cpus")).unwrap();
        open(&top).unwrap().delete().unwrap();
        assert!(applied.is_ok(), "{applied:?}");
        assert_eq!((listed, cpus.trim()), (vec!["c.0".to_owned(), "d.1".to_owned()], "0"));
        assert!(crate::cgroup::groups_in(&top).is_empty() && !crate::cgroup::has_file(&top, "memory.max"));
    }
}

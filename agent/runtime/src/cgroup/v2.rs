//! Version 2: one directory, controllers enabled from above.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use oci_spec::runtime::LinuxResources;

use super::{
    Cgroup, CgroupError, Stats, collect_pids, device, field, make_tree, open_directory, read, read_number,
    remove_common_parent, remove_tree, signal_all, v1::page_size, write,
};
use crate::{init::Entrance, plan::CgroupView};

/// A container's group.
#[derive(Debug)]
pub(super) struct Group {
    root: PathBuf,
    relative: String,
}

/// Moves the calling process, which has one thread, into the group.
pub(super) fn enter(directory: &OwnedFd, path: &str) -> Result<(), CgroupError> {
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::openat(directory, "cgroup.procs", flags, rustix::fs::Mode::empty())
        .and_then(|file| rustix::io::write(&file, b"0"))
        .map(drop)
        .map_err(|source| CgroupError::Write {
            path: Path::new(path).join("cgroup.procs"),
            value: "0".to_owned(),
            source: source.into(),
        })
}

impl Group {
    pub(super) fn new(root: PathBuf, relative: &str) -> Group {
        Group { root, relative: relative.to_owned() }
    }

    fn directory(&self) -> PathBuf {
        self.root.join(&self.relative)
    }

    /// Passes on every controller that the root has, level by level. One that a level refuses is missed only when a
    /// limit asks for it.
    fn enable_controllers(&self) {
        let available = fs::read_to_string(self.root.join("cgroup.controllers")).unwrap_or_default();
        let mut level = self.root.clone();
        for part in self.relative.split('/') {
            let file = level.join("cgroup.subtree_control");
            let enabled = fs::read_to_string(&file).unwrap_or_default();
            for controller in available.split_whitespace() {
                if !enabled.split_whitespace().any(|on| on == controller) {
                    let _ = write(file.clone(), format!("+{controller}"));
                }
            }
            level.push(part);
        }
    }

    fn set(
        &self,
        field: &'static str,
        controller: &'static str,
        file: &str,
        value: impl AsRef<str>,
    ) -> Result<(), CgroupError> {
        let path = self.directory().join(file);
        match write(path, value) {
            Err(CgroupError::Write { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(CgroupError::NoController { field, controller })
            }
            other => other,
        }
    }
}

fn maximum(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// v1 shares 2..262144 to v2 weight 1..10000, as all runtimes convert.
fn weight_of_shares(shares: u64) -> u64 {
    1 + shares.clamp(2, 262_144).saturating_sub(2) * 9999 / 262_142
}

impl Cgroup for Group {
    fn create(&self) -> Result<Entrance, CgroupError> {
        let directory = make_tree(&self.root, &self.relative)?;
        self.enable_controllers();
        Ok(Entrance::Born(open_directory(&directory)?))
    }

    fn apply(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        if let Some(devices) = resources.devices().as_ref().filter(|devices| !devices.is_empty()) {
            let path = self.directory();
            let directory = open_directory(&path)?;
            agent_sys::bpf::load_device_program(&device::program(&device::rules(devices)))
                .and_then(|program| agent_sys::bpf::attach_device_program(directory.as_fd(), program.as_fd()))
                .map_err(|source| CgroupError::DeviceFilter { path, source })?;
        }
        if let Some(memory) = resources.memory() {
            const FIELD: &str = "linux.resources.memory";
            if let Some(limit) = memory.limit().filter(|limit| *limit != 0) {
                self.set(FIELD, "memory", "memory.max", maximum(limit))?;
            }
            if let Some(reservation) = memory.reservation().filter(|value| *value != 0) {
                self.set(FIELD, "memory", "memory.low", maximum(reservation))?;
            }
            if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
                // The spec counts memory and swap together, v2 swap alone.
                let swap = if swap < 0 { swap } else { (swap - memory.limit().unwrap_or(0)).max(0) };
                match self.set(FIELD, "memory", "memory.swap.max", maximum(swap)) {
                    Err(CgroupError::NoController { .. }) if swap <= 0 => {} // a kernel without swap
                    other => other?,
                }
            }
        }
        if let Some(cpu) = resources.cpu() {
            const FIELD: &str = "linux.resources.cpu";
            if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
                self.set(FIELD, "cpu", "cpu.weight", weight_of_shares(shares).to_string())?;
            }
            if cpu.quota().is_some_and(|quota| quota != 0) || cpu.period().is_some_and(|period| period != 0) {
                let quota = cpu.quota().filter(|quota| *quota > 0).map_or("max".to_owned(), |quota| quota.to_string());
                let period = cpu.period().filter(|period| *period > 0).unwrap_or(100_000);
                self.set(FIELD, "cpu", "cpu.max", format!("{quota} {period}"))?;
            }
            if let Some(burst) = cpu.burst().filter(|burst| *burst != 0) {
                self.set(FIELD, "cpu", "cpu.max.burst", burst.to_string())?;
            }
            if let Some(idle) = cpu.idle() {
                self.set(FIELD, "cpu", "cpu.idle", idle.to_string())?;
            }
            for (value, file) in [(cpu.cpus(), "cpuset.cpus"), (cpu.mems(), "cpuset.mems")] {
                if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                    self.set(FIELD, "cpuset", file, value)?;
                }
            }
        }
        if let Some(pids) = resources.pids() {
            let limit = if pids.limit() > 0 { pids.limit().to_string() } else { "max".to_owned() };
            self.set("linux.resources.pids", "pids", "pids.max", limit)?;
        }
        if let Some(block) = resources.block_io() {
            const FIELD: &str = "linux.resources.blockIO";
            if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
                let weight = 1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990;
                self.set(FIELD, "io", "io.weight", format!("default {weight}"))?;
            }
            for (devices, key) in [
                (block.throttle_read_bps_device(), "rbps"),
                (block.throttle_write_bps_device(), "wbps"),
                (block.throttle_read_iops_device(), "riops"),
                (block.throttle_write_iops_device(), "wiops"),
            ] {
                for device in devices.iter().flatten() {
                    let value = format!("{}:{} {key}={}", device.major(), device.minor(), device.rate());
                    self.set(FIELD, "io", "io.max", value)?;
                }
            }
        }
        for limit in resources.hugepage_limits().iter().flatten() {
            let file = format!("hugetlb.{}.max", page_size(limit.page_size())?);
            self.set("linux.resources.hugepageLimits", "hugetlb", &file, limit.limit().to_string())?;
        }
        for (file, value) in resources.unified().iter().flatten() {
            if file.contains('/') || !file.contains('.') {
                return Err(CgroupError::Value {
                    field: "linux.resources.unified",
                    value: file.clone(),
                    expected: "the name of a cgroup file",
                });
            }
            for line in value.lines() {
                write(self.directory().join(file), line)?;
            }
        }
        Ok(())
    }

    fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let directory = self.directory();
        write(directory.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
        let path = directory.join("cgroup.events");
        let wanted = u64::from(frozen);
        let fail = |source| CgroupError::Read { path: path.clone(), source };
        let file = fs::File::open(&path).map_err(fail)?;
        for _ in 0..100 {
            if field(&read(path.clone())?, "frozen") == wanted {
                return Ok(());
            }
            // The kernel raises POLLPRI when the file changes.
            let mut events = [rustix::event::PollFd::new(&file, rustix::event::PollFlags::PRI)];
            let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            let _ = rustix::event::poll(&mut events, Some(&timeout));
        }
        Err(fail(io::ErrorKind::TimedOut.into()))
    }

    fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        let mut pids = Vec::new();
        collect_pids(&self.directory(), &mut pids)?;
        Ok(pids)
    }

    fn signal(&self, signal: i32) -> Result<(), CgroupError> {
        // cgroup.kill (kernel 5.14) leaves nobody out.
        if signal == libc::SIGKILL && write(self.directory().join("cgroup.kill"), "1").is_ok() {
            return Ok(());
        }
        signal_all(|| self.pids(), signal)
    }

    fn stats(&self) -> Result<Stats, CgroupError> {
        let directory = self.directory();
        let number = |file: &str| read_number(directory.join(file)).unwrap_or(0);
        let usage = number("memory.current");
        let memory = fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
        let io = fs::read_to_string(directory.join("io.stat")).unwrap_or_default();
        Ok(Stats {
            cpu_usage_nanoseconds: field(&read(directory.join("cpu.stat"))?, "usage_usec") * 1000,
            memory_usage_bytes: usage,
            memory_working_set_bytes: usage.saturating_sub(field(&memory, "inactive_file")),
            memory_rss_bytes: field(&memory, "anon"),
            pids: number("pids.current"),
            io_read_bytes: transferred(&io, "rbytes="),
            io_write_bytes: transferred(&io, "wbytes="),
        })
    }

    fn oom_kills(&self) -> u64 {
        fs::read_to_string(self.directory().join("memory.events")).map_or(0, |text| field(&text, "oom_kill"))
    }

    fn delete(&self) -> Result<(), CgroupError> {
        let result = remove_tree(&self.directory());
        remove_common_parent(&self.root, &self.relative);
        result
    }

    fn view(&self) -> CgroupView {
        CgroupView { controllers: Vec::new(), unified: CString::new(self.directory().as_os_str().as_bytes()).ok() }
    }

    fn wants_leaves(&self) -> bool {
        true
    }

    fn is_frozen(&self) -> bool {
        fs::read_to_string(self.directory().join("cgroup.events")).is_ok_and(|text| field(&text, "frozen") == 1)
    }
}

/// A figure of io.stat, summed over all devices: lines of `MAJOR:MINOR rbytes=N wbytes=N ...`.
fn transferred(text: &str, key: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn transfers_of_all_devices_are_summed() {
        let text = "8:0 rbytes=100 wbytes=20 rios=1 wios=1\n8:16 rbytes=5 wbytes=1 rios=1 wios=1\n";
        assert_eq!((super::transferred(text, "rbytes="), super::transferred(text, "wbytes=")), (105, 21));
    }

    #[test]
    fn shares_become_weights() {
        assert_eq!([2, 1024, 262_144, 0].map(super::weight_of_shares), [1, 39, 10_000, 1]);
    }
}

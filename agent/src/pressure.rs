//! Whether the machine runs out of memory, disk or process ids: what it has left, conditions and their words. Pure but for
//! [`Sample::take`]. What is too little: `eviction/threshold.rs`.

use std::path::Path;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::eviction::Met;

/// A pressure counts until it was gone for so long, so that a node at the edge does not flap.
const GONE_FOR: SignedDuration = SignedDuration::from_secs(30);

/// What can run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    Disk,
    Pid,
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Memory, Kind::Disk, Kind::Pid];

    /// The type of the node's condition.
    pub(crate) fn condition(self) -> &'static str {
        match self {
            Kind::Memory => "MemoryPressure",
            Kind::Disk => "DiskPressure",
            Kind::Pid => "PIDPressure",
        }
    }

    /// The condition's reason.
    pub(crate) fn reason(self, is_pressed: bool) -> &'static str {
        match (self, is_pressed) {
            (Kind::Memory, true) => "GantryHasInsufficientMemory",
            (Kind::Memory, false) => "GantryHasSufficientMemory",
            (Kind::Disk, true) => "GantryHasDiskPressure",
            (Kind::Disk, false) => "GantryHasNoDiskPressure",
            (Kind::Pid, true) => "GantryHasInsufficientPID",
            (Kind::Pid, false) => "GantryHasSufficientPID",
        }
    }

    /// The reason of the event that tells of a change, in the kubelet's words.
    pub(crate) fn event(self, is_pressed: bool) -> &'static str {
        match (self, is_pressed) {
            (Kind::Memory, true) => "NodeHasInsufficientMemory",
            (Kind::Memory, false) => "NodeHasSufficientMemory",
            (Kind::Disk, true) => "NodeHasDiskPressure",
            (Kind::Disk, false) => "NodeHasNoDiskPressure",
            (Kind::Pid, true) => "NodeHasInsufficientPID",
            (Kind::Pid, false) => "NodeHasSufficientPID",
        }
    }

    fn calm(self) -> &'static str {
        match self {
            Kind::Memory => "the agent has sufficient memory available",
            Kind::Disk => "the agent has no disk pressure",
            Kind::Pid => "the agent has sufficient PIDs available",
        }
    }
}

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) bytes: u64,
    pub(crate) available_bytes: u64,
    /// 0 where the file system counts none.
    pub(crate) inodes: u64,
    pub(crate) free_inodes: u64,
}

/// What the machine has left; `None` where it did not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sample {
    pub(crate) memory_bytes: Option<u64>,
    /// All that there is.
    pub(crate) memory_total_bytes: Option<u64>,
    /// Where volumes and logs are.
    pub(crate) nodefs: Option<Space>,
    /// Where images and writable layers are.
    pub(crate) imagefs: Option<Space>,
    pub(crate) pids: Option<u64>,
    /// How many there can be.
    pub(crate) pids_limit: Option<u64>,
}

impl Sample {
    /// Asks the machine.
    pub(crate) fn take(nodefs: &Path, imagefs: &Path) -> Sample {
        let space = |path: &Path| {
            let stat = rustix::fs::statvfs(path).ok()?;
            Some(Space {
                bytes: stat.f_blocks * stat.f_frsize,
                available_bytes: stat.f_bavail * stat.f_frsize,
                inodes: stat.f_files,
                free_inodes: stat.f_favail,
            })
        };
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let meminfo = read("/proc/meminfo");
        let memory = |field: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix("kB"));
            line.and_then(|kb| kb.trim().parse::<u64>().ok()).map(|kb| kb * 1024)
        };
        let number = |path: &str| read(path).trim().parse::<u64>().ok();
        // Whichever is met first, as the kubelet has it.
        let limits = [number("/proc/sys/kernel/pid_max"), number("/proc/sys/kernel/threads-max")];
        let limit = limits.into_iter().flatten().min();
        // proc(5), loadavg: the fourth field is RUNNING/ALL.
        let tasks =
            read("/proc/loadavg").split(' ').nth(3).and_then(|field| field.split_once('/')?.1.parse::<u64>().ok());
        Sample {
            memory_bytes: memory("MemAvailable:"),
            memory_total_bytes: memory("MemTotal:"),
            nodefs: space(nodefs),
            imagefs: space(imagefs),
            pids: limit.zip(tasks).map(|(limit, tasks)| limit.saturating_sub(tasks)),
            pids_limit: limit,
        }
    }
}

/// One kind's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) kind: Kind,
    pub(crate) is_pressed: bool,
    pub(crate) message: String,
    /// The last time that there was too little.
    seen: Option<Timestamp>,
}

/// All kinds' states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pressures(pub(crate) [Pressure; 3]);

impl Pressures {
    /// Of a machine that has enough of everything.
    pub(crate) fn none() -> Self {
        let calm = |kind: Kind| Pressure { kind, is_pressed: false, message: kind.calm().to_owned(), seen: None };
        Self(Kind::ALL.map(calm))
    }

    /// Takes in which thresholds are met; answers the kinds whose condition changed.
    pub(crate) fn take(&mut self, met: &[Met], now: Timestamp) -> Vec<Kind> {
        let mut changed = Vec::new();
        for own in &mut self.0 {
            let complaint = met.iter().find(|one| one.threshold.signal.kind() == own.kind).map(Met::complaint);
            let is_pressed = match complaint {
                Some(complaint) => {
                    own.seen = Some(now);
                    own.message = complaint;
                    true
                }
                None => own.is_pressed && own.seen.is_some_and(|seen| now.duration_since(seen) < GONE_FOR),
            };
            if is_pressed != own.is_pressed {
                own.is_pressed = is_pressed;
                changed.push(own.kind);
            }
            if !is_pressed {
                own.kind.calm().clone_into(&mut own.message);
            }
        }
        changed
    }

    /// One kind's state.
    pub(crate) fn of(&self, kind: Kind) -> &Pressure {
        match kind {
            Kind::Memory => &self.0[0],
            Kind::Disk => &self.0[1],
            Kind::Pid => &self.0[2],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::Limits;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn met(sample: &Sample) -> Vec<Met> {
        Limits::default().met(sample)
    }

    fn disk(available_bytes: u64, free_inodes: u64) -> Sample {
        let space = Space { bytes: 1000 << 20, available_bytes: available_bytes << 20, inodes: 100, free_inodes };
        Sample { nodefs: Some(space), ..Sample::default() }
    }

    #[test]
    fn pressure_comes_at_once_and_goes_later() {
        let mut own = Pressures::none();
        let mut take = |sample, second| own.take(&met(&sample), at(second));
        assert_eq!(take(disk(100, 5), 0), []);
        assert_eq!(take(disk(99, 5), 10), [Kind::Disk]);
        assert_eq!(take(disk(99, 5), 20), []);
        assert_eq!(take(disk(500, 5), 49), [], "it was gone for 29 s only");
        assert_eq!(take(disk(500, 5), 50), [Kind::Disk]);
        assert_eq!(take(disk(500, 4), 60), [Kind::Disk], "inodes count as well");
        assert_eq!(own.of(Kind::Disk).message, "nodefs.inodesFree is 4, less than 5");
    }

    #[test]
    fn images_have_a_limit_of_their_own_and_unknowns_press_nobody() {
        let take = |sample: &Sample| Pressures::none().take(&met(sample), at(0));
        let Sample { nodefs, .. } = disk(140, 50);
        assert_eq!(take(&Sample { imagefs: nodefs, ..Sample::default() }), [Kind::Disk]);
        assert_eq!(take(&Sample { nodefs, ..Sample::default() }), []);
        assert_eq!(take(&Sample::default()), []);
        let little = Sample { memory_bytes: Some(99 << 20), pids: Some(999), ..Sample::default() };
        assert_eq!(take(&little), [Kind::Memory, Kind::Pid]);
        // A file system that counts no inodes has none to lack.
        let space = Space { bytes: 10, available_bytes: 10, inodes: 0, free_inodes: 0 };
        assert_eq!(take(&Sample { nodefs: Some(space), ..Sample::default() }), []);
    }
}

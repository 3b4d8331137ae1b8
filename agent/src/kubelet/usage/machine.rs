//! The machine's own use, from /proc: proc(5), `stat`, `meminfo`, `net/dev`.

use std::path::Path;

use k8s_openapi::jiff::Timestamp;

use super::Traffic;
use crate::instance::Instance;

/// Ticks of /proc/stat in a second; the kernel's USER_HZ, which no architecture of ours changes.
const TICKS: u64 = 100;

/// What the machine used so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Machine {
    pub(super) cores: usize,
    pub(super) booted_at: Option<Timestamp>,
    /// Time of all cores together.
    pub(super) cpu_nanoseconds: u64,
    pub(super) memory: Memory,
    pub(super) network: Option<(String, Traffic)>,
    /// Where pods' files are, and where images are.
    pub(super) disk: Option<Space>,
    pub(super) images: Option<Space>,
}

/// Bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total: u64,
    pub(super) usage: u64,
    pub(super) working_set: u64,
    pub(super) rss: u64,
}

/// A file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) capacity_bytes: u64,
    pub(super) available_bytes: u64,
    pub(super) inodes: u64,
    pub(super) inodes_free: u64,
}

pub(super) fn measure(instance: &Instance) -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let stat = read("/proc/stat");
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
    let devices = read("/proc/net/dev");
    let uplink = default_link(&read("/proc/net/route"));
    Machine {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        booted_at: boot.and_then(|seconds| Timestamp::from_second(seconds).ok()),
        cpu_nanoseconds: busy_nanoseconds(&stat),
        memory: memory(&read("/proc/meminfo")),
        network: uplink.and_then(|link| traffic(&devices, &link).map(|traffic| (link, traffic))),
        disk: space(&instance.data_dir),
        images: space(&instance.image_dir()),
    }
}

fn space(path: &Path) -> Option<Space> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(Space {
        capacity_bytes: stat.f_blocks * stat.f_frsize,
        available_bytes: stat.f_bavail * stat.f_frsize,
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    })
}

/// user, nice, system, irq, softirq and steal; a guest's time is in user's already, and waiting is no use.
fn busy_nanoseconds(stat: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
    let of = |index: usize| ticks.get(index).copied().unwrap_or(0);
    [0, 1, 2, 5, 6, 7].into_iter().map(of).sum::<u64>() * (1_000_000_000 / TICKS)
}

fn memory(meminfo: &str) -> Memory {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).map_or(0, |kb| kb * 1024)
    };
    let total = bytes("MemTotal");
    let usage = total.saturating_sub(bytes("MemFree"));
    Memory { total, usage, working_set: usage.saturating_sub(bytes("Inactive(file)")), rss: bytes("AnonPages") }
}

/// The link of the default route: destination and mask are zero.
fn default_link(routes: &str) -> Option<String> {
    routes.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(1) == Some(&"00000000") && words.get(7) == Some(&"00000000")).then(|| words[0].to_owned())
    })
}

/// One link's line of /proc/net/dev.
pub(super) fn traffic(devices: &str, link: &str) -> Option<Traffic> {
    let numbers = devices.lines().find_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        (name.trim() == link).then_some(numbers)
    })?;
    let numbers: Vec<u64> = numbers.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
    let of = |index: usize| numbers.get(index).copied();
    Some(Traffic {
        received_bytes: of(0)?,
        received_packets: of(1)?,
        received_errors: of(2)?,
        sent_bytes: of(8)?,
        sent_packets: of(9)?,
        sent_errors: of(10)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_as_it_is_written() {
        assert_eq!(busy_nanoseconds("cpu  10 1 5 1000 50 2 3 4 7 0\ncpu0 1 1 1\n"), 25 * 10_000_000);
        let memory =
            memory("MemTotal: 100 kB\nMemFree: 40 kB\nInactive: 30 kB\nInactive(file):   20 kB\nAnonPages: 7 kB\n");
        assert_eq!(memory, Memory { total: 102_400, usage: 61_440, working_set: 40_960, rss: 7168 });
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nlo\t0000007F\t0\t1\t0\t0\t0\t000000FF\neth1\t00000000\t0100000A\t3\t0\t0\t0\t00000000\n";
        assert_eq!(default_link(routes).as_deref(), Some("eth1"));
        let devices =
            "Inter-|\n face |\n  lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n eth1:100 2 3 0 0 0 0 0 200 5 6 0 0 0 0 0\n";
        let traffic = traffic(devices, "eth1").unwrap();
        assert_eq!((traffic.received_bytes, traffic.received_errors), (100, 3));
        assert_eq!((traffic.sent_bytes, traffic.sent_packets, traffic.sent_errors), (200, 5, 6));
    }
}

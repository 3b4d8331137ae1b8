//! What cgroups of version 2 can do with memory beyond a limit: slow down who nears it, protect what was asked for, and
//! swap. Kubernetes documentation, "Memory QoS with cgroup v2" (KEP 2570) and "Swap memory management" (KEP 2400);
//! kernel documentation, "Control Group v2", memory. Pure but for the reading of /proc.

use std::collections::BTreeMap;

use agent_pod::facts::Resources;
use api::pod::{QosClass, recorded_qos_class};
use k8s_openapi::api::core::v1::Pod;

use crate::static_pods::is_critical;

/// As `KubeletConfiguration` has it: a container is slowed down at so much of the way from its request to its limit.
pub const THROTTLING_FACTOR: f64 = 0.9;

/// What is done with the memory that pods ask for. `memoryReservationPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reservation {
    /// Nothing.
    #[default]
    None,
    /// That of Guaranteed pods is never taken (`memory.min`), that of Burstable ones last (`memory.low`).
    Tiered,
}

/// Whether pods use swap. `memorySwap.swapBehavior`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Swap {
    /// They do not.
    #[default]
    None,
    /// Burstable ones do, each the part of the machine's swap that its request is of the machine's memory.
    Limited,
}

/// What the node was told.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Settings {
    /// Part of the way from request to limit, above 0 and at most 1; `None`: nobody is slowed down.
    pub throttling_factor: Option<f64>,
    /// `--memory-reservation-policy`
    pub reservation: Reservation,
    /// `--swap-behavior`
    pub swap: Swap,
}

impl Settings {
    /// Refuses what the machine cannot do.
    ///
    /// # Errors
    ///
    /// The flag that needs cgroup v2, on a machine that has another one.
    pub fn check(&self, is_v2: bool) -> Result<(), String> {
        let asked = [
            (self.throttling_factor.is_some(), "--memory-qos"),
            (self.reservation == Reservation::Tiered, "--memory-reservation-policy TieredReservation"),
            (self.swap == Swap::Limited, "--swap-behavior LimitedSwap"),
        ];
        match asked.into_iter().find(|(is_asked, _)| *is_asked && !is_v2) {
            Some((_, flag)) => Err(format!(
                "{flag} needs cgroup v2, and this machine has version 1; boot with systemd.unified_cgroup_hierarchy=1"
            )),
            None => Ok(()),
        }
    }
}

/// The machine's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Machine {
    pub(crate) total: i64,
    /// What of it is for pods.
    pub(crate) allocatable: i64,
    pub(crate) swap: i64,
    pub(crate) page: i64,
}

impl Machine {
    /// Its swap and its page; proc(5), meminfo.
    pub(crate) fn look(total: i64, allocatable: i64) -> Self {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let line = meminfo.lines().find_map(|line| line.strip_prefix("SwapTotal:")?.trim().strip_suffix("kB"));
        let swap = line.and_then(|kb| kb.trim().parse::<i64>().ok()).map_or(0, |kb| kb * 1024);
        Self { total, allocatable, swap, page: i64::try_from(rustix::param::page_size()).unwrap_or(4096) }
    }
}

/// A container's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Bytes; a limit alone is a request too.
    pub(crate) request: Option<i64>,
    /// Bytes.
    pub(crate) limit: Option<i64>,
    pub(crate) qos: QosClass,
    /// Its pod is critical: it is not slowed down by a disk.
    pub(crate) is_critical: bool,
}

impl Asked {
    /// What a container of a pod asks for.
    pub(crate) fn of(pod: &Pod, resources: &Resources) -> Self {
        Self {
            request: resources.memory_request,
            limit: resources.memory_limit,
            qos: recorded_qos_class(pod),
            is_critical: is_critical(pod),
        }
    }
}

/// The files of a container's cgroup and what they say. Each that is managed is there, so that a resize sets it anew.
pub(crate) fn of_container(settings: &Settings, asked: &Asked, machine: &Machine) -> BTreeMap<String, String> {
    let request = asked.request.or(asked.limit).unwrap_or(0);
    let mut files = protection(settings, asked.qos, request);
    if let Some(factor) = settings.throttling_factor {
        let high = high(factor, request, asked.limit, machine);
        files.insert("memory.high".into(), high.map_or_else(|| "max".into(), |bytes| bytes.to_string()));
    }
    files.insert("memory.swap.max".into(), swap(settings.swap, asked, machine).to_string());
    files
}

/// What protects the memory that a group of this class asks for.
pub(crate) fn protection(settings: &Settings, qos: QosClass, request: i64) -> BTreeMap<String, String> {
    let (min, low) = match (settings.reservation, qos) {
        (Reservation::None, _) => return BTreeMap::new(),
        (Reservation::Tiered, QosClass::Guaranteed) => (request, 0),
        (Reservation::Tiered, QosClass::Burstable) => (0, request),
        (Reservation::Tiered, QosClass::BestEffort) => (0, 0),
    };
    [("memory.min".to_owned(), min.to_string()), ("memory.low".to_owned(), low.to_string())].into()
}

/// Where a container begins to be slowed down, in whole pages; `None`: nowhere.
fn high(factor: f64, request: i64, limit: Option<i64>, machine: &Machine) -> Option<i64> {
    let most = limit.unwrap_or(machine.allocatable);
    // Bytes of memory are far below what this type holds exactly.
    let bytes = request + ((most - request) as f64 * factor) as i64;
    let page = machine.page.max(1);
    Some(bytes / page * page).filter(|high| *high > request)
}

/// Bytes of swap that a container may use.
pub(crate) fn swap(behavior: Swap, asked: &Asked, machine: &Machine) -> i64 {
    let request = asked.request.unwrap_or(0);
    let may = asked.qos == QosClass::Burstable && !asked.is_critical && asked.limit != Some(request);
    match behavior {
        Swap::Limited if may && machine.total > 0 => {
            let part = i128::from(request) * i128::from(machine.swap) / i128::from(machine.total);
            i64::try_from(part).unwrap_or(0)
        }
        Swap::Limited | Swap::None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: i64 = 1 << 30;

    fn machine() -> Machine {
        Machine { total: 8 * GIB, allocatable: 7 * GIB, swap: 4 * GIB, page: 4096 }
    }

    fn asked(request: i64, limit: i64, qos: QosClass) -> Asked {
        let some = |bytes: i64| Some(bytes).filter(|bytes| *bytes > 0);
        Asked { request: some(request), limit: some(limit), qos, is_critical: false }
    }

    #[test]
    fn who_nears_its_limit_is_slowed_down() {
        let high =
            |request, limit: i64| super::high(THROTTLING_FACTOR, request, Some(limit).filter(|l| *l > 0), &machine());
        // The example of the KEP: 1000 MiB asked for, 2000 MiB at most.
        assert_eq!(high(1000 << 20, 2000 << 20), Some(1900 << 20));
        assert_eq!(high(0, 0), Some((7 * GIB / 10 * 9) / 4096 * 4096));
        assert_eq!(high(GIB, GIB), None, "there is nothing between the two");
        assert_eq!(high(8 * GIB, 0), None);
        assert_eq!(high(0, 4100), None, "less than a page is none");
    }

    #[test]
    fn what_is_asked_for_is_protected_by_class() {
        let settings = Settings { reservation: Reservation::Tiered, ..Settings::default() };
        let files = |qos| {
            let files = of_container(&settings, &asked(GIB, 2 * GIB, qos), &machine());
            ["memory.min", "memory.low"].map(|name| files[name].clone())
        };
        assert_eq!(files(QosClass::Guaranteed), [GIB.to_string(), "0".into()]);
        assert_eq!(files(QosClass::Burstable), ["0".into(), GIB.to_string()]);
        assert_eq!(files(QosClass::BestEffort), ["0", "0"]);
        let plain = of_container(&Settings::default(), &asked(GIB, 0, QosClass::Burstable), &machine());
        assert_eq!(plain, [("memory.swap.max".to_owned(), "0".to_owned())].into());
    }

    #[test]
    fn swap_is_for_burstable_pods_by_what_they_ask_for() {
        let of = |own: Asked| swap(Swap::Limited, &own, &machine());
        assert_eq!(of(asked(2 * GIB, 3 * GIB, QosClass::Burstable)), GIB);
        assert_eq!(of(asked(2 * GIB, 0, QosClass::Burstable)), GIB);
        assert_eq!(of(asked(2 * GIB, 2 * GIB, QosClass::Burstable)), 0, "its memory is to be there");
        assert_eq!(of(asked(0, 3 * GIB, QosClass::Burstable)), 0);
        assert_eq!(of(asked(2 * GIB, 0, QosClass::Guaranteed)), 0);
        assert_eq!(of(Asked { is_critical: true, ..asked(2 * GIB, 0, QosClass::Burstable) }), 0);
        assert_eq!(swap(Swap::None, &asked(2 * GIB, 0, QosClass::Burstable), &machine()), 0);
    }

    #[test]
    fn what_needs_version_2_is_refused_by_flag() {
        let limited = Settings { swap: Swap::Limited, ..Settings::default() };
        assert!(limited.check(false).unwrap_err().starts_with("--swap-behavior LimitedSwap needs cgroup v2"));
        assert_eq!((limited.check(true), Settings::default().check(false)), (Ok(()), Ok(())));
    }
}

//! Thresholds: how they are written, and which are met. Pure.

use std::collections::BTreeMap;
use std::fmt;

use api::quantity::Quantity;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::pressure::{Kind, Sample, Space};

/// What is measured; names as the kubelet has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    /// `memory.available`
    Memory,
    /// `nodefs.available`: where volumes and logs are.
    Nodefs,
    /// `nodefs.inodesFree`
    NodefsInodes,
    /// `imagefs.available`: where images and writable layers are.
    Imagefs,
    /// `imagefs.inodesFree`
    ImagefsInodes,
    /// `pid.available`
    Pid,
}

impl Signal {
    const ALL: [Self; 6] =
        [Self::Memory, Self::Nodefs, Self::NodefsInodes, Self::Imagefs, Self::ImagefsInodes, Self::Pid];

    /// As the kubelet names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::Nodefs => "nodefs.available",
            Self::NodefsInodes => "nodefs.inodesFree",
            Self::Imagefs => "imagefs.available",
            Self::ImagefsInodes => "imagefs.inodesFree",
            Self::Pid => "pid.available",
        }
    }

    /// The condition of the node that it presses.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Memory => Kind::Memory,
            Self::Nodefs | Self::NodefsInodes | Self::Imagefs | Self::ImagefsInodes => Kind::Disk,
            Self::Pid => Kind::Pid,
        }
    }

    /// What pods use up, as messages name it.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Nodefs | Self::Imagefs => "ephemeral-storage",
            Self::NodefsInodes | Self::ImagefsInodes => "inodes",
            Self::Pid => "pids",
        }
    }

    /// What is left and what there is; `None` where the machine did not say.
    fn left(self, sample: &Sample) -> Option<(u64, u64)> {
        let bytes = |space: Option<Space>| space.map(|space| (space.available_bytes, space.bytes));
        // A file system that counts no inodes has none to lack.
        let inodes = |space: Option<Space>| space.filter(|own| own.inodes > 0).map(|own| (own.free_inodes, own.inodes));
        match self {
            Self::Memory => sample.memory_bytes.map(|left| (left, sample.memory_total_bytes.unwrap_or(0))),
            Self::Nodefs => bytes(sample.nodefs),
            Self::NodefsInodes => inodes(sample.nodefs),
            Self::Imagefs => bytes(sample.imagefs),
            Self::ImagefsInodes => inodes(sample.imagefs),
            Self::Pid => sample.pids.map(|left| (left, sample.pids_limit.unwrap_or(0))),
        }
    }

    /// An amount of it in words.
    pub(crate) fn shown(self, amount: u64) -> String {
        match self {
            Self::Memory | Self::Nodefs | Self::Imagefs => format!("{}Ki", amount / 1024),
            Self::NodefsInodes | Self::ImagefsInodes | Self::Pid => amount.to_string(),
        }
    }
}

/// How much is to be left.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Least {
    /// Bytes or pieces.
    Amount(u64),
    /// Of what there is, in hundredths of a percent.
    Part(u64),
}

impl Least {
    fn of(self, all: u64) -> u64 {
        match self {
            Self::Amount(amount) => amount,
            Self::Part(part) => u64::try_from(u128::from(all) * u128::from(part) / 10_000).unwrap_or(u64::MAX),
        }
    }
}

/// Less than so much left is too little.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Threshold {
    pub(crate) signal: Signal,
    least: Least,
    /// As it was written.
    text: String,
    /// Pods are evicted when it was met for so long; `None`: at once, and without their grace.
    grace: Option<SignedDuration>,
}

impl fmt::Display for Threshold {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}<{}", self.signal.name(), self.text)
    }
}

/// Reads `memory.available<100Mi,nodefs.available<10%`.
fn thresholds(text: &str) -> Result<Vec<Threshold>, String> {
    let mut all: Vec<Threshold> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let threshold = threshold(part)?;
        if all.iter().any(|other| other.signal == threshold.signal) {
            return Err(format!("{} stands twice", threshold.signal.name()));
        }
        all.push(threshold);
    }
    Ok(all)
}

fn threshold(part: &str) -> Result<Threshold, String> {
    let form = "expected SIGNAL<QUANTITY or SIGNAL<PERCENT%";
    let (name, amount) = part.split_once('<').ok_or_else(|| format!("{part:?}: {form}"))?;
    let signal = signal(name.trim())?;
    let wrong = || format!("{part:?}: {amount:?} is no quantity and no percentage; {form}");
    let least = match amount.trim().strip_suffix('%') {
        Some(percent) => {
            let percent: f64 = percent.parse().map_err(|_| wrong())?;
            if !(0.0..=100.0).contains(&percent) {
                return Err(format!("{part:?}: a percentage lies between 0 and 100"));
            }
            Least::Part((percent * 100.0).round() as u64)
        }
        None => {
            let quantity = Quantity::parse(amount.trim()).map_err(|_| wrong())?;
            Least::Amount(u64::try_from(quantity.value()).map_err(|_| wrong())?)
        }
    };
    Ok(Threshold { signal, least, text: amount.trim().to_owned(), grace: None })
}

fn signal(name: &str) -> Result<Signal, String> {
    Signal::ALL.into_iter().find(|signal| signal.name() == name).ok_or_else(|| {
        let known = Signal::ALL.map(Signal::name).join(", ");
        format!("unknown signal {name:?}: expected one of {known}")
    })
}

/// Thresholds that are met for a while before anything is done, as they are written.
#[derive(Debug, Clone, Default)]
pub struct Soft<'a> {
    /// As hard ones are written.
    pub thresholds: &'a str,
    /// `memory.available=1m30s`, for each of them.
    pub grace_periods: &'a str,
    /// How many seconds a pod has at most to end when a soft threshold is met.
    pub max_pod_grace_seconds: i64,
}

/// When pods are evicted.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    thresholds: Vec<Threshold>,
    /// How many seconds a pod has at most to end when a soft threshold is met.
    pub(crate) max_pod_grace_seconds: i64,
}

/// The kubelet's defaults (Kubernetes documentation, "Node-pressure Eviction"); for process ids it has none, ours is a
/// thousand.
const HARD: &str = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,\
    imagefs.inodesFree<5%,pid.available<1000";

impl Default for Limits {
    fn default() -> Self {
        Self { thresholds: thresholds(HARD).unwrap_or_default(), max_pod_grace_seconds: 0 }
    }
}

impl Limits {
    /// From what was written; hard thresholds that are not given are the kubelet's defaults, given ones stand for them all.
    pub fn new(hard: Option<&str>, soft: &Soft<'_>) -> Result<Self, String> {
        let mut all = thresholds(hard.unwrap_or(HARD)).map_err(|error| format!("eviction-hard: {error}"))?;
        let mut graces = grace_periods(soft.grace_periods)?;
        for mut threshold in thresholds(soft.thresholds).map_err(|error| format!("eviction-soft: {error}"))? {
            let name = threshold.signal.name();
            let grace = graces.remove(&threshold.signal);
            threshold.grace = Some(
                grace.ok_or_else(|| format!("eviction-soft-grace-period: {name} needs one, such as {name}=1m30s"))?,
            );
            all.push(threshold);
        }
        if let Some(signal) = graces.keys().next() {
            return Err(format!("eviction-soft-grace-period: {} has no soft threshold", signal.name()));
        }
        if soft.max_pod_grace_seconds < 0 {
            return Err("eviction-max-pod-grace-period: expected a number of seconds that is not negative".into());
        }
        Ok(Self { thresholds: all, max_pod_grace_seconds: soft.max_pod_grace_seconds })
    }
}

fn grace_periods(text: &str) -> Result<BTreeMap<Signal, SignedDuration>, String> {
    let mut all = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong = |why: String| format!("eviction-soft-grace-period: {why}");
        let (name, time) =
            part.split_once('=').ok_or_else(|| wrong(format!("{part:?}: expected SIGNAL=TIME, such as 1m30s")))?;
        let time: SignedDuration =
            time.parse().map_err(|_| wrong(format!("{part:?}: expected SIGNAL=TIME, such as 1m30s")))?;
        all.insert(signal(name).map_err(wrong)?, time.abs());
    }
    Ok(all)
}

/// A threshold that is met.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Met {
    pub(crate) threshold: Threshold,
    pub(crate) left: u64,
    least: u64,
}

impl Met {
    /// Why the node is pressed.
    pub(crate) fn complaint(&self) -> String {
        let signal = self.threshold.signal;
        format!("{} is {}, less than {}", signal.name(), signal.shown(self.left), self.shown_least())
    }

    /// How much is to be left, in words.
    pub(crate) fn shown_least(&self) -> String {
        self.threshold.signal.shown(self.least)
    }

    /// Whether pods may take their time to end.
    pub(crate) fn is_soft(&self) -> bool {
        self.threshold.grace.is_some()
    }
}

impl Limits {
    /// Those that are met now.
    pub(crate) fn met(&self, sample: &Sample) -> Vec<Met> {
        let met = |threshold: &Threshold| {
            let (left, all) = threshold.signal.left(sample)?;
            let least = threshold.least.of(all);
            (left < least).then(|| Met { threshold: threshold.clone(), left, least })
        };
        self.thresholds.iter().filter_map(met).collect()
    }
}

/// Since when each threshold is met.
#[derive(Debug, Clone, Default)]
pub(crate) struct Since(BTreeMap<(Signal, bool), Timestamp>);

impl Since {
    /// Takes in what is met now; answers the one that pods are to be evicted for: memory before all else, hard before
    /// soft.
    pub(crate) fn due(&mut self, met: &[Met], now: Timestamp) -> Option<Met> {
        let key = |one: &Met| (one.threshold.signal, one.is_soft());
        self.0.retain(|held, _| met.iter().any(|one| key(one) == *held));
        for one in met {
            self.0.entry(key(one)).or_insert(now);
        }
        let is_due = |one: &&Met| {
            let since = self.0.get(&key(one)).copied().unwrap_or(now);
            one.threshold.grace.is_none_or(|grace| now.duration_since(since) >= grace)
        };
        met.iter().filter(is_due).min_by_key(|one| key(one)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(memory: u64, pids: u64) -> Sample {
        Sample { memory_bytes: Some(memory), pids: Some(pids), pids_limit: Some(32_768), ..Sample::default() }
    }

    #[test]
    fn thresholds_are_read_and_told_when_they_are_wrong() {
        let all = thresholds("memory.available<1Gi, nodefs.available<12.5%,pid.available<10").unwrap();
        assert_eq!(
            all.iter().map(Threshold::to_string).collect::<Vec<_>>().join(","),
            "memory.available<1Gi,nodefs.available<12.5%,pid.available<10"
        );
        assert_eq!(all[1].least.of(1000), 125);
        for (wrong, said) in [
            ("memory.available>1Gi", "expected SIGNAL<"),
            ("memory<1Gi", "unknown signal \"memory\""),
            ("memory.available<x", "no quantity"),
            ("memory.available<-1", "no quantity"),
            ("nodefs.available<101%", "between 0 and 100"),
            ("pid.available<1,pid.available<2", "stands twice"),
        ] {
            assert!(thresholds(wrong).is_err_and(|error| error.contains(said)), "{wrong}");
        }
    }

    #[test]
    fn soft_thresholds_need_their_grace() {
        let soft = |thresholds, grace_periods| {
            Limits::new(None, &Soft { thresholds, grace_periods, max_pod_grace_seconds: 5 })
        };
        assert!(soft("memory.available<1Gi", "memory.available=1m30s").is_ok());
        assert!(soft("memory.available<1Gi", "").is_err_and(|said| said.contains("memory.available needs one")));
        assert!(soft("", "memory.available=1m").is_err_and(|said| said.contains("no soft threshold")));
        assert!(soft("memory.available<1Gi", "memory.available=soon").is_err_and(|said| said.contains("SIGNAL=TIME")));
        let only = Limits::new(Some(""), &Soft::default()).unwrap();
        assert_eq!(only.met(&sample(0, 0)), [], "whoever gives hard thresholds gives them all");
    }

    #[test]
    fn what_is_due_is_hard_or_has_been_met_for_long_and_memory_comes_first() {
        let limits = Limits::new(
            Some("memory.available<100,pid.available<10"),
            &Soft {
                thresholds: "memory.available<200",
                grace_periods: "memory.available=10s",
                max_pod_grace_seconds: 5,
            },
        );
        let limits = limits.unwrap();
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let mut since = Since::default();
        let mut due = |sample, second| {
            let met = limits.met(&sample);
            since.due(&met, at(second)).map(|one| (one.threshold.signal, one.is_soft()))
        };
        assert_eq!(due(sample(150, 100), 0), None, "soft, and met for no time");
        assert_eq!(due(sample(150, 9), 9), Some((Signal::Pid, false)));
        assert_eq!(due(sample(150, 9), 10), Some((Signal::Memory, true)));
        assert_eq!(due(sample(99, 9), 11), Some((Signal::Memory, false)));
        assert_eq!(due(sample(200, 100), 12), None);
        assert_eq!(due(sample(199, 100), 13), None, "it begins anew");
    }
}

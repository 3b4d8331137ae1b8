//! What is measured of a store.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Counters, gauges and histograms of one store. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// From handing a group of commits to the disk until it is durable.
    pub(crate) persist_seconds: Histogram,
    /// Commits in such a group.
    pub(crate) group_commits: Histogram,
    /// Groups that the disk refused.
    pub(crate) failures: Counter,
    /// Commits that wait for the disk.
    pub(crate) queued: Gauge,
    /// 1 while no writes are accepted.
    pub(crate) refusing: Gauge,
    /// 1 while one write takes too long.
    pub(crate) stalled: Gauge,
    pub(crate) file_bytes: Gauge,
    pub(crate) live_bytes: Gauge,
    pub(crate) revision: Gauge,
    pub(crate) keys: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            // 50 us to 13 s.
            persist_seconds: Histogram::new((0..19).map(|power| 5e-5 * f64::from(1u32 << power))),
            group_commits: Histogram::new((0..11).map(|power| f64::from(1u32 << power))),
            failures: Counter::default(),
            queued: Gauge::default(),
            refusing: Gauge::default(),
            stalled: Gauge::default(),
            file_bytes: Gauge::default(),
            live_bytes: Gauge::default(),
            revision: Gauge::default(),
            keys: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Names them.
    pub fn register(&self, registry: &mut Registry) {
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge("gantry_store_queued_commits", "Commits that wait for the disk", &self.queued);
        gauge("gantry_store_refusing", "1 while the disk takes no writes", &self.refusing);
        gauge("gantry_store_stalled", "1 while one write takes longer than ten seconds", &self.stalled);
        gauge("gantry_store_file_bytes", "Bytes of the store's files", &self.file_bytes);
        gauge("gantry_store_live_bytes", "Bytes of those files that still count", &self.live_bytes);
        gauge("gantry_store_revision", "The newest durable revision", &self.revision);
        gauge("gantry_store_keys", "Keys that have a value", &self.keys);
        let help = "Time from handing a group of commits to the disk until it is durable";
        registry.register("gantry_store_persist_duration_seconds", help, self.persist_seconds.clone());
        registry.register("gantry_store_group_commits", "Commits made durable together", self.group_commits.clone());
        let help = "Groups of commits that the disk refused";
        registry.register("gantry_store_persist_failures", help, self.failures.clone());
    }
}

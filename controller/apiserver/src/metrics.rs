//! The server's metrics, with the names that dashboards for Kubernetes know.

use std::sync::Arc;
use std::time::Duration;

use controller_object::resource::Resource;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: String,
    group: String,
    resource: String,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: String,
    group: String,
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    group: String,
    kind: String,
}

/// Counters and histograms of one server.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    watches: Family<WatchLabels, Gauge>,
}

fn buckets() -> Histogram {
    Histogram::new([0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0])
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations = Family::new_with_constructor(buckets as fn() -> Histogram);
        let watches = Family::default();
        registry.register("apiserver_request", "Requests by verb, resource and response code", requests.clone());
        registry.register("apiserver_request_duration_seconds", "Response latency without watches", durations.clone());
        registry.register("apiserver_longrunning_requests", "Watches that are open", watches.clone());
        Self { registry, requests, durations, watches }
    }

    pub(crate) fn observe(&self, verb: &str, group: &str, resource: &str, code: u16, took: Duration) {
        let (verb, group, resource) = (verb.to_uppercase(), group.to_owned(), resource.to_owned());
        if verb != "WATCH" {
            let labels = DurationLabels { verb: verb.clone(), group: group.clone(), resource: resource.clone() };
            self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        }
        self.requests.get_or_create(&RequestLabels { verb, group, resource, code }).inc();
    }

    pub(crate) fn watch_started(&self, resource: &Arc<Resource>) -> WatchGuard {
        let labels = WatchLabels { group: resource.group.clone(), kind: resource.kind.clone() };
        let gauge = self.watches.get_or_create(&labels).clone();
        gauge.inc();
        WatchGuard(gauge)
    }

    /// The text exposition format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let written = encode(&mut text, &self.registry);
        debug_assert!(written.is_ok());
        text
    }
}

/// Counts an open watch until it is dropped.
pub(crate) struct WatchGuard(Gauge);

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

//! The server's metrics, with the names that dashboards for Kubernetes know.

use std::sync::{Arc, Mutex, PoisonError};
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObjectLabels {
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InflightLabels {
    request_kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    plugin: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    certificate: &'static str,
}

type Durations = Family<DurationLabels, Histogram, fn() -> Histogram>;

/// Counters and histograms of one server.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    durations: Durations,
    inflight: Family<InflightLabels, Gauge>,
    watches: Family<WatchLabels, Gauge>,
    watch_events: Family<WatchLabels, Counter>,
    objects: Family<ObjectLabels, Gauge>,
    attempts: Family<ResultLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
    expiry: Family<CertificateLabels, Gauge>,
    client_expiry: Histogram,
}

fn buckets() -> Histogram {
    Histogram::new([0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0])
}

/// Which limit of Kubernetes a request would count against; watches count against none.
fn request_kind(verb: &str) -> Option<&'static str> {
    match verb {
        "watch" | "connect" => None,
        "get" | "list" | "GET" | "HEAD" => Some("readOnly"),
        _ => Some("mutating"),
    }
}

impl Metrics {
    /// Adds its own to what others of this process have registered; all of it is served.
    pub(crate) fn new(mut registry: Registry) -> Self {
        let (requests, watches, watch_events) = (Family::default(), Family::default(), Family::default());
        let (inflight, objects, attempts) = (Family::default(), Family::default(), Family::default());
        let (refused, expiry) = (Family::default(), Family::default());
        let durations = Durations::new_with_constructor(buckets as fn() -> Histogram);
        // From what has expired over minutes and hours to a year.
        let hours = [0.0, 0.5, 1.0, 2.0, 6.0, 12.0, 24.0, 96.0, 168.0, 720.0, 2160.0, 4320.0, 8760.0];
        let client_expiry = Histogram::new(hours.map(|hours| hours * 3600.0));
        registry.register("apiserver_request", "Requests by verb, resource and response code", requests.clone());
        registry.register("apiserver_request_duration_seconds", "Response latency without watches", durations.clone());
        let help = "Requests that are being answered, without watches";
        registry.register("apiserver_current_inflight_requests", help, inflight.clone());
        registry.register("apiserver_longrunning_requests", "Watches that are open", watches.clone());
        registry.register("apiserver_watch_events", "Events sent to watches", watch_events.clone());
        registry.register("apiserver_storage_objects", "Stored objects by resource", objects.clone());
        registry.register("authentication_attempts", "Requests by what finding their user gave", attempts.clone());
        registry.register("apiserver_admission_refusals", "Requests refused by admission", refused.clone());
        let help = "When certificates expire that this server shows, in seconds since 1970";
        registry.register("gantry_certificate_expiration_timestamp_seconds", help, expiry.clone());
        let help = "How long certificates of clients are still good";
        registry.register("apiserver_client_certificate_expiration_seconds", help, client_expiry.clone());
        let registry = Mutex::new(registry);
        Self {
            registry,
            requests,
            durations,
            inflight,
            watches,
            watch_events,
            objects,
            attempts,
            refused,
            expiry,
            client_expiry,
        }
    }

    /// Adds metrics of somebody else of this process, from now on.
    pub(crate) fn add(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn observe(&self, verb: &str, group: &str, resource: &str, code: u16, took: Duration) {
        let (verb, group, resource) = (verb.to_uppercase(), group.to_owned(), resource.to_owned());
        if verb != "WATCH" {
            let labels = DurationLabels { verb: verb.clone(), group: group.clone(), resource: resource.clone() };
            self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        }
        self.requests.get_or_create(&RequestLabels { verb, group, resource, code }).inc();
    }

    /// A request is being answered.
    pub(crate) fn begun(&self, verb: &str) -> Option<Counted> {
        let gauge = self.inflight.get_or_create(&InflightLabels { request_kind: request_kind(verb)? }).clone();
        gauge.inc();
        Some(Counted(gauge))
    }

    pub(crate) fn watch_started(&self, resource: &Arc<Resource>) -> WatchFigures {
        let labels = WatchLabels { group: resource.group.clone(), kind: resource.kind.clone() };
        let gauge = self.watches.get_or_create(&labels).clone();
        gauge.inc();
        WatchFigures { _open: Counted(gauge), events: self.watch_events.get_or_create(&labels).clone() }
    }

    /// The user of a request was found, or not.
    pub(crate) fn authenticated(&self, success: bool) {
        let result = if success { "success" } else { "failure" };
        self.attempts.get_or_create(&ResultLabels { result }).inc();
    }

    /// A client showed a certificate that is good for so many seconds.
    pub(crate) fn client_certificate(&self, seconds_left: f64) {
        self.client_expiry.observe(seconds_left);
    }

    /// Admission refused a request.
    pub(crate) fn refused(&self, plugin: &'static str) {
        self.refused.get_or_create(&RefusedLabels { plugin }).inc();
    }

    /// A certificate that this server shows expires then.
    pub(crate) fn certificate(&self, certificate: &'static str, expires: i64) {
        self.expiry.get_or_create(&CertificateLabels { certificate }).set(expires);
    }

    /// The text exposition in OpenMetrics; `objects` are counted now, by resource.
    pub(crate) fn text(&self, objects: impl Iterator<Item = (String, usize)>) -> String {
        for (resource, count) in objects {
            self.objects.get_or_create(&ObjectLabels { resource }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let written = encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner));
        debug_assert!(written.is_ok());
        text
    }
}

/// Counts something until it is dropped.
pub(crate) struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts an open watch until it is dropped, and what is sent on it.
pub(crate) struct WatchFigures {
    _open: Counted,
    pub(crate) events: Counter,
}

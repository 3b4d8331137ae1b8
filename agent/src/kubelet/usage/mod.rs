//! What the node and its pods use: measured when somebody asks, from cgroups and /proc, and told in the three forms
//! that scrapers know. Nothing is polled: rates come from the sample of the last question or from two in a row.

mod machine;
mod pods;
mod summary;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent_runtime::cgroup::Stats;
use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Shared;
use crate::execute::Host;

/// Between two samples of one question. Shorter windows would show the kernel's ticks.
const WINDOW: Duration = Duration::from_millis(500);
/// A sample that is older says nothing about now.
const STALE: Duration = Duration::from_secs(60);
/// The text format of Prometheus, which dashboards ask for.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One look at the node.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    at: Timestamp,
    taken: Instant,
    machine: machine::Machine,
    pods: Vec<PodUsage>,
}

/// What one pod used so far.
#[derive(Debug, Clone, Default, PartialEq)]
struct PodUsage {
    uid: String,
    namespace: String,
    name: String,
    stats: Stats,
    /// `None` where the pod uses the host's network or no process of it runs.
    network: Option<Traffic>,
    containers: Vec<ContainerUsage>,
}

/// What one running container used so far.
#[derive(Debug, Clone, Default, PartialEq)]
struct ContainerUsage {
    name: String,
    /// The name that its cgroup ends in: it changes with every start.
    id: String,
    started_at: Option<Timestamp>,
    stats: Stats,
}

/// Bytes and packets of a link since it was made, errors among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Traffic {
    received_bytes: u64,
    received_packets: u64,
    received_errors: u64,
    sent_bytes: u64,
    sent_packets: u64,
    sent_errors: u64,
}

/// Two looks at the node; the difference is a rate.
#[derive(Debug, Clone)]
struct Pair {
    earlier: Arc<Sample>,
    later: Arc<Sample>,
}

/// The samples of the last question.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    last: Mutex<Option<Pair>>,
}

impl Usage {
    /// Two samples at least [`WINDOW`] apart, the later one not older than that. Who asks meanwhile waits and gets the
    /// same, so that many scrapers cost as much as one.
    async fn pair(&self, host: &Arc<Host>) -> Pair {
        let mut last = self.last.lock().await;
        if let Some(pair) = last.as_ref().filter(|pair| pair.later.taken.elapsed() < WINDOW) {
            return pair.clone();
        }
        let earlier = match last.take() {
            Some(pair) if pair.later.taken.elapsed() < STALE => pair.later,
            _ => {
                let first = Arc::new(sample(host).await);
                tokio::time::sleep(WINDOW).await;
                first
            }
        };
        let pair = Pair { earlier, later: Arc::new(sample(host).await) };
        *last = Some(pair.clone());
        pair
    }
}

async fn sample(host: &Arc<Host>) -> Sample {
    let pods = pods::measure(host).await;
    Sample { at: Timestamp::now(), taken: Instant::now(), machine: machine::measure(&host.config.instance), pods }
}

/// What a pod and its containers, by name, use now.
pub(crate) struct OfPod {
    pub(crate) stats: Stats,
    pub(crate) containers: BTreeMap<String, Stats>,
}

/// By uid: every pod with a sandbox.
pub(crate) async fn of_pods(host: &Arc<Host>) -> BTreeMap<String, OfPod> {
    let all = pods::measure(host).await.into_iter().map(|pod| {
        let containers = pod.containers.into_iter().map(|container| (container.name, container.stats)).collect();
        (pod.uid, OfPod { stats: pod.stats, containers })
    });
    all.collect()
}

/// GET /stats/summary
pub(super) async fn summary(State(host): Shared, RawQuery(query): RawQuery) -> Response {
    let only_cpu_and_memory = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .any(|(name, value)| name == "only_cpu_and_memory" && value == "true");
    let pair = host.usage.pair(&host).await;
    axum::Json(summary::page(&host.config.node_name, &pair, only_cpu_and_memory)).into_response()
}

/// GET /metrics/resource
pub(super) async fn resource(State(host): Shared) -> Response {
    ([(CONTENT_TYPE, TEXT)], text::resource(&sample(&host).await)).into_response()
}

/// GET /metrics/cadvisor
pub(super) async fn cadvisor(State(host): Shared) -> Response {
    let images = images(&host).await;
    ([(CONTENT_TYPE, TEXT)], text::cadvisor(&sample(&host).await, &images)).into_response()
}

/// The image of each running container by pod uid and container name, as its OCI bundle's annotations do not tell it.
async fn images(host: &Arc<Host>) -> BTreeMap<(String, String), String> {
    use k8s_openapi::api::core::v1::Pod;
    use kube::api::{Api, ListParams};
    let api: Api<Pod> = Api::all(host.client.clone());
    let params = ListParams::default().fields(&format!("spec.nodeName={}", host.config.node_name));
    // The figures are worth telling without a label.
    let pods = api.list(&params).await.map(|list| list.items).unwrap_or_default();
    let mut images = BTreeMap::new();
    for pod in pods {
        let uid = pod.metadata.uid.unwrap_or_default();
        for status in pod.status.and_then(|status| status.container_statuses).unwrap_or_default() {
            images.insert((uid.clone(), status.name), status.image);
        }
    }
    images
}

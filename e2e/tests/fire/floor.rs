//! Watches every pod, and notes each moment at which fewer of a workload are ready than there may be.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use serde_json::Value;

use crate::workload::NAMESPACE;

/// One pod, as the watch tells of it.
#[derive(Clone, Debug)]
struct Seen {
    workload: String,
    name: String,
    revision: u64,
    is_ready: bool,
}

/// What one workload may not fall below.
#[derive(Debug, Default)]
struct Floor {
    /// The fewest replicas that were asked for since it was whole.
    lowest: u64,
    /// It was whole with these pods (uid and revision): once the watch has told of them, `lowest` is their number.
    whole: Option<Vec<(String, u64)>>,
}

#[derive(Default)]
struct State {
    pods: BTreeMap<String, Seen>,
    /// A list that is under way.
    listed: BTreeMap<String, Seen>,
    floors: BTreeMap<String, Floor>,
    broken: Vec<String>,
    events: u64,
}

/// The watch, which ends with the value.
pub(crate) struct Floors {
    state: Arc<Mutex<State>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Floors {
    pub(crate) fn watch(kubeconfig: &Path) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
        let (own, kubeconfig) = (Arc::clone(&state), kubeconfig.to_owned());
        runtime.spawn(async move {
            let config = kube::config::Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
            let options = kube::config::KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(config, &options).await.expect("a configuration");
            let client = kube::Client::try_from(config).expect("a client");
            let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
            let mut events = watcher(pods, Config::default().labels("fire=yes")).default_backoff().boxed();
            while let Some(event) = events.next().await {
                // The server is away now and then: the watch begins again.
                let Ok(event) = event else { continue };
                own.lock().unwrap_or_else(PoisonError::into_inner).take(event);
            }
        });
        Self { state, runtime: Some(runtime) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be told before so many replicas are asked for.
    pub(crate) fn asks(&self, workload: &str, replicas: u64) {
        let mut state = self.state();
        let floor = state.floors.entry(workload.to_owned()).or_default();
        floor.lowest = floor.lowest.min(replicas);
        floor.whole = None;
    }

    /// A workload is as it was asked to be, with these pods.
    pub(crate) fn is_whole(&self, workload: &str, pods: &[Value]) {
        let known = |pod: &Value| {
            let metadata = &pod["metadata"];
            let revision = metadata["resourceVersion"].as_str().and_then(|text| text.parse().ok());
            (metadata["uid"].as_str().unwrap_or_default().to_owned(), revision.unwrap_or_default())
        };
        let mut state = self.state();
        state.floors.entry(workload.to_owned()).or_default().whole = Some(pods.iter().map(known).collect());
        state.check();
    }

    /// What was seen below its floor, and how much was looked at.
    pub(crate) fn end(mut self) -> (Vec<String>, u64) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        let mut state = self.state();
        (std::mem::take(&mut state.broken), state.events)
    }
}

impl State {
    fn take(&mut self, event: Event<Pod>) {
        self.events += 1;
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => drop(self.listed.insert(uid(&pod), seen(&pod))),
            Event::InitDone => self.pods = std::mem::take(&mut self.listed),
            Event::Apply(pod) => drop(self.pods.insert(uid(&pod), seen(&pod))),
            Event::Delete(pod) => drop(self.pods.remove(&uid(&pod))),
        }
        self.check();
    }

    fn check(&mut self) {
        for (workload, floor) in &mut self.floors {
            let told =
                |(uid, revision): &(String, u64)| self.pods.get(uid).is_some_and(|pod| pod.revision >= *revision);
            if let Some(pods) = floor.whole.take_if(|pods| pods.iter().all(told)) {
                floor.lowest = pods.len() as u64;
            }
            let own = self.pods.values().filter(|pod| pod.workload == *workload);
            let (ready, away): (Vec<&Seen>, Vec<&Seen>) = own.partition(|pod| pod.is_ready);
            // One may be away, says every rollout and every budget here.
            if (ready.len() as u64) + 1 < floor.lowest {
                let names = |pods: &[&Seen]| pods.iter().map(|pod| pod.name.clone()).collect::<Vec<_>>();
                let (ready, away) = (names(&ready), names(&away));
                let what = format!("{workload}: of {} only {ready:?} are ready, {away:?} are not", floor.lowest);
                if !self.broken.contains(&what) {
                    self.broken.push(what);
                }
            }
        }
    }
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn seen(pod: &Pod) -> Seen {
    let metadata = &pod.metadata;
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is_ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    Seen {
        workload: metadata.labels.as_ref().and_then(|labels| labels.get("app")).cloned().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        revision: metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default(),
        is_ready: is_ready && metadata.deletion_timestamp.is_none(),
    }
}

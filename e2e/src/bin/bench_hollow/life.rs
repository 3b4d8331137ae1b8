//! The lives of pods on hollow nodes: what an agent would say of each, with nothing behind it.
//! One watch serves all nodes, so that the measured machine is not busy with five thousand connections of the measurement.
//! What is told is queued for writers, so that the watch keeps up; where it does not, pods are listed anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use e2e::wire::{Outcome, Server, send, whole};
use futures::channel::mpsc;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::agents::MERGE;

/// Pods that have a node.
const PLACED: &str = "/api/v1/pods?fieldSelector=spec.nodeName!=";
/// Writes of pods that are under way at once.
const WRITES: usize = 128;
const PAGE: usize = 500;

/// What a hollow agent looks at.
#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: String,
    deletion_timestamp: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

#[derive(Default, Deserialize)]
struct Status {
    phase: Option<String>,
}

impl Pod {
    fn key(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }
}

#[derive(Deserialize)]
struct Event {
    r#type: String,
    object: Value,
}

/// A page of pods.
#[derive(Deserialize)]
struct Page {
    metadata: ListMeta,
    items: Vec<Pod>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    resource_version: String,
    #[serde(default)]
    r#continue: String,
}

/// What comes next for a pod.
#[derive(Clone, Copy)]
enum Step {
    Start,
    End,
}

impl Step {
    fn of(pod: &Pod) -> Option<Self> {
        match pod.metadata.deletion_timestamp {
            Some(_) => Some(Self::End),
            None => (pod.status.phase.as_deref() == Some("Pending")).then_some(Self::Start),
        }
    }
}

/// The status of a pod that runs.
fn running() -> Value {
    let ready = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let conditions =
        ["PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"].map(ready);
    let state = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    let container = json!({"name": "c", "image": "pause", "imageID": "pause@sha256:0", "containerID": "gantry://0", "ready": true,
        "started": true, "restartCount": 0, "state": state});
    json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "podIP": "10.9.9.9",
        "podIPs": [{"ip": "10.9.9.9"}], "conditions": conditions, "containerStatuses": [container]})
}

/// What has been seen of pods: how often each so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) bound: usize,
    pub(crate) running: usize,
    pub(crate) gone: usize,
}

impl Counts {
    /// Pods that have a node.
    pub(crate) fn held(self) -> usize {
        self.bound.saturating_sub(self.gone)
    }
}

/// The counts, and whoever waits for them.
#[derive(Default)]
pub(crate) struct Seen(watch::Sender<Counts>);

impl Seen {
    pub(crate) fn now(&self) -> Counts {
        *self.0.borrow()
    }

    fn count(&self, which: fn(&mut Counts) -> &mut usize) {
        self.0.send_modify(|counts| *which(counts) += 1);
    }

    /// Waits until the counts are as wanted.
    pub(crate) async fn until(&self, what: &str, fits: impl FnMut(&Counts) -> bool) -> Outcome<()> {
        const LONGEST: Duration = Duration::from_secs(600);
        let mut counts = self.0.subscribe();
        match tokio::time::timeout(LONGEST, counts.wait_for(fits)).await {
            Ok(found) => Ok(found.map(drop)?),
            Err(_) => {
                let Counts { bound, running, gone } = self.now();
                Err(format!("{what}: not in ten minutes; bound {bound}, running {running}, gone {gone}").into())
            }
        }
    }
}

/// Lives for all agents, until dropped.
pub(crate) async fn live(server: Server, seen: Arc<Seen>) -> Outcome<()> {
    let (tell, told) = mpsc::unbounded();
    let watching = follow(server.clone(), Watched { known: HashMap::new(), seen: Arc::clone(&seen), tell });
    tokio::try_join!(watching, write(server, seen, told)).map(drop)
}

/// Follows all pods with a node, from a list on.
async fn follow(server: Server, mut watched: Watched) -> Outcome<()> {
    let mut sender = server.connect().await?;
    loop {
        let (mut from, mut listed) = (String::new(), HashMap::new());
        let revision = loop {
            let path = format!("{PLACED}&limit={PAGE}&continue={from}");
            let page = whole(&mut sender, server.request(Method::GET, &path, &[], Bytes::new())?).await?;
            let page: Page = serde_json::from_slice(&page)?;
            listed.extend(page.items.into_iter().map(|pod| (pod.key(), pod)));
            if page.metadata.r#continue.is_empty() {
                break page.metadata.resource_version;
            }
            from = page.metadata.r#continue;
        };
        watched.list(listed)?;
        let path = format!("{PLACED}&watch=1&resourceVersion={revision}");
        let (status, mut body) = send(&mut sender, server.request(Method::GET, &path, &[], Bytes::new())?).await?;
        if status != StatusCode::OK {
            return Err(format!("watching pods: {status}").into());
        }
        let mut text = Vec::new();
        'lines: while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            text.extend_from_slice(&data);
            let mut rest = text.as_slice();
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let (line, next) = rest.split_at(end + 1);
                rest = next;
                let event: Event = serde_json::from_slice(line)?;
                if event.r#type == "ERROR" {
                    eprintln!("pods are listed anew: {}", event.object["message"]);
                    break 'lines;
                }
                watched.event(&event.r#type, serde_json::from_value(event.object)?)?;
            }
            text = rest.to_vec();
        }
    }
}

/// What the watch knows of pods: which there are, and of which it was told that they wait for their start.
struct Watched {
    known: HashMap<String, bool>,
    seen: Arc<Seen>,
    tell: mpsc::UnboundedSender<(String, Step)>,
}

impl Watched {
    fn list(&mut self, listed: HashMap<String, Pod>) -> Outcome<()> {
        let gone: Vec<String> = self.known.keys().filter(|key| !listed.contains_key(*key)).cloned().collect();
        for key in gone {
            self.gone(&key);
        }
        listed.into_values().try_for_each(|pod| self.event("MODIFIED", pod))
    }

    fn gone(&mut self, key: &str) {
        if self.known.remove(key).is_some() {
            self.seen.count(|counts| &mut counts.gone);
        }
    }

    fn event(&mut self, kind: &str, pod: Pod) -> Outcome<()> {
        let key = pod.key();
        if kind == "DELETED" {
            self.gone(&key);
            return Ok(());
        }
        let is_started = self.known.entry(key.clone()).or_insert_with(|| {
            self.seen.count(|counts| &mut counts.bound);
            false
        });
        if !pod.spec.node_name.as_deref().is_some_and(|node| node.starts_with("hollow-")) {
            return Ok(());
        }
        match Step::of(&pod) {
            Some(Step::Start) if *is_started => {}
            Some(step) => {
                *is_started = true;
                self.tell.unbounded_send((key, step))?;
            }
            None => {}
        }
        Ok(())
    }
}

/// Writes what comes next for pods, many at once.
async fn write(server: Server, seen: Arc<Seen>, told: mpsc::UnboundedReceiver<(String, Step)>) -> Outcome<()> {
    let senders = server.connections().await?;
    let running = Bytes::from(json!({"status": running()}).to_string());
    let told = told.enumerate().map(Ok);
    told.try_for_each_concurrent(WRITES, |(turn, (key, step))| {
        let (mut sender, server, seen, running) =
            (senders[turn % senders.len()].clone(), &server, &seen, running.clone());
        async move {
            let (namespace, name) = key.split_once('/').unwrap_or_default();
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
            let request = match step {
                Step::Start => server.request(Method::PATCH, &format!("{path}/status"), &[MERGE], running)?,
                Step::End => {
                    server.request(Method::DELETE, &format!("{path}?gracePeriodSeconds=0"), &[], Bytes::new())?
                }
            };
            match whole(&mut sender, request).await {
                Ok(_) if matches!(step, Step::Start) => seen.count(|counts| &mut counts.running),
                Ok(_) => {}
                // It may have been deleted meanwhile.
                Err(error) if error.to_string().starts_with("404") => {}
                Err(error) => eprintln!("a pod: {error}"),
            }
            Ok(())
        }
    })
    .await
}

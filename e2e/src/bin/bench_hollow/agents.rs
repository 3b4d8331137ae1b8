//! Hollow agents: nodes that renew their leases and say of each pod what an agent would, with nothing behind them.
//! One watch serves all of them, so that the measured machine is not busy with five thousand connections of the measurement.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use e2e::wire::{Outcome, Sender, Server, send, whole};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

const MERGE: (&str, &str) = ("content-type", "application/merge-patch+json");
const JSON: (&str, &str) = ("content-type", "application/json");
/// How often an agent renews its lease (KubeletConfiguration, `nodeLeaseDurationSeconds` 40, a quarter of it).
const RENEWAL: Duration = Duration::from_secs(10);
/// Writes of pods that are under way at once.
const WRITES: usize = 128;

/// What a hollow agent looks at.
#[derive(Deserialize)]
pub(crate) struct Pod {
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

#[derive(Deserialize)]
struct Event {
    r#type: String,
    object: Value,
}

/// What comes next for a pod that fits.
struct Stage {
    fits: fn(&Pod) -> bool,
    next: Next,
}

enum Next {
    /// This status.
    Status(Value),
    /// Its end.
    Gone,
}

/// The life of a pod on a hollow node.
fn stages() -> [Stage; 2] {
    let ready = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let conditions =
        ["PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"].map(ready);
    let state = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    let container = json!({"name": "c", "image": "pause", "imageID": "pause@sha256:0", "containerID": "gantry://0", "ready": true,
        "started": true, "restartCount": 0, "state": state});
    let running = json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "podIP": "10.9.9.9",
        "podIPs": [{"ip": "10.9.9.9"}], "conditions": conditions, "containerStatuses": [container]});
    [
        Stage { fits: |pod| pod.metadata.deletion_timestamp.is_some(), next: Next::Gone },
        Stage { fits: |pod| pod.status.phase.as_deref() == Some("Pending"), next: Next::Status(running) },
    ]
}

/// What has been seen of pods.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) bound: AtomicU64,
    pub(crate) running: AtomicU64,
    pub(crate) gone: AtomicU64,
}

/// Makes the nodes, each with its lease.
pub(crate) async fn make(server: &Server, count: usize) -> Outcome<()> {
    let mut senders = Vec::new();
    for _ in 0..4 {
        senders.push(server.connect().await?);
    }
    let mut running = tokio::task::JoinSet::new();
    for number in 0..count {
        if running.len() >= 64 {
            running.join_next().await.ok_or("no task")???;
        }
        let (mut sender, server) = (senders[number % senders.len()].clone(), server.clone());
        running.spawn(async move {
            let node = server.request(Method::POST, "/api/v1/nodes", &[JSON], node(number).to_string().into())?;
            whole(&mut sender, node).await?;
            let lease = json!({"metadata": {"name": name(number), "namespace": "kube-node-lease"},
                "spec": {"holderIdentity": name(number), "leaseDurationSeconds": 40, "renewTime": now()}});
            let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
            whole(&mut sender, server.request(Method::POST, path, &[JSON], lease.to_string().into())?).await.map(drop)
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}

/// The name of the node of this number.
pub(crate) fn name(number: usize) -> String {
    format!("hollow-{number}")
}

fn now() -> String {
    let now = k8s_openapi::jiff::Timestamp::now();
    now.strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string()
}

/// A node as scheduler_perf has it: 4 cores, 32 GiB, 110 pods; every tenth zone.
fn node(number: usize) -> Value {
    let name = name(number);
    let capacity = json!({"cpu": "4", "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi"});
    let good = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "Hollow", "lastHeartbeatTime": now(), "lastTransitionTime": now()});
    json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
            "topology.kubernetes.io/zone": format!("zone-{}", number % 10)}},
        "spec": {"podCIDR": format!("11.{}.{}.0/24", number / 256, number % 256)},
        "status": {"capacity": capacity, "allocatable": capacity, "conditions": [good("Ready", "True"), good("MemoryPressure", "False"),
            good("DiskPressure", "False"), good("PIDPressure", "False")], "addresses": [{"type": "Hostname", "address": name}]}})
}

/// Renews every lease in its time, until dropped.
pub(crate) async fn renew(server: Server, count: usize) -> Outcome<()> {
    let sender = server.connect().await?;
    let mut tick = tokio::time::interval(RENEWAL / u32::try_from(count.max(1))?);
    for number in (0..count).cycle() {
        tick.tick().await;
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}", name(number));
        let patch = json!({"spec": {"renewTime": now()}}).to_string();
        let request = server.request(Method::PATCH, &path, &[MERGE], patch.into())?;
        let mut sender = sender.clone();
        tokio::spawn(async move {
            if let Err(error) = whole(&mut sender, request).await {
                eprintln!("a lease: {error}");
            }
        });
    }
    Ok(())
}

/// Lives for all agents, until dropped.
pub(crate) async fn live(server: Server, seen: Arc<Seen>) -> Outcome<()> {
    let mut watching = server.connect().await?;
    let path = "/api/v1/pods?watch=1&resourceVersion=0&fieldSelector=spec.nodeName!=";
    let (status, mut body) = send(&mut watching, server.request(Method::GET, path, &[], Bytes::new())?).await?;
    if status != StatusCode::OK {
        return Err(format!("watching pods: {status}").into());
    }
    let mut senders = Vec::new();
    for _ in 0..4 {
        senders.push(server.connect().await?);
    }
    let (stages, room) = (stages(), Arc::new(Semaphore::new(WRITES)));
    let mut text = Vec::new();
    let mut turn = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        text.extend_from_slice(&data);
        let mut rest = text.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, next) = rest.split_at(end + 1);
            rest = next;
            turn += 1;
            act(&server, &senders[turn % senders.len()], line, &stages, &seen, &room).await?;
        }
        text = rest.to_vec();
    }
    Err("the watch of pods has ended".into())
}

async fn act(
    server: &Server,
    sender: &Sender,
    line: &[u8],
    stages: &[Stage],
    seen: &Arc<Seen>,
    room: &Arc<Semaphore>,
) -> Outcome<()> {
    let event: Event = serde_json::from_slice(line)?;
    match event.r#type.as_str() {
        // A pod that gets its node comes into what is watched.
        "ADDED" => drop(seen.bound.fetch_add(1, Ordering::Relaxed)),
        "DELETED" => {
            seen.gone.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        "MODIFIED" => {}
        other => return Err(format!("{other}: {}", event.object).into()),
    }
    let pod: Pod = serde_json::from_value(event.object)?;
    if !pod.spec.node_name.as_deref().is_some_and(|node| node.starts_with("hollow-")) {
        return Ok(());
    }
    let Some(stage) = stages.iter().find(|stage| (stage.fits)(&pod)) else { return Ok(()) };
    let path = format!("/api/v1/namespaces/{}/pods/{}", pod.metadata.namespace, pod.metadata.name);
    let (request, is_start) = match &stage.next {
        Next::Status(status) => {
            let patch = json!({"status": status}).to_string();
            (server.request(Method::PATCH, &format!("{path}/status"), &[MERGE], patch.into())?, true)
        }
        Next::Gone => {
            (server.request(Method::DELETE, &format!("{path}?gracePeriodSeconds=0"), &[], Bytes::new())?, false)
        }
    };
    let permit = Arc::clone(room).acquire_owned().await?;
    let (mut sender, seen) = (sender.clone(), Arc::clone(seen));
    tokio::spawn(async move {
        match whole(&mut sender, request).await {
            Ok(_) if is_start => drop(seen.running.fetch_add(1, Ordering::Relaxed)),
            Ok(_) => {}
            // It may have been deleted meanwhile.
            Err(error) if error.to_string().starts_with("404") => {}
            Err(error) => eprintln!("a pod: {error}"),
        }
        drop(permit);
    });
    Ok(())
}

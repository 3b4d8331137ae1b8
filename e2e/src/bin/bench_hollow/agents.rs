//! Hollow nodes: made, and alive by their leases, with nothing behind them.

use std::time::Duration;

use e2e::wire::{Outcome, Server, whole};
use http::Method;
use serde_json::{Value, json};

pub(crate) const MERGE: (&str, &str) = ("content-type", "application/merge-patch+json");
const JSON: (&str, &str) = ("content-type", "application/json");
/// How often an agent renews its lease (KubeletConfiguration, `nodeLeaseDurationSeconds` 40, a quarter of it).
const RENEWAL: Duration = Duration::from_secs(10);

/// Makes the nodes, each with its lease.
pub(crate) async fn make(server: &Server, count: usize) -> Outcome<()> {
    let senders = server.connections().await?;
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

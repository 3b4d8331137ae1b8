//! Nodes without machines: pods on them run as soon as they are told to, unless their image is `broken`. A taint keeps
//! everybody else's pods away.

use std::time::Duration;

use e2e::api::{Api, Patch};
use serde_json::{Value, json};

use crate::scene::name_of;

/// Nodes of one test, served until dropped.
pub(crate) struct Hollow {
    api: Api,
    tasks: tokio::task::JoinSet<()>,
    names: Vec<String>,
}

impl Hollow {
    /// So many nodes, named after the test's namespace.
    pub(crate) async fn new(api: &Api, count: usize) -> Self {
        let mut hollow = Self { api: api.clone(), tasks: tokio::task::JoinSet::new(), names: Vec::new() };
        for _ in 0..count {
            hollow.add().await;
        }
        hollow.tasks.spawn(serve(api.clone()));
        hollow
    }

    /// One more node; answers its name.
    pub(crate) async fn add(&mut self) -> String {
        let mark = self.api.namespace.clone();
        let name = format!("{mark}-{}", self.names.len());
        let node = json!({"metadata": {"name": name, "labels": {"hollow": mark, "kubernetes.io/hostname": name}},
            "spec": {"taints": [{"key": "hollow", "value": mark, "effect": "NoSchedule"}]}});
        self.api.post("/api/v1/nodes", node).await.ok();
        let now = k8s_openapi::jiff::Timestamp::now().to_string();
        let able = json!({"cpu": "8", "memory": "8Gi", "pods": "110"});
        let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
            "lastHeartbeatTime": now, "lastTransitionTime": now});
        let status = json!({"status": {"capacity": able, "allocatable": able, "conditions": [ready]}});
        self.api.patch(&format!("/api/v1/nodes/{name}/status"), Patch::Merge, status).await.ok();
        // It is said to be new, and not ready yet, until the node controller has read the status.
        let is_clean = |node: &Value| node["spec"]["taints"].as_array().is_some_and(|taints| taints.len() == 1);
        self.api.until("/api/v1/nodes", &name, "the node is ready", is_clean).await;
        self.tasks.spawn(renew(self.api.clone(), name.clone()));
        self.names.push(name.clone());
        name
    }

    /// What a template needs to be on these nodes, on `node-1` too if wanted, and nowhere else.
    pub(crate) fn only(&self, template: &mut Value, with_real: bool) {
        let mark = &self.api.namespace;
        let term =
            |key: &str, value: &str| json!({"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]});
        let mut terms = vec![term("hollow", mark)];
        if with_real {
            terms.push(term("kubernetes.io/hostname", "node-1"));
        }
        let spec = &mut template["spec"];
        spec["tolerations"] = json!([{"key": "hollow", "value": mark, "effect": "NoSchedule"}]);
        spec["affinity"] =
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
    }

    /// The names of the nodes.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// A merge patch of a node.
    pub(crate) async fn patch(&self, node: &str, patch: Value) {
        self.api.patch(&format!("/api/v1/nodes/{node}"), Patch::Merge, patch).await.ok();
    }

    /// Removes a node.
    pub(crate) async fn remove(&self, node: &str) {
        self.api.delete(&format!("/api/v1/nodes/{node}"), Value::Null).await.ok();
    }

    /// Removes all nodes.
    pub(crate) async fn end(self) {
        for name in &self.names {
            self.api.delete(&format!("/api/v1/nodes/{name}"), Value::Null).await;
        }
    }
}

/// The node tells that it is alive.
async fn renew(api: Api, node: String) {
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let spec = || json!({"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": k8s_openapi::jiff::Timestamp::now().to_string()});
    api.post(leases, json!({"metadata": {"name": node}, "spec": spec()})).await;
    loop {
        tokio::time::sleep(Duration::from_secs(10)).await;
        api.patch(&format!("{leases}/{node}"), Patch::Merge, json!({"spec": spec()})).await;
    }
}

/// Does what the agents of all hollow nodes of a namespace would do.
async fn serve(api: Api) {
    let pods = api.path("v1", "pods");
    loop {
        let mut events = api.watch(&pods).await;
        while let Some((kind, pod)) = events.within(Duration::from_secs(3600)).await {
            let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            if kind == "DELETED" || !node.starts_with(&format!("{}-", api.namespace)) {
                continue;
            }
            let path = format!("{pods}/{}", name_of(&pod));
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                let uid = &pod["metadata"]["uid"];
                api.delete(&path, json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})).await;
            } else if pod["status"]["phase"] == "Pending" && pod["spec"]["containers"][0]["image"] != "broken" {
                let now = k8s_openapi::jiff::Timestamp::now().to_string();
                let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": now});
                let status = json!({"phase": "Running", "startTime": now, "conditions": [ready]});
                api.patch(&format!("{path}/status"), Patch::Strategic, json!({"status": status})).await;
            }
        }
    }
}

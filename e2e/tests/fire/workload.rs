//! What was asked of one workload, and whether it has come to that.

use e2e::client::Client;
use serde_json::{Value, json};

pub(crate) const NAMESPACE: &str = "fire";
pub(crate) const IMAGES: [&str; 2] = ["busybox", "talk"];

/// A Deployment or a StatefulSet, with what was asked of it last.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) is_deployment: bool,
    pub(crate) replicas: u64,
    pub(crate) image: &'static str,
    /// Differs from template to template.
    pub(crate) turn: u64,
    pub(crate) is_paused: bool,
}

impl Workload {
    /// As the command line names it.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", if self.is_deployment { "deployment" } else { "statefulset" }, self.name)
    }

    /// The workload and its budget: one pod may be away at a time.
    pub(crate) fn manifest(&self) -> Value {
        let labels = json!({"app": self.name, "fire": "yes"});
        let selector = json!({"matchLabels": {"app": self.name}});
        let mut spec = json!({"replicas": self.replicas, "selector": selector, "template": {
            "metadata": {"labels": labels, "annotations": {"turn": self.turn.to_string()}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": self.image, "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", "sleep 1; touch /tmp/ready; exec sleep 1000000"],
                // It is never said no to a pod that was ready: only changes of ours make it unready.
                "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "timeoutSeconds": 60}}]}}});
        let kind = match self.is_deployment {
            true => {
                spec["strategy"] =
                    json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}});
                spec["paused"] = json!(self.is_paused);
                "Deployment"
            }
            false => {
                spec["serviceName"] = json!(self.name);
                "StatefulSet"
            }
        };
        let metadata = json!({"name": self.name, "namespace": NAMESPACE});
        json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec},
            {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata, "spec": {"maxUnavailable": 1, "selector": selector}}]})
    }

    /// What the server holds.
    pub(crate) fn held(&self, client: &Client) -> Value {
        client.get(&[&self.path(), "-n", NAMESPACE])
    }

    /// Why an object is not what was asked; `None` if it is.
    pub(crate) fn differs(&self, held: &Value) -> Option<String> {
        let (spec, template) = (&held["spec"], &held["spec"]["template"]);
        let asked = (json!(self.replicas), json!(self.turn.to_string()), json!(self.image));
        let found = (
            spec["replicas"].clone(),
            template["metadata"]["annotations"]["turn"].clone(),
            template["spec"]["containers"][0]["image"].clone(),
        );
        (asked != found).then(|| format!("{}: asked for {asked:?}, the server holds {found:?}", self.path()))
    }

    /// The pods, if its controller has seen the last change and each pod is of the last template and ready.
    pub(crate) fn settled(&self, client: &Client) -> Option<Vec<Value>> {
        let held = self.held(client);
        let status = &held["status"];
        let all =
            [&status["replicas"], &status["updatedReplicas"], &status["readyReplicas"], &status["availableReplicas"]];
        let is_whole = status["observedGeneration"] == held["metadata"]["generation"]
            && self.differs(&held).is_none()
            && all.iter().all(|count| **count == self.replicas);
        if !is_whole {
            return None;
        }
        let pods = client.get(&["pods", "-n", NAMESPACE, "-l", &format!("app={}", self.name)]);
        let pods = pods["items"].as_array()?.clone();
        let turn = self.turn.to_string();
        let is_of_last = |pod: &Value| {
            pod["metadata"]["annotations"]["turn"] == turn
                && pod["spec"]["containers"][0]["image"] == self.image
                && pod["metadata"]["deletionTimestamp"].is_null()
        };
        (pods.len() as u64 == self.replicas && pods.iter().all(is_of_last)).then_some(pods)
    }
}

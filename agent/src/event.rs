//! Events about pods and the node, as `kubectl describe` shows them. Losing one is logged, never fatal. What becomes of
//! each is decided in `api::event`.

use std::sync::{Mutex, PoisonError};

use agent_pod::facts::{self, Role};
use agent_pod::protocol::Notice;
use api::event::{Correlator, Reporter, Severity, Write};
use k8s_openapi::api::core::v1::{Event, ObjectReference, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};

/// The component that events and field managers name.
pub(crate) const COMPONENT: &str = "gantry-agent";

/// Where the agent's events go.
#[derive(Debug)]
pub(crate) struct Recorder {
    node: String,
    correlator: Mutex<Correlator>,
}

impl Recorder {
    /// That of the agent of this node.
    pub(crate) fn new(node: &str) -> Self {
        let reporter = Reporter { component: COMPONENT.to_owned(), host: Some(node.to_owned()) };
        Self { node: node.to_owned(), correlator: Mutex::new(Correlator::new(reporter)) }
    }

    /// Writes an event about a pod.
    pub(crate) async fn pod(&self, client: &kube::Client, pod: &Pod, notice: &Notice) {
        let field_path = notice.container.as_ref().map(|container| {
            let role = facts::containers(pod).find(|(own, _)| own.name == *container).map(|(_, role)| role);
            let list = match role {
                Some(Role::Init | Role::Sidecar) => "initContainers",
                Some(Role::Ephemeral) => "ephemeralContainers",
                Some(Role::App) | None => "containers",
            };
            format!("spec.{list}{{{container}}}")
        });
        let severity = if notice.warning { Severity::Warning } else { Severity::Normal };
        self.tell(client, about(pod, field_path), severity, notice.reason, &notice.message).await;
    }

    /// Writes a warning about a pod that the node does not take.
    pub(crate) async fn refused(&self, client: &kube::Client, pod: &Pod, reason: &str, message: &str) {
        self.tell(client, about(pod, None), Severity::Warning, reason, message).await;
    }

    /// Writes an event about this node.
    pub(crate) async fn node(&self, client: &kube::Client, severity: Severity, reason: &str, message: &str) {
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(self.node.clone()),
            // As the kubelet has it: clients look for a node's events by it.
            uid: Some(self.node.clone()),
            ..ObjectReference::default()
        };
        self.tell(client, about, severity, reason, message).await;
    }

    async fn tell(
        &self,
        client: &kube::Client,
        about: ObjectReference,
        severity: Severity,
        reason: &str,
        message: &str,
    ) {
        let (object, reason) = (about.name.clone(), reason.to_owned());
        let message = message.to_owned();
        let notice = api::event::Notice { about, severity, reason: reason.clone(), message, action: String::new() };
        let now = k8s_openapi::jiff::Timestamp::now();
        let decided = self.correlator.lock().unwrap_or_else(PoisonError::into_inner).see(notice, now);
        let Some(write) = decided else { return };
        if let Err(error) = store(client, &write).await {
            tracing::warn!(%error, object, reason, "the event could not be written");
        }
    }
}

fn about(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

async fn store(client: &kube::Client, write: &Write) -> Result<(), kube::Error> {
    let events: Api<Event> = Api::namespaced(client.clone(), write.namespace());
    if let Some(patch) = &write.patch {
        match events.patch(write.name(), &PatchParams::default(), &Patch::Merge(patch)).await {
            // It has expired.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => return other.map(drop),
        }
    }
    match events.create(&PostParams::default(), &write.event).await {
        // Two tellings of one event crossed on their way: the later one is there, or has yet to change the earlier.
        Err(kube::Error::Api(status)) if status.code == 409 => match &write.patch {
            Some(patch) => events.patch(write.name(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop),
            None => Ok(()),
        },
        other => other.map(drop),
    }
}

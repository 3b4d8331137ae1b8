//! What is told to people: events and the `PodScheduled` condition, off the hot path.
use crate::snapshot::PodFacts;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use std::sync::Arc;
use tokio::sync::mpsc;

/// More than this are not kept waiting: people are told less, pods are bound all the same.
const CAPACITY: usize = 4096;

/// Something to tell.
#[derive(Debug)]
pub(crate) enum Notice {
    /// The pod has a node.
    Bound(Arc<PodFacts>, Box<str>),
    /// No node takes it; and whether the condition has to be written.
    Unfit(Arc<PodFacts>, String),
    /// Binding failed.
    Failed(Arc<PodFacts>, String),
}

/// Where notices go.
#[derive(Clone, Debug)]
pub(crate) struct Notices(mpsc::Sender<Notice>);

impl Notices {
    /// Starts the task that tells.
    pub(crate) fn start(client: kube::Client) -> Self {
        let (sender, mut receiver) = mpsc::channel(CAPACITY);
        let reporter =
            Reporter { controller: crate::snapshot::SCHEDULER_NAME.to_owned(), instance: Some("gantry".to_owned()) };
        let recorder = Recorder::new(client.clone(), reporter);
        tokio::spawn(async move {
            while let Some(notice) = receiver.recv().await {
                tell(&client, &recorder, notice).await;
            }
        });
        Self(sender)
    }

    pub(crate) fn send(&self, notice: Notice) {
        if let Err(error) = self.0.try_send(notice) {
            tracing::debug!(%error, "an event is not told");
        }
    }
}

async fn tell(client: &kube::Client, recorder: &Recorder, notice: Notice) {
    let (pod, type_, reason, note, action) = match notice {
        Notice::Bound(pod, node) => {
            let note = format!("Successfully assigned {} to {node}", pod.key);
            (pod, EventType::Normal, "Scheduled", note, "Binding")
        }
        Notice::Unfit(pod, message) => {
            if pod.told.as_deref() != Some(message.as_str()) {
                tell_condition(client, &pod, &message).await;
            }
            (pod, EventType::Warning, "FailedScheduling", message, "Scheduling")
        }
        Notice::Failed(pod, message) => (pod, EventType::Warning, "FailedScheduling", message, "Binding"),
    };
    let (namespace, name) = pod.names();
    let reference = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(pod.uid.to_string()),
        ..ObjectReference::default()
    };
    let event =
        Event { type_, reason: reason.to_owned(), note: Some(note), action: action.to_owned(), secondary: None };
    if let Err(error) = recorder.publish(&event, &reference).await {
        tracing::debug!(object = &*pod.key, %error, "an event is not told");
    }
}

async fn tell_condition(client: &kube::Client, pod: &PodFacts, message: &str) {
    let (namespace, name) = pod.names();
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let patch = serde_json::json!({
        "metadata": {"uid": *pod.uid},
        "status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }]},
    });
    if let Err(error) = pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        tracing::debug!(object = &*pod.key, uid = &*pod.uid, %error, "the PodScheduled condition is not written");
    }
}

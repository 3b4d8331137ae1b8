//! What is told to people: events and the `PodScheduled` condition, off the hot path.
use crate::group::GroupKey;
use crate::pod::{PodFacts, PodKey};
use crate::preempt::Victim;
use crate::write;
use api::event::{Correlator, Reporter, Severity};
use k8s_openapi::api::core::v1::{Event, ObjectReference, Pod};
use k8s_openapi::api::scheduling::v1beta1::PodGroup;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// More than this are not kept waiting: people are told less, pods are bound all the same.
const CAPACITY: usize = 4096;

/// What the condition says of a pod with gates (Kubernetes' words).
const GATED: &str = "Scheduling is blocked due to non-empty scheduling gates";

/// Something to tell.
#[derive(Debug)]
pub(crate) enum Notice {
    /// The pod has a node.
    Bound(Arc<PodFacts>, Box<str>),
    /// No node takes it, and why.
    Unfit(Arc<PodFacts>, String),
    /// It waits for its gates.
    Gated(Arc<PodFacts>),
    /// Binding it or getting its volumes failed, and why.
    Failed(Arc<PodFacts>, String),
    /// A pod has to leave its node for another one.
    Preempted(Victim, Arc<PodFacts>, Box<str>),
}

/// A condition of a group of pods, to be told.
#[derive(Debug)]
pub(crate) struct GroupNotice {
    /// The group.
    pub(crate) key: GroupKey,
    /// Its uid.
    pub(crate) uid: Box<str>,
    /// The condition, as the API has it.
    pub(crate) condition: Value,
}

/// What waits to be told, in its order.
#[derive(Debug)]
enum Waiting {
    Pod(Notice),
    Group(GroupNotice),
}

impl Notice {
    /// The profile of the pod that is placed, or is to be.
    fn profile(&self) -> Box<str> {
        let (Self::Bound(pod, _)
        | Self::Unfit(pod, _)
        | Self::Gated(pod)
        | Self::Failed(pod, _)
        | Self::Preempted(_, pod, _)) = self;
        pod.shape.profile.name.clone()
    }
}

/// Where notices go.
#[derive(Clone, Debug)]
pub(crate) struct Notices(mpsc::Sender<Waiting>);

impl Notices {
    /// Starts the task that tells.
    pub(crate) fn start(client: kube::Client) -> Self {
        let (sender, mut receiver) = mpsc::channel::<Waiting>(CAPACITY);
        tokio::spawn(async move {
            // By profile, which is who tells.
            let mut correlators: HashMap<Box<str>, Correlator> = HashMap::new();
            while let Some(waiting) = receiver.recv().await {
                let notice = match waiting {
                    Waiting::Pod(notice) => notice,
                    Waiting::Group(notice) => {
                        tell_group(&client, notice).await;
                        continue;
                    }
                };
                let profile = notice.profile();
                let correlator = correlators
                    .entry(profile.clone())
                    .or_insert_with(|| Correlator::new(Reporter { component: profile.into(), host: None }));
                tell(&client, correlator, notice).await;
            }
        });
        Self(sender)
    }

    /// Tells it after all that was before, unless too much waits.
    pub(crate) fn send(&self, notice: Notice) {
        self.hand_on(Waiting::Pod(notice));
    }

    /// The same; `false` if too much waits.
    pub(crate) fn send_of_group(&self, notice: GroupNotice) -> bool {
        self.hand_on(Waiting::Group(notice))
    }

    fn hand_on(&self, waiting: Waiting) -> bool {
        let sent = self.0.try_send(waiting);
        if let Err(error) = &sent {
            tracing::debug!(%error, "an event is not told");
        }
        sent.is_ok()
    }
}

async fn tell(client: &kube::Client, correlator: &mut Correlator, notice: Notice) {
    let named = |pod: &PodFacts| (Arc::clone(&pod.key), Arc::clone(&pod.uid));
    let ((key, uid), severity, reason, message, action): ((PodKey, Arc<str>), _, _, _, _) = match notice {
        Notice::Bound(pod, node) => {
            let message = format!("Successfully assigned {} to {node}", pod.key);
            (named(&pod), Severity::Normal, "Scheduled", message, "Binding")
        }
        Notice::Preempted(victim, pod, node) => {
            let message = format!("Preempted by pod {} on node {node}", pod.uid);
            ((victim.key, victim.uid), Severity::Normal, "Preempted", message, "Preempting")
        }
        Notice::Gated(pod) => {
            if pod.told.as_deref() != Some(GATED) {
                tell_condition(client, &pod, "SchedulingGated", GATED).await;
            }
            return;
        }
        Notice::Unfit(pod, message) => {
            if pod.told.as_deref() != Some(message.as_str()) {
                tell_condition(client, &pod, "Unschedulable", &message).await;
            }
            (named(&pod), Severity::Warning, "FailedScheduling", message, "Scheduling")
        }
        Notice::Failed(pod, message) => (named(&pod), Severity::Warning, "FailedScheduling", message, "Binding"),
    };
    let (namespace, name) = key.split_once('/').unwrap_or(("", &key));
    let about = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_string()),
        ..ObjectReference::default()
    };
    let (reason, action) = (reason.to_owned(), action.to_owned());
    let notice = api::event::Notice { about, severity, reason, message, action };
    let Some(write) = correlator.see(notice, jiff::Timestamp::now()) else { return };
    if let Err(error) = write_event(client, &write).await {
        tracing::debug!(object = &*key, %error, "an event is not told");
    }
}

async fn write_event(client: &kube::Client, write: &api::event::Write) -> Result<(), kube::Error> {
    let events: Api<Event> = Api::namespaced(client.clone(), write.namespace());
    if let Some(patch) = &write.patch {
        match events.patch(write.name(), &PatchParams::default(), &Patch::Merge(patch)).await {
            // It has expired.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => return other.map(drop),
        }
    }
    events.create(&PostParams::default(), &write.event).await.map(drop)
}

async fn tell_group(client: &kube::Client, GroupNotice { key, uid, condition }: GroupNotice) {
    let patch = json!({"metadata": {"uid": uid}, "status": {"conditions": [condition]}});
    let (namespace, name) = key.split_once('/').unwrap_or(("", &key));
    let groups: Api<PodGroup> = Api::namespaced(client.clone(), namespace);
    if let Err(error) = write::patch_status(groups, name, &Patch::Strategic(patch)).await {
        tracing::warn!(kind = "PodGroup", object = &*key, %error, "the condition of a group is not written");
    }
}

async fn tell_condition(client: &kube::Client, pod: &PodFacts, reason: &str, message: &str) {
    let (namespace, name) = pod.names();
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let patch = json!({
        "metadata": {"uid": *pod.uid},
        "status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }]},
    });
    if let Err(error) = write::patch_status(pods, name, &Patch::Strategic(patch)).await {
        tracing::debug!(object = &*pod.key, uid = &*pod.uid, %error, "the PodScheduled condition is not written");
    }
}

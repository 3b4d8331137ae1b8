//! Makes room: tells the API which node a pod waits for and sends the victims away, beside the decisions.
use super::Driver;
use crate::hint::Moved;
use crate::pod::{PodFacts, SCHEDULER_NAME};
use crate::preempt::{Preemption, Victim};
use crate::record::Notice;
use crate::snapshot::Slot;
use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// Victims of one pod that are sent away at once.
const AT_ONCE: usize = 16;

/// What became of a preemption.
pub(super) struct Emptied {
    pod: Arc<PodFacts>,
    /// Who could not be sent away.
    kept: Vec<Victim>,
}

impl Driver {
    /// Takes a preemption for done and has it done.
    pub(super) fn preempt(&mut self, pod: &Arc<PodFacts>, preemption: Preemption) {
        let given_up = preemption.displaced.iter().filter_map(|key| self.snapshot.renounce(key));
        let mut given_up: BTreeSet<Slot> = given_up.collect();
        for key in &preemption.displaced {
            self.queue.move_one(key, Instant::now());
            self.renounce_in_api(key);
        }
        given_up.extend(self.snapshot.nominate(&pod.key, &pod.shape, &preemption.node));
        for victim in &preemption.victims {
            self.snapshot.doom(&victim.key, &victim.uid);
        }
        for slot in given_up {
            self.moved(Moved::Left(slot));
        }
        // What helped it may help the next in its line. This ends: whoever has a node that is emptied for it is left out.
        let snapshot = &self.snapshot;
        self.queue.next_of(&pod.shape, Instant::now(), |key| snapshot.nomination(key).is_none());
        let (client, notices, pod) = (self.client.clone(), self.notices.clone(), Arc::clone(pod));
        self.emptying.spawn(async move {
            nominate(&client, &pod, Some(&preemption.node)).await;
            let (client, notices, node, preemptor) = (&client, &notices, &preemption.node, &pod);
            let kept = stream::iter(preemption.victims)
                .map(|victim| async move {
                    match send_away(client, &victim).await {
                        Ok(()) => {
                            notices.send(Notice::Preempted(victim, Arc::clone(preemptor), node.clone()));
                            None
                        }
                        Err(error) => {
                            tracing::warn!(kind = "Pod", object = &*victim.key, uid = &*victim.uid, %error, "not preempted");
                            Some(victim)
                        }
                    }
                })
                .buffer_unordered(AT_ONCE)
                .filter_map(std::future::ready)
                .collect()
                .await;
            Emptied { pod, kept }
        });
    }

    /// Whoever could not be sent away stays; then the pod looks again.
    pub(super) fn emptied(&mut self, emptied: Emptied) {
        if emptied.kept.is_empty() {
            return;
        }
        for victim in &emptied.kept {
            self.snapshot.spare(&victim.key, &victim.uid);
        }
        if self.waits(&emptied.pod) {
            self.queue.move_one(&emptied.pod.key, Instant::now());
        }
    }

    /// Nothing is emptied for the pod any more.
    pub(super) fn renounce(&mut self, key: &str) {
        if let Some(slot) = self.snapshot.renounce(key) {
            self.renounce_in_api(key);
            self.moved(Moved::Left(slot));
        }
    }

    fn renounce_in_api(&self, key: &str) {
        let Some(pod) = self.queue.get(key).map(Arc::clone) else { return };
        let client = self.client.clone();
        tokio::spawn(async move { nominate(&client, &pod, None).await });
    }
}

/// `status.nominatedNodeName`. People are told less if it fails; the scheduler knows.
async fn nominate(client: &kube::Client, pod: &PodFacts, node: Option<&str>) {
    let (namespace, name) = pod.names();
    let patch = json!({"metadata": {"uid": *pod.uid}, "status": {"nominatedNodeName": node}});
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    if let Err(error) = pods.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        tracing::debug!(object = &*pod.key, uid = &*pod.uid, %error, "nominatedNodeName is not written");
    }
}

/// Writes why, then deletes. A pod that is gone, or another one of the same name, needs nothing.
async fn send_away(client: &kube::Client, victim: &Victim) -> Result<(), kube::Error> {
    let (namespace, name) = victim.key.split_once('/').unwrap_or(("", &victim.key));
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let patch = json!({"metadata": {"uid": *victim.uid}, "status": {"conditions": [disrupted()]}});
    let parameters = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(victim.uid.to_string()), resource_version: None }),
        ..DeleteParams::default()
    };
    let told = pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop);
    let result = match told {
        Ok(()) => pods.delete(name, &parameters).await.map(drop),
        Err(error) => Err(error),
    };
    match result {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other,
    }
}

fn disrupted() -> Value {
    json!({
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": format!("{SCHEDULER_NAME}: preempting to accommodate a higher priority pod"),
        "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    })
}

//! Makes room: tells the API which node a pod waits for and sends the victims away, beside the decisions.
use super::Driver;
use crate::hint::Moved;
use crate::pod::PodFacts;
use crate::preempt::{Preemption, Victim};
use crate::record::Notice;
use crate::snapshot::Slot;
use crate::write;
use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, Preconditions};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// Victims of one pod that are sent away at once.
const AT_ONCE: usize = 16;
/// Nodes that are emptied at once. With thousands, the API refuses the scheduler's own requests (429) and each costs more.
const MAX_EMPTYING: usize = 16;

/// A preemption that is decided, in the order of decisions.
pub(super) struct ToEmpty {
    pod: Arc<PodFacts>,
    preemption: Preemption,
}

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
            self.try_again(key);
            self.renounce_in_api(key);
        }
        given_up.extend(self.snapshot.nominate(&pod.key, &pod.shape, &preemption.node));
        self.tell_whole_groups(&preemption.victims, pod);
        for victim in &preemption.victims {
            self.snapshot.doom(&victim.key, &victim.uid);
        }
        for slot in given_up {
            self.moved(Moved::Left(slot));
        }
        // What helped it may help the next in its line. This ends: whoever has a node that is emptied for it is left out.
        self.queue.next_without_node(&pod.shape, Instant::now());
        self.to_empty.push_back(ToEmpty { pod: Arc::clone(pod), preemption });
        self.empty_next();
    }

    /// Empties as many nodes as may be at once. Where nobody waits for a node any more, nobody has to leave.
    pub(super) fn empty_next(&mut self) {
        while self.emptying.len() < MAX_EMPTYING {
            let Some(next) = self.to_empty.pop_front() else { return };
            let slot = self.snapshot.slot(&next.preemption.node);
            match slot.filter(|slot| !self.snapshot.nominated_at(*slot).is_empty()) {
                Some(slot) => self.spawn_emptying(next, slot),
                None => self.spare(&next.preemption.victims),
            }
        }
    }

    fn spawn_emptying(&mut self, ToEmpty { pod, preemption }: ToEmpty, slot: Slot) {
        let (client, notices) = (self.client.clone(), self.notices.clone());
        let is_nominated = self.snapshot.nomination(&pod.key) == Some(slot);
        self.emptying.spawn(async move {
            // Others may wait for the node by now, who counted on its emptying.
            if is_nominated {
                nominate(&client, &pod, Some(&preemption.node)).await;
            }
            let (client, notices, node, preemptor) = (&client, &notices, &preemption.node, &pod);
            let kept = stream::iter(preemption.victims)
                .map(|victim| async move {
                    match send_away(client, &victim, &preemptor.shape.profile.name).await {
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
        self.spare(&emptied.kept);
        if self.waits(&emptied.pod) {
            self.try_again(&emptied.pod.key);
        }
    }

    fn spare(&mut self, victims: &[Victim]) {
        for victim in victims {
            self.snapshot.spare(&victim.key, &victim.uid);
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
    if let Err(error) = write::patch_status(pods, name, &Patch::Merge(patch)).await {
        tracing::debug!(object = &*pod.key, uid = &*pod.uid, %error, "nominatedNodeName is not written");
    }
}

/// Writes why, then deletes, also where others write the status at the same time. A pod that is gone, or another one of the
/// same name, needs nothing: the delete names the uid.
async fn send_away(client: &kube::Client, victim: &Victim, profile: &str) -> Result<(), kube::Error> {
    let (namespace, name) = victim.key.split_once('/').unwrap_or(("", &victim.key));
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let patch = json!({"metadata": {"uid": *victim.uid}, "status": {"conditions": [disrupted(profile)]}});
    let parameters = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(victim.uid.to_string()), resource_version: None }),
        ..DeleteParams::default()
    };
    let told = write::patch_status(pods.clone(), name, &Patch::Strategic(patch)).await;
    let result = match told {
        Err(error) if !is_conflict(&error) => Err(error),
        Ok(()) | Err(_) => write::delete(pods, name, &parameters).await,
    };
    match result {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other,
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

fn disrupted(profile: &str) -> Value {
    json!({
        "type": api::well_known::CONDITION_DISRUPTED, "status": "True", "reason": "PreemptionByScheduler",
        "message": format!("{profile}: preempting to accommodate a higher priority pod"),
        "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    /// Reads one request, refuses patches with a conflict, and tells the method.
    async fn answer(mut stream: TcpStream) -> String {
        let mut request = String::new();
        let is_whole = |request: &str| {
            let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            body.len() >= length.unwrap_or(0)
        };
        let mut part = [0; 4096];
        while !is_whole(&request) {
            let count = stream.read(&mut part).await.unwrap();
            request.push_str(std::str::from_utf8(&part[..count]).unwrap());
        }
        let method = request.split(' ').next().unwrap().to_owned();
        let (code, status) = if method == "PATCH" { (409, "Failure") } else { (200, "Success") };
        let body = json!({"kind": "Status", "apiVersion": "v1", "status": status, "code": code}).to_string();
        let head = format!("HTTP/1.1 {code} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await.unwrap();
        method
    }

    #[tokio::test]
    async fn a_victim_whose_status_others_write_is_deleted_all_the_same() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let client = kube::Client::try_from(kube::Config::new(address.parse().unwrap())).unwrap();
        let victim = Victim { key: "d/victim".into(), uid: "u".into() };
        let mut sent = tokio::spawn(async move { send_away(&client, &victim, "s").await });
        let mut methods = Vec::new();
        let done = loop {
            tokio::select! {
                connection = listener.accept() => methods.push(answer(connection.unwrap().0).await),
                done = &mut sent => break done,
            }
        };
        done.unwrap().unwrap();
        assert_eq!(methods, ["PATCH", "DELETE"]);
    }
}

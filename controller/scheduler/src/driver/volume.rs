//! Volumes and devices of pods: reserved or asked for where the pod goes, and waited for while it keeps its place.
use super::{Bound, Driver, devices};
use crate::devices::Grant;
use crate::pod::PodFacts;
use crate::record::Notice;
use crate::volumes::{Preparation, Progress, Volumes};
use api::well_known::{ANNOTATION_BOUND_BY_CONTROLLER, ANNOTATION_SELECTED_NODE};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a pod keeps its place while its volumes are made and its devices got ready (Kubernetes' figure for both).
const PREPARED_WITHIN: Duration = Duration::from_secs(600);

/// A pod that has its place and waits for its volumes and devices.
pub(super) struct Waiting {
    pod: Arc<PodFacts>,
    node: Box<str>,
    since: Instant,
    /// When it is given up.
    pub(super) until: Instant,
}

impl Driver {
    /// Writes what the chosen node needs for the pod's claims.
    pub(super) fn spawn_preparation(
        &mut self,
        pod: Arc<PodFacts>,
        node: Box<str>,
        since: Instant,
        work: Vec<Preparation>,
    ) {
        let patches: Vec<Write> =
            work.iter().filter_map(|one| Write::of(&self.snapshot.volumes, &node, &pod, one)).collect();
        let client = self.client.clone();
        self.binding.spawn(async move {
            let mut result = Ok(());
            for patch in patches {
                result = patch.send(&client).await;
                if result.is_err() {
                    break;
                }
            }
            Bound { pod, node, since, result, prepared: work }
        });
    }

    /// All was written: the pod keeps its place until its claims have their volumes, and drivers have its devices ready.
    pub(super) fn prepared(&mut self, pod: Arc<PodFacts>, node: Box<str>, since: Instant) {
        if !self.waits(&pod) {
            return;
        }
        let key = Arc::clone(&pod.key);
        let until = Instant::now() + PREPARED_WITHIN;
        self.preparing.insert(Arc::clone(&key), Waiting { pod, node, since, until });
        self.look_at(&key);
    }

    /// Something changed that pods with a place may wait for.
    pub(super) fn look_at_waiting(&mut self) {
        let waiting: Vec<Arc<str>> = self.preparing.keys().cloned().collect();
        for key in waiting {
            self.look_at(&key);
        }
    }

    fn look_at(&mut self, key: &Arc<str>) {
        let Some(waiting) = self.preparing.get(key) else { return };
        let volumes = self.snapshot.volumes.progress(&waiting.pod, &waiting.node);
        let devices = self.snapshot.devices.progress(&waiting.pod);
        match volumes.and(devices) {
            Progress::UnderWay => {}
            Progress::Ready => {
                if let Some(waiting) = self.preparing.remove(key) {
                    self.spawn_binding(waiting.pod, waiting.node, waiting.since);
                }
            }
            Progress::GivenUp if volumes == Progress::GivenUp => {
                self.give_up(key, "binding volumes: provisioning failed for PVC; another node is tried")
            }
            Progress::GivenUp => {
                self.give_up(key, "binding devices: a claim has lost them, or a driver says that one cannot be had")
            }
        }
    }

    /// Pods whose volumes or devices take too long are tried again, maybe elsewhere.
    pub(super) fn give_up_late(&mut self, now: Instant) {
        let late: Vec<Arc<str>> =
            self.preparing.iter().filter(|(_, one)| one.until <= now).map(|(key, _)| Arc::clone(key)).collect();
        for key in late {
            let devices = self.preparing.get(&key).map(|waiting| self.snapshot.devices.progress(&waiting.pod));
            let what = if devices == Some(Progress::UnderWay) { "devices" } else { "volumes" };
            self.give_up(&key, &format!("binding {what}: context deadline exceeded"));
        }
    }

    fn give_up(&mut self, key: &Arc<str>, why: &str) {
        let Some(waiting) = self.preparing.remove(key) else { return };
        // Devices that were not got ready go back: others may be.
        for grant in self.snapshot.devices.unbound(&waiting.pod) {
            self.take_back(&waiting.pod, grant);
        }
        self.not_bound(&waiting.pod);
        self.notices.send(Notice::Failed(waiting.pod, why.to_owned()));
    }
}

/// A merge patch of a claim or a volume, or the new status of a claim to devices.
enum Write {
    Claim { namespace: String, name: String, patch: serde_json::Value },
    Volume { name: String, patch: serde_json::Value },
    Devices { grant: Grant, pod: Arc<PodFacts> },
}

impl Write {
    fn of(known: &Volumes, node: &str, pod: &Arc<PodFacts>, work: &Preparation) -> Option<Self> {
        match work {
            Preparation::Devices(grant) => Some(Self::Devices { grant: grant.clone(), pod: Arc::clone(pod) }),
            Preparation::Provision { claim } => {
                let claim = known.claims.get(claim)?;
                let metadata = json!({"uid": claim.uid, "annotations": {ANNOTATION_SELECTED_NODE: node}});
                let patch = json!({"metadata": metadata});
                Some(Self::Claim { namespace: claim.namespace.clone(), name: claim.name.clone(), patch })
            }
            Preparation::Reserve { claim, volume } => {
                let (claim, volume) = known.sides(claim, volume)?;
                if volume.is_for(claim) {
                    return None;
                }
                let patch = json!({
                    "metadata": {"resourceVersion": volume.version, "annotations": {ANNOTATION_BOUND_BY_CONTROLLER: "yes"}},
                    "spec": {"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace,
                        "name": claim.name, "uid": claim.uid, "resourceVersion": claim.version}},
                });
                Some(Self::Volume { name: volume.name.clone(), patch })
            }
        }
    }

    async fn send(self, client: &kube::Client) -> Result<(), kube::Error> {
        let params = PatchParams::default();
        match self {
            Self::Devices { grant, pod } => devices::write(client, &grant, &pod).await,
            Self::Claim { namespace, name, patch } => {
                let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &namespace);
                claims.patch(&name, &params, &Patch::Merge(patch)).await.map(drop)
            }
            Self::Volume { name, patch } => {
                let volumes: Api<PersistentVolume> = Api::all(client.clone());
                volumes.patch(&name, &params, &Patch::Merge(patch)).await.map(drop)
            }
        }
    }
}

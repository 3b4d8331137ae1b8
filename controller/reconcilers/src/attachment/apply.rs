//! Makes and deletes VolumeAttachments, woken by pods, claims, volumes, nodes and the attachments themselves.
use super::plan::{self, Attachable, Attached, Step};
use crate::cache::{Cache, Key};
use crate::error::{ReconcileError, at, code};
use crate::node::NodeFacts;
use crate::pod::{Phase, PodFacts};
use crate::queue::{Next, Queue};
use crate::record::{Recorder, Severity};
use api::volume::{Claim, Volume, attachment_name};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const WORKERS: usize = 2;
/// A node that is not ready and does not let go of a volume for so long is lost (Kubernetes,
/// `maxWaitForUnmountDuration`).
const LOST_AFTER: Duration = Duration::from_secs(360);

/// What is known of a VolumeAttachment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AttachmentFacts {
    own: Attached,
    attacher: String,
}

impl AttachmentFacts {
    /// Takes the facts out.
    pub(crate) fn new(object: VolumeAttachment) -> Self {
        let own = Attached {
            name: object.metadata.name.unwrap_or_default(),
            node: object.spec.node_name,
            volume: object.spec.source.persistent_volume_name.unwrap_or_default(),
            is_deleting: object.metadata.deletion_timestamp.is_some(),
        };
        Self { own, attacher: object.spec.attacher }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.own.name
    }

    /// Who attaches.
    pub(crate) fn attacher(&self) -> &str {
        &self.attacher
    }

    /// The node.
    pub(crate) fn node(&self) -> &str {
        &self.own.node
    }

    /// The PersistentVolume; empty for none.
    pub(crate) fn volume(&self) -> &str {
        &self.own.volume
    }
}

/// What is known of a CSIDriver: whether its volumes are attached.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DriverFacts {
    attaches: bool,
}

impl DriverFacts {
    /// Takes the facts out.
    pub(crate) fn new(object: CSIDriver) -> Self {
        Self { attaches: object.spec.attach_required != Some(false) }
    }
}

/// Everything a run uses.
pub(crate) struct Reconciler {
    pub(crate) client: kube::Client,
    pub(crate) recorder: Recorder,
    pub(crate) pods: Arc<Cache<PodFacts>>,
    pub(crate) claims: Arc<Cache<Claim>>,
    pub(crate) volumes: Arc<Cache<Volume>>,
    pub(crate) nodes: Arc<Cache<NodeFacts>>,
    pub(crate) drivers: Arc<Cache<DriverFacts>>,
    pub(crate) attachments: Arc<Cache<AttachmentFacts>>,
    /// Since when each node is not ready.
    pub(crate) unready: Mutex<HashMap<Key, Instant>>,
}

/// Reconciles until dropped.
pub(crate) async fn start(reconciler: Reconciler) {
    let queue: Arc<Queue<Key>> = Queue::new("attach-detach");
    wake_by_changes(&reconciler, &queue);
    reconciler.pods.listed().await;
    reconciler.claims.listed().await;
    reconciler.volumes.listed().await;
    reconciler.nodes.listed().await;
    reconciler.drivers.listed().await;
    reconciler.attachments.listed().await;
    for pod in reconciler.pods.all().iter().filter(|pod| !pod.claims.is_empty()) {
        if let Some(node) = pod.node.as_deref() {
            queue.add(node.into());
        }
    }
    for attachment in reconciler.attachments.all() {
        queue.add(attachment.own.node.as_str().into());
    }
    let reconciler = Arc::new(reconciler);
    let work = move |node: Key| {
        let reconciler = Arc::clone(&reconciler);
        async move { reconciler.node(&node).await }
    };
    queue.work(WORKERS, work).await;
}

fn wake_by_changes(reconciler: &Reconciler, queue: &Arc<Queue<Key>>) {
    let wake = Arc::clone(queue);
    reconciler.pods.on_change(move |before, after| {
        let Some(pod) = after.or(before).filter(|pod| !pod.claims.is_empty()) else { return };
        if let Some(node) = &pod.node {
            wake.add(Arc::from(&**node));
        }
    });
    let (wake, pods) = (Arc::clone(queue), Arc::clone(&reconciler.pods));
    let wake_users = move |namespace: &str, claim: &str| {
        for pod in pods.in_namespace(namespace) {
            if let Some(node) = pod.node.as_deref().filter(|_| pod.claims.iter().any(|own| **own == *claim)) {
                wake.add(node.into());
            }
        }
    };
    let wake = wake_users.clone();
    reconciler.claims.on_change(move |before, after| {
        let Some(claim) = after.or(before) else { return };
        wake(&claim.namespace, &claim.name);
    });
    // A volume or a driver may be heard of after the pods that wait for it.
    reconciler.volumes.on_change(move |before, after| {
        let shown = |volume: Option<&Arc<Volume>>| volume.and_then(|volume| attachable(volume));
        if shown(before) != shown(after)
            && let Some(claim) = after.or(before).and_then(|volume| volume.claim.as_ref())
        {
            wake_users(&claim.namespace, &claim.name);
        }
    });
    let (wake, nodes) = (Arc::clone(queue), Arc::clone(&reconciler.nodes));
    reconciler.drivers.on_change(move |before, after| {
        if before != after {
            nodes.all().iter().for_each(|node| wake.add(Arc::clone(node.name())));
        }
    });
    let (wake, nodes) = (Arc::clone(queue), Arc::clone(&reconciler.nodes));
    reconciler.attachments.on_change(move |before, after| {
        let Some(attachment) = after.or(before) else { return };
        wake.add(attachment.own.node.as_str().into());
        // Whoever waits for it elsewhere may go on.
        if after.is_none() {
            nodes.all().iter().for_each(|node| wake.add(Arc::clone(node.name())));
        }
    });
    let wake = Arc::clone(queue);
    reconciler.nodes.on_change(move |before, after| {
        let Some(node) = after.or(before) else { return };
        let shown = |node: &NodeFacts| (node.in_use().to_vec(), node.is_ready(), node.is_out_of_service());
        if before.map(|node| shown(node)) != after.map(|node| shown(node)) {
            wake.add(Arc::clone(node.name()));
        }
    });
}

impl Reconciler {
    async fn node(&self, name: &Key) -> Result<Next, ReconcileError> {
        let node = self.nodes.get(name);
        let (is_lost, look_again) = self.is_lost(name, node.as_deref());
        let facts = plan::Node {
            exists: node.is_some(),
            is_off: node.as_deref().is_some_and(NodeFacts::is_out_of_service),
            is_lost,
            in_use: node.as_deref().map_or(&[][..], NodeFacts::in_use),
        };
        let all: Vec<Attached> = self.attachments.all().iter().map(|own| own.own.clone()).collect();
        let wanted = self.wanted(name);
        let known = |volume: &str| attachable(&*self.volumes.get(volume)?);
        let steps = plan::steps(name, facts, &wanted, known, &all);
        for step in steps {
            match step {
                Step::Attach { volume } => self.attach(name, &volume, &wanted).await?,
                Step::Elsewhere { volume, node } => self.tell(name, &volume, &node),
                Step::Detach { attachment } => self.detach(&attachment).await?,
            }
        }
        Ok(look_again.map_or(Next::Wait, Next::After))
    }

    /// The volumes that pods of a node use and that must be attached.
    fn wanted(&self, node: &str) -> BTreeMap<String, Attachable> {
        let mut wanted = BTreeMap::new();
        for pod in self.pods.all() {
            if pod.node.as_deref() != Some(node) || pod.phase == Phase::Ended {
                continue;
            }
            for claim in &pod.claims {
                let claim = self.claims.get(&format!("{}/{claim}", pod.namespace()));
                let Some(claim) = claim.filter(|claim| claim.is_bound()) else { continue };
                let Some(volume) = self.volumes.get(&claim.volume) else { continue };
                let Some(own) = attachable(&volume) else { continue };
                let attaches = self.drivers.get(&own.driver).is_none_or(|driver| driver.attaches);
                if attaches {
                    wanted.insert(volume.name.clone(), own);
                }
            }
        }
        wanted
    }

    /// Whether a node is not ready for long, and when to look again where it is not ready at all.
    fn is_lost(&self, name: &Key, node: Option<&NodeFacts>) -> (bool, Option<Duration>) {
        let mut unready = self.unready.lock().unwrap_or_else(PoisonError::into_inner);
        if node.is_none_or(NodeFacts::is_ready) {
            unready.remove(name);
            return (false, None);
        }
        let since = unready.entry(Arc::clone(name)).or_insert_with(Instant::now).elapsed();
        match LOST_AFTER.checked_sub(since) {
            Some(left) if !left.is_zero() => (false, Some(left)),
            _ => (true, None),
        }
    }

    async fn attach(
        &self,
        node: &str,
        volume: &str,
        wanted: &BTreeMap<String, Attachable>,
    ) -> Result<(), ReconcileError> {
        let Some(own) = wanted.get(volume) else { return Ok(()) };
        let object = VolumeAttachment {
            metadata: ObjectMeta {
                name: Some(attachment_name(&own.handle, &own.driver, node)),
                ..ObjectMeta::default()
            },
            spec: VolumeAttachmentSpec {
                attacher: own.driver.clone(),
                node_name: node.to_owned(),
                source: VolumeAttachmentSource {
                    persistent_volume_name: Some(volume.to_owned()),
                    ..VolumeAttachmentSource::default()
                },
            },
            status: None,
        };
        tracing::info!(hop = "attachment", kind = "VolumeAttachment", volume, node, "to be attached");
        match Api::<VolumeAttachment>::all(self.client.clone()).create(&PostParams::default(), &object).await {
            Ok(_) => Ok(()),
            Err(error) if code(&error) == 409 => Ok(()),
            Err(error) => Err(at("making a VolumeAttachment")(error)),
        }
    }

    async fn detach(&self, attachment: &str) -> Result<(), ReconcileError> {
        tracing::info!(hop = "attachment", kind = "VolumeAttachment", object = attachment, "to be detached");
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        match api.delete(attachment, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(error) if code(&error) == 404 => Ok(()),
            Err(error) => Err(at("deleting a VolumeAttachment")(error)),
        }
    }

    /// Tells the pods that wait for a volume which another node has.
    fn tell(&self, node: &str, volume: &str, other: &str) {
        let waits = |pod: &PodFacts| {
            pod.node.as_deref() == Some(node)
                && pod.claims.iter().any(|claim| {
                    let claim = self.claims.get(&format!("{}/{claim}", pod.namespace()));
                    claim.is_some_and(|claim| claim.volume == volume)
                })
        };
        for pod in self.pods.all().iter().filter(|pod| waits(pod)) {
            let message = format!(
                "Multi-Attach error for volume {volume:?} Volume is already exclusively attached to node {other} and can't be \
                 attached to another"
            );
            self.recorder.send(pod.reference(), Severity::Warning, "FailedAttachVolume", message);
        }
    }
}

/// What a driver is told of a volume; `None` for one that is of no driver.
fn attachable(volume: &Volume) -> Option<Attachable> {
    let (driver, handle) = volume.csi.clone()?;
    let is_shared = volume.access_modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany");
    Some(Attachable { driver, handle, is_shared })
}

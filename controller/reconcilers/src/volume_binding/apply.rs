//! Carries out the plans, woken by claims, volumes, classes and nodes. Every write that cannot be taken back names the
//! version that was decided upon; what changed meanwhile comes back as a conflict and is decided again.
use super::local_path;
use super::plan::{self, ClaimPlan, Told, VolumePlan};
use crate::cache::{Cache, Key};
use crate::error::{ReconcileError, at, code};
use crate::node::NodeFacts;
use crate::queue::{Next, Queue};
use crate::record::Recorder;
use api::volume::{Claim, Class, Volume};
use api::well_known::{
    ANNOTATION_BETA_STORAGE_PROVISIONER, ANNOTATION_BIND_COMPLETED, ANNOTATION_BOUND_BY_CONTROLLER,
    ANNOTATION_SELECTED_NODE, ANNOTATION_STORAGE_PROVISIONER, FINALIZER_LOCAL_PATH, LABEL_VOLUME_NODE,
};
use k8s_openapi::api::core::v1::{Node, ObjectReference, PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use std::sync::Arc;

const WORKERS: usize = 4;

/// What needs a look.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum About {
    Claim(Key),
    Volume(Key),
}

/// Everything a run uses.
pub(crate) struct Reconciler {
    pub(crate) client: kube::Client,
    pub(crate) claims: Arc<Cache<Claim>>,
    pub(crate) volumes: Arc<Cache<Volume>>,
    pub(crate) classes: Arc<Cache<Class>>,
    pub(crate) nodes: Arc<Cache<NodeFacts>>,
    pub(crate) recorder: Recorder,
}

/// Reconciles until dropped.
pub(crate) async fn start(reconciler: Reconciler) {
    let queue: Arc<Queue<About>> = Queue::new("volume-binding");
    wake_by_changes(&reconciler, &queue);
    reconciler.claims.listed().await;
    reconciler.volumes.listed().await;
    reconciler.classes.listed().await;
    reconciler.nodes.listed().await;
    for claim in reconciler.claims.all() {
        queue.add(About::Claim(claim.key().into()));
    }
    for volume in reconciler.volumes.all() {
        queue.add(About::Volume(volume.name.as_str().into()));
    }
    let reconciler = Arc::new(reconciler);
    let work = move |about: About| {
        let reconciler = Arc::clone(&reconciler);
        async move {
            match about {
                About::Claim(key) => reconciler.claim(&key).await,
                About::Volume(name) => reconciler.volume(&name).await,
            }
        }
    };
    queue.work(WORKERS, work).await;
}

fn wake_by_changes(reconciler: &Reconciler, queue: &Arc<Queue<About>>) {
    let (wake, volumes) = (Arc::clone(queue), Arc::clone(&reconciler.volumes));
    reconciler.claims.on_change(move |before, after| {
        let Some(claim) = after.or(before) else { return };
        wake.add(About::Claim(claim.key().into()));
        let is_of = |volume: &Volume| {
            volume.claim.as_ref().is_some_and(|own| own.name == claim.name && own.namespace == claim.namespace)
        };
        for volume in volumes.all().iter().filter(|volume| is_of(volume) || volume.name == claim.volume) {
            wake.add(About::Volume(volume.name.as_str().into()));
        }
    });
    let (wake, claims) = (Arc::clone(queue), Arc::clone(&reconciler.claims));
    reconciler.volumes.on_change(move |before, after| {
        let Some(volume) = after.or(before) else { return };
        wake.add(About::Volume(volume.name.as_str().into()));
        if let Some(own) = &volume.claim {
            wake.add(About::Claim(format!("{}/{}", own.namespace, own.name).into()));
        }
        let concerns =
            |claim: &Claim| claim.volume == volume.name || claim.volume.is_empty() && claim.class == volume.class;
        for claim in claims.all().iter().filter(|claim| concerns(claim)) {
            wake.add(About::Claim(claim.key().into()));
        }
    });
    let (wake, claims) = (Arc::clone(queue), Arc::clone(&reconciler.claims));
    reconciler.classes.on_change(move |before, after| {
        let Some(class) = after.or(before) else { return };
        for claim in claims.all().iter().filter(|claim| claim.class == class.name) {
            wake.add(About::Claim(claim.key().into()));
        }
    });
    let (wake, volumes) = (Arc::clone(queue), Arc::clone(&reconciler.volumes));
    reconciler.nodes.on_change(move |before, after| {
        let (Some(node), None) = (before, after) else { return };
        for volume in volumes.all().iter().filter(|volume| node_of(volume) == Some(&**node.name())) {
            wake.add(About::Volume(volume.name.as_str().into()));
        }
    });
}

/// The node that makes and removes a volume's directory.
fn node_of(volume: &Volume) -> Option<&str> {
    volume.labels.get(LABEL_VOLUME_NODE).map(String::as_str)
}

/// A refusal that another look settles: the watch tells when.
fn has_moved(error: &kube::Error) -> bool {
    matches!(code(error), 404 | 409)
}

impl Reconciler {
    async fn claim(&self, key: &Key) -> Result<Next, ReconcileError> {
        let Some(claim) = self.claims.get(key) else { return Ok(Next::Wait) };
        let class = self.classes.get(&claim.class);
        match plan::of_claim(&claim, &self.volumes.all(), class.as_deref()) {
            ClaimPlan::Keep => {}
            ClaimPlan::Wait(told) => {
                self.claim_status(&claim, "Pending", json!({"phase": "Pending"})).await?;
                self.tell_claim(&claim, told);
            }
            ClaimPlan::Bind(volume) => return self.bind(&claim, &volume).await,
            ClaimPlan::Lose(told) => return self.lose(&claim, told).await,
            ClaimPlan::Announce(provisioner) => {
                self.announce(&claim, &provisioner).await?;
                let message = format!(
                    "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
                     administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
                );
                self.tell_claim(&claim, Some(Told::normal("ExternalProvisioning", message)));
            }
            ClaimPlan::Provision => {
                if let Some(class) = class {
                    return self.provision(&claim, &class).await;
                }
            }
            ClaimPlan::Grow(volume) => return self.grow(&claim, &volume).await,
            ClaimPlan::GrowElsewhere(told) => self.tell_claim(&claim, Some(told)),
        }
        Ok(Next::Wait)
    }

    /// Completes both sides, in an order in which any end halfway is taken up again: the volume first names the claim, then
    /// the claim the volume.
    async fn bind(&self, claim: &Claim, volume: &Volume) -> Result<Next, ReconcileError> {
        let mut volume = Arc::new(volume.clone());
        if volume.claim.as_ref().is_none_or(|own| own.uid != claim.uid) {
            let mut patch = json!({
                "metadata": {"resourceVersion": volume.version},
                "spec": {"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace,
                    "name": claim.name, "uid": claim.uid, "resourceVersion": claim.version}},
            });
            if volume.claim.is_none() {
                patch["metadata"]["annotations"] = json!({ANNOTATION_BOUND_BY_CONTROLLER: "yes"});
            }
            let Some(written) = self.patch_volume(&volume.name, patch, false).await? else { return Ok(Next::Wait) };
            volume = written;
        }
        if volume.phase != "Bound" {
            let patch = json!({"status": {"phase": "Bound", "message": null, "reason": null}});
            if self.patch_volume(&volume.name, patch, true).await?.is_none() {
                return Ok(Next::Wait);
            }
        }
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &claim.namespace);
        if claim.volume.is_empty() || !claim.is_bind_completed {
            let mut annotations = json!({ANNOTATION_BIND_COMPLETED: "yes"});
            if claim.volume.is_empty() {
                annotations[ANNOTATION_BOUND_BY_CONTROLLER] = "yes".into();
            }
            let patch = json!({"metadata": {"uid": claim.uid, "resourceVersion": claim.version, "annotations": annotations},
                "spec": {"volumeName": volume.name}});
            match claims.patch(&claim.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(written) => self.claims.put(&written.metadata.clone(), Claim::new(written)),
                Err(error) if has_moved(&error) => return Ok(Next::Wait),
                Err(error) => return Err(at("binding the claim")(error)),
            }
        }
        let status = json!({"phase": "Bound", "accessModes": volume.access_modes, "capacity": {"storage": volume.capacity.to_string()}});
        self.claim_status(claim, "", status).await?;
        Ok(Next::Wait)
    }

    /// A watch may lag behind: that a volume is gone is asked of the server before it is said.
    async fn lose(&self, claim: &Claim, told: Told) -> Result<Next, ReconcileError> {
        if !claim.volume.is_empty() && self.volumes.get(&claim.volume).is_none() {
            let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
            if volumes.get_opt(&claim.volume).await.map_err(at("looking for the claim's volume"))?.is_some() {
                return Ok(Next::Wait);
            }
        }
        if claim.phase != "Lost" {
            let status = json!({"phase": "Lost", "accessModes": null, "capacity": null});
            self.claim_status(claim, "Lost", status).await?;
            self.tell_claim(claim, Some(told));
        }
        Ok(Next::Wait)
    }

    async fn announce(&self, claim: &Claim, provisioner: &str) -> Result<(), ReconcileError> {
        if claim.provisioner.as_deref() == Some(provisioner) {
            return self.claim_status(claim, "Pending", json!({"phase": "Pending"})).await;
        }
        let annotations =
            json!({ANNOTATION_STORAGE_PROVISIONER: provisioner, ANNOTATION_BETA_STORAGE_PROVISIONER: provisioner});
        self.patch_claim(claim, annotations).await
    }

    async fn provision(&self, claim: &Claim, class: &Class) -> Result<Next, ReconcileError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = match claim.selected_node.as_deref() {
            Some(name) => nodes.get_opt(name).await.map_err(at("reading the claim's node"))?,
            None => None,
        };
        let volume = match local_path::volume(claim, class, node.as_ref()) {
            Ok(volume) => volume,
            Err(why) => {
                let message = format!("failed to provision volume with StorageClass {:?}: {why}", class.name);
                self.tell_claim(claim, Some(Told::warning("ProvisioningFailed", message)));
                // The scheduler may choose another node.
                if node.is_none() && claim.selected_node.is_some() {
                    self.patch_claim(claim, json!({ANNOTATION_SELECTED_NODE: null})).await?;
                }
                return Ok(Next::Wait);
            }
        };
        self.announce(claim, &class.provisioner).await?;
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        match volumes.create(&PostParams::default(), &volume).await {
            Ok(made) => {
                let name = made.metadata.name.clone().unwrap_or_default();
                tracing::info!(kind = "PersistentVolume", object = name, uid = claim.uid, "provisioned");
                self.volumes.put(&made.metadata.clone(), Volume::new(made));
                let message = format!("Successfully provisioned volume {name}");
                self.tell_claim(claim, Some(Told::normal("ProvisioningSucceeded", message)));
                Ok(Next::Wait)
            }
            // Made before; the watch has told, or tells.
            Err(error) if code(&error) == 409 => Ok(Next::Wait),
            Err(error) => Err(at("making the volume")(error)),
        }
    }

    /// A directory has no size: what is promised is what is counted.
    async fn grow(&self, claim: &Claim, volume: &Volume) -> Result<Next, ReconcileError> {
        let size = json!({"storage": claim.requested.to_string()});
        if volume.capacity < claim.requested {
            let patch = json!({"metadata": {"resourceVersion": volume.version}, "spec": {"capacity": size}});
            if self.patch_volume(&volume.name, patch, false).await?.is_none() {
                return Ok(Next::Wait);
            }
        }
        self.claim_status(claim, "", json!({"capacity": size, "conditions": null})).await?;
        let message = format!("Resized volume {} to {}", volume.name, claim.requested);
        self.tell_claim(claim, Some(Told::normal("VolumeResizeSuccessful", message)));
        Ok(Next::Wait)
    }

    async fn volume(&self, name: &Key) -> Result<Next, ReconcileError> {
        let Some(volume) = self.volumes.get(name) else { return Ok(Next::Wait) };
        let claim = match &volume.claim {
            Some(own) => self.claims.get(&format!("{}/{}", own.namespace, own.name)),
            None => None,
        };
        let has_node = match node_of(&volume).filter(|node| volume.is_deleting && self.nodes.get(node).is_none()) {
            Some(node) => {
                let nodes: Api<Node> = Api::all(self.client.clone());
                nodes.get_opt(node).await.map_err(at("looking for the volume's node"))?.is_some()
            }
            None => true,
        };
        let plan = plan::of_volume(&volume, claim.as_deref(), has_node);
        match plan {
            VolumePlan::Keep => {}
            VolumePlan::Phase("Released", _) if !self.has_lost_claim(&volume).await? => {}
            VolumePlan::Phase(phase, told) => {
                let (reason, message) =
                    told.as_ref().map_or((None, None), |told| (Some(told.reason), Some(&told.message)));
                let patch = json!({"status": {"phase": phase, "reason": reason, "message": message}});
                self.patch_volume(&volume.name, patch, true).await?;
                if let Some(told) = told {
                    self.recorder.send(about_volume(&volume), told.severity, told.reason, told.message);
                }
            }
            VolumePlan::Delete => {
                let version = Some(volume.version.clone());
                let own = Preconditions { uid: Some(volume.uid.clone()), resource_version: version };
                let params = DeleteParams { preconditions: Some(own), ..DeleteParams::default() };
                let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
                match volumes.delete(&volume.name, &params).await {
                    Ok(_) => {
                        tracing::info!(kind = "PersistentVolume", object = volume.name, "its claim is gone: deleted")
                    }
                    Err(error) if has_moved(&error) => {}
                    Err(error) => return Err(at("deleting the volume")(error)),
                }
            }
            VolumePlan::Unbind => {
                let claim = match volume.is_bound_by_controller {
                    true => Value::Null,
                    false => json!({"uid": null, "resourceVersion": null}),
                };
                let patch = json!({"metadata": {"resourceVersion": volume.version,
                    "annotations": {ANNOTATION_BOUND_BY_CONTROLLER: null}}, "spec": {"claimRef": claim}});
                if self.patch_volume(&volume.name, patch, false).await?.is_some() {
                    self.patch_volume(&volume.name, json!({"status": {"phase": "Available"}}), true).await?;
                }
            }
            VolumePlan::LetGo => {
                let left: Vec<&String> = volume.finalizers.iter().filter(|own| *own != FINALIZER_LOCAL_PATH).collect();
                let patch = json!({"metadata": {"resourceVersion": volume.version, "finalizers": left}});
                self.patch_volume(&volume.name, patch, false).await?;
            }
        }
        Ok(Next::Wait)
    }

    /// Whether the claim of a volume is really gone; a watch may lag behind, and what is released is deleted.
    async fn has_lost_claim(&self, volume: &Volume) -> Result<bool, ReconcileError> {
        let Some(own) = &volume.claim else { return Ok(false) };
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &own.namespace);
        let claim = claims.get_opt(&own.name).await.map_err(at("looking for the volume's claim"))?;
        let same = claim.filter(|claim| claim.metadata.uid.as_deref() == Some(&own.uid)).map(Claim::new);
        Ok(same.is_none_or(|claim| !claim.volume.is_empty() && claim.volume != volume.name))
    }

    /// Patches a volume or its status; `None` where it is gone or has changed.
    async fn patch_volume(
        &self,
        name: &str,
        patch: Value,
        is_status: bool,
    ) -> Result<Option<Arc<Volume>>, ReconcileError> {
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let written = match is_status {
            true => volumes.patch_status(name, &params, &patch).await,
            false => volumes.patch(name, &params, &patch).await,
        };
        match written {
            Ok(written) => {
                let facts = Volume::new(written.clone());
                self.volumes.put(&written.metadata, facts.clone());
                Ok(Some(Arc::new(facts)))
            }
            Err(error) if has_moved(&error) => Ok(None),
            Err(error) => Err(at("writing the volume")(error)),
        }
    }

    /// Writes a claim's status unless it has this phase; an empty phase writes always.
    async fn claim_status(&self, claim: &Claim, phase: &str, status: Value) -> Result<(), ReconcileError> {
        if !phase.is_empty() && claim.phase == phase {
            return Ok(());
        }
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &claim.namespace);
        let patch = Patch::Merge(json!({"metadata": {"uid": claim.uid}, "status": status}));
        match claims.patch_status(&claim.name, &PatchParams::default(), &patch).await {
            Ok(written) => self.claims.put(&written.metadata.clone(), Claim::new(written)),
            Err(error) if has_moved(&error) => {}
            Err(error) => return Err(at("writing the claim's status")(error)),
        }
        Ok(())
    }

    async fn patch_claim(&self, claim: &Claim, annotations: Value) -> Result<(), ReconcileError> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &claim.namespace);
        let patch = json!({"metadata": {"uid": claim.uid, "annotations": annotations}});
        match claims.patch(&claim.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(written) => self.claims.put(&written.metadata.clone(), Claim::new(written)),
            Err(error) if has_moved(&error) => {}
            Err(error) => return Err(at("marking the claim")(error)),
        }
        Ok(())
    }

    fn tell_claim(&self, claim: &Claim, told: Option<Told>) {
        let Some(told) = told else { return };
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            namespace: Some(claim.namespace.clone()),
            name: Some(claim.name.clone()),
            uid: Some(claim.uid.clone()),
            ..ObjectReference::default()
        };
        self.recorder.send(about, told.severity, told.reason, told.message);
    }
}

fn about_volume(volume: &Volume) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolume".into()),
        name: Some(volume.name.clone()),
        uid: Some(volume.uid.clone()),
        ..ObjectReference::default()
    }
}

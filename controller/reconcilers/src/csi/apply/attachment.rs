//! Lets the driver attach volumes to nodes, and detach them.
use super::super::attach::{self, Step};
use super::super::driver::Connection;
use super::super::error::CsiError;
use super::{Reconciler, SOON, guard, has_moved, now, shown};
use crate::cache::Key;
use crate::error::at;
use crate::queue::Next;
use api::well_known::ANNOTATION_ATTACHED_NODE_ID;
use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

/// What came of a try.
enum Done {
    /// It is done.
    Whole,
    /// Somebody wrote at the same time.
    Moved,
}

/// Why it failed the last time.
fn said(held: &VolumeAttachment, is_attaching: bool) -> Option<&String> {
    let status = held.status.as_ref()?;
    let error = if is_attaching { &status.attach_error } else { &status.detach_error };
    error.as_ref()?.message.as_ref()
}

impl Reconciler {
    fn all_attachments(&self) -> Api<VolumeAttachment> {
        Api::all(self.client.clone())
    }

    pub(super) async fn attachment(&self, name: &Key) -> Result<Next, CsiError> {
        let held = self.all_attachments().get_opt(name).await.map_err(at("reading the VolumeAttachment"))?;
        let Some(held) = held.filter(|held| held.spec.attacher == self.driver.name()) else { return Ok(Next::Wait) };
        let is_attaching = held.metadata.deletion_timestamp.is_none();
        let done = self.try_attachment(&held).await;
        if let Err(error) = &done {
            let field = if is_attaching { "attachError" } else { "detachError" };
            let message = shown(error);
            // What was said before need not be said again.
            if said(&held, is_attaching) != Some(&message) {
                self.attachment_status(&held, json!({field: {"message": message, "time": now()}})).await?;
            }
        }
        Ok(match done? {
            Done::Whole => Next::Wait,
            Done::Moved => Next::After(SOON),
        })
    }

    async fn try_attachment(&self, held: &VolumeAttachment) -> Result<Done, CsiError> {
        let driver = self.driver.connection().await?;
        match attach::step(self.driver.name(), held, driver.abilities) {
            Step::Leave => Ok(Done::Whole),
            Step::SayAttached => {
                self.attachment_status(held, json!({"attached": true, "attachError": null})).await?;
                Ok(Done::Whole)
            }
            Step::Attach => self.attach(&driver, held).await,
            Step::Detach => self.detach(&driver, held).await,
        }
    }

    /// The volume that is attached.
    async fn attached_volume(&self, held: &VolumeAttachment) -> Result<PersistentVolume, CsiError> {
        let name = held.spec.source.persistent_volume_name.as_deref();
        let name = name.ok_or_else(|| CsiError::Unfit("spec.source.inlineVolumeSpec is not supported".into()))?;
        let volume = self.all_volumes().get_opt(name).await.map_err(at("reading the volume"))?;
        volume.ok_or_else(|| CsiError::Unfit(format!("persistentvolume {name:?} not found")))
    }

    /// The driver's name of the node.
    fn node_id(&self, node: &str) -> Result<String, CsiError> {
        let facts = self.csi_nodes.get(node);
        let id = facts.as_ref().and_then(|facts| facts.id(self.driver.name()));
        let id = id.filter(|id| !id.is_empty()).map(str::to_owned);
        id.ok_or_else(|| CsiError::Unfit(format!("CSINode {node} does not contain driver {}", self.driver.name())))
    }

    async fn attach(&self, driver: &Connection, held: &VolumeAttachment) -> Result<Done, CsiError> {
        let volume = self.attached_volume(held).await?;
        if volume.metadata.deletion_timestamp.is_some() {
            let name = volume.metadata.name.unwrap_or_default();
            return Err(CsiError::Unfit(format!("PersistentVolume {name:?} is marked for deletion")));
        }
        let own = attach::of_driver(self.driver.name(), &volume).map_err(CsiError::Unfit)?;
        let node_id = self.node_id(&held.spec.node_name)?;
        let secrets = self.secret(own.controller_publish_secret_ref.as_ref()).await?;
        let finalizer = attach::finalizer(self.driver.name());
        // Both say what is to be undone before it is done.
        let of_volume = volume.metadata.finalizers.clone().unwrap_or_default();
        if !of_volume.contains(&finalizer) {
            let whole: Vec<String> = of_volume.into_iter().chain([finalizer.clone()]).collect();
            let patch = json!({"metadata": {"finalizers": whole}});
            if self.patch_volume(&volume, patch).await?.is_none() {
                return Ok(Done::Moved);
            }
        }
        let annotations = held.metadata.annotations.as_ref();
        let is_noted = annotations.and_then(|all| all.get(ANNOTATION_ATTACHED_NODE_ID)) == Some(&node_id);
        let finalizers = held.metadata.finalizers.clone().unwrap_or_default();
        if !is_noted || !finalizers.contains(&finalizer) {
            let others = finalizers.into_iter().filter(|own| *own != finalizer);
            let whole: Vec<String> = others.chain([finalizer.clone()]).collect();
            let patch =
                json!({"metadata": {"annotations": {ANNOTATION_ATTACHED_NODE_ID: node_id}, "finalizers": whole}});
            if !self.patch_attachment(held, patch).await? {
                return Ok(Done::Moved);
            }
        }
        let request = attach::attach(&volume, own, node_id, driver.abilities, secrets);
        let answer = self.driver.note(driver.plugin.attach_volume(request).await).await?;
        let context: std::collections::BTreeMap<_, _> = answer.publish_context.into_iter().collect();
        let status = json!({"attached": true, "attachmentMetadata": context, "attachError": null});
        self.attachment_status(held, status).await?;
        log(held, "attached by a driver");
        Ok(Done::Whole)
    }

    async fn detach(&self, driver: &Connection, held: &VolumeAttachment) -> Result<Done, CsiError> {
        let volume = self.attached_volume(held).await?;
        let own = attach::of_driver(self.driver.name(), &volume).map_err(CsiError::Unfit)?;
        // The node may be gone.
        let noted = held.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION_ATTACHED_NODE_ID)).cloned();
        let node_id = noted.map_or_else(|| self.node_id(&held.spec.node_name), Ok)?;
        let secrets = self.secret(own.controller_publish_secret_ref.as_ref()).await?;
        let request = attach::detach(own, node_id, secrets);
        self.driver.note(driver.plugin.detach_volume(request).await).await?;
        log(held, "detached by a driver");
        self.attachment_status(held, json!({"attached": false, "detachError": null})).await?;
        let name = held.metadata.name.as_deref().unwrap_or_default();
        let fresh = self.all_attachments().get_opt(name).await.map_err(at("reading the VolumeAttachment"))?;
        let Some(fresh) = fresh.filter(|fresh| fresh.metadata.uid == held.metadata.uid) else { return Ok(Done::Whole) };
        let finalizer = attach::finalizer(self.driver.name());
        let left: Vec<&String> = fresh.metadata.finalizers.iter().flatten().filter(|own| **own != finalizer).collect();
        let is_written = self.patch_attachment(&fresh, json!({"metadata": {"finalizers": left}})).await?;
        Ok(if is_written { Done::Whole } else { Done::Moved })
    }

    /// Patches a VolumeAttachment; `false` where it is gone or has changed.
    async fn patch_attachment(&self, held: &VolumeAttachment, mut patch: Value) -> Result<bool, CsiError> {
        guard(&mut patch, &held.metadata);
        let name = held.metadata.name.as_deref().unwrap_or_default();
        match self.all_attachments().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(true),
            Err(error) if has_moved(&error) => Ok(false),
            Err(error) => Err(at("writing the VolumeAttachment")(error).into()),
        }
    }

    async fn attachment_status(&self, held: &VolumeAttachment, status: Value) -> Result<(), CsiError> {
        let patch = Patch::Merge(json!({"metadata": {"uid": held.metadata.uid}, "status": status}));
        let name = held.metadata.name.as_deref().unwrap_or_default();
        match self.all_attachments().patch_status(name, &PatchParams::default(), &patch).await {
            Ok(_) => Ok(()),
            Err(error) if has_moved(&error) => Ok(()),
            Err(error) => Err(at("writing the VolumeAttachment's status")(error).into()),
        }
    }
}

fn log(held: &VolumeAttachment, what: &str) {
    let object = held.metadata.name.as_deref();
    tracing::info!(hop = "csi", kind = "VolumeAttachment", object, node = held.spec.node_name, "{what}");
}

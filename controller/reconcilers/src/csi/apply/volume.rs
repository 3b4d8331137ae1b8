//! Lets the driver remove volumes whose claims are gone, and keeps the finalizers of volumes.
use super::super::error::CsiError;
use super::super::reclaim::{self, Step};
use super::{Reconciler, SOON, has_moved, shown};
use crate::cache::Key;
use crate::error::at;
use crate::queue::Next;
use crate::record::Severity;
use api::volume::Volume;
use api::well_known::{ANNOTATION_DELETION_SECRET_NAME, ANNOTATION_DELETION_SECRET_NAMESPACE, FINALIZER_PROVISIONER};
use api_plugin::csi::controller::DeleteRequest;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, SecretReference};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::{Api, DeleteParams, ListParams, Preconditions};
use serde_json::json;
use std::collections::HashMap;

impl Reconciler {
    pub(super) async fn volume(&self, name: &Key) -> Result<Next, CsiError> {
        let held = self.all_volumes().get_opt(name).await.map_err(at("reading the volume"))?;
        let Some(held) = held else { return Ok(Next::Wait) };
        let volume = Volume::new(held.clone());
        if reclaim::step(self.driver.name(), &volume, false) == Step::Leave {
            return Ok(Next::Wait);
        }
        let is_attached = self.is_attached(name).await?;
        match reclaim::step(self.driver.name(), &volume, is_attached) {
            Step::Leave => Ok(Next::Wait),
            Step::Finalizers(finalizers) => self.set_finalizers(&held, &finalizers).await,
            Step::Delete => {
                let done = self.delete_volume(&held, &volume).await;
                if let Err(error) = &done {
                    let about = ObjectReference {
                        api_version: Some("v1".into()),
                        kind: Some("PersistentVolume".into()),
                        name: held.metadata.name.clone(),
                        uid: held.metadata.uid.clone(),
                        ..ObjectReference::default()
                    };
                    self.recorder.send(about, Severity::Warning, "VolumeFailedDelete", shown(error));
                }
                done
            }
        }
    }

    async fn set_finalizers(&self, held: &PersistentVolume, finalizers: &[String]) -> Result<Next, CsiError> {
        let patch = json!({"metadata": {"finalizers": finalizers}});
        Ok(self.patch_volume(held, patch).await?.map_or(Next::After(SOON), |_| Next::Wait))
    }

    /// Whether a VolumeAttachment names the volume. A watch may lag behind: the server is asked before it is denied.
    pub(super) async fn is_attached(&self, volume: &str) -> Result<bool, CsiError> {
        if !self.attachments.select(|own| own.volume() == volume).is_empty() {
            return Ok(true);
        }
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        let all = api.list(&ListParams::default()).await.map_err(at("looking for the volume's attachments"))?;
        Ok(all.iter().any(|own| own.spec.source.persistent_volume_name.as_deref() == Some(volume)))
    }

    /// The volume, then its object, then the finalizer: whatever is cut short is begun again, and drivers take it well.
    async fn delete_volume(&self, held: &PersistentVolume, volume: &Volume) -> Result<Next, CsiError> {
        let driver = self.driver.connection().await?;
        if !driver.abilities.creates {
            return Err(CsiError::Unfit("the driver removes no volumes (capability CREATE_DELETE_VOLUME)".into()));
        }
        let Some((_, handle)) = &volume.csi else { return Ok(Next::Wait) };
        let annotation = |key: &str| held.metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
        let (name, namespace) =
            (annotation(ANNOTATION_DELETION_SECRET_NAME), annotation(ANNOTATION_DELETION_SECRET_NAMESPACE));
        let own = name.zip(namespace);
        let own = own.map(|(name, namespace)| SecretReference { name: Some(name), namespace: Some(namespace) });
        let secrets = match self.secret(own.as_ref()).await {
            Ok(secrets) => secrets,
            // It may have gone with the claim's namespace: the driver says whether it can do without.
            Err(CsiError::Unfit(_)) => HashMap::new(),
            Err(error) => return Err(error),
        };
        let request = DeleteRequest { volume_id: handle.clone(), secrets };
        self.driver.note(driver.plugin.delete_volume(request).await).await?;
        tracing::info!(kind = "PersistentVolume", object = volume.name, uid = volume.uid, "removed by a driver");
        if !volume.is_deleting {
            let own = Preconditions { uid: Some(volume.uid.clone()), resource_version: None };
            let params = DeleteParams { preconditions: Some(own), ..DeleteParams::default() };
            match self.all_volumes().delete(&volume.name, &params).await {
                Ok(_) => {}
                Err(error) if has_moved(&error) => {}
                Err(error) => return Err(at("deleting the volume")(error).into()),
            }
        }
        let held = self.all_volumes().get_opt(&volume.name).await.map_err(at("reading the volume"))?;
        let Some(held) = held.filter(|held| held.metadata.uid.as_deref() == Some(&volume.uid)) else {
            return Ok(Next::Wait);
        };
        let finalizers = held.metadata.finalizers.iter().flatten();
        let finalizers: Vec<String> = finalizers.filter(|own| *own != FINALIZER_PROVISIONER).cloned().collect();
        self.set_finalizers(&held, &finalizers).await
    }
}

//! Lets the driver make a claim's volume larger.
use super::super::attach;
use super::super::driver::Connection;
use super::super::error::CsiError;
use super::super::resize::{self, Step};
use super::{Reconciler, SOON, now, shown};
use crate::error::at;
use crate::queue::Next;
use crate::record::Severity;
use api::quantity::{Format, Quantity};
use api::volume::{Claim, Volume};
use api_plugin::csi::controller::GrowRequest;
use api_plugin::csi::{CapacityRange, Outcome};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::{Value, json};

/// What came of it.
struct Grown {
    size: Quantity,
    /// The node has a part in it, too.
    is_node_pending: bool,
}

impl Reconciler {
    pub(super) async fn resize(&self, claim: &PersistentVolumeClaim, facts: &Claim) -> Result<Next, CsiError> {
        let volume = self.all_volumes().get_opt(&facts.volume).await.map_err(at("reading the claim's volume"))?;
        let Some(volume) = volume.filter(|volume| attach::of_driver(self.driver.name(), volume).is_ok()) else {
            return Ok(Next::Wait);
        };
        match resize::step(claim, &volume) {
            Step::Leave => Ok(Next::Wait),
            Step::Forget => {
                let status = resize::forgotten(&claim.status.clone().unwrap_or_default());
                Ok(self.resize_status(claim, status).await?.map_or(Next::After(SOON), |_| Next::Wait))
            }
            Step::Grow(size) => self.grow(claim, &volume, size).await,
        }
    }

    /// Writes a claim's status; `None` where it has changed.
    async fn resize_status(
        &self,
        claim: &PersistentVolumeClaim,
        status: Value,
    ) -> Result<Option<PersistentVolumeClaim>, CsiError> {
        self.patch_claim(claim, json!({"status": status}), true).await
    }

    async fn grow(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
        size: Quantity,
    ) -> Result<Next, CsiError> {
        let driver = self.driver.connection().await?;
        let name = volume.metadata.name.clone().unwrap_or_default();
        if !driver.abilities.grows && !driver.abilities.grows_on_nodes {
            let message = format!("volume {name:?}: the driver lets no volume grow (capability EXPAND_VOLUME)");
            self.tell_claim(claim, Severity::Warning, "VolumeResizeFailed", message);
            return Ok(Next::Wait);
        }
        let begun = resize::begun(&claim.status.clone().unwrap_or_default(), size, &now());
        let Some(claim) = self.resize_status(claim, begun).await? else { return Ok(Next::After(SOON)) };
        let status = claim.status.clone().unwrap_or_default();
        let message = format!("External resizer is resizing volume {name}");
        self.tell_claim(&claim, Severity::Normal, "Resizing", message);
        let grown = match self.grow_volume(&driver, volume, size).await {
            Ok(grown) => grown,
            Err(error) => {
                let why = shown(&error);
                let message = format!("resize volume {name:?} by resizer {:?} failed: {why}", self.driver.name());
                self.tell_claim(&claim, Severity::Warning, "VolumeResizeFailed", message);
                if matches!(&error, CsiError::Call(own) if own.outcome() == Outcome::Infeasible) {
                    self.resize_status(&claim, resize::infeasible(&status, &why, &now())).await?;
                }
                return Err(error);
            }
        };
        // The volume first: a claim never says that it has what its volume does not.
        if Volume::new(volume.clone()).capacity < grown.size {
            let patch = json!({"spec": {"capacity": {"storage": grown.size.to_string()}}});
            if self.patch_volume(volume, patch).await?.is_none() {
                return Ok(Next::After(SOON));
            }
        }
        let end = match grown.is_node_pending {
            true => resize::node_pending(&status, &now()),
            false => resize::done(&status, grown.size),
        };
        if self.resize_status(&claim, end).await?.is_none() {
            return Ok(Next::After(SOON));
        }
        tracing::info!(kind = "PersistentVolume", object = name, size = %grown.size, "made larger by a driver");
        let (reason, message) = match grown.is_node_pending {
            true => ("FileSystemResizeRequired", "Require file system resize of volume on node"),
            false => ("VolumeResizeSuccessful", "Resize volume succeeded"),
        };
        self.tell_claim(&claim, Severity::Normal, reason, message.to_owned());
        Ok(Next::Wait)
    }

    async fn grow_volume(
        &self,
        driver: &Connection,
        volume: &PersistentVolume,
        size: Quantity,
    ) -> Result<Grown, CsiError> {
        if driver.abilities.grows_on_nodes {
            return Ok(Grown { size, is_node_pending: true });
        }
        let own = attach::of_driver(self.driver.name(), volume).map_err(CsiError::Unfit)?;
        let request = GrowRequest {
            volume_id: own.volume_handle.clone(),
            capacity_range: Some(CapacityRange { required_bytes: size.value(), limit_bytes: 0 }),
            secrets: self.secret(own.controller_expand_secret_ref.as_ref()).await?,
            volume_capability: Some(attach::capability(volume, own, driver.abilities)),
        };
        let answer = self.driver.note(driver.plugin.grow_volume(request).await).await?;
        match answer.capacity_bytes {
            0 => Ok(Grown { size, is_node_pending: answer.node_expansion_required }),
            bytes if bytes >= size.value() => {
                let size = if bytes == size.value() { size } else { Quantity::from_units(bytes, Format::BinarySi) };
                Ok(Grown { size, is_node_pending: answer.node_expansion_required })
            }
            bytes => Err(CsiError::Unfit(format!("the driver made it {bytes} bytes large, {size} were asked for"))),
        }
    }
}

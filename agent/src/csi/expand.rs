//! Volumes that grew: the driver lets what is on them grow too, and the claim says so. And volumes that are to be published
//! again now and then. Kubernetes documentation, "Persistent Volumes", expanding.

use std::time::Duration;

use agent_pod::protocol::{Failure, Notice};
use api::quantity::Quantity;
use api_plugin::csi::CapacityRange;
use api_plugin::csi::node::{Capability, ExpandRequest};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::registry::Driver;
use super::request::Wanted;
use super::teardown::record;
use super::volume::{Record, Source, group, knows_single_writers, republish, secrets, wanted};
use crate::event::COMPONENT;
use crate::execute::Executor;
use crate::execute::volume::fail;

/// How often mounted volumes are looked at.
const EVERY: Duration = Duration::from_secs(60);

fn storage(
    amounts: Option<&std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
) -> Option<Quantity> {
    Quantity::parse(&amounts?.get("storage")?.0).ok()
}

/// Lets a volume grow on this node, if it is larger than its claim says and the driver has a part in it.
pub(super) async fn grow(
    executor: &Executor,
    volume: &PersistentVolume,
    wanted: &Wanted,
    driver: &Driver,
    record: &Record,
) -> Result<(), Failure> {
    let spec = volume.spec.clone().unwrap_or_default();
    let Some(claim_ref) = &spec.claim_ref else { return Ok(()) };
    let namespace = claim_ref.namespace.as_deref().unwrap_or_default();
    let name = claim_ref.name.as_deref().unwrap_or_default();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(executor.host.client.clone(), namespace);
    let Some(claim) = claims.get_opt(name).await.map_err(fail)? else { return Ok(()) };
    let has = storage(claim.status.as_ref().and_then(|status| status.capacity.as_ref()));
    let (Some(has), Some(is)) = (has, storage(spec.capacity.as_ref())) else { return Ok(()) };
    if is <= has || wanted.read_only || !driver.capabilities.has(Capability::ExpandVolume) {
        return Ok(());
    }
    let request = ExpandRequest {
        volume_id: wanted.handle.clone(),
        volume_path: record.target.display().to_string(),
        capacity_range: Some(CapacityRange { required_bytes: is.value(), limit_bytes: 0 }),
        staging_target_path: record.staging.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        volume_capability: Some(wanted.capability(knows_single_writers(driver), group(executor, driver))),
        secrets: secrets(executor, wanted.expand_secret.as_ref()).await?,
    };
    driver.plugin.expand(request).await.map_err(fail)?;
    let waits = ["FileSystemResizePending", "Resizing"];
    let conditions = claim.status.and_then(|status| status.conditions).unwrap_or_default();
    let kept: Vec<_> = conditions.into_iter().filter(|own| !waits.contains(&own.type_.as_str())).collect();
    let patch = json!({"metadata": {"uid": claim.metadata.uid},
        "status": {"capacity": {"storage": is.to_string()}, "conditions": kept,
            "allocatedResourceStatuses": {"storage": null}}});
    let params = PatchParams { field_manager: Some(COMPONENT.into()), ..Default::default() };
    claims.patch_status(name, &params, &Patch::Merge(patch)).await.map_err(fail)?;
    let message = format!("MountVolume.NodeExpandVolume succeeded for volume {:?}", wanted.name);
    let notice = Notice { warning: false, reason: "FileSystemResizeSuccessful", message, container: None };
    executor.host.recorder.pod(&executor.host.client, &executor.pod, &notice).await;
    Ok(())
}

/// The volumes of a pod that drivers could have a hand in.
fn candidates(pod: &Pod) -> Vec<Volume> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.clone()).unwrap_or_default();
    let is_one = |own: &Volume| own.csi.is_some() || own.persistent_volume_claim.is_some() || own.ephemeral.is_some();
    volumes.into_iter().filter(is_one).collect()
}

/// Looks after a pod's volumes, until dropped.
pub(crate) async fn follow(executor: Executor) {
    let volumes = candidates(&executor.pod);
    if volumes.is_empty() {
        return;
    }
    loop {
        tokio::time::sleep(EVERY).await;
        if !executor.live.is_up() || !super::has_any(&executor.pod_dir()) {
            continue;
        }
        for volume in &volumes {
            if let Err(failure) = look(&executor, volume).await {
                tracing::warn!(
                    uid = executor.uid,
                    volume = volume.name,
                    message = failure.message,
                    "looking after a volume"
                );
            }
        }
    }
}

async fn look(executor: &Executor, volume: &Volume) -> Result<(), Failure> {
    if let Some(own) = &volume.csi {
        let Some(record) = record(&executor.pod_dir(), &volume.name) else { return Ok(()) };
        return republish(executor, &Source::Inline(&volume.name, own), &record).await;
    }
    let Some(used) = api::volume::claim_of(executor.name(), volume) else { return Ok(()) };
    let client = executor.host.client.clone();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), executor.namespace());
    let claim = claims.get_opt(&used.name).await.map_err(fail)?;
    let Some(name) = claim.and_then(|claim| claim.spec?.volume_name) else { return Ok(()) };
    let Some(record) = record(&executor.pod_dir(), &name) else { return Ok(()) };
    let Some(held) = Api::<PersistentVolume>::all(client).get_opt(&name).await.map_err(fail)? else { return Ok(()) };
    let source = Source::Persistent(&held);
    republish(executor, &source, &record).await?;
    let Some(wanted) = wanted(executor, &source) else { return Ok(()) };
    let Some(driver) = executor.host.drivers.get(&wanted.driver, Duration::ZERO).await else { return Ok(()) };
    let _turn = executor.host.drivers.turn(&wanted.driver, &wanted.handle).await;
    grow(executor, &held, &wanted, &driver, &record).await
}

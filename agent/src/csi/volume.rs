//! Brings a driver's volume to a pod: waits until it is attached, stages it once for the node, publishes it for the pod.
//! A record in the pod's directory says what is to be undone, before anything is done.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_pod::protocol::Failure;
use agent_volume::ownership;
use api_plugin::csi::node::{Capability, PublishRequest, StageRequest};
use k8s_openapi::api::core::v1::{CSIVolumeSource, PersistentVolume, Secret};
use k8s_openapi::api::storage::v1::CSIDriver;
use kube::api::Api;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::registry::Driver;
use super::request::{SecretKey, Wanted, pod_info};
use super::{attached, expand};
use crate::execute::Executor;
use crate::execute::blocking::blocking;
use crate::execute::volume::{fail, request_token, said};

/// After a start of the agent its drivers register within this.
const DRIVER_WITHIN: Duration = Duration::from_secs(5);

/// Where a volume of a driver is asked for.
pub(crate) enum Source<'a> {
    /// In the pod itself, under this name.
    Inline(&'a str, &'a CSIVolumeSource),
    /// By a claim.
    Persistent(&'a PersistentVolume),
}

/// What is to be undone when the pod goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) driver: String,
    pub(super) handle: String,
    /// Where the pod finds it.
    pub(super) target: PathBuf,
    /// Where the node has it; `None` for a driver that stages nothing.
    pub(super) staging: Option<PathBuf>,
}

pub(super) fn records_dir(pod_dir: &Path) -> PathBuf {
    pod_dir.join("csi")
}

fn keep(pod_dir: &Path, name: &str, record: &Record) -> std::io::Result<()> {
    let dir = records_dir(pod_dir);
    fs::create_dir_all(&dir)?;
    let (path, fresh) = (dir.join(name), dir.join(format!(".{name}")));
    fs::write(&fresh, serde_json::to_vec(record)?)?;
    fs::rename(fresh, path)
}

/// What a volume is, whoever asks for it; `None` for a PersistentVolume of another kind.
pub(super) fn wanted(executor: &Executor, source: &Source<'_>) -> Option<Wanted> {
    match source {
        Source::Inline(name, own) => Some(Wanted::inline(executor.namespace(), &executor.uid, name, own)),
        Source::Persistent(volume) => {
            let own = volume.spec.as_ref()?.csi.as_ref()?;
            Some(Wanted::persistent(volume, own))
        }
    }
}

/// Sets up a volume; done again, it is published again, which drivers take well. Answers where it is.
pub(crate) async fn set_up(executor: &Executor, source: Source<'_>) -> Result<PathBuf, Failure> {
    let wanted = wanted(executor, &source).ok_or_else(|| said("the volume is of no driver".into()))?;
    let (host, name) = (&executor.host, wanted.driver.as_str());
    let object = Api::<CSIDriver>::all(host.client.clone()).get_opt(name).await.map_err(fail)?;
    let spec = object.as_ref().map(|object| object.spec.clone()).unwrap_or_default();
    let modes = spec.volume_lifecycle_modes.clone().unwrap_or_default();
    if wanted.is_inline && !modes.iter().any(|mode| mode == "Ephemeral") {
        return Err(said(format!("driver {name} has no volumes of mode Ephemeral (CSIDriver, volumeLifecycleModes)")));
    }
    let driver = host.drivers.get(name, DRIVER_WITHIN).await;
    let driver =
        driver.ok_or_else(|| said(format!("driver name {name} not found in the list of registered CSI drivers")))?;
    let record = place(executor, &wanted, &driver);
    let (pod_dir, volume, own) = (executor.pod_dir(), wanted.name.clone(), record.clone());
    blocking(move || keep(&pod_dir, &volume, &own).map_err(fail)).await?;
    // Until it is undone nobody takes the volume away from the node.
    host.drivers.uses(name, &wanted.handle, true);
    let context = match wanted.is_inline || spec.attach_required == Some(false) {
        true => HashMap::new(),
        false => attached::context(executor, name, &wanted.handle).await?,
    };
    let _turn = host.drivers.turn(name, &wanted.handle).await;
    stage(executor, &wanted, &driver, &record, &context).await?;
    publish(executor, &wanted, &driver, &record, context, object.as_ref()).await?;
    if let Source::Persistent(volume) = source {
        expand::grow(executor, volume, &wanted, &driver, &record).await?;
    }
    Ok(record.target)
}

/// Where things are to be (kubelet, `pkg/volume/csi`).
fn place(executor: &Executor, wanted: &Wanted, driver: &Driver) -> Record {
    let plugins = executor.host.config.instance.plugins_dir().join("kubernetes.io/csi");
    let is_staged = driver.capabilities.has(Capability::StageUnstage) && !wanted.is_inline;
    let (target, staging) = match wanted.is_block {
        true => {
            let devices = plugins.join("volumeDevices");
            (devices.join("publish").join(&wanted.name).join(&executor.uid), devices.join("staging").join(&wanted.name))
        }
        false => {
            let digest = hex::encode(Sha256::digest(&wanted.handle));
            (
                executor.volume_dir("csi", &wanted.name).join("mount"),
                plugins.join(&wanted.driver).join(digest).join("globalmount"),
            )
        }
    };
    let (driver, handle) = (wanted.driver.clone(), wanted.handle.clone());
    Record { driver, handle, target, staging: is_staged.then_some(staging) }
}

async fn stage(
    executor: &Executor,
    wanted: &Wanted,
    driver: &Driver,
    record: &Record,
    context: &HashMap<String, String>,
) -> Result<(), Failure> {
    let Some(staging) = record.staging.clone() else { return Ok(()) };
    let request = StageRequest {
        volume_id: wanted.handle.clone(),
        publish_context: context.clone(),
        staging_target_path: staging.display().to_string(),
        volume_capability: Some(wanted.capability(knows_single_writers(driver), group(executor, driver))),
        secrets: secrets(executor, wanted.stage_secret.as_ref()).await?,
        volume_context: wanted.attributes.clone().into_iter().collect(),
    };
    blocking(move || fs::create_dir_all(&staging).map_err(fail)).await?;
    driver.plugin.stage(request).await.map_err(fail)
}

/// Publishes, and gives files to the pod's group where the driver does not.
async fn publish(
    executor: &Executor,
    wanted: &Wanted,
    driver: &Driver,
    record: &Record,
    context: HashMap<String, String>,
    object: Option<&CSIDriver>,
) -> Result<(), Failure> {
    let spec = object.map(|object| object.spec.clone()).unwrap_or_default();
    let mut attributes: HashMap<String, String> = wanted.attributes.clone().into_iter().collect();
    if spec.pod_info_on_mount == Some(true) {
        attributes.extend(pod_info(&executor.pod, wanted.is_inline));
    }
    let mut secrets = secrets(executor, wanted.publish_secret.as_ref()).await?;
    if let Some(requests) = spec.token_requests.filter(|all| !all.is_empty()) {
        let mut tokens = serde_json::Map::new();
        for request in requests {
            let audience = Some(request.audience.clone()).filter(|own| !own.is_empty());
            let token = request_token(executor, audience, request.expiration_seconds.unwrap_or(3600)).await?;
            let told = json!({"token": token.text, "expirationTimestamp": token.expires_at.to_string()});
            tokens.insert(request.audience, told);
        }
        let (key, tokens) = ("csi.storage.k8s.io/serviceAccount.tokens", serde_json::Value::from(tokens).to_string());
        let place = if spec.service_account_token_in_secrets == Some(true) { &mut secrets } else { &mut attributes };
        place.insert(key.into(), tokens);
    }
    let target = record.target.clone();
    let request = PublishRequest {
        volume_id: wanted.handle.clone(),
        publish_context: context,
        staging_target_path: record.staging.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        target_path: target.display().to_string(),
        volume_capability: Some(wanted.capability(knows_single_writers(driver), group(executor, driver))),
        readonly: wanted.read_only,
        secrets,
        volume_context: attributes,
    };
    // The driver makes the last part itself.
    let parent = target.parent().map(Path::to_owned).unwrap_or_default();
    blocking(move || fs::create_dir_all(&parent).map_err(fail)).await?;
    driver.plugin.publish(request).await.map_err(fail)?;
    let gives =
        !wanted.is_block && !wanted.read_only && group(executor, driver).is_none() && wanted.gives_files(object);
    if let Some(gid) = executor.fs_group().filter(|_| gives) {
        let on_mismatch = executor.gives_on_mismatch();
        blocking(move || ownership::give(&target, gid, on_mismatch).map_err(fail)).await?;
    }
    Ok(())
}

/// Publishes again what the driver wants to be published again: a token that is renewed, a secret that changed.
pub(super) async fn republish(executor: &Executor, source: &Source<'_>, record: &Record) -> Result<(), Failure> {
    let Some(wanted) = wanted(executor, source) else { return Ok(()) };
    let object = Api::<CSIDriver>::all(executor.host.client.clone()).get_opt(&wanted.driver).await.map_err(fail)?;
    if object.as_ref().and_then(|object| object.spec.requires_republish) != Some(true) {
        return Ok(());
    }
    let Some(driver) = executor.host.drivers.get(&wanted.driver, DRIVER_WITHIN).await else { return Ok(()) };
    let attaches = object.as_ref().and_then(|object| object.spec.attach_required) != Some(false) && !wanted.is_inline;
    let context = match attaches {
        true => attached::context(executor, &wanted.driver, &wanted.handle).await?,
        false => HashMap::new(),
    };
    let _turn = executor.host.drivers.turn(&wanted.driver, &wanted.handle).await;
    publish(executor, &wanted, &driver, record, context, object.as_ref()).await
}

pub(super) fn knows_single_writers(driver: &Driver) -> bool {
    driver.capabilities.has(Capability::SingleNodeMultiWriter)
}

/// The pod's group, where the driver gives files to it.
pub(super) fn group(executor: &Executor, driver: &Driver) -> Option<u32> {
    executor.fs_group().filter(|_| driver.capabilities.has(Capability::VolumeMountGroup))
}

pub(super) async fn secrets(executor: &Executor, key: Option<&SecretKey>) -> Result<HashMap<String, String>, Failure> {
    let Some((namespace, name)) = key else { return Ok(HashMap::new()) };
    let api: Api<Secret> = Api::namespaced(executor.host.client.clone(), namespace);
    let secret = api.get_opt(name).await.map_err(fail)?;
    let secret = secret.ok_or_else(|| said(format!("secret {namespace}/{name} not found")))?;
    let text = |(key, value): (String, k8s_openapi::ByteString)| (key, String::from_utf8_lossy(&value.0).into_owned());
    Ok(secret.data.unwrap_or_default().into_iter().map(text).collect())
}

//! A pod's volumes: what they show is fetched here, how it is shown is `agent-volume`'s.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agent_pod::protocol::Failure;
use agent_volume::payload::{Data, FileContent, Payload, files, relative};
use agent_volume::{atomic, directory, removal};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, Secret, ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use kube::api::{Api, PostParams};

use super::sandbox::blocking;
use super::{Executor, failure};
use crate::environment;

const REASON: &str = "FailedMount";
const DEFAULT_MODE: u32 = 0o644;
const DEFAULT_TOKEN_SECONDS: i64 = 3600;
/// Files of projections beyond this are refused.
const DATA_BYTES: u64 = 64 << 20;

fn fail(error: impl std::error::Error + 'static) -> Failure {
    failure(REASON, &error)
}

fn said(message: String) -> Failure {
    Failure { reason: REASON.into(), message }
}

impl Executor {
    fn pod_dir(&self) -> PathBuf {
        self.host.config.instance.pods_dir().join(&self.uid)
    }

    fn volume_dir(&self, plugin: &str, name: &str) -> PathBuf {
        self.pod_dir().join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
    }

    fn fs_group(&self) -> Option<u32> {
        let context = self.pod.spec.as_ref()?.security_context.as_ref()?;
        u32::try_from(context.fs_group?).ok()
    }
}

/// Which directory of the kubelet's layout a volume has; `None` for one that lives elsewhere.
fn plugin(volume: &Volume) -> Option<&'static str> {
    if volume.empty_dir.is_some() {
        Some("empty-dir")
    } else if volume.config_map.is_some() {
        Some("configmap")
    } else if volume.secret.is_some() {
        Some("secret")
    } else if volume.downward_api.is_some() {
        Some("downward-api")
    } else if volume.projected.is_some() {
        Some("projected")
    } else {
        None
    }
}

/// Where a volume of the pod is on this machine.
pub(crate) fn source(executor: &Executor, name: &str) -> Option<PathBuf> {
    let volumes = executor.pod.spec.as_ref()?.volumes.as_ref()?;
    let volume = volumes.iter().find(|volume| volume.name == name)?;
    match (&volume.host_path, plugin(volume)) {
        (Some(host), _) => Some(PathBuf::from(&host.path)),
        (None, Some(plugin)) => Some(executor.volume_dir(plugin, name)),
        (None, None) => None,
    }
}

/// Sets up every volume of the pod. Done again, it repairs and updates.
pub(crate) async fn set_up(executor: &Executor) -> Result<(), Failure> {
    let volumes = executor.pod.spec.as_ref().and_then(|spec| spec.volumes.clone()).unwrap_or_default();
    if !volumes.is_empty() {
        let (instance, dir) = (executor.host.config.instance.clone(), executor.pod_dir());
        blocking(move || instance.make_owned(&dir).map_err(fail)).await?;
    }
    futures::future::try_join_all(volumes.iter().map(|volume| set_up_one(executor, volume))).await.map(drop)
}

async fn set_up_one(executor: &Executor, volume: &Volume) -> Result<(), Failure> {
    let named = |mut failure: Failure| {
        failure.message = format!("MountVolume.SetUp failed for volume {:?}: {}", volume.name, failure.message);
        failure
    };
    set_up_kind(executor, volume).await.map_err(named)
}

async fn set_up_kind(executor: &Executor, volume: &Volume) -> Result<(), Failure> {
    if let Some(host) = &volume.host_path {
        let (path, kind) = (PathBuf::from(&host.path), host.type_.clone().unwrap_or_default());
        return blocking(move || directory::host_path(&path, &kind).map_err(fail)).await;
    }
    let Some(plugin) = plugin(volume) else { return Err(said("its kind is not supported".into())) };
    let (dir, gid) = (executor.volume_dir(plugin, &volume.name), executor.fs_group());
    if let Some(empty) = &volume.empty_dir {
        let in_memory = empty.medium.as_deref() == Some("Memory");
        let size = empty
            .size_limit
            .as_ref()
            .map(|limit| api::quantity::Quantity::parse(&limit.0).map_err(fail))
            .transpose()?;
        let size = size.and_then(|size| u64::try_from(size.value()).ok()).filter(|size| *size > 0);
        return blocking(move || {
            if in_memory {
                directory::tmpfs(&dir, size, 0o1777).map_err(fail)?;
            }
            directory::empty_dir(&dir, gid).map_err(fail)
        })
        .await;
    }
    let payload = payload(executor, volume).await?;
    let is_secret = volume.secret.is_some() || volume.projected.is_some();
    blocking(move || show(&dir, &payload, is_secret, gid)).await
}

/// Writes a payload; secrets never touch a disk.
fn show(dir: &Path, payload: &Payload, is_secret: bool, gid: Option<u32>) -> Result<(), Failure> {
    match is_secret {
        true => directory::tmpfs(dir, Some(DATA_BYTES), 0o755).map_err(fail)?,
        false => std::fs::create_dir_all(dir).map_err(fail)?,
    }
    let version = k8s_openapi::jiff::Timestamp::now().as_nanosecond().to_string();
    atomic::write(dir, payload, &version, gid).map_err(fail)
}

fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(DEFAULT_MODE)
}

/// What a volume that is made of API objects shows.
async fn payload(executor: &Executor, volume: &Volume) -> Result<Payload, Failure> {
    if let Some(source) = &volume.config_map {
        let data = config_map(executor, &source.name, source.optional == Some(true)).await?;
        return files(&data, source.items.as_deref(), mode(source.default_mode), source.optional == Some(true))
            .map_err(fail);
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.clone().unwrap_or_default();
        let data = secret(executor, &name, source.optional == Some(true)).await?;
        return files(&data, source.items.as_deref(), mode(source.default_mode), source.optional == Some(true))
            .map_err(fail);
    }
    if let Some(source) = &volume.downward_api {
        return downward(executor, source.items.as_deref().unwrap_or_default(), mode(source.default_mode));
    }
    let mut all = Payload::new();
    if let Some(projected) = &volume.projected {
        let default_mode = mode(projected.default_mode);
        for source in projected.sources.iter().flatten() {
            all.append(&mut projection(executor, source, default_mode).await?);
        }
    }
    Ok(all)
}

async fn projection(executor: &Executor, source: &VolumeProjection, default_mode: u32) -> Result<Payload, Failure> {
    if let Some(source) = &source.config_map {
        let optional = source.optional == Some(true);
        let data = config_map(executor, &source.name, optional).await?;
        return files(&data, source.items.as_deref(), default_mode, optional).map_err(fail);
    }
    if let Some(source) = &source.secret {
        let optional = source.optional == Some(true);
        let data = secret(executor, &source.name, optional).await?;
        return files(&data, source.items.as_deref(), default_mode, optional).map_err(fail);
    }
    if let Some(source) = &source.downward_api {
        return downward(executor, source.items.as_deref().unwrap_or_default(), default_mode);
    }
    if let Some(source) = &source.service_account_token {
        let token = token(executor, source).await?;
        let content = FileContent { bytes: token.into_bytes(), mode: default_mode };
        return Ok(BTreeMap::from([(relative(&source.path).map_err(fail)?, content)]));
    }
    Err(said("a projected source is of an unsupported kind".into()))
}

async fn config_map(executor: &Executor, name: &str, optional: bool) -> Result<Data, Failure> {
    let api: Api<ConfigMap> = Api::namespaced(executor.host.client.clone(), executor.namespace());
    match api.get_opt(name).await.map_err(fail)? {
        Some(map) => Ok(Data::from(&map)),
        None if optional => Ok(Data::default()),
        None => Err(said(format!("configmap {name:?} not found"))),
    }
}

async fn secret(executor: &Executor, name: &str, optional: bool) -> Result<Data, Failure> {
    let api: Api<Secret> = Api::namespaced(executor.host.client.clone(), executor.namespace());
    match api.get_opt(name).await.map_err(fail)? {
        Some(secret) => Ok(Data::from(&secret)),
        None if optional => Ok(Data::default()),
        None => Err(said(format!("secret {name:?} not found"))),
    }
}

fn downward(executor: &Executor, items: &[DownwardAPIVolumeFile], default_mode: u32) -> Result<Payload, Failure> {
    let place = executor.host.place(&executor.pod_ips);
    let mut payload = Payload::new();
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => environment::field(&executor.pod, &field.field_path, &place),
            (None, Some(resource)) => environment::resource(
                &executor.pod,
                resource.container_name.as_deref().unwrap_or_default(),
                &resource.resource,
                resource.divisor.as_ref().map(|divisor| divisor.0.as_str()),
            ),
            (None, None) => None,
        };
        let value = value.ok_or_else(|| said(format!("downward API item {:?} names nothing supported", item.path)))?;
        let mode = item.mode.map_or(default_mode, |own| mode(Some(own)));
        payload.insert(relative(&item.path).map_err(fail)?, FileContent { bytes: value.into_bytes(), mode });
    }
    Ok(payload)
}

/// A token for the pod's account, bound to the pod.
async fn token(executor: &Executor, source: &ServiceAccountTokenProjection) -> Result<String, Failure> {
    let account = executor.pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    let account = account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into());
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: source.audience.clone().map(|audience| vec![audience]),
            expiration_seconds: Some(source.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS)),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(executor.name().into()),
                uid: Some(executor.uid.clone()),
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(executor.host.client.clone(), executor.namespace());
    let reply = api.create_token_request(&account, &PostParams::default(), &request).await.map_err(fail)?;
    reply.status.and_then(|status| status.token).ok_or_else(|| said("the server gave no token".into()))
}

/// Whether the pod has volumes whose content changes with time or with API objects.
pub(crate) fn can_change(executor: &Executor) -> bool {
    let volumes = executor.pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    volumes.into_iter().flatten().any(|volume| {
        volume.config_map.is_some()
            || volume.secret.is_some()
            || volume.projected.is_some()
            || volume.downward_api.is_some()
    })
}

/// Shows the present content of such volumes; a failure leaves the old content.
pub(crate) async fn refresh(executor: &Executor) {
    let volumes = executor.pod.spec.as_ref().and_then(|spec| spec.volumes.clone()).unwrap_or_default();
    for volume in volumes.iter().filter(|volume| volume.empty_dir.is_none() && volume.host_path.is_none()) {
        if let Err(failure) = set_up_one(executor, volume).await {
            tracing::warn!(uid = executor.uid, message = failure.message, "refreshing a volume");
        }
    }
}

/// Removes every volume of the pod and its directory, if they are this instance's.
pub(crate) async fn tear_down(executor: &Executor) {
    let (dir, instance) = (executor.pod_dir(), executor.host.config.instance.clone());
    let done = tokio::task::spawn_blocking(move || match instance.owns(&dir) {
        // The mark of the owner goes last: what fails is tried again.
        true => removal::remove_tree(&dir.join("volumes")).and_then(|()| removal::remove_tree(&dir)),
        false => Ok(()),
    });
    match done.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = super::chain(&error), uid = executor.uid, "tearing down volumes"),
        Err(error) => tracing::error!(%error, uid = executor.uid, "tearing down volumes"),
    }
}

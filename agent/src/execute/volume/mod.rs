//! A pod's volumes: what they show is fetched here, how it is shown is `agent-volume`'s.

mod certificate;
mod claim;
mod content;
pub(super) mod image;
pub(crate) mod limit;
pub(crate) mod live;
mod pod_key;

use std::path::{Path, PathBuf};

use agent_pod::protocol::Failure;
use agent_volume::attach::{self, Export};
use agent_volume::payload::Payload;
use agent_volume::{atomic, directory, removal};
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, NFSVolumeSource, Volume};

pub(crate) use self::content::request_token;
use self::live::Seen;
use super::blocking::{self, blocking};
use super::{Executor, failure};
use crate::{csi, dra};

const REASON: &str = "FailedMount";
/// Files of projections beyond this are refused.
const DATA_BYTES: u64 = 64 << 20;

pub(crate) fn fail(error: impl std::error::Error + 'static) -> Failure {
    failure(REASON, &error)
}

pub(crate) fn said(message: String) -> Failure {
    Failure { reason: REASON.into(), message }
}

impl Executor {
    pub(crate) fn pod_dir(&self) -> PathBuf {
        self.host.config.instance.pods_dir().join(&self.uid)
    }

    pub(crate) fn volume_dir(&self, plugin: &str, name: &str) -> PathBuf {
        self.pod_dir().join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
    }

    pub(crate) fn fs_group(&self) -> Option<u32> {
        let context = self.pod.spec.as_ref()?.security_context.as_ref()?;
        u32::try_from(context.fs_group?).ok()
    }

    /// `fsGroupChangePolicy: OnRootMismatch`.
    pub(crate) fn gives_on_mismatch(&self) -> bool {
        let context = self.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        context.and_then(|context| context.fs_group_change_policy.as_deref()) == Some("OnRootMismatch")
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
    } else if volume.nfs.is_some() {
        Some("nfs")
    } else if volume.image.is_some() {
        Some("image")
    } else {
        None
    }
}

/// Whether a volume is made of API objects, whose changes it shows.
fn is_content(volume: &Volume) -> bool {
    matches!(plugin(volume), Some("configmap" | "secret" | "downward-api" | "projected"))
}

/// Where a volume is on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// No container may write to it, whatever its mount says.
    pub(crate) read_only: bool,
}

/// Where a volume of the pod is on this machine, once it is set up.
pub(crate) fn place(executor: &Executor, name: &str) -> Option<Place> {
    let volumes = executor.pod.spec.as_ref()?.volumes.as_ref()?;
    let volume = volumes.iter().find(|volume| volume.name == name)?;
    if let Some(host) = &volume.host_path {
        return Some(Place { path: PathBuf::from(&host.path), read_only: false });
    }
    match plugin(volume) {
        // What shows objects of the API is theirs: containers read it (as the kubelet does since 1.9).
        Some(plugin) => Some(Place {
            path: executor.volume_dir(plugin, name),
            read_only: is_content(volume)
                || volume.image.is_some()
                || volume.nfs.as_ref().is_some_and(|nfs| nfs.read_only == Some(true)),
        }),
        None => claim::place(executor, volume),
    }
}

/// The layers, highest first, of a volume that shows an image; `None` for every other volume.
pub(crate) fn image_layers(executor: &Executor, name: &str) -> Result<Option<Vec<PathBuf>>, String> {
    let volumes = executor.pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    if !volumes.into_iter().flatten().any(|volume| volume.name == name && volume.image.is_some()) {
        return Ok(None);
    }
    let layers = executor.host.images.layers(&image::key(&executor.uid, name));
    layers.map(Some).ok_or_else(|| format!("the image of volume {name:?} is not mounted"))
}

/// Sets up every volume of the pod. Done again, it repairs and updates.
pub(crate) async fn set_up(executor: &Executor) -> Result<(), Failure> {
    let volumes = executor.pod.spec.as_ref().and_then(|spec| spec.volumes.clone()).unwrap_or_default();
    if !volumes.is_empty() {
        let (instance, dir) = (executor.host.config.instance.clone(), executor.pod_dir());
        blocking(move || instance.make_owned(&dir).map_err(fail)).await?;
    }
    let _turn = executor.live.turn().await;
    let all = futures::future::try_join_all(volumes.iter().map(|volume| set_up_one(executor, volume))).await?;
    executor.live.is_shown(all.into_iter().fold(Seen::default(), Seen::and));
    Ok(())
}

async fn set_up_one(executor: &Executor, volume: &Volume) -> Result<Seen, Failure> {
    let named = |mut failure: Failure| {
        failure.message = format!("MountVolume.SetUp failed for volume {:?}: {}", volume.name, failure.message);
        failure
    };
    set_up_kind(executor, volume).await.map_err(named)
}

async fn set_up_kind(executor: &Executor, volume: &Volume) -> Result<Seen, Failure> {
    if let Some(host) = &volume.host_path {
        let (path, kind) = (PathBuf::from(&host.path), host.type_.clone().unwrap_or_default());
        return blocking(move || directory::host_path(&path, &kind).map_err(fail)).await.map(|()| Seen::default());
    }
    if let Some(own) = &volume.csi {
        let place = csi::set_up(executor, csi::Source::Inline(&volume.name, own)).await?;
        let (link, name) = (executor.pod_dir(), volume.name.clone());
        return blocking(move || claim::remember(&link, &name, &place).map_err(fail)).await.map(|()| Seen::default());
    }
    let Some(plugin) = plugin(volume) else {
        return claim::set_up(executor, volume).await.map(|()| Seen::default());
    };
    let (dir, gid) = (executor.volume_dir(plugin, &volume.name), executor.fs_group());
    if let Some(empty) = &volume.empty_dir {
        empty_dir(executor, empty, dir, gid).await?;
    } else if let Some(source) = &volume.nfs {
        let export = export(source, vec![]);
        blocking(move || attach::nfs(&export, &dir).map_err(fail)).await?;
    } else if let Some(source) = &volume.image {
        image::set_up(executor, &volume.name, source, dir).await?;
    } else {
        let (payload, seen) = content::payload(executor, volume).await?;
        let is_secret = volume.secret.is_some() || volume.projected.is_some();
        blocking(move || show(&dir, &payload, is_secret, gid)).await?;
        return Ok(seen);
    }
    Ok(Seen::default())
}

fn export(source: &NFSVolumeSource, options: Vec<String>) -> Export {
    let read_only = source.read_only == Some(true);
    Export { server: source.server.clone(), path: source.path.clone(), read_only, options }
}

async fn empty_dir(
    executor: &Executor,
    empty: &EmptyDirVolumeSource,
    dir: PathBuf,
    gid: Option<u32>,
) -> Result<(), Failure> {
    let bytes = |quantity: Quantity| u64::try_from(quantity.value()).ok().filter(|bytes| *bytes > 0);
    let limit = empty.size_limit.as_ref().map(|limit| Quantity::parse(&limit.0).map_err(fail)).transpose()?;
    let limit = limit.and_then(bytes);
    let medium = empty.medium.clone().unwrap_or_default();
    // What lies in memory counts as the pod's: it never needs more than the pod may have.
    let of_pod = pod_memory(executor).and_then(bytes);
    let size = limit.into_iter().chain(of_pod).min();
    blocking(move || {
        match medium.as_str() {
            "Memory" => directory::tmpfs(&dir, size, 0o1777).map_err(fail)?,
            pages if pages.starts_with("HugePages") => {
                let page = pages.strip_prefix("HugePages-");
                let page = page.map(|page| Quantity::parse(page).map_err(fail)).transpose()?.and_then(bytes);
                directory::huge_pages(&dir, page, limit).map_err(fail)?;
            }
            _ => {}
        }
        directory::empty_dir(&dir, gid).map_err(fail)
    })
    .await
}

/// The memory limit of the pod, if every container has one.
fn pod_memory(executor: &Executor) -> Option<Quantity> {
    let spec = executor.pod.spec.as_ref()?;
    let has_limit = |container: &k8s_openapi::api::core::v1::Container| {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        limits.is_some_and(|limits| limits.contains_key("memory"))
    };
    let every = spec.containers.iter().all(has_limit);
    api::pod::limits(spec).get("memory").copied().filter(|_| every)
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

/// Removes every volume of the pod and its directory, if they are this instance's. `is_patient` waits for drivers that
/// cannot let go yet.
pub(crate) async fn tear_down(executor: &Executor, is_patient: bool) {
    executor.live.is_gone();
    let _turn = executor.live.turn().await;
    // Nothing of a claim or a volume that its driver still holds is removed.
    if dra::has_any(&executor.pod_dir()) && !dra::unprepare(executor, is_patient).await {
        return;
    }
    if csi::has_any(&executor.pod_dir()) && !csi::tear_down(executor, is_patient).await {
        return;
    }
    let (dir, instance) = (executor.pod_dir(), executor.host.config.instance.clone());
    let (images, uid) = (executor.host.images.clone(), executor.uid.clone());
    let done = blocking::run(move || match instance.owns(&dir) {
        // The mark of the owner goes last: what fails is tried again.
        true => {
            let snapshots = image::snapshots(&dir, &uid);
            claim::release_devices(&dir, &instance.storage_dir()).map_err(|error| super::chain(&error))?;
            removal::remove_tree(&dir.join("volumes")).map_err(|error| super::chain(&error))?;
            // What containers stood on goes when nothing is mounted from it any more.
            snapshots.iter().try_for_each(|key| images.release(key)).map_err(|error| super::chain(&error))?;
            removal::remove_tree(&dir).map_err(|error| super::chain(&error))
        }
        false => Ok(()),
    });
    match done.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error, uid = executor.uid, "tearing down volumes"),
        Err(error) => tracing::error!(%error, uid = executor.uid, "tearing down volumes"),
    }
}

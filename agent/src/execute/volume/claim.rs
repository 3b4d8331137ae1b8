//! Volumes by claim: the claim names a PersistentVolume, and that says where the data is. A link in the pod's directory
//! remembers the place for containers that start later, also after a restart of the agent.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use agent_pod::protocol::Failure;
use agent_volume::{attach, block, directory, ownership};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Volume};
use kube::api::Api;

use super::{Executor, Place, fail, said};
use crate::csi;
use crate::execute::blocking::blocking;
use crate::storage;

fn link(pod_dir: &Path, volume: &str) -> PathBuf {
    pod_dir.join("claims").join(volume)
}

/// Where the volume of a claim was set up.
pub(super) fn place(executor: &Executor, volume: &Volume) -> Option<Place> {
    let path = fs::read_link(link(&executor.pod_dir(), &volume.name)).ok()?;
    let of_claim = volume.persistent_volume_claim.as_ref().and_then(|source| source.read_only);
    let of_driver = volume.csi.as_ref().and_then(|source| source.read_only);
    Some(Place { path, read_only: of_claim.or(of_driver) == Some(true) })
}

/// What the pod is to wait for, or where the data is.
fn check(claim: &PersistentVolumeClaim, executor: &Executor, is_ephemeral: bool) -> Result<String, String> {
    let facts = api::volume::Claim::new(claim.clone());
    if is_ephemeral && facts.owner.as_deref() != Some(&*executor.uid) {
        let pod = format!("{}/{}", executor.namespace(), executor.name());
        return Err(format!("PVC {} was not created for pod {pod} (pod is not owner)", facts.key()));
    }
    if facts.is_deleting {
        return Err(format!("can't start pod because PVC {:?} is being deleted", facts.key()));
    }
    match facts.is_bound() && facts.phase == "Bound" {
        true => Ok(facts.volume),
        false => Err(format!("PVC {:?} is not bound", facts.key())),
    }
}

/// Sets up the volume of a claim.
pub(super) async fn set_up(executor: &Executor, volume: &Volume) -> Result<(), Failure> {
    let Some(used) = api::volume::claim_of(executor.name(), volume) else {
        return Err(said("its kind is not supported".into()));
    };
    let client = executor.host.client.clone();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), executor.namespace());
    let claim = claims.get_opt(&used.name).await.map_err(fail)?;
    let claim = claim.ok_or_else(|| said(format!("persistentvolumeclaim {:?} not found", used.name)))?;
    let name = check(&claim, executor, used.is_ephemeral).map_err(said)?;
    let volumes: Api<PersistentVolume> = Api::all(client);
    let held = volumes.get_opt(&name).await.map_err(fail)?;
    let held = held.ok_or_else(|| said(format!("persistentvolume {name:?} not found")))?;
    let owner = held.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).and_then(|own| own.uid.clone());
    if owner.is_none() || owner != claim.metadata.uid {
        return Err(said(format!("persistentvolume {name:?} is not bound to this claim")));
    }
    let is_block = held.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block");
    check_use(executor, &volume.name, is_block).map_err(said)?;
    if held.spec.as_ref().is_some_and(|spec| spec.csi.is_some()) {
        let path = csi::set_up(executor, csi::Source::Persistent(&held)).await?;
        let (dir, volume) = (executor.pod_dir(), volume.name.clone());
        return blocking(move || remember(&dir, &volume, &path).map_err(fail)).await;
    }
    let (this, volume) = (executor.clone(), volume.name.clone());
    blocking(move || {
        let path = if is_block { bring_device(&this, &name, &held)? } else { bring(&this, &name, &held)? };
        remember(&this.pod_dir(), &volume, &path).map_err(fail)
    })
    .await
}

/// A file system is mounted, a block device is handed over: containers have to ask for what there is.
fn check_use(executor: &Executor, volume: &str, is_block: bool) -> Result<(), String> {
    let Some(spec) = &executor.pod.spec else { return Ok(()) };
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        if is_block && container.volume_mounts.iter().flatten().any(|mount| mount.name == volume) {
            return Err(format!("volume {volume} has volumeMode Block, but is specified in volumeMounts"));
        }
        if !is_block && container.volume_devices.iter().flatten().any(|device| device.name == volume) {
            return Err(format!("volume {volume} has volumeMode Filesystem, but is specified in volumeDevices"));
        }
    }
    Ok(())
}

/// The block device of a PersistentVolume: the machine's own, or a file of ours behind a loop device.
fn bring_device(executor: &Executor, name: &str, held: &PersistentVolume) -> Result<PathBuf, Failure> {
    let local = held.spec.as_ref().and_then(|spec| spec.local.as_ref()).ok_or_else(|| {
        said(format!("persistentvolume {name:?}: block devices of spec.local only are supported by this node"))
    })?;
    let Some(own) = storage::directory(held, &executor.host.config.instance.storage_dir()) else {
        let path = PathBuf::from(&local.path);
        block::check(&path).map_err(fail)?;
        return Ok(path);
    };
    let bytes = u64::try_from(api::volume::Volume::new(held.clone()).capacity.value()).unwrap_or(0);
    storage::make(&own, Some(bytes)).map_err(|error| said(format!("{}: {error}", own.display())))?;
    block::attach(&own).map_err(fail)
}

/// Ends the loop devices of a pod's claims that no other pod of this node has.
pub(super) fn release_devices(pod_dir: &Path, storage: &Path) -> Result<(), agent_volume::atomic::VolumeError> {
    for device in devices(pod_dir) {
        let Some(file) = block::file_of(&device).filter(|file| file.parent() == Some(storage)) else { continue };
        let others = pod_dir.parent().and_then(|dir| fs::read_dir(dir).ok()).into_iter().flatten().flatten();
        let is_used =
            others.map(|other| other.path()).any(|other| other != pod_dir && devices(&other).contains(&device));
        if !is_used {
            block::detach(&file)?;
        }
    }
    Ok(())
}

/// The devices that the claims of a pod lead to.
fn devices(pod_dir: &Path) -> Vec<PathBuf> {
    let links = fs::read_dir(pod_dir.join("claims")).into_iter().flatten().flatten();
    links.filter_map(|link| fs::read_link(link.path()).ok()).filter(|path| path.starts_with("/dev")).collect()
}

/// Brings the data of a PersistentVolume to the pod's directory and tells where that is.
fn bring(executor: &Executor, name: &str, held: &PersistentVolume) -> Result<PathBuf, Failure> {
    let spec = held.spec.clone().unwrap_or_default();
    if let Some(host) = &spec.host_path {
        let path = PathBuf::from(&host.path);
        directory::host_path(&path, host.type_.as_deref().unwrap_or_default()).map_err(fail)?;
        return Ok(path);
    }
    if let Some(local) = &spec.local {
        if let Some(own) = storage::directory(held, &executor.host.config.instance.storage_dir()) {
            storage::make(&own, None).map_err(|error| said(format!("{}: {error}", own.display())))?;
        }
        let dir = executor.volume_dir("local-volume", name);
        attach::bind(Path::new(&local.path), &dir).map_err(fail)?;
        if let Some(gid) = executor.fs_group() {
            ownership::give(&dir, gid, executor.gives_on_mismatch()).map_err(fail)?;
        }
        return Ok(dir);
    }
    if let Some(source) = &spec.nfs {
        let dir = executor.volume_dir("nfs", name);
        attach::nfs(&super::export(source, spec.mount_options.unwrap_or_default()), &dir).map_err(fail)?;
        return Ok(dir);
    }
    Err(said(format!(
        "persistentvolume {name:?}: only spec.csi, spec.local, spec.hostPath and spec.nfs are supported by this node"
    )))
}

/// Notes where a volume of the pod is.
pub(super) fn remember(pod_dir: &Path, volume: &str, path: &Path) -> std::io::Result<()> {
    let link = &link(pod_dir, volume);
    if let Some(parent) = link.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::read_link(link) {
        Ok(held) if held == path => return Ok(()),
        Ok(_) => fs::remove_file(link)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    symlink(path, link)
}

//! Directories of this node that are volumes of the cluster: made when the first pod comes (`execute/volume/claim.rs`),
//! removed here when their volume is deleted.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent_volume::{block, removal};
use api::well_known::{ANNOTATION_PROVISIONED_BY, FINALIZER_LOCAL_PATH, LABEL_VOLUME_NODE, PROVISIONER_LOCAL_PATH};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};

use crate::execute::{Host, chain};
use crate::instance::make_dir;

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Notes of the directories that were made: one that is missing later was lost, and is not made again in silence.
const MADE: &str = ".made";

/// The directory of a volume of our provisioner, if it lies where this node's do.
pub(crate) fn directory(volume: &PersistentVolume, root: &Path) -> Option<PathBuf> {
    let annotations = volume.metadata.annotations.as_ref()?;
    if annotations.get(ANNOTATION_PROVISIONED_BY).map(String::as_str) != Some(PROVISIONER_LOCAL_PATH) {
        return None;
    }
    let path = Path::new(&volume.spec.as_ref()?.local.as_ref()?.path);
    let below = path.strip_prefix(root).ok()?;
    let mut parts = below.components();
    let is_plain = matches!(parts.next(), Some(Component::Normal(name)) if name != MADE) && parts.next().is_none();
    is_plain.then(|| root.join(below))
}

/// Makes the directory of a volume, once; for one of block mode a file of so many bytes.
pub(crate) fn make(directory: &Path, block_bytes: Option<u64>) -> std::io::Result<()> {
    let (Some(root), Some(name)) = (directory.parent(), directory.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let note = root.join(MADE).join(name);
    if directory.exists() {
        return match block_bytes {
            // It may have grown.
            Some(bytes) => block::make_file(directory, bytes).map_err(|error| error.source),
            None => Ok(()),
        };
    }
    if note.exists() {
        return Err(std::io::Error::other("the directory of the volume is gone, and with it its data"));
    }
    make_dir(&root.join(MADE), 0o700)?;
    match block_bytes {
        Some(bytes) => block::make_file(directory, bytes).map_err(|error| error.source)?,
        // Pods of any user write there; nobody else gets past its parent.
        None => make_dir(directory, 0o777)?,
    }
    std::fs::File::create(note).map(drop)
}

fn remove(directory: &Path) -> Result<(), agent_volume::atomic::VolumeError> {
    block::detach(directory)?;
    removal::remove_tree(directory)?;
    match (directory.parent(), directory.file_name()) {
        (Some(root), Some(name)) => removal::remove_tree(&root.join(MADE).join(name)),
        _ => Ok(()),
    }
}

/// Whether a volume is deleted and nobody but us holds it. One that is still bound has data that somebody uses.
fn is_over(volume: &PersistentVolume) -> bool {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let finalizers = volume.metadata.finalizers.as_deref().unwrap_or_default();
    volume.metadata.deletion_timestamp.is_some() && phase != Some("Bound") && finalizers == [FINALIZER_LOCAL_PATH]
}

/// Removes directories until the agent ends.
pub(crate) async fn run(host: Arc<Host>) {
    let api: Api<PersistentVolume> = Api::all(host.client.clone());
    let own = watcher::Config::default().labels(&format!("{LABEL_VOLUME_NODE}={}", host.config.node_name));
    let mut events = std::pin::pin!(watcher::watcher(api.clone(), own).default_backoff());
    let going: Arc<Mutex<HashSet<String>>> = Arc::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::InitApply(volume) | watcher::Event::Apply(volume)) if is_over(&volume) => {
                let uid = volume.metadata.uid.clone().unwrap_or_default();
                if going.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.clone()) {
                    let (api, root, going) = (api.clone(), host.config.instance.storage_dir(), Arc::clone(&going));
                    tokio::spawn(async move {
                        let (mut volume, mut wait) = (volume, FIRST_RETRY);
                        while let Err(error) = end(&api, &volume, &root).await {
                            tracing::warn!(error, uid, "removing the directory of a volume");
                            tokio::time::sleep(wait).await;
                            wait = (wait * 2).min(LAST_RETRY);
                            // It may have changed meanwhile, and what was told of that was not looked at.
                            let name = volume.metadata.name.clone().unwrap_or_default();
                            match api.get_opt(&name).await {
                                Ok(Some(now)) if now.metadata.uid == volume.metadata.uid && is_over(&now) => {
                                    volume = now
                                }
                                Ok(_) => break,
                                Err(_) => {}
                            }
                        }
                        going.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
                    });
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "watching this node's volumes"),
        }
    }
}

/// Removes the directory, where its data is not to be kept, and lets the object go.
async fn end(api: &Api<PersistentVolume>, volume: &PersistentVolume, root: &Path) -> Result<(), String> {
    let spec = volume.spec.as_ref();
    let is_kept = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) != Some("Delete");
    if let Some(directory) = directory(volume, root).filter(|_| !is_kept) {
        let done = tokio::task::spawn_blocking(move || remove(&directory)).await.map_err(|error| error.to_string())?;
        done.map_err(|error| chain(&error))?;
    }
    let metadata = &volume.metadata;
    let patch = serde_json::json!({"metadata": {"resourceVersion": metadata.resource_version, "finalizers": null}});
    match api.patch(metadata.name.as_deref().unwrap_or_default(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(path: &str, more: Value) -> PersistentVolume {
        let mut metadata = json!({"name": "v", "annotations": {ANNOTATION_PROVISIONED_BY: PROVISIONER_LOCAL_PATH},
            "finalizers": [FINALIZER_LOCAL_PATH]});
        for (key, value) in more.as_object().into_iter().flatten() {
            metadata[key] = value.clone();
        }
        let spec = json!({"local": {"path": path}});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": {"phase": "Released"}})).unwrap()
    }

    #[test]
    fn only_directories_of_our_own_place_are_ours() {
        let root = Path::new("/s");
        let of = |path: &str| directory(&volume(path, Value::Null), root);
        assert_eq!(of("/s/pvc-1"), Some("/s/pvc-1".into()));
        for other in ["/s", "/s/", "/s/a/b", "/s/../etc", "/etc", "/s/.made", "s/a", "/s/.."] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(directory(&volume("/s/a", json!({"annotations": {}})), root), None);
    }

    #[test]
    fn a_volume_that_somebody_holds_is_left() {
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert!(is_over(&volume("/s/a", going.clone())) && !is_over(&volume("/s/a", Value::Null)));
        let mut bound = volume("/s/a", going.clone());
        bound.status.as_mut().unwrap().phase = Some("Bound".into());
        assert!(!is_over(&bound));
        let mut held = volume("/s/a", going);
        held.metadata.finalizers.as_mut().unwrap().push("kubernetes.io/pv-protection".into());
        assert!(!is_over(&held));
    }

    #[test]
    fn a_directory_is_made_once_and_never_again_in_silence() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("pvc-1");
        make(&directory, None).unwrap();
        make(&directory, None).unwrap();
        std::fs::write(directory.join("f"), "f").unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(make(&directory, None).unwrap_err().to_string().contains("gone"));
        remove(&directory).unwrap();
        make(&directory, None).unwrap();
        remove(&directory).unwrap();
        assert!(!directory.exists());
    }
}

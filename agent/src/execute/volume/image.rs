//! Volumes that show an image (`volumes[].image`): its layers, read-only, with no program of it to be run. Kubernetes
//! documentation, "Use an Image Volume With a Pod".

use std::fs;
use std::path::{Path, PathBuf};

use agent_image::store::Image;
use agent_pod::protocol::Failure;
use k8s_openapi::api::core::v1::ImageVolumeSource;
use nix::mount::{MsFlags, mount};

use super::{Executor, fail, said};
use crate::execute::blocking::blocking;
use crate::execute::{chain, image as images};

/// How an image is mounted.
pub(crate) const FLAGS: MsFlags =
    MsFlags::MS_RDONLY.union(MsFlags::MS_NOEXEC).union(MsFlags::MS_NOSUID).union(MsFlags::MS_NODEV);

/// Brings the image as its pull policy says, and mounts it at `dir`.
pub(super) async fn set_up(
    executor: &Executor,
    volume: &str,
    source: &ImageVolumeSource,
    dir: PathBuf,
) -> Result<(), Failure> {
    let reference = source.reference.clone().unwrap_or_default();
    let image = find_or_pull(executor, &reference, source.pull_policy.as_deref()).await?;
    let (store, key) = (executor.host.images.clone(), key(&executor.uid, volume));
    blocking(move || {
        fs::create_dir_all(&dir).map_err(fail)?;
        if agent_volume::removal::is_mount_point(&dir).map_err(fail)? {
            return Ok(());
        }
        let snapshot = store.snapshot(&key, &image).map_err(fail)?;
        mount(Some("overlay"), &dir, Some("overlay"), FLAGS, Some(snapshot.options().as_os_str()))
            .map_err(|error| said(format!("mount overlay on {}: {error}", dir.display())))
    })
    .await
}

async fn find_or_pull(executor: &Executor, reference: &str, policy: Option<&str>) -> Result<Image, Failure> {
    let (store, wanted) = (executor.host.images.clone(), reference.to_owned());
    let found = blocking(move || store.find(&wanted).map_err(fail)).await?;
    match (policy, found) {
        (Some("Never") | Some("IfNotPresent") | None, Some(image)) => Ok(image),
        (Some("Never"), None) => Err(Failure {
            reason: "ErrImageNeverPull".into(),
            message: format!("Container image {reference:?} is not present with pull policy of Never"),
        }),
        _ => {
            let fail = |message| Failure { reason: "ErrImagePull".into(), message };
            let name = reference.parse().map_err(|error| fail(chain(&error)))?;
            let credentials = images::keyring(executor).await.matching(&name);
            let done = executor.host.pulls.pull(name, credentials).await;
            done.map(|done| done.image)
                .map_err(|error| fail(format!("Failed to pull image {reference:?}: {}", chain(&*error))))
        }
    }
}

/// The snapshot of an image volume; containers' are named otherwise: no volume has a dot in its name.
pub(super) fn key(uid: &str, volume: &str) -> String {
    format!("{uid}_volume.{volume}")
}

/// The snapshots that stand below a pod's directory.
pub(super) fn snapshots(pod_dir: &Path, uid: &str) -> Vec<String> {
    let mounted = fs::read_dir(pod_dir.join("volumes/kubernetes.io~image")).into_iter().flatten().flatten();
    mounted.filter_map(|entry| Some(key(uid, entry.file_name().to_str()?))).collect()
}

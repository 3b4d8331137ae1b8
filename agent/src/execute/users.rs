//! Users of a pod's own (`hostUsers: false`): which ids of the machine it has, and root file systems whose files it sees
//! as its own. Kubernetes documentation, "User Namespaces".

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use agent_image::snapshot::Snapshot;
use agent_pod::protocol::Failure;
use agent_runtime::monitor::protocol::IdRange;
use agent_runtime::monitor::users;
use agent_sys::mount::{MountAttributes, mount_setattr};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{CWD, FlockOperation, flock};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::{Executor, volume};
use crate::user::Identity;

/// Kubernetes documentation: "the kubelet assigns 64K (65536) ids".
const SIZE: u32 = 65_536;
/// The range that ends at the last id would hold 4294967295, which means no id.
const RANGES: u32 = u32::MAX / SIZE;

/// A pod's users, once its namespaces are there.
#[derive(Debug)]
pub(super) struct Users {
    /// What its root is on the machine.
    first: u32,
    namespace: OwnedFd,
    /// The file that is the namespace.
    pub(super) pin: PathBuf,
}

/// Whether the kernel maps owners of all that a pod is made of: overlay's layers since 5.19, tmpfs since 6.3.
pub(crate) fn can_be_had() -> bool {
    crate::preflight::kernel_is((6, 3))
}

fn record(run_dir: &Path) -> PathBuf {
    run_dir.join("ids")
}

fn recorded(run_dir: &Path) -> Option<u32> {
    fs::read_to_string(record(run_dir)).ok()?.trim().parse().ok()
}

fn is_wanted(executor: &Executor) -> bool {
    executor.pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false)
}

/// A range that no pod of this machine has, for a pod that wants one. It has it as long as its run directory is there.
pub(super) fn claim(executor: &Executor) -> Result<Option<IdRange>, Failure> {
    if !is_wanted(executor) {
        return Ok(None);
    }
    let run_dir = executor.run_dir();
    let fail = |error: std::io::Error| said(format!("choose the ids of the pod's users: {error}"));
    // Instances on one machine must not choose the same.
    let all = executor.host.config.instance.run_dir();
    let all = all.parent().unwrap_or(&all);
    let lock = File::open(all).map_err(fail)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| fail(error.into()))?;
    let first = match recorded(&run_dir) {
        Some(first) => first,
        None => {
            let first = free(&taken(all)).ok_or_else(|| {
                said(format!("no ids are left for the pod's users: all {} ranges of {SIZE} are taken", RANGES - 1))
            })?;
            fs::write(record(&run_dir), first.to_string()).map_err(fail)?;
            first
        }
    };
    Ok(Some(IdRange { first, size: SIZE }))
}

fn said(message: String) -> Failure {
    Failure { reason: super::sandbox::REASON.into(), message }
}

/// What pods of all instances have.
fn taken(all: &Path) -> BTreeSet<u32> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries(all).flat_map(|instance| entries(&instance.join("pods"))).filter_map(|pod| recorded(&pod)).collect()
}

fn free(taken: &BTreeSet<u32>) -> Option<u32> {
    (1..RANGES).map(|number| number * SIZE).find(|first| !taken.contains(first))
}

/// The users of a pod that wants some.
pub(super) fn of(executor: &Executor) -> Result<Option<Users>, Failure> {
    if !is_wanted(executor) {
        return Ok(None);
    }
    let run_dir = executor.run_dir();
    let pin = users::pin(&run_dir);
    match (recorded(&run_dir), File::open(&pin)) {
        (Some(first), Ok(file)) => Ok(Some(Users { first, namespace: file.into(), pin })),
        (None, _) => Err(said("the ids of the pod's users are not known".into())),
        (_, Err(error)) => Err(said(format!("open the pod's user namespace {}: {error}", pin.display()))),
    }
}

impl Users {
    /// A mount of a directory or file, nowhere yet, whose owners are the pod's.
    fn mapped(&self, path: &Path) -> Result<OwnedFd, rustix::io::Errno> {
        let tree = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        mount_setattr(tree.as_fd(), c"", false, MountAttributes::default(), Some(self.namespace.as_fd()))?;
        Ok(tree)
    }

    /// Says who is not one of the pod's users.
    pub(super) fn check_identity(&self, identity: &Identity) -> Result<(), String> {
        let mut ids = [identity.uid, identity.gid].into_iter().chain(identity.groups.iter().copied());
        match ids.find(|id| *id >= SIZE) {
            Some(id) => Err(format!("id {id} cannot be had with hostUsers: false: the pod has {SIZE} ids")),
            None => Ok(()),
        }
    }

    /// Says which volume the pod's users cannot have.
    pub(super) fn check(&self, volume: &str, path: &Path) -> Result<(), String> {
        self.mapped(path).map(drop).map_err(|error| {
            format!(
                "volume {volume:?} cannot be had with hostUsers: false: the file system of {} maps no owners: {error}",
                path.display()
            )
        })
    }

    /// Mounts a root file system: layers as the pod's own files, and on top what it writes, which is not mapped but given
    /// to its root.
    pub(super) fn mount_root(&self, snapshot: &Snapshot, root: &Path, bundle: &Path) -> Result<(), String> {
        chown(&snapshot.upper, Some(self.first), Some(self.first))
            .map_err(|error| format!("give {} to the pod's root: {error}", snapshot.upper.display()))?;
        self.with_layers(&snapshot.lower, bundle, |lower| {
            let options = Snapshot { lower, upper: snapshot.upper.clone(), work: snapshot.work.clone() }.options();
            overlay(root, MsFlags::empty(), &options)
        })
    }

    /// Mounts an image for one container: no mount of it could be mapped, an overlay's owners are those of its layers.
    pub(super) fn mount_image(&self, layers: &[PathBuf], point: &Path, bundle: &Path) -> Result<(), String> {
        // Without a layer to write to the kernel wants two.
        let empty = bundle.join("empty");
        for dir in [point, &empty] {
            fs::create_dir_all(dir).map_err(|error| format!("create {}: {error}", dir.display()))?;
        }
        self.with_layers(layers, bundle, |mut lower| {
            lower.push(empty);
            overlay(point, volume::image::FLAGS, &options_of(&lower))
        })
    }

    /// Gives layers as mounts whose owners are the pod's, for as long as an overlay of them is being made: it keeps mounts
    /// of its own.
    fn with_layers(
        &self,
        layers: &[PathBuf],
        bundle: &Path,
        make: impl FnOnce(Vec<PathBuf>) -> Result<(), String>,
    ) -> Result<(), String> {
        let (mut trees, mut points) = (Vec::new(), Vec::new());
        let mut attach = || {
            for (index, layer) in layers.iter().enumerate() {
                let tree =
                    self.mapped(layer).map_err(|error| format!("map the owners of {}: {error}", layer.display()))?;
                let point = bundle.join(format!("layer-{index}"));
                let fail = |error: std::io::Error| format!("mount a layer on {}: {error}", point.display());
                fs::create_dir_all(&point).map_err(fail)?;
                move_mount(&tree, c"", CWD, &point, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                    .map_err(|error| fail(error.into()))?;
                points.push(point);
                trees.push(tree);
            }
            Ok(())
        };
        // By descriptor: many long paths do not fit in the options of a mount.
        let made = attach().and_then(|()| {
            make(trees.iter().map(|tree| PathBuf::from(format!("/proc/self/fd/{}", tree.as_raw_fd()))).collect())
        });
        for point in points {
            let undone = umount2(&point, MntFlags::MNT_DETACH).map_err(std::io::Error::from);
            if let Err(error) = undone.and_then(|()| fs::remove_dir(&point)) {
                // It goes with the sandbox.
                tracing::warn!(%error, path = %point.display(), "unmounting a layer");
            }
        }
        made
    }
}

fn options_of(lower: &[PathBuf]) -> OsString {
    let mut options = OsString::from("lowerdir=");
    options.push(lower.iter().map(|path| path.as_os_str()).collect::<Vec<_>>().join(OsStr::new(":")));
    options
}

fn overlay(point: &Path, flags: MsFlags, options: &OsStr) -> Result<(), String> {
    mount(Some("overlay"), point, Some("overlay"), flags, Some(options))
        .map_err(|error| format!("mount overlay on {}: {error}", point.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_multiples_and_free_again() {
        let dir = tempfile::tempdir().unwrap();
        let pod = |instance: &str, uid: &str| dir.path().join(instance).join("pods").join(uid);
        for (instance, uid, first) in [("a", "x", "65536"), ("b", "y", "196608"), ("b", "z", "no number")] {
            fs::create_dir_all(pod(instance, uid)).unwrap();
            fs::write(record(&pod(instance, uid)), first).unwrap();
        }
        let all = taken(dir.path());
        assert_eq!(all, BTreeSet::from([65_536, 196_608]));
        assert_eq!(free(&all), Some(131_072));
        fs::remove_dir_all(pod("a", "x")).unwrap();
        assert_eq!(free(&taken(dir.path())), Some(65_536));
    }

    #[test]
    fn the_last_id_is_none() {
        let all: BTreeSet<u32> = (1..RANGES).map(|number| number * SIZE).collect();
        assert_eq!(free(&all), None);
        assert_eq!(u64::from(*all.last().unwrap()) + u64::from(SIZE), (1 << 32) - u64::from(SIZE));
    }
}

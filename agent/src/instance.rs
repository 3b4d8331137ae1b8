//! Everything global that one data directory's instance makes carries its name, so that several
//! instances share a machine and `gantry reset` finds what is ours.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

const DEFAULT_DATA_DIR: &str = "/var/lib/gantry";

/// The places of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The first 8 hex digits of the SHA-256 of the data directory's real path.
    pub hash: String,
    /// The data directory's real path.
    pub data_dir: PathBuf,
}

/// The right to work on an instance's pods: flock(2) on a file, which the kernel gives back however we end.
#[derive(Debug)]
pub struct Claim {
    _lock: fs::File,
}

impl Instance {
    /// The instance of a data directory, which must exist.
    pub fn of(data_dir: &Path) -> io::Result<Self> {
        use std::os::unix::ffi::OsStrExt as _;
        let data_dir = data_dir.canonicalize()?;
        let hash = hex::encode(&Sha256::digest(data_dir.as_os_str().as_bytes())[..4]);
        Ok(Self { hash, data_dir })
    }

    /// What means nothing after a reboot: sockets, monitors, bundles.
    pub fn run_dir(&self) -> PathBuf {
        Path::new("/run/gantry").join(&self.hash)
    }

    /// One pod's part of the run directory.
    pub fn pod_run_dir(&self, uid: &str) -> PathBuf {
        self.run_dir().join("pods").join(uid)
    }

    /// Below this every cgroup of ours lives, relative to each hierarchy's root.
    pub fn cgroup_root(&self) -> String {
        format!("gantry-{}", self.hash)
    }

    /// Images and snapshots.
    pub fn image_dir(&self) -> PathBuf {
        self.data_dir.join("agent/image-store")
    }

    /// Directories that are volumes of the cluster.
    pub fn storage_dir(&self) -> PathBuf {
        self.data_dir.join("storage")
    }

    /// Files that are imported at start.
    pub fn import_dir(&self) -> PathBuf {
        self.data_dir.join("agent/images")
    }

    /// Manifests of static pods.
    pub fn static_pods_dir(&self) -> PathBuf {
        self.data_dir.join("agent/manifests")
    }

    /// Makes this process the one that works on the instance's pods, for as long as the answer lives. `None`: another
    /// process is that.
    pub fn claim(&self) -> io::Result<Option<Claim>> {
        use rustix::fs::{FlockOperation, flock};
        let dir = self.data_dir.join("agent");
        make_dir(&dir, 0o700)?;
        let file = fs::OpenOptions::new().create(true).append(true).open(dir.join("lock"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Claim { _lock: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What was imported of them, so that nothing is imported twice.
    pub fn preload_record(&self) -> PathBuf {
        self.image_dir().join("preloaded.json")
    }

    fn is_default(&self) -> bool {
        self.data_dir == Path::new(DEFAULT_DATA_DIR)
    }

    /// Volumes and files of pods, where other software expects them (design D14).
    pub fn pods_dir(&self) -> PathBuf {
        match self.is_default() {
            true => "/var/lib/kubelet/pods".into(),
            false => self.data_dir.join("agent/kubelet/pods"),
        }
    }

    /// What drivers keep on this machine, where they expect it.
    pub fn plugins_dir(&self) -> PathBuf {
        self.pods_dir().with_file_name("plugins")
    }

    /// Where device plugins register, and have their sockets.
    pub fn device_plugins_dir(&self) -> PathBuf {
        self.pods_dir().with_file_name("device-plugins")
    }

    /// Who has which processors.
    pub fn cpus_file(&self) -> PathBuf {
        self.data_dir.join("agent/cpus.json")
    }

    /// What pods were given of resources that may change.
    pub fn resources_file(&self) -> PathBuf {
        self.run_dir().join("resources.json")
    }

    /// Who has which device.
    pub fn devices_file(&self) -> PathBuf {
        self.data_dir.join("agent/devices.json")
    }

    /// Where drivers put the sockets by which they register.
    pub fn plugins_registry_dir(&self) -> PathBuf {
        self.pods_dir().with_file_name("plugins_registry")
    }

    /// Seccomp profiles that pods name, where other software expects them.
    pub fn seccomp_dir(&self) -> PathBuf {
        self.pods_dir().with_file_name("seccomp")
    }

    /// Makes a pod's directory of volumes or logs and marks it as this instance's: at the default places other
    /// software may keep pods of its own beside ours.
    pub fn make_owned(&self, dir: &Path) -> io::Result<()> {
        make_dir(dir, 0o750)?;
        fs::OpenOptions::new().create(true).append(true).open(self.mark(dir)).map(drop)
    }

    /// Whether this instance made a pod's directory.
    pub fn owns(&self, dir: &Path) -> bool {
        fs::symlink_metadata(self.mark(dir)).is_ok_and(|metadata| metadata.is_file())
    }

    fn mark(&self, dir: &Path) -> PathBuf {
        dir.join(format!(".gantry-{}", self.hash))
    }

    /// Makes the instance's directories, closed to other users: they hold Secrets, logs and set-user-ID programs of
    /// images.
    pub fn make_dirs(&self) -> Result<(), (PathBuf, io::Error)> {
        let pods_mode = if self.is_default() { 0o750 } else { 0o700 };
        let (agent, run) = (self.data_dir.join("agent"), self.run_dir());
        let shared = run.parent().map_or_else(|| run.clone(), Path::to_owned);
        let closed = [
            (agent, 0o700),
            (shared, 0o711),
            (run.clone(), 0o700),
            (run.join("pods"), 0o700),
            (self.pods_dir(), pods_mode),
            (self.import_dir(), 0o700),
            (self.static_pods_dir(), 0o700),
            (self.storage_dir(), 0o700),
            (self.device_plugins_dir(), 0o750),
            (self.plugins_dir(), 0o750),
            (self.plugins_registry_dir(), 0o750),
        ];
        for (path, mode) in closed {
            make_dir(&path, mode).map_err(|error| (path, error))?;
        }
        // At the default place it is other software's as well, and its pods' directories are closed.
        for dir in [self.log_dir(), self.log_link_dir()] {
            fs::create_dir_all(&dir).map_err(|error| (dir, error))?;
        }
        Ok(())
    }

    /// Links to the newest log of each container, by names that log collectors read (design D14).
    pub fn log_link_dir(&self) -> PathBuf {
        match self.is_default() {
            true => "/var/log/containers".into(),
            false => self.data_dir.join("agent/log/containers"),
        }
    }

    /// Logs of containers, where log collectors expect them (design D14).
    pub fn log_dir(&self) -> PathBuf {
        match self.is_default() {
            true => "/var/log/pods".into(),
            false => self.data_dir.join("agent/log/pods"),
        }
    }
}

/// Makes a directory, its parents too, and gives it a mode whatever it had.
pub(crate) fn make_dir(dir: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_instance_makes_is_closed_and_marked() {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::of(dir.path()).unwrap();
        let (own, foreign) = (dir.path().join("own"), dir.path().join("foreign"));
        fs::create_dir(&own).unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).unwrap();
        fs::create_dir(&foreign).unwrap();
        instance.make_owned(&own).unwrap();
        instance.make_owned(&own).unwrap();
        assert_eq!(fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o750);
        assert!(instance.owns(&own) && !instance.owns(&foreign));
        let other = Instance { hash: "00000000".into(), data_dir: dir.path().into() };
        assert!(!other.owns(&own), "another instance's is not ours");
    }
}

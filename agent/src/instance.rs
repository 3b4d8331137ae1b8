//! Everything global that one data directory's instance makes carries its name, so that several
//! instances share a machine and `gantry reset` finds what is ours.

use std::io;
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

    /// Files that are imported at start.
    pub fn import_dir(&self) -> PathBuf {
        self.data_dir.join("agent/images")
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

    /// Logs of containers, where log collectors expect them (design D14).
    pub fn log_dir(&self) -> PathBuf {
        match self.is_default() {
            true => "/var/log/pods".into(),
            false => self.data_dir.join("agent/log/pods"),
        }
    }
}

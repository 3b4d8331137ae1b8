//! Snapshots: unpacked layers, shared by all who use them, and a writable directory on top for each container.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Overlay mount options may fill one page; directories are named by this many hex digits to stay short.
const SHORT: usize = 24;

/// What to mount as a container's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Unpacked layers, highest first, as overlayfs wants them.
    pub lower: Vec<PathBuf>,
    /// Where the container writes.
    pub upper: PathBuf,
    /// overlayfs's own.
    pub work: PathBuf,
}

impl Snapshot {
    /// The options of the overlay mount.
    pub fn options(&self) -> OsString {
        let mut options = OsString::from("lowerdir=");
        for (index, layer) in self.lower.iter().enumerate() {
            if index > 0 {
                options.push(":");
            }
            options.push(layer);
        }
        options.push(",upperdir=");
        options.push(&self.upper);
        options.push(",workdir=");
        options.push(&self.work);
        options
    }
}

/// Which layers a snapshot stands on, kept beside it so that they are not collected.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Base {
    pub(crate) diff_ids: Vec<Digest>,
}

/// Where an unpacked layer lives.
pub(crate) fn layer_dir(root: &Path, diff_id: &Digest) -> PathBuf {
    root.join("l").join(&diff_id.hex()[..SHORT])
}

/// Where a container's own directories live.
pub(crate) fn container_dir(root: &Path, key: &str) -> PathBuf {
    root.join("c").join(key)
}

/// The layers that existing snapshots stand on.
pub(crate) fn bases(root: &Path) -> Vec<Digest> {
    let entries = fs::read_dir(root.join("c")).into_iter().flatten().flatten();
    entries.filter_map(|entry| base(&entry.path())).flat_map(|base| base.diff_ids).collect()
}

/// What a snapshot stands on.
pub(crate) fn base(container_dir: &Path) -> Option<Base> {
    serde_json::from_slice(&fs::read(container_dir.join("base.json")).ok()?).ok()
}

//! Where a layer is being unpacked: under a name of its own until it is whole and on the disk, or not at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::Digest;
use crate::snapshot;

/// A step that failed, and at which path.
#[derive(Debug)]
pub(crate) struct PlaceError {
    pub(crate) step: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.to_owned();
    move |source| PlaceError { step, path, source }
}

/// A directory that is not a layer yet. Dropped before it is one, it goes.
#[derive(Debug)]
pub(crate) struct Place {
    temporary: PathBuf,
    target: PathBuf,
}

impl Place {
    /// An empty directory beside the layer to be; `None` if the layer is there.
    pub(crate) fn new(root: &Path, diff_id: &Digest) -> Result<Option<Self>, PlaceError> {
        let target = snapshot::layer_dir(root, diff_id);
        if target.exists() {
            return Ok(None);
        }
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = target.with_extension(format!("tmp{}-{number}", std::process::id()));
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(failed("remove", &temporary))?;
        }
        fs::create_dir(&temporary).map_err(failed("create", &temporary))?;
        Ok(Some(Self { temporary, target }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.temporary
    }

    /// Brings everything below the store's file system onto the disk, this directory included.
    pub(crate) fn sync(&self) -> Result<(), PlaceError> {
        let directory = File::open(&self.temporary).map_err(failed("open", &self.temporary))?;
        rustix::fs::syncfs(&directory).map_err(|error| failed("sync", &self.temporary)(error.into()))
    }

    /// Makes it the layer; it was synced.
    pub(crate) fn commit(self) -> Result<(), PlaceError> {
        match fs::rename(&self.temporary, &self.target) {
            // Another was faster; its layer is the same.
            Err(_) if self.target.exists() => Ok(()),
            renamed => renamed.map_err(failed("rename to", &self.target)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.temporary.exists() {
            // What stays is of no use to anybody; the next collection takes it.
            drop(fs::remove_dir_all(&self.temporary));
        }
    }
}

//! Which names mean which content: one small versioned file, changed under a lock.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::reference::Reference;

const VERSION: u32 = 1;

/// One image under one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The full reference, `docker.io/library/x:latest`.
    pub name: String,
    /// The manifest.
    pub digest: Digest,
    /// The index that the name led to, where it led to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Digest>,
    /// The configuration; the image ID.
    pub config: Digest,
    /// The layers' blobs, lowest first.
    pub layers: Vec<Digest>,
    /// The digests of the layers' tars, lowest first: what unpacked layers are named by.
    pub diff_ids: Vec<Digest>,
    /// Bytes of the blobs.
    pub size: u64,
    /// Never collected: it was imported, and there may be nowhere to fetch it from again.
    pub pinned: bool,
    /// It came from a registry, which has it under this name.
    #[serde(default)]
    pub pulled: bool,
}

impl Image {
    /// What the name led to: the index of several platforms, or the manifest itself.
    pub fn target(&self) -> &Digest {
        self.index.as_ref().unwrap_or(&self.digest)
    }

    /// What `imageID` of a container's status shows, as with containerd: `REPOSITORY@DIGEST`, by which a registry gives
    /// the same again; of an image that no registry has, the digest of its configuration.
    pub fn id(&self) -> String {
        match self.name.parse::<Reference>() {
            Ok(reference) if self.pulled => {
                format!("{}/{}@{}", reference.registry, reference.repository, self.target())
            }
            _ => self.config.to_string(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u32,
    images: Vec<Image>,
}

/// Why the index could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A file operation failed.
    #[error("{step} {}", path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// To which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is not what we wrote.
    #[error("the image index {} is damaged", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The file is of a version this program does not know.
    #[error("the image index {} has version {found}, this program reads version {VERSION}", path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// The version found.
        found: u32,
    },
}

/// The index of one store.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    path: PathBuf,
}

impl Index {
    pub(crate) fn new(root: &Path) -> Self {
        Self { path: root.join("images.json") }
    }

    pub(crate) fn read(&self) -> Result<Vec<Image>, IndexError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(IndexError::Io { step: "read", path: self.path.clone(), source }),
        };
        let document: Document =
            serde_json::from_slice(&bytes).map_err(|source| IndexError::Damaged { path: self.path.clone(), source })?;
        match document.version {
            VERSION => Ok(document.images),
            found => Err(IndexError::Version { path: self.path.clone(), found }),
        }
    }

    /// Changes the index while nobody else does, also not another process.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Vec<Image>) -> T) -> Result<T, IndexError> {
        let lock_path = self.path.with_extension("lock");
        let io = |step, path: &Path| {
            let path = path.to_owned();
            move |source| IndexError::Io { step, path, source }
        };
        let lock = File::create(&lock_path).map_err(io("create", &lock_path))?;
        lock.lock().map_err(io("lock", &lock_path))?;
        let mut images = self.read()?;
        let result = change(&mut images);
        let temporary = self.path.with_extension("tmp");
        let bytes = serde_json::to_vec_pretty(&Document { version: VERSION, images })
            .map_err(|source| IndexError::Damaged { path: self.path.clone(), source })?;
        let mut file = File::create(&temporary).map_err(io("create", &temporary))?;
        file.write_all(&bytes).map_err(io("write", &temporary))?;
        file.sync_all().map_err(io("sync", &temporary))?;
        fs::rename(&temporary, &self.path).map_err(io("rename to", &self.path))?;
        Ok(result)
    }
}

//! The image store of a node: import, find, list, remove, and snapshots to run from.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use oci_spec::image::ImageConfiguration;

use crate::content::{Content, ContentError};
use crate::digest::Digest;
use crate::index::Index;
pub use crate::index::{Image, IndexError};
use crate::limit::Limits;
use crate::reference::{Reference, ReferenceError};
use crate::snapshot::{self, Base, Snapshot};
use crate::unpack::{UnpackError, inflate, unpack};

/// Why an image operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A name is no image name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The content store.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The index of names.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A layer or archive could not be unpacked.
    #[error("unpacking {what}")]
    Unpack {
        /// Which.
        what: String,
        /// The cause.
        #[source]
        source: UnpackError,
    },
    /// A document of the image is not what it should be.
    #[error("{what} {why}")]
    Malformed {
        /// Which.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// An image without a name.
    #[error(
        "the image {digest} has no name: give one with --name, or annotate the layout's index with org.opencontainers.image.ref.name"
    )]
    Unnamed {
        /// Its manifest.
        digest: Digest,
    },
    /// There is no such image.
    #[error("no image {0:?}")]
    NotFound(String),
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
}

/// Images, layers and snapshots below one directory. Several processes may use it at once.
#[derive(Debug, Clone)]
pub struct ImageStore {
    root: PathBuf,
    content: Content,
    index: Index,
    limits: Limits,
}

impl ImageStore {
    /// Opens or creates the store in `root`.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        // Layers hold set-user-ID programs of whoever made the image: nobody else is to reach them.
        let closed = fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
        closed
            .and_then(|()| fs::set_permissions(root, fs::Permissions::from_mode(0o700)))
            .map_err(|source| ImageError::Io { step: "create", path: root.into(), source })?;
        let content = Content::open(root)?;
        for name in ["l", "c"] {
            let path = root.join(name);
            fs::create_dir_all(&path).map_err(|source| ImageError::Io { step: "create", path, source })?;
        }
        Ok(Self { root: root.into(), content, index: Index::new(root), limits: Limits::default() })
    }

    /// Imports the images of an OCI layout (directory or tar) or a docker-archive. `name` names a single image.
    pub fn import(&self, source: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
        let _uncollected = self.shared()?;
        let images = crate::import::import(&self.content, source, name, self.limits)?;
        for image in &images {
            self.unpack_layers(image)?;
        }
        self.index.update(|all| {
            all.retain(|old| images.iter().all(|new| new.name != old.name));
            all.extend(images.iter().cloned());
            all.sort_by(|a, b| a.name.cmp(&b.name));
        })?;
        Ok(images)
    }

    /// Every image.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        Ok(self.index.read()?)
    }

    /// The image that a reference means: by its digest if it has one, else by name.
    pub fn find(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let images = self.index.read()?;
        if let Ok(digest) = reference.parse::<Digest>() {
            return Ok(images.into_iter().find(|image| image.config == digest || image.digest == digest));
        }
        let wanted: Reference = reference.parse()?;
        Ok(images.into_iter().find(|image| match &wanted.digest {
            Some(digest) => {
                let same = image
                    .name
                    .parse::<Reference>()
                    .is_ok_and(|own| own.registry == wanted.registry && own.repository == wanted.repository);
                same && image.digest == *digest
            }
            None => image.name == wanted.to_string(),
        }))
    }

    /// Forgets a name, and content and layers that nothing needs any more. Answers the bytes of blobs freed.
    pub fn remove(&self, reference: &str) -> Result<u64, ImageError> {
        let image = self.find(reference)?.ok_or_else(|| ImageError::NotFound(reference.into()))?;
        self.index.update(|all| all.retain(|other| other.name != image.name))?;
        self.collect()
    }

    /// Deletes blobs and layers that no image and no snapshot needs.
    fn collect(&self) -> Result<u64, ImageError> {
        // Alone, in this process and among others: what is half made now was left by somebody who died.
        let (lock, path) = self.lock_file()?;
        lock.lock().map_err(|source| ImageError::Io { step: "lock", path, source })?;
        let images = self.index.read()?;
        let mut blobs = HashSet::new();
        let mut layers: HashSet<Digest> = snapshot::bases(&self.root).into_iter().collect();
        for image in images {
            blobs.extend([image.digest, image.config]);
            blobs.extend(image.layers);
            layers.extend(image.diff_ids);
        }
        let keep: HashSet<String> = blobs.iter().map(|digest| digest.hex().to_owned()).collect();
        let freed = self.content.retain(|name| keep.contains(name))?;
        let kept: HashSet<PathBuf> = layers.iter().map(|diff_id| snapshot::layer_dir(&self.root, diff_id)).collect();
        let dir = self.root.join("l");
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if !kept.contains(&entry.path()) {
                let path = entry.path();
                fs::remove_dir_all(&path).map_err(|source| ImageError::Io { step: "remove", path, source })?;
            }
        }
        Ok(freed)
    }

    /// The image's configuration: environment, entry point, user.
    pub fn config(&self, image: &Image) -> Result<ImageConfiguration, ImageError> {
        let bytes = self.content.read(&image.config, self.limits.document)?;
        ImageConfiguration::from_reader(bytes.as_slice())
            .map_err(|error| ImageError::Malformed { what: image.name.clone(), why: error.to_string() })
    }

    /// Makes the directories of a container's root. `key` is unique to the container.
    pub fn snapshot(&self, key: &str, image: &Image) -> Result<Snapshot, ImageError> {
        let _uncollected = self.shared()?;
        let dir = snapshot::container_dir(&self.root, key);
        let snapshot = Snapshot {
            lower: image.diff_ids.iter().rev().map(|diff_id| snapshot::layer_dir(&self.root, diff_id)).collect(),
            upper: dir.join("upper"),
            work: dir.join("work"),
        };
        for path in [&snapshot.upper, &snapshot.work] {
            fs::create_dir_all(path).map_err(|source| ImageError::Io { step: "create", path: path.clone(), source })?;
        }
        let base = serde_json::to_vec(&Base { diff_ids: image.diff_ids.clone() }).unwrap_or_default();
        let path = dir.join("base.json");
        fs::write(&path, base).map_err(|source| ImageError::Io { step: "write", path, source })?;
        // After the note of what it stands on: what is unpacked now is wanted.
        self.unpack_layers(image)?;
        Ok(snapshot)
    }

    fn lock_file(&self) -> Result<(File, PathBuf), ImageError> {
        let path = self.root.join("collect.lock");
        match File::create(&path) {
            Ok(file) => Ok((file, path)),
            Err(source) => Err(ImageError::Io { step: "create", path, source }),
        }
    }

    /// While this is held, nothing is collected: blobs, layers and snapshots come into being in several steps.
    fn shared(&self) -> Result<File, ImageError> {
        let (lock, path) = self.lock_file()?;
        lock.lock_shared().map_err(|source| ImageError::Io { step: "lock", path, source })?;
        Ok(lock)
    }

    /// Removes what a container wrote. Nothing to remove is no error.
    pub fn release(&self, key: &str) -> Result<(), ImageError> {
        let path = snapshot::container_dir(&self.root, key);
        match fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(ImageError::Io { step: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    fn unpack_layers(&self, image: &Image) -> Result<(), ImageError> {
        for (blob, diff_id) in image.layers.iter().zip(&image.diff_ids) {
            self.unpack_layer(blob, diff_id)?;
        }
        Ok(())
    }

    /// Unpacks a layer under a temporary name; it is there whole and on disk, or not at all.
    fn unpack_layer(&self, blob: &Digest, diff_id: &Digest) -> Result<(), ImageError> {
        let target = snapshot::layer_dir(&self.root, diff_id);
        if target.exists() {
            return Ok(());
        }
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = target.with_extension(format!("tmp{}-{number}", std::process::id()));
        let io = |step, path: &Path| {
            let path = path.to_owned();
            move |source| ImageError::Io { step, path, source }
        };
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(io("remove", &temporary))?;
        }
        fs::create_dir(&temporary).map_err(io("create", &temporary))?;
        let unpacked = (|| {
            let tar = inflate(self.content.open_blob(blob)?).map_err(io("read", &self.content.path(blob)))?;
            crate::import::verified_diff(tar, diff_id, |tar| {
                unpack(tar, &temporary, self.limits)
                    .map_err(|source| ImageError::Unpack { what: format!("layer {blob}"), source })
            })?;
            let directory = File::open(&temporary).map_err(io("open", &temporary))?;
            rustix::fs::syncfs(&directory).map_err(|error| io("sync", &temporary)(error.into()))?;
            match fs::rename(&temporary, &target) {
                // Another process was faster; its layer is the same.
                Err(_) if target.exists() => Ok(()),
                renamed => renamed.map_err(io("rename to", &target)),
            }
        })();
        if temporary.exists() {
            drop(fs::remove_dir_all(&temporary));
        }
        unpacked
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

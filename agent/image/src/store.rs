//! The image store of a node: import, find, list, remove, and snapshots to run from.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;

use crate::content::{Content, ContentError};
use crate::digest::Digest;
use crate::document::DocumentError;
use crate::index::Index;
pub use crate::index::{Image, IndexError};
use crate::layer::{LayerError, unpack_layer};
use crate::lease::{self, Lease};
use crate::limit::Limits;
use crate::place::{Place, PlaceError};
use crate::reference::{Reference, ReferenceError};
use crate::snapshot::{self, Base, Snapshot};
use crate::unpack::UnpackError;

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
    /// An archive could not be unpacked.
    #[error("unpacking {what}")]
    Unpack {
        /// Which.
        what: String,
        /// The cause.
        #[source]
        source: UnpackError,
    },
    /// A layer could not be unpacked.
    #[error("unpacking layer {digest}")]
    Layer {
        /// Which.
        digest: Digest,
        /// The cause.
        #[source]
        source: LayerError,
    },
    /// A manifest, index or configuration is not what it should be.
    #[error("{what} {source}")]
    Document {
        /// Which.
        what: String,
        /// The cause, part of the sentence.
        source: DocumentError,
    },
    /// A file of an archive is not what it should be.
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
        self.add(&images)?;
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
            return Ok(images.into_iter().find(|image| {
                image.config == digest || image.digest == digest || image.index.as_ref() == Some(&digest)
            }));
        }
        let wanted: Reference = reference.parse()?;
        Ok(images.into_iter().find(|image| match &wanted.digest {
            Some(digest) => {
                let same = image
                    .name
                    .parse::<Reference>()
                    .is_ok_and(|own| own.registry == wanted.registry && own.repository == wanted.repository);
                same && (image.digest == *digest || image.index.as_ref() == Some(digest))
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

    /// Writes an image as a tar that `import` reads.
    pub fn export(&self, image: &Image, to: impl io::Write) -> Result<(), ImageError> {
        let _uncollected = self.shared()?;
        crate::export::export(&self.content, image, self.limits.manifest, to)
    }

    /// Forgets every image that is not pinned and that no container stands on. Answers their names and the bytes of blobs
    /// freed.
    pub fn prune(&self) -> Result<(Vec<String>, u64), ImageError> {
        let used: HashSet<Digest> = snapshot::bases(&self.root).into_iter().collect();
        let is_idle = |image: &Image| !image.pinned && !image.diff_ids.iter().any(|diff_id| used.contains(diff_id));
        let pruned = self.index.update(|all| {
            let idle = all.iter().filter(|image| is_idle(image)).map(|image| image.name.clone()).collect();
            all.retain(|image| !is_idle(image));
            idle
        })?;
        Ok((pruned, self.collect()?))
    }

    /// Deletes blobs and layers that no image and no snapshot needs.
    fn collect(&self) -> Result<u64, ImageError> {
        // Alone, in this process and among others: what is half made now was left by somebody who died.
        let (lock, path) = self.lock_file()?;
        lock.lock().map_err(|source| ImageError::Io { step: "lock", path, source })?;
        let images = self.index.read()?;
        let mut blobs = lease::held(&self.root).map_err(|source| ImageError::Io {
            step: "read the leases of",
            path: self.root.clone(),
            source,
        })?;
        // A lease tells digests of blobs and of layers alike.
        let mut layers = blobs.clone();
        layers.extend(snapshot::bases(&self.root));
        for image in images {
            blobs.extend([image.digest, image.config]);
            blobs.extend(image.index);
            blobs.extend(image.layers);
            layers.extend(image.diff_ids);
        }
        let keep: HashSet<String> = blobs.iter().map(|digest| digest.hex().to_owned()).collect();
        let freed = self.content.retain(|name| keep.contains(name))?;
        self.content.sweep()?;
        let kept: HashSet<PathBuf> = layers.iter().map(|diff_id| snapshot::layer_dir(&self.root, diff_id)).collect();
        let dir = self.root.join("l");
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            // What is being unpacked is named after the layer that it will be.
            if !kept.contains(&entry.path().with_extension("")) {
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

    /// The layers that a snapshot stands on, highest first; `None` if there is no such snapshot.
    pub fn layers(&self, key: &str) -> Option<Vec<PathBuf>> {
        let base = snapshot::base(&snapshot::container_dir(&self.root, key))?;
        Some(base.diff_ids.iter().rev().map(|diff_id| snapshot::layer_dir(&self.root, diff_id)).collect())
    }

    /// Where a container writes; there once it has a snapshot.
    pub fn written(&self, key: &str) -> PathBuf {
        snapshot::container_dir(&self.root, key).join("upper")
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

    /// Unpacks what is not yet, then syncs once for all of it.
    fn unpack_layers(&self, image: &Image) -> Result<(), ImageError> {
        let mut places: Vec<Place> = Vec::new();
        let mut seen = HashSet::new();
        for (blob, diff_id) in image.layers.iter().zip(&image.diff_ids) {
            if seen.insert(diff_id) {
                places.extend(self.unpack_blob(blob, diff_id)?);
            }
        }
        if let Some(place) = places.first() {
            place.sync()?;
        }
        places.into_iter().try_for_each(|place| Ok(place.commit()?))
    }

    /// Unpacks a layer from its blob, if it is not there. The place is not synced yet.
    pub(crate) fn unpack_blob(&self, blob: &Digest, diff_id: &Digest) -> Result<Option<Place>, ImageError> {
        let Some(place) = Place::new(&self.root, diff_id)? else { return Ok(None) };
        let file = self.content.open_blob(blob)?;
        let io = |source| ImageError::Io { step: "read", path: self.content.path(blob), source };
        let size = file.metadata().map_err(io)?.len();
        unpack_layer(file, size, diff_id, place.path(), self.limits, || ())
            .map_err(|source| ImageError::Layer { digest: blob.clone(), source })?;
        Ok(Some(place))
    }

    /// A place to unpack a layer in; `None` if it is there already.
    pub(crate) fn place(&self, diff_id: &Digest) -> Result<Option<Place>, ImageError> {
        Ok(Place::new(&self.root, diff_id)?)
    }

    /// Whether every part of an image is on this machine.
    pub(crate) fn is_whole(&self, image: &Image) -> bool {
        let blobs = [&image.digest, &image.config].into_iter().chain(&image.index).chain(&image.layers);
        blobs.into_iter().all(|digest| self.content.has(digest))
            && image.diff_ids.iter().all(|diff_id| snapshot::layer_dir(&self.root, diff_id).exists())
    }

    /// Whether a layer is unpacked.
    pub(crate) fn has_layer(&self, diff_id: &Digest) -> bool {
        snapshot::layer_dir(&self.root, diff_id).exists()
    }

    /// A lease for a pull that begins.
    pub(crate) fn lease(&self) -> Result<Lease, ImageError> {
        let _uncollected = self.shared()?;
        Lease::take(&self.root).map_err(|source| ImageError::Io { step: "lease in", path: self.root.clone(), source })
    }

    /// Keeps content from being collected from now on.
    pub(crate) fn keep(&self, lease: &mut Lease, digests: &[&Digest]) -> Result<(), ImageError> {
        let _uncollected = self.shared()?;
        let io = |source| ImageError::Io { step: "lease in", path: self.root.clone(), source };
        lease.keep(digests.iter().copied()).map_err(io)
    }

    /// Stores a document.
    pub(crate) fn put_document(&self, bytes: &[u8], digest: &Digest) -> Result<(), ImageError> {
        let _uncollected = self.shared()?;
        if !self.content.has(digest) {
            self.content.put(bytes, Some(digest))?;
        }
        Ok(())
    }

    /// Makes images known by their names. A name that was imported stays pinned.
    pub(crate) fn add(&self, images: &[Image]) -> Result<(), ImageError> {
        self.index.update(|all| {
            let was_pinned = |new: &Image| all.iter().any(|old| old.name == new.name && old.pinned);
            let added: Vec<Image> =
                images.iter().map(|new| Image { pinned: new.pinned || was_pinned(new), ..new.clone() }).collect();
            all.retain(|old| images.iter().all(|new| new.name != old.name));
            all.extend(added);
            all.sort_by(|a, b| a.name.cmp(&b.name));
        })?;
        Ok(())
    }

    pub(crate) fn content(&self) -> &Content {
        &self.content
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }
}

impl From<PlaceError> for ImageError {
    fn from(PlaceError { step, path, source }: PlaceError) -> Self {
        Self::Io { step, path, source }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

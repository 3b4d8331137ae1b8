//! Images from files: an OCI layout (directory or tar) and a docker-archive.
//! OCI image spec, "Image Layout"; Docker's `save` format.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;

use crate::content::Content;
use crate::digest::Digest;
use crate::document::{
    ConfigDocument, Descriptor, Document, DocumentError, IndexDocument, NESTING, Platform, choose, diff_ids, document,
};
use crate::index::Image;
use crate::limit::Limits;
use crate::reference::Reference;
use crate::store::ImageError;
use crate::unpack::inflate;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Brings every image of a file or directory into the content store.
pub(crate) fn import(
    content: &Content,
    source: &Path,
    name: Option<&str>,
    limits: Limits,
) -> Result<Vec<Image>, ImageError> {
    if source.is_dir() {
        return Layout { content, source, limits }.import(name);
    }
    // A tar is laid out beside the blobs first, so that members can be read in any order.
    let directory = Scratch::new(content)?;
    extract(source, &directory.0, limits)?;
    match directory.0.join("index.json").exists() {
        true => Layout { content, source: &directory.0, limits }.import(name),
        false => docker_archive(content, &directory.0, name, limits),
    }
}

/// A directory that goes when the import ends, however it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(content: &Content) -> Result<Self, ImageError> {
        let blobs = content.path(&Digest::of(b"")).with_file_name("");
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = blobs.with_file_name(format!("import-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).map_err(|source| ImageError::Io { step: "create", path: path.clone(), source })?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A failure leaves garbage that the next import of the same process id overwrites.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Lays out the members of an archive; the same safe code as for layers, though an archive has no business with links.
fn extract(archive: &Path, into: &Path, limits: Limits) -> Result<(), ImageError> {
    let io = |source| ImageError::Io { step: "read", path: archive.into(), source };
    let tar = inflate(File::open(archive).map_err(io)?).map_err(io)?;
    crate::unpack::unpack(tar, into, limits)
        .map_err(|source| ImageError::Unpack { what: archive.display().to_string(), source })?;
    Ok(())
}

fn read_document(path: &Path, limits: Limits) -> Result<Vec<u8>, ImageError> {
    let io = |source| ImageError::Io { step: "read", path: path.into(), source };
    let mut bytes = Vec::new();
    open_member(path)?.take(limits.document).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// Opens a file of a layout; links could lead anywhere on the machine, so they are refused.
fn open_member(path: &Path) -> Result<File, ImageError> {
    let io = |source| ImageError::Io { step: "open", path: path.into(), source };
    match fs::symlink_metadata(path).map_err(io)?.is_file() {
        true => File::open(path).map_err(io),
        false => Err(ImageError::Malformed { what: path.display().to_string(), why: "is not a regular file".into() }),
    }
}

fn parse<T: for<'a> Deserialize<'a>>(what: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::Malformed { what: what.into(), why: error.to_string() })
}

fn full_name(name: &str) -> Result<String, ImageError> {
    Ok(name.parse::<Reference>().map_err(ImageError::Reference)?.to_string())
}

struct Layout<'a> {
    content: &'a Content,
    source: &'a Path,
    limits: Limits,
}

impl Layout<'_> {
    fn import(&self, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
        let index: IndexDocument = parse("index.json", &read_document(&self.source.join("index.json"), self.limits)?)?;
        let several = index.manifests.len() > 1;
        let mut images = Vec::new();
        for descriptor in index.manifests {
            let annotated =
                descriptor.annotations.get(CONTAINERD_NAME).or_else(|| descriptor.annotations.get(REF_NAME));
            let own = name.filter(|_| !several).or(annotated.map(String::as_str));
            let Some(own) = own else {
                return Err(ImageError::Unnamed { digest: descriptor.digest });
            };
            images.push(self.import_one(&descriptor, &full_name(own)?)?);
        }
        Ok(images)
    }

    /// Follows an index to this machine's platform, then takes manifest, configuration and layers.
    fn import_one(&self, top: &Descriptor, name: &str) -> Result<Image, ImageError> {
        let bad = |source| ImageError::Document { what: name.into(), source };
        let mut digest = top.digest.clone();
        for _ in 0..NESTING {
            self.take(&digest)?;
            let bytes = self.content.read(&digest, self.limits.manifest)?;
            match document(&bytes).map_err(bad)? {
                Document::Index(index) => digest = choose(&index, &Platform::own()).map_err(bad)?.digest.clone(),
                Document::Manifest(manifest) => {
                    let mut size = self.take(&manifest.config.digest)?;
                    for layer in &manifest.layers {
                        size += self.take(&layer.digest)?;
                    }
                    let config = self.content.read(&manifest.config.digest, self.limits.document)?;
                    let diff_ids = diff_ids(&manifest, &config).map_err(bad)?;
                    return Ok(Image {
                        name: name.into(),
                        index: (digest != top.digest).then(|| top.digest.clone()),
                        digest,
                        config: manifest.config.digest,
                        layers: manifest.layers.into_iter().map(|layer| layer.digest).collect(),
                        diff_ids,
                        size,
                        pinned: true,
                        pulled: false,
                    });
                }
            }
        }
        Err(bad(DocumentError::TooDeep))
    }

    /// Copies a blob of the layout into the content store, verified. Answers its size.
    fn take(&self, digest: &Digest) -> Result<u64, ImageError> {
        let path = self.source.join("blobs/sha256").join(digest.hex());
        let file = open_member(&path)?;
        if self.content.has(digest) {
            return Ok(file.metadata().map_or(0, |metadata| metadata.len()));
        }
        Ok(self.content.put(file, Some(digest))?.1)
    }
}

fn docker_archive(
    content: &Content,
    root: &Path,
    name: Option<&str>,
    limits: Limits,
) -> Result<Vec<Image>, ImageError> {
    let manifests: Vec<DockerManifest> = parse("manifest.json", &read_document(&root.join("manifest.json"), limits)?)?;
    let mut images = Vec::new();
    for manifest in manifests {
        let config_bytes = read_document(&member(root, &manifest.config)?, limits)?;
        let (config_digest, mut size) = content.put(config_bytes.as_slice(), None)?;
        let ConfigDocument { rootfs } = parse(&manifest.config, &config_bytes)?;
        let mut layers = Vec::new();
        for layer in &manifest.layers {
            let (digest, length) = content.put(open_member(&member(root, layer)?)?, None)?;
            layers.push(digest);
            size += length;
        }
        // The archive has no manifest of its own; the image is known by one that we make of its parts.
        let made = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config_bytes.len()},
            "layers": layers.iter().map(|digest| serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest, "size": fs::metadata(content.path(digest)).map_or(0, |m| m.len())})).collect::<Vec<_>>()});
        let (digest, _) = content.put(made.to_string().as_bytes(), None)?;
        let tags = manifest.repo_tags.unwrap_or_default();
        let names: Vec<&str> = match name {
            Some(name) => vec![name],
            None => tags.iter().map(String::as_str).collect(),
        };
        if names.is_empty() {
            return Err(ImageError::Unnamed { digest });
        }
        if rootfs.diff_ids.len() != layers.len() {
            let source = DocumentError::LayersDiffer { layers: layers.len(), diff_ids: rootfs.diff_ids.len() };
            return Err(ImageError::Document { what: manifest.config, source });
        }
        for name in names {
            images.push(Image {
                name: full_name(name)?,
                index: None,
                digest: digest.clone(),
                config: config_digest.clone(),
                layers: layers.clone(),
                diff_ids: rootfs.diff_ids.clone(),
                size,
                pinned: true,
                pulled: false,
            });
        }
    }
    Ok(images)
}

/// The path of an archive's member; one that leads out is refused.
fn member(root: &Path, name: &str) -> Result<PathBuf, ImageError> {
    let normal = Path::new(name).components().all(|component| matches!(component, std::path::Component::Normal(_)));
    match normal && !name.is_empty() {
        true => Ok(root.join(name)),
        false => Err(ImageError::Malformed { what: "manifest.json".into(), why: format!("names the member {name:?}") }),
    }
}

//! The documents of an image: index, manifest, configuration; and which manifest of an index is this machine's.
//! OCI image spec, "Image Index", "Image Manifest", "Image Configuration"; Docker's manifest v2 schema 2.

use std::collections::HashMap;

use serde::Deserialize;

use crate::digest::Digest;

/// Index and manifest types, newest first: what a registry is asked for.
pub(crate) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// An index may nest so deep.
pub(crate) const NESTING: u32 = 3;

/// Layers of one image: overlayfs stacks no more than 500, and no builder makes more than 127.
const LAYERS_MAX: usize = 127;

/// A document that is not what it should be, or asks for what we do not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It is not JSON of its kind.
    #[error("is not valid: {0}")]
    Invalid(String),
    /// It could be read as two things, and different readers would run different images (CVE-2021-41190).
    #[error("has both `manifests` and `layers`")]
    Ambiguous,
    /// Docker's first schema: signed, without digests of its own.
    #[error("is a Docker schema 1 manifest; push the image again with a current tool")]
    Schema1,
    /// No manifest fits.
    #[error("has no image for {wanted}, only for {offered}")]
    NoPlatform {
        /// This machine's or the one asked for.
        wanted: Platform,
        /// Those of the index.
        offered: String,
    },
    /// An index in an index in an index.
    #[error("nests indexes deeper than {NESTING}")]
    TooDeep,
    /// More layers than can be stacked.
    #[error("has {0} layers, at most {LAYERS_MAX} can be stacked")]
    TooManyLayers(usize),
    /// An artifact that is no container image.
    #[error("holds a layer of type {0:?}, which no container image has")]
    NotAnImage(String),
    /// Configuration and manifest tell different stories.
    #[error("has {layers} layers and its configuration {diff_ids} diff IDs")]
    LayersDiffer {
        /// Of the manifest.
        layers: usize,
        /// Of the configuration.
        diff_ids: usize,
    },
}

/// What a document says of other content.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    /// Bytes; Docker-archives that we describe ourselves and old layouts may leave it out.
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) annotations: HashMap<String, String>,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
}

/// A platform by Go's names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, `arm`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v7`, `v8`.
    #[serde(default)]
    pub variant: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct IndexDocument {
    pub(crate) manifests: Vec<Descriptor>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ManifestDocument {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ConfigDocument {
    pub(crate) rootfs: RootFs,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RootFs {
    pub(crate) diff_ids: Vec<Digest>,
}

/// What a name or digest leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Index(IndexDocument),
    Manifest(ManifestDocument),
}

/// Reads an index or a manifest by what it holds: what a server or layout says of its type is not needed and may be wrong.
pub(crate) fn document(bytes: &[u8]) -> Result<Document, DocumentError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        #[serde(default)]
        schema_version: Option<u32>,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
        fs_layers: Option<serde::de::IgnoredAny>,
    }
    let invalid = |error: serde_json::Error| DocumentError::Invalid(error.to_string());
    let shape: Shape = serde_json::from_slice(bytes).map_err(invalid)?;
    match (shape.manifests, shape.layers) {
        (Some(_), Some(_)) => Err(DocumentError::Ambiguous),
        _ if shape.fs_layers.is_some() || shape.schema_version == Some(1) => Err(DocumentError::Schema1),
        (Some(_), None) => Ok(Document::Index(serde_json::from_slice(bytes).map_err(invalid)?)),
        (None, _) => {
            let manifest: ManifestDocument = serde_json::from_slice(bytes).map_err(invalid)?;
            if manifest.layers.len() > LAYERS_MAX {
                return Err(DocumentError::TooManyLayers(manifest.layers.len()));
            }
            let foreign = |layer: &&Descriptor| !layer.media_type.is_empty() && !is_layer(&layer.media_type);
            match manifest.layers.iter().find(foreign) {
                Some(layer) => Err(DocumentError::NotAnImage(layer.media_type.chars().take(100).collect())),
                None => Ok(Document::Manifest(manifest)),
            }
        }
    }
}

/// The configuration's diff IDs, one for each layer of the manifest.
pub(crate) fn diff_ids(manifest: &ManifestDocument, config: &[u8]) -> Result<Vec<Digest>, DocumentError> {
    let config: ConfigDocument =
        serde_json::from_slice(config).map_err(|error| DocumentError::Invalid(format!("configuration: {error}")))?;
    let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    match layers == diff_ids {
        true => Ok(config.rootfs.diff_ids),
        false => Err(DocumentError::LayersDiffer { layers, diff_ids }),
    }
}

/// Layers are tars of the OCI or Docker types, plain or packed; what packs them is seen in their first bytes.
fn is_layer(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.")
}

impl Platform {
    /// This machine's.
    pub fn own() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "x86" => ("386", None),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self { architecture: architecture.into(), os: "linux".into(), variant: variant.map(str::to_owned) }
    }

    /// Whether an image made for `self` runs where `wanted` is asked for.
    fn fits(&self, wanted: &Self) -> bool {
        let variant = |platform: &Self| match (platform.architecture.as_str(), platform.variant.as_deref()) {
            // arm64 without a variant is v8.
            ("arm64", None | Some("")) => "v8".to_owned(),
            (_, variant) => variant.unwrap_or_default().to_owned(),
        };
        let same = self.os == wanted.os && self.architecture == wanted.architecture;
        // Who asks for no variant takes any.
        same && (wanted.variant.is_none() || variant(self) == variant(wanted) || self.variant.is_none())
    }

    fn is_exactly(&self, wanted: &Self) -> bool {
        self.variant.as_deref().unwrap_or_default() == wanted.variant.as_deref().unwrap_or_default()
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl std::str::FromStr for Platform {
    type Err = String;

    /// Reads `linux/amd64` or `linux/arm/v7`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts.as_slice() {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => {
                return Err(format!(
                    "{text:?}: expected OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, as in linux/amd64"
                ));
            }
        };
        if parts.iter().any(|part| part.is_empty()) {
            return Err(format!("{text:?}: expected OS/ARCHITECTURE, as in linux/amd64"));
        }
        let own = |part: &&str| (*part).to_owned();
        Ok(Self { os: own(os), architecture: own(architecture), variant: variant.map(own) })
    }
}

/// The manifest of an index for a platform: one that fits exactly first, then one that fits, then one that names none.
pub(crate) fn choose<'a>(index: &'a IndexDocument, wanted: &Platform) -> Result<&'a Descriptor, DocumentError> {
    let fitting = |descriptor: &&Descriptor| descriptor.platform.as_ref().is_some_and(|own| own.fits(wanted));
    let all: Vec<&Descriptor> = index.manifests.iter().filter(fitting).collect();
    let exact = all.iter().find(|descriptor| descriptor.platform.as_ref().is_some_and(|own| own.is_exactly(wanted)));
    let any = index.manifests.iter().find(|descriptor| descriptor.platform.is_none());
    exact
        .or(all.first())
        .copied()
        .or(any)
        .ok_or_else(|| DocumentError::NoPlatform { wanted: wanted.clone(), offered: offered(index) })
}

fn offered(index: &IndexDocument) -> String {
    let mut names: Vec<String> =
        index.manifests.iter().filter_map(|d| Some(d.platform.as_ref()?.to_string())).collect();
    names.sort();
    names.dedup();
    names.truncate(20);
    match names.is_empty() {
        true => "nothing".into(),
        false => names.join(", ").chars().take(400).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn digest(letter: &str) -> String {
        format!("sha256:{}", letter.repeat(64))
    }

    fn read(value: &Value) -> Result<Document, DocumentError> {
        document(value.to_string().as_bytes())
    }

    #[test]
    fn documents_are_known_by_what_they_hold() {
        let layer =
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": digest("b"), "size": 3});
        let manifest = json!({"schemaVersion": 2, "config": {"digest": digest("a"), "size": 2}, "layers": [layer]});
        assert!(matches!(read(&manifest), Ok(Document::Manifest(m)) if m.layers[0].size == 3));
        assert!(matches!(read(&json!({"manifests": []})), Ok(Document::Index(_))));
        let mut both = manifest.clone();
        both["manifests"] = json!([]);
        assert_eq!(read(&both), Err(DocumentError::Ambiguous));
        assert_eq!(read(&json!({"schemaVersion": 1, "fsLayers": []})), Err(DocumentError::Schema1));
        let mut many = manifest.clone();
        many["layers"] = Value::Array(vec![many["layers"][0].clone(); 128]);
        assert_eq!(read(&many), Err(DocumentError::TooManyLayers(128)));
        let mut chart = manifest.clone();
        chart["layers"][0]["mediaType"] = "application/vnd.cncf.helm.chart.content.v1.tar+gzip".into();
        assert!(matches!(read(&chart), Err(DocumentError::NotAnImage(_))));
        for bad in [json!(1), json!({}), json!({"config": {"digest": "x"}, "layers": []})] {
            assert!(matches!(read(&bad), Err(DocumentError::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn the_manifest_of_the_platform_is_chosen() {
        let entry = |letter: &str, platform: Value| json!({"digest": digest(letter), "platform": platform});
        let index = json!({"manifests": [
            entry("a", json!({"os": "unknown", "architecture": "unknown"})),
            entry("b", json!({"os": "linux", "architecture": "arm", "variant": "v6"})),
            entry("c", json!({"os": "linux", "architecture": "arm", "variant": "v7"})),
            entry("d", json!({"os": "linux", "architecture": "arm64"})),
            entry("e", json!({"os": "linux", "architecture": "amd64", "variant": "v2"})),
            entry("f", json!({"os": "linux", "architecture": "amd64"}))]});
        let Ok(Document::Index(index)) = read(&index) else { panic!() };
        let chosen = |text: &str| choose(&index, &text.parse().unwrap()).map(|d| d.digest.hex()[..1].to_owned());
        assert_eq!(chosen("linux/amd64").as_deref(), Ok("f"));
        assert_eq!(chosen("linux/arm/v7").as_deref(), Ok("c"));
        assert_eq!(chosen("linux/arm64/v8").as_deref(), Ok("d"));
        assert_eq!(chosen("linux/arm").as_deref(), Ok("b"));
        let refused = chosen("linux/riscv64").unwrap_err().to_string();
        assert!(refused.contains("no image for linux/riscv64, only for linux/amd64, linux/amd64/v2"), "{refused}");
        assert!("linux".parse::<Platform>().is_err() && "linux/".parse::<Platform>().is_err());
    }

    #[test]
    fn layers_and_diff_ids_are_as_many() {
        let manifest = ManifestDocument {
            config: serde_json::from_value(json!({"digest": digest("a")})).unwrap(),
            layers: vec![],
        };
        let config = json!({"rootfs": {"diff_ids": [digest("b")]}}).to_string();
        assert_eq!(diff_ids(&manifest, config.as_bytes()), Err(DocumentError::LayersDiffer { layers: 0, diff_ids: 1 }));
    }
}

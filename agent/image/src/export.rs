//! An image into a file: an OCI layout as tar, which `import` and other tools read. OCI image spec, "Image Layout".

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use serde_json::{Value, json};

use crate::content::Content;
use crate::digest::Digest;
use crate::store::{Image, ImageError};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Writes the image with the manifest of its platform. Every blob is checked on its way out.
pub(crate) fn export(content: &Content, image: &Image, limit: u64, to: impl Write) -> Result<(), ImageError> {
    let fail = |source| ImageError::Io { step: "write", path: image.name.clone().into(), source };
    let manifest = content.read(&image.digest, limit)?;
    let told: Value = serde_json::from_slice(&manifest).unwrap_or_default();
    let media_type = told["mediaType"].as_str().unwrap_or(MANIFEST);
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": media_type, "digest": image.digest, "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": image.name, "io.containerd.image.name": image.name}}]});
    let mut tar = tar::Builder::new(to);
    append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice(), 30).map_err(fail)?;
    let index = index.to_string();
    append(&mut tar, "index.json", index.as_bytes(), index.len() as u64).map_err(fail)?;
    let blobs: BTreeSet<&Digest> = image.layers.iter().chain([&image.digest, &image.config]).collect();
    for digest in blobs {
        let file = content.open_blob(digest)?;
        let size = file.metadata().map_err(fail)?.len();
        let mut hashing = crate::digest::Hashing::new(file);
        append(&mut tar, &format!("blobs/sha256/{}", digest.hex()), &mut hashing, size).map_err(fail)?;
        let (found, _, _) = hashing.finish();
        if found != *digest {
            return Err(crate::content::ContentError::Mismatch { expected: digest.clone(), found }.into());
        }
    }
    tar.into_inner().and_then(|mut to| to.flush()).map_err(fail)
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, from: impl Read, size: u64) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    tar.append_data(&mut header, path, from)
}

//! Image files that were put beside the store (`DIR/agent/images`): imported and pinned at start, each once as long as it
//! does not change.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use agent_image::store::ImageStore;
use serde::{Deserialize, Serialize};

use crate::execute::chain;

const VERSION: u32 = 1;

/// What is imported; other files may lie beside them.
const ENDINGS: [&str; 4] = [".tar", ".tar.gz", ".tgz", ".tar.zst"];

/// How a file was when it was imported, and what it held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Imported {
    size: u64,
    modified_seconds: i64,
    modified_nanos: i64,
    images: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    version: u32,
    files: BTreeMap<String, Imported>,
}

/// Imports what is new. One that cannot be read is reported and skipped.
pub(crate) async fn import_all(images: &ImageStore, dir: &Path, record: &Path) {
    let (images, dir, record) = (images.clone(), dir.to_owned(), record.to_owned());
    if let Err(error) = tokio::task::spawn_blocking(move || import_new(&images, &dir, &record)).await {
        tracing::error!(%error, "importing images");
    }
}

fn import_new(images: &ImageStore, dir: &Path, record_path: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| is_image(path)).collect();
    if files.is_empty() {
        return;
    }
    files.sort();
    let old = read(record_path);
    let mut new = Record { version: VERSION, files: BTreeMap::new() };
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match import_one(images, &file, old.files.get(&name)) {
            Ok(imported) => drop(new.files.insert(name, imported)),
            Err(error) => tracing::warn!(file = %file.display(), error, "importing images"),
        }
    }
    // A record that is lost costs one more import.
    if let Err(error) = write(record_path, &new) {
        tracing::warn!(file = %record_path.display(), %error, "remembering what was imported");
    }
}

/// A tar, or a directory with an OCI layout.
fn is_image(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    !name.starts_with('.') && (ENDINGS.iter().any(|ending| name.ends_with(ending)) || path.join("index.json").is_file())
}

fn import_one(images: &ImageStore, file: &Path, before: Option<&Imported>) -> Result<Imported, String> {
    // A layout's index changes with what it names.
    let told_by = if file.is_dir() { file.join("index.json") } else { file.to_owned() };
    let metadata = fs::metadata(&told_by).map_err(|error| error.to_string())?;
    let mut now = Imported {
        size: metadata.size(),
        modified_seconds: metadata.mtime(),
        modified_nanos: metadata.mtime_nsec(),
        images: Vec::new(),
    };
    if let Some(before) = before.filter(|before| Imported { images: vec![], ..(*before).clone() } == now) {
        let known = images.list().map_err(|error| chain(&error))?;
        let is_there = |name: &String| known.iter().any(|image| image.name == *name && image.pinned);
        if before.images.iter().all(is_there) {
            return Ok(before.clone());
        }
    }
    let imported = images.import(file, None).map_err(|error| chain(&error))?;
    tracing::info!(file = %file.display(), images = imported.len(), "imported");
    now.images = imported.into_iter().map(|image| image.name).collect();
    Ok(now)
}

fn read(path: &Path) -> Record {
    let record = fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
    record.filter(|record| record.version == VERSION).unwrap_or_default()
}

fn write(path: &Path, record: &Record) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(record)?)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use serde_json::json;
    use sha2::Digest as _;

    use super::*;

    /// A docker-archive of one image without layers.
    fn archive(tag: &str) -> Vec<u8> {
        let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
        let manifest = json!([{"Config": "c.json", "RepoTags": [tag], "Layers": []}]);
        let mut builder = tar::Builder::new(Vec::new());
        for (name, value) in [("manifest.json", manifest), ("c.json", config)] {
            let bytes = value.to_string().into_bytes();
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn files_are_imported_once_and_pinned() {
        let dir = tempfile::tempdir().unwrap();
        let (files, record) = (dir.path().join("images"), dir.path().join("preloaded.json"));
        fs::create_dir(&files).unwrap();
        let images = ImageStore::open(&dir.path().join("store")).unwrap();
        let mut gzip = Vec::new();
        let plain = archive("a:1");
        flate2::bufread::GzEncoder::new(plain.as_slice(), flate2::Compression::fast()).read_to_end(&mut gzip).unwrap();
        fs::write(files.join("a.tar.gz"), gzip).unwrap();
        fs::write(files.join("b.tar.zst"), zstd::encode_all(archive("b:1").as_slice(), 1).unwrap()).unwrap();
        fs::write(files.join("broken.tar"), "no tar").unwrap();
        fs::write(files.join("notes.txt"), "b:2").unwrap();
        import_new(&images, &files, &record);
        let names = |pinned| {
            let all = images.list().unwrap().into_iter().filter(|image| image.pinned == pinned);
            all.map(|image| image.name).collect::<Vec<_>>()
        };
        assert_eq!(names(true), ["docker.io/library/a:1", "docker.io/library/b:1"]);
        let remembered = || sha2::Sha256::digest(fs::read(&record).unwrap());
        let before = remembered();
        assert_eq!(read(&record).files.len(), 2, "what could not be read is tried again");
        import_new(&images, &files, &record);
        assert_eq!(remembered(), before);
        // One that was removed by hand comes back, one that changed is read again.
        images.remove("a:1").unwrap();
        fs::write(files.join("b.tar.zst"), archive("b:2")).unwrap();
        import_new(&images, &files, &record);
        assert_eq!(names(true), ["docker.io/library/a:1", "docker.io/library/b:1", "docker.io/library/b:2"]);
    }
}

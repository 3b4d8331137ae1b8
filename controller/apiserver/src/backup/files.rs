//! The files of a backup: the directories of the control plane beside the store.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use ring::digest::{SHA256, digest};

use super::{BackupError, in_file};

/// What of the control plane's directory is in a backup.
const DIRECTORIES: [&str; 2] = ["tls", "manifests"];
/// Certificates and manifests are small; more is a mistake or an attack.
const FILE_LIMIT: u64 = 64 << 20;
const TOTAL_LIMIT: usize = 256 << 20;
const DEPTH_LIMIT: usize = 8;

/// Content by path, relative to the control plane's directory.
#[derive(Debug, Default)]
pub(crate) struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    /// Reads the files in the control plane's directory; what is no regular file is left out.
    pub(super) fn collect(dir: &Path) -> Result<Self, BackupError> {
        let mut files = Self::default();
        for name in DIRECTORIES {
            files.collect_below(dir, Path::new(name), 0)?;
        }
        Ok(files)
    }

    fn collect_below(&mut self, dir: &Path, below: &Path, depth: usize) -> Result<(), BackupError> {
        let path = dir.join(below);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(in_file("listing", &path)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(in_file("listing", &path))?;
            let kind = entry.file_type().map_err(in_file("looking at", &entry.path()))?;
            let name = below.join(entry.file_name());
            // What is being written has a name of its own until it is whole.
            let is_unfinished = Path::new(&entry.file_name()).extension() == Some(OsStr::new("tmp"));
            if kind.is_dir() && depth < DEPTH_LIMIT {
                self.collect_below(dir, &name, depth + 1)?;
            } else if kind.is_file() && !is_unfinished {
                let path = entry.path();
                let content = fs::read(&path).map_err(in_file("reading", &path))?;
                self.insert(&name, content)?;
            }
        }
        Ok(())
    }

    /// Takes an entry of an archive, which may be made to do harm.
    pub(super) fn add(&mut self, entry: tar::Entry<'_, impl Read>) -> Result<(), BackupError> {
        let name = entry.path().map_err(BackupError::Read)?.into_owned();
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(BackupError::Damaged(format!("{} is no regular file", name.display())));
        }
        let mut content = Vec::new();
        entry.take(FILE_LIMIT + 1).read_to_end(&mut content).map_err(BackupError::Read)?;
        self.insert(&name, content)
    }

    fn insert(&mut self, name: &Path, content: Vec<u8>) -> Result<(), BackupError> {
        let refuse = |why: &str| Err(BackupError::Damaged(format!("{}: {why}", name.display())));
        let mut parts = name.components();
        let is_known =
            matches!(parts.next(), Some(Component::Normal(first)) if DIRECTORIES.iter().any(|d| first == *d));
        let is_inside = parts.all(|part| matches!(part, Component::Normal(_)));
        let Some(text) = name.to_str().filter(|_| is_known && is_inside && name.components().count() > 1) else {
            return refuse("expected a file below tls/ or manifests/");
        };
        let total: usize = self.0.values().map(Vec::len).sum();
        if content.len() as u64 > FILE_LIMIT || total + content.len() > TOTAL_LIMIT {
            return refuse("it is too large for a backup");
        }
        match self.0.insert(text.to_owned(), content) {
            None => Ok(()),
            Some(_) => refuse("it is there twice"),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, content)| (&**name, &**content))
    }

    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(|content| &**content)
    }

    pub(super) fn digests(&self) -> BTreeMap<String, String> {
        let sum = |content: &Vec<u8>| hex::encode(digest(&SHA256, content));
        self.0.iter().map(|(name, content)| (name.clone(), sum(content))).collect()
    }

    /// Writes the files whose path begins with `below` into a directory, each all at once, for the owner's eyes.
    pub(super) fn write(&self, dir: &Path, below: &str) -> Result<(), BackupError> {
        for (name, content) in self.iter().filter(|(name, _)| name.starts_with(below)) {
            let path = dir.join(name);
            write_file(&path, content).map_err(in_file("writing", &path))?;
        }
        Ok(())
    }
}

fn write_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    let unfinished = PathBuf::from(format!("{}.tmp", path.display()));
    let mut file = crate::pki::create_private(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    fs::File::open(parent)?.sync_all()
}

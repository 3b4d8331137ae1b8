//! The content store: blobs by digest, each verified before it is there.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::digest::{Digest, Hashing};

/// Blobs in `DIR/blobs/sha256/`.
#[derive(Debug, Clone)]
pub struct Content {
    blobs: PathBuf,
    ingest: PathBuf,
}

/// Why content could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
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
    /// The bytes are not what their digest says.
    #[error("content of {expected} has digest {found}")]
    Mismatch {
        /// The digest that was promised.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// There is no such blob.
    #[error("no content {0}")]
    Missing(Digest),
    /// The blob is larger than it may be.
    #[error("content {digest} is larger than {limit} bytes")]
    TooLarge {
        /// Which.
        digest: Digest,
        /// The bound.
        limit: u64,
    },
}

impl Content {
    /// Opens or creates the store below `root`.
    pub fn open(root: &Path) -> Result<Self, ContentError> {
        let content = Self { blobs: root.join("blobs/sha256"), ingest: root.join("ingest") };
        for dir in [&content.blobs, &content.ingest] {
            fs::create_dir_all(dir).map_err(|source| ContentError::Io { step: "create", path: dir.clone(), source })?;
        }
        Ok(content)
    }

    /// Where a blob is or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// Whether a blob is there.
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Stores what `source` gives. With `expected`, anything else is refused.
    pub fn put(&self, mut source: impl Read, expected: Option<&Digest>) -> Result<(Digest, u64), ContentError> {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let temporary = self.ingest.join(format!("{}-{number}", std::process::id()));
        let io = |step, path: &Path| {
            let path = path.to_owned();
            move |source| ContentError::Io { step, path, source }
        };
        let stored = (|| {
            let file = File::create(&temporary).map_err(io("create", &temporary))?;
            let mut writer = Hashing::new(file);
            io::copy(&mut source, &mut writer).map_err(io("write", &temporary))?;
            let (found, length, file) = writer.finish();
            if let Some(expected) = expected.filter(|expected| **expected != found) {
                return Err(ContentError::Mismatch { expected: expected.clone(), found });
            }
            file.sync_all().map_err(io("sync", &temporary))?;
            let path = self.path(&found);
            fs::rename(&temporary, &path).map_err(io("rename to", &path))?;
            Ok((found, length))
        })();
        if stored.is_err() {
            // What is left of a failed ingest is of no use; if it stays, the next clean-up takes it.
            drop(fs::remove_file(&temporary));
        }
        stored
    }

    /// Opens a blob.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, ContentError> {
        let path = self.path(digest);
        File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ContentError::Missing(digest.clone()),
            _ => ContentError::Io { step: "open", path, source },
        })
    }

    /// Reads a small blob whole and checks it once more.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ContentError> {
        let mut bytes = Vec::new();
        let path = self.path(digest);
        self.open_blob(digest)?.take(limit + 1).read_to_end(&mut bytes).map_err(|source| ContentError::Io {
            step: "read",
            path,
            source,
        })?;
        if bytes.len() as u64 > limit {
            return Err(ContentError::TooLarge { digest: digest.clone(), limit });
        }
        let found = Digest::of(&bytes);
        match found == *digest {
            true => Ok(bytes),
            false => Err(ContentError::Mismatch { expected: digest.clone(), found }),
        }
    }

    /// Deletes every blob that `keep` does not want. Answers how many bytes that freed.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> Result<u64, ContentError> {
        let io = |source| ContentError::Io { step: "list", path: self.blobs.clone(), source };
        let mut freed = 0;
        for entry in fs::read_dir(&self.blobs).map_err(io)? {
            let entry = entry.map_err(io)?;
            if entry.file_name().to_str().is_none_or(|name| !keep(name)) {
                freed += entry.metadata().map_or(0, |metadata| metadata.len());
                let path = entry.path();
                fs::remove_file(&path).map_err(|source| ContentError::Io { step: "remove", path, source })?;
            }
        }
        Ok(freed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_what_its_digest_says_or_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path()).unwrap();
        let (digest, length) = content.put(&b"hello"[..], None).unwrap();
        assert_eq!((digest.clone(), length), (Digest::of(b"hello"), 5));
        assert_eq!(content.read(&digest, 5).unwrap(), b"hello");
        assert!(matches!(content.read(&digest, 4), Err(ContentError::TooLarge { .. })));
        let other = Digest::of(b"other");
        assert!(matches!(content.put(&b"hello!"[..], Some(&other)), Err(ContentError::Mismatch { .. })));
        assert!(!content.has(&other));
        fs::write(content.path(&digest), b"hellO").unwrap();
        assert!(matches!(content.read(&digest, 99), Err(ContentError::Mismatch { .. })));
        assert_eq!(fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0, "nothing is left behind");
    }
}

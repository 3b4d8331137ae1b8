//! The content store: blobs by digest, each verified before it is there.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::digest::{Digest, Hashing};

/// Ends the names of blobs that are not whole yet.
const PARTIAL: &str = "partial";
/// What came of a blob waits so long for somebody to go on with it.
const PARTIAL_KEPT: Duration = Duration::from_secs(24 * 3600);

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

    /// Opens, or makes, what there is of a blob so far, and locks it: nobody else writes to it meanwhile, in this process
    /// or another. `None` if somebody does. It is empty if nothing came yet; what is in it is not verified.
    pub fn open_partial(&self, digest: &Digest) -> Result<Option<File>, ContentError> {
        let path = self.partial(digest);
        let io = |step| {
            let path = path.clone();
            move |source| ContentError::Io { step, path, source }
        };
        loop {
            let opened = File::options().create(true).read(true).write(true).truncate(false).open(&path);
            let file = opened.map_err(io("open"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
            }
            // Whoever held the lock may have made a blob of the file, or removed it.
            match fs::metadata(&path) {
                Ok(now) if now.ino() == file.metadata().map_err(io("look at"))?.ino() => return Ok(Some(file)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(io("look at")(source)),
            }
        }
    }

    fn partial(&self, digest: &Digest) -> PathBuf {
        self.ingest.join(format!("{}.{PARTIAL}", digest.hex()))
    }

    /// A second way into what there is of a blob so far, to read it.
    pub fn read_partial(&self, digest: &Digest) -> Result<File, ContentError> {
        let path = self.partial(digest);
        File::open(&path).map_err(|source| ContentError::Io { step: "open", path, source })
    }

    /// Makes a blob of what was verified and synced.
    pub fn commit_partial(&self, digest: &Digest) -> Result<(), ContentError> {
        let path = self.path(digest);
        fs::rename(self.partial(digest), &path).map_err(|source| ContentError::Io { step: "rename to", path, source })
    }

    /// Removes what ingests left behind that died, and downloads that nobody went on with for a day. The caller makes
    /// sure that no ingest is under way; downloads may be.
    pub fn sweep(&self) -> Result<(), ContentError> {
        for entry in fs::read_dir(&self.ingest).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == PARTIAL) {
                let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|at| at.elapsed());
                let is_old = matches!(age, Ok(Ok(age)) if age > PARTIAL_KEPT);
                let is_free = || File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
                if !is_old || !is_free() {
                    continue;
                }
            }
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(ContentError::Io { step: "remove", path, source });
                }
                _ => {}
            }
        }
        Ok(())
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

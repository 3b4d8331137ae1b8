//! What a pull that is under way has brought in and nobody else wants yet: it is not collected while the pull lives.
//! A lease is a file with digests, locked by its holder; a holder that dies loses the lock and with it the lease.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::Digest;

/// A held lease; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Lease {
    path: PathBuf,
    file: File,
}

fn dir(root: &Path) -> PathBuf {
    root.join("leases")
}

impl Lease {
    /// Takes a lease on nothing. The caller holds off collection meanwhile.
    pub(crate) fn take(root: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        fs::create_dir_all(dir(root))?;
        let path = dir(root).join(format!("{}-{number}", std::process::id()));
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(&path)?;
        file.lock()?;
        Ok(Self { path, file })
    }

    /// Wants this kept too.
    pub(crate) fn keep<'a>(&mut self, digests: impl IntoIterator<Item = &'a Digest>) -> io::Result<()> {
        let lines: String = digests.into_iter().map(|digest| format!("{digest}\n")).collect();
        self.file.write_all(lines.as_bytes())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What stays is found without a holder by the next collection.
        drop(fs::remove_file(&self.path));
    }
}

/// All that living holders want kept; forgets the leases of dead ones. The caller holds off new leases meanwhile.
pub(crate) fn held(root: &Path) -> io::Result<BTreeSet<Digest>> {
    let mut wanted = BTreeSet::new();
    for entry in fs::read_dir(dir(root)).into_iter().flatten().flatten() {
        let path = entry.path();
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            Ok(()) => fs::remove_file(&path)?,
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                wanted.extend(text.lines().filter_map(|line| line.parse::<Digest>().ok()));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lives_as_long_as_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        assert!(held(dir.path()).unwrap().is_empty());
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let mut lease = Lease::take(dir.path()).unwrap();
        lease.keep([&one]).unwrap();
        lease.keep([&two]).unwrap();
        assert_eq!(held(dir.path()).unwrap(), BTreeSet::from([one.clone(), two]));
        drop(lease);
        assert!(held(dir.path()).unwrap().is_empty());
        // A holder that was killed leaves its file, without the lock.
        let left = dir.path().join("leases/1-0");
        fs::write(&left, format!("{one}\n")).unwrap();
        assert!(held(dir.path()).unwrap().is_empty() && !left.exists());
    }
}

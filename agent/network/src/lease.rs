//! Leases on disk: one file per pod, so that an agent that starts again knows what its pods hold.
//! They mean nothing after a reboot and live on a tmpfs, so nothing here waits for a sync.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::NetworkError;
use crate::pool::Pool;

const VERSION: u32 = 1;
const TEMPORARY: &str = ".new";
/// No lease is a tenth of this long; more is not ours.
const LONGEST: u64 = 4096;

#[derive(Debug, Serialize, Deserialize)]
struct Lease {
    version: u32,
    address: Ipv4Addr,
    /// Grows by one per lease: the highest is where round robin goes on.
    sequence: u64,
}

/// The directory of leases.
#[derive(Debug)]
pub(crate) struct Leases {
    directory: PathBuf,
    sequence: u64,
}

impl Leases {
    /// Makes the directory if need be and reads what is there.
    pub(crate) fn open(directory: PathBuf) -> Result<(Leases, Pool), NetworkError> {
        let state_dir = |source| NetworkError::StateDir { path: directory.clone(), source };
        fs::create_dir_all(&directory).map_err(state_dir)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&directory).map_err(state_dir)? {
            let path = entry.map_err(state_dir)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.starts_with('.') {
                if name.ends_with(TEMPORARY) {
                    remove(&path)?;
                }
                continue;
            }
            let lease = read(&path)?;
            found.push((lease.sequence, name.to_owned(), lease.address, path));
        }
        found.sort();
        let mut pool = Pool::default();
        let mut sequence = 0;
        for (number, uid, address, path) in found {
            pool.adopt(&uid, address).map_err(|holder| NetworkError::LeaseConflict { path, address, holder })?;
            sequence = number;
        }
        Ok((Leases { directory, sequence }, pool))
    }

    pub(crate) fn write(&mut self, uid: &str, address: Ipv4Addr) -> Result<(), NetworkError> {
        self.sequence = self.sequence.saturating_add(1);
        let path = self.directory.join(uid);
        let temporary = self.directory.join(format!(".{uid}{TEMPORARY}"));
        let lease = Lease { version: VERSION, address, sequence: self.sequence };
        let content =
            serde_json::to_vec(&lease).map_err(|source| NetworkError::LeaseContent { path: path.clone(), source })?;
        fs::write(&temporary, content)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|source| NetworkError::Lease { path, source })
    }

    pub(crate) fn remove(&self, uid: &str) -> Result<(), NetworkError> {
        remove(&self.directory.join(uid))
    }
}

/// A uid becomes a file name: letters, digits, `-`, `_` and `.`, not first, not too long.
pub(crate) fn check_uid(uid: &str) -> Result<(), NetworkError> {
    let plain = uid.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !plain || uid.is_empty() || uid.len() > 128 || uid.starts_with('.') {
        return Err(NetworkError::Uid { uid: uid.chars().take(128).collect() });
    }
    Ok(())
}

fn read(path: &Path) -> Result<Lease, NetworkError> {
    use std::io::Read;
    let lease = |source| NetworkError::Lease { path: path.to_owned(), source };
    let mut content = Vec::new();
    fs::File::open(path).map_err(lease)?.take(LONGEST).read_to_end(&mut content).map_err(lease)?;
    let read: Lease = serde_json::from_slice(&content)
        .map_err(|source| NetworkError::LeaseContent { path: path.to_owned(), source })?;
    if read.version != VERSION {
        let reason = format!("version {} is not {VERSION}", read.version);
        return Err(lease(io::Error::new(io::ErrorKind::InvalidData, reason)));
    }
    Ok(read)
}

fn remove(path: &Path) -> Result<(), NetworkError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(NetworkError::Lease { path: path.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Leased;

    #[test]
    fn leases_and_the_place_of_round_robin_survive() {
        let directory = tempfile::tempdir().unwrap();
        let range = "10.1.0.0/24".parse().unwrap();
        let (mut leases, mut pool) = Leases::open(directory.path().join("network")).unwrap();
        for uid in ["z", "y", "x"] {
            let Leased::New(address) = pool.lease(uid, range).unwrap() else { panic!("not new") };
            leases.write(uid, address).unwrap();
        }
        leases.remove("y").unwrap();
        leases.remove("y").unwrap();
        fs::write(directory.path().join("network/.w.new"), "torn").unwrap();

        let (_, mut pool) = Leases::open(directory.path().join("network")).unwrap();
        assert_eq!(pool.lease("z", range).unwrap(), Leased::Held(Ipv4Addr::new(10, 1, 0, 2)));
        assert_eq!(pool.lease("x", range).unwrap(), Leased::Held(Ipv4Addr::new(10, 1, 0, 4)));
        assert_eq!(pool.lease("w", range).unwrap(), Leased::New(Ipv4Addr::new(10, 1, 0, 5)));
        assert!(!directory.path().join("network/.w.new").exists());
    }

    #[test]
    fn corruption_is_reported_with_the_path() {
        let directory = tempfile::tempdir().unwrap();
        for content in ["", "{}", "{\"version\":2,\"address\":\"10.0.0.2\",\"sequence\":1}", &"x".repeat(9999)] {
            fs::write(directory.path().join("pod"), content).unwrap();
            let error = Leases::open(directory.path().to_owned()).unwrap_err();
            assert!(error.to_string().contains(directory.path().to_str().unwrap()), "{error}");
        }
        let lease = "{\"version\":1,\"address\":\"10.0.0.2\",\"sequence\":1}";
        fs::write(directory.path().join("pod"), lease).unwrap();
        fs::write(directory.path().join("twin"), lease).unwrap();
        let error = Leases::open(directory.path().to_owned()).unwrap_err();
        assert!(matches!(error, NetworkError::LeaseConflict { .. }), "{error}");
    }

    #[test]
    fn a_uid_cannot_leave_the_directory() {
        for bad in ["", ".", "..", "../x", "a/b", "a\0b", ".hidden", "ü", &"x".repeat(129)] {
            assert!(check_uid(bad).is_err(), "{bad:?}");
        }
        check_uid("0b5d4f0e-6c0f-4f0e-9f0e-6c0f4f0e9f0e").unwrap();
    }
}

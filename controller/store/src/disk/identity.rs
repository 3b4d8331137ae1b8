//! What makes a directory a store: a lock held while it is open, and a file with the format and the salt.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use crate::disk::segment::{corrupt, create_file, io_error, sync_directory};
use crate::driver::DriverError;

/// The layout of every file. Format 1 was another engine's; a newer one is refused.
pub(super) const FORMAT: u32 = 2;
pub(super) const FILE: &str = "identity";
pub(super) const LOCK: &str = "lock";
const MAGIC: [u8; 8] = *b"gantryId";
/// magic: 8 bytes; format: u32; zero: u32; salt, checksum: u64.
const LENGTH: usize = 32;

/// Held while the store is open.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Takes the directory for this process.
pub(super) fn lock(dir: &Path) -> Result<Lock, DriverError> {
    let failed = |source| io_error(dir, "locking it", source);
    let file =
        File::options().read(true).write(true).create(true).truncate(false).open(dir.join(LOCK)).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(DriverError::InUse { path: dir.into() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The salt of the store in `dir`; `None` when there is no identity yet.
pub(super) fn read(dir: &Path) -> Result<Option<u64>, DriverError> {
    let path = dir.join(FILE);
    let bytes = match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Ok(metadata) if metadata.len() != LENGTH as u64 => {
            return Err(corrupt(&path, format!("it has {} bytes instead of {LENGTH}", metadata.len())));
        }
        Ok(_) => std::fs::read(&path).map_err(|source| io_error(&path, "reading the identity", source))?,
        Err(source) => return Err(io_error(&path, "reading the identity", source)),
    };
    let word = |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|chunk| u64::from_le_bytes(*chunk));
    if bytes.get(..8) != Some(&MAGIC) || word(24) != Some(xxh3_64(&bytes[..24])) {
        return Err(corrupt(&path, "it does not match its checksum".into()));
    }
    match word(8) {
        Some(format) if format == u64::from(FORMAT) => Ok(word(16)),
        format => Err(DriverError::Format {
            path: dir.into(),
            found: format.unwrap_or_default().to_string(),
            expected: FORMAT,
        }),
    }
}

/// The identity file's bytes.
pub(super) fn encode(format: u32, salt: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&format.to_le_bytes());
    bytes[16..24].copy_from_slice(&salt.to_le_bytes());
    let checksum = xxh3_64(&bytes[..24]);
    bytes[24..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Writes the identity of a new store, durably and all at once.
pub(super) fn write(dir: &Path, salt: u64) -> Result<(), DriverError> {
    let path = dir.join(FILE);
    let unnamed = dir.join("identity.tmp");
    let written = create_file(&unnamed)
        .and_then(|mut file| file.write_all(&encode(FORMAT, salt)).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&unnamed, &path))
        .and_then(|()| sync_directory(dir));
    written.map_err(|source| io_error(&path, "writing the identity", source))
}

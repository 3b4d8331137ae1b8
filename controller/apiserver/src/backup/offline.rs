//! Backup and restore of a data directory that no server runs on; the lock of the store says whether one does.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use controller_store::disk::Disk;
use controller_store::store::{self, Store};

use super::{Backup, BackupError, Description, in_file};

/// A disk bounds what is brought back from a file of this machine.
const NO_LIMIT: u64 = u64::MAX;

/// What a restore did.
#[derive(Debug)]
pub struct Restored {
    /// What was brought back.
    pub description: Description,
    /// Where the control plane that was there lies now.
    pub replaced: Option<PathBuf>,
}

/// Writes a backup of the control plane in `dir` (`DIR/server`).
pub fn save(dir: &Path, out: impl Write) -> Result<Description, BackupError> {
    let store = Store::open(Disk::open(&dir.join("store"))?, store::Config::default())?;
    // Without keys: what is sealed stays sealed.
    super::write(out, &store.snapshot()?, dir)
}

/// Makes the control plane in `dir` (`DIR/server`) that of a backup, all at once: until the last step nothing in
/// `dir` changes. One that is there is refused, or with `replace` kept beside it under another name.
pub fn restore(dir: &Path, from: impl Read, replace: bool) -> Result<Restored, BackupError> {
    let Backup { description, snapshot, files } = super::read(from, NO_LIMIT)?;
    let parent = dir.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(in_file("creating", parent))?;
    let is_occupied = dir.join("store").exists();
    if is_occupied && !replace {
        return Err(BackupError::Occupied(dir.into()));
    }
    // A server that runs must not lose its files; the lock is held until all is in its place.
    let running = is_occupied.then(|| Disk::open(&dir.join("store"))).transpose()?;
    let unfinished = beside(dir, "restoring");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(in_file("removing", &unfinished))?;
    }
    fs::DirBuilder::new().mode(0o700).create(&unfinished).map_err(in_file("creating", &unfinished))?;
    let mut disk = Disk::open(&unfinished.join("store"))?;
    snapshot.fill(&mut disk)?;
    drop(disk);
    files.write(&unfinished, "")?;
    let replaced = dir.exists().then(|| beside(dir, &format!("before-restore-{}", crate::time::epoch())));
    if let Some(replaced) = &replaced {
        fs::rename(dir, replaced).map_err(in_file("setting aside", dir))?;
    }
    fs::rename(&unfinished, dir).map_err(in_file("naming", dir))?;
    fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(in_file("syncing", parent))?;
    drop(running);
    Ok(Restored { description, replaced })
}

fn beside(dir: &Path, what: &str) -> PathBuf {
    let name = dir.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    dir.with_file_name(format!("{name}.{what}"))
}

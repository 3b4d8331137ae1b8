//! A backup: one compressed tar with everything that the control plane keeps. `serve` gives and takes it over HTTP
//! while the server runs, `offline` works on a data directory without one.
//!
//! Inside: `backup.json` (what it is, and the digests of the files), `store` (a snapshot), `tls/` (authorities, keys
//! and certificates), `manifests/`. Nothing of the agent is in it: images are pulled or imported again, and pods' own
//! volumes are data of the pods.

mod files;
pub mod offline;
pub(crate) mod serve;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use controller_store::driver::DriverError;
use controller_store::snapshot::{Snapshot, SnapshotError};
use controller_store::store::ReplaceError;
use serde::{Deserialize, Serialize};

pub(crate) use files::Files;

/// The layout of the archive; a newer one is refused.
const VERSION: u32 = 1;
const DESCRIPTION: &str = "backup.json";
const STORE: &str = "store";
const DESCRIPTION_LIMIT: u64 = 1 << 20;
/// Entries of a tar begin at multiples of this.
const BLOCK: u64 = 512;
/// zstd's own default: fast, and most of the gain.
const LEVEL: i32 = 3;

/// What a backup is, for people and for the program that reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    /// The layout of the archive.
    pub version: u32,
    /// The version of the program that wrote it.
    pub program: String,
    /// When, RFC 3339.
    pub created: String,
    /// The revision of the state.
    pub revision: u64,
    /// How many keys the state has.
    pub keys: usize,
    /// SHA-256 of each file beside the state, in hexadecimal.
    pub files: BTreeMap<String, String>,
}

/// A backup that was read and found whole.
#[derive(Debug)]
pub struct Backup {
    /// What it says about itself.
    pub description: Description,
    pub(crate) snapshot: Snapshot,
    pub(crate) files: Files,
}

/// Why a backup was not made, read or brought back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file or a directory of the control plane.
    #[error("{step} {}", path.display())]
    File {
        /// What was being done.
        step: &'static str,
        /// With which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The archive could not be written.
    #[error("writing the backup")]
    Write(#[source] io::Error),
    /// The archive could not be read.
    #[error("reading the backup: expected a file that `gantry backup` wrote")]
    Read(#[source] io::Error),
    /// It was written by a newer program.
    #[error("the backup has version {found}, written by gantry {program}; this program reads up to {VERSION}")]
    Version {
        /// The version found.
        found: u32,
        /// The program that wrote it.
        program: String,
    },
    /// What was read is not what was written.
    #[error("the backup is damaged: {0}")]
    Damaged(String),
    /// A value could not be sealed.
    #[error("sealing a value")]
    Seal(#[from] controller_store::seal::SealError),
    /// The part that is the store's.
    #[error("the state in the backup")]
    Snapshot(#[from] SnapshotError),
    /// The store could not be opened.
    #[error("opening the store")]
    Store(#[from] DriverError),
    /// The running store did not take it.
    #[error("replacing the state")]
    Replace(#[from] ReplaceError),
    /// There is something already.
    #[error("{} holds a control plane already", .0.display())]
    Occupied(PathBuf),
    /// A running server keeps its keys.
    #[error("{0} of the backup is not this server's: the backup is of another cluster")]
    Stranger(&'static str),
}

impl BackupError {
    /// Whether a server runs on the directory.
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::Store(DriverError::InUse { .. }))
    }
}

pub(crate) fn in_file<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BackupError + 'a {
    move |source| BackupError::File { step, path: path.into(), source }
}

/// Writes a backup of a state and of the files in the control plane's directory.
pub fn write(out: impl Write, snapshot: &Snapshot, dir: &Path) -> Result<Description, BackupError> {
    let files = Files::collect(dir)?;
    let description = Description {
        version: VERSION,
        program: env!("CARGO_PKG_VERSION").into(),
        created: crate::time::now(),
        revision: snapshot.revision.0,
        keys: snapshot.entries.len(),
        files: files.digests(),
    };
    pack(out, &description, snapshot, &files).map_err(BackupError::Write)?;
    Ok(description)
}

fn pack(out: impl Write, description: &Description, snapshot: &Snapshot, files: &Files) -> io::Result<()> {
    let mut compressor = zstd::Encoder::new(out, LEVEL)?;
    // A backup lies somewhere for years: what is damaged then must not pass for what was written.
    compressor.include_checksum(true)?;
    let mut archive = tar::Builder::new(compressor);
    let text = serde_json::to_vec_pretty(description)?;
    archive.append_data(&mut header(text.len() as u64), DESCRIPTION, &*text)?;
    // The state is too large to be had as one piece of memory: it is written into its place.
    let mut header_of_state = header(snapshot.size());
    header_of_state.set_path(STORE)?;
    header_of_state.set_cksum();
    let mut out = io::BufWriter::new(archive.get_mut());
    out.write_all(header_of_state.as_bytes())?;
    snapshot.write(&mut out)?;
    let padding = snapshot.size().next_multiple_of(BLOCK) - snapshot.size();
    io::copy(&mut io::repeat(0).take(padding), &mut out)?;
    out.flush()?;
    drop(out);
    for (name, content) in files.iter() {
        archive.append_data(&mut header(content.len() as u64), name, content)?;
    }
    archive.into_inner()?.finish()?.flush()
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o600);
    header.set_size(size);
    header
}

/// Reads a backup. Names and sizes in it are those of a stranger: nothing is written, and memory grows with what
/// arrives. `limit` bounds the bytes after decompression.
pub fn read(from: impl Read, limit: u64) -> Result<Backup, BackupError> {
    let decompressed = zstd::Decoder::new(from).map_err(BackupError::Read)?.take(limit);
    let mut archive = tar::Archive::new(decompressed);
    let mut entries = archive.entries().map_err(BackupError::Read)?;
    let mut next = |wanted: &'static str| {
        let entry = entries.next().transpose().map_err(BackupError::Read)?;
        let is_it = |entry: &tar::Entry<'_, _>| &*entry.path_bytes() == wanted.as_bytes();
        entry.filter(is_it).ok_or_else(|| BackupError::Damaged(format!("{wanted} is not where it should be")))
    };
    let mut text = Vec::new();
    next(DESCRIPTION)?.take(DESCRIPTION_LIMIT).read_to_end(&mut text).map_err(BackupError::Read)?;
    let description = describe(&text)?;
    let snapshot = Snapshot::read(io::BufReader::new(next(STORE)?))?;
    let mut files = Files::default();
    for entry in entries {
        files.add(entry.map_err(BackupError::Read)?)?;
    }
    if files.digests() != description.files {
        return Err(BackupError::Damaged("a file is missing, or is not what it was".into()));
    }
    Ok(Backup { description, snapshot, files })
}

fn describe(text: &[u8]) -> Result<Description, BackupError> {
    // The version first: a newer description may have fields that this program cannot read.
    #[derive(Deserialize)]
    struct Version {
        version: u32,
        #[serde(default)]
        program: String,
    }
    let unread = |error: serde_json::Error| BackupError::Damaged(format!("{DESCRIPTION}: {error}"));
    let Version { version: found, program } = serde_json::from_slice(text).map_err(unread)?;
    if found > VERSION {
        return Err(BackupError::Version { found, program });
    }
    serde_json::from_slice(text).map_err(unread)
}

//! A layer's tar becomes a directory that overlayfs can stack. Hostile input: nothing is ever written
//! outside the directory, whatever names, links and sequences the tar holds.
//!
//! Every parent is opened with `openat2(RESOLVE_IN_ROOT)`, so links resolve inside the directory as they
//! will in the container, and every last component is made relative to that descriptor without following it.
//! Whiteouts become what overlayfs wants (kernel documentation, "overlayfs", whiteouts and opaque directories).

use std::cell::Cell;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    linkat, mkdirat, mknodat, openat, openat2, symlinkat, unlinkat, utimensat,
};

use crate::limit::Limits;

/// Long names and PAX records of one entry, which are kept in memory, may take so many bytes with the entry's headers.
const HEADERS_MAX: u64 = 1 << 20;

/// Bytes read of a packed layer at once.
const READ_AT_ONCE: usize = 256 << 10;

/// Bytes written to a file at once.
const WRITTEN_AT_ONCE: usize = 256 << 10;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream is not a tar, or is cut short.
    #[error("reading the layer")]
    Read(#[source] io::Error),
    /// An entry cannot be made.
    #[error("{step} {}", path.display())]
    Entry {
        /// What was being done.
        step: &'static str,
        /// The entry's path in the layer.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// An entry that no honest layer has.
    #[error("the entry {} {why}", path.display())]
    Refused {
        /// The entry's path in the layer.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// The layer is larger than a layer may be.
    #[error("the layer holds more than {limit} {what}")]
    TooLarge {
        /// The bound.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
}

/// Inflates by looking at the first bytes: gzip, zstd, or none.
pub fn inflate<'a>(mut packed: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut magic = Vec::with_capacity(4);
    packed.by_ref().take(4).read_to_end(&mut magic)?;
    let first = magic.clone();
    let whole = BufReader::with_capacity(READ_AT_ONCE, io::Cursor::new(magic).chain(packed));
    Ok(match first.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::with_buffer(whole)?),
        _ => Box::new(whole),
    })
}

/// Unpacks a tar stream into `root`, which must be empty. Answers the bytes of its files.
pub fn unpack(tar: impl Read, root: &Path, limits: Limits) -> Result<u64, UnpackError> {
    let root_fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| UnpackError::Entry { step: "open", path: root.into(), source: error.into() })?;
    let mut layer = Layer {
        root: root_fd,
        limits,
        entries: 0,
        bytes: 0,
        directories: Vec::new(),
        parent: None,
        buffer: vec![0; WRITTEN_AT_ONCE],
    };
    let budget = Rc::new(Cell::new(u64::MAX));
    let mut archive = tar::Archive::new(Metered { inner: tar, budget: Rc::clone(&budget) });
    let mut entries = archive.entries().map_err(UnpackError::Read)?;
    loop {
        // The tar crate reads extensions whole, as long as they say they are.
        budget.set(HEADERS_MAX);
        let Some(entry) = entries.next() else { break };
        budget.set(u64::MAX);
        let mut entry = entry.map_err(UnpackError::Read)?;
        layer.add(&mut entry)?;
        // What nobody wanted to read does not count as the next entry's headers.
        io::copy(&mut entry, &mut io::sink()).map_err(UnpackError::Read)?;
    }
    layer.date_directories()?;
    Ok(layer.bytes)
}

/// A reader that gives no more than a budget, which others set anew.
struct Metered<R> {
    inner: R,
    budget: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.budget.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::other(format!("the headers of an entry are longer than {HEADERS_MAX} bytes")));
        }
        let room = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.inner.read(&mut buffer[..room])?;
        self.budget.set(left - count as u64);
        Ok(count)
    }
}

struct Layer {
    root: OwnedFd,
    limits: Limits,
    entries: u64,
    bytes: u64,
    /// Directories get their times last: making entries in them changes them.
    directories: Vec<(PathBuf, Timestamps)>,
    /// The parent of the last entry: the next one's, mostly. Forgotten whenever anything is removed, which alone can make
    /// its path lead elsewhere.
    parent: Option<(PathBuf, Rc<OwnedFd>)>,
    /// For the content of files.
    buffer: Vec<u8>,
}

/// What an entry says of owner, mode and time.
struct Attributes {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    times: Timestamps,
}

impl Layer {
    fn add<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(UnpackError::TooLarge { limit: self.limits.entries, what: "entries" });
        }
        let kind = entry.header().entry_type();
        let raw = entry.path().map_err(UnpackError::Read)?.into_owned();
        let path = inside(&raw)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The root itself: its mode and owner count, it exists already.
            return self.set_attributes_of_root(entry);
        };
        let parent = self.parent_of(&path)?;
        let name_bytes = name.as_bytes();
        if name_bytes == OPAQUE {
            return self.mark_opaque(&path, parent.as_fd());
        }
        if let Some(hidden) = name_bytes.strip_prefix(WHITEOUT) {
            if hidden.is_empty() || hidden == b"." || hidden == b".." || hidden.contains(&b'/') {
                return Err(UnpackError::Refused { path, why: "hides no name" });
            }
            let hidden = OsStr::from_bytes(hidden);
            self.make_room(parent.as_fd(), hidden, &path)?;
            return mknodat(&*parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)
                .map_err(entry_error("make whiteout", &path));
        }
        let attributes = attributes(entry, &path)?;
        match kind {
            tar::EntryType::Directory => {
                self.make_directory(parent.as_fd(), &name, &path)?;
                self.directories.push((path.clone(), attributes.times.clone()));
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                return self.make_file(entry, parent.as_fd(), &name, &path, &attributes);
            }
            tar::EntryType::Symlink => {
                let target = link_name(entry, &path)?;
                self.make_room(parent.as_fd(), &name, &path)?;
                symlinkat(&target, &*parent, &name).map_err(entry_error("make symbolic link", &path))?;
            }
            tar::EntryType::Link => return self.make_hard_link(entry, parent.as_fd(), &name, &path),
            tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => {
                self.make_room(parent.as_fd(), &name, &path)?;
                make_node(entry, kind, parent.as_fd(), &name, &path)?;
            }
            // Global headers and vendors' own types say nothing that we keep.
            tar::EntryType::XGlobalHeader => return Ok(()),
            _ => return Err(UnpackError::Refused { path, why: "has a type that layers do not have" }),
        }
        set_owner_and_mode(parent.as_fd(), &name, &attributes, kind == tar::EntryType::Symlink, &path)?;
        set_xattrs(entry, parent.as_fd(), &name, &path)?;
        utimensat(&*parent, &name, &attributes.times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(entry_error("set times of", &path))
    }

    /// Opens the parent of an entry inside the root, making directories that the tar left out.
    fn parent_of(&mut self, path: &Path) -> Result<Rc<OwnedFd>, UnpackError> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if let Some((_, directory)) = self.parent.as_ref().filter(|(known, _)| known == parent) {
            return Ok(Rc::clone(directory));
        }
        let directory = match self.resolve(parent) {
            Err(rustix::io::Errno::NOENT) => self.make_parents(path)?,
            resolved => resolved.map_err(entry_error("open parent of", path))?,
        };
        let directory = Rc::new(directory);
        self.parent = Some((parent.to_owned(), Rc::clone(&directory)));
        Ok(directory)
    }

    fn make_parents(&self, path: &Path) -> Result<OwnedFd, UnpackError> {
        let mut so_far = PathBuf::new();
        let mut current = self.open_directory(Path::new("."), path)?;
        for component in path.parent().into_iter().flat_map(Path::components) {
            so_far.push(component);
            current = match self.resolve(&so_far) {
                Ok(directory) => directory,
                Err(rustix::io::Errno::NOENT) => {
                    mkdirat(&current, component.as_os_str(), Mode::from_raw_mode(0o755))
                        .map_err(entry_error("make parent of", path))?;
                    self.open_directory(&so_far, path)?
                }
                Err(error) => return Err(entry_error("open parent of", path)(error)),
            };
        }
        Ok(current)
    }

    /// Makes room for an entry: a later one replaces an earlier one of its name.
    fn make_room(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<(), UnpackError> {
        if remove_what_is_there(parent, name, path)? {
            self.parent = None;
        }
        Ok(())
    }

    /// Links resolve as they would with the root as `/`; `..` ends at the root.
    fn resolve(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    fn open_directory(&self, directory: &Path, path: &Path) -> Result<OwnedFd, UnpackError> {
        self.resolve(directory).map_err(entry_error("open parent of", path))
    }

    fn make_directory(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<(), UnpackError> {
        match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Err(rustix::io::Errno::EXIST) => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
                // A directory told of twice keeps its content; anything else gives way.
                if openat(parent, name, flags, Mode::empty()).is_ok() {
                    return Ok(());
                }
                self.make_room(parent, name, path)?;
                mkdirat(parent, name, Mode::from_raw_mode(0o755)).map_err(entry_error("make directory", path))
            }
            result => result.map_err(entry_error("make directory", path)),
        }
    }

    fn make_file<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        attributes: &Attributes,
    ) -> Result<(), UnpackError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || openat(parent, name, flags, Mode::from_raw_mode(0o600));
        let file = match open() {
            Err(rustix::io::Errno::EXIST) => {
                self.make_room(parent, name, path)?;
                open()
            }
            opened => opened,
        };
        let mut file = File::from(file.map_err(entry_error("make file", path))?);
        self.fill(entry, &mut file).map_err(|source| UnpackError::Entry {
            step: "write",
            path: path.into(),
            source,
        })?;
        if self.bytes > self.limits.bytes {
            return Err(UnpackError::TooLarge { limit: self.limits.bytes, what: "bytes" });
        }
        rustix::fs::fchown(&file, Some(attributes.uid), Some(attributes.gid))
            .map_err(entry_error("set owner of", path))?;
        rustix::fs::fchmod(&file, attributes.mode).map_err(entry_error("set mode of", path))?;
        set_xattrs(entry, parent, name, path)?;
        rustix::fs::futimens(&file, &attributes.times).map_err(entry_error("set times of", path))
    }

    /// Copies an entry's content; the tar crate gives exactly the bytes that its header says. Stops where the layer has
    /// become too large.
    fn fill(&mut self, from: &mut impl Read, file: &mut File) -> io::Result<()> {
        while self.bytes <= self.limits.bytes {
            let count = match from.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            file.write_all(&self.buffer[..count])?;
            self.bytes += count as u64;
        }
        Ok(())
    }

    fn make_hard_link<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), UnpackError> {
        let target = inside(Path::new(OsStr::from_bytes(link_name(entry, path)?.as_bytes())))?;
        let Some(target_name) = target.file_name() else {
            return Err(UnpackError::Refused { path: path.into(), why: "links to the root" });
        };
        let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let target_parent = self.open_directory(directory, path)?;
        self.make_room(parent, name, path)?;
        // Without SYMLINK_FOLLOW: a link to a symbolic link links the symbolic link.
        linkat(&target_parent, target_name, parent, name, AtFlags::empty()).map_err(entry_error("make hard link", path))
    }

    fn mark_opaque(&self, path: &Path, parent: BorrowedFd<'_>) -> Result<(), UnpackError> {
        let directory = format!("/proc/self/fd/{}", parent.as_raw_fd());
        rustix::fs::setxattr(directory.as_str(), "trusted.overlay.opaque", b"y", XattrFlags::empty())
            .map_err(entry_error("mark opaque the directory of", path))
    }

    fn set_attributes_of_root<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), UnpackError> {
        let path = Path::new(".");
        let attributes = attributes(entry, path)?;
        chownat(&self.root, ".", Some(attributes.uid), Some(attributes.gid), AtFlags::empty())
            .map_err(entry_error("set owner of", path))?;
        chmodat(&self.root, ".", attributes.mode, AtFlags::empty()).map_err(entry_error("set mode of", path))?;
        self.directories.push((path.into(), attributes.times));
        Ok(())
    }

    fn date_directories(&self) -> Result<(), UnpackError> {
        for (path, times) in self.directories.iter().rev() {
            // A directory that a later entry replaced has no times to keep.
            if let Ok(directory) = self.resolve(path) {
                utimensat(&directory, ".", times, AtFlags::empty()).map_err(entry_error("set times of", path))?;
            }
        }
        Ok(())
    }
}

fn entry_error(step: &'static str, path: &Path) -> impl Fn(rustix::io::Errno) -> UnpackError {
    let path = path.to_owned();
    move |error| UnpackError::Entry { step, path: path.clone(), source: error.into() }
}

/// The path of an entry below the root; absolute ones begin there, `..` is refused.
fn inside(raw: &Path) -> Result<PathBuf, UnpackError> {
    let mut path = PathBuf::new();
    for component in raw.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(UnpackError::Refused { path: raw.into(), why: "leads out of the layer" });
            }
        }
    }
    Ok(path)
}

fn link_name<R: Read>(entry: &mut tar::Entry<'_, R>, path: &Path) -> Result<CString, UnpackError> {
    let refuse = || UnpackError::Refused { path: path.into(), why: "is a link to nothing" };
    let target = entry.link_name_bytes().ok_or_else(refuse)?;
    CString::new(target.into_owned()).map_err(|_| refuse())
}

fn attributes<R: Read>(entry: &tar::Entry<'_, R>, path: &Path) -> Result<Attributes, UnpackError> {
    let header = entry.header();
    let bad = |source| UnpackError::Entry { step: "read header of", path: path.into(), source };
    let id = |value: io::Result<u64>| {
        let value = u32::try_from(value.map_err(bad)?).ok().filter(|id| *id != u32::MAX);
        value.ok_or(UnpackError::Refused { path: path.into(), why: "has an owner out of range" })
    };
    let mtime = if header.as_old().mtime == [0; 12] { 0 } else { header.mtime().map_err(bad)? };
    let seconds = i64::try_from(mtime).unwrap_or(0);
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Ok(Attributes {
        // Some writers leave the numbers out: then the owner is root.
        uid: Uid::from_raw(if header.as_old().uid == [0; 8] { 0 } else { id(header.uid())? }),
        gid: Gid::from_raw(if header.as_old().gid == [0; 8] { 0 } else { id(header.gid())? }),
        mode: Mode::from_raw_mode(header.mode().map_err(bad)? & 0o7777),
        times: Timestamps { last_access: time, last_modification: time },
    })
}

/// Answers whether anything was there.
fn remove_what_is_there(parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<bool, UnpackError> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(rustix::io::Errno::ISDIR) => {
            let directory = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
            std::fs::remove_dir_all(directory).map(|()| true).map_err(|source| UnpackError::Entry {
                step: "replace",
                path: path.into(),
                source,
            })
        }
        Err(error) => Err(entry_error("replace", path)(error)),
    }
}

fn make_node<R: Read>(
    entry: &tar::Entry<'_, R>,
    kind: tar::EntryType,
    parent: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
) -> Result<(), UnpackError> {
    let header = entry.header();
    let number = |value: io::Result<Option<u32>>| {
        value.map(Option::unwrap_or_default).map_err(|source| UnpackError::Entry {
            step: "read header of",
            path: path.into(),
            source,
        })
    };
    let file_type = match kind {
        tar::EntryType::Char => FileType::CharacterDevice,
        tar::EntryType::Block => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let device = rustix::fs::makedev(number(header.device_major())?, number(header.device_minor())?);
    mknodat(parent, name, file_type, Mode::from_raw_mode(0o600), device).map_err(entry_error("make device", path))
}

fn set_owner_and_mode(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    attributes: &Attributes,
    is_link: bool,
    path: &Path,
) -> Result<(), UnpackError> {
    chownat(parent, name, Some(attributes.uid), Some(attributes.gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(entry_error("set owner of", path))?;
    if is_link {
        return Ok(());
    }
    // The entry was made a moment ago by this only writer of the directory; it is no link.
    chmodat(parent, name, attributes.mode, AtFlags::empty()).map_err(entry_error("set mode of", path))
}

/// Sets the extended attributes of PAX records `SCHILY.xattr.*`; those of overlayfs itself are never taken.
fn set_xattrs<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    parent: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
) -> Result<(), UnpackError> {
    let Some(extensions) = entry.pax_extensions().map_err(UnpackError::Read)? else { return Ok(()) };
    let target = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
    for extension in extensions {
        let extension = extension.map_err(UnpackError::Read)?;
        let Some(key) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.".as_slice()) else { continue };
        if key.starts_with(b"trusted.overlay.") || key.starts_with(b"user.overlay.") {
            continue;
        }
        let set = rustix::fs::lsetxattr(&target, key, extension.value_bytes(), XattrFlags::empty());
        match set {
            // A file system without the namespace loses labels, not files.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(entry_error("set attribute of", path)(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;

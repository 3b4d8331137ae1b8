//! A container's cgroup: the same few operations over v1 (hybrid counts as v1) and v2.
//!
//! Own file writes, not the crate `cgroups-rs`: its `add_proc` writes `cgroup.procs` by pid, which takes the kernel's
//! global threadgroup lock and waits for an RCU grace period (the largest single cost of a start; see
//! [`crate::init::Entrance`] for the way around it), it leaves the parent directories that it made, it knows neither
//! `unified` nor a device filter on v2, and it stops at the first setting that fails without naming the file.
//!
//! Nothing here touches a group that was not made for the container, but for enabling controllers on the way (v2).

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::init::Entrance;

mod detect;
mod device;
mod v1;
mod v2;

pub use detect::{Hierarchies, Hierarchy, detect};

/// What went wrong with a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The machine has no cgroups mounted.
    #[error("no cgroup hierarchy is mounted")]
    NotMounted,
    /// /proc/self/mountinfo cannot be read.
    #[error("read /proc/self/mountinfo")]
    Mountinfo(#[source] io::Error),
    /// A limit was asked for that needs a controller this machine lacks.
    #[error("{field} needs the cgroup controller {controller}, which this machine does not have")]
    NoController {
        /// The field of the spec.
        field: &'static str,
        /// The controller.
        controller: &'static str,
    },
    /// A path that leaves the hierarchy.
    #[error("cgroup path {0:?}: expected a path without ..")]
    Path(String),
    /// A value that no kernel takes.
    #[error("{field}: {value:?}: expected {expected}")]
    Value {
        /// The field of the spec.
        field: &'static str,
        /// What stood there.
        value: String,
        /// What should.
        expected: &'static str,
    },
    /// A directory cannot be made.
    #[error("create cgroup {path}", path = path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A setting is refused.
    #[error("write {value:?} to {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The value.
        value: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory does not go.
    #[error("remove cgroup {path}", path = path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The device filter is refused.
    #[error("attach the device filter to {path}", path = path.display())]
    DeviceFilter {
        /// The group.
        path: PathBuf,
        /// Why.
        #[source]
        source: agent_sys::Errno,
    },
}

/// How much a container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// CPU time since the start.
    pub cpu_usage_nanoseconds: u64,
    /// Memory in use, caches included.
    pub memory_usage_bytes: u64,
    /// Memory that cannot easily be taken back: usage without inactive file pages.
    pub memory_working_set_bytes: u64,
    /// Anonymous memory.
    pub memory_rss_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes read from block devices since the start.
    #[serde(default)]
    pub io_read_bytes: u64,
    /// Bytes written to block devices since the start.
    #[serde(default)]
    pub io_write_bytes: u64,
}

/// One container's group in all hierarchies.
pub trait Cgroup: std::fmt::Debug {
    /// Makes the directories and gives the way in for a new child.
    fn create(&self) -> Result<Entrance, CgroupError>;
    /// Applies limits; they may be applied again with other values.
    fn apply(&self, resources: &LinuxResources) -> Result<(), CgroupError>;
    /// Stops or resumes all processes; returns when the kernel says so.
    fn freeze(&self, frozen: bool) -> Result<(), CgroupError>;
    /// Processes, of groups below as well.
    fn pids(&self) -> Result<Vec<i32>, CgroupError>;
    /// Sends a signal to every process; SIGKILL is repeated until none is left to send it to.
    fn signal(&self, signal: i32) -> Result<(), CgroupError>;
    /// Usage now.
    fn stats(&self) -> Result<Stats, CgroupError>;
    /// How often the kernel killed a process of the group for memory.
    fn oom_kills(&self) -> u64;
    /// Removes the directories, those below too; gone already is fine.
    fn delete(&self) -> Result<(), CgroupError>;
    /// What a mount of type cgroup shows.
    fn view(&self) -> crate::plan::CgroupView;
    /// Whether the processes are stopped.
    fn is_frozen(&self) -> bool;
    /// Whether a process beside the groups below needs a group of its own (cgroups(7), "no internal processes").
    fn wants_leaves(&self) -> bool;
}

/// The group of a container: `path` as in `linux.cgroupsPath`; without one, and for relative ones, below /gantry-oci.
pub fn of(path: Option<&Path>, id: &str) -> Result<(Box<dyn Cgroup>, String), CgroupError> {
    let path = match path {
        None => PathBuf::from(format!("gantry-oci/{id}")),
        Some(path) if path.is_absolute() => path.to_owned(),
        Some(path) => Path::new("gantry-oci").join(path),
    };
    let text = path.to_string_lossy().trim_matches('/').to_owned();
    Ok((open(&text)?, text))
}

/// The group at a path below the root of every hierarchy.
pub fn open(path: &str) -> Result<Box<dyn Cgroup>, CgroupError> {
    let relative = path.trim_matches('/');
    if relative.is_empty() || relative.split('/').any(|part| part == ".." || part == "." || part.contains('\n')) {
        return Err(CgroupError::Path(path.to_owned()));
    }
    let hierarchies = detect()?;
    Ok(if hierarchies.v1.is_empty() {
        let root = hierarchies.unified.clone().ok_or(CgroupError::NotMounted)?;
        Box::new(v2::Group::new(root, relative))
    } else {
        Box::new(v1::Group::new(hierarchies.v1.clone(), relative))
    })
}

/// Whether this machine has version 2 for everything.
pub fn is_v2() -> bool {
    detect().is_ok_and(|found| found.v1.is_empty() && found.unified.is_some())
}

/// Whether a group of version 2 is there and has a file: the kernel and the group around it say which.
pub fn has_file(path: &str, file: &str) -> bool {
    let root = detect().ok().filter(|found| found.v1.is_empty()).and_then(|found| found.unified.as_ref());
    root.is_some_and(|root| root.join(path.trim_matches('/')).join(file).exists())
}

/// The names of the groups in a group; none where it is not there.
pub fn groups_in(path: &str) -> Vec<String> {
    let Ok(found) = detect() else { return Vec::new() };
    let of_cpus = found.v1.iter().find(|own| own.controllers.iter().any(|name| name == "cpuset"));
    let Some(root) = of_cpus.or(found.v1.first()).map(|own| &own.mount).or(found.unified.as_ref()) else {
        return Vec::new();
    };
    let entries = std::fs::read_dir(root.join(path.trim_matches('/'))).into_iter().flatten().flatten();
    let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    groups.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Moves the calling process, which has one thread, into a group, making it if need be.
pub fn enter(path: &str) -> Result<(), CgroupError> {
    let group = open(path)?;
    match group.create()? {
        Entrance::Born(directory) => v2::enter(&directory, path),
        entrance => crate::init::enter_cgroups(&entrance).map_err(|source| CgroupError::Write {
            path: path.into(),
            value: "0".to_owned(),
            source: source.into(),
        }),
    }
}

fn write(path: PathBuf, value: impl AsRef<str>) -> Result<(), CgroupError> {
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_ref().as_bytes()))
        .map_err(|source| CgroupError::Write { path, value: value.as_ref().to_owned(), source })
}

fn read(path: PathBuf) -> Result<String, CgroupError> {
    fs::read_to_string(&path).map_err(|source| CgroupError::Read { path, source })
}

fn read_number(path: PathBuf) -> Result<u64, CgroupError> {
    Ok(read(path)?.trim().parse().unwrap_or(u64::MAX))
}

/// The number after `key` in a file of "key value" lines.
fn field(text: &str, key: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
}

fn open_directory(path: &Path) -> Result<OwnedFd, CgroupError> {
    fs::File::open(path).map(OwnedFd::from).map_err(|source| CgroupError::Read { path: path.to_owned(), source })
}

/// Process ids in a group and those below.
fn collect_pids(directory: &Path, pids: &mut Vec<i32>) -> Result<(), CgroupError> {
    match fs::read_to_string(directory.join("cgroup.procs")) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // ENODEV: removed while we read. EOPNOTSUPP: threaded group, whose processes show in its parent.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EOPNOTSUPP)) => {}
        Err(source) => return Err(CgroupError::Read { path: directory.join("cgroup.procs"), source }),
    }
    for child in children(directory) {
        collect_pids(&child, pids)?;
    }
    Ok(())
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Removes a group and those below. A process that just died leaves its group busy for a moment: the kernel gives no
/// event for the end of that moment on v1, so it is asked again, at most for two seconds.
fn remove_tree(directory: &Path) -> Result<(), CgroupError> {
    let mut pause = 200;
    for _ in 0..24 {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                for child in children(directory) {
                    remove_tree(&child)?;
                }
                std::thread::sleep(std::time::Duration::from_micros(pause));
                pause = (pause * 2).min(200_000);
            }
            Err(source) => return Err(CgroupError::Remove { path: directory.to_owned(), source }),
        }
    }
    fs::remove_dir(directory).map_err(|source| CgroupError::Remove { path: directory.to_owned(), source })
}

/// Makes a directory, and those above it where they are missing.
fn make_tree(root: &Path, relative: &str) -> Result<PathBuf, CgroupError> {
    let target = root.join(relative);
    // Somebody may remove an empty parent between our making it and using it: begin again, a few times.
    for attempt in 0.. {
        match fs::create_dir(&target) {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < 8 => {}
            Err(source) => return Err(CgroupError::Create { path: target, source }),
        }
        if let Some((parents, _)) = relative.rsplit_once('/') {
            make_tree(root, parents)?;
        }
    }
    Ok(target)
}

/// Signals until nobody is left; processes that fork meanwhile are met in the next round.
fn signal_all(pids: impl Fn() -> Result<Vec<i32>, CgroupError>, signal: i32) -> Result<(), CgroupError> {
    for _ in 0..64 {
        let found = pids()?;
        for pid in &found {
            // Gone already is what was wished for.
            let _ = agent_sys::signal::kill(*pid, signal);
        }
        if signal != libc::SIGKILL || found.is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(())
}

/// Removes our own common parent when it is empty; others may be using it.
fn remove_common_parent(root: &Path, relative: &str) {
    if relative.starts_with("gantry-oci/") {
        let _ = fs::remove_dir(root.join("gantry-oci"));
    }
}

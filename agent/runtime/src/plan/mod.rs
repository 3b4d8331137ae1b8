//! What a container's start needs of its spec, as plain values: everything is parsed, checked and laid out before the
//! child exists, so that the child only makes kernel calls.

use std::{
    ffi::CString,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use oci_spec::runtime as oci;

pub mod capability;
pub mod device;
pub mod mount;
pub mod namespace;
pub mod process;

pub use device::DevicePlan;
pub use mount::MountPlan;
pub use namespace::NamespacePlan;
pub use process::ProcessPlan;

/// A spec that cannot be carried out; `field` is its path in config.json.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The field is missing.
    #[error("config.json: {field} is required")]
    Missing {
        /// Its path.
        field: &'static str,
    },
    /// The value makes no sense.
    #[error("config.json: {field}: {value:?}: expected {expected}")]
    Invalid {
        /// Its path.
        field: &'static str,
        /// What stood there.
        value: String,
        /// What should.
        expected: &'static str,
    },
    /// A string holds a NUL byte.
    #[error("config.json: {field} holds a NUL byte")]
    Nul {
        /// Its path.
        field: &'static str,
    },
    /// A namespace to join cannot be opened.
    #[error("open namespace {path}", path = path.display())]
    OpenNamespace {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The root filesystem cannot be found.
    #[error("root filesystem {path}", path = path.display())]
    Rootfs {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The seccomp profile.
    #[error("config.json: linux.seccomp")]
    Seccomp(#[source] crate::seccomp::SeccompError),
}

/// Where the root filesystem is and how it behaves.
#[derive(Debug)]
pub struct RootPlan {
    /// Absolute path.
    pub path: CString,
    /// `MS_*` propagation of `/` before, and of the container's root after the pivot.
    pub propagation: u64,
    /// No writes.
    pub readonly: bool,
    /// chroot-like move instead of pivot_root, for ramfs roots.
    pub no_pivot: bool,
    /// The tree itself, where the child could not reach it by its path.
    pub tree: Option<OwnedFd>,
}

/// A file below `/proc/sys` and what to write into it.
#[derive(Debug)]
pub struct SysctlPlan {
    /// Full path.
    pub path: CString,
    /// Value.
    pub value: Vec<u8>,
}

/// Everything the first process of a container does before its program.
#[derive(Debug)]
pub struct InitPlan {
    /// Namespaces made and joined.
    pub namespaces: NamespacePlan,
    /// Host name.
    pub hostname: Option<Vec<u8>>,
    /// NIS domain name.
    pub domainname: Option<Vec<u8>>,
    /// Kernel settings.
    pub sysctls: Vec<SysctlPlan>,
    /// The root.
    pub root: RootPlan,
    /// Mounts in order.
    pub mounts: Vec<MountPlan>,
    /// Device files; empty when /dev is not ours.
    pub devices: Vec<DevicePlan>,
    /// Whether the usual links in /dev are made.
    pub device_links: bool,
    /// Hidden paths.
    pub masked: Vec<CString>,
    /// Read-only paths.
    pub readonly: Vec<CString>,
    /// Whether the parent has hooks to run before the pivot.
    pub runtime_hooks: bool,
    /// Hooks inside, before the pivot.
    pub create_hooks: Vec<oci::Hook>,
    /// Hooks inside, before the program.
    pub start_hooks: Vec<oci::Hook>,
    /// What hooks read on their standard input.
    pub hook_state: Vec<u8>,
    /// The program.
    pub process: ProcessPlan,
    /// Directories of the container's cgroup, to bind where no cgroup namespace does the work: controller, path.
    pub cgroups: CgroupView,
}

/// What a mount of type cgroup shows.
#[derive(Debug, Default)]
pub struct CgroupView {
    /// v1: (mount point name, mount options, host directory of the container's group); empty on v2.
    pub controllers: Vec<(CString, CString, CString)>,
    /// v2: the group's host directory.
    pub unified: Option<CString>,
}

/// A C string out of a field.
pub(crate) fn cstring(field: &'static str, value: impl Into<Vec<u8>>) -> Result<CString, PlanError> {
    CString::new(value).map_err(|_| PlanError::Nul { field })
}

/// An absolute path without `.`, `..` and doubled slashes, as runc cleans destinations.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// How [`init_plan`] is told what does not stand in the spec.
#[derive(Debug)]
pub struct InitOptions<'a> {
    /// The bundle; relative paths start there.
    pub bundle: &'a Path,
    /// No pivot_root.
    pub no_pivot: bool,
    /// What hooks read.
    pub hook_state: Vec<u8>,
    /// What cgroup mounts show.
    pub cgroups: CgroupView,
    /// Kill the process when its parent ends.
    pub die_with_parent: bool,
}

/// Lays out the start of a container.
pub fn init_plan(spec: &oci::Spec, options: InitOptions<'_>) -> Result<InitPlan, PlanError> {
    let process = spec.process().as_ref().ok_or(PlanError::Missing { field: "process" })?;
    let root = spec.root().as_ref().ok_or(PlanError::Missing { field: "root" })?;
    let default_linux;
    let linux = match spec.linux() {
        Some(linux) => linux,
        None => {
            default_linux = oci::LinuxBuilder::default().build().unwrap_or_default();
            &default_linux
        }
    };
    let namespaces = namespace::plan(linux)?;
    let path = options.bundle.join(root.path());
    let path = path.canonicalize().map_err(|source| PlanError::Rootfs { path, source })?;
    let propagation = match linux.rootfs_propagation().as_deref() {
        None | Some("") => libc::MS_REC | libc::MS_SLAVE,
        Some(name) => mount::propagation(name).ok_or_else(|| PlanError::Invalid {
            field: "linux.rootfsPropagation",
            value: name.to_owned(),
            expected: "shared, slave, private or unbindable, with r in front for the whole tree",
        })?,
    };
    let mut mounts = Vec::new();
    for entry in spec.mounts().iter().flatten() {
        let entry = mount::plan(entry, options.bundle)?;
        let needs_namespace = entry.mapping.as_ref().is_some_and(|mapping| mapping.maps.is_none());
        if needs_namespace && !namespaces.has(libc::CLONE_NEWUSER as u64) {
            return Err(PlanError::Invalid {
                field: "mounts.options",
                value: entry.destination.to_string_lossy().into_owned(),
                expected: "no idmap and no ridmap without a user namespace or maps of the mount's own",
            });
        }
        mounts.push(entry);
    }
    let own_dev = !mounts.iter().any(|m| m.is_bind() && m.destination.as_bytes() == b"/dev");
    let paths = |field: &'static str, list: &Option<Vec<String>>| -> Result<Vec<CString>, PlanError> {
        list.iter()
            .flatten()
            .map(|path| cstring(field, clean(Path::new(path)).into_os_string().into_encoded_bytes()))
            .collect()
    };
    let hooks = spec.hooks().as_ref();
    Ok(InitPlan {
        hostname: spec.hostname().as_ref().map(|name| name.clone().into_bytes()),
        domainname: spec.domainname().as_ref().map(|name| name.clone().into_bytes()),
        sysctls: sysctls(linux, &namespaces)?,
        root: RootPlan {
            path: cstring("root.path", path.into_os_string().into_encoded_bytes())?,
            propagation,
            readonly: root.readonly().unwrap_or(false),
            no_pivot: options.no_pivot,
            tree: None,
        },
        mounts,
        devices: if own_dev { device::plan(linux)? } else { Vec::new() },
        device_links: own_dev,
        masked: paths("linux.maskedPaths", linux.masked_paths())?,
        readonly: paths("linux.readonlyPaths", linux.readonly_paths())?,
        runtime_hooks: hooks.is_some_and(has_runtime_hooks),
        create_hooks: hooks.and_then(|h| h.create_container().clone()).unwrap_or_default(),
        start_hooks: hooks.and_then(|h| h.start_container().clone()).unwrap_or_default(),
        hook_state: options.hook_state,
        process: process::plan(process, process::Confinement::of(linux)?, options.die_with_parent)?,
        cgroups: options.cgroups,
        namespaces,
    })
}

#[allow(deprecated)] // prestart hooks are deprecated, and still honoured as the specification asks
fn has_runtime_hooks(hooks: &oci::Hooks) -> bool {
    hooks.prestart().as_ref().is_some_and(|h| !h.is_empty())
        || hooks.create_runtime().as_ref().is_some_and(|h| !h.is_empty())
}

/// Settings may only touch what is the container's own: a setting of a shared namespace would change the host.
fn sysctls(linux: &oci::Linux, namespaces: &NamespacePlan) -> Result<Vec<SysctlPlan>, PlanError> {
    const IPC: [&str; 9] =
        ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced", "auto_msgmni"];
    let mut plans = Vec::new();
    for (key, value) in linux.sysctl().iter().flatten() {
        let name = key.replace('/', ".");
        let kernel = name.strip_prefix("kernel.");
        let needed = if name.starts_with("net.") {
            Some(libc::CLONE_NEWNET)
        } else if name.starts_with("fs.mqueue.") || kernel.is_some_and(|k| IPC.contains(&k)) {
            Some(libc::CLONE_NEWIPC)
        } else if kernel.is_some_and(|k| k == "hostname" || k == "domainname") {
            Some(libc::CLONE_NEWUTS)
        } else {
            None
        };
        let own = needed.is_some_and(|flag| namespaces.has(flag as u64));
        if !own || name.split('.').any(|part| part.is_empty()) {
            return Err(PlanError::Invalid {
                field: "linux.sysctl",
                value: key.clone(),
                expected: "a setting of a namespace that the container has of its own (net., fs.mqueue., kernel. for ipc)",
            });
        }
        plans.push(SysctlPlan {
            path: cstring("linux.sysctl", format!("/proc/sys/{}", key.replace('.', "/")))?,
            value: value.clone().into_bytes(),
        });
    }
    plans.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(plans)
}

/// Standard streams for a process; `None` inherits ours.
#[derive(Debug, Default)]
pub struct Streams {
    /// 0, 1 and 2.
    pub descriptors: [Option<OwnedFd>; 3],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_cleaned() {
        for (path, expected) in
            [("/a/../../etc", "/etc"), ("a/b", "/a/b"), ("/", "/"), ("//a//./b/", "/a/b"), ("..", "/")]
        {
            assert_eq!(clean(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}

//! Which namespaces are made and which are joined.

use std::{fs::File, os::fd::OwnedFd, path::PathBuf};

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};

use super::PlanError;

/// One namespace to join.
#[derive(Debug)]
pub struct Joined {
    /// Its `CLONE_NEW*` flag.
    pub flag: u64,
    /// The namespace, opened before anything changes.
    pub file: OwnedFd,
    /// For messages.
    pub path: PathBuf,
}

/// What ids of a user namespace are outside: the lines of its two maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// uid_map.
    pub uid: String,
    /// gid_map.
    pub gid: String,
}

impl IdMaps {
    /// Those of a spec, if it has any.
    pub(super) fn of(uid: &Option<Vec<LinuxIdMapping>>, gid: &Option<Vec<LinuxIdMapping>>) -> Option<Self> {
        let lines = |mappings: &Option<Vec<LinuxIdMapping>>| {
            let lines = mappings.iter().flatten();
            lines.map(|m| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size())).collect::<String>()
        };
        let maps = Self { uid: lines(uid), gid: lines(gid) };
        (maps != Self::default()).then_some(maps)
    }

    /// Whether one kind is missing.
    pub(super) fn is_partial(&self) -> bool {
        self.uid.is_empty() || self.gid.is_empty()
    }
}

/// The namespaces of a container.
#[derive(Debug, Default)]
pub struct NamespacePlan {
    /// `CLONE_NEW*` flags of new ones.
    pub new: u64,
    /// Joined ones; user first, mount last, PID apart since only the next child enters it.
    pub join: Vec<Joined>,
    /// The PID namespace to join.
    pub join_pid: Option<Joined>,
    /// The maps of a new user namespace.
    pub maps: Option<IdMaps>,
}

impl NamespacePlan {
    /// Whether the container has this namespace apart from ours.
    pub fn has(&self, flag: u64) -> bool {
        self.all() & flag != 0
    }

    /// The user namespace to join.
    pub fn joined_user(&self) -> Option<&OwnedFd> {
        self.join.iter().find(|joined| joined.flag == libc::CLONE_NEWUSER as u64).map(|joined| &joined.file)
    }

    /// All flags, made and joined.
    pub fn all(&self) -> u64 {
        self.join.iter().chain(&self.join_pid).fold(self.new, |flags, joined| flags | joined.flag)
    }
}

/// The kernel's flag of a namespace type.
pub fn flag(kind: LinuxNamespaceType) -> u64 {
    (match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => 0x80,
    }) as u64
}

pub(super) fn plan(linux: &Linux) -> Result<NamespacePlan, PlanError> {
    let mut plan = NamespacePlan::default();
    for namespace in linux.namespaces().iter().flatten() {
        let invalid =
            |expected| PlanError::Invalid { field: "linux.namespaces", value: namespace.typ().to_string(), expected };
        if namespace.typ() == LinuxNamespaceType::Time {
            return Err(invalid("a namespace other than time, which is not supported"));
        }
        let flag = flag(namespace.typ());
        if plan.has(flag) {
            return Err(invalid("each namespace once"));
        }
        match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
            None => plan.new |= flag,
            Some(path) => {
                let file =
                    File::open(path).map_err(|source| PlanError::OpenNamespace { path: path.clone(), source })?.into();
                let joined = Joined { flag, file, path: path.clone() };
                if namespace.typ() == LinuxNamespaceType::Pid {
                    plan.join_pid = Some(joined);
                } else {
                    plan.join.push(joined);
                }
            }
        }
    }
    if plan.new & libc::CLONE_NEWNS as u64 == 0 {
        return Err(PlanError::Invalid {
            field: "linux.namespaces",
            value: "no new mount namespace".to_owned(),
            expected: "a namespace of type mount without a path",
        });
    }
    plan.join.sort_by_key(|joined| match joined.flag as i32 {
        libc::CLONE_NEWUSER => 0,
        libc::CLONE_NEWNS => 2,
        _ => 1,
    });
    if plan.new & libc::CLONE_NEWUSER as u64 != 0 {
        plan.maps = IdMaps::of(linux.uid_mappings(), linux.gid_mappings()).filter(|maps| !maps.is_partial());
        if plan.maps.is_none() {
            return Err(PlanError::Missing {
                field: "linux.uidMappings and linux.gidMappings (with a new user namespace)",
            });
        }
    }
    Ok(plan)
}

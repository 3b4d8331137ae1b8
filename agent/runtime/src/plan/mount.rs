//! Mount entries: option names to flags, attributes, propagation and filesystem data.

use std::{ffi::CString, os::fd::OwnedFd, path::Path, sync::OnceLock};

use agent_sys::mount::MountAttributes;
use oci_spec::runtime::Mount;

use super::{PlanError, clean, cstring, namespace::IdMaps};

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountKind {
    /// A directory or file of the host, with what is mounted below it if `recursive`.
    Bind {
        /// rbind.
        recursive: bool,
    },
    /// The container's view of its cgroups.
    Cgroup,
    /// proc or sysfs: never through a symbolic link, so that nothing else can pose as it.
    Kernel,
    /// Any other filesystem.
    Filesystem,
}

/// How the owners of a bind's files are shown.
#[derive(Debug, PartialEq, Eq)]
pub struct IdMapping {
    /// For the mounts below it as well.
    pub recursive: bool,
    /// Its own maps; without, those of the container's user namespace.
    pub maps: Option<IdMaps>,
}

/// One mount.
#[derive(Debug)]
pub struct MountPlan {
    /// Kind.
    pub kind: MountKind,
    /// Device, directory or name.
    pub source: CString,
    /// Type.
    pub fstype: CString,
    /// Cleaned path in the container.
    pub destination: CString,
    /// For messages: `"proc" at /proc`.
    pub label: CString,
    /// `MS_*`.
    pub flags: u64,
    /// Filesystem options.
    pub data: CString,
    /// The same flags for mount_setattr, as binds need them.
    pub attributes: MountAttributes,
    /// Attributes for the whole tree.
    pub recursive: MountAttributes,
    /// `MS_*` propagation changes, in order.
    pub propagation: Vec<u64>,
    /// Other owners for what is bound.
    pub mapping: Option<IdMapping>,
    /// The tree to bind where it is taken early: by the parent, where the child may lack the right, or before `/`
    /// becomes the host's slave, where the tree must stay its peer.
    pub tree: OnceLock<OwnedFd>,
}

impl MountPlan {
    /// Whether it shows something of the host.
    pub fn is_bind(&self) -> bool {
        matches!(self.kind, MountKind::Bind { .. })
    }

    /// Whether mounts made below it are to reach the host.
    pub fn is_peer(&self) -> bool {
        self.is_bind() && self.propagation.iter().any(|flags| flags & libc::MS_SHARED != 0)
    }
}

const ATIME_MASK: u64 = libc::MOUNT_ATTR__ATIME;

/// (name, MS_ flag, MOUNT_ATTR_ bits to set, bits to clear, whether the MS_ flag is set or cleared).
const FLAGS: &[(&str, u64, u64, u64, bool)] = &[
    ("ro", libc::MS_RDONLY, libc::MOUNT_ATTR_RDONLY, 0, true),
    ("rw", libc::MS_RDONLY, 0, libc::MOUNT_ATTR_RDONLY, false),
    ("nosuid", libc::MS_NOSUID, libc::MOUNT_ATTR_NOSUID, 0, true),
    ("suid", libc::MS_NOSUID, 0, libc::MOUNT_ATTR_NOSUID, false),
    ("nodev", libc::MS_NODEV, libc::MOUNT_ATTR_NODEV, 0, true),
    ("dev", libc::MS_NODEV, 0, libc::MOUNT_ATTR_NODEV, false),
    ("noexec", libc::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC, 0, true),
    ("exec", libc::MS_NOEXEC, 0, libc::MOUNT_ATTR_NOEXEC, false),
    ("nodiratime", libc::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME, 0, true),
    ("diratime", libc::MS_NODIRATIME, 0, libc::MOUNT_ATTR_NODIRATIME, false),
    ("noatime", libc::MS_NOATIME, libc::MOUNT_ATTR_NOATIME, ATIME_MASK, true),
    ("atime", libc::MS_NOATIME, 0, ATIME_MASK, false),
    ("relatime", libc::MS_RELATIME, 0, ATIME_MASK, true),
    ("norelatime", libc::MS_RELATIME, libc::MOUNT_ATTR_STRICTATIME, ATIME_MASK, false),
    ("strictatime", libc::MS_STRICTATIME, libc::MOUNT_ATTR_STRICTATIME, ATIME_MASK, true),
    ("nostrictatime", libc::MS_STRICTATIME, 0, ATIME_MASK, false),
    ("nosymfollow", 256, libc::MOUNT_ATTR_NOSYMFOLLOW, 0, true),
    ("symfollow", 256, 0, libc::MOUNT_ATTR_NOSYMFOLLOW, false),
    ("sync", libc::MS_SYNCHRONOUS, 0, 0, true),
    ("async", libc::MS_SYNCHRONOUS, 0, 0, false),
    ("dirsync", libc::MS_DIRSYNC, 0, 0, true),
    ("mand", libc::MS_MANDLOCK, 0, 0, true),
    ("nomand", libc::MS_MANDLOCK, 0, 0, false),
    ("iversion", libc::MS_I_VERSION, 0, 0, true),
    ("noiversion", libc::MS_I_VERSION, 0, 0, false),
    ("lazytime", libc::MS_LAZYTIME, 0, 0, true),
    ("nolazytime", libc::MS_LAZYTIME, 0, 0, false),
    ("silent", libc::MS_SILENT, 0, 0, true),
    ("loud", libc::MS_SILENT, 0, 0, false),
    ("remount", libc::MS_REMOUNT, 0, 0, true),
    ("defaults", 0, 0, 0, true),
];

/// A propagation name's `MS_*` flags.
pub fn propagation(name: &str) -> Option<u64> {
    let (recursive, plain) = match name.strip_prefix('r') {
        Some(rest) => (libc::MS_REC, rest),
        None => (0, name),
    };
    let kind = match plain {
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "private" => libc::MS_PRIVATE,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    };
    Some(recursive | kind)
}

/// Every option that is not handed to the filesystem.
pub fn option_names() -> Vec<String> {
    let recursive = FLAGS.iter().filter(|flag| flag.2 | flag.3 != 0).map(|flag| format!("r{}", flag.0));
    let plain = FLAGS.iter().map(|flag| flag.0);
    let others = [
        "idmap",
        "ridmap",
        "bind",
        "rbind",
        "shared",
        "rshared",
        "slave",
        "rslave",
        "private",
        "rprivate",
        "unbindable",
        "runbindable",
    ];
    let mut names: Vec<String> = plain.chain(others).map(str::to_owned).chain(recursive).collect();
    names.sort();
    names
}

fn change(attributes: &mut MountAttributes, set: u64, clear: u64) {
    attributes.set = attributes.set & !clear | set;
    attributes.clear = attributes.clear & !(set & !ATIME_MASK) | clear;
}

pub(super) fn plan(mount: &Mount, bundle: &Path) -> Result<MountPlan, PlanError> {
    let invalid =
        |field, expected| PlanError::Invalid { field, value: mount.destination().display().to_string(), expected };
    let mut maps_below = None;
    let mut bind = None;
    let mut flags = 0;
    let mut attributes = MountAttributes::default();
    let mut recursive = MountAttributes::default();
    let mut propagations = Vec::new();
    let mut data: Vec<&str> = Vec::new();
    for option in mount.options().iter().flatten().map(String::as_str) {
        if let Some((_, flag, set, clear, on)) = FLAGS.iter().find(|known| known.0 == option) {
            flags = if *on { flags | flag } else { flags & !flag };
            change(&mut attributes, *set, *clear);
        } else if option == "bind" || option == "rbind" {
            bind = Some(option == "rbind");
        } else if let Some(kind) = propagation(option) {
            propagations.push(kind);
        } else if let Some((_, _, set, clear, _)) =
            option.strip_prefix('r').and_then(|rest| FLAGS.iter().find(|f| f.0 == rest && f.2 | f.3 != 0))
        {
            change(&mut recursive, *set, *clear);
        } else if option == "idmap" || option == "ridmap" {
            maps_below = Some(option == "ridmap");
        } else if option == "tmpcopyup" {
            return Err(invalid("mounts.options", "no tmpcopyup, which is not supported"));
        } else {
            data.push(option);
        }
    }
    let typ = mount.typ().as_deref().unwrap_or("none");
    let kind = match (bind, typ) {
        (Some(recursive), _) => MountKind::Bind { recursive },
        (None, "bind") => MountKind::Bind { recursive: true },
        (None, "cgroup" | "cgroup2") => MountKind::Cgroup,
        (None, "proc" | "sysfs") => MountKind::Kernel,
        (None, _) => MountKind::Filesystem,
    };
    let maps = IdMaps::of(mount.uid_mappings(), mount.gid_mappings());
    let mapping = match (maps, maps_below) {
        (None, None) => None,
        (maps, recursive) => Some(IdMapping { recursive: recursive.unwrap_or(false), maps }),
    };
    if mapping.as_ref().and_then(|mapping| mapping.maps.as_ref()).is_some_and(IdMaps::is_partial) {
        return Err(invalid("mounts.uidMappings", "uidMappings and gidMappings, or neither"));
    }
    if mapping.is_some() && !matches!(kind, MountKind::Bind { .. }) {
        return Err(invalid("mounts.uidMappings", "no ids to map but on bind mounts"));
    }
    let destination = clean(mount.destination());
    if kind == (MountKind::Filesystem) && (typ == "none" || typ.is_empty()) {
        return Err(invalid("mounts.type", "a filesystem type, or the option bind or rbind"));
    }
    if destination == Path::new("/") {
        return Err(invalid("mounts.destination", "a path below /"));
    }
    let source = match (mount.source(), kind) {
        (Some(source), MountKind::Bind { .. }) => bundle.join(source).into_os_string().into_encoded_bytes(),
        (None, MountKind::Bind { .. }) => return Err(invalid("mounts.source", "the path to bind")),
        (Some(source), _) => source.clone().into_os_string().into_encoded_bytes(),
        (None, _) => typ.as_bytes().to_vec(),
    };
    let label = format!("{:?} at {}", mount.source().as_deref().unwrap_or(Path::new(typ)), destination.display());
    Ok(MountPlan {
        kind,
        source: cstring("mounts.source", source)?,
        fstype: cstring("mounts.type", typ)?,
        destination: cstring("mounts.destination", destination.into_os_string().into_encoded_bytes())?,
        label: cstring("mounts.destination", label)?,
        flags,
        data: cstring("mounts.options", data.join(","))?,
        attributes,
        recursive,
        propagation: propagations,
        mapping,
        tree: OnceLock::new(),
    })
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::MountBuilder;

    use super::*;

    fn parse(options: &[&str]) -> MountPlan {
        let mount = MountBuilder::default()
            .destination("/x")
            .source("/y")
            .typ("tmpfs")
            .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
            .build()
            .unwrap();
        plan(&mount, Path::new("/bundle")).unwrap()
    }

    #[test]
    fn options_become_flags_attributes_and_data() {
        let plan = parse(&["nosuid", "ro", "rw", "noatime", "size=1k", "mode=755", "rslave", "rro"]);
        assert_eq!(plan.flags, libc::MS_NOSUID | libc::MS_NOATIME);
        assert_eq!(plan.data.to_bytes(), b"size=1k,mode=755");
        assert_eq!(plan.attributes.set, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOATIME);
        assert_eq!(plan.attributes.clear, libc::MOUNT_ATTR_RDONLY | ATIME_MASK);
        assert_eq!(plan.propagation, [libc::MS_REC | libc::MS_SLAVE]);
        assert_eq!(plan.recursive.set, libc::MOUNT_ATTR_RDONLY);
        assert_eq!(plan.kind, MountKind::Filesystem);
        assert_eq!(parse(&["rbind"]).kind, MountKind::Bind { recursive: true });
    }

    #[test]
    fn ids_are_mapped_on_binds_only_and_both_kinds_together() {
        let of = |options: &[&str], more: serde_json::Value| {
            let mut mount = serde_json::json!({"destination": "/x", "source": "/y", "options": options});
            mount.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            plan(&serde_json::from_value(mount).unwrap(), Path::new("/bundle"))
        };
        let none = serde_json::json!({});
        let map = serde_json::json!([{"containerID": 0, "hostID": 65536, "size": 65536}]);
        let both = serde_json::json!({"uidMappings": map, "gidMappings": map});
        assert_eq!(of(&["bind"], none.clone()).unwrap().mapping, None);
        let own = |recursive| Some(IdMapping { recursive, maps: None });
        assert_eq!(of(&["bind", "idmap"], none.clone()).unwrap().mapping, own(false));
        assert_eq!(of(&["rbind", "ridmap"], none).unwrap().mapping, own(true));
        let mapping = of(&["bind"], both.clone()).unwrap().mapping.unwrap();
        assert!(!mapping.recursive, "without an option it is the mount alone");
        assert_eq!(mapping.maps.unwrap().uid, "0 65536 65536\n");
        let half = serde_json::json!({"uidMappings": map});
        assert!(of(&["bind"], half).unwrap_err().to_string().contains("or neither"));
        let mut tmpfs = both;
        tmpfs["type"] = "tmpfs".into();
        assert!(of(&[], tmpfs).unwrap_err().to_string().contains("bind mounts"));
    }
}

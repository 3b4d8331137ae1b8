//! Mount trees that the parent takes for a container. In a user namespace the container's root is nobody on the machine:
//! directories that are closed to others are closed to it, and only the machine's root may show files with other owners
//! than they have. So what is bound is taken here, as mounts that are nowhere yet, and the child puts them in place.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use agent_sys::{
    clone::{Child, CloneArgs, clone3},
    mount::{MountAttributes, mount_setattr},
};

use super::{ContainerError, create::reap};
use crate::{
    init::{channel, mount::clone_path},
    plan::{
        InitPlan, MountPlan,
        mount::{IdMapping, MountKind},
        namespace::IdMaps,
    },
};

/// Takes the trees that the child cannot.
pub(super) fn take(plan: &mut InitPlan) -> Result<(), ContainerError> {
    let has_users = plan.namespaces.has(libc::CLONE_NEWUSER as u64);
    let mut known: Vec<(IdMaps, OwnedFd)> = Vec::new();
    for mount in &plan.mounts {
        let MountKind::Bind { recursive } = mount.kind else { continue };
        if !has_users && mount.mapping.is_none() {
            continue;
        }
        let tree = clone_path(&mount.source, recursive)
            .map_err(|errno| ContainerError::file("open the bind source", source(mount))(errno.into()))?;
        if let Some(mapping) = &mount.mapping {
            let maps = mapping.maps.as_ref().or(plan.namespaces.maps.as_ref());
            let users = match (maps, plan.namespaces.joined_user()) {
                (Some(maps), _) => of_maps(&mut known, maps)?,
                (None, Some(joined)) => joined,
                (None, None) => continue, // refused when it was planned
            };
            map(&tree, mapping, users, mount)?;
        }
        // It is taken once.
        drop(mount.tree.set(tree));
    }
    if has_users && !plan.root.no_pivot {
        let path = Path::new(std::ffi::OsStr::from_bytes(plan.root.path.to_bytes()));
        let tree = clone_path(&plan.root.path, true);
        plan.root.tree = Some(tree.map_err(|errno| ContainerError::file("open", path)(errno.into()))?);
    }
    Ok(())
}

fn source(mount: &MountPlan) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(mount.source.to_bytes()))
}

fn map(tree: &OwnedFd, mapping: &IdMapping, users: &OwnedFd, mount: &MountPlan) -> Result<(), ContainerError> {
    mount_setattr(tree.as_fd(), c"", mapping.recursive, MountAttributes::default(), Some(users.as_fd()))
        .map_err(|errno| ContainerError::file("map the owners of the files of", source(mount))(errno.into()))
}

fn of_maps<'a>(known: &'a mut Vec<(IdMaps, OwnedFd)>, maps: &IdMaps) -> Result<&'a OwnedFd, ContainerError> {
    let index = match known.iter().position(|(own, _)| own == maps) {
        Some(index) => index,
        None => {
            known.push((maps.clone(), namespace(maps)?));
            known.len() - 1
        }
    };
    Ok(&known[index].1)
}

/// A user namespace in which nobody lives, with these maps.
fn namespace(maps: &IdMaps) -> Result<OwnedFd, ContainerError> {
    let (ours, theirs) = channel::pair().map_err(ContainerError::kernel("make a channel"))?;
    let args = CloneArgs { namespaces: libc::CLONE_NEWUSER as u64, ..CloneArgs::default() };
    let child = clone3(&args, || {
        // The parent ends us when it has what it wants; if it dies first, the kernel does.
        let _ = agent_sys::process::die_with_parent(libc::SIGKILL);
        let _ = channel::receive(theirs.as_fd());
        0
    })
    .map_err(ContainerError::kernel("make a user namespace"))?;
    let opened = write_maps(&child, maps).and_then(|()| {
        let path = format!("/proc/{}/ns/user", child.pid);
        fs::File::open(&path).map(OwnedFd::from).map_err(ContainerError::file("open", path))
    });
    let _ = agent_sys::signal::pidfd_kill(child.pidfd.as_fd(), libc::SIGKILL);
    reap(&child);
    drop(ours);
    opened
}

/// Gives the user namespace of a child its maps.
pub(crate) fn write_maps(child: &Child, maps: &IdMaps) -> Result<(), ContainerError> {
    for (name, map) in [("uid_map", &maps.uid), ("gid_map", &maps.gid)] {
        let path = format!("/proc/{}/{name}", child.pid);
        fs::write(&path, map).map_err(ContainerError::file("write", path))?;
    }
    Ok(())
}

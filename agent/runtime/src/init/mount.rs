//! One mount of the spec.

use std::{
    ffi::{CStr, CString},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use agent_sys::{
    Errno,
    mount::{MountAttributes, mount_setattr},
};
use rustix::{
    fs::CWD,
    mount::{MountFlags, OpenTreeFlags, mount, mount_remount, open_tree},
};

use super::{
    inside::{self, FdPath, Missing},
    root::{attach, change_propagation, clone_mount, set_attributes},
    step::{At, Failure, Step},
};
use crate::plan::{CgroupView, MountPlan, mount::MountKind};

/// Carries one mount out.
pub(super) fn perform<'a>(
    root: BorrowedFd<'_>,
    plan: &'a MountPlan,
    cgroups: &'a CgroupView,
) -> Result<(), Failure<'a>> {
    let label = plan.label.as_bytes();
    match plan.kind {
        MountKind::Bind { recursive } => bind(root, plan, recursive)?,
        MountKind::Cgroup => {
            let target = point(root, plan, Missing::Directory)?;
            cgroup(root, target.as_fd(), plan, cgroups).at(Step::Mount, label)?;
        }
        MountKind::Kernel => {
            inside::resolve_or_make(root, &plan.destination, Missing::Directory).at(Step::MountPoint, label)?;
            let target = inside::resolve_without_links(root, &plan.destination).at(Step::MountPoint, label)?;
            filesystem(target.as_fd(), plan, &plan.data).at(Step::Mount, label)?;
        }
        MountKind::Filesystem => {
            let target = point(root, plan, Missing::Directory)?;
            let done = match filesystem(target.as_fd(), plan, &plan.data) {
                // In a user namespace that maps no group 5 devpts is mounted without it, as crun does.
                Err(Errno::INVAL) if plan.fstype.to_bytes() == b"devpts" => {
                    filesystem(target.as_fd(), plan, c"newinstance,ptmxmode=0666,mode=0620")
                }
                other => other,
            };
            done.at(Step::Mount, label)?;
        }
    }
    if plan.propagation.is_empty() && plan.recursive == MountAttributes::default() {
        return Ok(());
    }
    let mounted = inside::resolve(root, &plan.destination).at(Step::MountPoint, label)?;
    for flags in &plan.propagation {
        change_propagation(FdPath::new(mounted.as_fd()).as_c_str(), *flags).at(Step::MountPropagation, label)?;
    }
    if plan.recursive != MountAttributes::default() {
        mount_setattr(mounted.as_fd(), c"", true, plan.recursive, None).at(Step::MountAttributes, label)?;
    }
    Ok(())
}

/// Takes what has to stay the host's peer, while it still is.
pub(super) fn take_peer(plan: &MountPlan) -> Result<(), Failure<'_>> {
    if let (true, None, MountKind::Bind { recursive }) = (plan.is_peer(), plan.tree.get(), plan.kind) {
        let tree = clone_path(&plan.source, recursive).at(Step::BindSource, plan.label.as_bytes())?;
        // It is taken once.
        drop(plan.tree.set(tree));
    }
    Ok(())
}

/// A mount of what a path shows, that is nowhere yet.
pub(crate) fn clone_path(path: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags)
}

fn point<'a>(root: BorrowedFd<'_>, plan: &'a MountPlan, missing: Missing) -> Result<OwnedFd, Failure<'a>> {
    inside::resolve_or_make(root, &plan.destination, missing).at(Step::MountPoint, plan.label.as_bytes())
}

fn filesystem(target: BorrowedFd<'_>, plan: &MountPlan, data: &CStr) -> Result<(), Errno> {
    let path = FdPath::new(target);
    let flags = MountFlags::from_bits_retain(plan.flags as u32);
    if plan.flags & libc::MS_REMOUNT != 0 {
        return mount_remount(path.as_c_str(), flags, data);
    }
    mount(plan.source.as_c_str(), path.as_c_str(), plan.fstype.as_c_str(), flags, data)
}

fn bind<'a>(root: BorrowedFd<'_>, plan: &'a MountPlan, recursive: bool) -> Result<(), Failure<'a>> {
    let label = plan.label.as_bytes();
    let own: OwnedFd;
    let source = match plan.tree.get() {
        Some(tree) => tree.as_fd(),
        None => {
            own = clone_path(&plan.source, recursive).at(Step::BindSource, label)?;
            own.as_fd()
        }
    };
    let stat = rustix::fs::fstat(source).at(Step::BindSource, label)?;
    let directory = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
    let target = point(root, plan, if directory { Missing::Directory } else { Missing::File })?;
    // Slave or private first, so that what the container mounts below does not come back to the host.
    attach(source, target.as_fd()).at(Step::Mount, label)?;
    if plan.tree.get().is_some() && !plan.is_peer() {
        // Taken by the parent, it is the host's peer still.
        let flags = libc::MS_REC | libc::MS_SLAVE;
        change_propagation(FdPath::new(source).as_c_str(), flags).at(Step::MountPropagation, label)?;
    }
    if plan.attributes != MountAttributes::default() {
        set_attributes(source, false, plan.attributes, plan.flags).at(Step::MountAttributes, label)?;
    }
    Ok(())
}

/// An empty tmpfs without writes, over a directory.
pub(super) fn empty_read_only(target: BorrowedFd<'_>) -> Result<(), Errno> {
    mount(c"tmpfs", FdPath::new(target).as_c_str(), c"tmpfs", MountFlags::RDONLY, c"size=0,nr_inodes=1")
}

/// v2: the hierarchy (in a cgroup namespace its root is the container's group; without one the group is bound).
/// v1: a tmpfs with one directory per hierarchy.
fn cgroup(root: BorrowedFd<'_>, target: BorrowedFd<'_>, plan: &MountPlan, view: &CgroupView) -> Result<(), Errno> {
    let flags = MountFlags::from_bits_retain(plan.flags as u32);
    if let Some(directory) = &view.unified {
        return bind_directory(directory, target, plan);
    }
    mount(c"cgroup", FdPath::new(target).as_c_str(), c"tmpfs", flags - MountFlags::RDONLY, c"mode=755")?;
    for (name, _, directory) in &view.controllers {
        let path =
            CString::new([plan.destination.as_bytes(), b"/", name.as_bytes()].concat()).map_err(|_| Errno::INVAL)?;
        let place = inside::resolve_or_make(root, &path, Missing::Directory)?;
        bind_directory(directory, place.as_fd(), plan)?;
    }
    if flags.contains(MountFlags::RDONLY) {
        let top = inside::resolve(root, &plan.destination)?;
        mount_remount(FdPath::new(top.as_fd()).as_c_str(), flags | MountFlags::BIND, c"")?;
    }
    Ok(())
}

fn bind_directory(directory: &CStr, target: BorrowedFd<'_>, plan: &MountPlan) -> Result<(), Errno> {
    let fd =
        rustix::fs::open(directory, rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    let copy = clone_mount(fd.as_fd(), false)?;
    attach(copy.as_fd(), target)?;
    set_attributes(copy.as_fd(), false, plan.attributes, plan.flags)
}

//! The root filesystem: bound, filled with mounts and devices, pivoted into, sealed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_sys::{
    Errno,
    mount::{MountAttributes, mount_setattr},
};
use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_bind_recursive,
        mount_change, mount_remount, move_mount, open_tree, unmount,
    },
};

use super::{
    channel::ChildEnd,
    device,
    inside::{self, FdPath},
    mount,
    step::{At, Failure, Step},
};
use crate::plan::{InitPlan, RootPlan};

/// What the rest of the start needs of the root.
#[derive(Debug)]
pub(super) struct Entered {
    /// Both ends of the container's terminal.
    pub(super) console: Option<Console>,
}

/// A pseudo-terminal of the container's own devpts.
#[derive(Debug)]
pub(super) struct Console {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

/// Builds the root and moves into it.
pub(super) fn enter<'a>(plan: &'a InitPlan, end: &ChildEnd<'_>) -> Result<Entered, Failure<'a>> {
    let path = plan.root.path.as_c_str();
    // At first nothing of ours may reach the host; what the spec asks for is set once we are inside.
    let before = if plan.root.propagation & libc::MS_PRIVATE != 0 { libc::MS_PRIVATE } else { libc::MS_SLAVE };
    for entry in &plan.mounts {
        mount::take_peer(entry)?;
    }
    change_propagation(c"/", libc::MS_REC | before).at(Step::RootPropagation, b"")?;
    let root = place(&plan.root).at(Step::RootBind, path.to_bytes())?;
    for entry in &plan.mounts {
        mount::perform(root.as_fd(), entry, &plan.cgroups)?;
    }
    for entry in &plan.devices {
        device::make(root.as_fd(), entry)?;
    }
    if plan.device_links {
        device::links(root.as_fd())?;
    }
    let console = if plan.process.terminal { Some(open_console(root.as_fd()).at(Step::Terminal, b"")?) } else { None };
    if plan.runtime_hooks {
        end.hooks().at(Step::Handshake, b"")?;
    }
    for hook in &plan.create_hooks {
        crate::container::hook::run(hook, &plan.hook_state)
            .map_err(|error| error.errno())
            .at(Step::Hook, hook.path().as_os_str().as_encoded_bytes())?;
    }
    mask(root.as_fd(), plan)?;
    pivot(root.as_fd(), &plan.root)?;
    if plan.root.readonly {
        let here = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at(Step::ReadOnlyRoot, b"")?;
        set_attributes(here.as_fd(), false, READ_ONLY, libc::MS_RDONLY).at(Step::ReadOnlyRoot, b"")?;
    }
    if plan.root.propagation & libc::MS_SLAVE == 0 {
        change_propagation(c"/", plan.root.propagation).at(Step::RootPropagation, b"")?;
    }
    Ok(Entered { console })
}

/// Makes the root file system a mount of its own. Where the parent took it, its path may be closed to us: it goes over
/// the `/` that the pivot leaves behind, where nothing looks for it but by its descriptor.
fn place(plan: &RootPlan) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Some(tree) = &plan.tree else {
        mount_bind_recursive(plan.path.as_c_str(), plan.path.as_c_str())?;
        return rustix::fs::open(plan.path.as_c_str(), flags, Mode::empty());
    };
    attach(tree.as_fd(), rustix::fs::open(c"/", flags, Mode::empty())?.as_fd())?;
    change_propagation(FdPath::new(tree.as_fd()).as_c_str(), libc::MS_REC | libc::MS_SLAVE)?;
    rustix::fs::openat(tree, c".", flags, Mode::empty())
}

const READ_ONLY: MountAttributes = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, clear: 0, propagation: 0 };

pub(super) fn change_propagation(target: &std::ffi::CStr, flags: u64) -> Result<(), Errno> {
    mount_change(target, MountPropagationFlags::from_bits_retain(flags as u32))
}

/// mount_setattr, and before kernel 5.12 a remount, which knows no tree and takes all flags at once.
pub(super) fn set_attributes(
    mount: BorrowedFd<'_>,
    recursive: bool,
    attributes: MountAttributes,
    legacy: u64,
) -> Result<(), Errno> {
    match mount_setattr(mount, c"", recursive, attributes, None) {
        Err(Errno::NOSYS) if !recursive => {
            let flags = MountFlags::BIND | MountFlags::from_bits_retain(legacy as u32);
            mount_remount(FdPath::new(mount).as_c_str(), flags, c"")
        }
        other => other,
    }
}

/// Puts a detached mount over what `target` refers to.
pub(super) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags)
}

pub(super) fn clone_mount(fd: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(fd, c"", flags)
}

fn is_directory(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode).is_dir())
}

/// Hidden files show /dev/null; hidden directories one shared, empty, read-only tmpfs. Missing paths need no hiding.
fn mask<'a>(root: BorrowedFd<'_>, plan: &'a InitPlan) -> Result<(), Failure<'a>> {
    let mut empty: Option<OwnedFd> = None;
    let mut null: Option<OwnedFd> = None;
    for path in &plan.masked {
        let target = match inside::resolve(root, path) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            other => other.at(Step::Mask, path.as_bytes())?,
        };
        let directory = is_directory(target.as_fd()).at(Step::Mask, path.as_bytes())?;
        let cover = if directory { &mut empty } else { &mut null };
        match cover {
            Some(cover) => clone_mount(cover.as_fd(), false).and_then(|copy| attach(copy.as_fd(), target.as_fd())),
            None if directory => mount::empty_read_only(target.as_fd())
                .and_then(|()| inside::resolve(root, path))
                .map(|mounted| *cover = Some(mounted)),
            None => open_tree(CWD, c"/dev/null", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
                .and_then(|copy| attach(copy.as_fd(), target.as_fd()).map(|()| *cover = Some(copy))),
        }
        .at(Step::Mask, path.as_bytes())?;
    }
    for path in &plan.readonly {
        let target = match inside::resolve(root, path) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            other => other.at(Step::ReadOnlyPath, path.as_bytes())?,
        };
        clone_mount(target.as_fd(), true)
            .and_then(|copy| {
                match mount_setattr(copy.as_fd(), c"", true, READ_ONLY, None) {
                    Err(Errno::NOSYS) => {
                        attach(copy.as_fd(), target.as_fd())?;
                        return set_attributes(copy.as_fd(), false, READ_ONLY, libc::MS_RDONLY);
                    }
                    other => other?,
                }
                attach(copy.as_fd(), target.as_fd())
            })
            .at(Step::ReadOnlyPath, path.as_bytes())?;
    }
    Ok(())
}

fn pivot<'a>(root: BorrowedFd<'_>, plan: &'a RootPlan) -> Result<(), Failure<'a>> {
    let detail = plan.path.as_bytes();
    let step = || -> Result<(), Errno> {
        rustix::process::fchdir(root)?;
        if plan.no_pivot {
            rustix::mount::mount_move(plan.path.as_c_str(), c"/")?;
            rustix::process::chroot(c".")?;
        } else {
            // The old root lands on top of the new one and goes from there: no directory inside is needed.
            rustix::process::pivot_root(c".", c".")?;
            unmount(c".", UnmountFlags::DETACH)?;
        }
        rustix::process::chdir(c"/")
    };
    step().at(Step::PivotRoot, detail)
}

/// A pair of the container's devpts, its slave also as /dev/console.
fn open_console(root: BorrowedFd<'_>) -> Result<Console, Errno> {
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ptmx = inside::resolve(root, c"/dev/pts/ptmx")?;
    let master = rustix::fs::open(FdPath::new(ptmx.as_fd()).as_c_str(), flags, Mode::empty())?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    if let Ok(target) = inside::resolve_or_make(root, c"/dev/console", inside::Missing::File) {
        let path = FdPath::new(slave.as_fd());
        rustix::mount::mount_bind(path.as_c_str(), FdPath::new(target.as_fd()).as_c_str())?;
    }
    Ok(Console { master, slave })
}

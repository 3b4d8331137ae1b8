//! Device files and the links that programs expect in /dev.

use std::{
    ffi::CString,
    os::fd::{AsFd, BorrowedFd},
};

use agent_sys::Errno;
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, Uid},
    mount::mount_bind,
};

use super::{
    inside::{self, FdPath, Missing},
    step::{At, Failure, Step},
};
use crate::plan::DevicePlan;

/// Makes one device file; where that is denied (a user namespace), the host's is bound.
pub(super) fn make<'a>(root: BorrowedFd<'_>, plan: &'a DevicePlan) -> Result<(), Failure<'a>> {
    make_or_bind(root, plan).at(Step::Device, plan.path.as_bytes())
}

fn make_or_bind(root: BorrowedFd<'_>, plan: &DevicePlan) -> Result<(), Errno> {
    let (directory, name) = inside::split(&plan.path).ok_or(Errno::INVAL)?;
    let directory = CString::new(directory).map_err(|_| Errno::INVAL)?;
    let parent = inside::resolve_or_make(root, &directory, Missing::Directory)?;
    let kind = FileType::from_raw_mode(plan.kind);
    match rustix::fs::mknodat(&parent, name, kind, Mode::from(plan.mode), plan.number) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let same = FileType::from_raw_mode(stat.st_mode) == kind && stat.st_rdev == plan.number;
            return if same { Ok(()) } else { Err(Errno::EXIST) };
        }
        Err(Errno::PERM) => {
            let target = inside::resolve_or_make(root, &plan.path, Missing::File)?;
            return mount_bind(plan.path.as_c_str(), FdPath::new(target.as_fd()).as_c_str());
        }
        Err(error) => return Err(error),
    }
    // mknod obeys the umask; the mode of the spec is exact.
    rustix::fs::chmodat(&parent, name, Mode::from(plan.mode), AtFlags::empty())?;
    if plan.uid != 0 || plan.gid != 0 {
        let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
        rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// The links of the specification; what is there already stays.
pub(super) fn links<'a>(root: BorrowedFd<'_>) -> Result<(), Failure<'a>> {
    let dev = match inside::resolve(root, c"/dev") {
        Err(Errno::NOENT) => return Ok(()),
        other => other.at(Step::DeviceLink, b"/dev")?,
    };
    for (name, target) in [
        (c"fd", c"/proc/self/fd"),
        (c"stdin", c"/proc/self/fd/0"),
        (c"stdout", c"/proc/self/fd/1"),
        (c"stderr", c"/proc/self/fd/2"),
        (c"ptmx", c"pts/ptmx"),
    ] {
        match rustix::fs::symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Failure { step: Step::DeviceLink, errno, detail: name.to_bytes() }),
        }
    }
    Ok(())
}

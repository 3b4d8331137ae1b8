//! The namespaces of a pod with a user namespace of its own. They must belong to that one, while the monitor stays the
//! machine's root: so a child is born into all of them, furnishes them as the pod's root, and the monitor joins them.
//! The user namespace itself is pinned as a file, for containers to join and for mounts to be mapped by.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use agent_sys::{
    Errno,
    clone::{Child, CloneArgs, clone3},
    credential, namespace, process, signal,
};

use super::{
    protocol::{IdRange, MonitorConfig},
    setup::{MonitorError, file, furnish, kernel, reap_forever},
};
use crate::{
    container::{create::reap, error::chain, tree},
    plan::namespace::IdMaps,
};

/// The file below a monitor's state directory that is the pod's user namespace.
pub fn pin(state_dir: &Path) -> PathBuf {
    state_dir.join("users")
}

/// Makes and joins the pod's namespaces; gives the process that lives on as process 1 of a shared PID namespace.
pub(super) fn prepare(config: &MonitorConfig, users: IdRange, flags: u64) -> Result<Option<Child>, MonitorError> {
    let shared_pid = if config.share_pid { libc::CLONE_NEWPID as u64 } else { 0 };
    let (ours, theirs) = crate::init::channel::pair().map_err(kernel("make a channel"))?;
    let args = CloneArgs { namespaces: flags | shared_pid | libc::CLONE_NEWUSER as u64, ..CloneArgs::default() };
    // The parent's copy of the child's end goes with the closure.
    let child = clone3(&args, || live(config, theirs)).map_err(kernel("fork into the pod's namespaces"))?;
    let joined = join(config, users, flags, &child, ours.as_fd());
    if joined.is_ok() && config.share_pid {
        return Ok(Some(child));
    }
    let _ = signal::pidfd_kill(child.pidfd.as_fd(), libc::SIGKILL);
    reap(&child);
    joined.map(|()| None)
}

fn join(
    config: &MonitorConfig,
    users: IdRange,
    flags: u64,
    child: &Child,
    channel: BorrowedFd<'_>,
) -> Result<(), MonitorError> {
    let line = format!("0 {} {}\n", users.first, users.size);
    let maps = IdMaps { uid: line.clone(), gid: line };
    tree::write_maps(child, &maps).map_err(|error| MonitorError::Users(chain(&error)))?;
    rustix::net::send(channel, b"G", rustix::net::SendFlags::NOSIGNAL)
        .map_err(kernel("answer the pod's first process"))?;
    let mut answer = [0u8; 1024];
    let (length, _) = rustix::net::recv(channel, &mut answer, rustix::net::RecvFlags::empty())
        .map_err(kernel("hear from the pod's first process"))?;
    match &answer[..length] {
        b"." => {}
        b"" => return Err(kernel("hear from the pod's first process")(Errno::PIPE)),
        reason => return Err(MonitorError::Users(String::from_utf8_lossy(reason).into_owned())),
    }
    for (flag, name) in [(libc::CLONE_NEWNET, "net"), (libc::CLONE_NEWIPC, "ipc"), (libc::CLONE_NEWUTS, "uts")] {
        if flags & flag as u64 != 0 {
            let path = PathBuf::from(format!("/proc/{}/ns/{name}", child.pid));
            let opened = fs::File::open(&path).map_err(file("open", &path))?;
            namespace::setns(opened.as_fd(), flag as u64).map_err(kernel("join the pod's namespaces"))?;
        }
    }
    let pin = pin(&config.state_dir);
    fs::File::create(&pin).map_err(file("create", &pin))?;
    let user = format!("/proc/{}/ns/user", child.pid);
    rustix::mount::mount_bind(user.as_str(), &pin).map_err(kernel("pin the pod's user namespace"))
}

/// The child: the pod's root, until its work is done.
fn live(config: &MonitorConfig, channel: OwnedFd) -> i32 {
    let _ = process::die_with_parent(libc::SIGKILL);
    let mut word = [0u8; 1];
    if !matches!(rustix::net::recv(&channel, &mut word, rustix::net::RecvFlags::empty()), Ok((1, _))) {
        return 1;
    }
    let done = become_root().map_err(kernel("become the pod's root")).and_then(|()| furnish(config));
    let answer = done.as_ref().map_or_else(|error| chain(error), |()| ".".to_owned());
    let told = rustix::net::send(&channel, answer.as_bytes(), rustix::net::SendFlags::NOSIGNAL);
    if done.is_err() || told.is_err() {
        return 1;
    }
    if !config.share_pid {
        // Killed once the namespaces are joined.
        let _ = rustix::net::recv(&channel, &mut word, rustix::net::RecvFlags::empty());
        return 0;
    }
    drop(channel);
    reap_forever()
}

/// Containers that share the PID namespace see us, who still are the monitor's program with the machine's files: nobody
/// may trace us or look at them.
fn become_root() -> Result<(), Errno> {
    credential::set_groups(&[])?;
    credential::set_gid(0)?;
    credential::set_uid(0)?;
    process::set_dumpable(false)?;
    // Changing ids cleared it.
    process::die_with_parent(libc::SIGKILL)
}

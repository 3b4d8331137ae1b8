//! What the child does between clone and exec, in order. It works on an [`InitPlan`] and makes kernel calls; it
//! allocates only where a mount point is missing and has to be made, or hooks run. The caller of clone has one thread.

use std::{
    ffi::CStr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use agent_sys::{
    Errno,
    clone::{CloneArgs, clone3},
    namespace,
};

use crate::plan::{InitPlan, Streams, namespace::Joined};

pub mod channel;
mod device;
mod inside;
pub(crate) mod mount;
mod process;
mod root;
pub mod step;

pub use inside::resolve;
pub(crate) use process::{ExecPlan, run_exec};

use channel::ChildEnd;
use step::{At, Failure, Step};

/// How the child gets into its cgroups.
#[derive(Debug)]
pub enum Entrance {
    /// v1: `tasks` files, into which it writes itself. One thread that moves itself needs no global lock, so this
    /// costs microseconds where a parent writing `cgroup.procs` waits for an RCU grace period.
    Tasks(Vec<OwnedFd>),
    /// v2: the directory it is cloned into.
    Born(OwnedFd),
    /// No cgroup is wanted.
    None,
}

/// What waits between created and started.
#[derive(Debug)]
pub enum Gate {
    /// The parent says when, on the channel.
    Parent,
    /// A listening socket: whoever connects starts the program, and reads why that failed.
    Socket(OwnedFd),
}

/// All that the child gets.
#[derive(Debug)]
pub struct InitArgs {
    /// What to do.
    pub plan: InitPlan,
    /// The way into the cgroups.
    pub entrance: Entrance,
    /// The way to started.
    pub gate: Gate,
    /// Standard streams, unless the plan wants a terminal.
    pub streams: Streams,
}

/// Writes a file that exists.
pub(crate) fn write_file(path: &CStr, value: &[u8]) -> Result<(), Errno> {
    use rustix::fs::{Mode, OFlags};
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value).map(|_| ())
}

/// The body of the child; returns its exit code when the program could not be run.
///
/// A PID namespace belongs to the user namespace that it was made in, and only a new process enters it. So where a user
/// namespace is joined, the child that joined it makes the container's first process, as our parent's child, and ends.
pub(crate) fn run(args: InitArgs, channel: BorrowedFd<'_>) -> i32 {
    let end = ChildEnd(channel);
    if let Err(failure) = arrive(&args.plan, &args.entrance, &end) {
        end.fail(&failure);
        return 1;
    }
    let new_pid = args.plan.namespaces.new & libc::CLONE_NEWPID as u64;
    if args.plan.namespaces.joined_user().is_none() || new_pid == 0 {
        return go_on(args, channel);
    }
    let succession = CloneArgs { namespaces: new_pid, cgroup: None, sibling: true };
    let made = clone3(&succession, || match ChildEnd(channel).await_go() {
        Ok(()) => go_on(args, channel),
        // The parent is gone, and with it everybody who could be told.
        Err(_) => 1,
    });
    let told = made.and_then(|child| end.succeeded(child.pid, child.pidfd.as_fd()));
    if let Err(failure) = told.at(Step::Succeed, b"") {
        end.fail(&failure);
        return 1;
    }
    0
}

fn go_on(mut args: InitArgs, channel: BorrowedFd<'_>) -> i32 {
    let end = ChildEnd(channel);
    let gate = std::mem::replace(&mut args.gate, Gate::Parent);
    if let Err(failure) = prepare(&args, &end) {
        end.fail(&failure);
        return 1;
    }
    process::find_home(&mut args.plan.process);
    match end.created() {
        Err(_) => {} // the parent is gone, and with it everybody who could be told
        Ok(()) => match gate {
            Gate::Parent => {
                let failure = match end.await_go().at(Step::AwaitStart, b"") {
                    Err(failure) => failure,
                    Ok(()) => start(&args.plan),
                };
                end.fail(&failure);
            }
            Gate::Socket(listener) => {
                let connection = loop {
                    match rustix::net::accept_with(&listener, rustix::net::SocketFlags::CLOEXEC) {
                        Err(Errno::INTR) => {}
                        other => break other,
                    }
                };
                if let Ok(connection) = connection {
                    drop(listener);
                    let failure = start(&args.plan);
                    ChildEnd(connection.as_fd()).fail(&failure);
                }
            }
        },
    }
    1
}

fn start(plan: &InitPlan) -> Failure<'_> {
    for hook in &plan.start_hooks {
        if let Err(errno) = crate::container::hook::run(hook, &plan.hook_state).map_err(|e| e.errno()) {
            return Failure { step: Step::Hook, errno, detail: hook.path().as_os_str().as_encoded_bytes() };
        }
    }
    process::exec(&plan.process)
}

/// Into cgroups and namespaces.
fn arrive<'a>(plan: &'a InitPlan, entrance: &Entrance, end: &ChildEnd<'_>) -> Result<(), Failure<'a>> {
    agent_sys::signal::reset_all();
    // While we are still the runtime's program, a process of the container must not open us through /proc.
    let _ = agent_sys::process::set_dumpable(false);
    // With a new user namespace we are nobody on the machine by now: the parent does it.
    if plan.namespaces.new & libc::CLONE_NEWUSER as u64 == 0 {
        process::oom_score(&plan.process)?;
    }
    if plan.namespaces.joined_user().is_some() {
        // What is the host root's comes first.
        enter_cgroups(entrance).at(Step::EnterCgroup, b"")?;
        return enter_namespaces(plan, end);
    }
    enter_namespaces(plan, end)?;
    enter_cgroups(entrance).at(Step::EnterCgroup, b"")
}

fn prepare<'a>(args: &'a InitArgs, end: &ChildEnd<'_>) -> Result<(), Failure<'a>> {
    let InitArgs { plan, streams, .. } = args;
    if plan.namespaces.new & libc::CLONE_NEWCGROUP as u64 != 0 {
        namespace::unshare(libc::CLONE_NEWCGROUP as u64).at(Step::NewNamespace, b"cgroup")?;
    }
    rustix::process::setsid().map(drop).at(Step::NewSession, b"")?;
    if let Some(name) = &plan.hostname
        && plan.namespaces.has(libc::CLONE_NEWUTS as u64)
    {
        rustix::system::sethostname(name).at(Step::HostName, name)?;
    }
    if let Some(name) = &plan.domainname
        && plan.namespaces.has(libc::CLONE_NEWUTS as u64)
    {
        rustix::system::setdomainname(name).at(Step::DomainName, name)?;
    }
    if plan.namespaces.new & libc::CLONE_NEWNET as u64 != 0 {
        agent_sys::link::loopback_up().at(Step::Loopback, b"")?;
    }
    for sysctl in &plan.sysctls {
        write_file(&sysctl.path, &sysctl.value).at(Step::Sysctl, sysctl.path.as_bytes())?;
    }
    process::labels(&plan.process)?;
    let root = root::enter(plan, end)?;
    process::after_pivot(&plan.process, streams, root.console, end)
}

fn enter_namespaces<'a>(plan: &'a InitPlan, end: &ChildEnd<'_>) -> Result<(), Failure<'a>> {
    for Joined { flag, file, path } in &plan.namespaces.join {
        namespace::setns(file.as_fd(), *flag).at(Step::JoinNamespace, path.as_os_str().as_encoded_bytes())?;
    }
    let new_user = plan.namespaces.new & libc::CLONE_NEWUSER as u64 != 0;
    let joined_user = plan.namespaces.joined_user().is_some();
    if joined_user {
        // The others were not made by clone: they belong to the joined user namespace only when made after it.
        namespace::unshare(plan.namespaces.new & !libc::CLONE_NEWPID as u64 & !libc::CLONE_NEWCGROUP as u64)
            .at(Step::NewNamespace, b"")?;
    }
    if new_user {
        end.maps().at(Step::Handshake, b"")?;
    }
    if new_user || joined_user {
        agent_sys::credential::set_gid(0).at(Step::IdMap, b"")?;
        agent_sys::credential::set_uid(0).at(Step::IdMap, b"")?;
        // Changing ids sets this anew.
        let _ = agent_sys::process::set_dumpable(false);
    }
    Ok(())
}

/// Moves the calling process, which has one thread, into its cgroups.
pub(crate) fn enter_cgroups(entrance: &Entrance) -> Result<(), Errno> {
    match entrance {
        Entrance::Tasks(files) => {
            for file in files {
                rustix::io::write(file, b"0")?;
            }
        }
        Entrance::Born(_) | Entrance::None => {}
    }
    Ok(())
}

//! From the runtime's identity to the program's: limits, terminal, ids, capabilities, seccomp, exec; and the shorter
//! way of a process that joins a running container.

use std::{
    ffi::CString,
    os::fd::{AsFd, BorrowedFd},
};

use agent_sys::{
    Errno,
    credential::{self, CapabilitySets},
    fd, namespace,
};
use rustix::fs::{Access, AtFlags, CWD, Mode};

use super::{
    Entrance,
    channel::ChildEnd,
    enter_cgroups,
    root::Console,
    step::{At, Failure, Step},
    write_file,
};
use crate::plan::{ProcessPlan, Streams};

/// A passwd file is not read beyond this.
const PASSWD_MAX: u64 = 4 << 20;

/// How soon the kernel picks us: set as the host's root, since the file is not a user namespace's.
pub(super) fn oom_score(plan: &ProcessPlan) -> Result<(), Failure<'_>> {
    match &plan.oom_score_adj {
        Some(score) => write_file(c"/proc/self/oom_score_adj", score).at(Step::OomScore, b"/proc/self/oom_score_adj"),
        None => Ok(()),
    }
}

/// What needs the host's /proc.
pub(super) fn labels(plan: &ProcessPlan) -> Result<(), Failure<'_>> {
    for label in &plan.labels {
        write_file(label.path, &label.value).at(Step::SecurityLabel, &label.value)?;
    }
    Ok(())
}

/// Everything after the root is in place, up to the program's path.
pub(super) fn after_pivot<'a>(
    plan: &'a ProcessPlan,
    streams: &'a Streams,
    console: Option<Console>,
    end: &ChildEnd<'_>,
) -> Result<(), Failure<'a>> {
    for (number, soft, hard, name) in &plan.limits {
        agent_sys::process::set_limit(*number, *soft, *hard).at(Step::ResourceLimit, name.as_bytes())?;
    }
    match console {
        Some(console) => terminal(plan, &console, end).at(Step::Terminal, b"")?,
        None => {
            for (number, stream) in streams.descriptors.iter().enumerate() {
                if let Some(stream) = stream {
                    fd::dup_onto(stream.as_fd(), number as i32).at(Step::Streams, b"")?;
                }
            }
        }
    }
    own_streams(plan);
    fd::cloexec_from(3 + plan.preserve_fds).at(Step::CloseDescriptors, b"")?;
    if let Some(persona) = plan.confinement.personality {
        agent_sys::process::set_personality(persona).at(Step::Personality, b"")?;
    }
    if let Some((class, priority)) = plan.io_priority {
        agent_sys::process::set_io_priority(class, priority).at(Step::IoPriority, b"")?;
    }
    rustix::process::umask(Mode::from(plan.umask));
    identity(plan)?;
    if plan.die_with_parent {
        // After the ids: changing them clears it. A parent that died before is seen by the closed channel.
        agent_sys::process::die_with_parent(libc::SIGKILL).at(Step::DieWithParent, b"")?;
    }
    find(plan).map(drop)
}

fn identity(plan: &ProcessPlan) -> Result<(), Failure<'_>> {
    if plan.no_new_privileges {
        agent_sys::process::set_no_new_privileges().at(Step::NoNewPrivileges, b"")?;
    } else {
        // Without no_new_privs a filter needs CAP_SYS_ADMIN, which is about to go.
        seccomp(plan)?;
    }
    if let Some(capabilities) = &plan.capabilities {
        credential::limit_bounding(capabilities.bounding).at(Step::BoundingSet, b"")?;
    }
    // The directory may be open to root only, or (a network filesystem) to the user only.
    let entered = rustix::process::chdir(plan.cwd.as_c_str());
    credential::keep_capabilities(true).at(Step::UserId, b"")?;
    match credential::set_groups(&plan.groups) {
        // A user namespace without the right to set groups; none were asked for.
        Err(Errno::PERM) if plan.groups.is_empty() => {}
        other => other.at(Step::Groups, b"")?,
    }
    credential::set_gid(plan.gid).at(Step::GroupId, b"")?;
    credential::set_uid(plan.uid).at(Step::UserId, b"")?;
    if let Some(capabilities) = &plan.capabilities {
        credential::set_capabilities(capabilities.sets).at(Step::Capabilities, b"")?;
        credential::set_ambient(capabilities.ambient).at(Step::AmbientSet, b"")?;
    } else {
        // A spec without capabilities means none, for root as well.
        credential::set_ambient(0).at(Step::AmbientSet, b"")?;
        credential::set_capabilities(CapabilitySets::default()).at(Step::Capabilities, b"")?;
    }
    credential::keep_capabilities(false).at(Step::UserId, b"")?;
    if entered.is_err() {
        rustix::process::chdir(plan.cwd.as_c_str()).at(Step::WorkingDirectory, plan.cwd.as_bytes())?;
    }
    if plan.no_new_privileges {
        seccomp(plan)?;
    }
    Ok(())
}

fn seccomp(plan: &ProcessPlan) -> Result<(), Failure<'_>> {
    if !plan.confinement.seccomp.is_empty() {
        agent_sys::seccomp::load_filter(&plan.confinement.seccomp, plan.confinement.seccomp_flags)
            .map(drop)
            .at(Step::Seccomp, b"")?;
    }
    Ok(())
}

fn terminal(plan: &ProcessPlan, console: &Console, end: &ChildEnd<'_>) -> Result<(), Errno> {
    if let Some((rows, columns)) = plan.console_size {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&console.slave, size)?;
    }
    end.terminal(console.master.as_fd())?;
    for number in 0..3 {
        fd::dup_onto(console.slave.as_fd(), number)?;
    }
    rustix::process::ioctl_tiocsctty(&console.slave)
}

/// Standard streams belong to the user of the program, so that it can open /dev/stdout again; as runc does, files of
/// others (regular files, /dev/null) stay theirs.
fn own_streams(plan: &ProcessPlan) {
    for number in 0..3 {
        let Some(stream) = fd::borrow_inherited(number) else { continue };
        let Ok(stat) = rustix::fs::fstat(stream) else { continue };
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        let null = kind.is_char_device() && stat.st_rdev == libc::makedev(1, 3);
        if !null && stat.st_uid != plan.uid && !kind.is_file() {
            // Best effort, as in runc: a stream of a read-only or foreign filesystem cannot be given away.
            let _ = rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(plan.uid)), None);
        }
    }
}

/// The first candidate that exists and may be executed.
fn find(plan: &ProcessPlan) -> Result<&CString, Failure<'_>> {
    let mut reason = Errno::NOENT;
    for path in &plan.candidates {
        match rustix::fs::accessat(CWD, path.as_c_str(), Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => match rustix::fs::stat(path.as_c_str()) {
                Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => reason = Errno::ACCESS,
                Ok(_) => return Ok(path),
                Err(errno) => reason = errno,
            },
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            // The profile hides the call that asks; exec will tell.
            Err(Errno::NOSYS) => return Ok(path),
            Err(errno) => reason = errno,
        }
    }
    Err(Failure { step: Step::FindProgram, errno: reason, detail: &plan.name })
}

/// Runs the program; returns only when that failed.
pub(super) fn exec(plan: &ProcessPlan) -> Failure<'_> {
    let path = match find(plan) {
        Ok(path) => path,
        Err(failure) => return failure,
    };
    let errno = agent_sys::exec::execve(path, &plan.args, &plan.env);
    Failure { step: Step::Exec, errno, detail: path.as_bytes() }
}

/// Fills in the HOME that the environment lacks, once the container's files are ours.
pub(super) fn find_home(plan: &mut ProcessPlan) {
    if let Some(index) = plan.home_wanted
        && let Some(home) = home_of(plan.uid)
    {
        plan.env.replace(index, home);
    }
}

/// `HOME=` of a user in the container's passwd.
fn home_of(uid: u32) -> Option<CString> {
    use std::io::{BufRead as _, BufReader, Read as _};
    let file = std::fs::File::open("/etc/passwd").ok()?;
    for line in BufReader::new(file.take(PASSWD_MAX)).split(b'\n') {
        let line = line.ok()?;
        let mut fields = line.split(|b| *b == b':');
        let id = fields.nth(2).and_then(|id| std::str::from_utf8(id).ok()).and_then(|id| id.parse::<u32>().ok());
        if id == Some(uid) {
            let home = fields.nth(2).filter(|home| !home.is_empty())?;
            return CString::new([b"HOME=", home].concat()).ok();
        }
    }
    None
}

/// A process that joins a running container.
#[derive(Debug)]
pub(crate) struct ExecPlan<'a> {
    pub(crate) process: ProcessPlan,
    /// The container's first process, and which of its namespaces to join (PID apart).
    pub(crate) target: BorrowedFd<'a>,
    pub(crate) namespaces: u64,
    pub(crate) entrance: &'a Entrance,
    pub(crate) streams: Streams,
}

/// The body of an exec's child.
pub(crate) fn run_exec(mut plan: ExecPlan<'_>, channel: BorrowedFd<'_>) -> i32 {
    let end = ChildEnd(channel);
    if let Err(failure) = join(&plan, &end) {
        end.fail(&failure);
        return 1;
    }
    find_home(&mut plan.process);
    end.fail(&exec(&plan.process));
    1
}

fn join<'a>(plan: &'a ExecPlan<'_>, end: &ChildEnd<'_>) -> Result<(), Failure<'a>> {
    let ExecPlan { process, target, namespaces, entrance, streams } = plan;
    agent_sys::signal::reset_all();
    let _ = agent_sys::process::set_dumpable(false);
    enter_cgroups(entrance).at(Step::EnterCgroup, b"")?;
    rustix::process::setsid().map(drop).at(Step::NewSession, b"")?;
    oom_score(process)?;
    labels(process)?;
    namespace::setns(target.as_fd(), *namespaces).at(Step::JoinNamespace, b"of the container")?;
    if *namespaces & libc::CLONE_NEWUSER as u64 != 0 {
        credential::set_gid(0).at(Step::IdMap, b"")?;
        credential::set_uid(0).at(Step::IdMap, b"")?;
        // Changing ids sets this anew.
        let _ = agent_sys::process::set_dumpable(false);
    }
    rustix::process::chdir(c"/").at(Step::WorkingDirectory, b"/")?;
    let console = if process.terminal { Some(open_pty().at(Step::Terminal, b"")?) } else { None };
    after_pivot(process, streams, console, end)
}

fn open_pty() -> Result<Console, Errno> {
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let master = rustix::fs::open(c"/dev/pts/ptmx", flags, Mode::empty())?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Ok(Console { master, slave })
}

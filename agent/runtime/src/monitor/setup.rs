//! From a configuration file to a monitor that listens.

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    path::{Path, PathBuf},
};

use agent_sys::{
    Errno,
    clone::{Child, CloneArgs, clone3},
    fd, namespace, process, signal,
};

use super::{
    other::Other,
    protocol::{MonitorConfig, VERSION},
    users,
};
use crate::{
    cgroup::CgroupError,
    container::{Container, clock, error::chain},
    spec::SpecError,
};

/// Why a monitor does not run, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The configuration.
    #[error("load the configuration")]
    Config(#[source] SpecError),
    /// Our own program.
    #[error("protect the program")]
    Seal(#[source] crate::seal::SealError),
    /// Of another time.
    #[error("configuration version {0}: expected {VERSION}")]
    Version(u32),
    /// The monitor's own cgroup.
    #[error("enter the monitor's cgroup")]
    Cgroup(#[source] CgroupError),
    /// A kernel call.
    #[error("{what}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: Errno,
    },
    /// A setting that is not the pod's own.
    #[error("set sysctl {key:?}: {reason}")]
    Sysctl {
        /// Its name.
        key: String,
        /// What was expected.
        reason: &'static str,
    },
    /// The namespaces that belong to the pod's user namespace.
    #[error("furnish the pod's user namespace: {0}")]
    Users(String),
    /// A file.
    #[error("{what} {path}", path = path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With which.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

pub(super) fn kernel(what: &'static str) -> impl FnOnce(Errno) -> MonitorError {
    move |source| MonitorError::Kernel { what, source }
}

pub(super) fn file(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> MonitorError {
    let path = path.to_owned();
    move |source| MonitorError::File { what, path, source }
}

/// A monitor that listens.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) config: MonitorConfig,
    pub(super) listener: UnixListener,
    /// SIGCHLD and SIGTERM.
    pub(super) signals: OwnedFd,
    /// Process 1 of the shared PID namespace.
    pub(super) reaper: Option<Child>,
}

pub(super) fn prepare(path: &Path) -> Result<Prepared, MonitorError> {
    let config: MonitorConfig = crate::spec::read_json(path).map_err(MonitorError::Config)?;
    if config.version != VERSION {
        return Err(MonitorError::Version(config.version));
    }
    // Out of the agent's session and group: signals for its terminal are not for us. Already a leader is fine.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/").map_err(file("enter", Path::new("/")))?;
    // Its program has no name of its own for ps to show.
    let _ = rustix::thread::set_name(c"gantry-monitor");
    signal::ignore(libc::SIGPIPE);
    signal::ignore(libc::SIGHUP);
    signal::ignore(libc::SIGINT);
    if let Some(cgroup) = &config.cgroup {
        crate::cgroup::enter(cgroup).map_err(MonitorError::Cgroup)?;
    }
    process::adopt_orphans().map_err(kernel("become the reaper of orphans"))?;
    let flags = [
        (config.new_net, libc::CLONE_NEWNET),
        (config.new_ipc, libc::CLONE_NEWIPC),
        (config.new_uts, libc::CLONE_NEWUTS),
    ];
    let flags = flags.iter().filter(|(wanted, _)| *wanted).fold(0, |flags, (_, flag)| flags | *flag as u64);
    let reaper = match config.users {
        Some(range) => users::prepare(&config, range, flags)?,
        None => {
            if flags != 0 {
                namespace::unshare(flags).map_err(kernel("make the pod's namespaces"))?;
            }
            furnish(&config)?;
            if config.share_pid { Some(fork_reaper()?) } else { None }
        }
    };
    let signals = signal::signal_fd(&[libc::SIGCHLD, libc::SIGTERM]).map_err(kernel("watch signals"))?;
    let containers = config.state_dir.join("containers");
    std::fs::create_dir_all(&containers).map_err(file("create", &containers))?;
    // A monitor that died took its containers with it, but not what the kernel keeps of them.
    for container in Container::list(&config.state_dir.join("oci")) {
        let id = container.state.id.clone();
        if let Err(error) = container.delete(true) {
            eprintln!("{} remove container {id} of a dead monitor: {}", clock(), chain(&error));
        }
    }
    let other = config.runtime.as_ref().map(|runtime| Other::new(runtime, &config.state_dir));
    for error in other.iter().flat_map(Other::sweep) {
        eprintln!("{} remove a container of a dead monitor: {}", clock(), chain(&error));
    }
    let _ = std::fs::remove_file(&config.socket);
    let before = rustix::process::umask(rustix::fs::Mode::from(0o177));
    let listener = UnixListener::bind(&config.socket).map_err(file("listen on", &config.socket));
    rustix::process::umask(before);
    let listener = listener?;
    std::fs::set_permissions(&config.socket, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| listener.set_nonblocking(true))
        .map_err(file("listen on", &config.socket))?;
    // Whoever started us waits for this byte.
    let _ = rustix::io::write(rustix::stdio::stdout(), b"1");
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(file("open", Path::new("/dev/null")))?;
    fd::dup_onto(null.as_fd(), 1).map_err(kernel("let go of standard output"))?;
    Ok(Prepared { config, listener, signals, reaper })
}

/// Fills the pod's new namespaces, as the root of the user namespace that they belong to: it alone may write to all of them.
pub(super) fn furnish(config: &MonitorConfig) -> Result<(), MonitorError> {
    if config.new_net {
        agent_sys::link::loopback_up().map_err(kernel("bring up the loopback link"))?;
    }
    if let (Some(name), true) = (&config.hostname, config.new_uts) {
        rustix::system::sethostname(name.as_bytes()).map_err(kernel("set the host name"))?;
    }
    for (key, value) in &config.sysctls {
        let path = super::sysctl::file_of(key, config.new_net, config.new_ipc)
            .map_err(|reason| MonitorError::Sysctl { key: key.clone(), reason })?;
        std::fs::write(&path, value).map_err(file("set sysctl", &path))?;
    }
    Ok(())
}

/// The first process of a PID namespace that containers share: it reaps what they leave, and dies with us.
fn fork_reaper() -> Result<Child, MonitorError> {
    let args = CloneArgs { namespaces: libc::CLONE_NEWPID as u64, ..CloneArgs::default() };
    clone3(&args, || {
        let _ = process::die_with_parent(libc::SIGKILL);
        reap_forever()
    })
    .map_err(kernel("fork the pod's process 1"))
}

/// What process 1 does.
pub(super) fn reap_forever() -> i32 {
    // Blocked, so that it waits for us to ask.
    if signal::signal_fd(&[libc::SIGCHLD]).is_err() {
        return 1;
    }
    loop {
        while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
        if signal::wait_for(&[libc::SIGCHLD]).is_err_and(|error| error != Errno::INTR) {
            return 1;
        }
    }
}

//! A further process in a running container.

use std::os::fd::{AsFd, OwnedFd};

use agent_sys::clone::{Child, CloneArgs, clone3};
use oci_spec::runtime as oci;

use super::{
    Container, ContainerError, Status,
    create::{give, in_pid_namespace, reap},
};
use crate::{
    init::{self, Entrance, ExecPlan, channel, channel::FromChild},
    plan::{self, Streams, process::Confinement},
};

/// Joined always: those the container inherited (a pod's) are not ours either. Joining one we are in changes nothing,
/// but for the user namespace, where the kernel refuses it; and PID is joined before the child exists.
const JOINED: u64 =
    (libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP) as u64;

/// How a process joins.
#[derive(Debug)]
pub struct ExecOptions<'a> {
    /// What runs.
    pub process: &'a oci::Process,
    /// Standard streams; unused with a terminal.
    pub streams: Streams,
    /// Ends with the calling process.
    pub die_with_parent: bool,
    /// Descriptors from 3 on that the program inherits.
    pub preserve_fds: u32,
    /// What id 0 of the container's user namespace is outside.
    pub first_id: u32,
}

/// A process that joined.
#[derive(Debug)]
pub struct Joined {
    /// The process.
    pub child: Child,
    /// The master side of its terminal.
    pub terminal: Option<OwnedFd>,
}

/// The way into one container: what all processes that join it have in common, found once.
#[derive(Debug)]
pub struct Doorway {
    target: OwnedFd,
    namespaces: u64,
    pid_namespace: OwnedFd,
    entrance: Entrance,
    confinement: Confinement,
}

impl Doorway {
    /// Of a container that runs, for as long as its first process does.
    pub fn of(container: &Container) -> Result<Doorway, ContainerError> {
        let status = container.status();
        if status != Status::Running && status != Status::Created {
            return Err(ContainerError::Status { verb: "exec in", id: container.state.id.clone(), status });
        }
        let spec = crate::spec::load(&container.state.bundle)?;
        let empty;
        let linux = match spec.linux() {
            Some(linux) => linux,
            None => {
                empty = oci::LinuxBuilder::default().build().unwrap_or_default();
                &empty
            }
        };
        let path = format!("/proc/{}/ns/pid", container.state.pid.unwrap_or(0));
        Ok(Doorway {
            target: container.pidfd()?,
            namespaces: JOINED | container.state.namespaces & libc::CLONE_NEWUSER as u64,
            pid_namespace: std::fs::File::open(&path).map_err(ContainerError::file("open", path))?.into(),
            entrance: container.cgroup()?.create()?,
            confinement: Confinement::of(linux)?,
        })
    }
}

/// Runs a process in a container; returns once the program runs.
///
/// # Assumptions
///
/// The calling process has one thread.
pub fn exec(doorway: &Doorway, options: ExecOptions<'_>) -> Result<Joined, ContainerError> {
    let mut process = plan::process::plan(options.process, doorway.confinement.clone(), options.die_with_parent)?;
    process.preserve_fds = options.preserve_fds;
    give(&options.streams, options.first_id, process.uid);
    let (ours, theirs) = channel::pair().map_err(ContainerError::kernel("make the handshake channel"))?;
    let pid_namespace =
        doorway.pid_namespace.try_clone().map_err(ContainerError::file("duplicate", "the PID namespace"))?;
    let plan = ExecPlan {
        process,
        target: doorway.target.as_fd(),
        namespaces: doorway.namespaces,
        entrance: &doorway.entrance,
        streams: options.streams,
    };
    let child = in_pid_namespace(Some(pid_namespace), || {
        let cgroup = match &doorway.entrance {
            Entrance::Born(fd) => Some(fd.as_fd()),
            Entrance::Tasks(_) | Entrance::None => None,
        };
        let args = CloneArgs { namespaces: 0, cgroup, sibling: false };
        clone3(&args, || init::run_exec(plan, theirs.as_fd())).map_err(ContainerError::kernel("clone the process"))
    })?;
    drop(theirs);
    let mut terminal = None;
    loop {
        let failure = match channel::receive(ours.as_fd()) {
            Ok(FromChild::Terminal(fd)) => {
                terminal = Some(fd);
                continue;
            }
            Ok(FromChild::Closed) => return Ok(Joined { child, terminal }),
            Ok(FromChild::Failed(error)) => ContainerError::Init(error),
            Ok(FromChild::Succeeded { .. } | FromChild::MapsWanted | FromChild::HooksWanted | FromChild::Created) => {
                ContainerError::Kernel { what: "hear from the process", source: agent_sys::Errno::PROTO }
            }
            Err(source) => ContainerError::Kernel { what: "hear from the process", source },
        };
        let _ = agent_sys::signal::pidfd_kill(child.pidfd.as_fd(), libc::SIGKILL);
        reap(&child);
        return Err(failure);
    }
}

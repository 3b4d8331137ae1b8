//! Making a container: state directory, cgroup, child, handshake.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::Path,
};

use agent_sys::clone::{Child, CloneArgs, clone3};
use oci_spec::runtime as oci;

use super::{
    ContainerError, Status, hook,
    lifecycle::clock,
    state::{self, State},
    tree,
};
use crate::{
    cgroup::{self, Cgroup},
    init::{self, Entrance, Gate, InitArgs, channel, channel::FromChild},
    plan::{self, InitOptions, Streams, namespace::IdMaps},
};

/// Name of the socket that starts a created container.
pub(super) const START_SOCKET: &str = "start.sock";

/// Who starts the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateKind {
    /// The process that made the container, by [`Created::start`].
    Parent,
    /// Another process, by the start socket.
    Socket,
}

/// How a container is made.
#[derive(Debug)]
pub struct CreateOptions<'a> {
    /// State root.
    pub root: &'a Path,
    /// Name.
    pub id: &'a str,
    /// Bundle directory.
    pub bundle: &'a Path,
    /// Who starts it.
    pub gate: GateKind,
    /// Move the root instead of pivoting.
    pub no_pivot: bool,
    /// The container ends with the calling process.
    pub die_with_parent: bool,
    /// Standard streams; unused with a terminal.
    pub streams: Streams,
    /// Whether somebody takes the terminal the spec may ask for.
    pub takes_terminal: bool,
    /// Descriptors from 3 on that the program inherits.
    pub preserve_fds: u32,
    /// A PID namespace to join where the spec asks for none of its own (a pod that shares one).
    pub pid_namespace: Option<OwnedFd>,
    /// What id 0 of the user namespace that the spec joins is outside: streams are given to the program's user, who could
    /// not open them again otherwise.
    pub first_id: u32,
}

/// A container that waits for its start.
#[derive(Debug)]
pub struct Created {
    /// Its first process.
    pub child: Child,
    /// The handshake's channel.
    channel: OwnedFd,
    /// The master side of its terminal.
    pub terminal: Option<OwnedFd>,
    /// Its cgroup.
    pub cgroup: Box<dyn Cgroup>,
    /// What was recorded.
    pub state: State,
}

impl Created {
    /// Starts the program and waits until it runs or could not be run.
    pub fn start(&self) -> Result<(), ContainerError> {
        channel::go(self.channel.as_fd()).map_err(ContainerError::kernel("tell the container to start"))?;
        outcome(&self.channel)
    }
}

/// Reads the last word of a starting process: none means that the program runs.
pub(super) fn outcome(socket: &OwnedFd) -> Result<(), ContainerError> {
    match channel::receive(socket.as_fd()).map_err(ContainerError::kernel("hear from the container"))? {
        FromChild::Closed => Ok(()),
        FromChild::Failed(error) => Err(ContainerError::Init(error)),
        FromChild::Succeeded { .. }
        | FromChild::MapsWanted
        | FromChild::HooksWanted
        | FromChild::Terminal(_)
        | FromChild::Created => {
            Err(ContainerError::Kernel { what: "hear from the container", source: agent_sys::Errno::PROTO })
        }
    }
}

/// Makes a container. On failure nothing of it is left.
///
/// # Assumptions
///
/// The calling process has one thread.
pub fn create(options: CreateOptions<'_>) -> Result<Created, ContainerError> {
    state::check_id(options.id)?;
    let bundle = options.bundle.canonicalize().map_err(ContainerError::file("open bundle", options.bundle))?;
    let spec = crate::spec::load(&bundle)?;
    let linux = spec.linux().as_ref();
    if spec.process().as_ref().and_then(oci::Process::terminal) == Some(true) && !options.takes_terminal {
        return Err(ContainerError::ConsoleWanted);
    }
    let directory = options.root.join(options.id);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(options.root)
        .map_err(ContainerError::file("create", options.root))?;
    match fs::DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(ContainerError::Exists(options.id.to_owned()));
        }
        other => other.map_err(ContainerError::file("create", &directory))?,
    }
    let cgroup_path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let (group, cgroup_path) = match cgroup::of(cgroup_path, options.id) {
        Ok(found) => found,
        Err(error) => {
            let _ = fs::remove_dir_all(&directory);
            return Err(error.into());
        }
    };
    let fresh = group.pids().is_ok_and(|pids| pids.is_empty());
    let mut state = State {
        version: state::VERSION,
        id: options.id.to_owned(),
        pid: None,
        pid_start: 0,
        rootfs: spec.root().as_ref().map(|root| bundle.join(root.path())).unwrap_or_default(),
        bundle,
        cgroup: cgroup_path,
        namespaces: 0,
        created: clock(),
        annotations: spec.annotations().clone().unwrap_or_default(),
        hooks: spec.hooks().clone(),
    };
    let result = bring_up(options, &spec, &directory, group.as_ref(), &mut state);
    match result {
        Ok((child, channel, terminal)) => Ok(Created { child, channel, terminal, cgroup: group, state }),
        Err(error) => {
            if fresh {
                // Best effort: the error that brought us here is the one to tell.
                let _ = group.signal(libc::SIGKILL);
                let _ = group.delete();
            }
            let _ = fs::remove_dir_all(&directory);
            Err(error)
        }
    }
}

type Up = (Child, OwnedFd, Option<OwnedFd>);

fn bring_up(
    options: CreateOptions<'_>,
    spec: &oci::Spec,
    directory: &Path,
    group: &dyn Cgroup,
    state: &mut State,
) -> Result<Up, ContainerError> {
    let hook_state = hook_state(state, Status::Creating, None);
    let plan_options = InitOptions {
        bundle: &state.bundle,
        no_pivot: options.no_pivot,
        hook_state,
        cgroups: group.view(),
        die_with_parent: options.die_with_parent,
    };
    let mut plan = plan::init_plan(spec, plan_options)?;
    plan.process.preserve_fds = options.preserve_fds;
    tree::take(&mut plan)?;
    give(&options.streams, options.first_id, plan.process.uid);
    let entrance = group.create()?;
    if let Some(resources) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) {
        group.apply(resources)?;
    }
    let gate = match options.gate {
        GateKind::Parent => Gate::Parent,
        GateKind::Socket => Gate::Socket(listen(directory)?),
    };
    let (ours, theirs) = channel::pair().map_err(ContainerError::kernel("make the handshake channel"))?;
    state.namespaces = plan.namespaces.all();
    let own_users = OwnUsers { maps: plan.namespaces.maps.take(), oom_score: plan.process.oom_score_adj.clone() };
    // A new cgroup namespace is made by the child once it is in its cgroup, so that this becomes its root. All that are to
    // belong to a user namespace that is joined are made once it is.
    let later = libc::CLONE_NEWCGROUP as u64;
    let flags = if plan.namespaces.joined_user().is_some() { 0 } else { plan.namespaces.new & !later };
    let join_pid = plan.namespaces.join_pid.as_ref().map(|joined| joined.file.as_fd());
    let join_pid = join_pid.or(options
        .pid_namespace
        .as_ref()
        .filter(|_| !plan.namespaces.has(libc::CLONE_NEWPID as u64))
        .map(|fd| fd.as_fd()));
    let joined = join_pid.map(|fd| fd.try_clone_to_owned()).transpose();
    let joined = joined.map_err(ContainerError::file("duplicate", "the PID namespace"))?;
    let args = InitArgs { plan, entrance, gate, streams: options.streams };
    let mut child = in_pid_namespace(joined, || {
        let cgroup = match &args.entrance {
            Entrance::Born(fd) => Some(fd.try_clone().map_err(ContainerError::file("duplicate", "the cgroup"))?),
            Entrance::Tasks(_) | Entrance::None => None,
        };
        let clone_args = CloneArgs { namespaces: flags, cgroup: cgroup.as_ref().map(|fd| fd.as_fd()), sibling: false };
        clone3(&clone_args, || init::run(args, theirs.as_fd()))
            .map_err(ContainerError::kernel("clone the container process"))
    })?;
    drop(theirs);
    match converse(&mut child, &ours, &own_users, spec, state) {
        Ok(terminal) => {
            state.pid = Some(child.pid);
            state.pid_start = state::process_stat(child.pid).map_or(0, |(_, start)| start);
            state.save(directory)?;
            Ok((child, ours, terminal))
        }
        Err(error) => {
            let _ = agent_sys::signal::pidfd_kill(child.pidfd.as_fd(), libc::SIGKILL);
            reap(&child);
            Err(error)
        }
    }
}

/// Waits for the end of our own child and takes its exit status.
pub(crate) fn reap(child: &Child) -> Option<rustix::process::WaitIdStatus> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    loop {
        match waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(agent_sys::Errno::INTR) => {}
            other => return other.ok().flatten(),
        }
    }
}

/// Runs `make` so that the child it makes is born in a PID namespace; ours stays what it was.
pub(super) fn in_pid_namespace<T>(
    namespace: Option<OwnedFd>,
    make: impl FnOnce() -> Result<T, ContainerError>,
) -> Result<T, ContainerError> {
    let Some(namespace) = namespace else { return make() };
    let own = fs::File::open("/proc/self/ns/pid").map_err(ContainerError::file("open", "/proc/self/ns/pid"))?;
    let flag = libc::CLONE_NEWPID as u64;
    agent_sys::namespace::setns(namespace.as_fd(), flag).map_err(ContainerError::kernel("join the PID namespace"))?;
    let made = make();
    agent_sys::namespace::setns(own.as_fd(), flag).map_err(ContainerError::kernel("leave the PID namespace"))?;
    made
}

fn listen(directory: &Path) -> Result<OwnedFd, ContainerError> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let path = short_path(directory)?;
    let make = || {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path.1)?)?;
        rustix::net::listen(&socket, 1)?;
        Ok(socket)
    };
    make().map_err(ContainerError::kernel("listen on the start socket"))
}

/// Socket addresses are short, state directories need not be: the path goes through a descriptor of the directory.
pub(super) fn short_path(directory: &Path) -> Result<(fs::File, String), ContainerError> {
    let file = fs::File::open(directory).map_err(ContainerError::file("open", directory))?;
    let path = format!("/proc/self/fd/{}/{START_SOCKET}", std::os::fd::AsRawFd::as_raw_fd(&file));
    Ok((file, path))
}

/// What the parent does for a child that was born into a user namespace of its own.
struct OwnUsers {
    maps: Option<IdMaps>,
    oom_score: Option<Vec<u8>>,
}

impl OwnUsers {
    fn serve(&self, child: &Child) -> Result<(), ContainerError> {
        if let Some(score) = &self.oom_score {
            let path = format!("/proc/{}/oom_score_adj", child.pid);
            fs::write(&path, score).map_err(ContainerError::file("write", path))?;
        }
        self.maps.as_ref().map_or(Ok(()), |maps| tree::write_maps(child, maps))
    }
}

fn converse(
    child: &mut Child,
    channel: &OwnedFd,
    own_users: &OwnUsers,
    spec: &oci::Spec,
    state: &State,
) -> Result<Option<OwnedFd>, ContainerError> {
    let mut terminal = None;
    loop {
        match channel::receive(channel.as_fd()).map_err(ContainerError::kernel("hear from the container"))? {
            FromChild::Succeeded { pid, pidfd } => {
                let first = std::mem::replace(child, Child { pid, pidfd });
                reap(&first);
                channel::go(channel.as_fd()).map_err(ContainerError::kernel("answer the container"))?;
            }
            FromChild::MapsWanted => {
                own_users.serve(child)?;
                channel::go(channel.as_fd()).map_err(ContainerError::kernel("answer the container"))?;
            }
            FromChild::HooksWanted => {
                runtime_hooks(spec, state, child.pid)?;
                channel::go(channel.as_fd()).map_err(ContainerError::kernel("answer the container"))?;
            }
            FromChild::Terminal(fd) => terminal = Some(fd),
            FromChild::Created => return Ok(terminal),
            FromChild::Failed(error) => return Err(ContainerError::Init(error)),
            FromChild::Closed => return Err(ContainerError::Died),
        }
    }
}

/// Gives streams to user `uid` of the user namespace whose id 0 is `first` outside; nothing where that is the machine's.
/// Only pipes are the container's alone: /dev/null, files and terminals stay whose they are.
pub(super) fn give(streams: &Streams, first: u32, uid: u32) {
    if first == 0 {
        return;
    }
    for stream in streams.descriptors.iter().flatten() {
        let stat = rustix::fs::fstat(stream);
        if stat.is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_fifo()) {
            // Best effort, as the child's own try is.
            let _ = rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(first.saturating_add(uid))), None);
        }
    }
}

#[allow(deprecated)] // prestart hooks are deprecated, and still honoured as the specification asks
fn runtime_hooks(spec: &oci::Spec, state: &State, pid: i32) -> Result<(), ContainerError> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    let input = hook_state(state, Status::Creating, Some(pid));
    for (kind, list) in [("prestart", hooks.prestart()), ("createRuntime", hooks.create_runtime())] {
        run_hooks(kind, list, &input)?;
    }
    Ok(())
}

pub(crate) fn run_hooks(kind: &'static str, list: &Option<Vec<oci::Hook>>, input: &[u8]) -> Result<(), ContainerError> {
    for entry in list.iter().flatten() {
        hook::run(entry, input).map_err(|source| ContainerError::Hook { kind, path: entry.path().clone(), source })?;
    }
    Ok(())
}

/// The state as the specification words it: what `state` prints and hooks read.
pub(crate) fn oci_state(state: &State, status: Status, pid: Option<i32>) -> serde_json::Value {
    serde_json::json!({
        "ociVersion": crate::spec::OCI_VERSION,
        "id": state.id,
        "status": status,
        "pid": pid.unwrap_or(0),
        "bundle": state.bundle,
        "rootfs": state.rootfs,
        "created": state.created,
        "annotations": state.annotations,
    })
}

pub(crate) fn hook_state(state: &State, status: Status, pid: Option<i32>) -> Vec<u8> {
    oci_state(state, status, pid).to_string().into_bytes()
}

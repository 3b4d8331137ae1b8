//! create, run and exec.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use agent_sys::{clone::Child, signal};
use oci_spec::runtime as oci;

use super::{
    CliError,
    args::{CreateArgs, ExecArgs},
    console, failed,
};
use crate::{
    container::{self, Container, CreateOptions, Created, Doorway, ExecOptions, GateKind, create::reap},
    plan::Streams,
};

/// Signals that a waiting run or exec passes on.
const FORWARDED: [i32; 6] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

fn make(root: &Path, args: &CreateArgs, gate: GateKind, takes_terminal: bool) -> Result<Created, CliError> {
    let options = CreateOptions {
        root,
        id: &args.id,
        bundle: &args.bundle,
        gate,
        no_pivot: args.no_pivot,
        die_with_parent: false,
        streams: Streams::default(),
        takes_terminal,
        preserve_fds: args.preserve_fds,
        pid_namespace: None,
        first_id: 0,
    };
    let verb = if gate == GateKind::Socket { "create" } else { "run" };
    container::create(options).map_err(failed(verb, &args.id))
}

fn write_pid(file: Option<&Path>, pid: i32) -> Result<(), CliError> {
    let Some(path) = file else { return Ok(()) };
    container::state::replace(path, pid.to_string().as_bytes()).map_err(|source| CliError::File {
        what: "write",
        path: path.to_owned(),
        source,
    })
}

/// What has to happen between created and done; failing, the container goes again.
fn or_remove<T>(root: &Path, id: &str, result: Result<T, CliError>) -> Result<T, CliError> {
    if result.is_err()
        && let Ok(container) = Container::load(root, id)
    {
        // The error that brought us here is the one to tell.
        let _ = container.delete(true);
    }
    result
}

pub(super) fn create(root: &Path, args: &CreateArgs) -> Result<i32, CliError> {
    let created = make(root, args, GateKind::Socket, args.console_socket.is_some())?;
    let rest = || {
        hand_over(args.console_socket.as_deref(), &created.terminal)?;
        write_pid(args.pid_file.as_deref(), created.child.pid)
    };
    or_remove(root, &args.id, rest()).map(|()| 0)
}

fn hand_over(socket: Option<&Path>, terminal: &Option<OwnedFd>) -> Result<(), CliError> {
    match (socket, terminal) {
        (Some(path), Some(terminal)) => console::hand_over(path, terminal),
        _ => Ok(()),
    }
}

pub(super) fn run(root: &Path, args: &CreateArgs) -> Result<i32, CliError> {
    let proxied = args.console_socket.is_none() && !args.detach;
    let signals = if args.detach { None } else { Some(forward_signals()?) };
    let created = make(root, args, GateKind::Parent, proxied || args.console_socket.is_some())?;
    let begin = || {
        hand_over(args.console_socket.as_deref(), &created.terminal)?;
        write_pid(args.pid_file.as_deref(), created.child.pid)?;
        created.start().map_err(failed("run", &args.id))?;
        if let Some(hooks) = &created.state.hooks {
            let input = container::create::hook_state(&created.state, container::Status::Running, created.state.pid);
            container::create::run_hooks("poststart", hooks.poststart(), &input).map_err(failed("run", &args.id))?;
        }
        Ok(())
    };
    or_remove(root, &args.id, begin())?;
    let Some(signals) = signals else { return Ok(0) };
    let code = console::wait(&created.child, created.terminal.as_ref().filter(|_| proxied), &signals)?;
    if !args.keep {
        let container = Container::load(root, &args.id).map_err(failed("run", &args.id))?;
        container.delete(true).map_err(failed("run", &args.id))?;
    }
    Ok(code)
}

fn forward_signals() -> Result<OwnedFd, CliError> {
    let mut signals = FORWARDED.to_vec();
    signals.push(libc::SIGWINCH);
    signal::signal_fd(&signals).map_err(|source| CliError::Kernel { what: "watch signals", source })
}

pub(super) fn exec(root: &Path, args: &ExecArgs) -> Result<i32, CliError> {
    let container = Container::load(root, &args.id).map_err(failed("exec", &args.id))?;
    let process = process(&container, args)?;
    let terminal = process.terminal() == Some(true);
    if terminal && args.detach && args.console_socket.is_none() {
        return Err(CliError::Argument("a detached terminal needs --console-socket".to_owned()));
    }
    let signals = if args.detach { None } else { Some(forward_signals()?) };
    let options = ExecOptions {
        process: &process,
        streams: Streams::default(),
        die_with_parent: false,
        preserve_fds: args.preserve_fds,
        first_id: 0,
    };
    let doorway = Doorway::of(&container).map_err(failed("exec", &args.id))?;
    let joined = container::exec(&doorway, options).map_err(failed("exec", &args.id))?;
    let rest = || {
        hand_over(args.console_socket.as_deref(), &joined.terminal)?;
        write_pid(args.pid_file.as_deref(), joined.child.pid)
    };
    if let Err(error) = rest() {
        kill(&joined.child);
        return Err(error);
    }
    let Some(signals) = signals else { return Ok(0) };
    console::wait(&joined.child, joined.terminal.as_ref().filter(|_| args.console_socket.is_none()), &signals)
}

fn kill(child: &Child) {
    let _ = signal::pidfd_kill(child.pidfd.as_fd(), libc::SIGKILL);
    reap(child);
}

/// The process: of a file, or the container's own with changes.
fn process(container: &Container, args: &ExecArgs) -> Result<oci::Process, CliError> {
    if let Some(path) = &args.process {
        return Ok(crate::spec::read_json(path)?);
    }
    let spec = crate::spec::load(&container.state.bundle)?;
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(args.args.clone()));
    process.set_terminal(Some(args.tty));
    process.set_console_size(None);
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(args.env.iter().cloned());
    process.set_env(Some(env));
    if let Some(user) = &args.user {
        let (uid, gid) = user.split_once(':').map_or((user.as_str(), None), |(uid, gid)| (uid, Some(gid)));
        let number = |text: &str| {
            text.parse::<u32>()
                .map_err(|_| CliError::Argument(format!("--user {user:?}: expected numbers: UID or UID:GID")))
        };
        let mut who = process.user().clone();
        who.set_uid(number(uid)?);
        who.set_gid(gid.map_or(Ok(0), number)?);
        process.set_user(who);
    }
    if !args.additional_gids.is_empty() {
        process.user_mut().set_additional_gids(Some(args.additional_gids.clone()));
    }
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if !args.cap.is_empty() {
        let mut sets = process.capabilities().clone().unwrap_or_default();
        for name in &args.cap {
            let plain = name.strip_prefix("CAP_").unwrap_or(name);
            let capability: oci::Capability = plain
                .parse()
                .map_err(|_| CliError::Argument(format!("--cap {name:?}: expected a capability such as CAP_KILL")))?;
            let with = |set: &Option<oci::Capabilities>| {
                let mut set = set.clone().unwrap_or_default();
                set.insert(capability);
                Some(set)
            };
            let (bounding, effective, permitted) =
                (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
            sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
        }
        process.set_capabilities(Some(sets));
    }
    Ok(process)
}

/// Reads all of a file or of standard input.
pub(super) fn read_input(path: &Path) -> Result<Vec<u8>, CliError> {
    let read = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(std::io::stdin(), 1 << 20), &mut bytes).map(|_| bytes)
    } else {
        fs::read(path)
    };
    read.map_err(|source| CliError::File { what: "read", path: path.to_owned(), source })
}

//! Another OCI runtime in place of ours: runc or crun, by its command line (runc(8), crun(1)). The monitor stays the
//! parent: what a runtime makes and leaves behind becomes the child of the nearest reaper of orphans, which is the monitor.

use std::{
    ffi::{CString, OsStr, OsString},
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, net::UnixListener},
    },
    path::{Path, PathBuf},
};

use agent_sys::{
    Errno,
    clone::{Child, CloneArgs, clone3},
    exec::{CStrings, execve},
    fd::dup_onto,
    signal,
};
use oci_spec::runtime::Process;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde_json::{Value, json};

use super::protocol::Runtime;
use crate::{
    cgroup::{self, Cgroup, CgroupError},
    container::{create::reap, error::ContainerError},
    init::channel::receive_descriptor,
    plan::Streams,
};

/// A runtime that takes longer for one step hangs; the pod's other containers wait meanwhile.
const STEP_TIMEOUT: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Why another runtime did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum OtherError {
    /// A step of ours, before or after.
    #[error(transparent)]
    Own(#[from] ContainerError),
    /// The container's cgroup.
    #[error("open the container's cgroup")]
    Cgroup(#[from] CgroupError),
    /// It did not end.
    #[error("{runtime} {verb} did not end within {seconds} seconds", seconds = STEP_TIMEOUT.tv_sec)]
    Hangs { runtime: String, verb: &'static str },
    /// It said no.
    #[error("{runtime} {verb}: {said}")]
    Refused { runtime: String, verb: &'static str, said: String },
}

impl OtherError {
    /// Whether the program that was to be run in the container is not there. Both runtimes name the step and the error; what
    /// else is not there, as a working directory, is another matter.
    pub(super) fn is_missing_program(&self) -> bool {
        let Self::Refused { said, .. } = self else { return false };
        let is_of_runc = said.contains("exec: \"") && said.contains("no such file or directory");
        is_of_runc || said.contains("executable file not found") || said.contains("executable file `")
    }
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> OtherError {
    let of = ContainerError::file(what, path);
    move |source| of(source).into()
}

fn kernel(what: &'static str) -> impl FnOnce(Errno) -> OtherError {
    let of = ContainerError::kernel(what);
    move |source| of(source).into()
}

/// A first process that another runtime made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) child: Child,
    pub(super) cgroup: Box<dyn Cgroup>,
    /// The master side of its terminal.
    pub(super) terminal: Option<OwnedFd>,
}

/// Runs the runtime for one pod.
#[derive(Debug)]
pub(super) struct Other<'a> {
    runtime: &'a Runtime,
    /// Its state, and files of ours beside it.
    dir: PathBuf,
}

impl<'a> Other<'a> {
    pub(super) fn new(runtime: &'a Runtime, state_dir: &Path) -> Self {
        Self { runtime, dir: state_dir.join("other") }
    }

    fn root(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Everything up to the program's first instruction. Without a PID namespace of its own it joins that of `reaper`.
    pub(super) fn create(
        &self,
        id: &str,
        bundle: &Path,
        streams: Streams,
        tty: bool,
        reaper: Option<i32>,
    ) -> Result<Made, OtherError> {
        fs::create_dir_all(&self.dir).map_err(file("create", &self.dir))?;
        let config = bundle.join("config.json");
        let text = fs::read(&config).map_err(file("read", &config))?;
        let parsed: Value = serde_json::from_slice(&text).map_err(|e| file("parse", &config)(e.into()))?;
        let adapted = adapt(parsed, reaper);
        let path = adapted["linux"]["cgroupsPath"].as_str().map(PathBuf::from);
        let (cgroup, _) = cgroup::of(path.as_deref(), id)?;
        fs::write(&config, adapted.to_string()).map_err(file("write", &config))?;
        let mut args = vec![OsString::from("--bundle"), bundle.into()];
        match self.make("create", &mut args, id, streams, tty) {
            Ok((child, terminal)) => Ok(Made { child, cgroup, terminal }),
            Err(error) => {
                // What it has made by then is of no use, and would be in the way of the next try. The first error is told.
                let _ = self.delete(id);
                Err(error)
            }
        }
    }

    pub(super) fn start(&self, id: &str) -> Result<(), OtherError> {
        self.run("start", &[id.into()], Streams::default())
    }

    /// Ends and forgets a container, whatever is left of it.
    pub(super) fn delete(&self, id: &str) -> Result<(), OtherError> {
        match self.root().join(id).exists() {
            true => self.run("delete", &["--force".into(), id.into()], Streams::default()),
            false => Ok(()),
        }
    }

    /// A further process in a running container, and the master side of its terminal.
    pub(super) fn exec(
        &self,
        id: &str,
        process: &Process,
        streams: Streams,
        tty: bool,
    ) -> Result<(Child, Option<OwnedFd>), OtherError> {
        let path = self.dir.join("process.json");
        let text = serde_json::to_vec(process).map_err(|error| file("encode", &path)(error.into()))?;
        fs::write(&path, text).map_err(file("write", &path))?;
        let mut args = vec![OsString::from("--detach"), "--process".into(), path.into()];
        self.make("exec", &mut args, id, streams, tty)
    }

    /// What a monitor that died left of its containers.
    pub(super) fn sweep(&self) -> Vec<OtherError> {
        let entries = fs::read_dir(self.root()).into_iter().flatten().flatten();
        let ids: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        ids.iter().filter_map(|id| self.delete(id).err()).collect()
    }

    /// Removes what lies beside the containers, once they are gone.
    pub(super) fn clear(&self) {
        // Best effort: the directory goes with the pod's.
        let _ = fs::remove_dir_all(&self.dir);
    }

    fn make(
        &self,
        verb: &'static str,
        args: &mut Vec<OsString>,
        id: &str,
        streams: Streams,
        tty: bool,
    ) -> Result<(Child, Option<OwnedFd>), OtherError> {
        let pid_file = self.dir.join("pid");
        args.extend(["--pid-file".into(), pid_file.clone().into()]);
        let console = if tty { Some(Console::listen(self.dir.join("console.sock"))?) } else { None };
        if let Some(console) = &console {
            args.extend(["--console-socket".into(), console.path.clone().into()]);
        }
        args.push(id.into());
        self.run(verb, args, streams)?;
        let text = fs::read_to_string(&pid_file).map_err(file("read", &pid_file))?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw).ok_or(Errno::SRCH);
        // It cannot be reaped before we are back in the loop, so this is still the process that was made.
        let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).map(|fd| (pid, fd)));
        let (pid, pidfd) = pidfd.map_err(kernel("open the process that was made"))?;
        let terminal = console.map(Console::terminal).transpose()?;
        Ok((Child { pid: pid.as_raw_nonzero().get(), pidfd }, terminal))
    }

    /// Runs one step to its end. Streams that are not given stay ours.
    fn run(&self, verb: &'static str, args: &[OsString], streams: Streams) -> Result<(), OtherError> {
        let log = self.dir.join("log.json");
        let _ = fs::remove_file(&log);
        let mut all: Vec<OsString> = vec![self.runtime.program.clone().into(), "--root".into(), self.root().into()];
        all.extend(["--log".into(), log.clone().into(), "--log-format=json".into(), verb.into()]);
        all.extend(args.iter().cloned());
        let all = CStrings::new(all.iter().map(|own| c_string(own)).collect::<Result<_, _>>()?);
        // Nothing of ours: runc would take NOTIFY_SOCKET for the container's, and wait for its word.
        let environment =
            CStrings::new(vec![c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()]);
        let program = c_string(self.runtime.program.as_os_str())?;
        let hidden = self.hidden_hierarchy()?;
        let namespaces = if hidden.is_some() { libc::CLONE_NEWNS as u64 } else { 0 };
        let clone_args = CloneArgs { namespaces, ..CloneArgs::default() };
        let child = clone3(&clone_args, || {
            signal::reset_all();
            for (number, stream) in streams.descriptors.iter().enumerate() {
                if stream.as_ref().is_some_and(|stream| dup_onto(stream.as_fd(), number as i32).is_err()) {
                    return 126;
                }
            }
            if let Some(hidden) = &hidden {
                // Ours alone: the machine's mount stays.
                let all = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
                if mount_change(c"/", all).is_err() || unmount(hidden.as_c_str(), UnmountFlags::DETACH).is_err() {
                    return 126;
                }
            }
            execve(&program, &all, &environment);
            127
        })
        .map_err(kernel("clone the runtime's process"))?;
        let runtime = || self.runtime.name.clone();
        loop {
            match poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], Some(&STEP_TIMEOUT)) {
                Err(Errno::INTR) => {}
                Ok(0) => {
                    let _ = signal::pidfd_kill(child.pidfd.as_fd(), libc::SIGKILL);
                    reap(&child);
                    return Err(OtherError::Hangs { runtime: runtime(), verb });
                }
                Ok(_) | Err(_) => break,
            }
        }
        match reap(&child).and_then(|status| status.exit_status()) {
            Some(0) => Ok(()),
            code => {
                let said = last_words(&fs::read_to_string(&log).unwrap_or_default());
                let said = said.unwrap_or_else(|| format!("it ended with {code:?} and gave no reason"));
                Err(OtherError::Refused { runtime: runtime(), verb, said })
            }
        }
    }

    /// crun takes a cgroup2 mount beside hierarchies of version 1 for one that holds all controllers, and fails.
    fn hidden_hierarchy(&self) -> Result<Option<CString>, OtherError> {
        let found = cgroup::detect()?;
        let hidden = found.unified.as_ref().filter(|_| self.runtime.name == "crun" && !found.v1.is_empty());
        hidden.map(|path| c_string(path.as_os_str())).transpose()
    }
}

fn c_string(text: &OsStr) -> Result<CString, OtherError> {
    CString::new(text.as_bytes()).map_err(|_| kernel("lay out the runtime's command line")(Errno::INVAL))
}

/// A container's configuration as all runtimes take it.
fn adapt(mut config: Value, reaper: Option<i32>) -> Value {
    // crun refuses versions that it does not know; what is asked for is all part of this one.
    config["ociVersion"] = json!("1.0.2");
    if let (Some(pid), Some(namespaces)) = (reaper, config["linux"]["namespaces"].as_array_mut())
        && !namespaces.iter().any(|own| own["type"] == "pid")
    {
        namespaces.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}));
    }
    config
}

/// The last message of a log of JSON lines.
fn last_words(log: &str) -> Option<String> {
    let line = log.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok())?;
    line["msg"].as_str().map(str::to_owned)
}

/// Where a runtime sends the terminal that it made.
struct Console {
    path: PathBuf,
    listener: UnixListener,
}

impl Console {
    fn listen(path: PathBuf) -> Result<Self, OtherError> {
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(file("listen on", &path))?;
        // Whoever has sent nothing when it has ended will not.
        listener.set_nonblocking(true).map_err(file("listen on", &path))?;
        Ok(Self { path, listener })
    }

    fn terminal(self) -> Result<OwnedFd, OtherError> {
        let (socket, _) = self.listener.accept().map_err(file("accept on", &self.path))?;
        let received = receive_descriptor(socket.as_fd()).map_err(kernel("receive the terminal"))?;
        received.ok_or_else(|| kernel("receive the terminal")(Errno::PROTO))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_names_the_shared_process_namespace_and_a_version_that_is_known() {
        let config = |kinds: &[&str]| {
            let namespaces: Vec<Value> = kinds.iter().map(|kind| json!({"type": kind})).collect();
            json!({"ociVersion": "1.2.0", "linux": {"namespaces": namespaces}})
        };
        let shared = adapt(config(&["mount"]), Some(7));
        assert_eq!(shared["ociVersion"], "1.0.2");
        assert_eq!(shared["linux"]["namespaces"][1], json!({"type": "pid", "path": "/proc/7/ns/pid"}));
        assert_eq!(adapt(config(&["pid"]), Some(7))["linux"], config(&["pid"])["linux"]);
        assert_eq!(adapt(config(&["mount"]), None)["linux"], config(&["mount"])["linux"]);
    }

    #[test]
    fn the_last_message_is_the_reason() {
        let log = "{\"level\":\"warning\",\"msg\":\"a\"}\n{\"level\":\"error\",\"msg\":\"b\"}\nnoise\n";
        assert_eq!(last_words(log), Some("b".into()));
        assert_eq!(last_words(""), None);
        let said = "unable to start container process: exec: \"x\": executable file not found in $PATH";
        let refused = |said: &str| OtherError::Refused { runtime: "runc".into(), verb: "exec", said: said.into() };
        assert!(refused(said).is_missing_program() && !refused("cgroup is frozen").is_missing_program());
        let stat = "unable to start container process: exec: \"/x\": stat /x: no such file or directory";
        let crun = "executable file `x` not found in $PATH: No such file or directory";
        assert!(refused(stat).is_missing_program() && refused(crun).is_missing_program());
        assert!(!refused("chdir to cwd (\"/x\") failed: no such file or directory").is_missing_program());
    }
}

//! The agent's side of a monitor's birth.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
};

use super::protocol::MonitorConfig;
use crate::seal::Program;

/// A monitor that listens.
#[derive(Debug)]
pub struct SpawnedMonitor {
    /// Its process.
    pub pid: i32,
    /// Readable when it ends. While the process that spawned it lives, that one must then wait for it (P_PIDFD).
    pub pidfd: OwnedFd,
}

/// Why there is no monitor.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A file of its state directory.
    #[error("{what} {path}", path = path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With which.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The program could not be run.
    #[error("run the monitor of pod {pod_uid}")]
    Run {
        /// The pod.
        pod_uid: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended before it listened.
    #[error("the monitor of pod {pod_uid} ended at its start: {reason}")]
    Ended {
        /// The pod.
        pod_uid: String,
        /// The last line of its log.
        reason: String,
    },
}

/// Starts a monitor and returns once it listens. It outlives the caller; its errors go to `monitor.log`.
/// Safe in a process with threads: no code of ours runs between fork and exec.
pub fn spawn(program: &Program, config: &MonitorConfig) -> Result<SpawnedMonitor, SpawnError> {
    let file = |what, path: &Path| {
        let path = path.to_owned();
        move |source| SpawnError::File { what, path, source }
    };
    let directory = &config.state_dir;
    std::fs::create_dir_all(directory).map_err(file("create", directory))?;
    let config_path = directory.join("monitor.json");
    let bytes = serde_json::to_vec(config).map_err(io::Error::from).map_err(file("encode", &config_path))?;
    crate::container::state::replace(&config_path, &bytes).map_err(file("write", &config_path))?;
    let log_path = directory.join("monitor.log");
    let log = OpenOptions::new().create(true).append(true).mode(0o640).open(&log_path);
    let log = log.map_err(file("open", &log_path))?;
    let running = |source| SpawnError::Run { pod_uid: config.pod_uid.clone(), source };
    let mut child = program
        .command()
        .arg("monitor")
        .arg(&config_path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(running)?;
    let mut ready = [0u8; 1];
    let read = child.stdout.take().map_or(Ok(0), |mut stdout| stdout.read(&mut ready));
    if !matches!(read, Ok(1)) {
        let _ = child.kill();
        let _ = child.wait();
        let mut text = String::new();
        // The reason is best told by the monitor itself; without a readable log there is none.
        let _ = File::open(&log_path).and_then(|file| file.take(1 << 20).read_to_string(&mut text));
        let reason = text.lines().last().unwrap_or("no reason given").to_owned();
        return Err(SpawnError::Ended { pod_uid: config.pod_uid.clone(), reason });
    }
    let pid = rustix::process::Pid::from_child(&child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .map_err(|source| running(source.into()))?;
    Ok(SpawnedMonitor { pid: pid.as_raw_nonzero().get(), pidfd })
}

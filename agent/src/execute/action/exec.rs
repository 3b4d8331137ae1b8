//! A program run in a container, with its output and for a limited time.

use std::sync::PoisonError;
use std::time::Duration;

use agent_runtime::monitor::protocol::{ErrorKind, ExecRequest, Hello};
use agent_runtime::monitor::stream::{self, Channel, End};
use oci_spec::runtime::Process;
use tokio::io::AsyncReadExt as _;

use super::OUTPUT_MAX;
use crate::execute::{Executor, chain, sandbox};
use crate::monitor::{self, MonitorError};

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its exit code.
    pub(crate) code: i32,
    /// The beginning of what it wrote to either stream, at most [`OUTPUT_MAX`] bytes.
    pub(crate) output: String,
}

/// Why nothing is known of a program.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    /// Its time was up: it was killed, and whatever it had started.
    #[error("command {command:?} timed out after {limit:?}")]
    TimedOut {
        /// The program and its arguments.
        command: String,
        /// Its time.
        limit: Duration,
    },
    /// It could not be run.
    #[error("{0}")]
    NotRun(String),
}

/// Runs a program in the container that has this name with its monitor. Without a limit, until it ends or the container
/// does.
pub(crate) async fn run(
    executor: &Executor,
    id: &str,
    command: &[String],
    limit: Option<Duration>,
) -> Result<Ran, ExecError> {
    let running = converse(executor, id, command);
    match limit {
        None => running.await,
        // Dropping the connection makes the monitor kill the program.
        Some(limit) => tokio::time::timeout(limit, running)
            .await
            .unwrap_or_else(|_| Err(ExecError::TimedOut { command: command.join(" "), limit })),
    }
}

async fn converse(executor: &Executor, id: &str, command: &[String]) -> Result<Ran, ExecError> {
    let run_dir = executor.run_dir();
    let mut process = process(executor, id).await.map_err(ExecError::NotRun)?;
    process.set_args(Some(command.to_vec())).set_terminal(Some(false));
    let request = ExecRequest { container: id.to_owned(), process, stdin: false, tty: false };
    let opened = monitor::open(&sandbox::socket_path(&run_dir), &Hello::Exec(request)).await;
    let (mut socket, rest) = opened.map_err(|error| ExecError::NotRun(not_run(id, command, &error)))?;
    let mut decoder = stream::Decoder::starting_with(rest);
    let mut output = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        while let Some((channel, data)) = decoder.next().map_err(|error| ExecError::NotRun(chain(&error)))? {
            match channel {
                Channel::Stdout | Channel::Stderr => {
                    output.extend_from_slice(&data[..data.len().min(OUTPUT_MAX - output.len())]);
                }
                Channel::End => {
                    let end = serde_json::from_slice(&data).map_err(|error| ExecError::NotRun(error.to_string()))?;
                    return match end {
                        End::Code(code) => Ok(Ran { code, output: String::from_utf8_lossy(&output).into_owned() }),
                        End::Error(message) => Err(ExecError::NotRun(message)),
                    };
                }
                Channel::Stdin | Channel::Resize | Channel::CloseStdin => {}
            }
        }
        match socket.read(&mut buffer).await {
            Ok(0) | Err(_) => return Err(ExecError::NotRun(MonitorError::Gone.to_string())),
            Ok(count) => decoder.push(&buffer[..count]),
        }
    }
}

/// The container's own process. It is kept: a probe needs it each second, and a specification is long.
async fn process(executor: &Executor, id: &str) -> Result<Process, String> {
    let kept = || executor.processes.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(process) = kept().get(id) {
        return Ok(process.clone());
    }
    let process = monitor::process(&executor.run_dir().join("c").join(id)).await?;
    kept().insert(id.to_owned(), process.clone());
    Ok(process)
}

fn not_run(id: &str, command: &[String], error: &MonitorError) -> String {
    match error {
        MonitorError::Refused(body) if body.kind == ErrorKind::MissingProgram => {
            let program = command.first().map(String::as_str).unwrap_or_default();
            format!("exec: {program:?}: executable file not found in container {id}")
        }
        error => chain(error),
    }
}

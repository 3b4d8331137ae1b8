//! What `server` and `agent` have in common as services of a machine: their log, their runtime, how they are stopped,
//! and what the service manager is told.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// What is logged unless `GANTRY_LOG` says otherwise (tracing's EnvFilter syntax).
/// A machine that joins asks a server that it cannot trust yet for its authority, and compares hashes; kube warns of it.
const DEFAULT_LOG: &str = "info,kube_client::client::tls=error";

/// Flags about the log.
#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// How the log is written: one line of text, or one JSON object, for each entry. GANTRY_LOG says what is logged.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT", env = "GANTRY_LOG_FORMAT")]
    log_format: LogFormat,
}

/// How log entries are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// For collectors: an object a line, with the entry's fields beside `timestamp`, `level`, `target` and `message`.
    Json,
}

impl LogArgs {
    /// Logs from now on.
    pub(crate) fn start(&self) {
        let filter = EnvFilter::try_from_env("GANTRY_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
        match self.log_format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
        }
    }
}

/// Runs a service to its end.
pub(crate) fn run(serve: impl Future<Output = Result<(), Failure>>) -> Result<ExitCode, Failure> {
    // kube asks rustls for the process's provider; a second installation would be ours as well.
    drop(rustls::crypto::ring::default_provider().install_default());
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(serve)?;
    // Blocking work that hangs (a stalled disk) must not keep the process: what counts is durable already.
    runtime.shutdown_timeout(Duration::from_secs(2));
    Ok(ExitCode::SUCCESS)
}

/// How a service learns that it is to stop.
pub(crate) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// From now on the signals end nothing by themselves.
    pub(crate) fn listen() -> Result<Self, Failure> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one of them.
    pub(crate) async fn asked_for(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        tell_systemd(NotifyState::Stopping);
    }
}

/// Tells the service manager that the service serves.
pub(crate) fn tell_ready() {
    tell_systemd(NotifyState::Ready);
}

/// Tells the service manager, where one started us (sd_notify(3)); one that does not listen is no failure.
fn tell_systemd(state: NotifyState<'_>) {
    drop(sd_notify::notify(&[state]));
}

//! The pod monitor: one small process per pod, parent of the pod's containers. It pins the pod's namespaces, holds the
//! log pipes and terminals, reaps exits, serves exec and attach on a Unix socket, and survives the agent.
//!
//! One thread, one poll loop ([`serve`]); what it does on request is in `pod`. It never waits for a client: a slow exec
//! client holds its process back, a slow attach client is dropped. If the monitor dies, its containers die with it.

pub mod client;
mod io;
pub mod log;
mod other;
mod pod;
pub mod protocol;
mod serve;
mod setup;
mod spawn;
pub mod stream;
mod sysctl;
pub mod users;

pub use setup::MonitorError;
pub use spawn::{SpawnError, SpawnedMonitor, spawn};

use std::path::Path;

/// Runs the monitor of a configuration file; returns the exit code. The process must have one thread, and is run again
/// with its own arguments, sealed.
pub fn main(config: &Path) -> i32 {
    let args: Vec<_> = std::env::args_os().collect();
    let sealed = crate::seal::ensure(&args).map_err(MonitorError::Seal);
    let result = sealed.and_then(|()| setup::prepare(config)).and_then(serve::run);
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{} monitor: {}", crate::container::clock(), crate::container::error::chain(&error));
            1
        }
    }
}

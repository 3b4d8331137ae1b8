//! The pod monitor: one small process per pod, parent of the pod's containers. It pins the pod's namespaces, holds the
//! log pipes and terminals, reaps exits, serves exec and attach on a Unix socket, and survives the agent.
//!
//! One thread, one poll loop ([`serve`]); what it does on request is in `pod`. It never waits for a client: a slow exec
//! client holds its process back, a slow attach client is dropped. If the monitor dies, its containers die with it.

pub mod client;
mod io;
pub mod log;
mod pod;
pub mod protocol;
mod serve;
mod setup;
mod spawn;
pub mod stream;

pub use setup::MonitorError;
pub use spawn::{SpawnError, SpawnedMonitor, spawn};

use std::path::Path;

/// Runs the monitor of a configuration file; returns the exit code. The process must have one thread.
pub fn main(config: &Path) -> i32 {
    let result = setup::prepare(config).and_then(serve::run);
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{} monitor: {}", crate::container::clock(), crate::container::error::chain(&error));
            1
        }
    }
}

//! Makes assigned pods real and reports them.
//! Never knows a controller crate.
//! Start reading at `assemble`.

mod admission;
pub mod assemble;
mod changes;
pub mod config;
pub mod cpus;
mod csi;
mod device;
pub mod dns;
mod environment;
mod event;
pub mod eviction;
mod execute;
mod failpoint;
mod grpc;
pub mod instance;
pub mod join;
mod kubelet;
mod local_storage;
mod log;
pub mod memory;
pub mod metrics;
mod monitor;
mod node;
mod objects;
mod oci;
mod peers;
pub mod preflight;
mod preload;
mod pressure;
pub mod profile;
mod pulls;
pub mod reset;
pub mod resolver;
mod roster;
mod rotation;
pub mod runtimes;
mod service;
pub mod shutdown;
mod source;
mod static_pods;
mod status_patch;
mod storage;
mod timer;
mod user;
mod worker;

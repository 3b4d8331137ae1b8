//! Makes assigned pods real and reports them.
//! Never knows a controller crate.
//! Start reading at `assemble`.

mod admission;
pub mod assemble;
pub mod config;
pub mod dns;
mod environment;
mod event;
mod execute;
pub mod instance;
pub mod join;
mod kubelet;
mod log;
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
mod rotation;
mod service;
mod source;
mod status_patch;
mod storage;
mod timer;
mod user;
mod worker;

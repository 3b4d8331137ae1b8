//! Objects as people read them in full, in the layout of `kubectl describe`.

mod access;
mod autoscaler;
mod class;
pub(crate) mod events;
pub(crate) mod kinds;
mod namespace;
mod network;
mod node;
pub(crate) mod page;
mod policy;
pub(crate) mod related;
mod service;
mod storage;
pub(crate) mod template;
mod workloads;

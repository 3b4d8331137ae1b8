//! MVCC: keys to bytes at revisions; compare-and-put, range, watch, compaction.
//! Never knows a Kubernetes kind.
//! Start reading at `store`.

pub mod disk;
pub mod driver;
pub mod health;
mod history;
pub mod metrics;
pub mod model;
pub mod seal;
pub mod snapshot;
pub mod store;
#[cfg(test)]
mod suite;
mod visible;
pub mod watch;
mod writer;

//! Reference to digest to content to snapshot.
//! Never knows the Kubernetes client.
//! Start reading at `store`.

pub mod content;
pub mod digest;
mod import;
mod index;
pub mod limit;
pub mod reference;
pub mod snapshot;
pub mod store;
pub mod unpack;

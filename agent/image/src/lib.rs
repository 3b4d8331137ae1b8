//! Reference to digest to content to snapshot.
//! Never knows the Kubernetes client.
//! Start reading at `store`; what comes from registries, at `registry::pull`.

pub mod content;
pub mod digest;
pub mod document;
mod export;
mod growing;
mod import;
mod index;
pub mod layer;
mod lease;
pub mod limit;
mod place;
pub mod reference;
pub mod registry;
pub mod snapshot;
pub mod store;
pub mod unpack;

//! Sandbox links, addresses, routes and rules of the pod network (IPv4 only for now).
//! Never knows the Kubernetes client.
//! Start reading at `network`.

mod error;
mod network;

pub use error::NetworkError;
pub use network::{Config, Network, reset};

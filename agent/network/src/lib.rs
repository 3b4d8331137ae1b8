//! Sandbox links, addresses, routes and rules of the pod network; IPv4 only for now.
//! Never knows the Kubernetes client, never runs a program, never bridges: every packet passes the inet hooks.
//! Start reading at `network`, then `sandbox`.

mod error;
mod foreign;
mod forwarding;
mod instance;
mod lease;
mod link;
mod netlink;
mod network;
mod peers;
mod pool;
mod reset;
mod route;
mod rules;
mod sandbox;
mod service;
mod vacant;

pub use error::{NetworkError, PodStep};
pub use foreign::{Barrier, forward_barriers};
pub use network::{Config, Network};
pub use peers::Peer;
pub use reset::reset;
pub use service::{Applied, Endpoint, HostPort, Protocol, ServicePort, Services};

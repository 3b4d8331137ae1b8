//! What Services hold that no two may share: addresses of the service range and ports of all nodes.
//!
//! Each is a key of the store beside the objects. It is written and removed by the very commit that writes or removes
//! the Service, on condition that nobody has it: so two creations at once never get the same one, and a crash leaks none.

mod allocate;
mod builtin;
mod claim;

pub(crate) use allocate::{World, allocate};
pub(crate) use builtin::{repair, write_builtin};
pub(crate) use claim::{claims, is_claim};

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Where Services get their addresses and ports from.
#[derive(Debug, Clone, Copy)]
pub struct Ranges {
    /// Addresses of Services.
    pub cidr: Ipv4Net,
    /// The address of the cluster's DNS; inside `cidr`.
    pub dns: Ipv4Addr,
}

/// Ports of nodes, as Kubernetes has them by default (`--service-node-port-range`).
pub(crate) const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

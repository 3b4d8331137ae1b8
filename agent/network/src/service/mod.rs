//! Services on this node: which packets are led where.
//!
//! `plan` says what the rules shall be; `difference` what has to change for that, as one nftables transaction; `apply`
//! sends it. Nothing is marked and nothing looks at a packet twice: the kernel's connection tracking remembers.

mod apply;
mod attribute;
mod conntrack;
mod difference;
mod expression;
pub(crate) mod fixed;
mod plan;
mod ruleset;

use std::net::Ipv4Addr;

pub use apply::{Applied, Services};

/// A transport protocol that Services know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// By the name that the Kubernetes API has for it.
    pub fn parse(name: &str) -> Option<Protocol> {
        match name {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }

    /// IANA's number, as in the IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

/// One port of a Service with what stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// `namespace/name/port/protocol`; unique, and what the rules are called.
    pub key: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port at the addresses.
    pub port: u16,
    /// The address in the cluster, unless the Service is headless.
    pub cluster_address: Option<Ipv4Addr>,
    /// Addresses that lead here from outside: `externalIPs` and those of load balancers.
    pub external_addresses: Vec<Ipv4Addr>,
    /// The port of all nodes.
    pub node_port: Option<u16>,
    /// `internalTrafficPolicy: Local`.
    pub is_internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub is_external_local: bool,
    /// How long a client stays with its endpoint, with `sessionAffinity: ClientIP`.
    pub affinity_seconds: Option<u32>,
    /// What stands behind it.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint; conditions as EndpointSlices have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// It wants requests.
    pub is_ready: bool,
    /// It answers, though it may be about to end.
    pub is_serving: bool,
    /// It is about to end.
    pub is_terminating: bool,
    /// It is on this node.
    pub is_local: bool,
}

/// A port of this machine that leads to one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Only at this address of the machine; all of them without.
    pub host_address: Option<Ipv4Addr>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port of the machine.
    pub host_port: u16,
    /// The pod.
    pub address: Ipv4Addr,
    /// The port of the pod.
    pub port: u16,
}

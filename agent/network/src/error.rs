//! What can fail in the pod network: a variant names the step, its fields the thing, its source the kernel's reason.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

/// Why a step of the pod network failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The instance is not eight hexadecimal digits.
    #[error("instance {instance:?} is not 8 lower-case hexadecimal digits")]
    Instance {
        /// What was given.
        instance: String,
    },
    /// The uid cannot name a lease.
    #[error("pod uid {uid:?} is not 1 to 128 letters, digits, '-', '_' or '.'")]
    Uid {
        /// What was given.
        uid: String,
    },
    /// The node's range holds no address for a pod.
    #[error("pod range {range} holds no address for a pod: expected a prefix of at most 30 bits")]
    RangeTooSmall {
        /// The range of the node.
        range: Ipv4Net,
    },
    /// The node's range lies outside the cluster's.
    #[error("pod range {range} does not lie in the cluster range {cluster}")]
    RangeOutside {
        /// The range of the node.
        range: Ipv4Net,
        /// The range of the cluster.
        cluster: Ipv4Net,
    },
    /// Every address of the node's range is taken.
    #[error("pod range {range} has no free address: {taken} are taken")]
    Exhausted {
        /// The range of the node.
        range: Ipv4Net,
        /// How many pods hold an address.
        taken: usize,
    },
    /// The network went away while its range was awaited.
    #[error("the pod network was closed before it had a range")]
    Closed,
    /// The state directory could not be made or read.
    #[error("cannot use the state directory {path}")]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A lease could not be read, written or removed.
    #[error("cannot access the lease {path}")]
    Lease {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A lease file holds something else.
    #[error("lease {path} does not hold what was written there")]
    LeaseContent {
        /// The file.
        path: PathBuf,
        /// Where reading stopped.
        #[source]
        source: serde_json::Error,
    },
    /// Two leases name one address.
    #[error("lease {path} names {address}, which {holder} holds too")]
    LeaseConflict {
        /// The file.
        path: PathBuf,
        /// The address.
        address: Ipv4Addr,
        /// The other pod's uid.
        holder: String,
    },
    /// The routes to other nodes could not be read or changed.
    #[error("cannot change the routes to other nodes")]
    PeerRoutes {
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// What leads nowhere of the node's own range could not be read or changed.
    #[error("cannot make the free addresses of the node's range unreachable")]
    OwnRange {
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A kernel setting could not be read or written.
    #[error("cannot set {path}")]
    Setting {
        /// The file below `/proc/sys`.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The work did not get a thread, or lost it.
    #[error("no thread for the work on {subject}")]
    Thread {
        /// The link or table.
        subject: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Socket {
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The pod's network namespace could not be opened or joined.
    #[error("cannot join the network namespace {path}")]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The pod's namespace is the host's.
    #[error("network namespace {path} is the host's own: expected a pod's")]
    HostNamespace {
        /// The namespace.
        path: PathBuf,
    },
    /// The namespace has a link that the network did not make.
    #[error("network namespace {path} already has another {link}")]
    Occupied {
        /// The namespace.
        path: PathBuf,
        /// The link's name.
        link: String,
    },
    /// Links could not be listed.
    #[error("cannot list links")]
    ListLinks {
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A link could not be looked up.
    #[error("cannot look up link {link}")]
    FindLink {
        /// The link.
        link: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A link could not be removed.
    #[error("cannot remove link {link}")]
    RemoveLink {
        /// The link.
        link: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A step of connecting a pod failed.
    #[error("cannot {step} link {link}")]
    Connect {
        /// What was being done.
        step: PodStep,
        /// The link.
        link: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The kernel does not say what chains there are.
    #[error("cannot list the chains of nftables")]
    ListChains(#[source] io::Error),
    /// The kernel refused the rules.
    #[error("cannot install the nftables table {table}")]
    InstallRules {
        /// The table.
        table: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The node's address in the pods' range could not be set on loopback, or removed.
    #[error("cannot change the node's own address on loopback")]
    OwnAddress {
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// Flows to endpoints that are gone could not be listed or deleted.
    #[error("cannot forget flows to endpoints that are gone")]
    ForgetFlows {
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The table could not be removed.
    #[error("cannot remove the nftables table {table}")]
    RemoveRules {
        /// The table.
        table: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// Several things failed while tearing down; the rest was done.
    #[error("{} steps failed, first: {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Several(Vec<NetworkError>),
}

impl NetworkError {
    /// Folds what a tearing down collected: nothing is success, one error is itself.
    pub(crate) fn collect(mut errors: Vec<NetworkError>) -> Result<(), NetworkError> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(NetworkError::Several(errors)),
        }
    }
}

/// The steps of connecting a pod, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodStep {
    /// Make the pair of links.
    Create,
    /// Bring the host's end up.
    RaiseHostEnd,
    /// Give the host's end the node's address.
    AddressHostEnd,
    /// Tell the host the pod's link-layer address.
    NeighbourPod,
    /// Route the pod's address to the link.
    RoutePod,
    /// Bring the pod's end up.
    RaisePodEnd,
    /// Give the pod its address.
    AddressPodEnd,
    /// Tell the pod the gateway's link-layer address.
    NeighbourGateway,
    /// Route everything else to the gateway.
    RouteDefault,
}

impl fmt::Display for PodStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PodStep::Create => "create",
            PodStep::RaiseHostEnd => "bring up",
            PodStep::AddressHostEnd => "give the node's address to",
            PodStep::NeighbourPod => "set the pod's neighbour entry on",
            PodStep::RoutePod => "route the pod's address to",
            PodStep::RaisePodEnd => "bring up the pod's end",
            PodStep::AddressPodEnd => "give the pod's address to",
            PodStep::NeighbourGateway => "set the gateway's neighbour entry on",
            PodStep::RouteDefault => "set the default route on",
        })
    }
}

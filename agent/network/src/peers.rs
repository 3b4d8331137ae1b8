//! The ways to the pods of other nodes: one route for each node's range, by way of the node. The nodes share a link of
//! this machine; what lies behind a router is refused by the kernel, and told.

use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netlink_packet_route::RouteNetlinkMessage;

use crate::instance::Instance;
use crate::netlink::{Conversation, Request};
use crate::route::{self, Route};
use crate::{NetworkError, sandbox};

/// Another node of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// The addresses of its pods (`spec.podCIDR`).
    pub range: Ipv4Net,
    /// Its own address.
    pub node: Ipv4Addr,
}

impl Peer {
    fn route(self) -> Route {
        Route { range: self.range, gateway: Some(self.node) }
    }
}

/// Makes the routes of the instance lead to these nodes and no others. Answers what the kernel refused, by peer.
pub(crate) fn set(instance: &Instance, peers: &[Peer]) -> Result<Vec<(Peer, io::Error)>, NetworkError> {
    let mut host = sandbox::open()?;
    let all = route::list(&mut host, instance).map_err(|source| NetworkError::PeerRoutes { source })?;
    let present = all.into_iter().filter_map(|Route { range, gateway }| Some(Peer { range, node: gateway? }));
    let present: Vec<Peer> = present.collect();
    let gone = present.iter().filter(|peer| !peers.contains(peer)).map(|peer| peer.route().remove(instance));
    drop(told(&mut host, gone.collect())?);
    let wanted: Vec<Peer> = peers.iter().filter(|peer| !present.contains(peer)).copied().collect();
    let results = told(&mut host, wanted.iter().map(|peer| peer.route().add(instance)).collect())?;
    Ok(wanted.into_iter().zip(results).filter_map(|(peer, result)| Some((peer, result.err()?))).collect())
}

fn told(
    host: &mut Conversation,
    requests: Vec<Request<RouteNetlinkMessage>>,
) -> Result<Vec<io::Result<()>>, NetworkError> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    host.ask(requests).map(|answer| answer.results).map_err(|source| NetworkError::PeerRoutes { source })
}

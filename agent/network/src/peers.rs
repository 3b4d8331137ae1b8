//! The ways to the pods of other nodes: one route for each node's range, by way of the node. The nodes share a link of
//! this machine; what lies behind a router is refused by the kernel, and told.

use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope};

use crate::instance::Instance;
use crate::netlink::{Conversation, Request};
use crate::{NetworkError, link, sandbox};

/// Another node of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// The addresses of its pods (`spec.podCIDR`).
    pub range: Ipv4Net,
    /// Its own address.
    pub node: Ipv4Addr,
}

/// Makes the routes of the instance lead to these nodes and no others. Answers what the kernel refused, by peer.
pub(crate) fn set(instance: &Instance, peers: &[Peer]) -> Result<Vec<(Peer, io::Error)>, NetworkError> {
    let mut host = sandbox::open()?;
    let present = list(&mut host, instance)?;
    let gone = present.iter().filter(|peer| !peers.contains(peer)).map(|peer| remove(instance, *peer));
    drop(told(&mut host, gone.collect())?);
    let wanted: Vec<Peer> = peers.iter().filter(|peer| !present.contains(peer)).copied().collect();
    let results = told(&mut host, wanted.iter().map(|peer| add(instance, *peer)).collect())?;
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

/// The routes of the instance as they are.
fn list(host: &mut Conversation, instance: &Instance) -> Result<Vec<Peer>, NetworkError> {
    let mut message = RouteMessage::default();
    message.header.address_family = netlink_packet_route::AddressFamily::Inet;
    let all =
        host.list(RouteNetlinkMessage::GetRoute(message)).map_err(|source| NetworkError::PeerRoutes { source })?;
    Ok(all.into_iter().filter_map(|reply| read(reply, instance)).collect())
}

fn read(reply: RouteNetlinkMessage, instance: &Instance) -> Option<Peer> {
    let RouteNetlinkMessage::NewRoute(route) = reply else { return None };
    let (mut range, mut node, mut metric) = (None, None, None);
    for attribute in route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(to)) => range = Some(to),
            RouteAttribute::Gateway(RouteAddress::Inet(by)) => node = Some(by),
            RouteAttribute::Priority(number) => metric = Some(number),
            _ => {}
        }
    }
    let is_ours = route.header.table == RouteHeader::RT_TABLE_MAIN && metric == Some(instance.route_metric());
    let range = Ipv4Net::new(range?, route.header.destination_prefix_length).ok()?;
    is_ours.then_some(Peer { range, node: node? })
}

fn route(instance: &Instance, peer: Peer) -> RouteMessage {
    let mut message = link::route(RouteScope::Universe);
    message.header.destination_prefix_length = peer.range.prefix_len();
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(peer.range.network())),
        RouteAttribute::Gateway(RouteAddress::Inet(peer.node)),
        // The mark of the instance: nothing else of a route has room for it.
        RouteAttribute::Priority(instance.route_metric()),
    ];
    message
}

fn add(instance: &Instance, peer: Peer) -> Request<RouteNetlinkMessage> {
    Request::new(RouteNetlinkMessage::NewRoute(route(instance, peer)), NLM_F_CREATE | NLM_F_REPLACE)
}

fn remove(instance: &Instance, peer: Peer) -> Request<RouteNetlinkMessage> {
    Request::new(RouteNetlinkMessage::DelRoute(route(instance, peer)), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_routes_with_the_mark_of_the_instance_are_its_own() {
        let (one, other) = (Instance::parse("0a1b2c3d").unwrap(), Instance::parse("0a1b2c3e").unwrap());
        let peer = Peer { range: "10.42.3.0/24".parse().unwrap(), node: Ipv4Addr::new(192, 168, 0, 7) };
        let reply = || RouteNetlinkMessage::NewRoute(route(&one, peer));
        assert_eq!(read(reply(), &one), Some(peer));
        assert_eq!(read(reply(), &other), None);
    }
}

//! Routes of the instance to ranges of pods, in the main table. Their metric is its mark: nothing else of a route has room
//! for it.
use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::instance::Instance;
use crate::link;
use crate::netlink::{Conversation, Request};

/// Where packets to a range go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) range: Ipv4Net,
    /// `None`: nowhere, and the sender is told so (EHOSTUNREACH).
    pub(crate) gateway: Option<Ipv4Addr>,
}

impl Route {
    pub(crate) fn add(self, instance: &Instance) -> Request<RouteNetlinkMessage> {
        Request::new(RouteNetlinkMessage::NewRoute(self.message(instance)), NLM_F_CREATE | NLM_F_REPLACE)
    }

    pub(crate) fn remove(self, instance: &Instance) -> Request<RouteNetlinkMessage> {
        Request::new(RouteNetlinkMessage::DelRoute(self.message(instance)), 0)
    }

    fn message(self, instance: &Instance) -> RouteMessage {
        let mut message = link::route(RouteScope::Universe);
        message.header.destination_prefix_length = self.range.prefix_len();
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet(self.range.network())),
            RouteAttribute::Priority(instance.route_metric()),
        ];
        match self.gateway {
            Some(gateway) => message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway))),
            None => message.header.kind = RouteType::Unreachable,
        }
        message
    }
}

/// The routes of the instance as they are.
pub(crate) fn list(host: &mut Conversation, instance: &Instance) -> io::Result<Vec<Route>> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    let all = host.list(RouteNetlinkMessage::GetRoute(message))?;
    Ok(all.into_iter().filter_map(|reply| read(reply, instance)).collect())
}

fn read(reply: RouteNetlinkMessage, instance: &Instance) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(route) = reply else { return None };
    let (mut range, mut gateway, mut metric) = (None, None, None);
    for attribute in route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(to)) => range = Some(to),
            RouteAttribute::Gateway(RouteAddress::Inet(by)) => gateway = Some(by),
            RouteAttribute::Priority(number) => metric = Some(number),
            _ => {}
        }
    }
    let is_ours = route.header.table == RouteHeader::RT_TABLE_MAIN
        && metric == Some(instance.route_metric())
        && (gateway.is_some() || route.header.kind == RouteType::Unreachable);
    let range = Ipv4Net::new(range?, route.header.destination_prefix_length).ok()?;
    is_ours.then_some(Route { range, gateway })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_routes_with_the_mark_of_the_instance_are_its_own() {
        let (one, other) = (Instance::parse("0a1b2c3d").unwrap(), Instance::parse("0a1b2c3e").unwrap());
        for gateway in [Some(Ipv4Addr::new(192, 168, 0, 7)), None] {
            let route = Route { range: "10.42.3.0/24".parse().unwrap(), gateway };
            let reply = || RouteNetlinkMessage::NewRoute(route.message(&one));
            assert_eq!(read(reply(), &one), Some(route));
            assert_eq!(read(reply(), &other), None);
        }
    }
}

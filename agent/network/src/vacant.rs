//! Addresses of the node's range that no pod has: whoever asks for one is told so at once, by the kernel (EHOSTUNREACH).
//! Without it such packets left by the default route, and who waited for a pod that is gone waited for minutes: its
//! connection stays with the old address for as long as it is tried (conntrack).
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::instance::Instance;
use crate::netlink::Request;
use crate::{NetworkError, link, sandbox};

/// Makes this range, and no earlier one, unreachable where no pod's own route leads. `None` for the end of the instance.
pub(crate) fn set(instance: &Instance, range: Option<Ipv4Net>) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::OwnRange { source };
    let mut host = sandbox::open()?;
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    let all = host.list(RouteNetlinkMessage::GetRoute(message)).map_err(failed)?;
    let present: Vec<Ipv4Net> = all.into_iter().filter_map(|reply| read(reply, instance)).collect();
    let gone = present.iter().filter(|there| Some(**there) != range);
    let mut requests: Vec<Request<RouteNetlinkMessage>> =
        gone.map(|range| Request::new(RouteNetlinkMessage::DelRoute(route(instance, *range)), 0)).collect();
    requests.extend(range.map(|range| {
        Request::new(RouteNetlinkMessage::NewRoute(route(instance, range)), NLM_F_CREATE | NLM_F_REPLACE)
    }));
    if requests.is_empty() {
        return Ok(());
    }
    let answer = host.ask(requests).map_err(failed)?;
    answer.results.into_iter().collect::<Result<(), _>>().map_err(failed)
}

fn read(reply: RouteNetlinkMessage, instance: &Instance) -> Option<Ipv4Net> {
    let RouteNetlinkMessage::NewRoute(route) = reply else { return None };
    let (mut range, mut metric) = (None::<Ipv4Addr>, None);
    for attribute in route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(to)) => range = Some(to),
            RouteAttribute::Priority(number) => metric = Some(number),
            _ => {}
        }
    }
    let is_ours = route.header.table == RouteHeader::RT_TABLE_MAIN
        && route.header.kind == RouteType::Unreachable
        && metric == Some(instance.route_metric());
    Ipv4Net::new(range?, route.header.destination_prefix_length).ok().filter(|_| is_ours)
}

fn route(instance: &Instance, range: Ipv4Net) -> RouteMessage {
    let mut message = link::route(RouteScope::Universe);
    message.header.kind = RouteType::Unreachable;
    message.header.destination_prefix_length = range.prefix_len();
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(range.network())),
        // The mark of the instance, as of the routes to other nodes.
        RouteAttribute::Priority(instance.route_metric()),
    ];
    message
}

//! The messages that make, find, configure and remove a pod's pair of links.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::instance::Instance;
use crate::netlink::{Conversation, Request};

/// The pod's end.
pub(crate) const POD_LINK: &str = "eth0";
/// Every pod's gateway: link-local, and nobody's address, as the neighbour entry is permanent.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The link-layer address of every host end. Both ends get theirs at creation: systemd-udevd leaves an address alone
/// that was given, and would break the permanent neighbour entries by changing one that the kernel drew.
const HOST_MAC: [u8; 6] = [0x0a, 0x67, 0, 0, 0, 1];

/// A link as far as we look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// The index of the other end, in its own namespace.
    pub(crate) peer: Option<u32>,
    group: u32,
    mtu: Option<u32>,
}

/// The link-layer address of the pod's end: local, and the pod's address below it.
fn pod_mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x68, a, b, c, d]
}

/// Makes the pair, one end here and one in the pod's namespace at once.
pub(crate) fn create(
    instance: &Instance,
    address: Ipv4Addr,
    mtu: u32,
    namespace: BorrowedFd<'_>,
) -> Request<RouteNetlinkMessage> {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(POD_LINK.to_owned()),
        LinkAttribute::Address(pod_mac(address).to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::NetNsFd(namespace.as_raw_fd()),
    ];
    let mut host = LinkMessage::default();
    host.attributes = vec![
        LinkAttribute::IfName(instance.link_name(address)),
        LinkAttribute::Address(HOST_MAC.to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Group(instance.link_group()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    Request::new(RouteNetlinkMessage::NewLink(host), NLM_F_CREATE | NLM_F_EXCL)
}

/// The link of that name in the conversation's namespace.
pub(crate) fn find(conversation: &mut Conversation, name: &str) -> io::Result<Option<Link>> {
    let mut message = LinkMessage::default();
    message.attributes =
        vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    let answer = conversation.ask(vec![Request::new(RouteNetlinkMessage::GetLink(message), 0)])?;
    for result in answer.results {
        match result {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => return Ok(None),
            result => result?,
        }
    }
    Ok(answer.replies.into_iter().find_map(read_link))
}

/// Every link of the instance, and whether its group holds nothing else.
pub(crate) fn list(conversation: &mut Conversation, instance: &Instance) -> io::Result<(Vec<Link>, bool)> {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    let links = conversation.list(RouteNetlinkMessage::GetLink(message))?;
    let prefix = instance.link_prefix();
    let in_group = links.into_iter().filter_map(read_link).filter(|link| link.group == instance.link_group());
    let (ours, others): (Vec<Link>, Vec<Link>) = in_group.partition(|link| link.name.starts_with(&prefix));
    Ok((ours, others.is_empty()))
}

fn read_link(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link { index: message.header.index, name: String::new(), peer: None, group: 0, mtu: None };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            LinkAttribute::Group(group) => link.group = group,
            LinkAttribute::Mtu(mtu) => link.mtu = Some(mtu),
            _ => {}
        }
    }
    Some(link)
}

/// Removes a link, and with it the other end.
pub(crate) fn remove(index: u32) -> Request<RouteNetlinkMessage> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Request::new(RouteNetlinkMessage::DelLink(message), 0)
}

/// Removes all links of a group, in the time that one takes.
pub(crate) fn remove_group(group: u32) -> Request<RouteNetlinkMessage> {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::Group(group)];
    Request::new(RouteNetlinkMessage::DelLink(message), 0)
}

/// Brings a link up; `alias` is what `ip link` shows people.
pub(crate) fn raise(index: u32, alias: Option<String>) -> Request<RouteNetlinkMessage> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = alias.into_iter().map(LinkAttribute::IfAlias).collect();
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// Gives a link an address of its own without a subnet.
pub(crate) fn address(index: u32, address: Ipv4Addr, scope: AddressScope) -> Request<RouteNetlinkMessage> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.scope = scope;
    message.header.index = index;
    message.attributes =
        vec![AddressAttribute::Local(IpAddr::V4(address)), AddressAttribute::Address(IpAddr::V4(address))];
    Request::new(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// The node's own address in its part of the pods' range, on loopback: it is there while there are no pods. The label
/// says whose it is, for `reset`; ifconfig's rule for labels is the link's name and a colon first.
pub(crate) fn own_address(instance: &Instance, address: Ipv4Addr) -> Request<RouteNetlinkMessage> {
    let mut request = self::address(LOOPBACK, address, AddressScope::Link);
    request.change(|message| {
        if let RouteNetlinkMessage::NewAddress(message) = message {
            message.attributes.push(AddressAttribute::Label(own_label(instance)));
        }
    });
    request
}

fn own_label(instance: &Instance) -> String {
    format!("lo:{}", instance.link_prefix())
}

/// Requests that remove the addresses of an instance from loopback.
pub(crate) fn remove_own_addresses(
    conversation: &mut Conversation,
    instance: &Instance,
) -> io::Result<Vec<Request<RouteNetlinkMessage>>> {
    let label = AddressAttribute::Label(own_label(instance));
    let all = conversation.list(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let own = all.into_iter().filter_map(|reply| match reply {
        RouteNetlinkMessage::NewAddress(message) if message.attributes.contains(&label) => {
            let local = message.attributes.iter().find(|part| matches!(part, AddressAttribute::Local(_)));
            let mut removed = AddressMessage::default();
            removed.header = message.header;
            removed.attributes = local.cloned().into_iter().chain([label.clone()]).collect();
            Some(Request::new(RouteNetlinkMessage::DelAddress(removed), 0))
        }
        _ => None,
    });
    Ok(own.collect())
}

/// Loopback is the first link of every network namespace.
const LOOPBACK: u32 = 1;

/// The pod, for the host: no ARP, so nothing to wait for and nothing to spoof.
pub(crate) fn pod_neighbour(index: u32, pod: Ipv4Addr) -> Request<RouteNetlinkMessage> {
    neighbour(index, pod, pod_mac(pod))
}

/// The gateway, for the pod.
pub(crate) fn gateway_neighbour(index: u32) -> Request<RouteNetlinkMessage> {
    neighbour(index, GATEWAY, HOST_MAC)
}

fn neighbour(index: u32, address: Ipv4Addr, mac: [u8; 6]) -> Request<RouteNetlinkMessage> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ];
    Request::new(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// The host's way to the pod.
pub(crate) fn pod_route(index: u32, pod: Ipv4Addr) -> Request<RouteNetlinkMessage> {
    let mut message = route_by(index, RouteScope::Link);
    message.header.destination_prefix_length = 32;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(pod)));
    Request::new(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// The pod's way to everything.
pub(crate) fn default_route(index: u32) -> Request<RouteNetlinkMessage> {
    let mut message = route_by(index, RouteScope::Universe);
    message.header.flags = RouteFlags::Onlink;
    message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(GATEWAY)));
    Request::new(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
}

fn route_by(index: u32, scope: RouteScope) -> RouteMessage {
    let mut message = route(scope);
    message.attributes = vec![RouteAttribute::Oif(index)];
    message
}

/// A route of the main table without its particulars.
pub(crate) fn route(scope: RouteScope) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = scope;
    message.header.kind = RouteType::Unicast;
    message
}

/// The MTU of the link that the default route leaves by: packets of pods that fit it need no fragmenting.
pub(crate) fn uplink_mtu(conversation: &mut Conversation) -> io::Result<Option<u32>> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    let routes = conversation.list(RouteNetlinkMessage::GetRoute(message))?;
    let uplink = routes.into_iter().find_map(|reply| match reply {
        RouteNetlinkMessage::NewRoute(route)
            if route.header.table == RouteHeader::RT_TABLE_MAIN && route.header.destination_prefix_length == 0 =>
        {
            route.attributes.into_iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(index),
                _ => None,
            })
        }
        _ => None,
    });
    let Some(index) = uplink else { return Ok(None) };
    let mut message = LinkMessage::default();
    message.header.index = index;
    let answer = conversation.ask(vec![Request::new(RouteNetlinkMessage::GetLink(message), 0)])?;
    Ok(answer.replies.into_iter().find_map(read_link).and_then(|link| link.mtu))
}

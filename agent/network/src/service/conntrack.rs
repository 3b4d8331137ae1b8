//! Connections that the kernel remembers, as far as Services are concerned.
//!
//! A UDP client that goes on sending keeps its entry alive for ever, and with it the way to an endpoint that is gone.
//! Entries like that are deleted; the next packet finds its way anew. Numbers are of
//! `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use std::io;
use std::net::Ipv4Addr;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::attribute::{Attributes, HEADER, Raw, read};
use super::ruleset::Backend;
use crate::netlink::{Conversation, Request};

/// `NFNL_SUBSYS_CTNETLINK`.
const CONNTRACK: u16 = 1;
const GET: u8 = 1;
const DELETE: u8 = 2;
const FAMILY_IPV4: u8 = 2;
const UDP: u8 = 17;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ZONE: u16 = 18;

/// One remembered connection.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flow {
    source: (Ipv4Addr, u16),
    destination: (Ipv4Addr, u16),
    /// Who answers.
    backend: Backend,
    zone: Option<[u8; 2]>,
}

/// Deletes the UDP flows that are stale by what they were sent to and who answers, `None` where that is the same.
/// Answers how many.
pub(super) fn forget(is_stale: impl Fn((Ipv4Addr, u16), Option<Backend>) -> bool) -> io::Result<usize> {
    let mut kernel = Conversation::open(NETLINK_NETFILTER)?;
    let everything = Raw::new(CONNTRACK, GET, FAMILY_IPV4, 0, Attributes::new());
    let flows: Vec<Flow> = kernel.list(everything)?.iter().filter_map(|raw| parse(&raw.body)).collect();
    let backend = |flow: &Flow| (flow.backend != flow.destination).then_some(flow.backend);
    let stale: Vec<&Flow> = flows.iter().filter(|flow| is_stale(flow.destination, backend(flow))).collect();
    for chunk in stale.chunks(256) {
        let requests = chunk.iter().map(|flow| Request::new(delete(flow), 0)).collect();
        for result in kernel.ask::<Raw>(requests)?.results {
            match result {
                // It ended by itself.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {}
                result => result?,
            }
        }
    }
    Ok(stale.len())
}

fn parse(body: &[u8]) -> Option<Flow> {
    let (mut original, mut reply, mut zone) = (None, None, None);
    for (kind, value) in read(body.get(HEADER..)?) {
        match kind {
            ORIGINAL => original = tuple(value),
            REPLY => reply = tuple(value),
            ZONE => zone = value.try_into().ok(),
            _ => {}
        }
    }
    let ((source, destination), (backend, _)) = (original?, reply?);
    Some(Flow { source, destination, backend, zone })
}

type Side = (Ipv4Addr, u16);

/// Source and destination of a UDP tuple.
fn tuple(bytes: &[u8]) -> Option<(Side, Side)> {
    let part = |bytes, wanted| read(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let (addresses, ports) = (part(bytes, 1)?, part(bytes, 2)?);
    if part(ports, 1)? != [UDP] {
        return None;
    }
    let address = |kind| Some(Ipv4Addr::from(<[u8; 4]>::try_from(part(addresses, kind)?).ok()?));
    let port = |kind| Some(u16::from_be_bytes(part(ports, kind)?.try_into().ok()?));
    Some(((address(1)?, port(2)?), (address(2)?, port(3)?)))
}

fn delete(flow: &Flow) -> Raw {
    let addresses = Attributes::new().bytes(1, &flow.source.0.octets()).bytes(2, &flow.destination.0.octets());
    let ports = Attributes::new().bytes(1, &[UDP]).bytes(2, &flow.source.1.to_be_bytes());
    let ports = ports.bytes(3, &flow.destination.1.to_be_bytes());
    let mut attributes = Attributes::new().nest(ORIGINAL, Attributes::new().nest(1, addresses).nest(2, ports));
    if let Some(zone) = flow.zone {
        attributes = attributes.bytes(ZONE, &zone);
    }
    Raw::new(CONNTRACK, DELETE, FAMILY_IPV4, 0, attributes)
}

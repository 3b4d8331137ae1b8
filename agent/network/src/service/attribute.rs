//! Netlink messages of netfilter as bytes: a header and attributes (`include/uapi/linux/netlink.h`, `nfnetlink.h`).
//!
//! The models of the crates know neither maps nor address translation, so the rules of Services are written out here.

use netlink_packet_core::{DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable};

const NESTED: u16 = 1 << 15;
const VERSION: u8 = 0;
/// Bytes of `struct nfgenmsg`.
pub(crate) const HEADER: usize = 4;

/// Attributes one after another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes(pub(crate) Vec<u8>);

impl Attributes {
    pub(crate) fn new() -> Attributes {
        Attributes::default()
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        // Callers keep below this; one that does not is refused by the kernel.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Attributes {
        self.put(kind, value);
        self
    }

    /// A number in network byte order, as nearly all of netfilter's are.
    pub(crate) fn number(self, kind: u16, value: u32) -> Attributes {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Attributes {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub(crate) fn nest(self, kind: u16, inner: Attributes) -> Attributes {
        self.bytes(kind | NESTED, &inner.0)
    }
}

/// The attributes in some bytes; ends at the first that is cut off.
pub(crate) fn read(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]) & !(NESTED | 1 << 14);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A message of some subsystem of netfilter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raw {
    kind: u16,
    pub(crate) body: Vec<u8>,
}

impl Raw {
    /// Of a subsystem, for an address family; `resource` is the subsystem in brackets of transactions.
    pub(crate) fn new(subsystem: u16, message: u8, family: u8, resource: u16, attributes: Attributes) -> Raw {
        let mut body = vec![family, VERSION];
        body.extend_from_slice(&resource.to_be_bytes());
        body.extend_from_slice(&attributes.0);
        Raw { kind: subsystem << 8 | u16::from(message), body }
    }
}

impl NetlinkSerializable for Raw {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..self.body.len()].copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for Raw {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Raw, DecodeError> {
        Ok(Raw { kind: header.message_type, body: payload.to_vec() })
    }
}

impl From<Raw> for NetlinkPayload<Raw> {
    fn from(raw: Raw) -> NetlinkPayload<Raw> {
        NetlinkPayload::InnerMessage(raw)
    }
}

//! Which keys of the store a Service holds.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use bytes::Bytes;
use serde_json::Value;

const PREFIX: &str = "/allocations/services/";

/// The key of an address.
pub(crate) fn key_of_address(address: Ipv4Addr) -> Bytes {
    format!("{PREFIX}addresses/{address}").into()
}

/// The key of a port of all nodes. A Service may use it for several protocols, two Services may not.
pub(crate) fn key_of_port(port: u16) -> Bytes {
    format!("{PREFIX}ports/{port}").into()
}

/// Whether a key of the store is one of these.
pub(crate) fn is_claim(key: &[u8]) -> bool {
    key.starts_with(PREFIX.as_bytes())
}

/// Everything that a Service holds.
pub(crate) fn claims(service: &Value) -> BTreeSet<Bytes> {
    let spec = &service["spec"];
    if spec["type"] == "ExternalName" {
        return BTreeSet::new();
    }
    let address = spec["clusterIP"].as_str().and_then(|text| text.parse().ok()).map(key_of_address);
    let ports = spec["ports"].as_array().into_iter().flatten().map(|port| &port["nodePort"]);
    let ports = ports.chain([&spec["healthCheckNodePort"]]);
    let ports = ports.filter_map(|port| u16::try_from(port.as_u64()?).ok().filter(|port| *port != 0));
    address.into_iter().chain(ports.map(key_of_port)).collect()
}

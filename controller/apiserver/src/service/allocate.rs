//! Choosing addresses and node ports for a Service, and checking those that its author named. Pure.

use std::net::Ipv4Addr;

use bytes::Bytes;
use controller_object::status::Cause;
use ipnet::Ipv4Net;
use serde_json::{Value, json};

use super::claim::{claims, key_of_address, key_of_port};
use super::{NODE_PORTS, Ranges};

/// What deciding needs to know of the world.
pub(crate) struct World<'a> {
    /// The Service as it stands, if this is a change.
    pub(crate) old: Option<&'a Value>,
    /// Whether a claim is somebody's.
    pub(crate) is_taken: &'a dyn Fn(&Bytes) -> bool,
    /// Any number; where the search for something free begins.
    pub(crate) random: u32,
}

/// Completes a Service, which passed validation. What cannot be had is told by field.
pub(crate) fn allocate(ranges: Ranges, world: &World<'_>, service: &mut Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let own = world.old.map(claims).unwrap_or_default();
    let is_free = |key: &Bytes| own.contains(key) || !(world.is_taken)(key);
    let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
    if kind == "ExternalName" {
        return causes;
    }
    let spec = &mut service["spec"];
    families(spec, &mut causes);
    address(ranges.cidr, world.random, &is_free, spec, &mut causes);
    let allocates = spec["allocateLoadBalancerNodePorts"] != false;
    let wants = kind == "NodePort" || kind == "LoadBalancer" && allocates;
    let mut chosen = Chosen { random: world.random, is_free: &is_free, made: Vec::new() };
    let ports = spec["ports"].as_array().cloned().unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}].nodePort");
        // One number serves both protocols of one port, as a name server has it.
        let shared = spec["ports"].as_array().into_iter().flatten().take(index);
        let shared = shared.filter(|other| other["port"] == port["port"] && other["protocol"] != port["protocol"]);
        let shared = shared.filter_map(|other| number(&other["nodePort"])).next();
        if let Some(port) = chosen.port(&port["nodePort"], wants, shared, &field, &mut causes) {
            spec["ports"][index]["nodePort"] = port.into();
        }
    }
    let checks_health = kind == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
    let wished = spec["healthCheckNodePort"].clone();
    if let Some(port) = chosen.port(&wished, checks_health, None, "spec.healthCheckNodePort", &mut causes) {
        spec["healthCheckNodePort"] = port.into();
    }
    causes
}

fn number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
}

/// One family, until the pod network has two.
fn families(spec: &mut Value, causes: &mut Vec<Cause>) {
    for (index, family) in spec["ipFamilies"].as_array().into_iter().flatten().enumerate() {
        if family != "IPv4" {
            causes.push(Cause::invalid(
                format!("spec.ipFamilies[{index}]"),
                family,
                "not configured on this cluster: expected IPv4",
            ));
        }
    }
    if spec["ipFamilyPolicy"] == "RequireDualStack" {
        let policy = spec["ipFamilyPolicy"].clone();
        causes.push(Cause::invalid(
            "spec.ipFamilyPolicy",
            &policy,
            "this cluster is not configured for dual-stack services",
        ));
    }
    if spec["ipFamilies"].as_array().is_none_or(Vec::is_empty) {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    if spec["ipFamilyPolicy"].as_str().is_none_or(str::is_empty) {
        spec["ipFamilyPolicy"] = "SingleStack".into();
    }
}

fn address(cidr: Ipv4Net, random: u32, is_free: &dyn Fn(&Bytes) -> bool, spec: &mut Value, causes: &mut Vec<Cause>) {
    let single = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
    let listed = spec["clusterIPs"].as_array().cloned().unwrap_or_default();
    if listed.len() > 1 {
        causes.push(Cause::invalid(
            "spec.clusterIPs",
            &Value::Array(listed),
            "may only hold 1 value: this cluster is not configured for dual-stack services",
        ));
        return;
    }
    let first = listed.first().and_then(Value::as_str).unwrap_or_default();
    if !first.is_empty() && first != single {
        causes.push(Cause::invalid(
            "spec.clusterIPs",
            &Value::Array(listed.clone()),
            "first value must match `clusterIP`",
        ));
        return;
    }
    let chosen = match single.as_str() {
        "None" => "None".to_owned(),
        "" => match free_address(cidr, random, is_free) {
            Some(address) => address.to_string(),
            None => {
                let detail = format!("failed to allocate a serviceIP: range {cidr} is full");
                causes.push(Cause::invalid("spec.clusterIPs", &json!([]), &detail));
                return;
            }
        },
        named => {
            let refusal = match named.parse::<Ipv4Addr>() {
                Ok(address) if !is_usable(cidr, address) => Some(format!(
                    "the provided IP ({named}) is not in the valid range. The range of valid IPs is {cidr}"
                )),
                Ok(address) if !is_free(&key_of_address(address)) => {
                    Some("provided IP is already allocated".to_owned())
                }
                Ok(_) => None,
                Err(_) => Some("must be an IPv4 address".to_owned()),
            };
            if let Some(refusal) = refusal {
                let detail = format!("failed to allocate IP {named}: {refusal}");
                causes.push(Cause::invalid("spec.clusterIPs", &json!([named]), &detail));
                return;
            }
            named.to_owned()
        }
    };
    spec["clusterIPs"] = json!([chosen]);
    spec["clusterIP"] = chosen.into();
}

fn is_usable(cidr: Ipv4Net, address: Ipv4Addr) -> bool {
    cidr.contains(&address) && (cidr.prefix_len() > 30 || address != cidr.network() && address != cidr.broadcast())
}

/// The part of a range that is left to addresses which authors name: a sixteenth, at least 16, at most 256 (KEP-3070).
fn static_band(size: u32) -> u32 {
    if size <= 16 { 0 } else { (size / 16).clamp(16, 256).min(size) }
}

fn free_address(cidr: Ipv4Net, random: u32, is_free: &dyn Fn(&Bytes) -> bool) -> Option<Ipv4Addr> {
    let first = u32::from(cidr.network()).checked_add(1)?;
    let size = u32::from(cidr.broadcast()).checked_sub(first)?;
    let found =
        search(size, static_band(size), random, |offset| is_free(&key_of_address(Ipv4Addr::from(first + offset))));
    found.map(|offset| Ipv4Addr::from(first + offset))
}

/// Looks through the upper band from anywhere, then through the lower one.
fn search(size: u32, band: u32, random: u32, is_free: impl Fn(u32) -> bool) -> Option<u32> {
    let upper = size.checked_sub(band).filter(|upper| *upper > 0)?;
    let start = random % upper;
    let upper = (0..upper).map(|step| band + (start + step) % upper);
    upper.chain(0..band).find(|offset| is_free(*offset))
}

/// The node ports that one Service gets.
struct Chosen<'a> {
    random: u32,
    is_free: &'a dyn Fn(&Bytes) -> bool,
    made: Vec<u16>,
}

impl Chosen<'_> {
    /// The port for one field: the one that is named, the one it shares, or a free one where `wants`.
    fn port(
        &mut self,
        wished: &Value,
        wants: bool,
        shared: Option<u16>,
        field: &str,
        causes: &mut Vec<Cause>,
    ) -> Option<u16> {
        let (first, last) = (*NODE_PORTS.start(), *NODE_PORTS.end());
        if let Some(port) = number(wished) {
            if !NODE_PORTS.contains(&port) {
                let detail =
                    format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
                causes.push(Cause::invalid(field, wished, &detail));
            } else if !(self.is_free)(&key_of_port(port)) {
                causes.push(Cause::invalid(field, wished, "provided port is already allocated"));
            } else {
                self.made.push(port);
            }
            return None;
        }
        if !wants {
            return None;
        }
        if shared.is_some() {
            return shared;
        }
        let size = u32::from(last - first) + 1;
        // KEP-3668: a thirty-second, at least 16, at most 128, is left to ports that authors name.
        let band = (size / 32).clamp(16, 128);
        let port_at = |offset: u32| first + u16::try_from(offset).unwrap_or(0);
        let is_free =
            |offset: u32| !self.made.contains(&port_at(offset)) && (self.is_free)(&key_of_port(port_at(offset)));
        match search(size, band, self.random, is_free) {
            Some(offset) => {
                self.made.push(port_at(offset));
                Some(port_at(offset))
            }
            None => {
                causes.push(Cause::invalid(field, wished, "failed to allocate a nodePort: range is full"));
                None
            }
        }
    }
}

#[cfg(test)]
#[path = "allocate_tests.rs"]
mod tests;

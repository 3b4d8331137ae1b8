//! Rules of services, endpoints, ingresses and policies.
use super::check::{Faults, cidr, ip, is_blank, join, labels, selector};
use crate::status::Cause;
use crate::tree::{entries, list, text};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

fn number(holder: &Value, key: &str, path: &str, faults: &mut Faults) {
    let value = holder.get(key).and_then(Value::as_i64).unwrap_or(0);
    for message in api::name::port_number(value) {
        faults.invalid(join(path, key), value, &message);
    }
}

pub(super) fn service(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    faults.needs_one_of(spec, "type", "spec", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    faults.needs_one_of(spec, "sessionAffinity", "spec", &["ClientIP", "None"]);
    let kind = text(spec, &["type"]).unwrap_or_default();
    let ports = list(spec, &["ports"]);
    let headless = spec["clusterIP"] == "None";
    if ports.is_empty() && !headless && kind != "ExternalName" {
        faults.required("spec.ports", "");
    }
    if kind == "ExternalName" {
        let name = text(spec, &["externalName"]).unwrap_or_default().trim_end_matches('.');
        if name.is_empty() {
            faults.required("spec.externalName", "");
        } else {
            faults.rule("spec.externalName", name, api::name::rfc1123_subdomain(name));
        }
        if !is_blank(spec.get("clusterIP")) {
            faults.forbidden("spec.clusterIP", "may not be set when `type` is 'ExternalName'");
        }
    }
    if matches!(kind, "NodePort" | "LoadBalancer") && headless {
        faults.invalid("spec.clusterIP", "None", &format!("may not be set to 'None' for {kind} services"));
    }
    let (mut names, mut pairs, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = text(port, &["name"]).unwrap_or_default();
        if name.is_empty() {
            if ports.len() > 1 {
                faults.required(join(&path, "name"), "");
            }
        } else {
            faults.rule(&join(&path, "name"), name, api::name::rfc1123_label(name));
            if !names.insert(name) {
                faults.add(Cause::duplicate(join(&path, "name"), &name.into()));
            }
        }
        number(port, "port", &path, faults);
        faults.needs_one_of(port, "protocol", &path, &PROTOCOLS);
        match port.get("targetPort") {
            Some(Value::String(name)) => faults.rule(&join(&path, "targetPort"), name, api::name::port_name(name)),
            Some(_) => number(port, "targetPort", &path, faults),
            None => {}
        }
        let protocol = text(port, &["protocol"]).unwrap_or("TCP");
        if !pairs.insert((port["port"].as_i64(), protocol)) {
            faults.add(Cause::duplicate(path.clone(), port));
        }
        if let Some(node) = port.get("nodePort").and_then(Value::as_i64).filter(|n| *n != 0) {
            if matches!(kind, "ClusterIP" | "ExternalName") {
                faults.forbidden(join(&path, "nodePort"), &format!("may not be used when `type` is '{kind}'"));
            }
            if !node_ports.insert((node, protocol)) {
                faults.add(Cause::duplicate(join(&path, "nodePort"), &node.into()));
            }
        }
    }
    labels(spec, &["selector"], "spec.selector", faults);
    for (index, address) in list(spec, &["clusterIPs"]).iter().filter_map(Value::as_str).enumerate() {
        if address != "None" && !address.is_empty() {
            ip(address, &format!("spec.clusterIPs[{index}]"), faults);
        }
    }
    for (index, address) in list(spec, &["externalIPs"]).iter().filter_map(Value::as_str).enumerate() {
        ip(address, &format!("spec.externalIPs[{index}]"), faults);
    }
    for (index, range) in list(spec, &["loadBalancerSourceRanges"]).iter().filter_map(Value::as_str).enumerate() {
        cidr(range.trim(), &format!("spec.loadBalancerSourceRanges[{index}]"), faults);
    }
    faults.one_of(spec, "externalTrafficPolicy", "spec", &["Cluster", "Local"]);
    faults.one_of(spec, "internalTrafficPolicy", "spec", &["Cluster", "Local"]);
    faults.one_of(spec, "ipFamilyPolicy", "spec", &["SingleStack", "PreferDualStack", "RequireDualStack"]);
}

pub(super) fn endpoints(object: &Value, faults: &mut Faults) {
    for (index, subset) in list(object, &["subsets"]).iter().enumerate() {
        let path = format!("subsets[{index}]");
        if list(subset, &["addresses"]).is_empty() && list(subset, &["notReadyAddresses"]).is_empty() {
            faults.required(path.clone(), "must specify `addresses` or `notReadyAddresses`");
        }
        for part in ["addresses", "notReadyAddresses"] {
            for (at, address) in list(subset, &[part]).iter().enumerate() {
                let (address, field) = (text(address, &["ip"]).unwrap_or_default(), format!("{path}.{part}[{at}].ip"));
                ip(address, &field, faults);
                reachable(address, &field, faults);
            }
        }
        for (at, port) in list(subset, &["ports"]).iter().enumerate() {
            number(port, "port", &format!("{path}.ports[{at}]"), faults);
        }
    }
}

/// Nobody may have a Service lead to what a machine keeps to itself.
fn reachable(address: &str, field: &str, faults: &mut Faults) {
    let Ok(address) = address.parse::<IpAddr>() else { return };
    if let Some(problem) = api::address::special(address) {
        faults.invalid(field, address.to_string(), problem);
    }
}

pub(super) fn endpoint_slice(object: &Value, faults: &mut Faults) {
    faults.needs_one_of(object, "addressType", "", &["FQDN", "IPv4", "IPv6"]);
    let kind = text(object, &["addressType"]).unwrap_or_default();
    let endpoints = list(object, &["endpoints"]);
    if endpoints.len() > 1000 {
        faults.add(Cause::too_many("endpoints", endpoints.len(), 1000));
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let addresses = list(endpoint, &["addresses"]);
        if addresses.is_empty() {
            faults.required(format!("endpoints[{index}].addresses"), "must contain at least 1 address");
        }
        for (at, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
            let field = format!("endpoints[{index}].addresses[{at}]");
            match kind {
                "FQDN" => faults.rule(&field, address, api::name::rfc1123_subdomain(address)),
                "IPv4" if address.parse::<std::net::Ipv4Addr>().is_err() => {
                    faults.invalid(field.as_str(), address, "must be a valid IPv4 address")
                }
                "IPv6" if address.parse::<std::net::Ipv6Addr>().is_err() => {
                    faults.invalid(field.as_str(), address, "must be a valid IPv6 address")
                }
                _ => {}
            }
            reachable(address, &field, faults);
        }
    }
    let mut names = BTreeSet::new();
    for (index, port) in list(object, &["ports"]).iter().enumerate() {
        let path = format!("ports[{index}]");
        let name = text(port, &["name"]).unwrap_or_default();
        if !names.insert(name) {
            faults.add(Cause::duplicate(join(&path, "name"), &name.into()));
        }
        if port.get("port").is_some() {
            number(port, "port", &path, faults);
        }
        faults.one_of(port, "protocol", &path, &PROTOCOLS);
    }
}

fn backend(backend: &Value, path: &str, faults: &mut Faults) {
    match (backend.get("service"), backend.get("resource")) {
        (Some(_), Some(_)) => faults.invalid(path, "", "cannot set both resource and service backends"),
        (None, None) => faults.invalid(path, "", "resource or service backend is required"),
        (None, Some(_)) => {}
        (Some(service), None) => {
            let path = join(path, "service");
            match text(service, &["name"]) {
                None | Some("") => faults.required(join(&path, "name"), ""),
                Some(name) => faults.rule(&join(&path, "name"), name, api::name::rfc1035_label(name)),
            }
            let port = &service["port"];
            match (is_blank(port.get("name")), port.get("number").and_then(Value::as_i64).unwrap_or(0)) {
                (true, 0) => faults.required(path, "port name or number is required"),
                (true, _) => number(port, "number", &join(&path, "port"), faults),
                (false, 0) => {}
                (false, _) => faults.invalid(path, "", "cannot set both port name & port number"),
            }
        }
    }
}

pub(super) fn ingress(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    let rules = list(spec, &["rules"]);
    if rules.is_empty() && spec.get("defaultBackend").is_none() {
        faults.invalid("spec", spec.clone(), "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(default) = spec.get("defaultBackend") {
        backend(default, "spec.defaultBackend", faults);
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        if let Some(host) = text(rule, &["host"]).filter(|h| !h.is_empty()) {
            if host.parse::<IpAddr>().is_ok() {
                faults.invalid(join(&path, "host"), host, "must be a DNS name, not an IP address");
            }
            faults.rule(
                &join(&path, "host"),
                host,
                api::name::rfc1123_subdomain(host.strip_prefix("*.").unwrap_or(host)),
            );
        }
        let paths = list(rule, &["http", "paths"]);
        if rule.get("http").is_some() && paths.is_empty() {
            faults.required(join(&path, "http.paths"), "");
        }
        for (at, entry) in paths.iter().enumerate() {
            let place = format!("{path}.http.paths[{at}]");
            if is_blank(entry.get("pathType")) {
                faults.required(join(&place, "pathType"), "pathType must be specified");
            } else {
                faults.one_of(entry, "pathType", &place, &["Exact", "ImplementationSpecific", "Prefix"]);
            }
            let route = text(entry, &["path"]).unwrap_or_default();
            if entry["pathType"] != "ImplementationSpecific" && !route.starts_with('/') {
                faults.invalid(join(&place, "path"), route, "must be an absolute path");
            }
            backend(&entry["backend"], &join(&place, "backend"), faults);
        }
    }
}

pub(super) fn network_policy(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    selector(&spec["podSelector"], "spec.podSelector", faults);
    for (index, kind) in list(spec, &["policyTypes"]).iter().enumerate() {
        if kind != "Ingress" && kind != "Egress" {
            faults.add(Cause::unsupported(format!("spec.policyTypes[{index}]"), kind, &["Egress", "Ingress"]));
        }
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in list(spec, &[direction]).iter().enumerate() {
            let path = format!("spec.{direction}[{index}]");
            for (at, port) in list(rule, &["ports"]).iter().enumerate() {
                let place = format!("{path}.ports[{at}]");
                faults.one_of(port, "protocol", &place, &PROTOCOLS);
                match port.get("port") {
                    Some(Value::String(name)) => faults.rule(&join(&place, "port"), name, api::name::port_name(name)),
                    Some(_) => number(port, "port", &place, faults),
                    None if port.get("endPort").is_some() => {
                        faults.required(join(&place, "port"), "must be specified when `endPort` is set")
                    }
                    None => {}
                }
            }
            for (at, peer) in list(rule, &[peers]).iter().enumerate() {
                let place = format!("{path}.{peers}[{at}]");
                if entries(peer, &[]).next().is_none() {
                    faults.required(place.clone(), "must specify a peer");
                }
                for key in ["podSelector", "namespaceSelector"] {
                    selector(&peer[key], &join(&place, key), faults);
                }
                if let Some(block) = peer.get("ipBlock") {
                    if peer.get("podSelector").is_some() || peer.get("namespaceSelector").is_some() {
                        faults.forbidden(place.clone(), "may not specify both ipBlock and another peer");
                    }
                    cidr(text(block, &["cidr"]).unwrap_or_default(), &join(&place, "ipBlock.cidr"), faults);
                    for (n, except) in list(block, &["except"]).iter().filter_map(Value::as_str).enumerate() {
                        cidr(except, &format!("{place}.ipBlock.except[{n}]"), faults);
                    }
                }
            }
        }
    }
}

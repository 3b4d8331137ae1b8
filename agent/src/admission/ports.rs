//! Ports of the machine: each is one pod's. Pure.

use k8s_openapi::api::core::v1::{ContainerPort, PodSpec};

use super::Reason;

const ANY: &str = "0.0.0.0";

/// A port of the machine: address, protocol, number.
pub(super) type Port = (Box<str>, Box<str>, i32);

/// The ports of the machine that a pod asks for (`hostPort`).
pub(super) fn wanted(spec: &PodSpec) -> Vec<Port> {
    let sidecars = spec.init_containers.iter().flatten().filter(|container| api::pod::is_sidecar(container));
    let all = sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    let port = |port: &ContainerPort| {
        let address = port.host_ip.as_deref().filter(|address| !address.is_empty()).unwrap_or(ANY);
        let number = port.host_port.filter(|number| *number > 0)?;
        Some((address.into(), port.protocol.as_deref().unwrap_or("TCP").into(), number))
    };
    all.filter_map(port).collect()
}

/// Whether somebody has one of these already.
pub(super) fn refuse<'a>(wanted: &[Port], mut taken: impl Iterator<Item = &'a Port>) -> Option<Reason> {
    let is_taken = taken.any(|other| wanted.iter().any(|port| collide(port, other)));
    is_taken.then_some(Reason::Predicate {
        name: "NodePorts",
        why: "node(s) didn't have free ports for the requested pod ports",
    })
}

fn collide(a: &Port, b: &Port) -> bool {
    a.2 == b.2 && a.1 == b.1 && (a.0 == b.0 || *a.0 == *ANY || *b.0 == *ANY)
}

//! What a node refuses of the pods that are bound to it. The scheduler looks before it binds; a pod that names its node
//! itself was looked at by nobody. What is refused fails at once, and its controller makes another one.

use std::collections::HashMap;

use agent_pod::protocol::Failure;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

const ANY: &str = "0.0.0.0";

/// A port of the machine: address, protocol, number.
type Port = (Box<str>, Box<str>, i32);

/// The ports of the machine that pods of this node have, by the pod's uid.
#[derive(Debug, Default)]
pub(crate) struct Ports(HashMap<String, Vec<Port>>);

impl Ports {
    /// Takes a pod's ports for it, or says why it cannot have them. A pod that was admitted once is not asked again.
    /// `counts` tells who is known to be here still.
    pub(crate) fn admit(&mut self, uid: &str, pod: &Pod, counts: impl Fn(&str) -> bool) -> Result<(), Failure> {
        if api::pod::is_terminal(pod) {
            return Ok(());
        }
        let wanted = pod.spec.as_ref().map(ports).unwrap_or_default();
        if wanted.is_empty() {
            return Ok(());
        }
        let is_known = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        let others = || self.0.iter().filter(|(other, _)| *other != uid && counts(other)).flat_map(|(_, ports)| ports);
        if !is_known && others().any(|taken| wanted.iter().any(|port| collide(port, taken))) {
            return Err(Failure {
                reason: "NodePorts".into(),
                message: "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".into(),
            });
        }
        self.0.insert(uid.to_owned(), wanted);
        Ok(())
    }

    /// The pod is gone, or ended.
    pub(crate) fn release(&mut self, uid: &str) {
        self.0.remove(uid);
    }
}

fn collide(a: &Port, b: &Port) -> bool {
    a.2 == b.2 && a.1 == b.1 && (a.0 == b.0 || *a.0 == *ANY || *b.0 == *ANY)
}

fn ports(spec: &PodSpec) -> Vec<Port> {
    let sidecars = spec.init_containers.iter().flatten().filter(|container| api::pod::is_sidecar(container));
    let all = sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    let port = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        let address = port.host_ip.as_deref().filter(|address| !address.is_empty()).unwrap_or(ANY);
        let number = port.host_port.filter(|number| *number > 0)?;
        Some((address.into(), port.protocol.as_deref().unwrap_or("TCP").into(), number))
    };
    all.filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn all(_: &str) -> bool {
        true
    }

    fn pod(address: &str, protocol: &str, status: Value) -> Pod {
        let port = json!({"containerPort": 80, "hostPort": 8080, "hostIP": address, "protocol": protocol});
        from_value(json!({"spec": {"containers": [{"name": "c", "ports": [port]}]}, "status": status})).unwrap()
    }

    #[test]
    fn a_port_is_one_pods_until_that_is_gone() {
        let mut ports = Ports::default();
        let fresh = |address: &str, protocol: &str| pod(address, protocol, json!({}));
        assert!(ports.admit("a", &fresh("", "TCP"), all).is_ok());
        assert_eq!(ports.admit("b", &fresh("127.0.0.1", "TCP"), all).unwrap_err().reason, "NodePorts");
        assert!(ports.admit("c", &fresh("", "UDP"), all).is_ok());
        assert!(ports.admit("a", &fresh("", "TCP"), all).is_ok(), "it has them already");
        assert!(
            ports.admit("b", &fresh("", "TCP"), |uid| uid != "a").is_ok(),
            "who is not known to be here does not count"
        );
        ports.release("b");
        ports.release("a");
        assert!(ports.admit("b", &fresh("127.0.0.1", "TCP"), all).is_ok());
        assert!(ports.admit("d", &fresh("127.0.0.2", "TCP"), all).is_ok());
        assert!(ports.admit("e", &fresh("0.0.0.0", "TCP"), all).is_err());
    }

    #[test]
    fn who_was_here_before_a_restart_stays_and_who_ended_counts_for_nothing() {
        let mut ports = Ports::default();
        assert!(ports.admit("ended", &pod("", "TCP", json!({"phase": "Succeeded"})), all).is_ok());
        assert!(ports.admit("a", &pod("", "TCP", json!({})), all).is_ok());
        assert!(ports.admit("old", &pod("", "TCP", json!({"startTime": "2026-01-01T00:00:00Z"})), all).is_ok());
    }
}

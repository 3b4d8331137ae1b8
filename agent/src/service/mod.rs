//! Services as this node sees them: one watch for Services, one for EndpointSlices, and the host ports of its pods;
//! together the rules of the kernel and the variables of containers.

mod facts;
mod links;
mod run;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent_network::{HostPort, Protocol, ServicePort};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use tokio::sync::{Notify, watch};

pub(crate) use facts::{ServiceFacts, SliceFacts};
pub(crate) use run::run;

/// What is known of Services, shared by the watches, the pods' workers and the one who writes the rules.
pub(crate) struct Known {
    node: String,
    state: Mutex<State>,
    news: Notify,
    listed: watch::Sender<[bool; 2]>,
}

#[derive(Default)]
struct State {
    services: BTreeMap<String, ServiceFacts>,
    slices: BTreeMap<String, SliceFacts>,
    host_ports: HashMap<String, Vec<HostPort>>,
}

impl Known {
    pub(crate) fn new(node: &str) -> Arc<Known> {
        let listed = watch::Sender::new([false; 2]);
        Arc::new(Known { node: node.to_owned(), state: Mutex::default(), news: Notify::new(), listed })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two of its calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until Services and slices were listed once.
    pub(crate) async fn listed(&self) {
        // The sender lives in self, so that this cannot fail.
        let _ = self.listed.subscribe().wait_for(|listed| listed.iter().all(|listed| *listed)).await;
    }

    /// A pod has these addresses from now on; its host ports lead there.
    pub(crate) fn pod_has(&self, uid: &str, pod: &Pod, ips: &[String]) {
        let ports = host_ports(pod, ips);
        if !ports.is_empty() {
            self.state().host_ports.insert(uid.to_owned(), ports);
            self.news.notify_one();
        }
    }

    /// A pod is no more.
    pub(crate) fn pod_is_gone(&self, uid: &str) {
        if self.state().host_ports.remove(uid).is_some() {
            self.news.notify_one();
        }
    }

    /// The variables that containers of a pod get for Services.
    pub(crate) fn links(&self, namespace: &str, spec: &PodSpec) -> BTreeMap<String, String> {
        let wants_all = spec.enable_service_links != Some(false);
        links::variables(self.state().services.values(), namespace, wants_all)
    }

    fn rules(&self) -> (Vec<ServicePort>, Vec<HostPort>) {
        let state = self.state();
        let services = facts::service_ports(state.services.values(), state.slices.values(), &self.node);
        let mut host_ports: Vec<HostPort> = state.host_ports.values().flatten().copied().collect();
        host_ports.sort();
        (services, host_ports)
    }
}

/// The ports of this machine that lead to a pod with a network of its own.
fn host_ports(pod: &Pod, ips: &[String]) -> Vec<HostPort> {
    let Some(spec) = pod.spec.as_ref().filter(|spec| spec.host_network != Some(true)) else { return Vec::new() };
    let Some(address) = ips.iter().find_map(|ip| ip.parse().ok()) else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let host_address = port.host_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "0.0.0.0");
            Some(HostPort {
                host_address: host_address.map(str::parse).transpose().ok()?,
                protocol: Protocol::parse(port.protocol.as_deref().unwrap_or("TCP"))?,
                host_port: u16::try_from(port.host_port?).ok().filter(|port| *port != 0)?,
                address,
                port: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect()
}

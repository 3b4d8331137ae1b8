//! The other nodes of the cluster: the kernel's routes to their pods follow the Node objects.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use agent_network::Peer;
use api::event::Severity;
use futures::StreamExt as _;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use tokio::time::Instant;

use crate::execute::{Host, chain};

/// When what was refused is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// Keeps the routes as the Nodes are, for as long as it is polled.
pub(crate) async fn run(host: Arc<Host>) {
    let nodes = Api::<Node>::all(host.client.clone());
    let mut events = Box::pin(watcher(nodes, watcher::Config::default()).default_backoff());
    let (mut known, mut listed) = (BTreeMap::<String, Peer>::new(), None::<BTreeMap<String, Peer>>);
    let mut set: Option<Vec<Peer>> = None;
    let mut refused: Vec<Peer> = Vec::new();
    let mut again: Option<Instant> = None;
    loop {
        let due = again.unwrap_or_else(Instant::now);
        // Cancel safety: the stream keeps what it has not given out.
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(watcher::Event::Init)) => listed = Some(BTreeMap::new()),
                Some(Ok(watcher::Event::InitApply(node))) => take(listed.get_or_insert_default(), &node),
                Some(Ok(watcher::Event::InitDone)) => known = listed.take().unwrap_or_default(),
                Some(Ok(watcher::Event::Apply(node))) => take(&mut known, &node),
                Some(Ok(watcher::Event::Delete(node))) => drop(known.remove(node.metadata.name.as_deref().unwrap_or_default())),
                Some(Err(error)) => tracing::debug!(%error, "the watch of nodes is started again"),
                None => return,
            },
            () = tokio::time::sleep_until(due), if again.is_some() => (set, again) = (None, None),
        }
        // Half a list says nothing of nodes that are gone.
        if listed.is_some() {
            continue;
        }
        let wanted = wanted(&known, &host.config.node_name, host.config.cluster_cidr);
        if set.as_ref() == Some(&wanted) {
            continue;
        }
        match host.network.set_peers(wanted.clone()).await {
            Ok(failed) => {
                again = (!failed.is_empty()).then(|| Instant::now() + AGAIN);
                for (peer, error) in failed.iter().filter(|(peer, _)| !refused.contains(peer)) {
                    let message = format!(
                        "Could not create a route to the pods {} of the node at {}: {error}. Nodes have to share a network.",
                        peer.range, peer.node
                    );
                    tracing::warn!(message, "route");
                    host.recorder.node(&host.client, Severity::Warning, "FailedToCreateRoute", &message).await;
                }
                refused = failed.into_iter().map(|(peer, _)| peer).collect();
                set = Some(wanted);
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "setting the routes to other nodes");
                again = Some(Instant::now() + AGAIN);
            }
        }
    }
}

/// Takes a node's range and address in; one that lacks either is not reachable yet.
fn take(known: &mut BTreeMap<String, Peer>, node: &Node) {
    let name = node.metadata.name.clone().unwrap_or_default();
    match peer(node) {
        Some(peer) => known.insert(name, peer),
        None => known.remove(&name),
    };
}

fn peer(node: &Node) -> Option<Peer> {
    let range = node.spec.as_ref()?.pod_cidr.as_ref()?.parse::<Ipv4Net>().ok()?.trunc();
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().find(|address| address.type_ == "InternalIP")?;
    Some(Peer { range, node: internal.address.parse::<Ipv4Addr>().ok()? })
}

/// The routes that this node wants. What another node says of itself is believed only as far as it takes nothing away:
/// its range lies in the cluster's and is not this node's own.
fn wanted(known: &BTreeMap<String, Peer>, own: &str, cluster: Ipv4Net) -> Vec<Peer> {
    let mine = known.get(own).map(|peer| peer.range);
    let overlaps = |range: Ipv4Net| mine.is_some_and(|mine| mine.contains(&range) || range.contains(&mine));
    let mut peers: Vec<Peer> = known
        .iter()
        .filter(|(name, peer)| *name != own && cluster.contains(&peer.range) && !overlaps(peer.range))
        .map(|(_, peer)| *peer)
        .filter(|peer| known.get(own).is_none_or(|mine| mine.node != peer.node))
        .collect();
    peers.sort();
    peers
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn others_are_reached_by_their_addresses_and_nobody_takes_this_nodes_pods() {
        let node = |name: &str, range: Option<&str>, address: &str| -> Node {
            from_value(json!({"metadata": {"name": name}, "spec": {"podCIDR": range},
                "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}]}}))
            .unwrap()
        };
        let mut known = BTreeMap::new();
        for node in [
            node("a", Some("10.42.0.0/24"), "192.168.0.1"),
            node("b", Some("10.42.1.0/24"), "192.168.0.2"),
            node("young", None, "192.168.0.3"),
            node("greedy", Some("10.42.0.0/16"), "192.168.0.4"),
            node("elsewhere", Some("0.0.0.0/0"), "192.168.0.5"),
        ] {
            take(&mut known, &node);
        }
        let cluster = "10.42.0.0/16".parse().unwrap();
        let b = Peer { range: "10.42.1.0/24".parse().unwrap(), node: Ipv4Addr::new(192, 168, 0, 2) };
        assert_eq!(wanted(&known, "a", cluster), [b]);
        take(&mut known, &node("b", None, "192.168.0.2"));
        assert_eq!(wanted(&known, "a", cluster), []);
    }
}

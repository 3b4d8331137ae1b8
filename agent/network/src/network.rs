//! The pod network of one instance: who holds which address, and which pod is being worked on.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::Ipv4Net;
use tokio::sync::{OwnedMutexGuard, watch};

use crate::instance::Instance;
use crate::lease::{self, Leases};
use crate::peers::{self, Peer};
use crate::pool::{self, Leased, Pool};
use crate::rules::Rules;
use crate::sandbox::{self, Sandbox, on_thread};
use crate::service::Services;
use crate::service::fixed::Place;
use crate::{NetworkError, forwarding, link, vacant};

/// Of a pod's link where no default route says better.
const ETHERNET_MTU: u32 = 1500;

/// What the pod network needs to know when it opens.
#[derive(Debug, Clone)]
pub struct Config {
    /// Eight hexadecimal digits; everything global that is made carries them.
    pub instance: String,
    /// Where leases live; they mean nothing after a reboot, so it belongs on a tmpfs.
    pub state_dir: PathBuf,
    /// The range of all pods of the cluster; traffic inside it keeps its source address.
    pub cluster_cidr: Ipv4Net,
    /// The range of the Services' addresses.
    pub service_cidr: Ipv4Net,
}

/// The pod network of one instance; a clone is the same network.
#[derive(Debug, Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    instance: Instance,
    cluster_cidr: Ipv4Net,
    service_cidr: Ipv4Net,
    table: Mutex<Table>,
    /// One lock per pod in work: setup and teardown of one pod never overlap, those of different pods do.
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Serializes changes of the range.
    changing: tokio::sync::Mutex<()>,
    node: watch::Sender<Option<Node>>,
}

#[derive(Debug)]
struct Table {
    pool: Pool,
    leases: Leases,
}

/// What the node's range decides.
#[derive(Debug, Clone, Copy)]
struct Node {
    range: Ipv4Net,
    address: Ipv4Addr,
    mtu: u32,
}

impl Network {
    /// Opens the network: reads the leases, leaves the kernel alone. The range comes later, with the Node.
    pub async fn open(config: Config) -> Result<Network, NetworkError> {
        let instance = Instance::parse(&config.instance)?;
        let (leases, pool) = Leases::open(config.state_dir)?;
        let shared = Shared {
            instance,
            cluster_cidr: config.cluster_cidr.trunc(),
            service_cidr: config.service_cidr.trunc(),
            table: Mutex::new(Table { pool, leases }),
            busy: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            node: watch::Sender::new(None),
        };
        Ok(Network { shared: Arc::new(shared) })
    }

    /// Sets the range this node gives addresses from (`spec.podCIDR`), and makes the kernel forward and masquerade it.
    ///
    /// # Guarantees
    /// Idempotent; the same range again does nothing. The rules change in one transaction.
    ///
    /// # Caveats
    /// Pods that hold an address of an earlier range keep it, but their traffic is masqueraded no longer.
    pub async fn set_pod_range(&self, range: Ipv4Net) -> Result<(), NetworkError> {
        let range = range.trunc();
        let shared = &self.shared;
        let address = pool::node_address(range)?;
        if !shared.cluster_cidr.contains(&range) {
            return Err(NetworkError::RangeOutside { range, cluster: shared.cluster_cidr });
        }
        let _changing = shared.changing.lock().await;
        if shared.node.borrow().is_some_and(|node| node.range == range) {
            return Ok(());
        }
        let rules = Rules { instance: shared.instance.clone(), pod_range: range, cluster_cidr: shared.cluster_cidr };
        let mtu = on_thread(shared.instance.table(), (), move || {
            forwarding::enable()?;
            rules.install()?;
            let mut host = sandbox::open()?;
            sandbox::use_own_address(&mut host, &rules.instance, address)?;
            vacant::set(&rules.instance, Some(range))?;
            let uplink = link::uplink_mtu(&mut host);
            uplink.map_err(|source| NetworkError::ListLinks { source })
        })
        .await?;
        shared.node.send_replace(Some(Node { range, address, mtu: mtu.unwrap_or(ETHERNET_MTU) }));
        Ok(())
    }

    /// Makes the pods of these nodes, and of no others, reachable from here. Answers the nodes that cannot be reached
    /// directly, with the kernel's reason: ENETUNREACH where none of this machine's links leads to the node.
    pub async fn set_peers(&self, peers: Vec<Peer>) -> Result<Vec<(Peer, std::io::Error)>, NetworkError> {
        let instance = self.shared.instance.clone();
        let _changing = self.shared.changing.lock().await;
        on_thread(instance.table(), (), move || peers::set(&instance, &peers)).await
    }

    /// The host's address in the node's range, once there is one.
    pub async fn node_address(&self) -> Result<Ipv4Addr, NetworkError> {
        let mut node = self.shared.node.subscribe();
        let node = node.wait_for(Option::is_some).await.ok().and_then(|node| *node).ok_or(NetworkError::Closed)?;
        Ok(node.address)
    }

    /// The rules of Services of this node, once it has a range. There may be only one such value at a time.
    pub async fn services(&self) -> Result<Services, NetworkError> {
        let shared = &self.shared;
        Ok(Services::new(Place {
            table: shared.instance.service_table(),
            link_prefix: shared.instance.link_prefix(),
            service_cidr: shared.service_cidr,
            cluster_cidr: shared.cluster_cidr,
            node_address: self.node_address().await?,
        }))
    }

    /// Connects the pod's network namespace and returns the pod's addresses.
    ///
    /// # Flow
    /// Waits for the range, leases an address, makes a pair of links, routes.
    ///
    /// # Guarantees
    /// Idempotent for a uid: its address stays the same until `teardown`, also for a new namespace and after a restart
    /// of the agent. If it fails, an address leased here is free again.
    pub async fn setup(&self, uid: &str, netns: &Path) -> Result<Vec<IpAddr>, NetworkError> {
        lease::check_uid(uid)?;
        let mut node = self.shared.node.subscribe();
        // The sender lives in `shared`, so waiting can only end with a range.
        let node = node.wait_for(Option::is_some).await.ok().and_then(|node| *node).ok_or(NetworkError::Closed)?;
        let claim = self.claim(uid).await;
        let leased = self.lease(uid, node.range)?;
        let (Leased::Held(address) | Leased::New(address)) = leased;
        let sandbox = Sandbox {
            instance: self.shared.instance.clone(),
            uid: uid.to_owned(),
            namespace: netns.to_owned(),
            address,
            node_address: node.address,
            mtu: node.mtu,
        };
        let network = self.clone();
        on_thread(self.shared.instance.link_name(address), claim, move || {
            let connected = sandbox.connect();
            if connected.is_err() && leased == Leased::New(address) {
                // The first error is the one to tell.
                let _ = network.release(&sandbox.uid);
            }
            connected
        })
        .await?;
        Ok(vec![IpAddr::V4(address)])
    }

    /// Disconnects the pod and frees its address; nothing there is no error.
    pub async fn teardown(&self, uid: &str) -> Result<(), NetworkError> {
        lease::check_uid(uid)?;
        let claim = self.claim(uid).await;
        let Some(address) = self.table().pool.address(uid) else { return Ok(()) };
        let network = self.clone();
        let uid = uid.to_owned();
        on_thread(self.shared.instance.link_name(address), claim, move || {
            sandbox::disconnect(&network.shared.instance, address)?;
            network.release(&uid)
        })
        .await
    }

    /// Frees leases and links of pods that are no more, after a start of the agent; goes on after a failure.
    pub async fn retain(&self, uids: &HashSet<String>) -> Result<(), NetworkError> {
        let mut errors = Vec::new();
        let held = self.table().pool.uids();
        for uid in held.into_iter().filter(|uid| !uids.contains(uid)) {
            errors.extend(self.teardown(&uid).await.err());
        }
        let network = self.clone();
        let stray = on_thread(self.shared.instance.table(), (), move || {
            // A link is made after its lease and goes before it, so one without a lease when it is looked at belongs
            // to nobody.
            sandbox::disconnect_strays(&network.shared.instance, |link| network.is_leased(link))
        });
        errors.extend(stray.await.err());
        NetworkError::collect(errors)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // The table is consistent between any two of its calls.
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(&self, uid: &str, range: Ipv4Net) -> Result<Leased, NetworkError> {
        let mut table = self.table();
        let leased = table.pool.lease(uid, range)?;
        if let Leased::New(address) = leased {
            let written = table.leases.write(uid, address);
            if written.is_err() {
                table.pool.free(uid);
            }
            written?;
        }
        Ok(leased)
    }

    fn release(&self, uid: &str) -> Result<(), NetworkError> {
        let mut table = self.table();
        table.leases.remove(uid)?;
        table.pool.free(uid);
        Ok(())
    }

    fn is_leased(&self, link: &str) -> bool {
        let address = link.strip_prefix(&self.shared.instance.link_prefix());
        address
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .is_some_and(|address| self.table().pool.holds(Ipv4Addr::from(address)))
    }

    /// Waits until nobody else works on the pod.
    async fn claim(&self, uid: &str) -> Claim {
        let lock = {
            let mut busy = self.shared.busy.lock().unwrap_or_else(PoisonError::into_inner);
            busy.entry(uid.to_owned()).or_default().clone()
        };
        Claim { guard: Some(lock.lock_owned().await), uid: uid.to_owned(), network: self.clone() }
    }
}

/// The right to work on one pod; goes to the working thread, so that a caller who gives up does not end it early.
struct Claim {
    guard: Option<OwnedMutexGuard<()>>,
    uid: String,
    network: Network,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.guard = None;
        let mut busy = self.network.shared.busy.lock().unwrap_or_else(PoisonError::into_inner);
        // One count is the map's: nobody else holds the lock or waits for it.
        if busy.get(&self.uid).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            busy.remove(&self.uid);
        }
    }
}

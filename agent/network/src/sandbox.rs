//! Connecting and disconnecting one pod.
//!
//! The host routes the pod's address to one end of a pair of links; the pod's end has that address and a default route
//! to a link-local gateway that no one owns. Each connecting runs on a short-lived thread of its own, which visits the
//! pod's namespace to open a socket there: no thread of tokio's pool is ever in a namespace that is not the host's.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use agent_sys::namespace::setns;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressScope;
use netlink_sys::protocols::NETLINK_ROUTE;
use tokio::sync::oneshot;

use crate::instance::Instance;
use crate::link::{self, Link, POD_LINK};
use crate::netlink::{Conversation, Request};
use crate::{NetworkError, PodStep, forwarding};

/// Serializing a few messages needs a fraction of this.
const STACK: usize = 256 * 1024;

/// One pod to connect.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    pub(crate) instance: Instance,
    pub(crate) uid: String,
    pub(crate) namespace: PathBuf,
    pub(crate) address: Ipv4Addr,
    /// The host's address in the node's range: where its connections to pods come from, and `ping` gets answers from.
    pub(crate) node_address: Ipv4Addr,
    pub(crate) mtu: u32,
}

/// Runs blocking work on a thread of its own, in the caller's network namespace. `keep` is held until the work ends,
/// also when nobody waits for it any more.
pub(crate) async fn on_thread<T: Send + 'static>(
    subject: String,
    keep: impl Send + 'static,
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("pod-network".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            let result = work();
            drop(keep);
            // The caller may have gone: the work is done all the same.
            let _ = sender.send(result);
        })
        .map_err(|source| NetworkError::Thread { subject: subject.clone(), source })?;
    receiver.await.map_err(|_| NetworkError::Thread { subject, source: io::Error::other("the thread ended early") })?
}

impl Sandbox {
    /// Connects the pod, or completes what an earlier attempt began. To be called on a thread of its own.
    pub(crate) fn connect(&self) -> Result<(), NetworkError> {
        let mut host = open()?;
        let (namespace, mut pod) = self.join()?;
        let name = self.instance.link_name(self.address);
        let host_end = find(&mut host, &name)?;
        let pod_end = find(&mut pod, POD_LINK)?;
        match (host_end, pod_end) {
            (Some(host_end), Some(pod_end))
                if host_end.peer == Some(pod_end.index) && pod_end.peer == Some(host_end.index) =>
            {
                self.configure(&mut host, host_end.index, &mut pod, pod_end.index)
            }
            (_, Some(_)) => Err(NetworkError::Occupied { path: self.namespace.clone(), link: POD_LINK.to_owned() }),
            (host_end, None) => {
                if let Some(stale) = host_end {
                    // It leads to an earlier sandbox of the pod.
                    remove(&mut host, &stale)?;
                }
                self.make(&mut host, &mut pod, &name, &namespace)
            }
        }
    }

    /// Opens a conversation in the pod's namespace; the calling thread is back in the host's when this returns.
    fn join(&self) -> Result<(File, Conversation), NetworkError> {
        let failed = |path: &Path, source| NetworkError::Namespace { path: path.to_owned(), source };
        let own = Path::new("/proc/thread-self/ns/net");
        let home = File::open(own).map_err(|source| failed(own, source))?;
        let namespace = File::open(&self.namespace).map_err(|source| failed(&self.namespace, source))?;
        let identity = |path: &Path, file: &File| {
            let metadata = file.metadata().map_err(|source| failed(path, source))?;
            Ok((metadata.dev(), metadata.ino()))
        };
        if identity(own, &home)? == identity(&self.namespace, &namespace)? {
            // Connecting it would replace the host's default route.
            return Err(NetworkError::HostNamespace { path: self.namespace.clone() });
        }
        let enter = |namespace: &File| setns(namespace.as_fd(), nix::libc::CLONE_NEWNET as u64);
        enter(&namespace).map_err(|errno| failed(&self.namespace, errno.into()))?;
        let pod = open();
        enter(&home).map_err(|errno| failed(own, errno.into()))?;
        Ok((namespace, pod?))
    }

    fn make(
        &self,
        host: &mut Conversation,
        pod: &mut Conversation,
        name: &str,
        namespace: &File,
    ) -> Result<(), NetworkError> {
        let create = link::create(&self.instance, self.address, self.mtu, namespace.as_fd());
        self.steps(host, vec![(PodStep::Create, create)])?;
        let Some(host_end) = find(host, name)? else { return Err(vanished(name)) };
        let configured = match find(pod, POD_LINK)? {
            Some(pod_end) => {
                forwarding::prepare_link(name).and_then(|()| self.configure(host, host_end.index, pod, pod_end.index))
            }
            None => Err(vanished(POD_LINK)),
        };
        if configured.is_err() {
            // Half a pair is no use to anyone; the first error is the one to tell.
            let _ = remove(host, &host_end);
        }
        configured
    }

    /// Both ends, each in one send. Every step may have been done before.
    fn configure(
        &self,
        host: &mut Conversation,
        host_index: u32,
        pod: &mut Conversation,
        pod_index: u32,
    ) -> Result<(), NetworkError> {
        let pod_steps = vec![
            (PodStep::RaisePodEnd, link::raise(pod_index, None)),
            (PodStep::AddressPodEnd, link::address(pod_index, self.address, AddressScope::Universe)),
            (PodStep::NeighbourGateway, link::gateway_neighbour(pod_index)),
            (PodStep::RouteDefault, link::default_route(pod_index)),
        ];
        self.steps(pod, pod_steps)?;
        let host_steps = vec![
            (PodStep::RaiseHostEnd, link::raise(host_index, Some(format!("pod {}", self.uid)))),
            (PodStep::AddressHostEnd, link::address(host_index, self.node_address, AddressScope::Link)),
            (PodStep::NeighbourPod, link::pod_neighbour(host_index, self.address)),
            (PodStep::RoutePod, link::pod_route(host_index, self.address)),
        ];
        self.steps(host, host_steps)
    }

    fn steps(
        &self,
        conversation: &mut Conversation,
        steps: Vec<(PodStep, Request<RouteNetlinkMessage>)>,
    ) -> Result<(), NetworkError> {
        let (names, requests): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
        let failed = |step, source| NetworkError::Connect { step, link: self.instance.link_name(self.address), source };
        let first = names.first().copied().unwrap_or(PodStep::Create);
        let answer = conversation.ask(requests).map_err(|source| failed(first, source))?;
        for (step, result) in names.into_iter().zip(answer.results) {
            result.map_err(|source| failed(step, source))?;
        }
        Ok(())
    }
}

/// Removes the pod's link if there is one.
pub(crate) fn disconnect(instance: &Instance, address: Ipv4Addr) -> Result<(), NetworkError> {
    let mut host = open()?;
    match find(&mut host, &instance.link_name(address))? {
        Some(link) => remove(&mut host, &link),
        None => Ok(()),
    }
}

/// Removes the links of the instance that no pod `holds`, and goes on after a failure.
pub(crate) fn disconnect_strays(instance: &Instance, holds: impl Fn(&str) -> bool) -> Result<(), NetworkError> {
    let mut host = open()?;
    let (links, _) = link::list(&mut host, instance).map_err(|source| NetworkError::ListLinks { source })?;
    let strays = links.iter().filter(|link| !holds(&link.name));
    NetworkError::collect(strays.filter_map(|link| remove(&mut host, link).err()).collect())
}

/// Removes every link of the instance.
pub(crate) fn disconnect_all(instance: &Instance) -> Result<(), NetworkError> {
    let mut host = open()?;
    let (links, alone) = link::list(&mut host, instance).map_err(|source| NetworkError::ListLinks { source })?;
    if !links.is_empty() && alone {
        let group = link::remove_group(instance.link_group());
        if host.ask(vec![group]).is_ok_and(|answer| answer.results.iter().all(Result::is_ok)) {
            return Ok(());
        }
    }
    NetworkError::collect(links.iter().filter_map(|link| remove(&mut host, link).err()).collect())
}

/// Gives the host its address in the node's range, instead of that of another range.
pub(crate) fn use_own_address(
    host: &mut Conversation,
    instance: &Instance,
    address: Ipv4Addr,
) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::OwnAddress { source };
    let mut requests = link::remove_own_addresses(host, instance).map_err(failed)?;
    requests.push(link::own_address(instance, address));
    let answer = host.ask(requests).map_err(failed)?;
    answer.results.into_iter().collect::<io::Result<()>>().map_err(failed)
}

/// Takes the host's address away.
pub(crate) fn drop_own_address(instance: &Instance) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::OwnAddress { source };
    let mut host = open()?;
    let requests = link::remove_own_addresses(&mut host, instance).map_err(failed)?;
    if requests.is_empty() {
        return Ok(());
    }
    let answer = host.ask(requests).map_err(failed)?;
    answer.results.into_iter().collect::<io::Result<()>>().map_err(failed)
}

/// A conversation about links with the calling thread's namespace.
pub(crate) fn open() -> Result<Conversation, NetworkError> {
    Conversation::open(NETLINK_ROUTE).map_err(|source| NetworkError::Socket { source })
}

fn find(conversation: &mut Conversation, name: &str) -> Result<Option<Link>, NetworkError> {
    link::find(conversation, name).map_err(|source| NetworkError::FindLink { link: name.to_owned(), source })
}

fn remove(conversation: &mut Conversation, link: &Link) -> Result<(), NetworkError> {
    let result = conversation
        .ask(vec![link::remove(link.index)])
        .and_then(|answer| answer.results.into_iter().collect::<io::Result<()>>());
    match result {
        // It went with its namespace meanwhile.
        Err(source) if source.raw_os_error() == Some(nix::libc::ENODEV) => Ok(()),
        result => result.map_err(|source| NetworkError::RemoveLink { link: link.name.clone(), source }),
    }
}

fn vanished(link: &str) -> NetworkError {
    let source = io::Error::from_raw_os_error(nix::libc::ENODEV);
    NetworkError::FindLink { link: link.to_owned(), source }
}

//! Where a webhook listens: the address of a URL's host, or of a ready endpoint of a Service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use controller_store::model::RangeRequest;
use controller_store::store::Store;
use hickory_resolver::TokioResolver;
use http::Uri;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

const SERVICES: &str = "/registry/core/services/";
const SLICES: &str = "/registry/discovery.k8s.io/endpointslices/";
const HOSTS: &str = "/etc/hosts";

/// Why nothing was dialled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The URL has no host or a port that is none.
    #[error("the URL has no host")]
    Host,
    /// There is no such Service.
    #[error("service {0:?} not found")]
    NoService(String),
    /// The Service has no such port.
    #[error("no service port {port} found for service {name:?}")]
    NoPort { name: String, port: u16 },
    /// A Service of type ExternalName leads outside; the URL of the outside has to be used.
    #[error("unsupported service type {kind:?} of service {name:?}")]
    Type { name: String, kind: String },
    /// No endpoint is ready.
    #[error("no endpoints available for service {0:?}")]
    NoEndpoint(String),
    /// The name has no address.
    #[error("lookup {name}: {problem}")]
    Lookup { name: String, problem: String },
    /// The connection was refused, or could not be made.
    #[error("dial tcp {address}: connect: {source}")]
    Connect { address: SocketAddr, source: std::io::Error },
}

/// Opens connections. With `services`, a host `NAME.NAMESPACE.svc` means that Service and nothing else is dialled.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) store: Arc<Store>,
    pub(super) services: bool,
}

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move {
            let host = uri.host().ok_or(DialError::Host)?.trim_matches(['[', ']']);
            let port = uri.port_u16().unwrap_or(443);
            let stream = match dialer.services {
                true => {
                    let (name, namespace) = service_of(host).ok_or(DialError::Host)?;
                    connect(endpoint(&dialer.store, namespace, name, port, rand::random())?).await?
                }
                false => connect_any(&addresses_of(host).await?, host, port).await?,
            };
            // Latency matters more than packets; a socket that refuses the option still works.
            drop(stream.set_nodelay(true));
            Ok(TokioIo::new(stream))
        })
    }
}

/// Name and namespace of `NAME.NAMESPACE.svc`.
fn service_of(host: &str) -> Option<(&str, &str)> {
    host.strip_suffix(".svc")?.split_once('.')
}

async fn connect(address: SocketAddr) -> Result<TcpStream, DialError> {
    TcpStream::connect(address).await.map_err(|source| DialError::Connect { address, source })
}

/// A connection to the first of a host's addresses that takes one.
async fn connect_any(addresses: &[IpAddr], host: &str, port: u16) -> Result<TcpStream, DialError> {
    let mut failed = DialError::Lookup { name: host.into(), problem: "no such host".into() };
    for address in addresses {
        match connect(SocketAddr::new(*address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn addresses_of(host: &str) -> Result<Vec<IpAddr>, DialError> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    // RFC 6761: these names are this machine's.
    if host == "localhost" || host.ends_with(".localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    // What the machine itself knows is asked for first.
    let hosts = tokio::fs::read_to_string(HOSTS).await.unwrap_or_default();
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
    let own = lines.filter_map(|mut words| {
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(host)).then_some(address)
    });
    let own: Vec<IpAddr> = own.collect();
    if !own.is_empty() {
        return Ok(own);
    }
    let fail = |problem: &dyn std::fmt::Display| DialError::Lookup { name: host.into(), problem: problem.to_string() };
    let resolver = TokioResolver::builder_tokio().map_err(|error| fail(&error))?.build();
    let resolver = resolver.map_err(|error| fail(&error))?;
    let found = resolver.lookup_ip(host).await.map_err(|error| fail(&error))?;
    Ok(found.iter().collect())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Service {
    spec: ServiceSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: String,
    ports: Vec<Port>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Port {
    name: Option<String>,
    port: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Slice {
    metadata: SliceMetadata,
    endpoints: Vec<Endpoint>,
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SliceMetadata {
    labels: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Endpoint {
    addresses: Vec<IpAddr>,
    conditions: Conditions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
}

/// One of the ready endpoints of a Service at one of its ports. `choice` is random.
/// A missing `ready` counts as ready (API reference, EndpointConditions).
pub(crate) fn endpoint(
    store: &Store,
    namespace: &str,
    name: &str,
    port: u16,
    choice: u32,
) -> Result<SocketAddr, DialError> {
    let missing = || DialError::NoService(name.into());
    let held = store.get(format!("{SERVICES}{namespace}/{name}").as_bytes()).ok_or_else(missing)?;
    let service: Service = serde_json::from_slice(&held.value).map_err(|_| missing())?;
    if service.spec.kind == "ExternalName" {
        return Err(DialError::Type { name: name.into(), kind: service.spec.kind });
    }
    let wanted = service.spec.ports.iter().find(|own| own.port == Some(port));
    let wanted = wanted.ok_or_else(|| DialError::NoPort { name: name.into(), port })?;
    let wanted = wanted.name.as_deref().unwrap_or_default();
    let request = RangeRequest { prefix: Bytes::from(format!("{SLICES}{namespace}/")), ..Default::default() };
    let items = store.range(&request).map(|page| page.items).unwrap_or_default();
    let mut ready = Vec::new();
    for kv in &items {
        let Ok(slice) = serde_json::from_slice::<Slice>(&kv.value) else { continue };
        if slice.metadata.labels.get(api::well_known::LABEL_SERVICE_NAME).is_none_or(|own| own != name) {
            continue;
        }
        let ports = slice.ports.unwrap_or_default();
        let Some(port) = ports.iter().find(|own| own.name.as_deref().unwrap_or_default() == wanted) else { continue };
        let Some(port) = port.port else { continue };
        for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.conditions.ready != Some(false)) {
            ready.extend(endpoint.addresses.first().map(|address| SocketAddr::new(*address, port)));
        }
    }
    match ready.len() {
        0 => Err(DialError::NoEndpoint(name.into())),
        count => Ok(ready[choice as usize % count]),
    }
}

#[cfg(test)]
mod tests {
    use controller_store::driver::Memory;
    use controller_store::model::Op;
    use controller_store::store::Config;
    use serde_json::{Value, json};

    use super::*;

    async fn put(store: &Store, key: String, object: Value) {
        let op = Op::Put { key: Bytes::from(key), value: object.to_string().into(), ttl: None };
        store.commit(&[], vec![op]).await.unwrap();
    }

    #[tokio::test]
    async fn a_service_is_one_of_its_ready_endpoints() {
        let store = Store::open(Memory, Config::default()).unwrap();
        let ask = |port, choice| endpoint(&store, "a", "hook", port, choice).map_err(|error| error.to_string());
        assert_eq!(ask(443, 0), Err("service \"hook\" not found".into()));
        let service = json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"name": "https", "port": 443}]}});
        put(&store, format!("{SERVICES}a/hook"), service).await;
        assert_eq!(ask(8443, 0), Err("no service port 8443 found for service \"hook\"".into()));
        assert_eq!(ask(443, 0), Err("no endpoints available for service \"hook\"".into()));
        let slice = json!({"metadata": {"labels": {"kubernetes.io/service-name": "hook"}},
            "ports": [{"name": "metrics", "port": 1}, {"name": "https", "port": 9443}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": false}}, {"addresses": ["10.0.0.2"]},
                {"addresses": ["fd00::3"], "conditions": {"ready": true}}]});
        put(&store, format!("{SLICES}a/hook-1"), slice).await;
        assert_eq!(ask(443, 0), Ok("10.0.0.2:9443".parse().unwrap()));
        assert_eq!(ask(443, 1), Ok("[fd00::3]:9443".parse().unwrap()));
        assert!(endpoint(&store, "b", "hook", 443, 0).is_err());
        assert_eq!((service_of("hook.a.svc"), service_of("hook")), (Some(("hook", "a")), None));
    }

    #[tokio::test]
    async fn every_address_of_a_host_is_tried() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (deaf, open) = (IpAddr::from([127, 9, 9, 9]), IpAddr::from([127, 0, 0, 1]));
        assert!(connect_any(&[deaf, open], "h", port).await.is_ok());
        assert!(matches!(connect_any(&[deaf], "h", port).await, Err(DialError::Connect { .. })));
        assert!(matches!(connect_any(&[], "h", port).await, Err(DialError::Lookup { .. })));
    }
}

//! The names of the cluster (Kubernetes DNS specification 1.1.0). Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use api::well_known::LABEL_SERVICE_NAME;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// What a Service's name means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Address(Ipv4Addr),
    Headless { publishes_unready: bool },
    External(String),
}

#[derive(Debug, Clone)]
struct ServiceFacts {
    kind: Kind,
    /// Name, protocol (lower case) and number.
    ports: Vec<(String, String, u16)>,
}

#[derive(Debug, Clone)]
struct SliceFacts {
    service: String,
    ports: Vec<(String, String, u16)>,
    /// Address, host name, and whether it wants requests.
    endpoints: Vec<(Ipv4Addr, Option<String>, bool)>,
}

/// Everything that is known.
#[derive(Debug, Default)]
pub(super) struct Zone {
    /// The labels of the domain, lower case.
    domain: Vec<String>,
    /// By namespace and name.
    services: BTreeMap<(String, String), ServiceFacts>,
    /// By namespace, Service and the slice's name.
    slices: BTreeMap<(String, String, String), SliceFacts>,
    /// The Service of a slice, by namespace and the slice's name.
    owners: BTreeMap<(String, String), String>,
}

/// What there is for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// It is none of the cluster's.
    Elsewhere,
    /// There is no such name.
    Nothing,
    /// The name exists, with these records; those that were not asked for are left out by the caller.
    Records(Vec<Data>),
}

/// A record's data; names as labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    Address(Ipv4Addr),
    Text(String),
    /// Another name, as it is written.
    Alias(String),
    /// Port and target, with the target's address.
    Server(u16, String, Ipv4Addr),
    Pointer(String),
}

impl Zone {
    pub(super) fn new(domain: &str) -> Option<Zone> {
        let domain: Vec<String> = domain.trim_end_matches('.').split('.').map(str::to_ascii_lowercase).collect();
        domain.iter().all(|label| !label.is_empty()).then(|| Zone { domain, ..Zone::default() })
    }

    pub(super) fn domain(&self) -> String {
        self.domain.join(".")
    }

    pub(super) fn set_service(&mut self, key: (String, String), service: Option<Service>) {
        match service.and_then(ServiceFacts::new) {
            Some(facts) => drop(self.services.insert(key, facts)),
            None => drop(self.services.remove(&key)),
        }
    }

    pub(super) fn set_slice(&mut self, key: (String, String), slice: Option<EndpointSlice>) {
        if let Some(service) = self.owners.remove(&key) {
            self.slices.remove(&(key.0.clone(), service, key.1.clone()));
        }
        if let Some(facts) = slice.and_then(SliceFacts::new) {
            self.owners.insert(key.clone(), facts.service.clone());
            self.slices.insert((key.0, facts.service.clone(), key.1), facts);
        }
    }

    pub(super) fn service_keys(&self) -> Vec<(String, String)> {
        self.services.keys().cloned().collect()
    }

    pub(super) fn slice_keys(&self) -> Vec<(String, String)> {
        self.owners.keys().cloned().collect()
    }

    /// What there is for a name, given by its labels in lower case.
    pub(super) fn find(&self, labels: &[String]) -> Found {
        if let Some(address) = reverse(labels) {
            let pointers = self.pointers(address);
            // Addresses that mean nothing here may mean something elsewhere.
            return if pointers.is_empty() { Found::Elsewhere } else { Found::Records(pointers) };
        }
        let Some(below) = labels.strip_suffix(self.domain.as_slice()) else { return Found::Elsewhere };
        let below: Vec<&str> = below.iter().map(String::as_str).collect();
        match below.as_slice() {
            [] | ["svc"] | ["pod"] => Found::Records(vec![]),
            ["dns-version"] => Found::Records(vec![Data::Text("1.1.0".into())]),
            [namespace, "svc"] => self.namespace(namespace),
            [address, _, "pod"] => match address.replace('-', ".").parse() {
                Ok(address) => Found::Records(vec![Data::Address(address)]),
                Err(_) => Found::Nothing,
            },
            [_, "pod"] => Found::Records(vec![]),
            [rest @ .., service, namespace, "svc"] => self.service(rest, service, namespace),
            _ => Found::Nothing,
        }
    }

    fn namespace(&self, namespace: &str) -> Found {
        let first = self.services.range((namespace.to_owned(), String::new())..).next();
        match first.is_some_and(|((own, _), _)| own == namespace) {
            true => Found::Records(vec![]),
            false => Found::Nothing,
        }
    }

    fn service(&self, rest: &[&str], service: &str, namespace: &str) -> Found {
        let Some(facts) = self.services.get(&(namespace.to_owned(), service.to_owned())) else { return Found::Nothing };
        let name = format!("{service}.{namespace}.svc.{}", self.domain());
        let port = |port: &str, protocol: &str| {
            let (port, protocol) = (port.strip_prefix('_')?.to_owned(), protocol.strip_prefix('_')?.to_owned());
            Some((port, protocol))
        };
        match (&facts.kind, rest) {
            (Kind::External(target), []) => Found::Records(vec![Data::Alias(target.clone())]),
            (Kind::External(_), _) => Found::Nothing,
            (Kind::Address(address), []) => {
                let servers = facts.ports.iter().map(|(_, _, port)| Data::Server(*port, name.clone(), *address));
                Found::Records([Data::Address(*address)].into_iter().chain(servers).collect())
            }
            (Kind::Address(address), [first, second]) => match port(first, second) {
                Some((wanted, protocol)) => {
                    let own = facts.ports.iter().filter(|(own, by, _)| *own == wanted && *by == protocol);
                    records(own.map(|(_, _, port)| Data::Server(*port, name.clone(), *address)).collect())
                }
                None => Found::Nothing,
            },
            (Kind::Headless { .. }, []) => {
                let mut all: Vec<Data> = Vec::new();
                for (address, host, ports) in self.endpoints(namespace, service, facts) {
                    all.push(Data::Address(address));
                    all.extend(ports.iter().map(|(_, _, port)| Data::Server(*port, format!("{host}.{name}"), address)));
                }
                // The name exists while the Service does.
                Found::Records(unique(all))
            }
            (Kind::Headless { .. }, [host]) => {
                let own = self.endpoints(namespace, service, facts).filter(|(_, own, _)| own == host);
                records(unique(own.map(|(address, ..)| Data::Address(address)).collect()))
            }
            (Kind::Headless { .. }, [first, second]) => match port(first, second) {
                Some((wanted, protocol)) => {
                    let mut all = Vec::new();
                    for (address, host, ports) in self.endpoints(namespace, service, facts) {
                        let own = ports.iter().filter(|(own, by, _)| *own == wanted && *by == protocol);
                        all.extend(own.map(|(_, _, port)| Data::Server(*port, format!("{host}.{name}"), address)));
                    }
                    records(unique(all))
                }
                None => Found::Nothing,
            },
            _ => Found::Nothing,
        }
    }

    /// The endpoints of a headless Service that have names: address, first label and ports.
    fn endpoints<'a>(
        &'a self,
        namespace: &'a str,
        service: &'a str,
        facts: &'a ServiceFacts,
    ) -> impl Iterator<Item = (Ipv4Addr, String, &'a [(String, String, u16)])> {
        let all_ready = matches!(facts.kind, Kind::Headless { publishes_unready: true });
        let from = (namespace.to_owned(), service.to_owned(), String::new());
        let own = self.slices.range(from..).take_while(move |((ns, name, _), _)| ns == namespace && name == service);
        own.flat_map(move |(_, slice)| {
            let ready = slice.endpoints.iter().filter(move |(_, _, is_ready)| *is_ready || all_ready);
            ready.map(|(address, host, _)| {
                let host = host.clone().unwrap_or_else(|| address.to_string().replace('.', "-"));
                (*address, host, slice.ports.as_slice())
            })
        })
    }

    fn pointers(&self, address: Ipv4Addr) -> Vec<Data> {
        let domain = self.domain();
        let mut all = Vec::new();
        for ((namespace, service), facts) in &self.services {
            let name = format!("{service}.{namespace}.svc.{domain}");
            match facts.kind {
                Kind::Address(own) if own == address => all.push(Data::Pointer(name)),
                Kind::Headless { .. } => {
                    let own = self.endpoints(namespace, service, facts).filter(|(own, ..)| *own == address);
                    all.extend(own.map(|(_, host, _)| Data::Pointer(format!("{host}.{name}"))));
                }
                _ => {}
            }
        }
        unique(all)
    }
}

fn records(all: Vec<Data>) -> Found {
    if all.is_empty() { Found::Nothing } else { Found::Records(all) }
}

fn unique(all: Vec<Data>) -> Vec<Data> {
    let mut kept: Vec<Data> = Vec::with_capacity(all.len());
    for data in all {
        if !kept.contains(&data) {
            kept.push(data);
        }
    }
    kept
}

/// The address that a name of in-addr.arpa asks about.
fn reverse(labels: &[String]) -> Option<Ipv4Addr> {
    let [d, c, b, a, zone, arpa] = labels else { return None };
    (zone == "in-addr" && arpa == "arpa").then(|| format!("{a}.{b}.{c}.{d}").parse().ok())?
}

fn port(name: Option<String>, protocol: Option<String>, number: i32) -> Option<(String, String, u16)> {
    let protocol = protocol.unwrap_or_else(|| "TCP".to_owned()).to_ascii_lowercase();
    Some((name.unwrap_or_default(), protocol, u16::try_from(number).ok()?))
}

impl ServiceFacts {
    fn new(service: Service) -> Option<ServiceFacts> {
        let spec = service.spec?;
        let kind = match (spec.type_.as_deref(), spec.cluster_ip.as_deref()) {
            (Some("ExternalName"), _) => Kind::External(spec.external_name?.trim_end_matches('.').to_owned()),
            (_, Some("None")) => Kind::Headless { publishes_unready: spec.publish_not_ready_addresses == Some(true) },
            (_, address) => Kind::Address(address?.parse().ok()?),
        };
        let ports = spec.ports.into_iter().flatten().filter_map(|own| port(own.name, own.protocol, own.port));
        Some(ServiceFacts { kind, ports: ports.collect() })
    }
}

impl SliceFacts {
    fn new(slice: EndpointSlice) -> Option<SliceFacts> {
        let service = slice.metadata.labels?.remove(LABEL_SERVICE_NAME)?;
        let ports = slice.ports.into_iter().flatten().filter_map(|own| port(own.name, own.protocol, own.port?));
        let endpoints = slice.endpoints.into_iter().flatten().filter_map(|endpoint| {
            let is_ready = endpoint.conditions.and_then(|conditions| conditions.ready) != Some(false);
            Some((endpoint.addresses.first()?.parse().ok()?, endpoint.hostname, is_ready))
        });
        Some(SliceFacts { service, ports: ports.collect(), endpoints: endpoints.collect() })
    }
}

#[cfg(test)]
#[path = "zone_tests.rs"]
pub(super) mod tests;

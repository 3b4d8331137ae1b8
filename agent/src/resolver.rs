//! The resolver configuration of pods: `/etc/resolv.conf` by `dnsPolicy` and `dnsConfig`. Pure, but for reading the host's.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::PodSpec;

/// What resolvers read at most (resolv.conf(5), MAXNS).
const SERVERS: usize = 3;
/// What the API admits in `dnsConfig.searches`.
const SEARCHES: usize = 32;

/// Where the cluster's names are resolved.
#[derive(Debug, Clone)]
pub struct ClusterDns {
    /// The address of the cluster's DNS.
    pub address: Ipv4Addr,
    /// The domain of the cluster, without a dot at its end.
    pub domain: String,
}

/// A resolver configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    pub(crate) servers: Vec<String>,
    pub(crate) searches: Vec<String>,
    /// Name and value.
    pub(crate) options: Vec<(String, Option<String>)>,
}

impl ResolvConf {
    /// The host's. Where that leads to a stub on loopback, which pods cannot reach, what the stub uses.
    pub(crate) fn of_host() -> ResolvConf {
        let read = |path: &str| fs::read_to_string(path).ok().map(|text| ResolvConf::parse(&text));
        let own = read("/etc/resolv.conf").unwrap_or_default();
        let is_loopback = |server: &String| server.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        match own.servers.iter().all(is_loopback) {
            true => read("/run/systemd/resolve/resolv.conf").unwrap_or(own),
            false => own,
        }
    }

    pub(crate) fn parse(text: &str) -> ResolvConf {
        let mut all = ResolvConf::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => all.servers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => all.searches = words.map(str::to_owned).collect(),
                Some("options") => all.options.extend(words.map(|word| match word.split_once(':') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (word.to_owned(), None),
                })),
                _ => {}
            }
        }
        all
    }

    fn text(&self) -> String {
        let mut text: String = self.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        if !self.options.is_empty() {
            let options = self.options.iter().map(|(name, value)| match value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
            text.push_str(&format!("options {}\n", options.collect::<Vec<_>>().join(" ")));
        }
        text
    }
}

/// The file of a pod.
pub(crate) fn resolv_conf(spec: &PodSpec, namespace: &str, cluster: &ClusterDns, host: &ResolvConf) -> String {
    let on_host = spec.host_network == Some(true);
    let mut conf = match spec.dns_policy.as_deref() {
        Some("None") => ResolvConf::default(),
        Some("Default") => host.clone(),
        Some("ClusterFirstWithHostNet") => of_cluster(namespace, cluster, host),
        _ if on_host => host.clone(),
        _ => of_cluster(namespace, cluster, host),
    };
    if let Some(own) = &spec.dns_config {
        for server in own.nameservers.iter().flatten().filter(|server| !server.contains(char::is_whitespace)) {
            if !conf.servers.contains(server) {
                conf.servers.push(server.clone());
            }
        }
        for search in own.searches.iter().flatten().filter(|search| !search.contains(char::is_whitespace)) {
            if !conf.searches.contains(search) {
                conf.searches.push(search.clone());
            }
        }
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            let broken = |text: &str| text.contains(char::is_whitespace);
            if name.is_empty() || broken(&name) || option.value.as_deref().is_some_and(broken) {
                continue;
            }
            conf.options.retain(|(own, _)| *own != name);
            conf.options.push((name, option.value.clone()));
        }
    }
    conf.servers.truncate(SERVERS);
    conf.searches.truncate(SEARCHES);
    conf.text()
}

fn of_cluster(namespace: &str, cluster: &ClusterDns, host: &ResolvConf) -> ResolvConf {
    let domain = &cluster.domain;
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    searches.extend(host.searches.iter().filter(|search| *search != "." && *search != domain).cloned());
    // Five dots: the longest name that is searched for is that of a named port, `_port._tcp.service.namespace.svc`.
    let options = vec![("ndots".to_owned(), Some("5".to_owned()))];
    ResolvConf { servers: vec![cluster.address.to_string()], searches, options }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn made(spec: serde_json::Value) -> String {
        let mut whole = json!({"containers": []});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let cluster = ClusterDns { address: Ipv4Addr::new(10, 43, 0, 10), domain: "cluster.local".into() };
        let host = ResolvConf::parse("nameserver 192.0.2.53\nsearch example.org\noptions timeout:1 rotate\n");
        resolv_conf(&from_value(whole).unwrap(), "team", &cluster, &host)
    }

    #[test]
    fn policies_choose_and_the_config_adds() {
        let cluster = "nameserver 10.43.0.10\nsearch team.svc.cluster.local svc.cluster.local cluster.local example.org\noptions ndots:5\n";
        let host = "nameserver 192.0.2.53\nsearch example.org\noptions timeout:1 rotate\n";
        assert_eq!(made(json!({})), cluster);
        assert_eq!(made(json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true})), host);
        assert_eq!(made(json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true})), cluster);
        assert_eq!(made(json!({"dnsPolicy": "Default"})), host);
        let config = json!({"nameservers": ["192.0.2.1"], "searches": ["a.b"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
        assert_eq!(
            made(json!({"dnsPolicy": "None", "dnsConfig": config})),
            "nameserver 192.0.2.1\nsearch a.b\noptions ndots:2 edns0\n"
        );
        let both = made(json!({"dnsConfig": config}));
        assert!(
            both.starts_with("nameserver 10.43.0.10\nnameserver 192.0.2.1\n")
                && both.ends_with("options ndots:2 edns0\n"),
            "{both}"
        );
    }
}

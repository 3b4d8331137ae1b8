//! Services and ingresses made of flags.

use serde_json::{Map, Value, json};

use crate::failure::Failure;

/// Kinds of services.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Service {
    /// With an address inside the cluster.
    #[command(name = "clusterip")]
    ClusterIp {
        #[command(flatten)]
        service: Named,
        /// The address, or None for a service that is names only.
        #[arg(long = "clusterip", value_name = "ADDRESS")]
        cluster_ip: Option<String>,
    },
    /// With a port on every node.
    #[command(name = "nodeport")]
    NodePort {
        #[command(flatten)]
        service: Named,
        /// The port on every node; left out, the server chooses one.
        #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
        node_port: Option<u16>,
    },
    /// With an address that a load balancer gives.
    #[command(name = "loadbalancer")]
    LoadBalancer {
        #[command(flatten)]
        service: Named,
    },
    /// Another name for something outside.
    #[command(name = "externalname")]
    ExternalName {
        #[command(flatten)]
        service: Named,
        /// The name outside.
        #[arg(long, value_name = "NAME")]
        external_name: String,
    },
}

/// What every service has.
#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    /// Its name; it leads to pods labelled app=NAME.
    name: String,
    /// PORT or PORT:TARGET; may be repeated.
    #[arg(long, value_name = "PORT[:TARGET]", value_delimiter = ',')]
    tcp: Vec<String>,
}

/// Flags of `gantry create ingress`.
#[derive(Debug, clap::Args)]
pub(crate) struct Ingress {
    /// Its name.
    name: String,
    /// HOST/PATH=SERVICE:PORT[,tls[=SECRET]]; a path that ends in * means all below it; may be repeated.
    #[arg(long = "rule", value_name = "RULE")]
    rules: Vec<String>,
    /// The ingress class.
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// SERVICE:PORT for what no rule fits.
    #[arg(long, value_name = "SERVICE:PORT")]
    default_backend: Option<String>,
    /// KEY=VALUE; may be repeated.
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    annotations: Vec<String>,
}

impl Service {
    /// The service.
    pub(crate) fn object(&self) -> Result<Value, Failure> {
        let (service, kind) = match self {
            Self::ClusterIp { service, .. } => (service, "ClusterIP"),
            Self::NodePort { service, .. } => (service, "NodePort"),
            Self::LoadBalancer { service } => (service, "LoadBalancer"),
            Self::ExternalName { service, .. } => (service, "ExternalName"),
        };
        let mut ports = service.tcp.iter().map(|text| port(text)).collect::<Result<Vec<_>, _>>()?;
        let mut spec = json!({"type": kind, "selector": {"app": service.name}});
        let mut without_ports = false;
        match self {
            Self::ClusterIp { cluster_ip: Some(address), .. } => {
                without_ports = address == "None";
                spec["clusterIP"] = json!(address);
            }
            Self::ExternalName { external_name, .. } => {
                without_ports = true;
                spec["externalName"] = json!(external_name);
            }
            Self::NodePort { node_port: Some(number), .. } => {
                ports.iter_mut().for_each(|port| port["nodePort"] = json!(number));
            }
            _ => {}
        }
        if ports.is_empty() && !without_ports {
            return Err(Failure::error("at least one tcp port specifier must be provided"));
        }
        if !ports.is_empty() {
            spec["ports"] = ports.into();
        }
        let labels = json!({"app": service.name});
        Ok(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": service.name, "labels": labels},
            "spec": spec}))
    }
}

fn port(text: &str) -> Result<Value, Failure> {
    let invalid = |what: &str| Failure::error(format!("--tcp: {text:?}: {what}"));
    let (port, target) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u16>().ok().filter(|number| *number > 0);
    let port = number(port).ok_or_else(|| invalid("expected PORT or PORT:TARGET with a port of 1 to 65535"))?;
    let target = match number(target) {
        Some(number) => json!(number),
        None if target.bytes().all(|byte| byte.is_ascii_digit()) || target.contains(':') => {
            return Err(invalid("expected a target port of 1 to 65535 or the name of one"));
        }
        None => json!(target),
    };
    Ok(json!({"name": text.replace(':', "-"), "port": port, "protocol": "TCP", "targetPort": target}))
}

/// One rule, taken apart.
struct Rule<'a> {
    host: &'a str,
    path: &'a str,
    backend: Value,
    /// With TLS, of a secret where one is named.
    tls: Option<&'a str>,
}

/// `SERVICE:PORT`, where the port is a number or a name.
fn backend(text: &str) -> Option<Value> {
    let (service, port) = text.split_once(':').filter(|(service, port)| !service.is_empty() && !port.is_empty())?;
    if port.contains(':') {
        return None;
    }
    let port = match port.parse::<u16>() {
        Ok(number) => json!({"number": number}),
        Err(_) => json!({"name": port}),
    };
    Some(json!({"service": {"name": service, "port": port}}))
}

fn rule(text: &str) -> Option<Rule<'_>> {
    let (place, target) = text.split_once('=')?;
    let (host, _) = place.split_once('/')?;
    let (target, tls) = match target.split_once(',') {
        Some((target, "tls")) => (target, Some("")),
        Some((target, tls)) => (target, Some(tls.strip_prefix("tls=")?)),
        None => (target, None),
    };
    Some(Rule { host, path: &place[host.len()..], backend: backend(target)?, tls })
}

impl Ingress {
    /// The ingress.
    pub(crate) fn object(&self) -> Result<Value, Failure> {
        let mut annotations = Map::new();
        for text in &self.annotations {
            let (key, value) = text.split_once('=').ok_or_else(|| {
                Failure::error(format!("annotation {text} is invalid and should be in format key=[value]"))
            })?;
            annotations.insert(key.to_owned(), value.into());
        }
        if self.rules.is_empty() && self.default_backend.is_none() {
            return Err(Failure::error(
                "not enough information provided: every ingress has to either specify a default-backend \
                 (which catches all traffic) or a list of rules (which catch specific paths)",
            ));
        }
        let rules = self.rules.iter().map(|text| {
            rule(text).ok_or_else(|| {
                let form = "host/path=svcname:svcport[,tls[=secret]]";
                Failure::error(format!("rule {text} is invalid and should be in format {form}"))
            })
        });
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        let mut spec = json!({});
        if let Some(class) = &self.class {
            spec["ingressClassName"] = json!(class);
        }
        if let Some(text) = &self.default_backend {
            spec["defaultBackend"] = backend(text)
                .ok_or_else(|| Failure::error("default-backend should be in format servicename:serviceport"))?;
        }
        if !rules.is_empty() {
            spec["rules"] = by_host(&rules);
        }
        let tls = by_secret(&rules);
        if !tls.is_empty() {
            spec["tls"] = tls.into();
        }
        let mut metadata = json!({"name": self.name});
        if !annotations.is_empty() {
            metadata["annotations"] = annotations.into();
        }
        Ok(json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec}))
    }
}

/// The paths of each host, hosts in the order in which they are first named.
fn by_host(rules: &[Rule<'_>]) -> Value {
    let mut hosts: Vec<(&str, Vec<Value>)> = Vec::new();
    for rule in rules {
        let (path, kind) = match rule.path.strip_suffix('*') {
            Some(path) => (path, "Prefix"),
            None => (rule.path, "Exact"),
        };
        let path = json!({"path": path, "pathType": kind, "backend": rule.backend});
        match hosts.iter_mut().find(|(host, _)| *host == rule.host) {
            Some((_, paths)) => paths.push(path),
            None => hosts.push((rule.host, vec![path])),
        }
    }
    let rules = hosts.into_iter().map(|(host, paths)| match host {
        "" => json!({"http": {"paths": paths}}),
        host => json!({"host": host, "http": {"paths": paths}}),
    });
    rules.collect()
}

/// The hosts of each secret, each host once.
fn by_secret(rules: &[Rule<'_>]) -> Vec<Value> {
    let mut secrets: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut known: Vec<&str> = Vec::new();
    for (host, secret) in rules.iter().filter_map(|rule| Some((rule.host, rule.tls?))) {
        if known.contains(&host) {
            continue;
        }
        known.push(host);
        match secrets.iter_mut().find(|(name, _)| *name == secret) {
            Some((_, hosts)) => hosts.push(host),
            None => secrets.push((secret, vec![host])),
        }
    }
    let tls = secrets.into_iter().filter_map(|(secret, mut hosts)| {
        hosts.retain(|host| !host.is_empty());
        let mut entry = json!({});
        if !hosts.is_empty() {
            entry["hosts"] = json!(hosts);
        }
        if !secret.is_empty() {
            entry["secretName"] = json!(secret);
        }
        entry.as_object().is_some_and(|entry| !entry.is_empty()).then_some(entry)
    });
    tls.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_targets() {
        assert_eq!(port("80:web").unwrap()["targetPort"], "web");
        assert_eq!(port("80").unwrap(), json!({"name": "80", "port": 80, "protocol": "TCP", "targetPort": 80}));
        for wrong in ["", "0", "a", "80:99999", "1:2:3", "80:"] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rules_are_told_by_host_and_secret() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let made = |rules: &[&str]| {
            Ingress { name: "i".into(), rules: words(rules), class: None, default_backend: None, annotations: vec![] }
                .object()
        };
        let rules = ["a.b/x*=s:80,tls=k", "/=r:web,tls", "a.b/y=s:80,tls=k"];
        let spec = made(&rules).unwrap()["spec"].clone();
        assert_eq!(spec["rules"][0]["http"]["paths"][0]["pathType"], "Prefix");
        assert_eq!(spec["rules"][0]["http"]["paths"][1]["path"], "/y");
        assert_eq!(spec["rules"][1]["http"]["paths"][0]["backend"]["service"]["port"], json!({"name": "web"}));
        assert_eq!(spec["tls"], json!([{"hosts": ["a.b"], "secretName": "k"}]));
        for wrong in ["a", "a/b", "a/b=c", "a/b=c:1,x", "a=c:1", "a/b=:1"] {
            assert!(made(&[wrong]).is_err(), "{wrong}");
        }
        assert!(made(&[]).is_err());
    }
}

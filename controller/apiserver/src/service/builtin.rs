//! The Services that every cluster has, and addresses for Services that were stored before there were any.

use std::net::IpAddr;

use bytes::Bytes;
use controller_object::resource::Resource;
use controller_object::{defaulting, strategy};
use controller_store::model::{CommitError, Compare, Op, RangeRequest};
use serde_json::{Value, json};

use super::allocate::World;
use super::{allocate, claims};
use crate::admit::Charge;
use crate::registry::{Registry, names, stored_bytes, to_value};

/// Where the agent of each node serves the cluster's names.
const DNS_TARGET_PORT: u16 = 10_053;

/// The first address of the range, the Service that leads to this server.
fn kubernetes_address(registry: &Registry) -> String {
    let cidr = registry.ranges.cidr;
    cidr.hosts().next().unwrap_or(cidr.network()).to_string()
}

fn builtin(registry: &Registry, address: IpAddr, port: u16) -> Vec<Value> {
    let meta = |name: &str, labels: Value| json!({"name": name, "namespace": "default", "labels": labels});
    let own = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": meta("kubernetes", own), "spec": {
        "type": "ClusterIP", "clusterIP": kubernetes_address(registry), "sessionAffinity": "None",
        "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]}});
    let mirrored = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": meta("kubernetes", mirrored), "subsets": [{
        "addresses": [{"ip": address.to_string()}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": meta("kubernetes", json!({"kubernetes.io/service-name": "kubernetes"})), "addressType": "IPv4",
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}]});
    let port = |name: &str, port: u16, protocol: &str, target: u16| json!({"name": name, "port": port, "protocol": protocol, "targetPort": target});
    let labels =
        json!({"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true"});
    let dns = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {"type": "ClusterIP", "clusterIP": registry.ranges.dns.to_string(), "internalTrafficPolicy": "Local", "ports": [
            port("dns", 53, "UDP", DNS_TARGET_PORT), port("dns-tcp", 53, "TCP", DNS_TARGET_PORT),
            port("metrics", 9153, "TCP", 9153)]}});
    vec![service, endpoints, slice, dns]
}

/// Writes the Services that lead to this server and to the cluster's DNS where they are missing or changed.
/// What their keepers may change (labels, annotations) stays.
pub(crate) async fn write_builtin(registry: &Registry, address: IpAddr, port: u16) -> Result<(), CommitError> {
    for wanted in builtin(registry, address, port) {
        let (group, version) = wanted["apiVersion"].as_str().and_then(|v| v.split_once('/')).unwrap_or(("", "v1"));
        let Some(resource) = registry.builtin().find_kind(group, version, wanted["kind"].as_str().unwrap_or_default())
        else {
            continue;
        };
        write_one(registry, resource, wanted).await?;
    }
    Ok(())
}

async fn write_one(registry: &Registry, resource: &Resource, mut wanted: Value) -> Result<(), CommitError> {
    let (namespace, name) = names(&wanted);
    let found = registry.current(resource, namespace, name).ok();
    if let Some(current) = found {
        let mut new = current.object.clone();
        for part in ["spec", "subsets", "endpoints", "ports"] {
            if let Some(value) = wanted.get(part).filter(|_| part != "spec") {
                new[part] = value.clone();
            }
        }
        if let Some(ports) = wanted.pointer("/spec/ports") {
            new["spec"]["ports"] = ports.clone();
        }
        defaulting::default(resource, &mut new);
        if new != current.object {
            registry.put(resource, &new, Some(current.revision), Charge::default()).await?;
        }
        return Ok(());
    }
    let stamp = strategy::Stamp { now: crate::time::now(), uid: uuid::Uuid::new_v4().to_string() };
    defaulting::default(resource, &mut wanted);
    strategy::prepare_for_create(resource, &mut wanted, &stamp);
    if resource.plural == "services" {
        let is_taken = |key: &Bytes| registry.store.get(key).is_some();
        let causes = allocate(registry.ranges, &World { old: None, is_taken: &is_taken, random: 0 }, &mut wanted);
        if let Some(cause) = causes.first() {
            // Another Service has the address: it must go before this one can be.
            tracing::error!(kind = "Service", object = names(&wanted).1, cause = cause.describe(), "left out");
            return Ok(());
        }
    }
    registry.put(resource, &wanted, None, Charge::default()).await.map(drop)
}

/// Gives addresses and ports to Services that have none, and claims for what Services hold: those that were stored by
/// a release without either.
pub(crate) async fn repair(registry: &Registry) -> Result<(), CommitError> {
    let Some(resource) = registry.builtin().find("", "v1", "services") else { return Ok(()) };
    let all = RangeRequest { prefix: registry.prefix(resource, None), ..RangeRequest::default() };
    // The newest revision can always be read.
    let Ok(page) = registry.store.range(&all) else { return Ok(()) };
    let mut left = Vec::new();
    for kv in &page.items {
        let Ok(object) = to_value(resource, kv, kv.mod_revision) else { continue };
        let missing: Vec<Bytes> = claims(&object).into_iter().filter(|key| registry.store.get(key).is_none()).collect();
        let compares: Vec<Compare> = missing.iter().cloned().map(Compare::Absent).collect();
        let ops: Vec<Op> = missing.into_iter().map(|key| Op::Put { key, value: kv.key.clone(), ttl: None }).collect();
        if !ops.is_empty()
            && let Err(CommitError::Conflict { key, .. }) = registry.store.commit(&compares, ops).await
        {
            let key = String::from_utf8_lossy(&key).into_owned();
            tracing::error!(key, service = %String::from_utf8_lossy(&kv.key), "another Service holds the same");
        }
        left.push((kv.mod_revision, object));
    }
    for (revision, old) in left {
        let mut new = old.clone();
        let is_taken = |key: &Bytes| registry.store.get(key).is_some();
        let causes = allocate(
            registry.ranges,
            &World { old: Some(&old), is_taken: &is_taken, random: rand::random() },
            &mut new,
        );
        if let Some(cause) = causes.first() {
            tracing::warn!(kind = "Service", object = names(&old).1, cause = cause.describe(), "cannot be served");
        } else if stored_bytes(resource, &new) != stored_bytes(resource, &old) {
            registry.put(resource, &new, Some(revision), Charge::default()).await?;
        }
    }
    Ok(())
}

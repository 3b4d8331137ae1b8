//! What exists in every cluster: the system namespaces, the default roles and bindings, the system
//! priority classes. Written in one commit at the first start; later starts add what is missing, rules of a newer
//! release too (Kubernetes documentation, "Using RBAC Authorization", auto-reconciliation).

use api::pod::CRITICAL_PRIORITY;
use controller_object::resource::{Resource, Table};
use controller_object::{defaulting, strategy};
use controller_store::model::{CommitError, Compare, Op};
use serde_json::{Value, json};

use crate::authn::{AUTHENTICATED, FRONT_PROXY_NAME, MASTERS, NODES, SERVICE_ACCOUNTS, UNAUTHENTICATED};
use crate::flow;
use crate::registry::{Registry, stored_bytes};

const DEFAULT_ROLES: &str = include_str!("authz/default_roles.txt");
const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// The certificates (PEM) by which extension servers know whom to believe.
pub(crate) struct Trusted<'a> {
    /// Signs clients.
    pub(crate) clients: &'a str,
    /// Signs those who tell the users of their requests.
    pub(crate) front_proxy: &'a str,
}

/// Writes every default object that is not there yet.
pub(crate) async fn ensure(registry: &Registry, trusted: &Trusted<'_>) -> Result<(), CommitError> {
    let (mut compares, mut ops) = (Vec::new(), Vec::new());
    let all = default_objects().into_iter().chain(extension_objects(trusted)).chain(own_versions(registry.builtin()));
    let all = all.chain(flow::defaults::objects());
    for mut object in all {
        let Some(resource) = resource_of(registry.builtin(), &object) else { continue };
        let (namespace, name) = crate::registry::names(&object);
        let key = registry.key(resource, namespace, name);
        if let Some(held) = registry.store.get(&key) {
            let Ok(mut current) = registry.current(resource, namespace, name) else { continue };
            if current.revision == held.mod_revision && complete(&mut current.object, &object) {
                compares.push(Compare::ModRevision(key.clone(), held.mod_revision));
                ops.push(Op::Put { key, value: stored_bytes(resource, &current.object), ttl: None });
            }
            continue;
        }
        let stamp = strategy::Stamp { now: crate::time::now(), uid: uuid::Uuid::new_v4().to_string() };
        defaulting::default(resource, &mut object);
        let status = object.get("status").cloned();
        strategy::prepare_for_create(resource, &mut object, &stamp);
        // What clients may not say at creation the server itself may.
        if let Some(status) = status {
            object["status"] = status;
        }
        compares.push(Compare::Absent(key.clone()));
        ops.push(Op::Put { key, value: stored_bytes(resource, &object), ttl: None });
    }
    if !ops.is_empty() {
        registry.store.commit(&compares, ops).await?;
    }
    Ok(())
}

/// Adds the rules and subjects of a default object that the one in the cluster lacks; what people added stays. Says
/// whether anything was missing. An object whose annotation forbids it is left alone.
fn complete(object: &mut Value, default: &Value) -> bool {
    if object["metadata"]["annotations"][AUTO_UPDATE] == "false" {
        return false;
    }
    let mut changed = false;
    // What extension servers are to believe is ours to say.
    if default.get("data").is_some() && object.get("data") != default.get("data") {
        object["data"] = default["data"].clone();
        changed = true;
    }
    for field in ["rules", "subjects"] {
        let Some(wanted) = default[field].as_array() else { continue };
        let held = object[field].as_array().cloned().unwrap_or_default();
        let missing: Vec<Value> = wanted.iter().filter(|item| !held.contains(item)).cloned().collect();
        if !missing.is_empty() {
            object[field] = Value::Array(held.into_iter().chain(missing).collect());
            changed = true;
        }
    }
    changed
}

fn resource_of<'a>(table: &'a Table, object: &Value) -> Option<&'a Resource> {
    let (group, version) = object["apiVersion"].as_str()?.rsplit_once('/').unwrap_or(("", "v1"));
    table.find_kind(group, version, object["kind"].as_str()?).map(|resource| &**resource)
}

fn default_objects() -> Vec<Value> {
    let mut objects: Vec<Value> = NAMESPACES
        .iter()
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .collect();
    objects.extend(default_roles());
    objects.extend(joining_objects());
    let group = |name: &str| json!({"kind": "Group", "name": name, "apiGroup": "rbac.authorization.k8s.io"});
    let user = |name: &str| json!({"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"});
    objects.push(binding("cluster-admin", "cluster-admin", &[group(MASTERS)]));
    objects.push(binding("system:discovery", "system:discovery", &[group(AUTHENTICATED)]));
    objects.push(binding("system:basic-user", "system:basic-user", &[group(AUTHENTICATED)]));
    let everybody = [group(AUTHENTICATED), group(UNAUTHENTICATED)];
    objects.push(binding("system:public-info-viewer", "system:public-info-viewer", &everybody));
    objects.push(binding("system:monitoring", "system:monitoring", &[group("system:monitoring")]));
    objects.push(binding("system:node", "system:node", &[group(NODES)]));
    objects.push(binding("system:node-proxier", "system:node-proxier", &[user("system:kube-proxy"), group(NODES)]));
    objects.push(binding("system:kube-scheduler", "system:kube-scheduler", &[user("system:kube-scheduler")]));
    let scheduler = "system:volume-scheduler";
    objects.push(binding(scheduler, scheduler, &[user("system:kube-scheduler")]));
    objects.push(binding("system:gantry-dns", "system:gantry-dns", &[user("system:gantry-dns")]));
    let issuer = "system:service-account-issuer-discovery";
    objects.push(binding(issuer, issuer, &[group(SERVICE_ACCOUNTS)]));
    for role in role_names().filter(|name| name.starts_with("system:controller:")) {
        let account = role.trim_start_matches("system:controller:");
        let subject = json!({"kind": "ServiceAccount", "name": account, "namespace": "kube-system"});
        objects.push(binding(role, role, &[subject]));
    }
    for (name, value, what) in [
        (
            "system-cluster-critical",
            CRITICAL_PRIORITY,
            "pods that must run in the cluster, but can be moved to another node",
        ),
        ("system-node-critical", CRITICAL_PRIORITY + 1000, "pods that must not be moved from their node"),
    ] {
        objects.push(json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": format!("Used for {what}.")}));
    }
    objects
}

/// What machines need that join: the right to ask for a certificate, and to read what the network looks like.
fn joining_objects() -> Vec<Value> {
    let group = |name: &str| json!({"kind": "Group", "name": name, "apiGroup": "rbac.authorization.k8s.io"});
    let (machines, nodes) = ([group(api::well_known::GROUP_JOINING)], [group(NODES)]);
    let requests = "system:certificates.k8s.io:certificatesigningrequests";
    let (newcomer, own) = (format!("{requests}:nodeclient"), format!("{requests}:selfnodeclient"));
    let name = api::well_known::CONFIG_MAP_CLUSTER;
    let place = |mut object: Value| {
        object["metadata"]["namespace"] = "kube-system".into();
        object
    };
    let reader = format!("system:{name}-reader");
    vec![
        binding("system:node-bootstrapper", "system:node-bootstrapper", &machines),
        binding(&newcomer, &newcomer, &machines),
        binding(&own, &own, &nodes),
        place(json!({"apiVersion": RBAC, "kind": "Role", "metadata": metadata(&reader), "rules": [{"verbs": ["get"],
            "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [name]}]})),
        place(json!({"apiVersion": RBAC, "kind": "RoleBinding", "metadata": metadata(&reader), "subjects": nodes,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": reader}})),
    ]
}

/// What extension servers read: whom to believe (Kubernetes documentation, "Configure the Aggregation Layer").
fn extension_objects(trusted: &Trusted<'_>) -> [Value; 3] {
    let name = "extension-apiserver-authentication";
    let reader = format!("{name}-reader");
    let own = |name: &str| {
        let mut metadata = metadata(name);
        metadata["namespace"] = "kube-system".into();
        metadata
    };
    let subject = |name: &str| json!({"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"});
    [
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "kube-system"}, "data": {
            "client-ca-file": trusted.clients,
            "requestheader-client-ca-file": trusted.front_proxy,
            "requestheader-allowed-names": json!([FRONT_PROXY_NAME]).to_string(),
            "requestheader-username-headers": json!(["X-Remote-User"]).to_string(),
            "requestheader-uid-headers": json!(["X-Remote-Uid"]).to_string(),
            "requestheader-group-headers": json!(["X-Remote-Group"]).to_string(),
            "requestheader-extra-headers-prefix": json!(["X-Remote-Extra-"]).to_string()}}),
        json!({"apiVersion": RBAC, "kind": "Role", "metadata": own(&reader), "rules": [{"verbs": ["get", "list", "watch"],
            "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [name]}]}),
        json!({"apiVersion": RBAC, "kind": "RoleBinding", "metadata": own(&format!("system::{reader}")),
            "subjects": [subject("system:kube-controller-manager"), subject("system:kube-scheduler")],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": reader}}),
    ]
}

/// The group versions that this server serves, as `kubectl get apiservices` lists them.
fn own_versions(table: &Table) -> Vec<Value> {
    let versions = table.groups().flat_map(|group| table.versions(group).iter().map(move |version| (group, version)));
    let object = |(group, version): (&str, &String)| {
        // Facts of Kubernetes: core comes before all others.
        let priority = if group.is_empty() { 18_000 } else { 17_000 };
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": format!("{version}.{group}"), "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"}},
            "spec": {"group": group, "version": version, "groupPriorityMinimum": priority, "versionPriority": 15},
            "status": {"conditions": [{"type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available", "lastTransitionTime": crate::time::now()}]}})
    };
    versions.map(object).collect()
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {AUTO_UPDATE: "true"}})
}

fn binding(name: &str, role: &str, subjects: &[Value]) -> Value {
    json!({"apiVersion": RBAC, "kind": "ClusterRoleBinding", "metadata": metadata(name), "subjects": subjects,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}})
}

fn lines() -> impl Iterator<Item = Vec<&'static str>> {
    DEFAULT_ROLES
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split('|').map(str::trim).collect())
}

fn role_names() -> impl Iterator<Item = &'static str> {
    let mut seen = std::collections::BTreeSet::new();
    lines().filter_map(move |line| line.first().copied().filter(|name| seen.insert(*name)))
}

fn rules_of(role: &str) -> Vec<Value> {
    let words = |list: &str| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut rules = Vec::new();
    for line in lines().filter(|line| line.first() == Some(&role)) {
        match line.as_slice() {
            [_, "=", other] => rules.extend(rules_of(other)),
            [_, verbs, "url", paths] => rules.push(json!({"verbs": words(verbs), "nonResourceURLs": words(paths)})),
            [_, verbs, groups, resources] => {
                let groups: Vec<&str> =
                    groups.split(',').map(|group| if group == "core" { "" } else { group }).collect();
                rules.push(json!({"verbs": words(verbs), "apiGroups": groups, "resources": words(resources)}));
            }
            [_, verbs, groups, resources, names] => {
                rules.push(json!({"verbs": words(verbs), "apiGroups": words(groups), "resources": words(resources),
                    "resourceNames": words(names)}));
            }
            other => debug_assert!(false, "a line of default_roles.txt has {} columns", other.len()),
        }
    }
    rules
}

/// Roles that gather the rules of all roles with their label; each with those whose gathering it is part of.
const GATHERING: [(&str, &[&str]); 3] = [("admin", &[]), ("edit", &["admin"]), ("view", &["edit"])];

fn default_roles() -> impl Iterator<Item = Value> {
    let aggregate = |name: &str| format!("rbac.authorization.k8s.io/aggregate-to-{name}");
    let role = move |name: &str, rules: Vec<Value>, part_of: &[&str]| {
        let mut metadata = metadata(name);
        for other in part_of {
            metadata["labels"][aggregate(other)] = "true".into();
        }
        json!({"apiVersion": RBAC, "kind": "ClusterRole", "metadata": metadata, "rules": rules})
    };
    let gathering = GATHERING.iter().flat_map(move |(name, part_of)| {
        let mut whole = role(name, rules_of(name), part_of);
        whole["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {aggregate(name): "true"}}]});
        [whole, role(&format!("system:aggregate-to-{name}"), rules_of(name), &[name])]
    });
    let plain = role_names().filter(|name| GATHERING.iter().all(|(gathering, _)| gathering != name));
    plain.map(move |name| role(name, rules_of(name), &[])).chain(gathering)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use controller_store::store::Store;

    use super::*;

    #[test]
    fn admin_includes_edit_includes_view() {
        let (admin, edit, view) = (rules_of("admin"), rules_of("edit"), rules_of("view"));
        assert!(view.iter().all(|rule| edit.contains(rule)) && edit.iter().all(|rule| admin.contains(rule)));
        let secrets = |rules: &[Value]| rules.iter().any(|rule| rule["resources"].to_string().contains("\"secrets\""));
        assert!(!secrets(&view) && secrets(&edit));
    }

    #[test]
    fn a_role_of_an_older_release_gains_what_it_lacks() {
        let default = default_roles().find(|role| role["metadata"]["name"] == "view").unwrap();
        let own = json!({"verbs": ["get"], "apiGroups": ["example.org"], "resources": ["things"]});
        let mut held = default.clone();
        held["rules"] = json!([default["rules"][0], own]);
        assert!(complete(&mut held, &default));
        let rules = held["rules"].as_array().unwrap();
        assert!(rules.contains(&own) && default["rules"].as_array().unwrap().iter().all(|rule| rules.contains(rule)));
        assert!(!complete(&mut held, &default), "once is enough");
        held["rules"] = json!([]);
        held["metadata"]["annotations"][AUTO_UPDATE] = json!("false");
        assert!(!complete(&mut held, &default));
    }

    #[tokio::test]
    async fn a_second_start_writes_nothing() {
        let store = Store::open(controller_store::driver::Memory, controller_store::store::Config::default()).unwrap();
        let range = |cidr: &str| cidr.parse().unwrap();
        let ranges = crate::service::Ranges { cidr: range("10.43.0.0/16"), dns: [10, 43, 0, 10].into() };
        let event_ttl = std::time::Duration::from_secs(1);
        let registry = Registry::new(Arc::new(store), event_ttl, ranges);
        let trusted = Trusted { clients: "c", front_proxy: "f" };
        ensure(&registry, &trusted).await.unwrap();
        let first = registry.store.revision();
        ensure(&registry, &trusted).await.unwrap();
        assert_eq!(registry.store.revision(), first, "what is stored is what is compared");
    }

    #[test]
    fn every_default_object_has_a_resource() {
        for object in default_objects() {
            assert!(resource_of(Table::builtin(), &object).is_some(), "{object}");
        }
    }
}

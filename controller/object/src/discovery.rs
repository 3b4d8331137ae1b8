//! What is served, told to clients: the classic lists and the aggregated document.
use crate::resource::{Resource, Subresource, Table, join_version};
use serde_json::{Value, json};

/// `/api`
pub fn api_versions(host: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": host}]})
}

fn group_value(table: &Table, group: &str) -> Value {
    let version = |v: &String| json!({"groupVersion": join_version(group, v), "version": v});
    let versions: Vec<Value> = table.versions(group).iter().map(version).collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

/// `/apis`
pub fn api_group_list(table: &Table) -> Value {
    let groups: Vec<Value> = table.groups().filter(|g| !g.is_empty()).map(|g| group_value(table, g)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`
pub fn api_group(table: &Table, group: &str) -> Option<Value> {
    if group.is_empty() || table.versions(group).is_empty() {
        return None;
    }
    let mut value = group_value(table, group);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

fn of<'a>(table: &'a Table, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Resource> {
    table.all().map(std::convert::AsRef::as_ref).filter(move |r| r.group == group && r.version == version)
}

/// `/api/v1` and `/apis/GROUP/VERSION`
pub fn api_resource_list(table: &Table, group: &str, version: &str) -> Option<Value> {
    if !table.versions(group).iter().any(|v| v == version) {
        return None;
    }
    let mut entries: Vec<(String, Value)> = Vec::new();
    for resource in of(table, group, version) {
        let mut entry = json!({"name": resource.plural, "singularName": resource.singular,
            "namespaced": resource.is_namespaced(), "kind": resource.kind, "verbs": resource.verbs.names()});
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        if resource.verbs == crate::resource::Verbs::Storage {
            entry["storageVersionHash"] = storage_hash(resource).into();
        }
        entries.push((resource.plural.clone(), entry));
        for subresource in &resource.subresources {
            let name = format!("{}/{}", resource.plural, subresource.as_str());
            let (kind_group, kind_version, kind) = exchanged(resource, *subresource);
            let mut entry = json!({"name": name, "singularName": "", "namespaced": resource.is_namespaced(),
                "kind": kind, "verbs": subresource.verbs()});
            if (kind_group.as_str(), kind_version.as_str()) != (group, version) {
                entry["group"] = kind_group.into();
                entry["version"] = kind_version.into();
            }
            entries.push((name, entry));
        }
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    let resources: Vec<Value> = entries.into_iter().map(|e| e.1).collect();
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": join_version(group, version), "resources": resources}),
    )
}

/// Tells clients whether two versions share storage.
fn storage_hash(resource: &Resource) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    let text = format!("{}/{}/{}", resource.storage_group, resource.storage_version, resource.storage_plural);
    let hash = sha2::Sha256::digest(text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(&hash[..8])
}

/// The kind that a subresource exchanges: group, version, kind.
fn exchanged(resource: &Resource, subresource: Subresource) -> (String, String, String) {
    match subresource.kind() {
        Some((group, version, kind)) => {
            // Nodes and services have proxy options of their own.
            let kind = if subresource == Subresource::Proxy {
                format!("{}ProxyOptions", resource.kind)
            } else {
                kind.to_owned()
            };
            (group.to_owned(), version.to_owned(), kind)
        }
        None => (resource.group.clone(), resource.version.clone(), resource.kind.clone()),
    }
}

/// `/api` (`core`) and `/apis` in the form `apidiscovery.k8s.io/v2`.
pub fn aggregated(table: &Table, core: bool) -> Value {
    let groups: Vec<Value> = table
        .groups()
        .filter(|group| group.is_empty() == core)
        .map(|group| {
            let versions: Vec<Value> =
                table.versions(group).iter().map(|v| aggregated_version(table, group, v)).collect();
            let metadata = if group.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": groups})
}

fn aggregated_version(table: &Table, group: &str, version: &str) -> Value {
    let mut resources: Vec<(&str, Value)> = of(table, group, version)
        .map(|resource| {
            let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
            let scope = if resource.is_namespaced() { "Namespaced" } else { "Cluster" };
            let mut entry = json!({"resource": resource.plural, "responseKind": kind(group, version, &resource.kind),
                "scope": scope, "singularResource": resource.singular, "verbs": resource.verbs.names()});
            if !resource.short_names.is_empty() {
                entry["shortNames"] = json!(resource.short_names);
            }
            if !resource.categories.is_empty() {
                entry["categories"] = json!(resource.categories);
            }
            let mut subresources: Vec<Subresource> = resource.subresources.clone();
            subresources.sort_by_key(|s| s.as_str());
            if !subresources.is_empty() {
                let entries = subresources.into_iter().map(|s| {
                    let (group, version, name) = exchanged(resource, s);
                    json!({"subresource": s.as_str(), "responseKind": kind(&group, &version, &name), "verbs": s.verbs()})
                });
                entry["subresources"] = entries.collect();
            }
            (resource.plural.as_str(), entry)
        })
        .collect();
    resources.sort_by_key(|r| r.0);
    let resources: Vec<Value> = resources.into_iter().map(|r| r.1).collect();
    json!({"version": version, "freshness": "Current", "resources": resources})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_tell_the_same() {
        let table = Table::builtin();
        let list = api_resource_list(table, "", "v1").unwrap();
        let names: Vec<&str> =
            list["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
        assert!(names.contains(&"pods") && names.contains(&"pods/log") && names.contains(&"nodes/status"));
        let core = aggregated(table, true);
        let resources = core["items"][0]["versions"][0]["resources"].as_array().unwrap();
        assert_eq!(resources.len(), names.iter().filter(|n| !n.contains('/')).count());
        assert!(api_resource_list(table, "apps", "v9").is_none());
        assert!(api_group(table, "nope").is_none());
        let autoscaling = api_group(table, "autoscaling").unwrap();
        assert_eq!(autoscaling["preferredVersion"]["version"], "v2");
        assert_eq!(api_group_list(table)["groups"].as_array().unwrap().len(), table.groups().count() - 1);
    }
}

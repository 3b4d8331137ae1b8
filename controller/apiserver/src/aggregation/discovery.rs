//! What extension servers serve, added to what this server says of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use serde_json::{Value, json};

use super::{Extension, resources};
use crate::server::State;

/// The extensions by group, the preferred version first.
fn by_group(state: &State) -> BTreeMap<String, Vec<Arc<Extension>>> {
    let mut groups = BTreeMap::<String, Vec<Arc<Extension>>>::new();
    for extension in state.aggregation.extensions.now().values() {
        groups.entry(extension.group.clone()).or_default().push(Arc::clone(extension));
    }
    for versions in groups.values_mut() {
        versions.sort_by_key(|extension| std::cmp::Reverse(extension.version_priority));
    }
    groups
}

/// Adds groups and versions to an APIGroupList, or versions to one APIGroup.
pub(crate) fn complete_groups(state: &State, document: &mut Value) {
    let groups = by_group(state);
    let version = |extension: &Arc<Extension>| {
        let full = format!("{}/{}", extension.group, extension.version);
        json!({"groupVersion": full, "version": extension.version})
    };
    for (name, extensions) in &groups {
        let added: Vec<Value> = extensions.iter().map(version).collect();
        let known = match document["kind"].as_str() {
            Some("APIGroup") if document["name"] == **name => Some(&mut *document),
            Some("APIGroup") => continue,
            _ => document["groups"].as_array_mut().and_then(|all| all.iter_mut().find(|one| one["name"] == **name)),
        };
        match known {
            Some(group) => {
                if let Some(versions) = group["versions"].as_array_mut() {
                    let fresh: Vec<Value> = added.into_iter().filter(|one| !versions.contains(one)).collect();
                    versions.extend(fresh);
                }
            }
            None => {
                let group = json!({"name": name, "preferredVersion": added.first(), "versions": added});
                if let Some(all) = document["groups"].as_array_mut() {
                    all.push(group);
                }
            }
        }
    }
}

/// Adds to an APIGroupDiscoveryList what each extension server answers now; those that do not answer are `Stale`.
pub(crate) async fn complete_aggregated(state: &State, document: &mut Value) {
    let ask = async |extension: &Arc<Extension>| match resources(state, extension).await {
        Ok(list) => {
            json!({"version": extension.version, "freshness": "Current", "resources": converted(extension, &list)})
        }
        Err(_) => json!({"version": extension.version, "freshness": "Stale", "resources": []}),
    };
    let groups = by_group(state);
    let asked = groups.iter().map(async |(name, extensions)| (name, join_all(extensions.iter().map(&ask)).await));
    for (name, versions) in join_all(asked).await {
        let Some(items) = document["items"].as_array_mut() else { return };
        match items.iter_mut().find(|item| item["metadata"]["name"] == *name) {
            Some(item) => {
                if let Some(own) = item["versions"].as_array_mut() {
                    own.retain(|known| !versions.iter().any(|one| one["version"] == known["version"]));
                    own.extend(versions);
                }
            }
            None => items.push(json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": versions})),
        }
    }
}

/// An APIResourceList in the form `apidiscovery.k8s.io/v2`.
fn converted(extension: &Extension, list: &Value) -> Vec<Value> {
    let all = list["resources"].as_array().map_or(&[][..], Vec::as_slice);
    let kind = |resource: &Value| {
        let or = |key: &str, default: &str| resource[key].as_str().unwrap_or(default).to_owned();
        json!({"group": or("group", &extension.group), "version": or("version", &extension.version), "kind": resource["kind"]})
    };
    let name = |resource: &Value| resource["name"].as_str().unwrap_or_default().to_owned();
    let whole = all.iter().filter(|resource| !name(resource).contains('/'));
    whole
        .map(|resource| {
            let below = format!("{}/", name(resource));
            let subresources: Vec<Value> = all
                .iter()
                .filter_map(|sub| Some((name(sub).strip_prefix(&below)?.to_owned(), sub)))
                .map(|(name, sub)| json!({"subresource": name, "responseKind": kind(sub), "verbs": sub["verbs"]}))
                .collect();
            let scope = if resource["namespaced"] == true { "Namespaced" } else { "Cluster" };
            let mut converted = json!({"resource": name(resource), "responseKind": kind(resource), "scope": scope,
                "singularResource": resource["singularName"], "verbs": resource["verbs"]});
            for key in ["shortNames", "categories"] {
                if resource[key].is_array() {
                    converted[key] = resource[key].clone();
                }
            }
            if !subresources.is_empty() {
                converted["subresources"] = subresources.into();
            }
            converted
        })
        .collect()
}

//! ClusterRoles that gather the rules of others by label: as rules in the object, so that everybody can read them.
//! Kubernetes documentation, "Using RBAC Authorization", aggregated ClusterRoles.
use crate::cache::{Cache, Key, key_of};
use crate::error::{ReconcileError, at, code};
use crate::queue::{Next, Queue};
use api::selector::Selector;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::sync::Arc;

/// Gathers until dropped.
pub(crate) async fn start(client: kube::Client, roles: Arc<Cache<ClusterRole>>) {
    let queue: Arc<Queue<Key>> = Queue::new("clusterrole-aggregation");
    let (wake, known) = (Arc::clone(&queue), Arc::clone(&roles));
    roles.on_change(move |_, _| {
        // Any role may be part of any gathering; there are few, and they change rarely.
        for role in known.all().iter().filter(|role| role.aggregation_rule.is_some()) {
            wake.add(key_of(&role.metadata));
        }
    });
    roles.listed().await;
    for role in roles.all().iter().filter(|role| role.aggregation_rule.is_some()) {
        queue.add(key_of(&role.metadata));
    }
    let work = move |key: Key| {
        let (client, roles) = (client.clone(), Arc::clone(&roles));
        async move { reconcile(client, &roles, &key).await }
    };
    queue.work(1, work).await;
}

async fn reconcile(client: kube::Client, roles: &Cache<ClusterRole>, key: &Key) -> Result<Next, ReconcileError> {
    let Some(role) = roles.get(key) else { return Ok(Next::Wait) };
    let Some(wanted) = gather(&role, &roles.all()) else { return Ok(Next::Wait) };
    if role.rules.as_deref().unwrap_or_default() == wanted {
        return Ok(Next::Wait);
    }
    let api: Api<ClusterRole> = Api::all(client);
    let patch = Patch::Merge(json!({"metadata": {"uid": role.metadata.uid}, "rules": wanted}));
    match api.patch(key, &PatchParams::default(), &patch).await {
        Ok(role) => roles.put(&role.metadata.clone(), role),
        Err(error) if matches!(code(&error), 404 | 409) => {}
        Err(error) => return Err(at("writing gathered rules")(error)),
    }
    Ok(Next::Wait)
}

/// The rules of all others that a selector takes, each once, in the order of the roles' names. `None` for a role
/// that gathers nothing.
fn gather(role: &ClusterRole, roles: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    // A selector that cannot be read takes nothing.
    let selectors: Vec<Selector> = selectors.iter().filter_map(|s| Selector::from_label_selector(s).ok()).collect();
    let none = std::collections::BTreeMap::new();
    let taken = |other: &&Arc<ClusterRole>| {
        let labels = other.metadata.labels.as_ref().unwrap_or(&none);
        other.metadata.name != role.metadata.name && selectors.iter().any(|selector| selector.matches(labels))
    };
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in roles.iter().filter(taken).flat_map(|other| other.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, labels: serde_json::Value, more: serde_json::Value) -> Arc<ClusterRole> {
        let mut role = json!({"metadata": {"name": name, "labels": labels}});
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Arc::new(serde_json::from_value(role).unwrap())
    }

    #[test]
    fn rules_come_from_those_with_the_label() {
        let rule = |verb: &str| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]});
        let gathering = role(
            "all",
            json!({"in": "yes"}),
            json!({"rules": [rule("own")], "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"in": "yes"}}]}}),
        );
        let roles = [
            Arc::clone(&gathering),
            role("a", json!({"in": "yes"}), json!({"rules": [rule("get"), rule("list")]})),
            role("b", json!({"in": "yes"}), json!({"rules": [rule("get")]})),
            role("c", json!({"in": "no"}), json!({"rules": [rule("delete")]})),
        ];
        let verbs: Vec<String> = gather(&gathering, &roles).unwrap().into_iter().flat_map(|rule| rule.verbs).collect();
        assert_eq!(verbs, ["get", "list"]);
        assert_eq!(gather(&roles[1], &roles), None);
    }
}

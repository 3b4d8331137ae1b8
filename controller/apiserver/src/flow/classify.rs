//! Which schema and level a request belongs to, and which flow: pure.

use super::config::{Configuration, Distinguisher, Level, NonResourceRule, ResourceRule, Schema, Subject};
use crate::authn::User;
use crate::authz::{Action, ResourceAction};

/// What a request is counted as.
pub(super) struct Found<'a> {
    pub(super) schema: &'a Schema,
    pub(super) level: &'a Level,
}

/// The first schema that takes the request and whose level there is.
pub(super) fn classify<'a>(configuration: &'a Configuration, user: &User, action: &Action<'_>) -> Option<Found<'a>> {
    let takes = |schema: &Schema| {
        schema.rules.iter().any(|rules| {
            rules.subjects.iter().any(|subject| is_meant(subject, user))
                && match action {
                    Action::Resource(action) => rules.resource_rules.iter().any(|rule| takes_resource(rule, action)),
                    Action::NonResource { verb, path } => {
                        rules.non_resource_rules.iter().any(|rule| takes_url(rule, verb, path))
                    }
                }
        })
    };
    configuration.schemas.iter().filter(|schema| takes(schema)).find_map(|schema| {
        let level = configuration.levels.get(&schema.level)?;
        Some(Found { schema, level })
    })
}

/// A number that requests of one flow share.
pub(super) fn flow(found: &Found<'_>, user: &User, action: &Action<'_>) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    found.schema.name.hash(&mut hasher);
    match (found.schema.distinguisher, action) {
        (Some(Distinguisher::ByUser), _) => user.name.hash(&mut hasher),
        (Some(Distinguisher::ByNamespace), Action::Resource(action)) => action.namespace.hash(&mut hasher),
        (Some(Distinguisher::ByNamespace), Action::NonResource { .. }) | (None, _) => {}
    }
    hasher.finish()
}

fn is_meant(subject: &Subject, user: &User) -> bool {
    match subject.kind.as_str() {
        "User" => subject.user.name == "*" || subject.user.name == user.name,
        "Group" => subject.group.name == "*" || user.is_in(&subject.group.name),
        "ServiceAccount" => {
            let account = user.name.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
            account.is_some_and(|(namespace, name)| {
                namespace == subject.service_account.namespace
                    && (subject.service_account.name == "*" || name == subject.service_account.name)
            })
        }
        _ => false,
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == "*" || own == wanted)
}

fn takes_resource(rule: &ResourceRule, action: &ResourceAction<'_>) -> bool {
    has(&rule.verbs, action.verb)
        && has(&rule.api_groups, action.group)
        && has(&rule.resources, &action.full_resource())
        && match action.namespace.filter(|namespace| !namespace.is_empty()) {
            None => rule.cluster_scope,
            Some(namespace) => has(&rule.namespaces, namespace),
        }
}

fn takes_url(rule: &NonResourceRule, verb: &str, path: &str) -> bool {
    let fits = |pattern: &String| match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    };
    has(&rule.verbs, verb) && rule.urls.iter().any(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use controller_store::model::{KeyValue, Revision};

    #[test]
    fn the_default_objects_sort_requests_as_they_should() {
        let items: Vec<KeyValue> = super::super::defaults::objects()
            .into_iter()
            .map(|object| KeyValue {
                key: Default::default(),
                value: object.to_string().into(),
                create_revision: Revision(1),
                mod_revision: Revision(1),
            })
            .collect();
        let configuration = Configuration::read(&items);
        let get = |resource: &'static str| {
            Action::Resource(ResourceAction { verb: "get", resource, namespace: Some("a"), ..Default::default() })
        };
        let lease = Action::Resource(ResourceAction {
            verb: "update",
            group: "coordination.k8s.io",
            resource: "leases",
            namespace: Some("kube-node-lease"),
            ..Default::default()
        });
        let health = Action::NonResource { verb: "get", path: "/healthz" };
        let node = User::new("system:node:n", &[crate::authn::NODES]);
        for (user, action, schema, level) in [
            (User::new("a", &[crate::authn::MASTERS]), get("pods"), "exempt", "exempt"),
            (User::anonymous(), health, "probes", "exempt"),
            (node.clone(), get("pods"), "system-nodes", "system"),
            (node, lease, "system-node-high", "node-high"),
            (User::service_account("kube-system", "x"), get("pods"), "kube-system-service-accounts", "workload-high"),
            (User::service_account("a", "x"), get("pods"), "service-accounts", "workload-low"),
            (User::new("system:kube-scheduler", &[]), get("pods"), "kube-scheduler", "workload-high"),
            (User::new("somebody", &[]), get("pods"), "global-default", "global-default"),
        ] {
            let found = classify(&configuration, &user, &action).expect("all are taken");
            assert_eq!((found.schema.name.as_str(), found.level.name.as_str()), (schema, level), "{}", user.name);
        }
        let seats: usize = configuration.levels.keys().map(|level| configuration.seats(level, 600)).sum();
        assert!((600..610).contains(&seats), "{seats}");
    }
}

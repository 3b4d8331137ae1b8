//! Role-based access control: rules of roles, bound to subjects. rbac.authorization.k8s.io/v1.

use std::collections::HashMap;
use std::sync::Arc;

use controller_store::model::KeyValue;
use controller_store::store::Store;
use serde::Deserialize;

use super::{Action, ResourceAction};
use crate::authn::User;
use crate::followed::{Followed, objects};

const PREFIX: &str = "/registry/rbac.authorization.k8s.io/";

/// One rule of a role.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    pub(crate) verbs: Vec<String>,
    pub(crate) api_groups: Vec<String>,
    pub(crate) resources: Vec<String>,
    pub(crate) resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    pub(crate) non_resource_urls: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

/// Which role a binding grants.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RoleRef {
    pub(crate) kind: String,
    pub(crate) name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    namespace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RbacObject {
    metadata: Metadata,
    rules: Option<Vec<Rule>>,
    subjects: Option<Vec<Subject>>,
    role_ref: Option<RoleRef>,
}

#[derive(Debug)]
struct Binding {
    subjects: Vec<Subject>,
    role: RoleRef,
}

#[derive(Default)]
struct Index {
    /// By namespace (`None`: ClusterRole) and name.
    roles: HashMap<(Option<String>, String), Arc<Vec<Rule>>>,
    /// By namespace; `None`: ClusterRoleBinding.
    bindings: HashMap<Option<String>, Vec<Binding>>,
}

/// The RBAC authorizer.
pub(crate) struct Rbac(Followed<Index>);

fn read(items: &[KeyValue]) -> Index {
    let mut index = Index::default();
    objects(items).for_each(|object| index.add(object));
    index
}

impl Rbac {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self(Followed::new(store, PREFIX, read))
    }

    pub(crate) fn is_allowed(&self, user: &User, action: &Action<'_>) -> bool {
        let namespace = match action {
            Action::Resource(action) => action.namespace,
            Action::NonResource { .. } => None,
        };
        self.rules(user, namespace).iter().any(|rules| rules.iter().any(|rule| rule.allows(action)))
    }

    /// The rules that hold for a user in a namespace (or cluster-wide).
    pub(crate) fn rules(&self, user: &User, namespace: Option<&str>) -> Vec<Arc<Vec<Rule>>> {
        let index = self.0.now();
        let mut scopes = vec![None];
        scopes.extend(namespace.map(|namespace| Some(namespace.to_owned())));
        let mut found = Vec::new();
        for scope in scopes {
            for binding in index.bindings.get(&scope).into_iter().flatten() {
                if binding.subjects.iter().any(|subject| subject.is(user, scope.as_deref()))
                    && let Some(rules) = index.role(&binding.role, scope.as_deref())
                {
                    found.push(rules);
                }
            }
        }
        found
    }

    /// The rules of a role that a binding in `namespace` refers to.
    pub(crate) fn role(&self, role: &RoleRef, namespace: Option<&str>) -> Option<Arc<Vec<Rule>>> {
        self.0.now().role(role, namespace)
    }
}

impl Index {
    fn add(&mut self, object: RbacObject) {
        let Metadata { name, namespace } = object.metadata;
        let namespace = namespace.filter(|ns| !ns.is_empty());
        match object.role_ref {
            Some(role) => {
                let binding = Binding { subjects: object.subjects.unwrap_or_default(), role };
                self.bindings.entry(namespace).or_default().push(binding);
            }
            None => {
                self.roles.insert((namespace, name), Arc::new(object.rules.unwrap_or_default()));
            }
        }
    }

    fn role(&self, role: &RoleRef, namespace: Option<&str>) -> Option<Arc<Vec<Rule>>> {
        let scope = (role.kind == "Role").then(|| namespace.map(str::to_owned)).flatten();
        self.roles.get(&(scope, role.name.clone())).cloned()
    }
}

impl Subject {
    fn is(&self, user: &User, binding_namespace: Option<&str>) -> bool {
        match self.kind.as_str() {
            "User" => self.name == user.name,
            "Group" => user.is_in(&self.name),
            "ServiceAccount" => {
                let namespace = Some(self.namespace.as_str()).filter(|ns| !ns.is_empty()).or(binding_namespace);
                namespace.is_some_and(|ns| user.name == format!("system:serviceaccount:{ns}:{}", self.name))
            }
            _ => false,
        }
    }
}

impl Rule {
    pub(crate) fn allows(&self, action: &Action<'_>) -> bool {
        match action {
            Action::Resource(action) => self.allows_resource(action),
            Action::NonResource { verb, path } => {
                holds(&self.verbs, verb) && self.non_resource_urls.iter().any(|pattern| url_matches(pattern, path))
            }
        }
    }

    fn allows_resource(&self, action: &ResourceAction<'_>) -> bool {
        let full = action.full_resource();
        let resource = self.resources.iter().any(|resource| {
            resource == "*"
                || *resource == full
                || action.subresource.is_some_and(|sub| resource.strip_prefix("*/") == Some(sub))
        });
        holds(&self.verbs, action.verb)
            && holds(&self.api_groups, action.group)
            && resource
            && (self.resource_names.is_empty()
                || action.name.is_some_and(|name| self.resource_names.iter().any(|own| own == name)))
    }
}

fn holds(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == "*" || own == wanted)
}

pub(crate) fn url_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

#[cfg(test)]
mod tests {
    use controller_store::driver::Memory;
    use controller_store::model::Op;
    use controller_store::store::Config;
    use serde_json::{Value, json};

    use super::*;

    async fn put(store: &Store, path: &str, object: Value) {
        let op = Op::Put { key: format!("{PREFIX}{path}").into(), value: object.to_string().into(), ttl: None };
        store.commit(&[], vec![op]).await.unwrap();
    }

    #[tokio::test]
    async fn bindings_count_at_once_and_only_where_they_are() {
        let store = Arc::new(Store::open(Memory, Config::default()).unwrap());
        let rbac = Rbac::new(Arc::clone(&store));
        let user = User::service_account("a", "robot");
        let read = |namespace, name| {
            Action::Resource(ResourceAction {
                verb: "get",
                resource: "pods",
                subresource: Some("log"),
                namespace: Some(namespace),
                name: Some(name),
                ..Default::default()
            })
        };
        assert!(!rbac.is_allowed(&user, &read("a", "p")));
        let rules = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"], "resourceNames": ["p"]}]);
        put(&store, "roles/a/reader", json!({"metadata": {"name": "reader", "namespace": "a"}, "rules": rules})).await;
        let binding = json!({"metadata": {"name": "b", "namespace": "a"},
            "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "a"}],
            "roleRef": {"kind": "Role", "name": "reader"}});
        put(&store, "rolebindings/a/b", binding).await;
        assert!(rbac.is_allowed(&user, &read("a", "p")));
        assert!(!rbac.is_allowed(&user, &read("a", "q")), "resourceNames restrict");
        assert!(!rbac.is_allowed(&user, &read("b", "p")), "a Role stays in its namespace");
        assert!(!rbac.is_allowed(&User::service_account("b", "robot"), &read("a", "p")));
    }

    #[test]
    fn patterns_of_paths_end_in_a_star() {
        assert!(url_matches("/healthz/*", "/healthz/x") && url_matches("*", "/any"));
        assert!(!url_matches("/healthz", "/healthz/x"));
    }
}

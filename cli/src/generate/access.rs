//! Roles and bindings made of flags.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::kind::Catalog;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Flags of `gantry create role`.
#[derive(Debug, clap::Args)]
pub(crate) struct Role {
    /// Its name.
    name: String,
    #[command(flatten)]
    rules: Rules,
}

/// Flags of `gantry create clusterrole`.
#[derive(Debug, clap::Args)]
pub(crate) struct ClusterRole {
    /// Its name.
    name: String,
    #[command(flatten)]
    rules: Rules,
    /// Path that is no resource, such as /healthz; may be repeated.
    #[arg(long = "non-resource-url", value_name = "PATH", value_delimiter = ',')]
    non_resource_urls: Vec<String>,
}

/// What may be done with what.
#[derive(Debug, clap::Args)]
struct Rules {
    /// Verb such as get; may be repeated.
    #[arg(long = "verb", value_name = "VERB", value_delimiter = ',')]
    verbs: Vec<String>,
    /// RESOURCE[.GROUP][/SUBRESOURCE]; may be repeated.
    #[arg(long = "resource", value_name = "RESOURCE", value_delimiter = ',')]
    resources: Vec<String>,
    /// Name of an object that the rule is restricted to; may be repeated.
    #[arg(long = "resource-name", value_name = "NAME")]
    names: Vec<String>,
}

/// Flags of `gantry create rolebinding` and `gantry create clusterrolebinding`.
#[derive(Debug, clap::Args)]
pub(crate) struct Binding {
    /// Its name.
    name: String,
    /// The cluster role that is given.
    #[arg(long = "clusterrole", value_name = "NAME")]
    cluster_role: Option<String>,
    /// The role that is given.
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
    /// User that it is given to; may be repeated.
    #[arg(long = "user", value_name = "NAME", value_delimiter = ',')]
    users: Vec<String>,
    /// Group that it is given to; may be repeated.
    #[arg(long = "group", value_name = "NAME", value_delimiter = ',')]
    groups: Vec<String>,
    /// NAMESPACE:NAME of a service account that it is given to; may be repeated.
    #[arg(long = "serviceaccount", value_name = "NAMESPACE:NAME", value_delimiter = ',')]
    accounts: Vec<String>,
}

fn object(kind: &str, name: &str) -> Value {
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": {"name": name}})
}

impl Role {
    /// The role. `catalog` knows the groups of resources.
    pub(crate) fn object(&self, catalog: &Catalog) -> Result<Value, Failure> {
        let mut role = object("Role", &self.name);
        role["rules"] = self.rules.of_resources(catalog)?.into();
        Ok(role)
    }
}

impl ClusterRole {
    /// The cluster role. `catalog` knows the groups of resources.
    pub(crate) fn object(&self, catalog: &Catalog) -> Result<Value, Failure> {
        let mut role = object("ClusterRole", &self.name);
        let urls = &self.non_resource_urls;
        if urls.is_empty() || !self.rules.resources.is_empty() {
            let mut rules = self.rules.of_resources(catalog)?;
            if !urls.is_empty() {
                rules.push(json!({"verbs": self.rules.verbs, "nonResourceURLs": urls}));
            }
            role["rules"] = rules.into();
            return Ok(role);
        }
        if self.rules.verbs.is_empty() {
            return Err(Failure::error("at least one verb must be specified"));
        }
        role["rules"] = json!([{"verbs": self.rules.verbs, "nonResourceURLs": urls}]);
        Ok(role)
    }
}

impl Rules {
    /// A rule for each API group, in the order in which groups are first named.
    fn of_resources(&self, catalog: &Catalog) -> Result<Vec<Value>, Failure> {
        if self.verbs.is_empty() {
            return Err(Failure::error("at least one verb must be specified"));
        }
        if self.resources.is_empty() {
            return Err(Failure::error("at least one resource must be specified"));
        }
        if !self.names.is_empty() && self.resources.len() > 1 && self.verbs.iter().any(|verb| verb == "create") {
            return Err(Failure::error("resource names may not be used with the verb create"));
        }
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for word in &self.resources {
            let (resource, below) = word.split_once('/').map_or((word.as_str(), None), |(a, b)| (a, Some(b)));
            let (group, plural) = match resource {
                "*" => ("*".to_owned(), "*".to_owned()),
                resource => {
                    let kind = catalog.expect(resource)?;
                    (kind.group.clone(), kind.plural.clone())
                }
            };
            let full = below.map_or(plural.clone(), |below| format!("{plural}/{below}"));
            match groups.iter_mut().find(|(known, _)| *known == group) {
                Some((_, resources)) if resources.contains(&full) => {}
                Some((_, resources)) => resources.push(full),
                None => groups.push((group, vec![full])),
            }
        }
        let mut verbs: Vec<&String> = Vec::new();
        self.verbs.iter().for_each(|verb| {
            if !verbs.contains(&verb) {
                verbs.push(verb);
            }
        });
        let rule = |(group, resources): (String, Vec<String>)| {
            let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources});
            if !self.names.is_empty() {
                rule["resourceNames"] = json!(self.names);
            }
            rule
        };
        Ok(groups.into_iter().map(rule).collect())
    }
}

impl Binding {
    /// The binding of a kind, `RoleBinding` or `ClusterRoleBinding`.
    pub(crate) fn object(&self, kind: &str) -> Result<Value, Failure> {
        let (role_kind, role) = match (&self.cluster_role, &self.role) {
            (Some(role), None) => ("ClusterRole", role),
            (None, Some(role)) if kind == "RoleBinding" => ("Role", role),
            _ if kind == "RoleBinding" => {
                return Err(Failure::error("exactly one of clusterrole or role must be specified"));
            }
            _ => return Err(Failure::error("clusterrole must be specified")),
        };
        let mut subjects = Vec::new();
        let named = |kind: &str, name: &String| json!({"apiGroup": GROUP, "kind": kind, "name": name});
        subjects.extend(self.users.iter().map(|name| named("User", name)));
        subjects.extend(self.groups.iter().map(|name| named("Group", name)));
        for account in &self.accounts {
            match account.split(':').collect::<Vec<_>>()[..] {
                [namespace, name] if !namespace.is_empty() && !name.is_empty() => {
                    subjects.push(json!({"kind": "ServiceAccount", "name": name, "namespace": namespace}));
                }
                _ => return Err(Failure::error("serviceaccount must be <namespace>:<name>")),
            }
        }
        let mut binding = object(kind, &self.name);
        binding["roleRef"] = json!({"apiGroup": GROUP, "kind": role_kind, "name": role});
        if !subjects.is_empty() {
            binding["subjects"] = subjects.into();
        }
        Ok(binding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_for_each_group() {
        let catalog = crate::kind::tests::catalog();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let rules = |resources: &[&str]| Rules {
            verbs: words(&["get", "list", "get"]),
            resources: words(resources),
            names: vec![],
        };
        let found = rules(&["pods", "pods/log", "po", "deployments.apps"]).of_resources(&catalog).unwrap();
        let want = json!([
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
            {"verbs": ["get", "list"], "apiGroups": ["apps"], "resources": ["deployments"]}]);
        assert_eq!(Value::from(found), want);
        assert!(rules(&["nothing"]).of_resources(&catalog).is_err() && rules(&[]).of_resources(&catalog).is_err());
    }

    #[test]
    fn a_binding_names_one_role() {
        let binding = |cluster_role: Option<&str>, role: Option<&str>, account: &str| Binding {
            name: "b".into(),
            cluster_role: cluster_role.map(str::to_owned),
            role: role.map(str::to_owned),
            users: vec!["u".into()],
            groups: vec![],
            accounts: vec![account.to_owned()],
        };
        let made = binding(None, Some("r"), "n:a").object("RoleBinding").unwrap();
        assert_eq!(made["roleRef"]["kind"], "Role");
        assert_eq!(made["subjects"][1], json!({"kind": "ServiceAccount", "name": "a", "namespace": "n"}));
        assert!(binding(Some("c"), Some("r"), "n:a").object("RoleBinding").is_err());
        assert!(binding(None, Some("r"), "n:a").object("ClusterRoleBinding").is_err());
        assert!(binding(Some("c"), None, "a").object("ClusterRoleBinding").is_err());
    }
}

//! Which requests a webhook or a policy is for: operations, resources, namespaces and labels.
//! admissionregistration.k8s.io/v1 RuleWithOperations, MatchResources; pure but for the caller's look at a namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::Selector;
use controller_object::resource::{Resource, Subresource, Table};
use controller_object::status::Status;
use serde::Deserialize;
use serde_json::Value;

use super::attributes::{Attributes, Kind, Operation};

/// Nobody judges or changes what decides about admission, or nobody could undo a mistake.
const EXEMPT_GROUP: &str = "admissionregistration.k8s.io";

/// One rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    operations: Vec<String>,
    api_groups: Vec<String>,
    api_versions: Vec<String>,
    resources: Vec<String>,
    scope: Option<String>,
    /// Only policies have these.
    resource_names: Vec<String>,
}

/// What is matched beside the rules.
#[derive(Debug, Clone, Default)]
pub(crate) struct Criteria {
    pub(crate) rules: Vec<Rule>,
    pub(crate) excluded: Vec<Rule>,
    pub(crate) equivalent: bool,
    pub(crate) namespaces: Selector,
    pub(crate) objects: Selector,
}

/// The resource and kind that a request is shown as.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) resource: Arc<Resource>,
    pub(crate) kind: Kind,
}

impl Criteria {
    /// Of a webhook, or of `matchConstraints` and `matchResources` of a policy. An unreadable selector, which validation does not
    /// let in, matches everything: who asks for too much is seen.
    pub(crate) fn read(holder: &Value, rules: &str) -> Self {
        let list = |key: &str| holder.get(key).and_then(|list| Vec::<Rule>::deserialize(list).ok()).unwrap_or_default();
        let selector = |key: &str| match holder.get(key) {
            None | Some(Value::Null) => Selector::default(),
            Some(selector) => Selector::from_value(selector).unwrap_or_default(),
        };
        Self {
            rules: list(rules),
            excluded: list("excludeResourceRules"),
            equivalent: holder.get("matchPolicy").is_none_or(|policy| policy == "Equivalent"),
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }

    /// How the request is shown if it is meant; `object` is the new object.
    pub(crate) fn matches(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<Option<Shown>, Status> {
        let facts = Facts::of(attributes);
        if facts.is_exempt() || !self.matches_objects(attributes.old, object) {
            return Ok(None);
        }
        let table = attributes.table();
        if self.excluded.iter().any(|rule| self.finds(rule, &facts, attributes, &table).is_some()) {
            return Ok(None);
        }
        let shown = match self.rules.is_empty() {
            true => None,
            false => self.rules.iter().find_map(|rule| self.finds(rule, &facts, attributes, &table)),
        };
        let Some(shown) = shown else { return Ok(None) };
        Ok(self.matches_namespace(attributes, object)?.then_some(shown))
    }

    /// The same without rules: bindings of policies may restrict without naming resources.
    pub(crate) fn restricts(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<bool, Status> {
        if !self.rules.is_empty() {
            return Ok(self.matches(attributes, object)?.is_some());
        }
        let facts = Facts::of(attributes);
        let table = attributes.table();
        let excluded = self.excluded.iter().any(|rule| self.finds(rule, &facts, attributes, &table).is_some());
        Ok(!excluded && self.matches_objects(attributes.old, object) && self.matches_namespace(attributes, object)?)
    }

    fn finds(&self, rule: &Rule, facts: &Facts<'_>, attributes: &Attributes<'_>, table: &Table) -> Option<Shown> {
        let shown = |resource: &Arc<Resource>| Shown {
            resource: Arc::clone(resource),
            kind: Kind::of(resource, attributes.subresource),
        };
        if rule.matches(facts) {
            return Some(shown(attributes.resource));
        }
        if !self.equivalent {
            return None;
        }
        // The same objects under other groups and versions.
        let own = attributes.resource;
        let same = |other: &&Arc<Resource>| {
            (&other.storage_group, &other.storage_plural) == (&own.storage_group, &own.storage_plural)
                && (&other.group, &other.version) != (&own.group, &own.version)
                && attributes.subresource.is_none_or(|sub| other.has(sub))
        };
        table.all().filter(same).find(|other| rule.matches(&facts.on(other))).map(shown)
    }

    fn matches_objects(&self, old: Option<&Value>, new: Option<&Value>) -> bool {
        let fits = |object: Option<&Value>| {
            // What has no labels, such as the options of a connection, is only met by an empty selector.
            object.is_some_and(|object| object.get("metadata").is_some() && self.objects.matches(&labels(object)))
        };
        self.objects.is_empty() || fits(old) || fits(new)
    }

    fn matches_namespace(&self, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<bool, Status> {
        if self.namespaces.is_empty() {
            return Ok(true);
        }
        if attributes.is("", "namespaces") {
            // A namespace is in itself; while it is created it is nowhere else yet.
            let own = match attributes.operation {
                Operation::Create | Operation::Update if attributes.subresource.is_none() => object,
                _ => attributes.old.or(object),
            };
            return Ok(own.is_none_or(|own| self.namespaces.matches(&labels(own))));
        }
        let Some(namespace) = attributes.namespace else { return Ok(true) };
        let found = attributes.state.registry.peek("", "v1", "namespaces", None, namespace);
        match found {
            Some(found) => Ok(self.namespaces.matches(&labels(&found))),
            None => {
                let about = controller_object::status::About { group: "", kind: "namespaces", name: namespace };
                Err(Status::not_found(about))
            }
        }
    }
}

/// The labels of an object.
pub(crate) fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
    labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// What rules look at.
#[derive(Debug, Clone)]
struct Facts<'a> {
    operation: Operation,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: Option<Subresource>,
    is_namespaced: bool,
    name: &'a str,
}

impl<'a> Facts<'a> {
    fn of(attributes: &Attributes<'a>) -> Self {
        Self {
            operation: attributes.operation,
            group: &attributes.resource.group,
            version: &attributes.resource.version,
            resource: &attributes.resource.plural,
            subresource: attributes.subresource,
            is_namespaced: attributes.resource.is_namespaced(),
            name: attributes.name,
        }
    }

    fn on(&self, resource: &'a Resource) -> Self {
        let (group, version, plural) = (&resource.group, &resource.version, &resource.plural);
        Self { group, version, resource: plural, ..self.clone() }
    }

    fn is_exempt(&self) -> bool {
        self.group == EXEMPT_GROUP
    }
}

fn holds(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == "*" || own == wanted)
}

impl Rule {
    fn matches(&self, facts: &Facts<'_>) -> bool {
        let scope = match self.scope.as_deref() {
            Some("Namespaced") => facts.is_namespaced,
            Some("Cluster") => !facts.is_namespaced,
            _ => true,
        };
        let subresource = facts.subresource.map_or("", Subresource::as_str);
        let resource = self.resources.iter().any(|own| {
            let (resource, sub) = own.split_once('/').unwrap_or((own, ""));
            (resource == "*" || resource == facts.resource) && (sub == "*" || sub == subresource)
        });
        scope
            && resource
            && holds(&self.operations, facts.operation.as_str())
            && holds(&self.api_groups, facts.group)
            && holds(&self.api_versions, facts.version)
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|own| own == facts.name))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(value: Value) -> Rule {
        Rule::deserialize(value).unwrap()
    }

    fn facts<'a>(resource: &'a str, subresource: Option<Subresource>) -> Facts<'a> {
        Facts {
            operation: Operation::Update,
            group: "apps",
            version: "v1",
            resource,
            subresource,
            is_namespaced: true,
            name: "web",
        }
    }

    #[test]
    fn rules_take_wildcards_subresources_and_scopes() {
        let with = |resources: Value, more: Value| {
            let mut value = json!({"operations": ["UPDATE"], "apiGroups": ["apps"], "apiVersions": ["*"],
                "resources": resources});
            for (key, given) in more.as_object().into_iter().flatten() {
                value[key] = given.clone();
            }
            rule(value)
        };
        let (whole, scale) = (facts("deployments", None), facts("deployments", Some(Subresource::Scale)));
        for (resources, on_whole, on_scale) in [
            (json!(["deployments"]), true, false),
            (json!(["deployments/scale"]), false, true),
            (json!(["deployments/*"]), true, true),
            (json!(["*"]), true, false),
            (json!(["*/*"]), true, true),
            (json!(["*/scale"]), false, true),
            (json!(["pods", "replicasets/scale"]), false, false),
        ] {
            let rule = with(resources.clone(), json!({}));
            assert_eq!((rule.matches(&whole), rule.matches(&scale)), (on_whole, on_scale), "{resources}");
        }
        for (more, expected) in [
            (json!({"scope": "Namespaced"}), true),
            (json!({"scope": "Cluster"}), false),
            (json!({"scope": "*"}), true),
            (json!({"operations": ["CREATE"]}), false),
            (json!({"operations": ["*"]}), true),
            (json!({"apiGroups": [""]}), false),
            (json!({"apiVersions": ["v1beta1"]}), false),
            (json!({"resourceNames": ["web"]}), true),
            (json!({"resourceNames": ["db"]}), false),
        ] {
            assert_eq!(with(json!(["*"]), more.clone()).matches(&whole), expected, "{more}");
        }
    }
}

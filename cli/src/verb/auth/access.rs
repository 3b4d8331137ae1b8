//! What a role or a binding lacks of what a manifest asks for (kubectl's `auth reconcile`): values in, values out.

use serde_json::{Map, Value, json};

/// An object that says `false` here is left alone.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What has to be done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Nothing.
    None,
    /// It is not there.
    Create,
    /// Something of it is missing, or too much.
    Update,
    /// A binding's role cannot be changed: it goes and comes back.
    Recreate,
}

/// How an object becomes what a manifest asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) operation: Operation,
    /// It opted out: nothing is done to it.
    pub(super) protected: bool,
    /// What it is afterwards.
    pub(super) object: Value,
    /// Rules or subjects that are added.
    pub(super) missing: Vec<Value>,
    /// Rules or subjects that the manifest does not have.
    pub(super) extra: Vec<Value>,
}

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The plan for a role (with `rules`) or a binding (with `subjects`); what is too much goes only with `remove_extra`.
pub(super) fn plan(existing: Option<&Value>, expected: &Value, remove_extra: bool) -> Plan {
    let is_binding = expected.get("roleRef").is_some();
    let key = if is_binding { "subjects" } else { "rules" };
    let create =
        |operation, missing| Plan { operation, protected: false, object: expected.clone(), missing, extra: Vec::new() };
    let Some(existing) = existing else { return create(Operation::Create, list(expected, key).to_vec()) };
    let protected = existing.pointer("/metadata/annotations").is_some_and(|all| text(all, AUTOUPDATE) == "false");
    let reference = |object: &Value| ["apiGroup", "kind", "name"].map(|key| text(&object["roleRef"], key).to_owned());
    if is_binding && reference(existing) != reference(expected) {
        return Plan { protected, ..create(Operation::Recreate, Vec::new()) };
    }
    let mut object = existing.clone();
    for field in ["annotations", "labels"] {
        complete(&mut object["metadata"], field, expected.pointer(&format!("/metadata/{field}")));
    }
    let aggregated = |object: &Value| object.get("aggregationRule").is_some_and(Value::is_object);
    let (missing, extra) = match is_binding {
        true => (absent(list(expected, key), list(existing, key)), absent(list(existing, key), list(expected, key))),
        // The rules of aggregated roles are the server's to gather.
        false if aggregated(existing) && aggregated(expected) => {
            (uncovered(list(existing, key), list(expected, key)), Vec::new())
        }
        false => {
            (uncovered(list(existing, key), list(expected, key)), uncovered(list(expected, key), list(existing, key)))
        }
    };
    if remove_extra && !(missing.is_empty() && extra.is_empty()) {
        object[key] = list(expected, key).into();
    } else if !missing.is_empty() {
        object[key] = [list(existing, key), &missing].concat().into();
    }
    if !is_binding {
        aggregate(&mut object, expected, remove_extra);
    }
    let operation = if object == *existing { Operation::None } else { Operation::Update };
    Plan { operation, protected, object, missing, extra }
}

/// Adds what a map lacks; what it has stays.
fn complete(metadata: &mut Value, field: &str, expected: Option<&Value>) {
    let Some(expected) = expected.and_then(Value::as_object).filter(|all| !all.is_empty()) else { return };
    let Some(metadata) = metadata.as_object_mut() else { return };
    let here = metadata.entry(field).or_insert_with(|| Map::new().into());
    for (key, value) in expected {
        if let Some(here) = here.as_object_mut() {
            here.entry(key).or_insert_with(|| value.clone());
        }
    }
}

/// Whose rules a ClusterRole gathers.
fn aggregate(object: &mut Value, expected: &Value, remove_extra: bool) {
    let selectors = |object: &Value| list(&object["aggregationRule"], "clusterRoleSelectors").to_vec();
    let Some(rule) = expected.get("aggregationRule").filter(|rule| rule.is_object()) else {
        if let Some(object) = object.as_object_mut() {
            object.remove("aggregationRule");
        }
        return;
    };
    let (here, wanted) = (selectors(object), selectors(expected));
    let (missing, extra) = (absent(&wanted, &here), absent(&here, &wanted));
    if remove_extra && !(missing.is_empty() && extra.is_empty()) {
        object["aggregationRule"] = rule.clone();
    } else if !missing.is_empty() {
        let all = [here, missing].concat();
        object["aggregationRule"] = json!({"clusterRoleSelectors": all});
    }
}

/// What one list has and the other has not, each once.
fn absent(these: &[Value], others: &[Value]) -> Vec<Value> {
    let mut found: Vec<Value> = Vec::new();
    for value in these {
        if !others.contains(value) && !found.contains(value) {
            found.push(value.clone());
        }
    }
    found
}

/// The parts of `rules` that none of `by` allows: one verb on one resource, name or path each.
fn uncovered(by: &[Value], rules: &[Value]) -> Vec<Value> {
    let parts = rules.iter().flat_map(parts);
    parts.filter(|part| !by.iter().any(|rule| covers(rule, part))).collect()
}

fn parts(rule: &Value) -> Vec<Value> {
    let mut parts = Vec::new();
    for group in list(rule, "apiGroups") {
        for resource in list(rule, "resources") {
            for verb in list(rule, "verbs") {
                let part = json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]});
                let names = list(rule, "resourceNames");
                if names.is_empty() {
                    parts.push(part);
                    continue;
                }
                parts.extend(names.iter().map(|name| {
                    let mut part = part.clone();
                    part["resourceNames"] = json!([name]);
                    part
                }));
            }
        }
    }
    for url in list(rule, "nonResourceURLs") {
        parts.extend(list(rule, "verbs").iter().map(|verb| json!({"nonResourceURLs": [url], "verbs": [verb]})));
    }
    parts
}

/// Whether a rule allows a part, as authorization reads rules.
fn covers(rule: &Value, part: &Value) -> bool {
    let one = |key: &str| list(part, key).first().and_then(Value::as_str);
    let has = |key: &str, wanted: &str| list(rule, key).iter().any(|value| value == wanted);
    let any_or = |key: &str| one(key).is_none_or(|wanted| has(key, "*") || has(key, wanted));
    let resource = one("resources").is_none_or(|wanted| {
        let below = wanted.split_once('/').map(|(_, below)| format!("*/{below}"));
        has("resources", "*") || has("resources", wanted) || below.is_some_and(|below| has("resources", &below))
    });
    let name = list(rule, "resourceNames").is_empty()
        || one("resourceNames").is_some_and(|wanted| has("resourceNames", wanted));
    let url = one("nonResourceURLs").is_none_or(|wanted| {
        list(rule, "nonResourceURLs").iter().filter_map(Value::as_str).any(|pattern| {
            pattern == wanted || pattern.strip_suffix('*').is_some_and(|start| wanted.starts_with(start))
        })
    });
    any_or("verbs") && any_or("apiGroups") && resource && name && url
}

/// A rule or a subject in kubectl's words.
pub(super) fn told(value: &Value) -> String {
    let each = |key: &str| {
        let all = list(value, key).iter().filter_map(Value::as_str);
        format!("[{}]", all.collect::<Vec<_>>().join(" "))
    };
    match value.get("verbs") {
        Some(_) => format!(
            "{{Verbs:{} APIGroups:{} Resources:{} ResourceNames:{} NonResourceURLs:{}}}",
            each("verbs"),
            each("apiGroups"),
            each("resources"),
            each("resourceNames"),
            each("nonResourceURLs")
        ),
        None => format!(
            "{{Kind:{} APIGroup:{} Name:{} Namespace:{}}}",
            text(value, "kind"),
            text(value, "apiGroup"),
            text(value, "name"),
            text(value, "namespace")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], resources: &[&str]) -> Value {
        json!({"apiGroups": [""], "resources": resources, "verbs": verbs})
    }

    fn role(rules: &[Value]) -> Value {
        json!({"metadata": {"name": "r"}, "rules": rules})
    }

    fn binding(role: &str, users: &[&str]) -> Value {
        let users: Vec<Value> = users.iter().map(|name| json!({"kind": "User", "name": name})).collect();
        json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": role}, "subjects": users})
    }

    #[test]
    fn missing_rules_are_added_and_extra_ones_go_when_asked() {
        let existing = role(&[rule(&["get", "delete"], &["pods"])]);
        let expected = role(&[rule(&["get", "list"], &["pods"])]);
        let plan_ = plan(Some(&existing), &expected, false);
        assert_eq!((plan_.operation, &plan_.missing), (Operation::Update, &vec![rule(&["list"], &["pods"])]));
        assert_eq!(plan_.extra, [rule(&["delete"], &["pods"])]);
        assert_eq!(plan_.object["rules"], json!([rule(&["get", "delete"], &["pods"]), rule(&["list"], &["pods"])]));
        assert_eq!(plan(Some(&plan_.object), &expected, false).operation, Operation::None);
        assert_eq!(plan(Some(&plan_.object), &expected, true).object["rules"], expected["rules"]);
        assert_eq!(plan(None, &expected, false).operation, Operation::Create);
    }

    #[test]
    fn what_a_wider_rule_allows_is_not_missing() {
        let lacks = |by: Value, rule: Value| !uncovered(&[by], &[rule]).is_empty();
        assert!(!lacks(rule(&["*"], &["*"]), rule(&["get"], &["pods/log"])));
        assert!(!lacks(rule(&["get"], &["*/log"]), rule(&["get"], &["pods/log"])));
        assert!(lacks(rule(&["get"], &["pods"]), rule(&["get"], &["pods/log"])));
        let mut named = rule(&["get"], &["pods"]);
        named["resourceNames"] = json!(["a"]);
        assert!(!lacks(rule(&["get"], &["pods"]), named.clone()));
        assert!(lacks(named, rule(&["get"], &["pods"])));
        let url = |url: &str| json!({"nonResourceURLs": [url], "verbs": ["get"]});
        assert!(!lacks(url("/healthz/*"), url("/healthz/etcd")) && lacks(url("/healthz"), url("/healthz/etcd")));
    }

    #[test]
    fn bindings_get_subjects_and_a_new_role_means_a_new_binding() {
        let plan_ = plan(Some(&binding("r", &["a"])), &binding("r", &["b", "b"]), false);
        assert_eq!((plan_.missing.len(), plan_.extra.len()), (1, 1));
        assert_eq!(plan_.object, binding("r", &["a", "b"]));
        assert_eq!(plan(Some(&binding("r", &["a"])), &binding("r", &["b"]), true).object, binding("r", &["b"]));
        assert_eq!(plan(Some(&binding("r", &["a"])), &binding("s", &["a"]), false).operation, Operation::Recreate);
    }

    #[test]
    fn metadata_is_completed_aggregation_follows_and_who_opted_out_is_known() {
        let mut existing = role(&[]);
        existing["metadata"]["labels"] = json!({"a": "1"});
        existing["metadata"]["annotations"] = json!({AUTOUPDATE: "false"});
        existing["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"x": "1"}}]});
        let mut expected = role(&[]);
        expected["metadata"]["labels"] = json!({"a": "2", "b": "2"});
        let plan_ = plan(Some(&existing), &expected, false);
        assert!(plan_.protected && plan_.object.get("aggregationRule").is_none());
        assert_eq!(plan_.object["metadata"]["labels"], json!({"a": "1", "b": "2"}));
        expected["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"y": "1"}}]});
        let selectors = |plan: Plan| list(&plan.object["aggregationRule"], "clusterRoleSelectors").len();
        assert_eq!(selectors(plan(Some(&existing), &expected, false)), 2);
        assert_eq!(selectors(plan(Some(&existing), &expected, true)), 1);
    }

    #[test]
    fn broken_objects_are_taken_without_a_panic() {
        let broken = json!({"metadata": 1, "rules": 7, "roleRef": "x", "subjects": {}, "aggregationRule": []});
        for expected in [&broken, &role(&[json!(1)]), &binding("r", &["a"])] {
            plan(Some(&broken), expected, true);
            plan(Some(expected), &broken, false);
        }
    }
}

//! What is said about accounts, roles and bindings.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::kinds::{at, head, labels, table, text};
use super::page::Page;
use super::related::of_kind;
use super::template::{list, shown, string};
use crate::output::name_of;

/// Writes a ServiceAccount; `found` holds the Secrets of its namespace, nothing when they could not be read.
pub(super) fn account(page: &mut Page, object: &Value, found: Option<&[Value]>) {
    let secrets = found.unwrap_or_default();
    head(page, object);
    labels(page, object);
    let there: BTreeSet<&str> = of_kind(secrets, "Secret").map(name_of).collect();
    let names = |key: &str| -> Vec<String> {
        list(object, key).map(|secret| string(secret, "name").unwrap_or_default().to_owned()).collect()
    };
    let marked = |names: Vec<String>| -> Vec<String> {
        let one = |name: String| match found.is_some() && !there.contains(name.as_str()) {
            true => format!("{name} (not found)"),
            false => name,
        };
        names.into_iter().map(one).collect()
    };
    let is_token = |secret: &&Value| {
        let annotation = |key: &str| secret.pointer("/metadata/annotations").map(|all| shown(all.get(key)));
        text(secret, "/type") == "kubernetes.io/service-account-token"
            && annotation("kubernetes.io/service-account.name").is_some_and(|name| name == name_of(object))
            && annotation("kubernetes.io/service-account.uid").is_some_and(|uid| uid == text(object, "/metadata/uid"))
    };
    let tokens: Vec<String> =
        of_kind(secrets, "Secret").filter(is_token).map(|secret| name_of(secret).to_owned()).collect();
    page.values(0, "Image pull secrets", &marked(names("imagePullSecrets")));
    page.values(0, "Mountable secrets", &marked(names("secrets")));
    page.values(0, "Tokens", &tokens);
}

/// What one line of a role is about: group, resource, name, path.
type About = (String, String, String, String);

/// Writes a Role or ClusterRole.
pub(super) fn role(page: &mut Page, object: &Value) {
    page.field(0, "Name", text(object, "/metadata/name"));
    labels(page, object);
    page.heading(0, "PolicyRule");
    let titles = ["Resources", "Non-Resource URLs", "Resource Names", "Verbs"];
    let bracketed = |text: &str| format!("[{text}]");
    let rows = allowed(object).into_iter().map(|(verbs, (group, resource, name, path))| {
        // The group belongs to the kind, before a subresource.
        let resource = match (group.as_str(), resource.split_once('/')) {
            ("", _) => resource,
            (group, Some((kind, sub))) => format!("{kind}.{group}/{sub}"),
            (group, None) => format!("{resource}.{group}"),
        };
        vec![resource, bracketed(&path), bracketed(&name), bracketed(&verbs)]
    });
    table(page, &titles, rows.collect());
}

/// The rules one resource at a time, with the verbs of all of them, by the verbs.
fn allowed(object: &Value) -> Vec<(String, About)> {
    let mut verbs: BTreeMap<About, Vec<String>> = BTreeMap::new();
    for rule in list(object, "rules") {
        let all = |key: &str| -> Vec<String> { list(rule, key).map(|one| shown(Some(one))).collect() };
        let names = Some(all("resourceNames")).filter(|names| !names.is_empty()).unwrap_or_else(|| vec![String::new()]);
        let mut about: Vec<About> = Vec::new();
        for group in all("apiGroups") {
            for resource in all("resources") {
                about.extend(names.iter().map(|name| (group.clone(), resource.clone(), name.clone(), String::new())));
            }
        }
        about
            .extend(all("nonResourceURLs").into_iter().map(|path| (String::new(), String::new(), String::new(), path)));
        for about in about {
            let known = verbs.entry(about).or_default();
            for verb in all("verbs") {
                if !known.contains(&verb) {
                    known.push(verb);
                }
            }
        }
    }
    let mut rows: Vec<(String, About)> = verbs.into_iter().map(|(about, verbs)| (verbs.join(" "), about)).collect();
    // As bracketed lists: the bracket that ends each counts for the order.
    rows.sort_by_cached_key(|(verbs, (group, resource, name, path))| {
        format!("{verbs}]{group}]{resource}]{name}]{path}]")
    });
    rows
}

/// Writes a RoleBinding or ClusterRoleBinding.
pub(super) fn binding(page: &mut Page, object: &Value) {
    page.field(0, "Name", text(object, "/metadata/name"));
    labels(page, object);
    page.heading(0, "Role");
    page.field(1, "Kind", text(object, "/roleRef/kind"));
    page.field(1, "Name", text(object, "/roleRef/name"));
    page.heading(0, "Subjects");
    let subjects = at(object, "/subjects").and_then(Value::as_array).into_iter().flatten();
    let rows = subjects.map(|subject| ["kind", "name", "namespace"].map(|key| shown(subject.get(key))).to_vec());
    table(page, &["Kind", "Name", "Namespace"], rows.collect());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_that_could_not_be_read_are_not_called_missing() {
        let account = json!({"metadata": {"name": "a"}, "secrets": [{"name": "s"}]});
        let said = |found: Option<&[Value]>| {
            let mut page = Page::default();
            super::account(&mut page, &account, found);
            page.text()
        };
        assert!(said(Some(&[])).contains("s (not found)"));
        assert!(!said(None).contains("not found"));
    }

    #[test]
    fn rules_are_told_one_resource_at_a_time() {
        let role = json!({"rules": [
            {"apiGroups": ["", "apps"], "resources": ["pods"], "verbs": ["list"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
            {"nonResourceURLs": ["/healthz"], "verbs": ["get"]}]});
        let about = |group: &str, resource: &str, path: &str| -> About {
            (group.into(), resource.into(), String::new(), path.into())
        };
        let expected = vec![
            ("get".to_owned(), about("", "", "/healthz")),
            ("list get".to_owned(), about("", "pods", "")),
            ("list".to_owned(), about("apps", "pods", "")),
        ];
        assert_eq!(allowed(&role), expected);
    }
}

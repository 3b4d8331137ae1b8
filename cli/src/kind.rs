//! The kinds that a server knows, by discovery, and the names that people call them by.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value;

use crate::client::{Call, Session};
use crate::failure::Failure;

const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// What must not stand as it is in one segment of a path.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'/')
    .add(b'%');

/// One kind of object in one version.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kind {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<String>,
    /// Whether this is the version of the kind that the server prefers.
    preferred: bool,
}

/// All kinds of a server, in its order.
pub(crate) struct Catalog(Vec<Kind>);

impl Kind {
    /// `v1` or `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `pod` or `deployment.apps`, as kubectl names an object before the slash.
    pub(crate) fn prefix(&self) -> String {
        let kind = self.kind.to_lowercase();
        match self.group.as_str() {
            "" => kind,
            group => format!("{kind}.{group}"),
        }
    }

    /// `pods` or `deployments.apps`, as the server names the resource in its answers.
    pub(crate) fn resource(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// The path of the collection, in a namespace where one is given and the kind has them.
    pub(crate) fn collection(&self, namespace: Option<&str>) -> String {
        let root = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/namespaces/{}/{}", segment(namespace), self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }

    /// The path of one object.
    pub(crate) fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.collection(Some(namespace)), segment(name))
    }

    /// Whether the server prefers this version of the kind.
    pub(crate) fn is_preferred(&self) -> bool {
        self.preferred
    }

    fn is_called(&self, name: &str) -> bool {
        self.plural == name || self.singular == name || self.short_names.iter().any(|short| short == name)
    }
}

/// One segment of a path, harmless.
pub(crate) fn segment(text: &str) -> String {
    // Names of one or two dots would walk up the path; no server accepts them as names either.
    match text {
        "." | ".." => text.replace('.', "%2E"),
        text => utf8_percent_encode(text, SEGMENT).to_string(),
    }
}

impl Catalog {
    /// Asks the server.
    pub(crate) async fn of(session: &Session) -> Result<Self, Failure> {
        let (core, groups) = tokio::try_join!(
            session.get(Call::to("/api").accept(DISCOVERY)),
            session.get(Call::to("/apis").accept(DISCOVERY))
        )?;
        let mut kinds = Vec::new();
        for list in [core, groups] {
            if list.get("kind").and_then(Value::as_str) != Some("APIGroupDiscoveryList") {
                return Err(Failure::error("the server has no aggregated discovery (Kubernetes 1.30 or later has it)"));
            }
            items(&list).for_each(|group| read_group(group, &mut kinds));
        }
        Ok(Self(kinds))
    }

    /// The kind that people call `word`: plural, singular, short name, `NAME.GROUP` or `NAME.VERSION.GROUP`.
    pub(crate) fn find(&self, word: &str) -> Option<&Kind> {
        let word = word.to_lowercase();
        let known = |name: &str, fits: &dyn Fn(&Kind) -> bool| {
            let all = || self.0.iter().filter(|kind| kind.is_called(name) && fits(kind));
            all().find(|kind| kind.preferred).or_else(|| all().next())
        };
        if let Some(kind) = known(&word, &|_| true) {
            return Some(kind);
        }
        let (name, group) = word.split_once('.')?;
        if let Some(kind) = known(name, &|kind| kind.group == group) {
            return Some(kind);
        }
        let (version, group) = group.split_once('.').unwrap_or((group, ""));
        known(name, &|kind| kind.version == version && kind.group == group)
    }

    /// As `find`, or kubectl's complaint.
    pub(crate) fn expect(&self, word: &str) -> Result<&Kind, Failure> {
        self.find(word).ok_or_else(|| {
            Failure::error(format!("the server doesn't have a resource type \"{}\"", word.escape_debug()))
        })
    }

    /// Every kind in every version, in the server's order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Kind> {
        self.0.iter()
    }

    /// The kinds of a category such as `all`, in their preferred versions.
    pub(crate) fn category<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Kind> {
        self.0.iter().filter(move |kind| kind.preferred && kind.categories.iter().any(|category| category == name))
    }

    /// The kind that a manifest names.
    pub(crate) fn of_object(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        self.0.iter().find(|known| known.kind == kind && known.api_version() == api_version)
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.get("items").and_then(Value::as_array).into_iter().flatten()
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    let all = value.get(key).and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn read_group(group: &Value, kinds: &mut Vec<Kind>) {
    let name = group.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let versions = group.get("versions").and_then(Value::as_array);
    for version in versions.into_iter().flatten() {
        for resource in version.get("resources").and_then(Value::as_array).into_iter().flatten() {
            let plural = text(resource, "resource");
            let kind = resource.pointer("/responseKind/kind").and_then(Value::as_str).unwrap_or_default();
            // A version that only serves a subresource leaves the resource itself without a kind.
            if plural.is_empty() || kind.is_empty() {
                continue;
            }
            let singular = text(resource, "singularResource");
            // The first version of the group that has it; a kind may be new in a later one.
            let preferred = !kinds.iter().any(|known| known.group == name && known.plural == plural);
            kinds.push(Kind {
                group: name.to_owned(),
                version: text(version, "version"),
                singular: if singular.is_empty() { kind.to_lowercase() } else { singular },
                plural,
                kind: kind.to_owned(),
                short_names: texts(resource, "shortNames"),
                categories: texts(resource, "categories"),
                namespaced: text(resource, "scope") == "Namespaced",
                verbs: texts(resource, "verbs"),
                preferred,
            });
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn catalog() -> Catalog {
        let resource = |plural: &str, kind: &str, short: &str| {
            json!({"resource": plural, "singularResource": kind.to_lowercase(), "responseKind": {"kind": kind},
                "scope": "Namespaced", "shortNames": [short], "categories": ["all"], "verbs": ["get"]})
        };
        let mut kinds = Vec::new();
        read_group(
            &json!({"metadata": {}, "versions": [{"version": "v1", "resources": [
                resource("pods", "Pod", "po"), resource("services", "Service", "svc")]}]}),
            &mut kinds,
        );
        read_group(
            &json!({"metadata": {"name": "apps"}, "versions": [
                {"version": "v1", "resources": [resource("deployments", "Deployment", "deploy")]},
                {"version": "v1beta1", "resources": [resource("deployments", "Deployment", "deploy")]}]}),
            &mut kinds,
        );
        Catalog(kinds)
    }

    #[test]
    fn people_call_kinds_by_many_names() {
        let catalog = catalog();
        for word in ["deploy", "Deployment", "deployments", "deployments.apps", "deployment.v1.apps"] {
            assert_eq!(catalog.find(word).map(Kind::api_version).as_deref(), Some("apps/v1"), "{word}");
        }
        assert_eq!(catalog.find("deploy.v1beta1.apps").map(|kind| kind.version.as_str()), Some("v1beta1"));
        assert_eq!(catalog.find("po.v1").map(|kind| kind.kind.as_str()), Some("Pod"));
        assert!(catalog.find("deploy.batch").is_none());
        assert_eq!(catalog.category("all").count(), 3);
        let message = catalog.expect("widgets").map(|_| ()).map_err(|failure| failure.to_string());
        assert_eq!(message, Err("error: the server doesn't have a resource type \"widgets\"".into()));
    }

    #[test]
    fn a_kind_that_only_a_later_version_has_is_there_in_it() {
        let kind = |plural: &str| json!({"resource": plural, "responseKind": {"kind": plural}, "scope": "Namespaced"});
        let mut kinds = Vec::new();
        let versions = json!([{"version": "v1", "resources": [kind("old")]},
            {"version": "v1beta1", "resources": [kind("old"), kind("new")]}]);
        read_group(&json!({"metadata": {"name": "g"}, "versions": versions}), &mut kinds);
        let preferred = kinds.iter().filter(|kind| kind.is_preferred());
        let preferred: Vec<_> = preferred.map(|kind| (kind.plural.as_str(), kind.version.as_str())).collect();
        assert_eq!(preferred, [("old", "v1"), ("new", "v1beta1")]);
    }

    #[test]
    fn names_cannot_leave_their_segment() {
        let catalog = catalog();
        let pods = catalog.find("pods").map(|kind| kind.object("a/b", ".."));
        assert_eq!(pods.as_deref(), Some("/api/v1/namespaces/a%2Fb/pods/%2E%2E"));
    }
}

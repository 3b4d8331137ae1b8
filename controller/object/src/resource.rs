//! The resources that are served: their names, scope, subresources, verbs, and the kind under which they are stored.
use crate::custom::{Custom, version_order};
use crate::schema::{Cursor, Schema, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

/// Where objects of a resource live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// Beside the namespaces.
    Cluster,
}

/// What a resource can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbs {
    /// All eight verbs of stored objects.
    Storage,
    /// `create` only: reviews and bindings, answered and not kept.
    CreateOnly,
    /// `get` and `list` only: made up when asked for.
    ReadOnly,
}

impl Verbs {
    /// The words of discovery, sorted as Kubernetes prints them.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Storage => &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
            Self::CreateOnly => &["create"],
            Self::ReadOnly => &["get", "list"],
        }
    }
}

/// A path below an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subresource {
    /// `status`
    Status,
    /// `scale`
    Scale,
    /// `binding`
    Binding,
    /// `eviction`
    Eviction,
    /// `log`
    Log,
    /// `exec`
    Exec,
    /// `attach`
    Attach,
    /// `portforward`
    PortForward,
    /// `proxy`
    Proxy,
    /// `token`
    Token,
    /// `approval`
    Approval,
    /// `finalize`
    Finalize,
    /// `ephemeralcontainers`
    EphemeralContainers,
    /// `resize`
    Resize,
}

impl Subresource {
    /// Every subresource.
    pub const ALL: [Self; 14] = [
        Self::Status,
        Self::Scale,
        Self::Binding,
        Self::Eviction,
        Self::Log,
        Self::Exec,
        Self::Attach,
        Self::PortForward,
        Self::Proxy,
        Self::Token,
        Self::Approval,
        Self::Finalize,
        Self::EphemeralContainers,
        Self::Resize,
    ];

    /// The last part of the path.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Proxy => "proxy",
            Self::Token => "token",
            Self::Approval => "approval",
            Self::Finalize => "finalize",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
        }
    }

    /// The subresource of a path.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// What a request may do with it.
    pub fn verbs(self) -> &'static [&'static str] {
        match self {
            Self::Status | Self::Scale | Self::Approval | Self::EphemeralContainers | Self::Resize => {
                &["get", "patch", "update"]
            }
            Self::Binding | Self::Eviction | Self::Token => &["create"],
            Self::Log => &["get"],
            Self::Exec | Self::Attach | Self::PortForward => &["create", "get"],
            Self::Proxy => &["create", "delete", "get", "patch", "update"],
            Self::Finalize => &["update"],
        }
    }

    /// The kind that is exchanged when it is not the parent's, as (group, version, kind).
    pub fn kind(self) -> Option<(&'static str, &'static str, &'static str)> {
        match self {
            Self::Scale => Some(("autoscaling", "v1", "Scale")),
            Self::Binding => Some(("", "v1", "Binding")),
            Self::Eviction => Some(("policy", "v1", "Eviction")),
            Self::Token => Some(("authentication.k8s.io", "v1", "TokenRequest")),
            Self::Exec => Some(("", "v1", "PodExecOptions")),
            Self::Attach => Some(("", "v1", "PodAttachOptions")),
            Self::PortForward => Some(("", "v1", "PodPortForwardOptions")),
            Self::Proxy => Some(("", "v1", "PodProxyOptions")),
            Self::Status | Self::Log | Self::Approval | Self::Finalize | Self::EphemeralContainers | Self::Resize => {
                None
            }
        }
    }
}

/// One served resource in one version.
#[derive(Clone, Debug)]
pub struct Resource {
    /// API group; empty for core.
    pub group: String,
    /// Version in the group.
    pub version: String,
    /// Kind of one object.
    pub kind: String,
    /// Kind of a list.
    pub list_kind: String,
    /// Name in paths.
    pub plural: String,
    /// Name of one, in lower case.
    pub singular: String,
    /// Abbreviations that kubectl takes.
    pub short_names: Vec<String>,
    /// Groups of kinds that kubectl takes, as in `all`.
    pub categories: Vec<String>,
    /// Where objects live.
    pub scope: Scope,
    /// Paths below an object.
    pub subresources: Vec<Subresource>,
    /// What can be asked.
    pub verbs: Verbs,
    /// Name of the type in the schema.
    pub type_name: String,
    /// Group under which objects are stored.
    pub storage_group: String,
    /// Plural under which objects are stored.
    pub storage_plural: String,
    /// Version in which objects are stored.
    pub storage_version: String,
    /// The types that this resource is made of.
    pub schema: Arc<Schema>,
    /// The type of an object, when the schema has it.
    pub root: Option<TypeId>,
    /// What a custom resource has besides; `None` for built-in kinds.
    pub custom: Option<Arc<Custom>>,
    /// Its definition is being deleted: nothing is created any more.
    pub is_terminating: bool,
}

impl Resource {
    /// `apps/v1`, or `v1` for core.
    pub fn api_version(&self) -> String {
        join_version(&self.group, &self.version)
    }

    /// `deployments.apps`, or `pods` for core: the name in error messages.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `Deployment.apps`, or `Pod`: the name in messages about invalid objects.
    pub fn group_kind(&self) -> String {
        if self.group.is_empty() { self.kind.clone() } else { format!("{}.{}", self.kind, self.group) }
    }

    /// `apps/v1, Kind=Deployment`: the name in messages about patches.
    pub fn describe_kind(&self) -> String {
        format!("{}, Kind={}", self.api_version(), self.kind)
    }

    /// Whether there is such a path below objects.
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// Whether objects live in a namespace.
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether this is the resource `plural` of `group`, in whatever version.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    /// Where walking an object of this kind starts.
    pub fn cursor(&self) -> Option<Cursor<'_>> {
        self.root.map(|root| self.schema.cursor(root))
    }
}

/// `group/version`, or only the version for core.
pub fn join_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// All served resources.
#[derive(Clone, Debug, Default)]
pub struct Table {
    all: Vec<Arc<Resource>>,
    by_plural: HashMap<(String, String, String), Arc<Resource>>,
    by_kind: HashMap<(String, String, String), Arc<Resource>>,
    versions: BTreeMap<String, Vec<String>>,
}

impl Table {
    /// The built-in resources.
    pub fn builtin() -> &'static Self {
        static BUILTIN: OnceLock<Table> = OnceLock::new();
        BUILTIN.get_or_init(|| {
            let mut table = Self::default();
            include_str!("../facts/resources.tsv")
                .lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(builtin_resource)
                .for_each(|resource| table.insert(resource));
            table
        })
    }

    /// Adds a resource. The first version that is added is the group's preferred one.
    pub fn insert(&mut self, resource: Resource) {
        self.insert_shared(Arc::new(resource));
    }

    /// Adds the resources of a definition, unless built-in kinds have their names. The versions of a group come in the
    /// order in which clients should prefer them.
    pub fn insert_custom<'a>(&mut self, resources: impl Iterator<Item = &'a Arc<Resource>>) {
        for resource in resources {
            let (group, version) = (resource.group.as_str(), resource.version.as_str());
            let is_taken = self.find(group, version, &resource.plural).is_some()
                || self.find_kind(group, version, &resource.kind).is_some();
            if !is_taken {
                let is_builtin = Self::builtin().versions.contains_key(group);
                self.insert_shared(Arc::clone(resource));
                if let Some(versions) = self.versions.get_mut(&resource.group).filter(|_| !is_builtin) {
                    versions.sort_by_cached_key(|version| version_order(version));
                }
            }
        }
    }

    fn insert_shared(&mut self, resource: Arc<Resource>) {
        let (group, version) = (resource.group.clone(), resource.version.clone());
        let versions = self.versions.entry(group.clone()).or_default();
        if !versions.contains(&version) {
            versions.push(version.clone());
        }
        self.by_plural.insert((group.clone(), version.clone(), resource.plural.clone()), Arc::clone(&resource));
        self.by_kind.insert((group, version, resource.kind.clone()), Arc::clone(&resource));
        self.all.push(resource);
    }

    /// Finds a resource by its path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_plural.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// Finds a resource by its kind.
    pub fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.by_kind.get(&(group.to_owned(), version.to_owned(), kind.to_owned()))
    }

    /// Every resource in every version.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.all.iter()
    }

    /// The version that clients should use; empty when the group is unknown.
    pub fn preferred(&self, group: &str) -> &str {
        self.versions.get(group).and_then(|v| v.first()).map_or("", String::as_str)
    }

    /// The groups, core (empty) among them.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.versions.keys().map(String::as_str)
    }

    /// The versions of a group, the preferred one first.
    pub fn versions(&self, group: &str) -> &[String] {
        self.versions.get(group).map_or(&[], Vec::as_slice)
    }
}

fn builtin_resource(line: &str) -> Option<Resource> {
    let columns: Vec<&str> = line.split('\t').collect();
    let [group, version, kind, plural, short, categories, scope, subresources, verbs, stored] = columns[..] else {
        return None;
    };
    let words = |text: &str| -> Vec<String> {
        if text == "-" { Vec::new() } else { text.split(',').map(str::to_owned).collect() }
    };
    let core = |group: &str| if group == "core" { String::new() } else { group.to_owned() };
    let mut stored = if stored == "-" {
        [group, version, plural].into_iter()
    } else {
        let mut parts = stored.splitn(3, '/');
        [parts.next()?, parts.next()?, parts.next()?].into_iter()
    };
    let package = match group {
        "apiextensions.k8s.io" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions".to_owned(),
        "apiregistration.k8s.io" => "io.k8s.kube-aggregator.pkg.apis.apiregistration".to_owned(),
        "metrics.k8s.io" => "io.k8s.metrics.pkg.apis.metrics".to_owned(),
        _ => format!("io.k8s.api.{}", group.split('.').next().unwrap_or(group)),
    };
    let type_name = format!("{package}.{version}.{kind}");
    let schema = Arc::clone(Schema::builtin());
    Some(Resource {
        root: schema.find(&type_name),
        group: core(group),
        version: version.to_owned(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        short_names: words(short),
        categories: words(categories),
        scope: if scope == "N" { Scope::Namespaced } else { Scope::Cluster },
        subresources: words(subresources).iter().filter_map(|s| Subresource::parse(s)).collect(),
        verbs: match verbs {
            "createonly" => Verbs::CreateOnly,
            "readonly" => Verbs::ReadOnly,
            _ => Verbs::Storage,
        },
        type_name,
        storage_group: core(stored.next()?),
        storage_version: stored.next()?.to_owned(),
        storage_plural: stored.next()?.to_owned(),
        schema,
        custom: None,
        is_terminating: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_resource_with_a_type() {
        let lines = include_str!("../facts/resources.tsv").lines().filter(|l| !l.starts_with('#')).count();
        let table = Table::builtin();
        assert_eq!(table.all().count(), lines);
        for resource in table.all() {
            assert!(resource.root.is_some(), "{} has no type {}", resource.plural, resource.type_name);
            assert!(table.find(&resource.storage_group, &resource.storage_version, &resource.storage_plural).is_some());
        }
    }

    #[test]
    fn lookups() {
        let table = Table::builtin();
        let deployment = table.find("apps", "v1", "deployments").unwrap();
        assert_eq!(deployment.group_resource(), "deployments.apps");
        assert_eq!(deployment.api_version(), "apps/v1");
        assert!(deployment.has(Subresource::Scale) && deployment.is_namespaced());
        assert_eq!(table.find_kind("", "v1", "Pod").unwrap().plural, "pods");
        assert_eq!(table.preferred("autoscaling"), "v2");
        assert_eq!(table.find("autoscaling", "v1", "horizontalpodautoscalers").unwrap().storage_version, "v2");
        assert_eq!(table.find("events.k8s.io", "v1", "events").unwrap().storage_group, "");
    }
}

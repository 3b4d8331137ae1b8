//! The kinds that the server serves, in the version that it prefers.
use crate::error::{ReconcileError, at};
use kube::core::ApiResource;
use kube::discovery::verbs;
use std::collections::BTreeSet;

/// A kind.
#[derive(Clone, Debug)]
pub(crate) struct Discovered {
    /// Its names.
    pub(crate) resource: ApiResource,
    /// Whether its objects live in namespaces.
    pub(crate) is_namespaced: bool,
    /// Whether its objects can be listed, watched and deleted.
    pub(crate) is_collectable: bool,
    /// Whether its objects can be deleted all at once.
    pub(crate) has_delete_collection: bool,
}

/// What the server tells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kinds {
    /// What is served.
    pub(crate) served: Vec<Discovered>,
    /// Groups of which the server does not know now what they serve: their extension server does not answer.
    pub(crate) silent: BTreeSet<String>,
}

/// Asks the server, in two requests whatever the number of groups.
pub(crate) async fn kinds(client: &kube::Client) -> Result<Kinds, ReconcileError> {
    let core = client.list_core_api_versions_aggregated().await.map_err(at("discovering the core kinds"))?;
    let others = client.list_api_groups_aggregated().await.map_err(at("discovering the kinds"))?;
    let mut kinds = Kinds::default();
    for group in core.items.into_iter().chain(others.items) {
        let name = group.metadata.and_then(|metadata| metadata.name).unwrap_or_default();
        // Events of the two groups are the same objects.
        if name == "events.k8s.io" {
            continue;
        }
        let mut seen = BTreeSet::new();
        for version in group.versions {
            if version.freshness.as_deref() == Some("Stale") {
                kinds.silent.insert(name.clone());
            }
            let version_name = version.version.unwrap_or_default();
            for one in version.resources {
                // The preferred version comes first.
                let plural = one.resource.unwrap_or_default();
                if !seen.insert(plural.clone()) {
                    continue;
                }
                let kind = one.response_kind.and_then(|kind| kind.kind).unwrap_or_default();
                let can = |verb: &str| one.verbs.iter().any(|own| own == verb);
                kinds.served.push(Discovered {
                    is_namespaced: one.scope.as_deref() == Some("Namespaced"),
                    is_collectable: can(verbs::LIST) && can(verbs::WATCH) && can(verbs::DELETE),
                    has_delete_collection: can(verbs::DELETE_COLLECTION),
                    resource: ApiResource {
                        api_version: if name.is_empty() {
                            version_name.clone()
                        } else {
                            format!("{name}/{version_name}")
                        },
                        group: name.clone(),
                        version: version_name.clone(),
                        kind,
                        plural,
                    },
                });
            }
        }
    }
    Ok(kinds)
}

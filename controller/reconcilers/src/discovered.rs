//! The kinds that the server serves, in the version that it prefers.
use crate::error::{ReconcileError, at};
use kube::core::ApiResource;
use kube::discovery::{Discovery, Scope, verbs};

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

/// Asks the server.
pub(crate) async fn kinds(client: &kube::Client) -> Result<Vec<Discovered>, ReconcileError> {
    let discovery = Discovery::new(client.clone()).run().await.map_err(at("discovering the kinds"))?;
    let mut kinds = Vec::new();
    for (resource, capabilities) in discovery.groups().flat_map(|group| group.recommended_resources()) {
        // Events of the two groups are the same objects.
        if resource.group == "events.k8s.io" {
            continue;
        }
        let can = |verb| capabilities.supports_operation(verb);
        kinds.push(Discovered {
            is_namespaced: capabilities.scope == Scope::Namespaced,
            is_collectable: can(verbs::LIST) && can(verbs::WATCH) && can(verbs::DELETE),
            has_delete_collection: can(verbs::DELETE_COLLECTION),
            resource,
        });
    }
    Ok(kinds)
}

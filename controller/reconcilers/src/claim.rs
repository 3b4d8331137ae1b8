//! The facts about a claim that reconcilers need beside its binding.
use crate::cache::{Key, key_of};
use crate::protection::is_waiting;
use api::well_known::FINALIZER_PVC_PROTECTION;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// What is known of a claim.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClaimFacts {
    pub(crate) key: Key,
    pub(crate) uid: Box<str>,
    /// `resourceVersion`: lists are written as a whole, and only over what was seen.
    pub(crate) revision: Box<str>,
    pub(crate) owners: Vec<OwnerReference>,
    pub(crate) is_deleting: bool,
    /// It is being deleted and waits until no pod uses it.
    pub(crate) is_waiting: bool,
}

impl ClaimFacts {
    /// Takes the facts out.
    pub(crate) fn new(claim: PersistentVolumeClaim) -> Self {
        let metadata = claim.metadata;
        Self {
            key: key_of(&metadata),
            is_waiting: is_waiting(&metadata, FINALIZER_PVC_PROTECTION),
            is_deleting: metadata.deletion_timestamp.is_some(),
            uid: metadata.uid.unwrap_or_default().into(),
            revision: metadata.resource_version.unwrap_or_default().into(),
            owners: metadata.owner_references.unwrap_or_default(),
        }
    }
}

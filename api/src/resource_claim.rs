//! Claims to devices: which ResourceClaims a pod has, and whether it may use them. Scheduler, controller and agent must
//! decide it alike. Rules: Kubernetes documentation, "Dynamic Resource Allocation".
use crate::well_known::ANNOTATION_POD_CLAIM_NAME;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// So many pods may share one claim (`ResourceClaimReservedForMaxSize`).
pub const MOST_RESERVATIONS: usize = 256;
/// So many devices one claim may have (`AllocationResultsMaxSize`).
pub const MOST_RESULTS: usize = 32;

/// Which object a claim of a pod is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// One that is there for whoever names it.
    Shared(String),
    /// One that was made for the pod from a template.
    Own(String),
    /// One that is to be made from a template, and is not yet.
    Pending,
    /// None: whoever makes claims from templates said so.
    Unneeded,
}

/// One entry of `spec.resourceClaims`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodClaim {
    /// Its name in the pod, by which containers ask for it.
    pub name: String,
    /// Which object it is.
    pub source: Source,
}

impl PodClaim {
    /// The name of the object, once it has one.
    pub fn object(&self) -> Option<&str> {
        match &self.source {
            Source::Shared(name) | Source::Own(name) => Some(name),
            Source::Pending | Source::Unneeded => None,
        }
    }
}

/// The claims of a pod, as `spec.resourceClaims` and `status.resourceClaimStatuses` tell.
pub fn claims_of(pod: &Pod) -> Vec<PodClaim> {
    let told = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_deref()).unwrap_or_default();
    let asked = pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_deref()).unwrap_or_default();
    let one = |claim: &k8s_openapi::api::core::v1::PodResourceClaim| {
        let source = match &claim.resource_claim_name {
            Some(name) => Source::Shared(name.clone()),
            None => match told.iter().find(|status| status.name == claim.name) {
                Some(status) => status.resource_claim_name.clone().map_or(Source::Unneeded, Source::Own),
                None => Source::Pending,
            },
        };
        PodClaim { name: claim.name.clone(), source }
    };
    asked.iter().map(one).collect()
}

/// Whether a claim is the one that was made for this claim of this pod.
pub fn is_made_for(metadata: &ObjectMeta, pod_uid: &str, pod_claim: &str) -> bool {
    let annotation = metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION_POD_CLAIM_NAME));
    is_owned(metadata, pod_uid) && annotation.is_some_and(|name| name == pod_claim)
}

/// Whether the pod with this uid is the claim's controller.
pub fn is_owned(metadata: &ObjectMeta, pod_uid: &str) -> bool {
    let mut owners = metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && owner.uid == pod_uid)
}

/// Whether the pod with this uid is among those that the claim is reserved for.
pub fn is_reserved_for(claim: &ResourceClaim, pod_uid: &str) -> bool {
    let reserved = claim.status.as_ref().and_then(|status| status.reserved_for.as_deref()).unwrap_or_default();
    reserved.iter().any(|own| own.uid == pod_uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn a_claim_from_a_template_is_the_one_that_the_status_names() {
        let pod: Pod = from_value(json!({"spec": {"containers": [], "resourceClaims": [
            {"name": "a", "resourceClaimName": "shared"}, {"name": "b", "resourceClaimTemplateName": "t"},
            {"name": "c", "resourceClaimTemplateName": "t"}, {"name": "d", "resourceClaimTemplateName": "t"}]},
            "status": {"resourceClaimStatuses": [{"name": "b", "resourceClaimName": "p-b-x"}, {"name": "d"}]}}))
        .unwrap();
        let sources: Vec<Source> = claims_of(&pod).into_iter().map(|claim| claim.source).collect();
        assert_eq!(
            sources,
            [Source::Shared("shared".into()), Source::Own("p-b-x".into()), Source::Pending, Source::Unneeded]
        );
    }

    #[test]
    fn a_claim_is_made_for_its_controller_and_one_entry() {
        let claim: ResourceClaim = from_value(json!({"metadata": {
            "annotations": {ANNOTATION_POD_CLAIM_NAME: "gpu"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]},
            "spec": {}, "status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}}))
        .unwrap();
        assert!(is_made_for(&claim.metadata, "u", "gpu") && !is_made_for(&claim.metadata, "u", "nic"));
        assert!(!is_made_for(&claim.metadata, "v", "gpu"));
        assert!(is_reserved_for(&claim, "u") && !is_reserved_for(&claim, "v"));
    }
}

//! Makes the claims of a StatefulSet's pods and gives them their owners.
use super::apply::Reconciler;
use super::identity::{claim_names, claims, parent, pod_name};
use super::retention;
use crate::claim::ClaimFacts;
use crate::error::{ReconcileError, at, code};
use crate::pod::PodFacts;
use crate::record::Severity;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::sync::Arc;

impl Reconciler {
    fn claim(&self, set: &StatefulSet, name: &str) -> Option<Arc<ClaimFacts>> {
        self.claims.get(&format!("{}/{name}", parent(set).namespace()))
    }

    /// Whether a claim has to go before the pod can come: it goes with an earlier pod, or was deleted.
    pub(super) fn awaits_claims(&self, set: &StatefulSet, ordinal: i32) -> bool {
        let known = claim_names(set, ordinal).into_iter().filter_map(|name| self.claim(set, &name));
        known.into_iter().any(|claim| claim.is_deleting || retention::is_stale(set, ordinal, &claim.owners))
    }

    /// Whether a claim is missing.
    pub(super) fn lacks_claims(&self, set: &StatefulSet, ordinal: i32) -> bool {
        claim_names(set, ordinal).iter().any(|name| self.claim(set, name).is_none())
    }

    /// Makes the claims that are missing, before their pod.
    pub(super) async fn make_claims(&self, set: &StatefulSet, ordinal: i32) -> Result<(), kube::Error> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.writer.client.clone(), parent(set).namespace());
        for mut claim in claims(set, ordinal) {
            let name = claim.metadata.name.clone().unwrap_or_default();
            if self.claim(set, &name).is_some() {
                continue;
            }
            claim.metadata.owner_references = retention::owners(set, ordinal, None, &[]);
            let pod = pod_name(set, ordinal);
            let told =
                |what: &str| format!("create Claim {name} Pod {pod} in StatefulSet {} {what}", parent(set).name());
            match api.create(&PostParams::default(), &claim).await {
                Ok(made) => {
                    self.claims.put(&made.metadata.clone(), ClaimFacts::new(made));
                    self.tell(set, Severity::Normal, "SuccessfulCreate", told("success"));
                }
                // The user's, or one that the watch has not told of yet.
                Err(error) if code(&error) == 409 => {}
                Err(error) => {
                    self.tell(set, Severity::Warning, "FailedCreate", told(&format!("failed error: {error}")));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Gives the claims of a pod the owners that the retention policy asks for.
    pub(super) async fn own_claims(
        &self,
        set: &StatefulSet,
        ordinal: i32,
        pod: &PodFacts,
    ) -> Result<(), ReconcileError> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.writer.client.clone(), parent(set).namespace());
        for name in claim_names(set, ordinal) {
            let Some(claim) = self.claim(set, &name).filter(|claim| !claim.is_deleting) else { continue };
            let Some(owners) = retention::owners(set, ordinal, Some(pod), &claim.owners) else { continue };
            // The whole list is written, so it must be the one that was seen.
            let patch = json!({"metadata": {
                "uid": &*claim.uid, "resourceVersion": &*claim.revision, "ownerReferences": owners}});
            match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(claim) => self.claims.put(&claim.metadata.clone(), ClaimFacts::new(claim)),
                Err(error) if code(&error) == 404 => {}
                Err(error) => return Err(at("giving a claim its owner")(error)),
            }
        }
        Ok(())
    }
}

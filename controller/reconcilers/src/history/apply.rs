//! Writes the revisions of a workload, for StatefulSets and DaemonSets alike.
use super::plan::{Settled, Source, equals, is_of, name_of, settle};
use crate::cache::Cache;
use crate::error::{ReconcileError, at, code};
use crate::pod::controller_of;
use api::selector::Selector;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;
use std::sync::Arc;

/// Names that are tried for one template in one run.
const NAMES: usize = 8;

/// Who keeps revisions for a kind.
#[derive(Clone)]
pub(crate) struct Keeper {
    pub(crate) client: kube::Client,
    pub(crate) revisions: Arc<Cache<ControllerRevision>>,
}

impl Keeper {
    fn api(&self, source: &Source<'_>) -> Api<ControllerRevision> {
        Api::namespaced(self.client.clone(), source.parent.namespace())
    }

    /// Revisions that nobody owns and that the selector matches.
    pub(crate) fn orphans(&self, source: &Source<'_>, selector: &Selector) -> Vec<Arc<ControllerRevision>> {
        let all = self.revisions.in_namespace(source.parent.namespace());
        let is_free = |revision: &ControllerRevision| {
            controller_of(revision.metadata.owner_references.as_ref()).is_none()
                && revision.metadata.deletion_timestamp.is_none()
                && selector.matches(revision.metadata.labels.as_ref().unwrap_or(&Default::default()))
        };
        all.into_iter().filter(|revision| is_free(revision)).collect()
    }

    /// The parent's own revisions. Those that match no more are released.
    pub(crate) async fn own(
        &self,
        source: &Source<'_>,
        selector: &Selector,
    ) -> Result<Vec<Arc<ControllerRevision>>, ReconcileError> {
        let all = self.revisions.in_namespace(source.parent.namespace());
        let mut own = Vec::new();
        for revision in all.into_iter().filter(|revision| is_of(revision, source.parent.uid())) {
            let matches = selector.matches(revision.metadata.labels.as_ref().unwrap_or(&Default::default()));
            if matches || source.parent.is_deleting() {
                own.push(revision);
            } else {
                let owners = json!([{"$patch": "delete", "uid": source.parent.uid()}]);
                self.write_owners(source, &revision, owners, "releasing a revision").await?;
            }
        }
        Ok(own)
    }

    /// Takes a revision that nobody owns.
    pub(crate) async fn adopt(&self, source: &Source<'_>, revision: &ControllerRevision) -> Result<(), ReconcileError> {
        self.write_owners(source, revision, json!([source.parent.owner_reference()]), "adopting a revision").await
    }

    async fn write_owners(
        &self,
        source: &Source<'_>,
        revision: &ControllerRevision,
        owners: serde_json::Value,
        step: &'static str,
    ) -> Result<(), ReconcileError> {
        let patch = json!({"metadata": {"uid": revision.metadata.uid, "ownerReferences": owners}});
        let patched =
            self.api(source).patch(name_of(revision), &PatchParams::default(), &Patch::Strategic(patch)).await;
        match patched {
            Ok(revision) => self.revisions.put(&revision.metadata.clone(), revision),
            // Gone, or another one by now.
            Err(error) if matches!(code(&error), 404 | 409) => {}
            Err(error) => return Err(at(step)(error)),
        }
        Ok(())
    }

    /// Makes sure that a revision stands for the parent's template, with the newest number. `own` gets what is new;
    /// `collisions` counts names that were taken.
    pub(crate) async fn settle(
        &self,
        source: &Source<'_>,
        own: &mut Vec<Arc<ControllerRevision>>,
        collisions: &mut i32,
    ) -> Result<Arc<ControllerRevision>, ReconcileError> {
        let api = self.api(source);
        for _ in 0..NAMES {
            match settle(source, own, *collisions) {
                Settled::Kept(revision) => return Ok(revision),
                Settled::Renumbered(revision, number) => {
                    let (uid, seen) = (&revision.metadata.uid, &revision.metadata.resource_version);
                    let patch = json!({"metadata": {"uid": uid, "resourceVersion": seen}, "revision": number});
                    let written = api
                        .patch(name_of(&revision), &PatchParams::default(), &Patch::Merge(patch))
                        .await
                        .map_err(at("numbering a revision anew"))?;
                    own.retain(|known| known.metadata.uid != written.metadata.uid);
                    return Ok(self.take(own, written));
                }
                Settled::Missing(wanted) => match api.create(&PostParams::default(), &wanted).await {
                    Ok(written) => return Ok(self.take(own, written)),
                    Err(error) if code(&error) == 409 => {
                        let found = api.get(name_of(&wanted)).await.map_err(at("reading the revision of that name"))?;
                        // Made by a run whose answer was lost, or not seen by the watch yet.
                        if is_of(&found, source.parent.uid()) && equals(&found, &wanted) {
                            return Ok(self.take(own, found));
                        }
                        // Left by a set of the same name; the watch has not told yet that nobody owns it any more.
                        let is_free = controller_of(found.metadata.owner_references.as_ref()).is_none();
                        if is_free && found.metadata.deletion_timestamp.is_none() && equals(&found, &wanted) {
                            self.adopt(source, &found).await?;
                            let now = api.get(name_of(&found)).await.map_err(at("reading the adopted revision"))?;
                            if is_of(&now, source.parent.uid()) {
                                return Ok(self.take(own, now));
                            }
                        }
                        *collisions = collisions.saturating_add(1);
                    }
                    Err(error) => return Err(at("creating a revision")(error)),
                },
            }
        }
        Err(ReconcileError::Waiting("a free name for the new revision".to_owned()))
    }

    fn take(&self, own: &mut Vec<Arc<ControllerRevision>>, written: ControllerRevision) -> Arc<ControllerRevision> {
        self.revisions.put(&written.metadata.clone(), written.clone());
        let written = Arc::new(written);
        own.push(Arc::clone(&written));
        written
    }

    /// Deletes revisions that nobody needs.
    pub(crate) async fn delete(
        &self,
        source: &Source<'_>,
        gone: &[Arc<ControllerRevision>],
    ) -> Result<(), ReconcileError> {
        let api = self.api(source);
        for revision in gone {
            let only = Preconditions { uid: revision.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
            match api.delete(name_of(revision), &params).await {
                Ok(_) => self.revisions.remove(&crate::cache::key_of(&revision.metadata)),
                Err(error) if matches!(code(&error), 404 | 409) => {}
                Err(error) => return Err(at("deleting an old revision")(error)),
            }
        }
        Ok(())
    }
}

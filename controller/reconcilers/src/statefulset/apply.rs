//! Carries the plan of a StatefulSet out: idempotent, and what it writes is in the caches before the run ends.
use super::identity::{is_claim_of, missing_labels, ordinal, parent, pod, pod_name};
use super::plan::{Cause, Plan, Scene, Template, is_ordered, plan};
use super::status::status;
use crate::adoption::may_adopt;
use crate::cache::{Cache, Key, key_of, split};
use crate::claim::ClaimFacts;
use crate::error::{ReconcileError, at, code, is_terminating};
use crate::history::{HASH_LABEL, Keeper, Source, is_of, name_of, surplus, template_of};
use crate::pod::{PodFacts, PodWriter, slowly};
use crate::queue::{Next, Queue};
use crate::record::{Recorder, Severity};
use api::selector::Selector;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 8;

/// Everything a run uses.
pub(crate) struct Reconciler {
    pub(crate) writer: PodWriter,
    pub(crate) history: Keeper,
    pub(crate) sets: Arc<Cache<StatefulSet>>,
    pub(crate) claims: Arc<Cache<ClaimFacts>>,
    pub(crate) recorder: Recorder,
}

/// The revisions of a run.
struct Revisions {
    own: Vec<Arc<ControllerRevision>>,
    current: Arc<ControllerRevision>,
    update: Arc<ControllerRevision>,
}

/// Reconciles until dropped.
pub(crate) async fn start(reconciler: Reconciler) {
    let queue: Arc<Queue<Key>> = Queue::new("statefulset");
    wake(&reconciler, &queue);
    reconciler.sets.listed().await;
    reconciler.writer.pods.listed().await;
    reconciler.claims.listed().await;
    reconciler.history.revisions.listed().await;
    for set in reconciler.sets.all() {
        queue.add(key_of(&set.metadata));
    }
    let reconciler = Arc::new(reconciler);
    let work = move |key: Key| {
        let reconciler = Arc::clone(&reconciler);
        async move { reconciler.reconcile(&key).await }
    };
    queue.work(WORKERS, work).await;
}

/// What makes a set worth a look.
fn wake(reconciler: &Reconciler, queue: &Arc<Queue<Key>>) {
    let wake = Arc::clone(queue);
    reconciler.sets.on_change(move |_, after| {
        if let Some(after) = after {
            wake.add(key_of(&after.metadata));
        }
    });
    let takes = |set: &StatefulSet, pod: &PodFacts| ordinal(set, pod.name()).is_some();
    reconciler.writer.wake(queue, &reconciler.sets, "StatefulSet", takes);
    let (wake, sets) = (Arc::clone(queue), Arc::clone(&reconciler.sets));
    reconciler.claims.on_change(move |before, after| {
        // A pod may wait for the end of a claim, or until it belongs to no earlier pod.
        let owners = |claim: Option<&Arc<ClaimFacts>>| claim.map(|claim| claim.owners.clone());
        let ended = after.is_none_or(|claim| claim.is_deleting) || owners(before) != owners(after);
        let Some(claim) = before.or(after).filter(|_| ended) else { return };
        let (namespace, name) = split(&claim.key);
        for set in sets.in_namespace(namespace).iter().filter(|set| is_claim_of(set, name)) {
            wake.add(key_of(&set.metadata));
        }
    });
    let (wake, sets) = (Arc::clone(queue), Arc::clone(&reconciler.sets));
    reconciler.history.revisions.on_change(move |before, after| {
        // A revision that is in use may have been deleted by somebody.
        let (Some(gone), None) = (before, after) else { return };
        for set in sets.in_namespace(gone.metadata.namespace.as_deref().unwrap_or_default()) {
            if is_of(gone, parent(&set).uid()) {
                wake.add(key_of(&set.metadata));
            }
        }
    });
}

fn selector_of(set: &StatefulSet) -> Option<Selector> {
    let selector = Selector::from_label_selector(&set.spec.selector).ok()?;
    (!selector.is_empty()).then_some(selector)
}

impl Reconciler {
    fn api(&self, namespace: &str) -> Api<StatefulSet> {
        Api::namespaced(self.writer.client.clone(), namespace)
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let Some(set) = self.sets.get(key) else { return Ok(Next::Wait) };
        let (namespace, name) = split(key);
        let parent = parent(&set);
        // Validation refuses empty selectors.
        let Some(selector) = selector_of(&set) else { return Ok(Next::Wait) };
        let api = self.api(namespace);
        let is_member = |pod: &PodFacts| ordinal(&set, pod.name()).is_some();
        self.writer.claim(&parent, &selector, is_member, may_adopt(&api, &set.metadata)).await?;
        let mut collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or_default();
        let revisions = self.revisions(&set, &selector, &mut collisions).await?;

        let now = jiff::Timestamp::now();
        let pods = self.writer.of(&parent);
        let awaits = |ordinal| self.awaits_claims(&set, ordinal);
        let lacks = |ordinal| self.lacks_claims(&set, ordinal);
        let scene = Scene {
            set: &set,
            pods: &pods,
            current: name_of(&revisions.current),
            update: name_of(&revisions.update),
            awaits_claims: &awaits,
            lacks_claims: &lacks,
            now,
        };
        let plan = plan(&scene);
        tracing::debug!(
            hop = "reconcile",
            kind = "StatefulSet",
            object = &**key,
            uid = set.metadata.uid,
            rev = set.metadata.resource_version,
            create = plan.create.len(),
            delete = plan.delete.len(),
            "planned"
        );
        let done = self.carry_out(&set, &revisions, &pods, plan).await;

        let pods = self.writer.of(&parent);
        let (status, next) = status(&Scene { pods: &pods, now: jiff::Timestamp::now(), ..scene }, collisions);
        if set.status.as_ref() != Some(&status) {
            let patch = json!({"metadata": {"uid": set.metadata.uid}, "status": status});
            match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(set) => self.sets.put(&set.metadata.clone(), set),
                Err(error) if matches!(code(&error), 404 | 409) => {}
                Err(error) => return done.and(Err(at("writing the status")(error))),
            }
        }
        done?;
        self.truncate(&set, &revisions, &pods).await?;
        Ok(next.and_then(|s| u64::try_from(s).ok()).map_or(Next::Wait, |s| Next::After(Duration::from_secs(s))))
    }

    async fn revisions(
        &self,
        set: &StatefulSet,
        selector: &Selector,
        collisions: &mut i32,
    ) -> Result<Revisions, ReconcileError> {
        let source = source(set);
        let orphans = self.history.orphans(&source, selector);
        if !orphans.is_empty()
            && !source.parent.is_deleting()
            && may_adopt(&self.api(source.parent.namespace()), &set.metadata).await?
        {
            for revision in orphans {
                self.history.adopt(&source, &revision).await?;
            }
        }
        let mut own = self.history.own(&source, selector).await?;
        let update = self.history.settle(&source, &mut own, collisions).await?;
        let told = set.status.as_ref().and_then(|status| status.current_revision.as_deref());
        let current = own.iter().find(|revision| Some(name_of(revision)) == told).cloned();
        Ok(Revisions { current: current.unwrap_or_else(|| Arc::clone(&update)), own, update })
    }

    async fn carry_out(
        &self,
        set: &StatefulSet,
        revisions: &Revisions,
        pods: &[Arc<PodFacts>],
        plan: Plan,
    ) -> Result<(), ReconcileError> {
        if !parent(set).is_deleting() {
            for pod in pods {
                if let Some(ordinal) = ordinal(set, pod.name()) {
                    self.own_claims(set, ordinal, pod).await?;
                }
            }
        }
        for ordinal in plan.claims {
            self.make_claims(set, ordinal).await.map_err(at("making the claims of a pod that waits"))?;
        }
        for (pod, ordinal) in &plan.relabel {
            let labels = missing_labels(set, pod, *ordinal);
            let patch = json!({"metadata": {"uid": &*pod.uid, "labels": labels}});
            self.writer.patch(pod, patch, "giving a pod its labels back").await?;
        }
        slowly(&plan.create, |(ordinal, which)| self.create(set, revisions, *ordinal, *which)).await?;
        for (pod, cause) in &plan.delete {
            self.delete(set, pod, *cause).await?;
            // Order is kept also where a look decides on several.
            debug_assert!(!is_ordered(set) || plan.delete.len() == 1 || *cause == Cause::Updated);
        }
        Ok(())
    }

    async fn create(
        &self,
        set: &StatefulSet,
        revisions: &Revisions,
        ordinal: i32,
        which: Template,
    ) -> Result<(), ReconcileError> {
        let (revision, template) = match which {
            Template::Update => (&revisions.update, Some(set.spec.template.clone())),
            Template::Current => (&revisions.current, template_of(&revisions.current)),
        };
        let template: PodTemplateSpec = template.ok_or_else(|| {
            ReconcileError::Object(format!(
                "ControllerRevision {}: no template in data.spec.template",
                name_of(revision)
            ))
        })?;
        let name = pod_name(set, ordinal);
        self.make_claims(set, ordinal).await.map_err(at("making the claims of a pod"))?;
        let namespace = parent(set).namespace();
        match self.writer.create(namespace, &pod(set, template, name_of(revision), ordinal)).await {
            Ok(_) => {
                self.tell(set, Severity::Normal, "SuccessfulCreate", worded(set, "create", &name, "successful"));
                Ok(())
            }
            Err(error) if code(&error) == 409 => {
                let found = self.writer.look(namespace, &name).await.map_err(at("reading the pod of that name"))?;
                match found {
                    // The watch had not told of it yet.
                    Some(pod) if pod.is_of(parent(set).uid()) => Ok(()),
                    Some(pod) => {
                        // One that is on its way out, as of an earlier set of this name, is nobody's fault.
                        if !pod.is_deleting {
                            let taken = format!("failed error: pods {name:?} already exists");
                            self.tell(set, Severity::Warning, "FailedCreate", worded(set, "create", &name, &taken));
                        }
                        Err(ReconcileError::Waiting(format!("the end of a pod with the name {name}")))
                    }
                    None => Err(ReconcileError::Waiting(format!("the name {name}"))),
                }
            }
            // The namespace is being deleted, and this set with it.
            Err(error) if is_terminating(&error) => Ok(()),
            Err(error) => {
                let failed = format!("failed error: {error}");
                self.tell(set, Severity::Warning, "FailedCreate", worded(set, "create", &name, &failed));
                Err(at("creating a pod")(error))
            }
        }
    }

    async fn delete(&self, set: &StatefulSet, pod: &PodFacts, cause: Cause) -> Result<(), ReconcileError> {
        if cause == Cause::Ended {
            let place = format!("StatefulSet {}/{}", parent(set).namespace(), parent(set).name());
            let (severity, reason, what) = match pod.has_failed {
                true => (Severity::Warning, "RecreatingFailedPod", "failed"),
                false => (Severity::Normal, "RecreatingTerminatedPod", "terminated"),
            };
            self.tell(set, severity, reason, format!("{place} is recreating {what} Pod {}", pod.name()));
        }
        match self.writer.delete(pod).await {
            Ok(true) => {
                let message = worded(set, "delete", pod.name(), "successful");
                self.tell(set, Severity::Normal, "SuccessfulDelete", message);
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => {
                let message = worded(set, "delete", pod.name(), &format!("failed error: {error}"));
                self.tell(set, Severity::Warning, "FailedDelete", message);
                Err(at("deleting a pod")(error))
            }
        }
    }

    async fn truncate(
        &self,
        set: &StatefulSet,
        revisions: &Revisions,
        pods: &[Arc<PodFacts>],
    ) -> Result<(), ReconcileError> {
        if parent(set).is_deleting() {
            return Ok(());
        }
        let mut live: BTreeSet<&str> = [name_of(&revisions.current), name_of(&revisions.update)].into();
        live.extend(pods.iter().map(|pod| super::plan::revision_of(pod)));
        let gone = surplus(&revisions.own, &live, set.spec.revision_history_limit);
        self.history.delete(&source(set), &gone).await
    }

    pub(super) fn tell(&self, set: &StatefulSet, severity: Severity, reason: &'static str, message: String) {
        self.recorder.send(parent(set).reference(), severity, reason, message);
    }
}

fn source(set: &StatefulSet) -> Source<'_> {
    Source { parent: parent(set), template: &set.spec.template, hash_label: HASH_LABEL }
}

fn worded(set: &StatefulSet, verb: &str, pod: &str, how: &str) -> String {
    format!("{verb} Pod {pod} in StatefulSet {} {how}", parent(set).name())
}

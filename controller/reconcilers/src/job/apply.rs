//! Carries the plan of a Job out: what a status must say before anything else is done is written first, and what is
//! written is in the cache before the next look.
use super::backoff::Backoff;
use super::conditions::{COMPLETE, FAILED, SUSPENDED, held, is_finished};
use super::plan::{self, Claims, Draft, Plan};
use super::tally::{Shape, is_tracked, spec_of};
use super::template;
use crate::adoption::may_adopt;
use crate::cache::{Cache, Key, key_of, split};
use crate::clock;
use crate::error::{ReconcileError, at, code, is_terminating};
use crate::pod::{PodFacts, PodWriter, slowly};
use crate::queue::{Next, Queue};
use crate::record::{Recorder, Severity};
use crate::whole::whole;
use api::selector::Selector;
use api::well_known::{FINALIZER_JOB_TRACKING, JOB_CONTROLLER};
use futures::future::join_all;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const WORKERS: usize = 8;
/// Looks in one run; what is left has its turn again behind the other Jobs.
const LOOKS: usize = 8;
const AT_ONCE: usize = 64;

/// Everything a run uses.
pub(crate) struct Reconciler {
    pub(crate) writer: PodWriter,
    pub(crate) jobs: Arc<Cache<Job>>,
    pub(crate) recorder: Recorder,
}

/// What needs a look.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Cause {
    /// A Job, or what it has left behind.
    Job(Key),
    /// A pod that has our finalizer and is no Job's.
    Stray(Key),
}

/// What runs share.
struct Shared {
    reconciler: Reconciler,
    /// By the Job, with its uid.
    backoffs: Mutex<HashMap<Key, (String, Backoff)>>,
}

/// Reconciles until dropped.
pub(crate) async fn start(reconciler: Reconciler) {
    let queue: Arc<Queue<Cause>> = Queue::new("job");
    let (wake, pods) = (Arc::clone(&queue), Arc::clone(&reconciler.writer.pods));
    reconciler.jobs.on_change(move |before, after| {
        for job in [before, after].into_iter().flatten() {
            wake.add(Cause::Job(key_of(&job.metadata)));
        }
        let goes = after.is_none_or(|job| job.metadata.deletion_timestamp.is_some());
        let namespace = before.or(after).and_then(|job| job.metadata.namespace.as_deref()).filter(|_| goes);
        for pod in namespace.map(|namespace| pods.in_namespace(namespace)).unwrap_or_default() {
            if is_stray(&pod) {
                wake.add(Cause::Stray(pod.key.clone().unwrap_or_default()));
            }
        }
    });
    let (wake, jobs) = (Arc::clone(&queue), Arc::clone(&reconciler.jobs));
    reconciler.writer.pods.on_change(move |before, after| {
        for pod in [before, after].into_iter().flatten() {
            match &pod.controller {
                Some((kind, name, _)) if **kind == *"Job" => {
                    wake.add(Cause::Job(format!("{}/{name}", pod.namespace()).into()));
                }
                Some(_) if is_stray(pod) => wake.add(Cause::Stray(pod.key.clone().unwrap_or_default())),
                Some(_) => {}
                None => {
                    let takers = takers(&jobs, pod);
                    if takers.is_empty() && is_stray(pod) {
                        wake.add(Cause::Stray(pod.key.clone().unwrap_or_default()));
                    }
                    takers.into_iter().for_each(|job| wake.add(Cause::Job(job)));
                }
            }
        }
    });
    reconciler.jobs.listed().await;
    reconciler.writer.pods.listed().await;
    for job in reconciler.jobs.all() {
        queue.add(Cause::Job(key_of(&job.metadata)));
    }
    for pod in reconciler.writer.pods.all().iter().filter(|pod| is_tracked(pod)) {
        queue.add(match &pod.controller {
            Some((_, name, _)) if !is_stray(pod) => Cause::Job(format!("{}/{name}", pod.namespace()).into()),
            Some(_) | None => Cause::Stray(pod.key.clone().unwrap_or_default()),
        });
    }
    let (wake, jobs) = (Arc::clone(&queue), Arc::clone(&reconciler.jobs));
    let clock = clock::watch(move || jobs.all().iter().for_each(|job| wake.add(Cause::Job(key_of(&job.metadata)))));
    let shared = Arc::new(Shared { reconciler, backoffs: Mutex::default() });
    let work = move |cause: Cause| {
        let shared = Arc::clone(&shared);
        async move {
            match cause {
                Cause::Job(key) => shared.job(&key).await,
                Cause::Stray(key) => shared.stray(&key).await,
            }
        }
    };
    tokio::join!(queue.work(WORKERS, work), clock);
}

fn is_stray(pod: &PodFacts) -> bool {
    is_tracked(pod) && pod.controller.as_ref().is_none_or(|(kind, ..)| **kind != *"Job")
}

/// The Jobs that would take a pod without a controller for theirs.
fn takers(jobs: &Cache<Job>, pod: &PodFacts) -> Vec<Key> {
    let takes = |job: &&Arc<Job>| {
        job.metadata.deletion_timestamp.is_none()
            && !is_finished(job)
            && is_ours(job)
            && selector_of(job).is_ok_and(|selector| selector.matches(&pod.labels))
    };
    jobs.in_namespace(pod.namespace()).iter().filter(takes).map(|job| key_of(&job.metadata)).collect()
}

/// Other controllers may work on Jobs too.
fn is_ours(job: &Job) -> bool {
    spec_of(job).managed_by.as_deref().is_none_or(|name| name == JOB_CONTROLLER)
}

fn selector_of(job: &Job) -> Result<Selector, String> {
    let Some(selector) = &spec_of(job).selector else { return Err("spec.selector: is missing".to_owned()) };
    match Selector::from_label_selector(selector) {
        Ok(selector) if !selector.is_empty() => Ok(selector),
        Err(error) => Err(format!("spec.selector: {error}")),
        Ok(_) => Err("spec.selector: must not be empty".to_owned()),
    }
}

impl Shared {
    fn api(&self, namespace: &str) -> Api<Job> {
        Api::namespaced(self.reconciler.writer.client.clone(), namespace)
    }

    async fn job(&self, key: &Key) -> Result<Next, ReconcileError> {
        self.free_left_behind(key).await?;
        for _ in 0..LOOKS {
            let Some(job) = self.reconciler.jobs.get(key) else {
                self.backoffs().remove(key);
                return Ok(Next::Wait);
            };
            if !is_ours(&job) {
                return Ok(Next::Wait);
            }
            let mode = spec_of(&job).completion_mode.as_deref();
            if let Some(mode) = mode.filter(|mode| !matches!(*mode, "Indexed" | "NonIndexed")) {
                let message = format!("Skipped Job sync because completion mode is unknown: {mode}");
                self.tell(&job, Severity::Warning, "UnknownCompletionMode", message);
                return Ok(Next::Wait);
            }
            let selector = match selector_of(&job) {
                Ok(selector) => selector,
                Err(error) => {
                    tracing::warn!(kind = "Job", object = &**key, %error, "left alone");
                    return Ok(Next::Wait);
                }
            };
            let (namespace, _) = split(key);
            let claims = plan::claim(&job, &selector, &self.reconciler.writer.pods.in_namespace(namespace));
            if self.take_and_release(&job, namespace, &claims).await? {
                continue;
            }
            let plan = self.plan(&job, &claims.mine);
            tracing::debug!(
                hop = "reconcile",
                kind = "Job",
                object = &**key,
                uid = job.metadata.uid,
                rev = job.metadata.resource_version,
                create = plan.create.len(),
                count = plan.count.len(),
                "planned"
            );
            if plan.is_status_first || plan.is_idle() {
                self.write_status(&job, namespace, &plan.status).await?;
            }
            if plan.is_idle() {
                let finished = self.reconciler.jobs.get(key).is_none_or(|job| is_finished(&job));
                if finished {
                    self.backoffs().remove(key);
                }
                let next = plan.next.filter(|_| !finished).and_then(|left| u64::try_from(left).ok());
                return Ok(next.map_or(Next::Wait, |left| Next::After(Duration::from_millis(left.max(1)))));
            }
            if let Err(error) = self.carry_out(&job, &plan).await {
                // What has been done is told all the same.
                if let Some(job) = self.reconciler.jobs.get(key) {
                    let claims = plan::claim(&job, &selector, &self.reconciler.writer.pods.in_namespace(namespace));
                    let plan = self.plan(&job, &claims.mine);
                    self.write_status(&job, namespace, &plan.status).await?;
                }
                return Err(error);
            }
        }
        Ok(Next::After(Duration::ZERO))
    }

    fn plan(&self, job: &Job, mine: &[Arc<PodFacts>]) -> Plan {
        let shape = Shape::new(job);
        let backoff = {
            let mut backoffs = self.backoffs();
            let (uid, known) = backoffs.entry(key_of(&job.metadata)).or_default();
            if *uid != template::parent(job).uid() {
                (*uid, *known) = (template::parent(job).uid().to_owned(), Backoff::default());
            }
            *known = known.with(mine, |pod| shape.has_failed(pod));
            known.clone()
        };
        plan::plan(job, mine, &backoff, jiff::Timestamp::now())
    }

    fn backoffs(&self) -> MutexGuard<'_, HashMap<Key, (String, Backoff)>> {
        self.backoffs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pods whose Job is gone, or is another one by now, are not held back.
    async fn free_left_behind(&self, key: &Key) -> Result<(), ReconcileError> {
        let (namespace, name) = split(key);
        let known = self.reconciler.jobs.get(key);
        let uid = known.as_ref().and_then(|job| job.metadata.uid.as_deref());
        let mut left = self.reconciler.writer.pods.in_namespace(namespace);
        left.retain(|pod| {
            let controller = pod.controller.as_ref();
            is_tracked(pod)
                && controller
                    .is_some_and(|(kind, owner, id)| **kind == *"Job" && **owner == *name && Some(&**id) != uid)
        });
        if left.is_empty() {
            return Ok(());
        }
        let live = self.api(namespace).get_opt(name).await.map_err(at("looking for the Job of a pod"))?;
        let live = live.and_then(|job| job.metadata.uid);
        for chunk in left.chunks(AT_ONCE) {
            let gone = chunk
                .iter()
                .filter(|pod| pod.controller.as_ref().is_some_and(|(_, _, uid)| live.as_deref() != Some(&**uid)));
            all(join_all(gone.map(|pod| self.untrack(pod))).await)?;
        }
        Ok(())
    }

    async fn stray(&self, key: &Key) -> Result<Next, ReconcileError> {
        let Some(pod) = self.reconciler.writer.pods.get(key).filter(|pod| is_stray(pod)) else { return Ok(Next::Wait) };
        if pod.controller.is_some() || takers(&self.reconciler.jobs, &pod).is_empty() {
            self.untrack(&pod).await?;
        }
        Ok(Next::Wait)
    }

    /// Tells whether anything was changed.
    async fn take_and_release(&self, job: &Job, namespace: &str, claims: &Claims) -> Result<bool, ReconcileError> {
        let jobs = self.api(namespace);
        let adopts = !claims.adopt.is_empty() && may_adopt(&jobs, &job.metadata).await?;
        for pod in claims.adopt.iter().filter(|_| adopts) {
            let patch = json!({"metadata": {"uid": &*pod.uid, "ownerReferences": [template::parent(job).owner_reference()],
                "finalizers": [FINALIZER_JOB_TRACKING]}});
            self.change(pod, patch, "adopting a pod").await?;
        }
        for pod in &claims.release {
            let patch = json!({"metadata": {"uid": &*pod.uid,
                "ownerReferences": [{"$patch": "delete", "uid": job.metadata.uid}],
                "$deleteFromPrimitiveList/finalizers": [FINALIZER_JOB_TRACKING]}});
            self.change(pod, patch, "releasing a pod").await?;
        }
        Ok(adopts || !claims.release.is_empty())
    }

    async fn carry_out(&self, job: &Job, plan: &Plan) -> Result<(), ReconcileError> {
        for chunk in plan.count.chunks(AT_ONCE) {
            all(join_all(chunk.iter().map(|pod| self.untrack(pod))).await)?;
        }
        for pod in &plan.track {
            let patch = json!({"metadata": {"uid": &*pod.uid, "finalizers": [FINALIZER_JOB_TRACKING]}});
            self.change(pod, patch, "tracking a pod").await?;
        }
        for chunk in plan.withdraw.chunks(AT_ONCE) {
            all(join_all(chunk.iter().map(|pod| async {
                self.untrack(pod).await?;
                self.delete(job, pod).await
            }))
            .await)?;
        }
        for chunk in plan.delete.chunks(AT_ONCE) {
            all(join_all(chunk.iter().map(|pod| self.delete(job, pod))).await)?;
        }
        slowly(&plan.create, |draft| self.create(job, *draft)).await
    }

    async fn change(&self, pod: &PodFacts, patch: Value, step: &'static str) -> Result<(), ReconcileError> {
        match self.reconciler.writer.patch(pod, patch, step).await {
            // One that is being deleted gets no finalizer any more.
            Err(ReconcileError::Api { source, .. }) if code(&source) == 422 => Ok(()),
            done => done,
        }
    }

    async fn untrack(&self, pod: &PodFacts) -> Result<(), ReconcileError> {
        let patch = json!({"metadata": {"uid": &*pod.uid,
            "$deleteFromPrimitiveList/finalizers": [FINALIZER_JOB_TRACKING]}});
        self.change(pod, patch, "taking the finalizer from a pod").await
    }

    async fn create(&self, job: &Job, draft: Draft) -> Result<(), ReconcileError> {
        match self.reconciler.writer.create(template::parent(job).namespace(), &template::pod(job, draft)).await {
            Ok(name) => {
                self.tell(job, Severity::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
                Ok(())
            }
            // The namespace is being deleted, and this Job with it.
            Err(error) if is_terminating(&error) => Err(ReconcileError::Waiting("the end of the namespace".to_owned())),
            Err(error) => {
                self.tell(job, Severity::Warning, "FailedCreate", format!("Error creating: {error}"));
                Err(at("creating a pod")(error))
            }
        }
    }

    async fn delete(&self, job: &Job, pod: &PodFacts) -> Result<(), ReconcileError> {
        match self.reconciler.writer.delete(pod).await {
            Ok(true) => {
                self.tell(job, Severity::Normal, "SuccessfulDelete", format!("Deleted pod: {}", pod.name()));
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => {
                self.tell(job, Severity::Warning, "FailedDelete", format!("Error deleting: {error}"));
                Err(at("deleting a pod")(error))
            }
        }
    }

    /// Writes a status that says something new; refused if the Job is not the one that was decided upon.
    async fn write_status(&self, job: &Job, namespace: &str, status: &JobStatus) -> Result<(), ReconcileError> {
        if job.status.as_ref() == Some(status) {
            return Ok(());
        }
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let own = json!({"uid": job.metadata.uid, "resourceVersion": job.metadata.resource_version});
        let patch = json!({"metadata": own, "status": whole_status(status)});
        match self.api(namespace).patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(new) => {
                self.tell_change(job, &new);
                self.reconciler.jobs.put(&new.metadata.clone(), new);
                Ok(())
            }
            Err(error) if code(&error) == 404 => Ok(()),
            Err(error) => Err(at("writing the status of a Job")(error)),
        }
    }

    /// Events of what a status says first.
    fn tell_change(&self, old: &Job, new: &Job) {
        let none = JobStatus::default();
        let (before, after) = (old.status.as_ref().unwrap_or(&none), new.status.as_ref().unwrap_or(&none));
        let begins = |kind: &str| held(after, kind).filter(|_| held(before, kind).is_none());
        if begins(SUSPENDED).is_some() {
            self.tell(new, Severity::Normal, "Suspended", "Job suspended".to_owned());
        } else if held(before, SUSPENDED).is_some() && held(after, SUSPENDED).is_none() {
            self.tell(new, Severity::Normal, "Resumed", "Job resumed".to_owned());
        }
        if begins(COMPLETE).is_some() {
            let done = after.succeeded.unwrap_or_default();
            if spec_of(new).completions.is_some_and(|wanted| done > wanted) {
                let message = "Too many succeeded pods running after completion count reached".to_owned();
                self.tell(new, Severity::Warning, "TooManySucceededPods", message);
            }
            self.tell(new, Severity::Normal, "Completed", "Job completed".to_owned());
        }
        if let Some(failed) = begins(FAILED) {
            let reason = reason_of(failed.reason.as_deref().unwrap_or_default());
            self.tell(new, Severity::Warning, reason, failed.message.clone().unwrap_or_default());
        }
    }

    fn tell(&self, job: &Job, severity: Severity, reason: &'static str, message: String) {
        self.reconciler.recorder.send(template::parent(job).reference(), severity, reason, message);
    }
}

/// The first failure of several.
fn all(results: Vec<Result<(), ReconcileError>>) -> Result<(), ReconcileError> {
    results.into_iter().collect()
}

/// The reasons by which a Job may fail, as those of events.
fn reason_of(reason: &str) -> &'static str {
    const REASONS: [&str; 5] =
        ["BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"];
    REASONS.into_iter().find(|known| *known == reason).unwrap_or(FAILED)
}

/// A status that names everything, so that a merge patch leaves nothing old behind.
fn whole_status(status: &JobStatus) -> Value {
    const FIELDS: [&str; 8] = [
        "active",
        "succeeded",
        "failed",
        "startTime",
        "completionTime",
        "conditions",
        "completedIndexes",
        "failedIndexes",
    ];
    let mut value = whole(status, &FIELDS);
    if let Some(uncounted) = &status.uncounted_terminated_pods {
        value["uncountedTerminatedPods"] = whole(uncounted, &["succeeded", "failed"]);
    }
    value
}

//! Carries the plan of a CronJob out: the Job is made first and told then; its name keeps it from being made twice.
use super::plan::{self, Draft, Plan};
use super::template;
use crate::cache::{Cache, Key, key_of, split};
use crate::clock;
use crate::error::{ReconcileError, at, code, is_terminating};
use crate::pod::{controller_of, is_controlled};
use crate::queue::{Next, Queue};
use crate::record::{Recorder, Severity};
use crate::whole::whole;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 4;

/// Everything a run uses.
pub(crate) struct Reconciler {
    pub(crate) client: kube::Client,
    pub(crate) crons: Arc<Cache<CronJob>>,
    pub(crate) jobs: Arc<Cache<Job>>,
    pub(crate) recorder: Recorder,
}

/// Reconciles until dropped.
pub(crate) async fn start(reconciler: Reconciler) {
    let queue: Arc<Queue<Key>> = Queue::new("cronjob");
    let wake = Arc::clone(&queue);
    reconciler.crons.on_change(move |_, after| {
        if let Some(cron) = after {
            wake.add(key_of(&cron.metadata));
        }
    });
    let wake = Arc::clone(&queue);
    reconciler.jobs.on_change(move |before, after| {
        for job in [before, after].into_iter().flatten() {
            let owner = controller_of(job.metadata.owner_references.as_ref());
            if let Some(owner) = owner.filter(|owner| owner.kind == "CronJob") {
                let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
                wake.add(format!("{namespace}/{}", owner.name).into());
            }
        }
    });
    reconciler.crons.listed().await;
    reconciler.jobs.listed().await;
    for cron in reconciler.crons.all() {
        queue.add(key_of(&cron.metadata));
    }
    let (wake, crons) = (Arc::clone(&queue), Arc::clone(&reconciler.crons));
    let clock = clock::watch(move || crons.all().iter().for_each(|cron| wake.add(key_of(&cron.metadata))));
    let reconciler = Arc::new(reconciler);
    let work = move |key: Key| {
        let reconciler = Arc::clone(&reconciler);
        async move { reconciler.reconcile(&key).await }
    };
    tokio::join!(queue.work(WORKERS, work), clock);
}

/// The time zone of a schedule: the one it names, by the machine's database where it has one, or that of this process.
fn zone_of(cron: &CronJob) -> Option<TimeZone> {
    match cron.spec.time_zone.as_deref() {
        Some(name) => jiff::tz::db().get(name).ok().or_else(|| api::schedule::zone(name)),
        None => Some(TimeZone::try_system().unwrap_or(TimeZone::UTC)),
    }
}

impl Reconciler {
    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let Some(cron) = self.crons.get(key) else { return Ok(Next::Wait) };
        let (namespace, _) = split(key);
        let mut jobs = self.jobs.in_namespace(namespace);
        jobs.retain(|job| is_controlled(&job.metadata, template::parent(&cron).uid()));
        let (now, zone) = (Timestamp::now(), zone_of(&cron));
        let plan = plan::plan(&cron, &jobs, zone.as_ref(), now);
        tracing::debug!(
            hop = "reconcile",
            kind = "CronJob",
            object = &**key,
            uid = cron.metadata.uid,
            creates = plan.create.is_some(),
            next = plan.next.map(|next| next.to_string()),
            "planned"
        );
        for notice in &plan.notices {
            self.tell(&cron, notice.severity, notice.reason, notice.message.clone());
        }
        let api: Api<Job> = Api::namespaced(self.client.clone(), namespace);
        let made = self.carry_out(&api, &cron, &plan, zone.as_ref()).await;
        let (status, done) = match made {
            Ok(status) => (status, Ok(())),
            Err(error) => (plan.status.clone(), Err(error)),
        };
        self.write_status(&cron, namespace, &status).await?;
        done?;
        let Some(next) = plan.next else { return Ok(Next::Wait) };
        let left = next.as_millisecond().saturating_sub(Timestamp::now().as_millisecond()).saturating_add(1);
        Ok(Next::After(Duration::from_millis(u64::try_from(left).unwrap_or(0))))
    }

    /// Answers the status that is right then.
    async fn carry_out(
        &self,
        api: &Api<Job>,
        cron: &CronJob,
        plan: &Plan,
        zone: Option<&TimeZone>,
    ) -> Result<CronJobStatus, ReconcileError> {
        for job in &plan.delete {
            let name = job.metadata.name.as_deref().unwrap_or_default();
            self.delete(api, cron, name, job.metadata.uid.clone()).await?;
        }
        let (Some(draft), Some(zone)) = (&plan.create, zone) else { return Ok(plan.status.clone()) };
        for job in &draft.replaced {
            self.delete(api, cron, job.name.as_deref().unwrap_or_default(), job.uid.clone()).await?;
        }
        match self.create(api, cron, draft, zone).await? {
            Some(job) => Ok(plan::made(plan.status.clone(), draft, &job)),
            None => Ok(plan.status.clone()),
        }
    }

    async fn create(
        &self,
        api: &Api<Job>,
        cron: &CronJob,
        draft: &Draft,
        zone: &TimeZone,
    ) -> Result<Option<Job>, ReconcileError> {
        match api.create(&PostParams::default(), &template::job(cron, draft.time, zone)).await {
            Ok(job) => {
                let message = format!("Created job {}", job.metadata.name.as_deref().unwrap_or_default());
                self.tell(cron, Severity::Normal, "SuccessfulCreate", message);
                self.jobs.put(&job.metadata.clone(), job.clone());
                Ok(Some(job))
            }
            Err(error) if code(&error) == 409 => {
                let name = template::name(cron, draft.time);
                let found = api.get(&name).await.map_err(at("reading the Job of that name"))?;
                if is_controlled(&found.metadata, template::parent(cron).uid()) {
                    return Ok(Some(found));
                }
                let message = format!("Error creating job: {name:?} is there and is not ours");
                self.tell(cron, Severity::Warning, "FailedCreate", message.clone());
                Err(ReconcileError::Object(message))
            }
            // The namespace is being deleted, and this CronJob with it.
            Err(error) if is_terminating(&error) => Ok(None),
            Err(error) => {
                self.tell(cron, Severity::Warning, "FailedCreate", format!("Error creating job: {error}"));
                Err(at("creating a Job")(error))
            }
        }
    }

    async fn delete(
        &self,
        api: &Api<Job>,
        cron: &CronJob,
        name: &str,
        uid: Option<String>,
    ) -> Result<(), ReconcileError> {
        let own = Preconditions { uid, resource_version: None };
        let params = DeleteParams { preconditions: Some(own), ..DeleteParams::background() };
        match api.delete(name, &params).await {
            Ok(_) => {
                self.tell(cron, Severity::Normal, "SuccessfulDelete", format!("Deleted job {name}"));
                Ok(())
            }
            Err(error) if matches!(code(&error), 404 | 409) => Ok(()),
            Err(error) => {
                self.tell(cron, Severity::Warning, "FailedDelete", format!("Deleted job: {error}"));
                Err(at("deleting a Job")(error))
            }
        }
    }

    async fn write_status(
        &self,
        cron: &CronJob,
        namespace: &str,
        status: &CronJobStatus,
    ) -> Result<(), ReconcileError> {
        if cron.status.as_ref().unwrap_or(&CronJobStatus::default()) == status {
            return Ok(());
        }
        let name = cron.metadata.name.as_deref().unwrap_or_default();
        let own = json!({"uid": cron.metadata.uid, "resourceVersion": cron.metadata.resource_version});
        let patch =
            json!({"metadata": own, "status": whole(status, &["active", "lastScheduleTime", "lastSuccessfulTime"])});
        let crons: Api<CronJob> = Api::namespaced(self.client.clone(), namespace);
        match crons.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(cron) => self.crons.put(&cron.metadata.clone(), cron),
            Err(error) if code(&error) == 404 => {}
            Err(error) => return Err(at("writing the status of a CronJob")(error)),
        }
        Ok(())
    }

    fn tell(&self, cron: &CronJob, severity: Severity, reason: &'static str, message: String) {
        self.recorder.send(template::parent(cron).reference(), severity, reason, message);
    }
}

//! Jobs that go some time after they have ended (`ttlSecondsAfterFinished`), each woken when its time has come.
use super::conditions::finish_of;
use crate::cache::{Cache, Key, key_of, split};
use crate::clock;
use crate::error::{ReconcileError, at, code};
use crate::queue::{Next, Queue};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Api, DeleteParams, Preconditions, PropagationPolicy};
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 2;

/// Deletes until dropped.
pub(crate) async fn start(client: kube::Client, jobs: Arc<Cache<Job>>) {
    let queue: Arc<Queue<Key>> = Queue::new("ttl-after-finished");
    let wake = Arc::clone(&queue);
    jobs.on_change(move |_, after| {
        if let Some(job) = after.filter(|job| expiry(job).is_some()) {
            wake.add(key_of(&job.metadata));
        }
    });
    jobs.listed().await;
    for job in jobs.all().iter().filter(|job| expiry(job).is_some()) {
        queue.add(key_of(&job.metadata));
    }
    let (wake, all) = (Arc::clone(&queue), Arc::clone(&jobs));
    let clock = clock::watch(move || all.all().iter().for_each(|job| wake.add(key_of(&job.metadata))));
    let work = move |key: Key| {
        let (client, jobs) = (client.clone(), Arc::clone(&jobs));
        async move {
            let now = jiff::Timestamp::now().as_millisecond();
            let Some(left) = jobs.get(&key).and_then(|job| expiry(&job)).map(|time| time - now) else {
                return Ok(Next::Wait);
            };
            match u64::try_from(left) {
                Ok(left) if left > 0 => Ok(Next::After(Duration::from_millis(left))),
                _ => delete(client, &key, now).await,
            }
        }
    };
    tokio::join!(queue.work(WORKERS, work), clock);
}

/// When it goes, in milliseconds since 1970.
fn expiry(job: &Job) -> Option<i64> {
    let seconds = i64::from(job.spec.as_ref()?.ttl_seconds_after_finished?);
    let ended = finish_of(job)?.last_transition_time.as_ref()?.0.as_millisecond();
    job.metadata.deletion_timestamp.is_none().then(|| ended.saturating_add(seconds.saturating_mul(1000)))
}

/// A live look first: the time may have been made longer meanwhile.
async fn delete(client: kube::Client, key: &Key, now: i64) -> Result<Next, ReconcileError> {
    let (namespace, name) = split(key);
    let jobs: Api<Job> = Api::namespaced(client, namespace);
    let job = jobs.get_opt(name).await.map_err(at("reading the Job"))?;
    let Some(job) = job.filter(|job| expiry(job).is_some_and(|time| time <= now)) else { return Ok(Next::Wait) };
    let own = Preconditions { uid: job.metadata.uid, resource_version: job.metadata.resource_version };
    let params = DeleteParams {
        preconditions: Some(own),
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..DeleteParams::default()
    };
    match jobs.delete(name, &params).await {
        Ok(_) => tracing::info!(kind = "Job", object = &**key, "deleted, its time after its end is over"),
        Err(error) if code(&error) == 404 => {}
        Err(error) => return Err(at("deleting a Job that has ended")(error)),
    }
    Ok(Next::Wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_has_ended_and_may_go_has_a_time() {
        let job = |ttl: serde_json::Value, kind: &str| {
            let job = serde_json::from_value(json!({
                "metadata": {"name": "j"}, "spec": {"template": {}, "ttlSecondsAfterFinished": ttl},
                "status": {"conditions": [
                    {"type": kind, "status": "True", "lastTransitionTime": "1970-01-01T00:00:10Z"}]},
            }));
            expiry(&job.unwrap())
        };
        assert_eq!(job(json!(5), "Failed"), Some(15_000));
        assert_eq!(job(json!(0), "Complete"), Some(10_000));
        assert_eq!(job(json!(5), "FailureTarget"), None);
        assert_eq!(job(json!(null), "Complete"), None);
    }
}

//! Counts and writes, woken by quotas, by pods that end, and by whatever else they limit that is deleted.
//!
//! A quota is read first and written only if it is still the same: what was charged meanwhile is never taken back.
use super::plan::{self, Objects};
use crate::cache::{Cache, Key, key_of, split};
use crate::discovered::{self, Discovered};
use crate::error::{ReconcileError, at, code};
use crate::pod::{Phase, PodFacts};
use crate::queue::{Next, Queue};
use api::quota::Quota;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::AbortHandle;

const WORKERS: usize = 2;
/// What time alone changes (a pod that a lost node never ends) is looked at again after so long, as upstream does.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// What is known of a quota without asking.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QuotaFacts {
    key: Key,
    /// What it limits, as (group, plural).
    kinds: BTreeSet<(String, String)>,
    /// Whether the status has the limits of the spec.
    is_of_spec: bool,
}

impl QuotaFacts {
    /// Takes the facts out.
    pub(crate) fn new(quota: ResourceQuota) -> Self {
        let spec = json!(quota.spec.unwrap_or_default());
        let quota_of_spec = Quota::read(&spec);
        let kinds =
            quota_of_spec.kinds().into_iter().map(|(group, plural)| (group.to_owned(), plural.to_owned())).collect();
        let status = json!(quota.status.unwrap_or_default());
        let is_of_spec = spec.get("hard").is_some() && status.get("hard") == spec.get("hard");
        Self { key: key_of(&quota.metadata), kinds, is_of_spec }
    }
}

/// Everything a run uses.
pub(crate) struct Reconciler {
    pub(crate) client: kube::Client,
    pub(crate) quotas: Arc<Cache<QuotaFacts>>,
    pub(crate) pods: Arc<Cache<PodFacts>>,
    /// Watches for deletions, by what they watch.
    watches: Mutex<BTreeMap<(String, String), (ApiResource, AbortHandle)>>,
    /// The kinds that the server served when it was last asked.
    known: Mutex<Vec<Discovered>>,
}

impl Reconciler {
    /// One that watches nothing yet.
    pub(crate) fn new(client: kube::Client, quotas: Arc<Cache<QuotaFacts>>, pods: Arc<Cache<PodFacts>>) -> Self {
        Self { client, quotas, pods, watches: Mutex::default(), known: Mutex::default() }
    }
}

impl Drop for Reconciler {
    fn drop(&mut self) {
        for (_, watch) in self.watches.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
            watch.abort();
        }
    }
}

/// Reconciles until dropped.
pub(crate) async fn start(reconciler: Reconciler) {
    let queue: Arc<Queue<Key>> = Queue::new("resourcequota");
    let wake = Arc::clone(&queue);
    reconciler.quotas.on_change(move |before, after| {
        // A charge is exact: it leaves nothing to count.
        if let Some(quota) = after.filter(|quota| !quota.is_of_spec || before.is_none()) {
            wake.add(Arc::clone(&quota.key));
        }
    });
    let (wake, quotas) = (Arc::clone(&queue), Arc::clone(&reconciler.quotas));
    reconciler.pods.on_change(move |before, after| {
        let ended = |pod: Option<&Arc<PodFacts>>| pod.is_none_or(|pod| pod.phase == Phase::Ended);
        if let Some(pod) = before.filter(|_| !ended(before) && ended(after) || after.is_none()) {
            wake_namespace(&wake, &quotas, pod.namespace(), "", "pods");
        }
    });
    reconciler.quotas.listed().await;
    for quota in reconciler.quotas.all() {
        queue.add(Arc::clone(&quota.key));
    }
    let (reconciler, wake) = (Arc::new(reconciler), Arc::clone(&queue));
    let work = move |key: Key| {
        let (reconciler, queue) = (Arc::clone(&reconciler), Arc::clone(&wake));
        async move { reconciler.reconcile(&key, &queue).await }
    };
    queue.work(WORKERS, work).await;
}

fn wake_namespace(queue: &Queue<Key>, quotas: &Cache<QuotaFacts>, namespace: &str, group: &str, plural: &str) {
    for quota in quotas.in_namespace(namespace) {
        if quota.kinds.iter().any(|(own, name)| own == group && name == plural) {
            queue.add(Arc::clone(&quota.key));
        }
    }
}

impl Reconciler {
    async fn reconcile(&self, key: &Key, queue: &Arc<Queue<Key>>) -> Result<Next, ReconcileError> {
        let Some(known) = self.quotas.get(key) else { return Ok(Next::Wait) };
        let (namespace, name) = split(key);
        let kinds = self.kinds(&known.kinds).await?;
        for kind in &kinds {
            self.watch(kind, queue);
        }
        let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), namespace);
        // Before anything is counted: see the module.
        let Some(quota) = api.get_opt(name).await.map_err(at("reading the quota"))? else { return Ok(Next::Wait) };
        if quota.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Wait);
        }
        let mut objects = Objects::new();
        for kind in kinds {
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &kind.resource);
            let list = match api.list(&ListParams::default()).await {
                Ok(list) => list.items,
                Err(error) => {
                    // It may be served in another version now: the next run asks.
                    if matches!(code(&error), 404 | 405) {
                        self.known().retain(|known| known.resource != kind.resource);
                    }
                    return Err(at("listing what the quota limits")(error));
                }
            };
            let list = list.into_iter().map(|object| json!(object)).collect();
            objects.insert((kind.resource.group, kind.resource.plural), list);
        }
        let spec = json!(quota.spec.clone().unwrap_or_default());
        let status = plan::status(&spec, &objects, jiff::Timestamp::now().as_second());
        if json!(quota.status.clone().unwrap_or_default()) != status {
            tracing::debug!(
                hop = "reconcile",
                kind = "ResourceQuota",
                object = &**key,
                uid = quota.metadata.uid,
                "counted"
            );
            let mut counted = quota;
            counted.status =
                serde_json::from_value(status).map_err(|error| ReconcileError::Object(error.to_string()))?;
            match api.replace_subresource("status", name, &PostParams::default(), &counted).await {
                Ok(_) => {}
                Err(error) if code(&error) == 404 => return Ok(Next::Wait),
                // Charged meanwhile.
                Err(error) if code(&error) == 409 => queue.add(Arc::clone(key)),
                Err(error) => return Err(at("writing the status of a quota")(error)),
            }
        }
        Ok(Next::After(LOOK_AGAIN))
    }

    /// The kinds that are limited and served. The server is asked only about what is not known yet.
    async fn kinds(&self, limited: &BTreeSet<(String, String)>) -> Result<Vec<Discovered>, ReconcileError> {
        let limits = |group: &str, plural: &str| limited.iter().any(|(own, name)| own == group && name == plural);
        let of = |kinds: &[Discovered]| -> Vec<Discovered> {
            let all = kinds.iter();
            all.filter(|kind| limits(&kind.resource.group, &kind.resource.plural)).cloned().collect()
        };
        let found = of(&self.known());
        if found.len() == limited.len() {
            return Ok(found);
        }
        let mut kinds = discovered::kinds(&self.client).await?;
        kinds.served.retain(|kind| kind.is_namespaced && kind.is_collectable);
        let found = of(&kinds.served);
        *self.known() = kinds.served;
        let is_found = |group: &str, plural: &str| {
            found.iter().any(|kind| kind.resource.group == group && kind.resource.plural == plural)
        };
        // Nothing is counted of what may be there.
        match limited.iter().find(|(group, plural)| kinds.silent.contains(group) && !is_found(group, plural)) {
            Some((group, plural)) => Err(ReconcileError::Waiting(format!("the server of {plural}.{group} to answer"))),
            None => Ok(found),
        }
    }

    fn known(&self) -> MutexGuard<'_, Vec<Discovered>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches deletions of a kind; of pods it is told anyway. A watch lives as long as the reconciler: which kinds are
    /// limited changes seldom.
    fn watch(&self, kind: &Discovered, queue: &Arc<Queue<Key>>) {
        let name = (kind.resource.group.clone(), kind.resource.plural.clone());
        if name == (String::new(), "pods".to_owned()) {
            return;
        }
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        match watches.get(&name) {
            Some((resource, _)) if *resource == kind.resource => return,
            // Served in another version now.
            Some((_, watch)) => watch.abort(),
            None => {}
        }
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(self.client.clone(), &kind.resource);
        let (queue, quotas, (group, plural)) = (Arc::clone(queue), Arc::clone(&self.quotas), name.clone());
        let task = tokio::spawn(async move {
            let mut stream = Box::pin(watcher(api, watcher::Config::default()).default_backoff());
            let mut lists = 0;
            while let Some(event) = stream.next().await {
                match event {
                    Ok(Event::Delete(object)) => {
                        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
                        wake_namespace(&queue, &quotas, namespace, &group, &plural);
                    }
                    // What was deleted while nobody watched is told by nothing else.
                    Ok(Event::InitDone) => {
                        lists += 1;
                        if lists > 1 {
                            quotas.all().iter().for_each(|quota| queue.add(Arc::clone(&quota.key)));
                        }
                    }
                    Ok(Event::Init | Event::InitApply(_) | Event::Apply(_)) => {}
                    Err(error) => tracing::debug!(plural, %error, "the watch is started again"),
                }
            }
        });
        watches.insert(name, (kind.resource.clone(), task.abort_handle()));
    }
}

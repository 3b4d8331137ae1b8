//! Watches the metadata of every kind and carries verdicts out. An owner counts as gone only after a live look.
use super::graph::{Graph, Object, Uid};
use super::kinds::Kinds;
use super::plan::{Owner, Verdict, verdict};
use crate::discovered;
use crate::error::{ReconcileError, at, code};
use crate::queue::{Next, Queue};
use api::well_known::{FINALIZER_FOREGROUND, FINALIZER_ORPHAN};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

const WORKERS: usize = 8;
/// How long a kind that cannot be listed may hold up the start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long definitions that come together are waited for.
const QUIET: Duration = Duration::from_millis(100);
const FIRST_RETRY: Duration = Duration::from_millis(20);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// What collects: the graph, and the kinds that it spans.
pub(super) struct Collector {
    client: kube::Client,
    kinds: Kinds,
    graph: Mutex<Graph>,
    queue: Arc<Queue<Uid>>,
}

/// Collects until dropped.
pub(crate) async fn start(client: kube::Client) {
    let found = discover(&client).await;
    let queue = Queue::new("garbage-collector");
    let kinds = Kinds::default();
    let collector = Arc::new(Collector { client, kinds, graph: Mutex::default(), queue: Arc::clone(&queue) });
    let mut watches = JoinSet::new();
    let (listed, mut all_listed) = tokio::sync::mpsc::channel::<()>(1);
    collector.take_over(found, &mut watches, &listed);
    drop(listed);
    // Ends when every watch has dropped its sender, that is, has listed.
    let _ = tokio::time::timeout(START_TIMEOUT, all_listed.recv()).await;
    for uid in collector.graph().candidates() {
        queue.add(uid);
    }
    let follower = Arc::clone(&collector);
    let work = move |uid: Uid| {
        let collector = Arc::clone(&collector);
        async move { collector.look(&uid).await }
    };
    tokio::join!(queue.work(WORKERS, work), follow(follower, watches));
}

/// Asks until the server answers.
async fn discover(client: &kube::Client) -> discovered::Kinds {
    let mut retry = FIRST_RETRY;
    loop {
        match discovered::kinds(client).await {
            Ok(found) => return found,
            Err(error) => {
                tracing::warn!(%error, "tried again");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(MAX_RETRY);
            }
        }
    }
}

/// Says when objects of a kind have changed, without saying how.
fn changes<K>(client: &kube::Client) -> BoxStream<'static, ()>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let api: Api<PartialObjectMeta<K>> = Api::all(client.clone());
    let events = watcher(api, watcher::Config::default()).default_backoff();
    let is_news = |event| matches!(event, Ok(Event::Apply(_) | Event::Delete(_) | Event::InitDone));
    events.filter_map(move |event| std::future::ready(is_news(event).then_some(()))).boxed()
}

/// Takes kinds in and lets them go as they are defined (custom resources), and as extension servers come and go.
async fn follow(collector: Arc<Collector>, mut watches: JoinSet<()>) {
    let definitions = changes::<CustomResourceDefinition>(&collector.client);
    let mut stream = futures::stream::select(definitions, changes::<APIService>(&collector.client));
    // Nobody waits for the first list of a kind that comes later.
    let (listed, _) = tokio::sync::mpsc::channel::<()>(1);
    loop {
        if stream.next().await.is_none() {
            return;
        }
        // Definitions come in groups; one look serves all that come at once.
        let quiet = tokio::time::sleep(QUIET);
        tokio::pin!(quiet);
        loop {
            tokio::select! {
                () = &mut quiet => break,
                event = stream.next() => if event.is_none() { return },
            }
        }
        let found = discover(&collector.client).await;
        collector.take_over(found, &mut watches, &listed);
    }
}

async fn watch(collector: Arc<Collector>, kind: usize, listed: tokio::sync::mpsc::Sender<()>) {
    let Some(known) = collector.kinds.get(kind) else { return };
    let resource = &known.resource;
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(collector.client.clone(), resource);
    let mut stream = Box::pin(watcher(api, watcher::Config::default()).default_backoff());
    let mut listed = Some(listed);
    let mut unseen: HashSet<Uid> = HashSet::new();
    while let Some(event) = stream.next().await {
        let look = match event {
            Ok(Event::Init) => {
                unseen = collector.graph().of_kind(kind);
                Vec::new()
            }
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                let uid: Uid = object.metadata.uid.as_deref().unwrap_or_default().into();
                unseen.remove(&uid);
                collector.graph().set(&uid, Object::new(kind, object.metadata))
            }
            Ok(Event::Delete(object)) => {
                collector.graph().remove(&object.metadata.uid.as_deref().unwrap_or_default().into())
            }
            Ok(Event::InitDone) => {
                listed = None;
                let mut graph = collector.graph();
                std::mem::take(&mut unseen).iter().flat_map(|uid| graph.remove(uid)).collect()
            }
            Err(error) => {
                tracing::debug!(plural = resource.plural, %error, "the watch is started again");
                Vec::new()
            }
        };
        for uid in look {
            collector.queue.add(uid);
        }
    }
    drop(listed);
}

impl Collector {
    /// Watches the kinds that are new, and forgets those that are gone with all their objects.
    fn take_over(
        self: &Arc<Self>,
        found: discovered::Kinds,
        watches: &mut JoinSet<()>,
        listed: &tokio::sync::mpsc::Sender<()>,
    ) {
        let change = self.kinds.change(found);
        for kind in change.gone {
            let objects = self.graph().of_kind(kind);
            for uid in objects {
                let look = self.graph().remove(&uid);
                look.into_iter().for_each(|uid| self.queue.add(uid));
            }
        }
        for kind in change.new {
            let handle = watches.spawn(watch(Arc::clone(self), kind, listed.clone()));
            self.kinds.watched(kind, handle);
        }
    }

    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn api(&self, kind: usize, namespace: Option<&str>) -> Option<Api<DynamicObject>> {
        let kind = self.kinds.get(kind)?;
        Some(match namespace.filter(|_| kind.is_namespaced) {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &kind.resource),
            None => Api::all_with(self.client.clone(), &kind.resource),
        })
    }

    async fn look(&self, uid: &Uid) -> Result<Next, ReconcileError> {
        let Some(object) = self.graph().get(uid).cloned() else { return Ok(Next::Wait) };
        let Some(api) = self.api(object.kind, object.namespace.as_deref()) else { return Ok(Next::Wait) };
        if object.is_deleting {
            if object.is_orphaning {
                self.orphan(&api, uid, &object).await?;
            } else if object.is_foreground {
                self.clear_dependents(&api, uid, &object).await?;
            }
            return Ok(Next::Wait);
        }
        let mut states = Vec::with_capacity(object.owners.len());
        for owner in &object.owners {
            states.push(self.owner_state(owner, object.namespace.as_deref()).await?);
        }
        let has_dependents = !self.graph().dependents(uid).is_empty();
        match verdict(&states, has_dependents) {
            Verdict::Keep => {}
            Verdict::Unlink => {
                let stale: HashSet<String> = object
                    .owners
                    .iter()
                    .zip(&states)
                    .filter(|(_, state)| **state != Owner::Solid)
                    .map(|(owner, _)| owner.uid.clone())
                    .collect();
                self.unlink(&api, uid, &object, &stale).await?;
            }
            Verdict::DeleteForeground => self.delete(&api, uid, &object, PropagationPolicy::Foreground).await?,
            Verdict::DeleteBackground => {
                // What the object itself asks for by a finalizer goes before.
                let policy = match (object.is_orphaning, object.is_foreground) {
                    (true, _) => PropagationPolicy::Orphan,
                    (false, true) => PropagationPolicy::Foreground,
                    (false, false) => PropagationPolicy::Background,
                };
                self.delete(&api, uid, &object, policy).await?;
            }
        }
        Ok(Next::Wait)
    }

    /// A live look at an owner.
    async fn owner_state(&self, owner: &OwnerReference, namespace: Option<&str>) -> Result<Owner, ReconcileError> {
        if let Some(known) = self.graph().get(&owner.uid) {
            // The graph may lag behind only in telling that an owner is gone, and then it will wake us.
            return Ok(if known.waits_for_dependents() { Owner::Waiting } else { Owner::Solid });
        }
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let found = self.kinds.position(group, &owner.kind);
        let Some(api) = found.and_then(|kind| self.api(kind, namespace)) else {
            // Nobody knows this kind: not a reason to delete anything.
            return Ok(Owner::Solid);
        };
        match api.get_metadata(&owner.name).await {
            Ok(found) if found.metadata.uid.as_deref() == Some(&owner.uid) => {
                let waits = Object::new(0, found.metadata).waits_for_dependents();
                Ok(if waits { Owner::Waiting } else { Owner::Solid })
            }
            Ok(_) => Ok(Owner::Absent),
            Err(error) if code(&error) == 404 => Ok(Owner::Absent),
            Err(error) => Err(at("looking for an owner")(error)),
        }
    }

    async fn delete(
        &self,
        api: &Api<DynamicObject>,
        uid: &Uid,
        object: &Object,
        policy: PropagationPolicy,
    ) -> Result<(), ReconcileError> {
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions { uid: Some(uid.to_string()), resource_version: None }),
            ..DeleteParams::default()
        };
        match api.delete(&object.name, &params).await {
            Ok(_) => tracing::debug!(object = &*object.name, uid = &**uid, "deleted: its owners are gone"),
            Err(error) if matches!(code(&error), 404 | 409) => {}
            Err(error) => return Err(at("deleting a dependent")(error)),
        }
        Ok(())
    }

    /// Takes references to these owners away.
    async fn unlink(
        &self,
        api: &Api<DynamicObject>,
        uid: &Uid,
        object: &Object,
        stale: &HashSet<String>,
    ) -> Result<(), ReconcileError> {
        let metadata = match api.get_metadata(&object.name).await {
            Ok(found) if found.metadata.uid.as_deref() == Some(uid) => found.metadata,
            Ok(_) => return Ok(()),
            Err(error) if code(&error) == 404 => return Ok(()),
            Err(error) => return Err(at("reading a dependent")(error)),
        };
        let mut owners = metadata.owner_references.unwrap_or_default();
        owners.retain(|owner| !stale.contains(&owner.uid));
        let patch = json!({"metadata": {
            "uid": **uid, "resourceVersion": metadata.resource_version, "ownerReferences": owners,
        }});
        self.patch(api, object, patch, "taking a reference away").await
    }

    /// Frees all dependents, then lets the object go.
    async fn orphan(&self, api: &Api<DynamicObject>, uid: &Uid, object: &Object) -> Result<(), ReconcileError> {
        let own = HashSet::from([uid.to_string()]);
        let dependents = self.graph().dependents(uid);
        for dependent in dependents {
            let Some(found) = self.graph().get(&dependent).cloned() else { continue };
            if let Some(api) = self.api(found.kind, found.namespace.as_deref()) {
                self.unlink(&api, &dependent, &found, &own).await?;
            }
        }
        self.remove_finalizer(api, uid, object, FINALIZER_ORPHAN).await
    }

    /// Deletes all dependents; when none is left that blocks, lets the object go.
    async fn clear_dependents(
        &self,
        api: &Api<DynamicObject>,
        uid: &Uid,
        object: &Object,
    ) -> Result<(), ReconcileError> {
        let dependents = self.graph().dependents(uid);
        let mut is_blocked = false;
        for dependent in dependents {
            let Some(found) = self.graph().get(&dependent).cloned() else { continue };
            let blocks = |owner: &OwnerReference| *owner.uid == **uid && owner.block_owner_deletion == Some(true);
            is_blocked |= found.owners.iter().any(blocks);
            if !found.is_deleting {
                self.queue.add(dependent);
            }
        }
        if is_blocked {
            return Ok(());
        }
        self.remove_finalizer(api, uid, object, FINALIZER_FOREGROUND).await
    }

    async fn remove_finalizer(
        &self,
        api: &Api<DynamicObject>,
        uid: &Uid,
        object: &Object,
        finalizer: &str,
    ) -> Result<(), ReconcileError> {
        let metadata = match api.get_metadata(&object.name).await {
            Ok(found) if found.metadata.uid.as_deref() == Some(uid) => found.metadata,
            Ok(_) => return Ok(()),
            Err(error) if code(&error) == 404 => return Ok(()),
            Err(error) => return Err(at("reading an owner")(error)),
        };
        let mut finalizers = metadata.finalizers.unwrap_or_default();
        finalizers.retain(|other| other != finalizer);
        let patch = json!({"metadata": {
            "uid": **uid, "resourceVersion": metadata.resource_version, "finalizers": finalizers,
        }});
        self.patch(api, object, patch, "removing a finalizer").await
    }

    async fn patch(
        &self,
        api: &Api<DynamicObject>,
        object: &Object,
        patch: serde_json::Value,
        step: &'static str,
    ) -> Result<(), ReconcileError> {
        match api.patch_metadata(&object.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(error) if code(&error) == 404 => Ok(()),
            Err(error) => Err(at(step)(error)),
        }
    }
}

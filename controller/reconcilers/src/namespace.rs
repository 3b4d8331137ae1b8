//! Namespaces that are being deleted: everything in them goes first, pods with their grace.
use crate::cache::{Cache, Key};
use crate::discovered::{self, Discovered};
use crate::error::{ReconcileError, at, code};
use crate::namespaced_default::NamespaceFacts;
use crate::pod::PodFacts;
use crate::queue::{Next, Queue};
use api::well_known::FINALIZER_KUBERNETES;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 4;
/// What no pod's end tells of (finalizers of others) is looked at again after this time.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Empties namespaces until dropped.
pub(crate) async fn start(client: kube::Client, namespaces: Arc<Cache<NamespaceFacts>>, pods: Arc<Cache<PodFacts>>) {
    let queue: Arc<Queue<Key>> = Queue::new("namespace");
    let wake = Arc::clone(&queue);
    namespaces.on_change(move |_, after| {
        if let Some(namespace) = after.filter(|namespace| !namespace.is_active) {
            wake.add(Arc::clone(&namespace.name));
        }
    });
    let (wake, known) = (Arc::clone(&queue), Arc::clone(&namespaces));
    pods.on_change(move |before, after| {
        if let (Some(pod), None) = (before, after)
            && let Some(namespace) = known.get(pod.namespace()).filter(|namespace| !namespace.is_active)
        {
            wake.add(Arc::clone(&namespace.name));
        }
    });
    namespaces.listed().await;
    for namespace in namespaces.all().into_iter().filter(|namespace| !namespace.is_active) {
        queue.add(Arc::clone(&namespace.name));
    }
    let work = move |name: Key| {
        let client = client.clone();
        async move { reconcile(client, &name).await }
    };
    queue.work(WORKERS, work).await;
}

async fn reconcile(client: kube::Client, name: &Key) -> Result<Next, ReconcileError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let Some(mut namespace) = namespaces.get_opt(name).await.map_err(at("reading the namespace"))? else {
        return Ok(Next::Wait);
    };
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
    if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER_KUBERNETES) {
        return Ok(Next::Wait);
    }
    let kinds = discovered::kinds(&client).await?;
    let is_pods = |kind: &&Discovered| kind.resource.group.is_empty() && kind.resource.plural == "pods";
    let (pods, others): (Vec<_>, Vec<_>) =
        kinds.served.iter().filter(|kind| kind.is_namespaced && kind.is_collectable).partition(is_pods);
    let mut remaining = Remaining { silent: kinds.silent, ..Remaining::default() };
    // Pods go first: what else is in the namespace may be what keeps them in bounds (KEP-5080).
    for kinds in [pods, others] {
        for kind in kinds {
            remaining.add(kind, empty(&client, name, kind).await?);
        }
        if !remaining.kinds.is_empty() {
            break;
        }
    }
    if !remaining.is_empty() {
        let conditions = remaining.conditions();
        let told = namespace.status.and_then(|status| status.conditions).unwrap_or_default();
        let is_told = conditions.iter().all(|new| {
            told.iter().any(|old| {
                old.type_ == new["type"]
                    && old.status == new["status"]
                    && old.message.as_deref() == new["message"].as_str()
            })
        });
        if !is_told {
            let patch = Patch::Strategic(json!({"status": {"conditions": conditions}}));
            match namespaces.patch_status(name, &PatchParams::default(), &patch).await {
                Ok(_) => {}
                Err(error) if matches!(code(&error), 404 | 409) => {}
                Err(error) => return Err(at("writing the conditions of the namespace")(error)),
            }
        }
        return Ok(Next::After(LOOK_AGAIN));
    }
    if let Some(spec) = &mut namespace.spec {
        spec.finalizers = Some(finalizers.into_iter().filter(|f| f != FINALIZER_KUBERNETES).collect());
    }
    match namespaces.replace_subresource("finalize", name, &PostParams::default(), &namespace).await {
        Ok(_) => Ok(Next::Wait),
        Err(error) if code(&error) == 404 => Ok(Next::Wait),
        Err(error) => Err(at("finalizing the namespace")(error)),
    }
}

/// What is still in a namespace.
#[derive(Default)]
struct Remaining {
    /// Kinds with the number of their objects.
    kinds: Vec<String>,
    /// Finalizers with the number of objects that have them.
    finalizers: BTreeMap<String, usize>,
    /// Groups that may have objects there, and do not answer.
    silent: BTreeSet<String>,
}

impl Remaining {
    fn add(&mut self, kind: &Discovered, left: Vec<Vec<String>>) {
        if left.is_empty() {
            return;
        }
        let group = if kind.resource.group.is_empty() { "" } else { "." };
        let name = format!("{}{group}{}", kind.resource.plural, kind.resource.group);
        self.kinds.push(format!("{name} has {} resource instances", left.len()));
        for finalizer in left.into_iter().flatten() {
            *self.finalizers.entry(finalizer).or_default() += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.kinds.is_empty() && self.silent.is_empty()
    }

    /// The conditions in the words of Kubernetes' namespace controller.
    fn conditions(&self) -> Vec<serde_json::Value> {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = |kind: &str, holds: bool, reason: &str, message: String| {
            let status = if holds { "True" } else { "False" };
            json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now})
        };
        let content = match self.kinds.is_empty() {
            true => condition(
                "NamespaceContentRemaining",
                false,
                "ContentRemoved",
                "All content successfully removed".to_owned(),
            ),
            false => condition(
                "NamespaceContentRemaining",
                true,
                "SomeResourcesRemain",
                format!("Some resources are remaining: {}", self.kinds.join(", ")),
            ),
        };
        let silent = self.silent.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let discovery = match self.silent.is_empty() {
            true => condition(
                "NamespaceDeletionDiscoveryFailure",
                false,
                "ResourcesDiscovered",
                "All resources successfully discovered".to_owned(),
            ),
            false => condition(
                "NamespaceDeletionDiscoveryFailure",
                true,
                "DiscoveryFailed",
                format!("Discovery failed for some groups, {} failing: {silent}", self.silent.len()),
            ),
        };
        let held =
            self.finalizers.iter().map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"));
        let held = held.collect::<Vec<_>>().join(", ");
        let finalizers = match self.finalizers.is_empty() {
            true => condition(
                "NamespaceFinalizersRemaining",
                false,
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished".to_owned(),
            ),
            false => condition(
                "NamespaceFinalizersRemaining",
                true,
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {held}"),
            ),
        };
        vec![
            content,
            finalizers,
            condition(
                "NamespaceDeletionContentFailure",
                false,
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization".to_owned(),
            ),
            discovery,
            condition(
                "NamespaceDeletionGroupVersionParsingFailure",
                false,
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed".to_owned(),
            ),
        ]
    }
}

/// Deletes the objects of one kind; gives the finalizers of each that is still there.
async fn empty(client: &kube::Client, namespace: &str, kind: &Discovered) -> Result<Vec<Vec<String>>, ReconcileError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource);
    let list = || async {
        match api.list_metadata(&ListParams::default()).await {
            Ok(list) => Ok(list.items),
            Err(error) if matches!(code(&error), 404 | 405) => Ok(Vec::new()),
            Err(error) => Err(at("listing what is left in the namespace")(error)),
        }
    };
    let there = list().await?;
    if there.is_empty() {
        return Ok(Vec::new());
    }
    if there.iter().any(|object| object.metadata.deletion_timestamp.is_none()) {
        if kind.has_delete_collection {
            let deleted = api.delete_collection(&DeleteParams::background(), &ListParams::default()).await;
            deleted.map_err(at("deleting the content of the namespace"))?;
        } else {
            for name in there.iter().filter_map(|object| object.metadata.name.as_deref()) {
                match api.delete(name, &DeleteParams::background()).await {
                    Ok(_) => {}
                    Err(error) if matches!(code(&error), 404 | 405 | 409) => {}
                    Err(error) => return Err(at("deleting the content of the namespace")(error)),
                }
            }
        }
    }
    let left = list().await?.into_iter();
    Ok(left.map(|object| object.metadata.finalizers.unwrap_or_default()).collect())
}

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
    let mut remaining = Vec::new();
    for kind in discovered::kinds(&client).await?.iter().filter(|kind| kind.is_namespaced && kind.is_collectable) {
        let left = empty(&client, name, kind).await?;
        if left > 0 {
            let group = if kind.resource.group.is_empty() { "" } else { "." };
            let name = format!("{}{group}{}", kind.resource.plural, kind.resource.group);
            remaining.push(format!("{name} has {left} resource instances"));
        }
    }
    let conditions = conditions(&remaining);
    let told = namespace.status.as_ref().and_then(|s| s.conditions.as_ref()).and_then(|conditions| {
        conditions.iter().find(|c| c.type_ == "NamespaceContentRemaining").and_then(|c| c.message.clone())
    });
    if !remaining.is_empty() {
        if told.as_deref() != conditions[0]["message"].as_str() {
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

/// Deletes the objects of one kind; gives the number of those that are still there.
async fn empty(client: &kube::Client, namespace: &str, kind: &Discovered) -> Result<usize, ReconcileError> {
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
        return Ok(0);
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
    Ok(list().await?.len())
}

fn conditions(remaining: &[String]) -> serde_json::Value {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let message = format!("Some resources are remaining: {}", remaining.join(", "));
    json!([
        {"type": "NamespaceContentRemaining", "status": "True", "reason": "SomeResourcesRemain",
         "message": message, "lastTransitionTime": now},
        {"type": "NamespaceDeletionContentFailure", "status": "False", "reason": "ContentDeleted",
         "message": "All content successfully deleted, may be waiting on finalization", "lastTransitionTime": now},
    ])
}

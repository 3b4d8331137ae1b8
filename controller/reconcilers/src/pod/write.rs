//! Writes pods for their controllers; what the server answers is in the cache before the controller looks again.
use super::PodFacts;
use crate::cache::{Cache, Key, key_of};
use crate::error::{ReconcileError, at, code};
use crate::parent::Parent;
use crate::queue::Queue;
use api::selector::Selector;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use std::sync::Arc;

/// Who writes pods of a kind.
pub(crate) struct PodWriter {
    pub(crate) client: kube::Client,
    pub(crate) pods: Arc<Cache<PodFacts>>,
}

impl PodWriter {
    fn api(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Wakes the controllers of a kind when pods of theirs change, and when one without a controller does that they could take.
    pub(crate) fn wake<S: kube::Resource + Send + Sync + 'static>(
        &self,
        queue: &Arc<Queue<Key>>,
        sets: &Arc<Cache<S>>,
        kind: &'static str,
        takes: fn(&S, &PodFacts) -> bool,
    ) {
        let (queue, sets) = (Arc::clone(queue), Arc::clone(sets));
        self.pods.on_change(move |before, after| {
            for pod in [before, after].into_iter().flatten() {
                match &pod.controller {
                    Some((own, name, _)) if **own == *kind => queue.add(format!("{}/{name}", pod.namespace()).into()),
                    Some(_) => {}
                    None => {
                        for set in sets.in_namespace(pod.namespace()).iter().filter(|set| takes(set, pod)) {
                            queue.add(key_of(set.meta()));
                        }
                    }
                }
            }
        });
    }

    /// The pods whose controller the parent is.
    pub(crate) fn of(&self, parent: &Parent<'_>) -> Vec<Arc<PodFacts>> {
        let all = self.pods.in_namespace(parent.namespace());
        all.into_iter().filter(|pod| pod.is_of(parent.uid())).collect()
    }

    /// Adopts pods without a controller that match and could be the parent's, and releases its own that match no more.
    /// `may_adopt` looks at the parent itself, once, and only if there is a pod to adopt.
    pub(crate) async fn claim(
        &self,
        parent: &Parent<'_>,
        selector: &Selector,
        is_member: impl Fn(&PodFacts) -> bool,
        may_adopt: impl Future<Output = Result<bool, ReconcileError>>,
    ) -> Result<(), ReconcileError> {
        if parent.is_deleting() {
            return Ok(());
        }
        let all = self.pods.in_namespace(parent.namespace());
        let matches = |pod: &PodFacts| selector.matches(&pod.labels) && is_member(pod);
        for pod in all.iter().filter(|pod| pod.is_of(parent.uid()) && !matches(pod)) {
            let owners = json!([{"$patch": "delete", "uid": parent.uid()}]);
            let patch = json!({"metadata": {"uid": &*pod.uid, "ownerReferences": owners}});
            self.patch(pod, patch, "releasing a pod").await?;
        }
        let is_free = |pod: &PodFacts| pod.controller.is_none() && !pod.is_deleting && matches(pod);
        let free: Vec<_> = all.iter().filter(|pod| is_free(pod)).collect();
        if free.is_empty() || !may_adopt.await? {
            return Ok(());
        }
        for pod in free {
            let patch = json!({"metadata": {"uid": &*pod.uid, "ownerReferences": [parent.owner_reference()]}});
            self.patch(pod, patch, "adopting a pod").await?;
        }
        Ok(())
    }

    /// Changes a pod if it is still the one that was seen.
    pub(crate) async fn patch(&self, pod: &PodFacts, patch: Value, step: &'static str) -> Result<(), ReconcileError> {
        let api = self.api(pod.namespace());
        match api.patch(pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(pod) => self.pods.put(&pod.metadata.clone(), PodFacts::new(pod)),
            // Gone, or another pod by now.
            Err(error) if matches!(code(&error), 404 | 409) => {}
            Err(error) => return Err(at(step)(error)),
        }
        Ok(())
    }

    /// Makes a pod; answers its name.
    pub(crate) async fn create(&self, namespace: &str, pod: &Pod) -> Result<String, kube::Error> {
        let pod = self.api(namespace).create(&PostParams::default(), pod).await?;
        let name = pod.metadata.name.clone().unwrap_or_default();
        self.pods.put(&pod.metadata.clone(), PodFacts::new(pod));
        Ok(name)
    }

    /// Reads a pod anew.
    pub(crate) async fn look(&self, namespace: &str, name: &str) -> Result<Option<PodFacts>, kube::Error> {
        let Some(pod) = self.api(namespace).get_opt(name).await? else { return Ok(None) };
        let (metadata, facts) = (pod.metadata.clone(), PodFacts::new(pod));
        self.pods.put(&metadata, facts.clone());
        Ok(Some(facts))
    }

    /// Deletes this very pod; tells whether it was still there.
    pub(crate) async fn delete(&self, pod: &PodFacts) -> Result<bool, kube::Error> {
        let only = Preconditions { uid: Some(pod.uid.to_string()), resource_version: None };
        let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
        let was_there = match self.api(pod.namespace()).delete(pod.name(), &params).await {
            Ok(answer) => {
                if let Some(pod) = answer.left() {
                    self.pods.put(&pod.metadata.clone(), PodFacts { is_deleting: true, ..PodFacts::new(pod) });
                }
                true
            }
            // Another pod by now, or one that others write to: the watch tells.
            Err(error) if code(&error) == 409 => return Ok(false),
            Err(error) if code(&error) == 404 => false,
            Err(error) => return Err(error),
        };
        // Until the watch tells that it is gone, it counts as going.
        if let Some(key) = &pod.key
            && self.pods.get(key).is_some_and(|known| known.uid == pod.uid && !known.is_deleting)
        {
            self.pods.pin(key, PodFacts { is_deleting: true, ..pod.clone() });
        }
        Ok(was_there)
    }
}

/// Does one, two, four ... at once until the first fails: if pods are refused, few requests are wasted.
pub(crate) async fn slowly<'a, T, E, F>(all: &'a [T], make: impl Fn(&'a T) -> F) -> Result<(), E>
where
    F: Future<Output = Result<(), E>>,
{
    let (mut left, mut batch) = (all, 1);
    while !left.is_empty() {
        let (now, later) = left.split_at(batch.min(left.len()));
        join_all(now.iter().map(&make)).await.into_iter().collect::<Result<(), E>>()?;
        (left, batch) = (later, batch * 2);
    }
    Ok(())
}

//! Deletes the objects of definitions that are being deleted, then lets the definitions go.

use bytes::Bytes;
use controller_store::model::{CommitError, Compare, KeyValue, Op, RangeRequest, Revision};
use controller_store::watch::Watcher;
use serde_json::Value;

use super::known::Known;
use super::{FINALIZER, GROUP, PLURAL};
use crate::registry::{Registry, bytes_of};

/// Objects that are deleted in one turn, which is one commit.
const BATCH: usize = 500;

/// What is left of a definition's objects after a turn.
enum Left {
    Nothing,
    /// Finalizers of others hold the rest, as it was at a revision.
    Held(Revision),
    /// The next turn goes on: definitions that come meanwhile must not wait for thousands of objects.
    More,
}

/// What there is to do after a turn.
#[derive(Default)]
pub(super) struct Rest {
    /// The next turn should follow at once.
    pub(super) goes_on: bool,
    /// Something went wrong: it is tried again a little later.
    pub(super) failed: bool,
    /// Say when objects that others hold have changed.
    pub(super) held: Vec<Watcher>,
}

/// Goes one turn with each definition that goes.
pub(super) async fn run(registry: &Registry, known: &mut Known) -> Rest {
    let mut rest = Rest::default();
    for (key, group, plural) in known.going() {
        let prefix = Bytes::from(format!("/registry/{group}/{plural}/"));
        let failed = match empty(registry, prefix.clone()).await {
            Ok(Left::Nothing) => {
                // Who sees that a definition is gone finds nothing of it served.
                known.withdraw(&key);
                known.serve(registry);
                let released = release(registry, &key).await;
                known.cleaned(&key, released.is_ok());
                released.err()
            }
            Ok(Left::Held(revision)) => {
                match registry.store.watch(prefix, revision) {
                    Ok(watcher) => rest.held.push(watcher),
                    // So much has changed since that it is looked at again.
                    Err(_) => rest.goes_on = true,
                }
                None
            }
            Ok(Left::More) => {
                rest.goes_on = true;
                None
            }
            Err(error) => Some(error),
        };
        match failed {
            None => {}
            // Whoever was faster wakes the task again.
            Some(CommitError::Conflict { .. }) => rest.goes_on = true,
            Some(error) => {
                rest.failed = true;
                tracing::warn!(definition = format!("{plural}.{group}"), %error, "it is deleted later");
            }
        }
    }
    rest
}

/// Deletes what no finalizer holds and marks the rest, as much as one turn may.
async fn empty(registry: &Registry, prefix: Bytes) -> Result<Left, CommitError> {
    let request = RangeRequest { prefix, ..RangeRequest::default() };
    // A read of the newest state cannot be refused.
    let Ok(page) = registry.store.range(&request) else { return Ok(Left::More) };
    let mut left = Left::Nothing;
    let mut steps = page.items.iter().filter_map(|kv| {
        let op = step(kv);
        if !matches!(op, Some(Op::Delete { .. })) {
            left = Left::Held(page.revision);
        }
        op.map(|op| (Compare::ModRevision(kv.key.clone(), kv.mod_revision), op))
    });
    let batch: (Vec<Compare>, Vec<Op>) = steps.by_ref().take(BATCH).unzip();
    let is_more = steps.next().is_some();
    if !batch.1.is_empty() {
        match registry.store.commit(&batch.0, batch.1).await {
            Ok(_) => {}
            Err(CommitError::Conflict { .. }) => return Ok(Left::More),
            Err(error) => return Err(error),
        }
    }
    Ok(if is_more { Left::More } else { left })
}

/// What is done with one object; `None` while a finalizer holds it.
fn step(kv: &KeyValue) -> Option<Op> {
    let mut object: Value = match serde_json::from_slice(&kv.value) {
        Ok(object) => object,
        // What cannot be read is held by nobody.
        Err(_) => return Some(Op::Delete { key: kv.key.clone() }),
    };
    let held = object["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty());
    if !held {
        return Some(Op::Delete { key: kv.key.clone() });
    }
    if object["metadata"].get("deletionTimestamp").is_some() {
        return None;
    }
    object["metadata"]["deletionTimestamp"] = crate::time::now().into();
    object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
    Some(Op::Put { key: kv.key.clone(), value: bytes_of(&object), ttl: None })
}

/// Takes our finalizer off a definition; without others it is gone.
async fn release(registry: &Registry, key: &Bytes) -> Result<(), CommitError> {
    let Some(resource) = registry.builtin().find(GROUP, "v1", PLURAL) else { return Ok(()) };
    let Some(kv) = registry.store.get(key) else { return Ok(()) };
    let Ok(mut object) = crate::registry::to_value(resource, &kv, kv.mod_revision) else { return Ok(()) };
    let finalizers = object["metadata"]["finalizers"].as_array_mut();
    let is_free = finalizers.is_none_or(|finalizers| {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        finalizers.is_empty()
    });
    let op = match is_free {
        true => Op::Delete { key: key.clone() },
        false => Op::Put { key: key.clone(), value: bytes_of(&object), ttl: None },
    };
    registry.store.commit(&[Compare::ModRevision(key.clone(), kv.mod_revision)], vec![op]).await.map(drop)
}

//! Deletes the objects of definitions that are being deleted, then lets the definitions go.

use bytes::Bytes;
use controller_store::model::{CommitError, Compare, KeyValue, Op, RangeRequest};
use serde_json::Value;

use super::known::Known;
use super::{FINALIZER, GROUP, PLURAL};
use crate::registry::{Registry, bytes_of};

/// Objects that are deleted in one turn, which is one commit.
const BATCH: usize = 500;

/// What is left of a definition's objects after a turn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// Finalizers of others hold the rest.
    Held,
    /// The next turn goes on: definitions that come meanwhile must not wait for thousands of objects.
    More,
}

/// Goes one turn with each definition that goes; says whether the next should follow at once.
pub(super) async fn run(registry: &Registry, known: &mut Known) -> bool {
    let mut goes_on = false;
    for (key, group, plural) in known.going() {
        match empty(registry, &group, &plural).await {
            Ok(Left::Nothing) => {
                // Who sees that a definition is gone finds nothing of it served.
                known.withdraw(&key);
                known.serve(registry);
                known.cleaned(&key, release(registry, &key).await.is_ok());
            }
            Ok(left) => goes_on |= left == Left::More,
            Err(error) => {
                tracing::warn!(definition = format!("{plural}.{group}"), %error, "its objects are deleted later");
            }
        }
    }
    goes_on
}

/// Deletes what no finalizer holds and marks the rest, as much as one turn may.
async fn empty(registry: &Registry, group: &str, plural: &str) -> Result<Left, CommitError> {
    let request = RangeRequest { prefix: format!("/registry/{group}/{plural}/").into(), ..RangeRequest::default() };
    // A read of the newest state cannot be refused.
    let Ok(page) = registry.store.range(&request) else { return Ok(Left::Held) };
    let mut left = Left::Nothing;
    let mut steps = page.items.iter().filter_map(|kv| {
        let op = step(kv);
        if !matches!(op, Some(Op::Delete { .. })) {
            left = Left::Held;
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
    Some(Op::Put { key: kv.key.clone(), value: bytes_of(object), ttl: None })
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
        false => Op::Put { key: key.clone(), value: bytes_of(object), ttl: None },
    };
    registry.store.commit(&[Compare::ModRevision(key.clone(), kv.mod_revision)], vec![op]).await.map(drop)
}

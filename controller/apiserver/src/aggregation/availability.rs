//! Whether extension servers answer, as the condition `Available` of their APIServices. Asked while there are any.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use controller_store::model::CommitError;
use futures::future::join_all;
use serde_json::{Value, json};

use super::{Extension, PREFIX, resources};
use crate::registry::Current;
use crate::server::State;

/// How long an extension server may take to tell what it serves.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How often they are asked.
const EVERY: Duration = Duration::from_secs(10);

/// Asks and tells until the server stops. At rest while nobody is registered.
pub(crate) async fn keep_told(state: Arc<State>) {
    let prefix = Bytes::from_static(PREFIX.as_bytes());
    while !state.shutdown.is_cancelled() {
        let watch = state.registry.store.watch(prefix.clone(), state.registry.store.revision());
        let extensions = state.aggregation.extensions.now();
        join_all(extensions.values().map(|extension| tell(&state, extension))).await;
        let again = async {
            match extensions.is_empty() {
                true => std::future::pending().await,
                false => tokio::time::sleep(EVERY).await,
            }
        };
        let changed = async {
            let Ok(mut watcher) = watch else { return };
            // What is told here changes the objects, too; only others call for another round before its time.
            while watcher.next_batch().await.is_ok() && state.aggregation.extensions.now() == extensions {}
        };
        tokio::select! {
            () = changed => {}
            () = again => {}
            () = state.shutdown.cancelled() => return,
        }
    }
}

async fn tell(state: &State, extension: &Extension) {
    let found = resources(state, extension).await;
    let (status, reason, message) = match &found {
        Ok(_) => ("True", "Passed", "all checks passed".to_owned()),
        Err(problem) if problem.contains("not found") && problem.contains("service") => {
            ("False", "ServiceNotFound", problem.clone())
        }
        Err(problem) if problem.contains("no endpoints available") => ("False", "MissingEndpoints", problem.clone()),
        Err(problem) => ("False", "FailedDiscoveryCheck", format!("failing or missing response: {problem}")),
    };
    let table = state.registry.builtin();
    let Some(resource) = table.find("apiregistration.k8s.io", "v1", "apiservices") else { return };
    let Ok(Current { mut object, revision }) = state.registry.current(resource, None, &extension.name) else { return };
    let known = object["status"]["conditions"][0].clone();
    if known["status"] == status && known["reason"] == reason && known["message"] == message {
        return;
    }
    let since = match known["status"] == status {
        true => known["lastTransitionTime"].clone(),
        false => Value::from(crate::time::now()),
    };
    object["status"] = json!({"conditions": [{"type": "Available", "status": status, "reason": reason,
        "message": message, "lastTransitionTime": since}]});
    match state.registry.put(resource, &object, Some(revision), crate::admit::Charge::default()).await {
        // Somebody else wrote: the next round sees it.
        Ok(_) | Err(CommitError::Conflict { .. }) => {}
        Err(error) => {
            tracing::warn!(object = extension.name, error = api::causes::chain(&error), "telling availability")
        }
    }
}

//! Whether a volume is attached to this node: somebody outside does that, and says so in a VolumeAttachment.

use std::collections::HashMap;
use std::time::Duration;

use agent_pod::protocol::Failure;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::Api;
use kube::runtime::wait::{Condition, await_condition};

use crate::execute::Executor;
use crate::execute::volume::{fail, said};

/// How long it is waited for before the pod is told that it waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the one who attached the volume tells the driver; waits a while.
pub(super) async fn context(
    executor: &Executor,
    driver: &str,
    handle: &str,
) -> Result<HashMap<String, String>, Failure> {
    let name = api::volume::attachment_name(handle, driver, &executor.host.config.node_name);
    let api: Api<VolumeAttachment> = Api::all(executor.host.client.clone());
    let held = tokio::time::timeout(PATIENCE, await_condition(api.clone(), &name, is_settled())).await;
    let status = match held {
        Ok(held) => held.map_err(fail)?.and_then(|held| held.status),
        Err(_) => api.get_opt(&name).await.map_err(fail)?.and_then(|held| held.status),
    };
    match status {
        Some(status) if status.attached => Ok(status.attachment_metadata.unwrap_or_default().into_iter().collect()),
        Some(status) => {
            let why = status.attach_error.and_then(|error| error.message);
            let why = why.map_or_else(|| "not yet".to_owned(), |why| format!("AttachVolume.Attach failed: {why}"));
            Err(said(format!(
                "waiting for driver {driver} to attach volume {handle:?} (VolumeAttachment {name}): {why}"
            )))
        }
        None => Err(said(format!("waiting for VolumeAttachment {name} of driver {driver} and volume {handle:?}"))),
    }
}

/// Attached, or told why not.
fn is_settled() -> impl Condition<VolumeAttachment> {
    |held: Option<&VolumeAttachment>| {
        let status = held.and_then(|held| held.status.as_ref());
        status.is_some_and(|status| status.attached || status.attach_error.is_some())
    }
}

//! The first phase: whoever may change the object.

use controller_object::status::Status;
use serde_json::Value;

use super::attributes::Attributes;
use super::reinvocation::Reinvocation;
use super::{plugin, policy, webhook};

/// Runs everybody who may change the object, twice where somebody after them did. Says whether anything outside this
/// server changed it. `object` is absent where nothing is written: deletions.
pub(crate) async fn mutate(attributes: &Attributes<'_>, mut object: Option<&mut Value>) -> Result<bool, Status> {
    let metrics = &attributes.state.metrics;
    let (mut by_policies, mut by_webhooks) = (Reinvocation::default(), Reinvocation::default());
    let mut changed = false;
    for again in [false, true] {
        plugin::mutate(attributes, object.as_deref_mut())?;
        let mutated = match object.as_deref_mut() {
            Some(object) => policy::mutate(attributes, object, &mut by_policies, again).await,
            None => Ok(false),
        };
        let by_policy = mutated.inspect_err(|_| metrics.refused("MutatingAdmissionPolicy"))?;
        let mutated = webhook::mutate(attributes, object.as_deref_mut(), &mut by_webhooks, again).await;
        let by_webhook = mutated.inspect_err(|_| metrics.refused("MutatingAdmissionWebhook"))?;
        changed |= by_policy || by_webhook;
        if !by_policy && !by_webhook {
            break;
        }
    }
    Ok(changed)
}

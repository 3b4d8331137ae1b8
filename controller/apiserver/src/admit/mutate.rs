//! The first phase: whoever may change the object.

use controller_object::status::Status;
use serde_json::Value;

use super::attributes::Attributes;
use super::plugin;
use super::webhook::{self, Invoked};

/// Runs everybody who may change the object, twice where somebody after them did. Says whether anything outside this
/// server changed it. `object` is absent where nothing is written: deletions.
pub(crate) async fn mutate(attributes: &Attributes<'_>, mut object: Option<&mut Value>) -> Result<bool, Status> {
    let metrics = &attributes.state.metrics;
    let mut invoked = Invoked::default();
    let mut changed = false;
    for again in [false, true] {
        plugin::mutate(attributes, object.as_deref_mut())?;
        let mutated = webhook::mutate(attributes, object.as_deref_mut(), &mut invoked, again).await;
        let mutated = mutated.inspect_err(|_| metrics.refused("MutatingAdmissionWebhook"))?;
        changed |= mutated;
        if !mutated {
            break;
        }
    }
    Ok(changed)
}

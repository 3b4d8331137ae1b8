//! The second phase: whoever judges the object as it will be stored.

use controller_object::status::Status;
use serde_json::Value;

use super::attributes::Attributes;
use super::{plugin, webhook};

/// Asks everybody who may refuse. `object` is absent where nothing is written: deletions.
pub(crate) async fn validate(attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
    let metrics = &attributes.state.metrics;
    plugin::validate(attributes, object)?;
    webhook::validate(attributes, object).await.inspect_err(|_| metrics.refused("ValidatingAdmissionWebhook"))
}

//! The second phase: whoever judges the object as it will be stored.

use controller_object::status::Status;
use serde_json::Value;

use super::attributes::Attributes;
use super::quota::{self, Charge};
use super::{plugin, policy, webhook};

/// Asks everybody who may refuse. The charge goes with the commit that stores the object. `object` is absent where nothing is written: deletions.
pub(crate) async fn validate(attributes: &Attributes<'_>, object: Option<&Value>) -> Result<Charge, Status> {
    let metrics = &attributes.state.metrics;
    plugin::validate(attributes, object)?;
    policy::validate(attributes, object).await.inspect_err(|_| metrics.refused("ValidatingAdmissionPolicy"))?;
    webhook::validate(attributes, object).await.inspect_err(|_| metrics.refused("ValidatingAdmissionWebhook"))?;
    let Some(object) = object else { return Ok(Charge::default()) };
    quota::charge(attributes, object).await.inspect_err(|_| metrics.refused("ResourceQuota"))
}

//! Step 3e: admission. Mutating plugins first, in order; each is one file.

mod namespace;
mod node_restriction;
mod pod_priority;
mod rbac_escalation;
mod service_account;
mod tolerations;

use controller_object::resource::{Resource, Subresource};
use controller_object::status::Status;
use serde_json::Value;

use crate::authn::User;
use crate::authz::Authorizer;
use crate::registry::Registry;

/// What is about to happen to an object.
pub(crate) struct Admission<'a> {
    pub(crate) user: &'a User,
    pub(crate) resource: &'a Resource,
    pub(crate) subresource: Option<Subresource>,
    /// The object before; `None` for a creation.
    pub(crate) old: Option<&'a Value>,
}

impl Admission<'_> {
    fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.group == group && self.resource.plural == plural
    }

    fn creates(&self, group: &str, plural: &str) -> bool {
        self.old.is_none() && self.subresource.is_none() && self.is(group, plural)
    }
}

/// Runs every plugin over a new or changed object.
pub(crate) fn admit(
    registry: &Registry,
    authorizer: &Authorizer,
    admission: &Admission<'_>,
    object: &mut Value,
) -> Result<(), Status> {
    namespace::admit(registry, admission, object)?;
    service_account::admit(registry, admission, object)?;
    pod_priority::admit(registry, admission, object)?;
    tolerations::admit(admission, object);
    node_restriction::admit(registry, admission, object)?;
    rbac_escalation::admit(authorizer, admission, object)
}

/// The refusals that deletions can meet.
pub(crate) fn admit_deletion(admission: &Admission<'_>, name: &str) -> Result<(), Status> {
    namespace::admit_deletion(admission, name)
}

/// Five characters without vowels, as generated names end.
pub(crate) fn random_suffix() -> String {
    api::name::safe_suffix(rand::random(), 5)
}

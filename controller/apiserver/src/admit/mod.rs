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
use crate::server::State;

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
pub(crate) fn admit(state: &State, admission: &Admission<'_>, object: &mut Value) -> Result<(), Status> {
    let registry = &state.registry;
    let counted = |plugin, result: Result<(), Status>| result.inspect_err(|_| state.metrics.refused(plugin));
    counted("NamespaceLifecycle", namespace::admit(registry, admission, object))?;
    counted("ServiceAccount", service_account::admit(registry, admission, object))?;
    counted("Priority", pod_priority::admit(registry, admission, object))?;
    tolerations::admit(admission, object);
    counted("NodeRestriction", node_restriction::admit(registry, admission, object))?;
    counted("RBACEscalation", rbac_escalation::admit(&state.authorizer, admission, object))
}

/// The refusals that deletions can meet.
pub(crate) fn admit_deletion(admission: &Admission<'_>, name: &str) -> Result<(), Status> {
    namespace::admit_deletion(admission, name)
}

/// Five characters without vowels, as generated names end.
pub(crate) fn random_suffix() -> String {
    api::name::safe_suffix(rand::random(), 5)
}

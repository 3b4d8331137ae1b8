//! Step 3e: admission, in the two phases of Kubernetes. What may still change an object runs first: built-in plugins,
//! then policies, then webhooks, and once more what asked for that if somebody after it changed the object. Between the
//! phases the object is given its structure and its defaults again, and validated. Then come those that only judge:
//! plugins, policies, webhooks, and the quota last, which charges in the very commit that stores the object.
//! Kubernetes documentation, "Admission Control in Kubernetes".

mod attributes;
mod expression;
mod matching;
mod mutate;
mod plugin;
mod policy;
mod quota;
mod reinvocation;
mod validate;
mod version;
mod warning;
mod webhook;

pub(crate) use attributes::{Attributes, Operation, user_info};
pub(crate) use mutate::mutate;
pub(crate) use policy::Policies;
pub(crate) use quota::{Charge, Turns, first_status, is_quota};
pub(crate) use validate::validate;
pub(crate) use warning::{Annotations, Warnings};
pub(crate) use webhook::Hooks;

/// Five characters without vowels, as generated names end.
pub(crate) fn random_suffix() -> String {
    api::name::safe_suffix(rand::random(), 5)
}

//! Admission webhooks: MutatingAdmissionWebhook in order, ValidatingAdmissionWebhook all at once.

mod dispatch;
mod hook;
mod review;

pub(super) use dispatch::{mutate, validate};
pub(crate) use hook::Hooks;

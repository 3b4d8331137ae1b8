//! Admission policies: MutatingAdmissionPolicy and ValidatingAdmissionPolicy, with their bindings and parameters.
//! What their expressions mean is `controller_object::policy`'s to say.

mod binding;
mod mutate;
mod params;
mod validate;

pub(crate) use binding::Policies;
pub(super) use mutate::mutate;
pub(super) use validate::validate;

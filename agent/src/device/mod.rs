//! Devices of others: plugins register here, tell what devices this machine has and in what health, and say what a container
//! needs to use one. Kubernetes documentation, "Device Plugins"; the protocol is the kubelet's `deviceplugin/v1beta1`.
//! Start reading at `register`, then `allocate`.

mod allocate;
mod book;
mod hint;
mod message;
mod plugin;
mod register;

pub(crate) use allocate::{Given, Of, forget, give, hints, hints_of_pod, hold};
pub(crate) use plugin::{Amount, Devices};
pub(crate) use register::{bind, run};

/// Whether a resource can be a plugin's: one with a domain that is not Kubernetes' own.
pub(crate) fn is_extended(resource: &str) -> bool {
    resource.split_once('/').is_some_and(|(domain, _)| !domain.ends_with("kubernetes.io"))
}

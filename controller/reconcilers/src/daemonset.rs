//! DaemonSets: a pod on every node that is fit for it.
mod apply;
mod backoff;
mod place;
mod plan;
mod rollout;
#[cfg(test)]
mod simulation;
mod status;

pub(crate) use apply::{Reconciler, start};

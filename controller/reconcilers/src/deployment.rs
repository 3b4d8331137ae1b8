//! Deployments: ReplicaSets by revision, and the way from one to the next.
mod apply;
mod bounds;
mod conditions;
mod hash;
mod plan;
mod revision;
mod rollout;
mod scaling;
#[cfg(test)]
mod simulation;

pub(crate) use apply::{Reconciler, start};

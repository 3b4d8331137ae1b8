//! ReplicaSets: as many pods as asked for.
mod apply;
pub(crate) mod plan;

pub(crate) use apply::{Reconciler, start};

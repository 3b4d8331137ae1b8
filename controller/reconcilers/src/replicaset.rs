//! ReplicaSets and ReplicationControllers: as many pods as asked for.
mod apply;
mod flavor;
pub(crate) mod plan;

pub(crate) use apply::{Reconciler, start};
pub(crate) use flavor::{Flavor, of_controller};

//! PodDisruptionBudgets: their status tells how many of their pods may be away. Evictions are measured anew by the API
//! server, by the same rule (`api::disruption`).
mod apply;
mod plan;

pub(crate) use apply::{Reconciler, start};

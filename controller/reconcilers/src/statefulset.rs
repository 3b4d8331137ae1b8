//! StatefulSets: pods with a name, an order and claims of their own.
mod apply;
mod claims;
mod identity;
mod plan;
mod retention;
#[cfg(test)]
mod simulation;
mod status;

pub(crate) use apply::{Reconciler, start};

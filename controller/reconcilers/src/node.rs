//! Nodes: each gets its part of the cluster's addresses, and those that stop reporting are found out.
mod apply;
mod plan;
mod ranges;

pub(crate) use apply::{LeaseFacts, NodeFacts, Reconciler, start};
pub(crate) use ranges::Ranges;

//! Taints of devices: pods that do not tolerate one of a device that they use leave, and rules say how far that is.
//! Kubernetes documentation, "Dynamic Resource Allocation", device taints and tolerations. Start reading at `plan`.
mod apply;
mod facts;
mod plan;

pub(crate) use apply::{Reconciler, start};
pub(crate) use facts::{RuleFacts, SliceFacts};

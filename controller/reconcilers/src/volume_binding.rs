//! Claims get volumes, volumes whose claim is gone are reclaimed, and directories on nodes are made into volumes on
//! demand. Kubernetes documentation, "Persistent Volumes"; words and order of steps as its volume controller has them.
mod apply;
mod local_path;
mod plan;

pub(crate) use apply::{Reconciler, start};

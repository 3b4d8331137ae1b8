//! Pods that nobody can end any more: their node's object is gone, or there are too many that ended. What the
//! `pod-garbage-collector` of Kubernetes does.
mod apply;
mod plan;

pub(crate) use apply::{Reconciler, start};

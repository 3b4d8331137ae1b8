//! HorizontalPodAutoscalers: every 15 seconds each measures its pods, or something else, and scales what it is for.
//!
//! `measure` and `target` ask, `plan` decides (`replicas` says how many a metric wants, `pace` how fast it may go),
//! `apply` scales and tells. The rules are those of kube-controller-manager (Kubernetes documentation, "Horizontal Pod
//! Autoscaling"; facts from its `horizontal.go` and `replica_calculator.go`).
mod apply;
mod conditions;
mod facts;
mod measure;
mod pace;
#[cfg(test)]
mod pace_tests;
mod plan;
#[cfg(test)]
mod plan_tests;
mod replicas;
#[cfg(test)]
mod replicas_tests;
mod rivals;
mod source;
mod target;

pub(crate) use apply::{Reconciler, start};
pub(crate) use facts::LoadFacts;

//! CronJobs: Jobs by the clock. Each is looked at when its next time has come, and when it or one of its Jobs changes.
mod apply;
mod plan;
#[cfg(test)]
mod simulation;
mod template;

pub(crate) use apply::{Reconciler, start};

//! Jobs: pods that run to their end, each counted exactly once.
//!
//! A pod carries a finalizer until the Job's status has it: its uid goes into `uncountedTerminatedPods`, then the
//! finalizer goes, then the uid becomes a number. Each step leaves a state from which the next one follows, so that it
//! does not matter where a process ends. Start reading at `plan`.
mod apply;
mod backoff;
mod conditions;
mod end;
mod facts;
mod finished;
mod plan;
mod policy;
#[cfg(test)]
mod simulation;
mod tally;
mod template;

pub(crate) use apply::{Reconciler, start};
pub(crate) use conditions::{finish_of, is_finished};
pub(crate) use facts::RunFacts;
pub(crate) use finished::start as delete_finished;

//! Rollouts of workloads: how far one is, and which revisions there were.
//! `progress` is pure; `revisions` reads the objects that keep old templates.

pub(crate) mod progress;
pub(crate) mod revisions;

//! One reconciler per kind: observe -> plan (pure) -> apply (idempotent), woken by watches and timers only.
//! Never reads a store, never schedules a pod, never sleeps for a fixed time at rest.
//! Start reading at `run`, then `queue` and `cache`.
mod abandoned;
mod adoption;
mod aggregation;
mod attachment;
mod autoscale;
mod cache;
mod certificate;
mod claim;
mod clock;
mod cronjob;
mod csi;
mod daemonset;
mod deployment;
mod device_taint;
mod discovered;
mod disruption;
mod endpoints;
mod ephemeral_volume;
mod error;
mod garbage;
mod history;
mod job;
mod manifests;
pub mod metrics;
mod namespace;
mod namespaced_default;
mod node;
mod parent;
mod pod;
mod protection;
mod queue;
mod quota;
mod record;
mod replicaset;
mod resource_claim;
mod run;
mod share;
mod statefulset;
mod volume_binding;
mod whole;

pub use run::{Config, run};

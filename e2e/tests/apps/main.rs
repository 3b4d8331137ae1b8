//! What workloads do, line by line of Kubernetes' conformance tests (release 1.37) and beyond them. One shared server, a
//! namespace per test. A test's name begins with the numbers of the lines that it covers; `hack/conformance` counts.

mod autoscale;
mod batch;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod gang;
mod hollow;
mod identity;
mod job;
mod profile;
mod replicaset;
mod revision;
mod rollout;
mod scene;
mod scheduling;
mod statefulset;

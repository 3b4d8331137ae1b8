//! Claims to devices: made for pods from templates, kept while pods use them, freed when nobody does any more.
//! Kubernetes documentation, "Dynamic Resource Allocation". Start reading at `plan`.
mod apply;
mod plan;

pub(crate) use apply::{DeviceClaimFacts, Given, Reconciler, start};

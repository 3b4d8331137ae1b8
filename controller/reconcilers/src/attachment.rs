//! Which volume of a driver is to be attached to which node: a VolumeAttachment says so, and the driver's attacher does it.
//! Kubernetes documentation, "Persistent Volumes", and API reference, VolumeAttachment.
mod apply;
mod plan;

pub(crate) use apply::{AttachmentFacts, DriverFacts, Reconciler, start};

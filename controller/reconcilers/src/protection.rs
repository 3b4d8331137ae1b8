//! Claims, volumes and groups of pods that are being deleted stay until nobody uses them: then the finalizer goes that
//! admission gave them. Kubernetes documentation, "Storage Object in Use Protection" and "PodGroup Lifecycle".
mod apply;
mod plan;

pub(crate) use apply::{GroupFacts, VolumeFacts, claims, groups, is_waiting, volumes};

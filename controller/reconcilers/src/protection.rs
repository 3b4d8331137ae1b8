//! Claims and volumes that are being deleted stay until nobody uses them: then the finalizer goes that admission gave
//! them. Kubernetes documentation, "Storage Object in Use Protection".
mod apply;
mod plan;

pub(crate) use apply::{VolumeFacts, claims, is_waiting, volumes};

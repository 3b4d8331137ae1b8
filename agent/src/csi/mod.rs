//! Storage of others: drivers of the Container Storage Interface, which register here, are told to bring volumes to this
//! node and to pods, and to take them away again. Kubernetes documentation, "Volumes", csi; the protocol is csi.proto 1.11.
//! Start reading at `registry`, then `volume`.

mod attached;
mod expand;
mod registry;
mod request;
mod teardown;
mod volume;

pub(crate) use expand::follow;
pub(crate) use registry::{Drivers, recall, run};
pub(crate) use teardown::{has_any, tear_down};
pub(crate) use volume::{Source, set_up};

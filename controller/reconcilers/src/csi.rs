//! Drivers of storage whose controller service the server calls itself, without sidecars: volumes are made, attached, made
//! larger and removed. Opt-in by driver: `gantry server --csi-controller DRIVER=SOCKET`. Facts, words and order of steps as
//! the external provisioner, attacher and resizer have them; csi.proto 1.11. Start reading at `apply`; all else but `driver`
//! is pure.
mod ability;
mod apply;
mod attach;
mod capacity;
mod driver;
mod error;
mod node;
mod parameter;
mod provision;
mod reclaim;
mod resize;
mod topology;

pub(crate) use apply::{Reconciler, start};
pub(crate) use driver::Driver;
pub(crate) use node::CsiNodeFacts;

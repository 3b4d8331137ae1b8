//! What the node does when it runs out of something: it says so, frees what nobody needs, then evicts one pod after the
//! other. Kubernetes documentation, "Node-pressure Eviction". Start reading at `watch`.

mod rank;
mod threshold;
mod watch;

pub(crate) use threshold::Met;
pub use threshold::{Limits, Soft};
pub(crate) use watch::run;

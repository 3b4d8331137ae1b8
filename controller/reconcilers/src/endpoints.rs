//! What stands behind Services: EndpointSlices of what they select, of hand-made Endpoints and of the nodes' name servers,
//! and the classic Endpoints.
mod apply;
mod facts;
mod plan;

pub(crate) use apply::{Reconciler, start};
pub(crate) use facts::{BackendFacts, EndpointsFacts, ServiceFacts, SliceFacts};

//! Certificate requests of nodes: those that join and those that renew are answered without a person. The controllers
//! csrapproving and csrcleaner of Kubernetes; certificates are signed by the API server with the approval.
mod apply;
mod plan;

pub(crate) use apply::start;

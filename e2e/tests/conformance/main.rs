//! Behaviour that Kubernetes' conformance tests (release 1.37) rely on, checked over the wire on one shared server, a
//! namespace each. A test's name begins with the numbers of the lines that it covers (`e2e/data/owners` lists them);
//! `hack/conformance` counts.

mod auth;
mod collections;
mod discovery;
mod garbage;
mod kubectl;
mod namespaces;
mod operations;
mod proxy;
mod server;
mod validation;
mod watches;

//! What pods see of their volumes, and the life of claims and volumes: one server with a node for all tests, a namespace
//! each. A test's name begins with the numbers of the conformance lines that it covers (`e2e/data/owners` lists them);
//! `hack/conformance` counts.

mod claims;
mod content;
mod directory;
mod identity;
mod live;
mod scene;

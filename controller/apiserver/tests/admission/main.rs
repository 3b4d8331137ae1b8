//! Admission as clients and webhooks meet it: one server in this process, webhooks behind real TLS.
//! Functions carry the numbers of the conformance lines whose behaviour they check.

mod custom;
mod hook;
mod plugin;
mod policy;
mod quota;
#[path = "../server/mod.rs"]
mod server;
mod verb;
mod webhook;

//! HTTP to objects to store; the only writer of the store.
//! Never knows scheduler or reconcilers.
//! Start reading at `chain`.

mod admit;
mod aggregation;
pub mod audit;
pub mod authn;
mod authz;
pub mod backup;
mod bootstrap;
mod chain;
pub mod config_file;
mod custom;
mod deadline;
mod default_class;
mod documents;
pub mod encryption;
mod flow;
mod followed;
mod forward;
mod handle;
mod health;
mod impersonation;
mod metrics;
mod node_proxy;
mod nonresource;
pub mod pki;
pub mod profile;
mod query;
mod registry;
mod renewal;
mod reply;
mod review;
mod route;
pub mod server;
pub mod service;
mod signer;
mod sketch;
mod time;
pub mod tls;
mod token;
pub mod topic;
mod webhook;

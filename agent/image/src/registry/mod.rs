//! Images from registries, over the distribution protocol (OCI distribution spec; Docker Registry HTTP API V2).
//!
//! `config` reads registries.yaml, `endpoint` turns a reference into places to ask, `session` asks one of them, `download`
//! brings one blob onto the disk, `pull` brings a whole image into the store.

pub mod config;
pub mod credential;
pub mod pull;

mod body;
mod challenge;
mod download;
mod endpoint;
mod error;
mod fetch;
mod keyring;
mod retry;
mod session;
mod transport;
pub mod trust;

pub use error::{PullError, RegistryError, RequestError};
pub use keyring::{Keyring, KeyringError};

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod hostile_tests;

//! Calls to webhooks: HTTPS servers that admission and the conversion of custom resources ask.
//! A webhook is named by `url`, or by `service`, which is resolved here to a ready endpoint.
//! Kubernetes documentation, "Dynamic Admission Control".

mod client;
mod dial;

pub(crate) use client::{Client, ClientConfig};
pub(crate) use dial::endpoint;

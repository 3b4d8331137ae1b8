//! Messages of the kubelet's `dra/v1/api.proto`, with its field numbers; `dra/v1beta1` has the same.

use std::collections::HashMap;

use prost::Message;

/// `Claim`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Claim {
    #[prost(string, tag = "1")]
    pub(crate) namespace: String,
    #[prost(string, tag = "2")]
    pub(crate) uid: String,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
}

/// `NodePrepareResourcesRequest` and `NodeUnprepareResourcesRequest`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Claims {
    #[prost(message, repeated, tag = "1")]
    pub(crate) claims: Vec<Claim>,
}

/// `Device`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Device {
    /// The requests that it is for; none: all.
    #[prost(string, repeated, tag = "1")]
    pub(crate) requests: Vec<String>,
    #[prost(string, tag = "2")]
    pub(crate) pool: String,
    #[prost(string, tag = "3")]
    pub(crate) device: String,
    #[prost(string, repeated, tag = "4")]
    pub(crate) cdi_ids: Vec<String>,
}

/// `NodePrepareResourceResponse`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PreparedClaim {
    #[prost(message, repeated, tag = "1")]
    pub(crate) devices: Vec<Device>,
    #[prost(string, tag = "2")]
    pub(crate) error: String,
}

/// `NodePrepareResourcesResponse`, by the uids of claims.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PreparedClaims {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) claims: HashMap<String, PreparedClaim>,
}

/// `NodeUnprepareResourceResponse`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct UnpreparedClaim {
    #[prost(string, tag = "1")]
    pub(crate) error: String,
}

/// `NodeUnprepareResourcesResponse`, by the uids of claims.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct UnpreparedClaims {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) claims: HashMap<String, UnpreparedClaim>,
}

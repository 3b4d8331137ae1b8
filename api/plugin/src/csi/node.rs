//! Messages of the node service (csi.proto 1.11, `Node`). Fields that no node uses are left out.

use std::collections::HashMap;

use prost::Message;

use super::{CapacityRange, Topology, VolumeCapability};

/// `csi.v1.NodeGetInfoResponse`
#[derive(Clone, PartialEq, Message)]
pub struct NodeInfo {
    /// How the driver's controller names this machine.
    #[prost(string, tag = "1")]
    pub node_id: String,
    /// How many volumes fit; 0: nobody knows.
    #[prost(int64, tag = "2")]
    pub max_volumes_per_node: i64,
    /// Where it is.
    #[prost(message, optional, tag = "3")]
    pub accessible_topology: Option<Topology>,
}

/// `csi.v1.NodeServiceCapability.RPC`
#[derive(Clone, PartialEq, Message)]
pub struct Rpc {
    /// One of [`Capability`].
    #[prost(int32, tag = "1")]
    pub kind: i32,
}

/// `csi.v1.NodeServiceCapability`
#[derive(Clone, PartialEq, Message)]
pub struct NodeServiceCapability {
    /// The only kind that there is.
    #[prost(message, optional, tag = "1")]
    pub rpc: Option<Rpc>,
}

/// `csi.v1.NodeGetCapabilitiesResponse`
#[derive(Clone, PartialEq, Message)]
pub struct NodeCapabilities {
    /// What the driver can do.
    #[prost(message, repeated, tag = "1")]
    pub capabilities: Vec<NodeServiceCapability>,
}

/// What a driver can do on a node: `csi.v1.NodeServiceCapability.RPC.Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Volumes are staged once for all pods.
    StageUnstage = 1,
    /// A file system grows with its volume.
    ExpandVolume = 3,
    /// Access modes that say who writes are known.
    SingleNodeMultiWriter = 5,
    /// It gives files to the pod's group itself.
    VolumeMountGroup = 6,
}

impl NodeCapabilities {
    /// Whether the driver can do it.
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities.iter().filter_map(|own| own.rpc.as_ref()).any(|rpc| rpc.kind == capability as i32)
    }
}

/// `csi.v1.NodeStageVolumeRequest`
#[derive(Clone, PartialEq, Message)]
pub struct StageRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// What attaching it told.
    #[prost(map = "string, string", tag = "2")]
    pub publish_context: HashMap<String, String>,
    /// Where.
    #[prost(string, tag = "3")]
    pub staging_target_path: String,
    /// How.
    #[prost(message, optional, tag = "4")]
    pub volume_capability: Option<VolumeCapability>,
    /// Never logged.
    #[prost(map = "string, string", tag = "5")]
    pub secrets: HashMap<String, String>,
    /// What is known of the volume.
    #[prost(map = "string, string", tag = "6")]
    pub volume_context: HashMap<String, String>,
}

/// `csi.v1.NodeUnstageVolumeRequest`
#[derive(Clone, PartialEq, Message)]
pub struct UnstageRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where.
    #[prost(string, tag = "2")]
    pub staging_target_path: String,
}

/// `csi.v1.NodePublishVolumeRequest`
#[derive(Clone, PartialEq, Message)]
pub struct PublishRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// What attaching it told.
    #[prost(map = "string, string", tag = "2")]
    pub publish_context: HashMap<String, String>,
    /// Where it was staged; empty if it was not.
    #[prost(string, tag = "3")]
    pub staging_target_path: String,
    /// Where it is to be.
    #[prost(string, tag = "4")]
    pub target_path: String,
    /// How.
    #[prost(message, optional, tag = "5")]
    pub volume_capability: Option<VolumeCapability>,
    /// Nobody writes.
    #[prost(bool, tag = "6")]
    pub readonly: bool,
    /// Never logged.
    #[prost(map = "string, string", tag = "7")]
    pub secrets: HashMap<String, String>,
    /// What is known of the volume, and of the pod where the driver wants to know.
    #[prost(map = "string, string", tag = "8")]
    pub volume_context: HashMap<String, String>,
}

/// `csi.v1.NodeUnpublishVolumeRequest`
#[derive(Clone, PartialEq, Message)]
pub struct UnpublishRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where it is.
    #[prost(string, tag = "2")]
    pub target_path: String,
}

/// `csi.v1.NodeExpandVolumeRequest`
#[derive(Clone, PartialEq, Message)]
pub struct ExpandRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Where it is.
    #[prost(string, tag = "2")]
    pub volume_path: String,
    /// How large it is to be.
    #[prost(message, optional, tag = "3")]
    pub capacity_range: Option<CapacityRange>,
    /// Where it was staged.
    #[prost(string, tag = "4")]
    pub staging_target_path: String,
    /// How it is used.
    #[prost(message, optional, tag = "5")]
    pub volume_capability: Option<VolumeCapability>,
    /// Never logged.
    #[prost(map = "string, string", tag = "6")]
    pub secrets: HashMap<String, String>,
}

/// `csi.v1.NodeExpandVolumeResponse`
#[derive(Clone, PartialEq, Message)]
pub struct ExpandResponse {
    /// How large it is; 0: nobody knows.
    #[prost(int64, tag = "1")]
    pub capacity_bytes: i64,
}

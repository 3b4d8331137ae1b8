//! Messages of the Container Storage Interface (csi.proto 1.11) that a node sends and reads, and of the registration of
//! plugins (kubelet `pluginregistration/v1/api.proto`). Field numbers and types are those of the two documents; fields
//! that no node uses are left out.

use std::collections::HashMap;

use prost::Message;

/// Nothing is asked for, or said.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Empty {}

/// `pluginregistration.PluginInfo`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PluginInfo {
    /// `CSIPlugin`, `DevicePlugin`, `DRAPlugin`
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    /// The driver's name.
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    /// The socket that it answers at; empty: the one that was asked.
    #[prost(string, tag = "3")]
    pub(crate) endpoint: String,
    /// Of its protocol.
    #[prost(string, repeated, tag = "4")]
    pub(crate) supported_versions: Vec<String>,
}

/// `pluginregistration.RegistrationStatus`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RegistrationStatus {
    /// Whether the plugin is used from now on.
    #[prost(bool, tag = "1")]
    pub(crate) plugin_registered: bool,
    /// Why not.
    #[prost(string, tag = "2")]
    pub(crate) error: String,
}

/// `csi.v1.Topology`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Topology {
    /// By key.
    #[prost(map = "string, string", tag = "1")]
    pub(crate) segments: HashMap<String, String>,
}

/// `csi.v1.NodeGetInfoResponse`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeInfo {
    /// How the driver's controller names this machine.
    #[prost(string, tag = "1")]
    pub(crate) node_id: String,
    /// How many volumes fit; 0: nobody knows.
    #[prost(int64, tag = "2")]
    pub(crate) max_volumes_per_node: i64,
    /// Where it is.
    #[prost(message, optional, tag = "3")]
    pub(crate) accessible_topology: Option<Topology>,
}

/// `csi.v1.NodeServiceCapability.RPC`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Rpc {
    /// One of [`Capability`].
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
}

/// `csi.v1.NodeServiceCapability`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeServiceCapability {
    /// The only kind that there is.
    #[prost(message, optional, tag = "1")]
    pub(crate) rpc: Option<Rpc>,
}

/// `csi.v1.NodeGetCapabilitiesResponse`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeCapabilities {
    /// What the driver can do.
    #[prost(message, repeated, tag = "1")]
    pub(crate) capabilities: Vec<NodeServiceCapability>,
}

/// What a driver can do on a node: `csi.v1.NodeServiceCapability.RPC.Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capability {
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
    pub(crate) fn has(&self, capability: Capability) -> bool {
        self.capabilities.iter().filter_map(|own| own.rpc.as_ref()).any(|rpc| rpc.kind == capability as i32)
    }
}

/// `csi.v1.VolumeCapability.MountVolume`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MountVolume {
    /// The file system; empty: the driver's choice.
    #[prost(string, tag = "1")]
    pub(crate) fs_type: String,
    /// Options.
    #[prost(string, repeated, tag = "2")]
    pub(crate) mount_flags: Vec<String>,
    /// The group that files belong to.
    #[prost(string, tag = "3")]
    pub(crate) volume_mount_group: String,
}

/// `csi.v1.VolumeCapability.AccessMode`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AccessMode {
    /// `csi.v1.VolumeCapability.AccessMode.Mode`
    #[prost(int32, tag = "1")]
    pub(crate) mode: i32,
}

/// `csi.v1.VolumeCapability`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct VolumeCapability {
    /// As which.
    #[prost(oneof = "AccessType", tags = "1, 2")]
    pub(crate) access_type: Option<AccessType>,
    /// By whom.
    #[prost(message, optional, tag = "3")]
    pub(crate) access_mode: Option<AccessMode>,
}

/// As what a volume is used.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum AccessType {
    /// As a device.
    #[prost(message, tag = "1")]
    Block(Empty),
    /// As a file system.
    #[prost(message, tag = "2")]
    Mount(MountVolume),
}

/// `csi.v1.NodeStageVolumeRequest`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StageRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    /// What attaching it told.
    #[prost(map = "string, string", tag = "2")]
    pub(crate) publish_context: HashMap<String, String>,
    /// Where.
    #[prost(string, tag = "3")]
    pub(crate) staging_target_path: String,
    /// How.
    #[prost(message, optional, tag = "4")]
    pub(crate) volume_capability: Option<VolumeCapability>,
    /// Never logged.
    #[prost(map = "string, string", tag = "5")]
    pub(crate) secrets: HashMap<String, String>,
    /// What is known of the volume.
    #[prost(map = "string, string", tag = "6")]
    pub(crate) volume_context: HashMap<String, String>,
}

/// `csi.v1.NodeUnstageVolumeRequest`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct UnstageRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    /// Where.
    #[prost(string, tag = "2")]
    pub(crate) staging_target_path: String,
}

/// `csi.v1.NodePublishVolumeRequest`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PublishRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    /// What attaching it told.
    #[prost(map = "string, string", tag = "2")]
    pub(crate) publish_context: HashMap<String, String>,
    /// Where it was staged; empty if it was not.
    #[prost(string, tag = "3")]
    pub(crate) staging_target_path: String,
    /// Where it is to be.
    #[prost(string, tag = "4")]
    pub(crate) target_path: String,
    /// How.
    #[prost(message, optional, tag = "5")]
    pub(crate) volume_capability: Option<VolumeCapability>,
    /// Nobody writes.
    #[prost(bool, tag = "6")]
    pub(crate) readonly: bool,
    /// Never logged.
    #[prost(map = "string, string", tag = "7")]
    pub(crate) secrets: HashMap<String, String>,
    /// What is known of the volume, and of the pod where the driver wants to know.
    #[prost(map = "string, string", tag = "8")]
    pub(crate) volume_context: HashMap<String, String>,
}

/// `csi.v1.NodeUnpublishVolumeRequest`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct UnpublishRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    /// Where it is.
    #[prost(string, tag = "2")]
    pub(crate) target_path: String,
}

/// `csi.v1.CapacityRange`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CapacityRange {
    /// At least so many bytes.
    #[prost(int64, tag = "1")]
    pub(crate) required_bytes: i64,
    /// At most so many; 0: any.
    #[prost(int64, tag = "2")]
    pub(crate) limit_bytes: i64,
}

/// `csi.v1.NodeExpandVolumeRequest`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExpandRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub(crate) volume_id: String,
    /// Where it is.
    #[prost(string, tag = "2")]
    pub(crate) volume_path: String,
    /// How large it is to be.
    #[prost(message, optional, tag = "3")]
    pub(crate) capacity_range: Option<CapacityRange>,
    /// Where it was staged.
    #[prost(string, tag = "4")]
    pub(crate) staging_target_path: String,
    /// How it is used.
    #[prost(message, optional, tag = "5")]
    pub(crate) volume_capability: Option<VolumeCapability>,
    /// Never logged.
    #[prost(map = "string, string", tag = "6")]
    pub(crate) secrets: HashMap<String, String>,
}

/// `csi.v1.NodeExpandVolumeResponse`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExpandResponse {
    /// How large it is; 0: nobody knows.
    #[prost(int64, tag = "1")]
    pub(crate) capacity_bytes: i64,
}

//! Messages of the controller and identity services (csi.proto 1.11, `Controller`, `Identity`). Fields that nobody here
//! uses are left out.

use std::collections::HashMap;

use prost::Message;

use super::{CapacityRange, Topology, VolumeCapability};

/// `csi.v1.GetPluginInfoResponse`
#[derive(Clone, PartialEq, Message)]
pub struct DriverInfo {
    /// The driver's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its version, for people.
    #[prost(string, tag = "2")]
    pub vendor_version: String,
}

/// `google.protobuf.BoolValue`
#[derive(Clone, PartialEq, Message)]
pub struct Bool {
    /// What it is.
    #[prost(bool, tag = "1")]
    pub value: bool,
}

/// `google.protobuf.Int64Value`
#[derive(Clone, PartialEq, Message)]
pub struct Number {
    /// What it is.
    #[prost(int64, tag = "1")]
    pub value: i64,
}

/// `csi.v1.ProbeResponse`
#[derive(Clone, PartialEq, Message)]
pub struct Readiness {
    /// Not said: it is.
    #[prost(message, optional, tag = "1")]
    pub ready: Option<Bool>,
}

/// `csi.v1.PluginCapability.Service`, `PluginCapability.VolumeExpansion`
#[derive(Clone, PartialEq, Message)]
pub struct Kind {
    /// One of [`Part`], or how volumes grow.
    #[prost(int32, tag = "1")]
    pub kind: i32,
}

/// `csi.v1.PluginCapability`
#[derive(Clone, PartialEq, Message)]
pub struct PluginCapability {
    /// A service or a trait of all services.
    #[prost(message, optional, tag = "1")]
    pub service: Option<Kind>,
    /// Volumes grow: 1 while they are used, 2 while they are not.
    #[prost(message, optional, tag = "2")]
    pub volume_expansion: Option<Kind>,
}

/// `csi.v1.GetPluginCapabilitiesResponse`
#[derive(Clone, PartialEq, Message)]
pub struct PluginCapabilities {
    /// What the driver is made of.
    #[prost(message, repeated, tag = "1")]
    pub capabilities: Vec<PluginCapability>,
}

/// What a driver is made of: `csi.v1.PluginCapability.Service.Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// There is a controller service.
    ControllerService = 1,
    /// Not every node reaches every volume.
    AccessibilityConstraints = 2,
}

impl PluginCapabilities {
    /// Whether the driver has it.
    pub fn has(&self, part: Part) -> bool {
        self.capabilities.iter().filter_map(|own| own.service.as_ref()).any(|own| own.kind == part as i32)
    }

    /// Whether volumes can grow at all.
    pub fn can_grow(&self) -> bool {
        self.capabilities.iter().any(|own| own.volume_expansion.is_some())
    }
}

/// `csi.v1.ControllerServiceCapability`
#[derive(Clone, PartialEq, Message)]
pub struct ControllerCapability {
    /// The only kind that there is.
    #[prost(message, optional, tag = "1")]
    pub rpc: Option<Kind>,
}

/// `csi.v1.ControllerGetCapabilitiesResponse`
#[derive(Clone, PartialEq, Message)]
pub struct ControllerCapabilities {
    /// What the service can do.
    #[prost(message, repeated, tag = "1")]
    pub capabilities: Vec<ControllerCapability>,
}

/// What a controller service can do: `csi.v1.ControllerServiceCapability.RPC.Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// It makes and removes volumes.
    CreateDeleteVolume = 1,
    /// It attaches and detaches.
    PublishUnpublishVolume = 2,
    /// It tells how much room is left.
    GetCapacity = 4,
    /// It makes volumes of volumes.
    CloneVolume = 7,
    /// It attaches without the right to write.
    PublishReadonly = 8,
    /// It lets volumes grow.
    ExpandVolume = 9,
    /// Access modes that say who writes are known.
    SingleNodeMultiWriter = 13,
}

impl ControllerCapabilities {
    /// Whether the service can do it.
    pub fn has(&self, ability: Ability) -> bool {
        self.capabilities.iter().filter_map(|own| own.rpc.as_ref()).any(|own| own.kind == ability as i32)
    }
}

/// `csi.v1.VolumeContentSource.VolumeSource`
#[derive(Clone, PartialEq, Message)]
pub struct VolumeSource {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
}

/// `csi.v1.VolumeContentSource`
#[derive(Clone, PartialEq, Message)]
pub struct ContentSource {
    /// Another volume.
    #[prost(message, optional, tag = "2")]
    pub volume: Option<VolumeSource>,
}

/// `csi.v1.TopologyRequirement`
#[derive(Clone, PartialEq, Message)]
pub struct TopologyRequirement {
    /// The volume is to be reached from at least one of these.
    #[prost(message, repeated, tag = "1")]
    pub requisite: Vec<Topology>,
    /// The same, the best first.
    #[prost(message, repeated, tag = "2")]
    pub preferred: Vec<Topology>,
}

/// `csi.v1.CreateVolumeRequest`
#[derive(Clone, PartialEq, Message)]
pub struct CreateRequest {
    /// Which volume; the same name is the same volume.
    #[prost(string, tag = "1")]
    pub name: String,
    /// How large.
    #[prost(message, optional, tag = "2")]
    pub capacity_range: Option<CapacityRange>,
    /// How it will be used.
    #[prost(message, repeated, tag = "3")]
    pub volume_capabilities: Vec<VolumeCapability>,
    /// The driver's own.
    #[prost(map = "string, string", tag = "4")]
    pub parameters: HashMap<String, String>,
    /// Never logged.
    #[prost(map = "string, string", tag = "5")]
    pub secrets: HashMap<String, String>,
    /// What is on it from the start.
    #[prost(message, optional, tag = "6")]
    pub volume_content_source: Option<ContentSource>,
    /// Where.
    #[prost(message, optional, tag = "7")]
    pub accessibility_requirements: Option<TopologyRequirement>,
}

/// `csi.v1.Volume`
#[derive(Clone, PartialEq, Message)]
pub struct Volume {
    /// How large it is; 0: nobody knows.
    #[prost(int64, tag = "1")]
    pub capacity_bytes: i64,
    /// The driver's name of the volume.
    #[prost(string, tag = "2")]
    pub volume_id: String,
    /// What the driver wants to be told of it.
    #[prost(map = "string, string", tag = "3")]
    pub volume_context: HashMap<String, String>,
    /// What was on it from the start.
    #[prost(message, optional, tag = "4")]
    pub content_source: Option<ContentSource>,
    /// Where it is reached from; empty: everywhere.
    #[prost(message, repeated, tag = "5")]
    pub accessible_topology: Vec<Topology>,
}

/// `csi.v1.CreateVolumeResponse`
#[derive(Clone, PartialEq, Message)]
pub struct CreateResponse {
    /// What was made.
    #[prost(message, optional, tag = "1")]
    pub volume: Option<Volume>,
}

/// `csi.v1.DeleteVolumeRequest`
#[derive(Clone, PartialEq, Message)]
pub struct DeleteRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// Never logged.
    #[prost(map = "string, string", tag = "2")]
    pub secrets: HashMap<String, String>,
}

/// `csi.v1.ControllerPublishVolumeRequest`
#[derive(Clone, PartialEq, Message)]
pub struct AttachRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// The driver's name of the node.
    #[prost(string, tag = "2")]
    pub node_id: String,
    /// How it will be used.
    #[prost(message, optional, tag = "3")]
    pub volume_capability: Option<VolumeCapability>,
    /// Nobody writes.
    #[prost(bool, tag = "4")]
    pub readonly: bool,
    /// Never logged.
    #[prost(map = "string, string", tag = "5")]
    pub secrets: HashMap<String, String>,
    /// What is known of the volume.
    #[prost(map = "string, string", tag = "6")]
    pub volume_context: HashMap<String, String>,
}

/// `csi.v1.ControllerPublishVolumeResponse`
#[derive(Clone, PartialEq, Message)]
pub struct AttachResponse {
    /// What the node is to be told.
    #[prost(map = "string, string", tag = "1")]
    pub publish_context: HashMap<String, String>,
}

/// `csi.v1.ControllerUnpublishVolumeRequest`
#[derive(Clone, PartialEq, Message)]
pub struct DetachRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// The driver's name of the node.
    #[prost(string, tag = "2")]
    pub node_id: String,
    /// Never logged.
    #[prost(map = "string, string", tag = "3")]
    pub secrets: HashMap<String, String>,
}

/// `csi.v1.ControllerExpandVolumeRequest`
#[derive(Clone, PartialEq, Message)]
pub struct GrowRequest {
    /// The driver's name of the volume.
    #[prost(string, tag = "1")]
    pub volume_id: String,
    /// How large it is to be.
    #[prost(message, optional, tag = "2")]
    pub capacity_range: Option<CapacityRange>,
    /// Never logged.
    #[prost(map = "string, string", tag = "3")]
    pub secrets: HashMap<String, String>,
    /// How it is used.
    #[prost(message, optional, tag = "4")]
    pub volume_capability: Option<VolumeCapability>,
}

/// `csi.v1.ControllerExpandVolumeResponse`
#[derive(Clone, PartialEq, Message)]
pub struct GrowResponse {
    /// How large it is.
    #[prost(int64, tag = "1")]
    pub capacity_bytes: i64,
    /// The node has a part in it, too.
    #[prost(bool, tag = "2")]
    pub node_expansion_required: bool,
}

/// `csi.v1.GetCapacityRequest`
#[derive(Clone, PartialEq, Message)]
pub struct CapacityRequest {
    /// How volumes would be used.
    #[prost(message, repeated, tag = "1")]
    pub volume_capabilities: Vec<VolumeCapability>,
    /// The driver's own.
    #[prost(map = "string, string", tag = "2")]
    pub parameters: HashMap<String, String>,
    /// From where they would be reached.
    #[prost(message, optional, tag = "3")]
    pub accessible_topology: Option<Topology>,
}

/// `csi.v1.GetCapacityResponse`
#[derive(Clone, PartialEq, Message)]
pub struct CapacityResponse {
    /// So many bytes are left.
    #[prost(int64, tag = "1")]
    pub available_capacity: i64,
    /// The largest volume that can be made.
    #[prost(message, optional, tag = "2")]
    pub maximum_volume_size: Option<Number>,
}

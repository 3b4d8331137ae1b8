//! Messages of the kubelet's `deviceplugin/v1beta1/api.proto`, with its field numbers; what is not used is left out.

use std::collections::HashMap;

use prost::Message;

/// Nothing is asked for, or said.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Empty {}

/// `DevicePluginOptions`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Options {
    /// The plugin is told before each start.
    #[prost(bool, tag = "1")]
    pub(crate) pre_start_required: bool,
    /// The plugin may be asked which devices go well together.
    #[prost(bool, tag = "2")]
    pub(crate) get_preferred_allocation_available: bool,
}

/// `RegisterRequest`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RegisterRequest {
    #[prost(string, tag = "1")]
    pub(crate) version: String,
    /// The name of its socket in the directory of plugins.
    #[prost(string, tag = "2")]
    pub(crate) endpoint: String,
    #[prost(string, tag = "3")]
    pub(crate) resource_name: String,
    #[prost(message, optional, tag = "4")]
    pub(crate) options: Option<Options>,
}

/// `Device`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Device {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    /// `Healthy` or `Unhealthy`
    #[prost(string, tag = "2")]
    pub(crate) health: String,
    /// Where it is.
    #[prost(message, optional, tag = "3")]
    pub(crate) topology: Option<TopologyInfo>,
}

/// `TopologyInfo`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TopologyInfo {
    #[prost(message, repeated, tag = "1")]
    pub(crate) nodes: Vec<NumaNode>,
}

/// `NUMANode`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NumaNode {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
}

/// `ListAndWatchResponse`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeviceList {
    #[prost(message, repeated, tag = "1")]
    pub(crate) devices: Vec<Device>,
}

/// `ContainerPreferredAllocationRequest`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PreferredRequest {
    #[prost(string, repeated, tag = "1")]
    pub(crate) available: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) must_include: Vec<String>,
    #[prost(int32, tag = "3")]
    pub(crate) size: i32,
}

/// `PreferredAllocationRequest`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PreferredRequests {
    #[prost(message, repeated, tag = "1")]
    pub(crate) containers: Vec<PreferredRequest>,
}

/// `ContainerPreferredAllocationResponse`, and `ContainerAllocateRequest`: ids of devices.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Ids {
    #[prost(string, repeated, tag = "1")]
    pub(crate) ids: Vec<String>,
}

/// `PreferredAllocationResponse`, and `AllocateRequest`: ids for each container.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct IdsOfContainers {
    #[prost(message, repeated, tag = "1")]
    pub(crate) containers: Vec<Ids>,
}

/// `Mount`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Mount {
    #[prost(string, tag = "1")]
    pub(crate) container_path: String,
    #[prost(string, tag = "2")]
    pub(crate) host_path: String,
    #[prost(bool, tag = "3")]
    pub(crate) read_only: bool,
}

/// `DeviceSpec`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeviceSpec {
    #[prost(string, tag = "1")]
    pub(crate) container_path: String,
    #[prost(string, tag = "2")]
    pub(crate) host_path: String,
    /// Of `r`, `w`, `m`.
    #[prost(string, tag = "3")]
    pub(crate) permissions: String,
}

/// `CDIDevice`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CdiDevice {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

/// `ContainerAllocateResponse`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Allocation {
    #[prost(map = "string, string", tag = "1")]
    pub(crate) envs: HashMap<String, String>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) mounts: Vec<Mount>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) devices: Vec<DeviceSpec>,
    #[prost(map = "string, string", tag = "4")]
    pub(crate) annotations: HashMap<String, String>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) cdi_devices: Vec<CdiDevice>,
}

/// `AllocateResponse`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Allocations {
    #[prost(message, repeated, tag = "1")]
    pub(crate) containers: Vec<Allocation>,
}

//! The calls of the Container Storage Interface that are used.

use super::Empty;
use super::controller::{
    AttachRequest, AttachResponse, CapacityRequest, CapacityResponse, ControllerCapabilities, CreateRequest,
    CreateResponse, DeleteRequest, DetachRequest, DriverInfo, GrowRequest, GrowResponse, PluginCapabilities, Readiness,
};
use super::node::{
    ExpandRequest, ExpandResponse, NodeCapabilities, NodeInfo, PublishRequest, StageRequest, UnpublishRequest,
    UnstageRequest,
};
use crate::grpc::{CallError, Plugin};

/// The node service.
impl Plugin {
    /// How the driver sees this node.
    pub async fn node_info(&self) -> Result<NodeInfo, CallError> {
        self.call("/csi.v1.Node/NodeGetInfo", Empty {}).await
    }

    /// What it can do here.
    pub async fn capabilities(&self) -> Result<NodeCapabilities, CallError> {
        self.call("/csi.v1.Node/NodeGetCapabilities", Empty {}).await
    }

    /// Brings a volume to this node.
    pub async fn stage(&self, request: StageRequest) -> Result<(), CallError> {
        self.call::<_, Empty>("/csi.v1.Node/NodeStageVolume", request).await.map(drop)
    }

    /// The way back.
    pub async fn unstage(&self, request: UnstageRequest) -> Result<(), CallError> {
        self.call::<_, Empty>("/csi.v1.Node/NodeUnstageVolume", request).await.map(drop)
    }

    /// Brings a volume to a pod.
    pub async fn publish(&self, request: PublishRequest) -> Result<(), CallError> {
        self.call::<_, Empty>("/csi.v1.Node/NodePublishVolume", request).await.map(drop)
    }

    /// The way back.
    pub async fn unpublish(&self, request: UnpublishRequest) -> Result<(), CallError> {
        self.call::<_, Empty>("/csi.v1.Node/NodeUnpublishVolume", request).await.map(drop)
    }

    /// Lets what is on a volume grow with it.
    pub async fn expand(&self, request: ExpandRequest) -> Result<ExpandResponse, CallError> {
        self.call("/csi.v1.Node/NodeExpandVolume", request).await
    }
}

/// The identity service.
impl Plugin {
    /// What driver this is.
    pub async fn driver_info(&self) -> Result<DriverInfo, CallError> {
        self.call("/csi.v1.Identity/GetPluginInfo", Empty {}).await
    }

    /// What it is made of.
    pub async fn driver_capabilities(&self) -> Result<PluginCapabilities, CallError> {
        self.call("/csi.v1.Identity/GetPluginCapabilities", Empty {}).await
    }

    /// Whether it is ready.
    pub async fn probe(&self) -> Result<Readiness, CallError> {
        self.call("/csi.v1.Identity/Probe", Empty {}).await
    }
}

/// The controller service.
impl Plugin {
    /// What it can do.
    pub async fn controller_capabilities(&self) -> Result<ControllerCapabilities, CallError> {
        self.call("/csi.v1.Controller/ControllerGetCapabilities", Empty {}).await
    }

    /// Makes a volume; asked again by the same name, it is the same volume.
    pub async fn create_volume(&self, request: CreateRequest) -> Result<CreateResponse, CallError> {
        self.call("/csi.v1.Controller/CreateVolume", request).await
    }

    /// Removes a volume with its data.
    pub async fn delete_volume(&self, request: DeleteRequest) -> Result<(), CallError> {
        self.call::<_, Empty>("/csi.v1.Controller/DeleteVolume", request).await.map(drop)
    }

    /// Attaches a volume to a node.
    pub async fn attach_volume(&self, request: AttachRequest) -> Result<AttachResponse, CallError> {
        self.call("/csi.v1.Controller/ControllerPublishVolume", request).await
    }

    /// The way back.
    pub async fn detach_volume(&self, request: DetachRequest) -> Result<(), CallError> {
        self.call::<_, Empty>("/csi.v1.Controller/ControllerUnpublishVolume", request).await.map(drop)
    }

    /// Lets a volume grow.
    pub async fn grow_volume(&self, request: GrowRequest) -> Result<GrowResponse, CallError> {
        self.call("/csi.v1.Controller/ControllerExpandVolume", request).await
    }

    /// How much room is left.
    pub async fn capacity(&self, request: CapacityRequest) -> Result<CapacityResponse, CallError> {
        self.call("/csi.v1.Controller/GetCapacity", request).await
    }
}

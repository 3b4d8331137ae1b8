//! The calls of the Container Storage Interface, and of the registration of plugins.

use super::message::{
    Empty, ExpandRequest, ExpandResponse, NodeCapabilities, NodeInfo, PluginInfo, PublishRequest, RegistrationStatus,
    StageRequest, UnpublishRequest, UnstageRequest,
};
use crate::grpc::{CallError, Plugin};

impl Plugin {
    /// What plugin this is.
    pub(crate) async fn info(&self) -> Result<PluginInfo, CallError> {
        self.call("/pluginregistration.Registration/GetInfo", Empty {}).await
    }

    /// Tells it whether it is used.
    pub(crate) async fn notify(&self, status: RegistrationStatus) -> Result<(), CallError> {
        self.call::<_, Empty>("/pluginregistration.Registration/NotifyRegistrationStatus", status).await.map(drop)
    }

    /// How the driver sees this node.
    pub(crate) async fn node_info(&self) -> Result<NodeInfo, CallError> {
        self.call("/csi.v1.Node/NodeGetInfo", Empty {}).await
    }

    /// What it can do here.
    pub(crate) async fn capabilities(&self) -> Result<NodeCapabilities, CallError> {
        self.call("/csi.v1.Node/NodeGetCapabilities", Empty {}).await
    }

    /// Brings a volume to this node.
    pub(crate) async fn stage(&self, request: StageRequest) -> Result<(), CallError> {
        self.call::<_, Empty>("/csi.v1.Node/NodeStageVolume", request).await.map(drop)
    }

    /// The way back.
    pub(crate) async fn unstage(&self, request: UnstageRequest) -> Result<(), CallError> {
        self.call::<_, Empty>("/csi.v1.Node/NodeUnstageVolume", request).await.map(drop)
    }

    /// Brings a volume to a pod.
    pub(crate) async fn publish(&self, request: PublishRequest) -> Result<(), CallError> {
        self.call::<_, Empty>("/csi.v1.Node/NodePublishVolume", request).await.map(drop)
    }

    /// The way back.
    pub(crate) async fn unpublish(&self, request: UnpublishRequest) -> Result<(), CallError> {
        self.call::<_, Empty>("/csi.v1.Node/NodeUnpublishVolume", request).await.map(drop)
    }

    /// Lets what is on a volume grow with it.
    pub(crate) async fn expand(&self, request: ExpandRequest) -> Result<ExpandResponse, CallError> {
        self.call("/csi.v1.Node/NodeExpandVolume", request).await
    }
}

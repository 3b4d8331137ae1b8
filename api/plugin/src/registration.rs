//! The registration of plugins with a node (kubelet `pluginregistration/v1/api.proto`).

use prost::Message;

use crate::csi::Empty;
use crate::grpc::{CallError, Plugin};

/// `pluginregistration.PluginInfo`
#[derive(Clone, PartialEq, Message)]
pub struct PluginInfo {
    /// `CSIPlugin`, `DevicePlugin`, `DRAPlugin`
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The driver's name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The socket that it answers at; empty: the one that was asked.
    #[prost(string, tag = "3")]
    pub endpoint: String,
    /// Of its protocol.
    #[prost(string, repeated, tag = "4")]
    pub supported_versions: Vec<String>,
}

/// `pluginregistration.RegistrationStatus`
#[derive(Clone, PartialEq, Message)]
pub struct RegistrationStatus {
    /// Whether the plugin is used from now on.
    #[prost(bool, tag = "1")]
    pub plugin_registered: bool,
    /// Why not.
    #[prost(string, tag = "2")]
    pub error: String,
}

impl Plugin {
    /// What plugin this is.
    pub async fn info(&self) -> Result<PluginInfo, CallError> {
        self.call("/pluginregistration.Registration/GetInfo", Empty {}).await
    }

    /// Tells it whether it is used.
    pub async fn notify(&self, status: RegistrationStatus) -> Result<(), CallError> {
        self.call::<_, Empty>("/pluginregistration.Registration/NotifyRegistrationStatus", status).await.map(drop)
    }
}

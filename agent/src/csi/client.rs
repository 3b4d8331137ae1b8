//! Calls to a plugin at its socket. The transport is tonic's; the messages stand in `message`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

use super::message::{
    Empty, ExpandRequest, ExpandResponse, NodeCapabilities, NodeInfo, PluginInfo, PublishRequest, RegistrationStatus,
    StageRequest, UnpublishRequest, UnstageRequest,
};

/// As long as the kubelet waits for a call; staging may format a disk.
const CALL: Duration = Duration::from_secs(120);
const CONNECT: Duration = Duration::from_secs(10);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nobody answers at the socket.
    #[error("connecting to {}", socket.display())]
    Connect {
        /// Where.
        socket: PathBuf,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The plugin says no.
    #[error("{call}: {}: {}", status.code(), status.message())]
    Refused {
        /// Which call.
        call: &'static str,
        /// What it says.
        status: Box<tonic::Status>,
    },
}

/// A connection to a plugin, made when it is first used.
#[derive(Debug, Clone)]
pub(crate) struct Plugin {
    channel: Channel,
}

impl Plugin {
    /// Connects.
    pub(crate) async fn connect(socket: &Path) -> Result<Self, CallError> {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is not used: the socket is.
        let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT).timeout(CALL);
        let connected = endpoint.connect_with_connector(connector).await;
        let channel = connected.map_err(|source| CallError::Connect { socket: socket.to_owned(), source })?;
        Ok(Self { channel })
    }

    async fn call<Q, A>(&self, call: &'static str, request: Q) -> Result<A, CallError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let refused = |status: tonic::Status| CallError::Refused { call, status: Box::new(status) };
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| refused(tonic::Status::unavailable(error.to_string())))?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        let path = PathAndQuery::from_static(call);
        let answer = grpc.unary(tonic::Request::new(request), path, codec).await;
        answer.map(tonic::Response::into_inner).map_err(refused)
    }

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

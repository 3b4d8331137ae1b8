//! Calls to plugins at their sockets. The transport is tonic's; messages stand with those who use them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

/// As long as the kubelet waits for a call; staging a volume may format a disk.
const CALL: Duration = Duration::from_secs(120);
const CONNECT: Duration = Duration::from_secs(10);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
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
        status: Box<Status>,
    },
}

/// A connection to a plugin. It is made again when it breaks.
#[derive(Debug, Clone)]
pub struct Plugin {
    channel: Channel,
}

impl Plugin {
    /// Connects.
    pub async fn connect(socket: &Path) -> Result<Self, CallError> {
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

    async fn ready(&self, call: &'static str) -> Result<Grpc<Channel>, CallError> {
        let mut grpc = Grpc::new(self.channel.clone());
        let broken = |error: tonic::transport::Error| {
            let status = Box::new(Status::unavailable(api::causes::chain(&error)));
            CallError::Refused { call, status }
        };
        grpc.ready().await.map_err(broken)?;
        Ok(grpc)
    }

    /// One question, one answer.
    pub async fn call<Q, A>(&self, call: &'static str, request: Q) -> Result<A, CallError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        let mut grpc = self.ready(call).await?;
        let answer = grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(call), codec).await;
        answer.map(tonic::Response::into_inner).map_err(|status| CallError::Refused { call, status: Box::new(status) })
    }

    /// One question, many answers.
    pub async fn stream<Q, A>(&self, call: &'static str, request: Q) -> Result<Streaming<A>, CallError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        let mut grpc = self.ready(call).await?;
        let answer = grpc.server_streaming(tonic::Request::new(request), PathAndQuery::from_static(call), codec).await;
        answer.map(tonic::Response::into_inner).map_err(|status| CallError::Refused { call, status: Box::new(status) })
    }
}

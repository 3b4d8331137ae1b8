//! Why a run with a driver failed.
use crate::error::ReconcileError;
use api_plugin::grpc::CallError;

/// A failed run; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CsiError {
    /// The API server was asked in vain.
    #[error(transparent)]
    Api(#[from] ReconcileError),
    /// The driver says no.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The driver cannot be asked.
    #[error("driver {driver} does not answer at {}", socket.display())]
    Away {
        /// Which.
        driver: String,
        /// Where.
        socket: std::path::PathBuf,
        /// The cause.
        #[source]
        source: CallError,
    },
    /// What was found cannot be worked with.
    #[error("{0}")]
    Unfit(String),
}

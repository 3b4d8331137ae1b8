//! What can fail in the pod network: a variant names the step.

/// Why a step of the pod network failed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The instance is not eight hexadecimal digits.
    #[error("instance {instance:?} is not 8 hexadecimal digits")]
    Instance {
        /// What was given.
        instance: String,
    },
    /// The state directory could not be made or read.
    #[error("state directory {path}")]
    StateDir {
        /// The directory.
        path: std::path::PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

//! Configuration files that are written like objects: apiVersion, kind and the rest.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It cannot be read.
    #[error("reading {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It does not say what it should.
    #[error("{}: {problem}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// The field and what was expected.
        problem: String,
    },
}

/// Reads a file and makes of its text what `parse` does; `parse` says the field and what was expected.
pub fn read<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, ConfigFileError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigFileError::File { path: path.into(), source })?;
    parse(&text).map_err(|problem| ConfigFileError::Content { path: path.into(), problem })
}

/// The fields of the text's only document beside `apiVersion` and `kind`, which have to be these.
pub(crate) fn fields<T: DeserializeOwned>(text: &str, api_version: &str, kind: &str) -> Result<T, String> {
    let value = api::yaml::configuration(text, api_version, kind)?;
    T::deserialize(value).map_err(|error| error.to_string())
}

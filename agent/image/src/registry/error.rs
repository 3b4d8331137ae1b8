//! What can go wrong between a registry and the store.

use std::io;
use std::time::Duration;

use super::config::ConfigError;
use super::retry::Kind;
use crate::digest::Digest;
use crate::document::DocumentError;
use crate::layer::LayerError;
use crate::reference::ReferenceError;
use crate::store::ImageError;

/// Why an image could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The name is no image name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The settings for this registry cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No place that may have it gave it. In the order in which they were asked.
    #[error("{}", all_of(.0))]
    Registries(Vec<RegistryError>),
    /// A document of the image is not what it should be.
    #[error("{what} {source}")]
    Document {
        /// Which.
        what: String,
        /// The cause, part of the sentence.
        source: DocumentError,
    },
    /// A layer could not be unpacked.
    #[error("unpacking layer {digest}")]
    Layer {
        /// Which.
        digest: Digest,
        /// The cause.
        #[source]
        source: LayerError,
    },
    /// The blob is larger than a layer may be.
    #[error("layer {digest} has {size} bytes, at most {limit} are taken")]
    TooLarge {
        /// Which.
        digest: Digest,
        /// What its manifest says.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// The store on this machine.
    #[error(transparent)]
    Store(#[from] ImageError),
    /// A file operation failed.
    #[error("{step} {}", path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// To which file.
        path: std::path::PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A thread of ours ended without an answer.
    #[error("the work on {0} was abandoned")]
    Abandoned(Digest),
}

impl PullError {
    /// Whether no registry could even be spoken to.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Registries(all) => all.iter().all(|one| {
                matches!(
                    one.source,
                    RequestError::Connect { .. } | RequestError::Resolve { .. } | RequestError::NoAnswer { .. }
                )
            }),
            _ => false,
        }
    }
}

/// What one registry did. Each tells its own causes: there may be several.
#[derive(Debug, thiserror::Error)]
#[error("registry {registry}: {what}")]
pub struct RegistryError {
    /// Its host, with the port where it has one.
    pub registry: String,
    /// What was wanted of it.
    pub what: String,
    /// What it did instead.
    #[source]
    pub source: RequestError,
}

/// What can become of a request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Its name has no address.
    #[error("its name cannot be resolved: {reason}")]
    Resolve {
        /// The resolver's words.
        reason: String,
    },
    /// No connection, or none that can be trusted.
    #[error("cannot connect: {reason}")]
    Connect {
        /// The innermost cause.
        reason: String,
    },
    /// The connection is there, the answer is not.
    #[error("no answer within {}s", .0.as_secs_f64())]
    NoAnswer(Duration),
    /// Bytes stopped coming.
    #[error("stalled: {had} of {of} bytes came, then none for {}s", .within.as_secs_f64())]
    Stalled {
        /// Bytes that came.
        had: u64,
        /// Bytes that were promised; `?` where nothing was.
        of: String,
        /// How long we waited.
        within: Duration,
    },
    /// The answer ended early.
    #[error("truncated: {had} of {of} bytes came{}", .reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default())]
    Truncated {
        /// Bytes that came.
        had: u64,
        /// Bytes that were promised; `?` where nothing was.
        of: String,
        /// How the connection ended.
        reason: Option<String>,
    },
    /// The request could not be sent or its answer not be read.
    #[error("the connection broke: {reason}")]
    Broken {
        /// The innermost cause.
        reason: String,
    },
    /// A status that is not what was asked for.
    #[error("{status}{}", .message.as_ref().map(|message| format!(": {message}")).unwrap_or_default())]
    Status {
        /// The status.
        status: http::StatusCode,
        /// The registry's words.
        message: Option<String>,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// It does not let us in.
    #[error("{}{}", if *.anonymous { "authorization is required and there are no credentials for it" } else { "the credentials were refused" }, .message.as_ref().map(|message| format!(": {message}")).unwrap_or_default())]
    Unauthorized {
        /// No credentials were given.
        anonymous: bool,
        /// The registry's words.
        message: Option<String>,
    },
    /// It wants to be convinced in a way that we do not know.
    #[error("asks for authorization in a way that is not known: {0:?}")]
    Challenge(String),
    /// No token came from where it sent us.
    #[error("token from {realm}")]
    Token {
        /// Where.
        realm: String,
        /// What happened there.
        #[source]
        source: Box<RequestError>,
    },
    /// An answer that is not of the expected form.
    #[error("sent something unexpected: {0}")]
    Malformed(String),
    /// A redirect that is not followed.
    #[error("redirect to {to:?}: {why}")]
    Redirect {
        /// Where to.
        to: String,
        /// Why not.
        why: &'static str,
    },
    /// More than may be.
    #[error("sent more than {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: u64,
    },
    /// Other content than was asked for.
    #[error("sent content with digest {found} instead of {expected}")]
    Mismatch {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
}

impl RequestError {
    /// Whether another try may do. `connected`: the registry was spoken to before, so losing it may pass.
    pub(crate) fn kind(&self, connected: bool) -> Kind {
        let passing = Kind::Passing { asked: None };
        match self {
            Self::Status { status, retry_after, .. } => match status.as_u16() {
                408 | 429 | 500 | 502 | 503 | 504 => Kind::Passing { asked: *retry_after },
                _ => Kind::Final,
            },
            Self::Stalled { .. } | Self::Truncated { .. } | Self::Broken { .. } => passing,
            Self::Connect { .. } | Self::NoAnswer(_) | Self::Resolve { .. } if connected => passing,
            Self::Connect { .. } | Self::NoAnswer(_) | Self::Resolve { .. } => Kind::Final,
            Self::Token { source, .. } => source.kind(connected),
            Self::Unauthorized { .. }
            | Self::Challenge(_)
            | Self::Malformed(_)
            | Self::Redirect { .. }
            | Self::TooLarge { .. }
            | Self::Mismatch { .. } => Kind::Final,
        }
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Foreign errors often repeat their cause.
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// The innermost cause: what the layers of a client wrap says little.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(cause) = inner.source() {
        inner = cause;
    }
    inner.to_string()
}

fn all_of(errors: &[RegistryError]) -> String {
    errors.iter().map(|error| chain(error)).collect::<Vec<_>>().join("; ")
}

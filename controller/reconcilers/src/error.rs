//! Why a run failed.

/// A failed run; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// A request was refused or not answered.
    #[error("{step}")]
    Api {
        /// What was tried.
        step: &'static str,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// An object cannot be worked with.
    #[error("{0}")]
    Object(String),
    /// Something is still there that has to go first, and nothing will tell when it is gone.
    #[error("still waiting for {0}")]
    Waiting(String),
}

/// Names the step of a failed request.
pub(crate) fn at(step: &'static str) -> impl Fn(kube::Error) -> ReconcileError {
    move |source| ReconcileError::Api { step, source: Box::new(source) }
}

/// The HTTP code of a refusal.
pub(crate) fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

/// Whether something was not made because its namespace is being deleted.
pub(crate) fn is_terminating(error: &kube::Error) -> bool {
    code(error) == 403 && error.to_string().contains("being terminated")
}

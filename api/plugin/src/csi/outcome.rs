//! What a failed call says of what was asked for (csi.proto, "Error Scheme").

use std::error::Error as _;

use tonic::Code;

use crate::grpc::CallError;

/// What became of what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody knows: it may have been done, or be done still.
    Unknown,
    /// It was not done: there is no room there.
    Exhausted,
    /// It was not done, and never will be as it was asked.
    Infeasible,
    /// It was not done.
    Failed,
}

impl CallError {
    /// What became of what was asked for.
    pub fn outcome(&self) -> Outcome {
        let Self::Refused { status, .. } = self else { return Outcome::Unknown };
        match status.code() {
            Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::Aborted => Outcome::Unknown,
            // Nobody said so: the connection broke.
            Code::Unknown if status.source().is_some() => Outcome::Unknown,
            Code::ResourceExhausted => Outcome::Exhausted,
            Code::InvalidArgument | Code::OutOfRange | Code::NotFound => Outcome::Infeasible,
            _ => Outcome::Failed,
        }
    }

    /// Whether the connection may be of no use any more.
    pub fn is_of_the_connection(&self) -> bool {
        match self {
            Self::Connect { .. } => true,
            Self::Refused { status, .. } => status.code() == Code::Unavailable || status.source().is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    fn refused(status: Status) -> CallError {
        CallError::Refused { call: "/csi.v1.Controller/CreateVolume", status: Box::new(status) }
    }

    #[test]
    fn only_what_a_driver_says_is_final() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        for (status, outcome) in [
            (Status::unknown("no such pool"), Outcome::Failed),
            (Status::from_error(Box::new(broken)), Outcome::Unknown),
            (Status::aborted("under way"), Outcome::Unknown),
            (Status::deadline_exceeded(""), Outcome::Unknown),
            (Status::resource_exhausted("full"), Outcome::Exhausted),
            (Status::out_of_range("too large"), Outcome::Infeasible),
            (Status::internal("no"), Outcome::Failed),
        ] {
            let shown = status.to_string();
            assert_eq!(refused(status).outcome(), outcome, "{shown}");
        }
        assert!(refused(Status::unavailable("")).is_of_the_connection());
        assert!(!refused(Status::unknown("no such pool")).is_of_the_connection());
    }
}

//! What can go wrong with a container.

use std::{io, path::PathBuf};

use super::Status;
use crate::{cgroup::CgroupError, init::step::StepError, plan::PlanError, spec::SpecError};

/// A verb that failed, by step.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The id cannot be one.
    #[error("container id {0:?}: expected letters, digits, _ + - . and at most 1024 of them")]
    Id(String),
    /// Taken.
    #[error("container {0:?} exists already")]
    Exists(String),
    /// Unknown.
    #[error("container {0:?} does not exist")]
    NotFound(String),
    /// The verb does not fit the status.
    #[error("cannot {verb} container {id:?}: it is {status}")]
    Status {
        /// The verb.
        verb: &'static str,
        /// The container.
        id: String,
        /// What it is.
        status: Status,
    },
    /// The bundle.
    #[error("load the bundle")]
    Spec(#[from] SpecError),
    /// The spec cannot be carried out.
    #[error("lay out the container")]
    Plan(#[from] PlanError),
    /// The cgroup.
    #[error("set up the cgroup")]
    Cgroup(#[from] CgroupError),
    /// A kernel step in the child.
    #[error("start the container process")]
    Init(#[source] StepError),
    /// The child died without a word.
    #[error("the container process died while it was being set up")]
    Died,
    /// A terminal is wanted and nobody takes it.
    #[error("process.terminal is true: a console socket (--console-socket) is required")]
    ConsoleWanted,
    /// A kernel call of the parent.
    #[error("{what}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: agent_sys::Errno,
    },
    /// A file of the state directory or of /proc.
    #[error("{what} {path}", path = path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A hook.
    #[error("run {kind} hook {path}", path = path.display())]
    Hook {
        /// Which list.
        kind: &'static str,
        /// The program.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: super::hook::HookError,
    },
    /// state.json of another time.
    #[error("{path}: version {version}: expected {expected}", path = path.display(), expected = super::state::VERSION)]
    StateVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl ContainerError {
    /// Whether the program to run is not there.
    pub fn is_missing_program(&self) -> bool {
        matches!(self, ContainerError::Init(step) if step.is_missing_program())
    }

    pub(crate) fn kernel(what: &'static str) -> impl FnOnce(agent_sys::Errno) -> ContainerError {
        move |source| ContainerError::Kernel { what, source }
    }

    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ContainerError {
        let path = path.into();
        move |source| ContainerError::File { what, path, source }
    }
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = match cause.downcast_ref::<agent_sys::Errno>() {
            Some(errno) => crate::init::step::errno_text(*errno),
            None => cause.to_string(),
        };
        text.push_str(": ");
        text.push_str(&cause_text);
        source = cause.source();
    }
    text
}

//! Containers: made, started, signalled, joined, removed. The command line and the pod monitor are two callers of the
//! same few functions.

pub mod create;
pub mod error;
pub mod exec;
pub mod hook;
pub mod lifecycle;
pub mod state;
pub(crate) mod tree;

pub use create::{CreateOptions, Created, GateKind, create};
pub use error::ContainerError;
pub use exec::{Doorway, ExecOptions, Joined, exec};
pub use lifecycle::{Container, clock};
pub use state::{State, Status};

//! Each volume kind: set up, update atomically, tear down.
//! Never knows the Kubernetes client: what a volume shows comes in as values.
//! Start reading at `directory`.

pub mod atomic;
pub mod attach;
pub mod block;
pub mod directory;
pub mod measure;
pub mod ownership;
pub mod payload;
pub mod removal;

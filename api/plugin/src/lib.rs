//! Plugins and drivers of others, as both sides call them: gRPC at a Unix socket, and the Container Storage Interface.
//! Never asks the Kubernetes API, never decides what is to be called.
//! Start reading at `grpc`, then `csi`.

pub mod csi;
pub mod grpc;
pub mod registration;

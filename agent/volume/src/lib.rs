//! Each volume kind: set up, update atomically, tear down.
//! Never knows the Kubernetes client.
//! Start reading at `kind`.

//! Reference to digest to content to snapshot.
//! Never knows the Kubernetes client.
//! Start reading at `store`.

//! Sandbox links, addresses, routes and rules of the pod network.
//! Never knows the Kubernetes client.
//! Start reading at `sandbox`.

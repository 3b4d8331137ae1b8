//! The OCI runtime: namespaces, cgroups, root filesystem, the container verbs, and the pod monitor.
//! Never knows tokio or the Kubernetes client.
//! Start reading at `container`.

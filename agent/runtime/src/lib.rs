//! The OCI runtime: namespaces, cgroups, root filesystem, the container verbs, and the pod monitor.
//! Never knows tokio or the Kubernetes client; never forks a process that has more than one thread.
//! Start reading at `container`.

pub mod cgroup;
pub mod cli;
pub mod container;
pub mod init;
pub mod monitor;
pub mod plan;
pub mod seccomp;
pub mod spec;

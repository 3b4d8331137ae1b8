//! What a machine lacks to run pods, what of it is thin, and what on it would fight us; each with what to do.

mod device;
mod kernel;
mod machine;
mod neighbour;
mod pod;
mod volume;

use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

use crate::eviction::Limits;

/// How one look at the machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// As it should be.
    Fine(String),
    /// Works, with less: what is missing and what stands in for it.
    Thin(String),
    /// Does not work: what is wrong and what to do.
    Broken(String, String),
}

/// What a server on this machine would use.
#[derive(Debug, Clone)]
pub struct Wishes<'a> {
    /// The data directory.
    pub data_dir: &'a Path,
    /// Ports to listen on, with what for.
    pub ports: &'a [(&'static str, u16)],
    /// All pods' addresses.
    pub cluster_cidr: Ipv4Net,
    /// When its node would evict pods, and take no more.
    pub eviction: &'a Limits,
    /// Where files of the Container Device Interface are.
    pub cdi_dirs: &'a [PathBuf],
}

/// Whether the running kernel is of this version or newer.
pub(crate) fn kernel_is(version: (u32, u32)) -> bool {
    kernel::version(&kernel::release()) >= version
}

/// Looks at this machine.
pub fn look(wishes: &Wishes<'_>) -> Vec<Finding> {
    let mut findings = kernel::findings(&kernel::release());
    findings.extend(machine::findings(wishes));
    findings.extend(volume::findings());
    findings.extend(device::findings(wishes.cdi_dirs));
    findings.extend(pod::findings());
    findings.extend(neighbour::findings(&neighbour::Neighbours::look(), wishes.cluster_cidr));
    findings
}

//! What volumes of pods need of a machine beyond directories: an NFS client, mounts that travel, loop devices, huge pages.
//! Pods that ask for none of it run without.

use std::fs;

use super::Finding;
use super::machine::has_file_system;

pub(super) fn findings() -> Vec<Finding> {
    let mut findings = Vec::new();
    match has_file_system("nfs4") || has_file_system("nfsv4") || has_file_system("nfs") {
        true => findings.push(Finding::Fine("file system nfs, for volumes of that kind".into())),
        false => findings.push(Finding::Thin(
            "the kernel has no NFS client: volumes of kind nfs fail; install nfs-common (nfs-utils) and load the module nfsv4"
                .into(),
        )),
    }
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if !is_shared(&table) {
        findings.push(Finding::Thin(
            "the mount of / is private: mountPropagation of volumes on it fails; mount --make-rshared /".into(),
        ));
    }
    if !std::path::Path::new("/dev/loop-control").exists() {
        findings.push(Finding::Thin(
            "there is no /dev/loop-control: claims of block devices fail; load the module loop (CONFIG_BLK_DEV_LOOP)"
                .into(),
        ));
    }
    if !has_file_system("hugetlbfs") {
        findings.push(Finding::Thin(
            "the kernel has no huge pages: emptyDir of medium HugePages fails; boot one with CONFIG_HUGETLBFS".into(),
        ));
    }
    findings
}

/// Whether mounts made below `/` are passed on; proc(5), mountinfo, optional fields.
fn is_shared(table: &str) -> bool {
    let mut of_root = table.lines().filter(|line| line.split(' ').nth(4) == Some("/"));
    of_root.next_back().is_some_and(|line| {
        line.split(' ').skip(6).take_while(|part| *part != "-").any(|part| part.starts_with("shared:"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_root_is_told_from_a_shared_one() {
        assert!(is_shared("1 0 8:1 / / rw,noatime shared:1 - ext4 /dev/a rw\n2 1 0:9 / /run rw - tmpfs t rw\n"));
        assert!(!is_shared("1 0 8:1 / / rw - ext4 shared:1 rw\n2 1 0:9 / /run rw shared:2 - tmpfs t rw\n"));
    }
}

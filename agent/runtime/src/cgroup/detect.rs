//! Which hierarchies are mounted, from /proc/self/mountinfo.

use std::path::PathBuf;
use std::sync::OnceLock;

use super::CgroupError;

/// One v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Controllers, or `name=x`.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
}

/// What the machine has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// v1, in mount order; empty on a pure v2 machine.
    pub v1: Vec<Hierarchy>,
    /// The v2 mount; beside v1 it is the hybrid layout's.
    pub unified: Option<PathBuf>,
}

/// Reads the mounts of this process, once: a machine mounts its hierarchies when it starts, and the list is as long as there
/// are pods.
pub fn detect() -> Result<&'static Hierarchies, CgroupError> {
    static NONE: Hierarchies = Hierarchies { v1: Vec::new(), unified: None };
    static FOUND: OnceLock<Hierarchies> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found);
    }
    let text = std::fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Mountinfo)?;
    let found = parse(&text);
    // What is not there yet is looked for again.
    Ok(if found == NONE { &NONE } else { FOUND.get_or_init(|| found) })
}

const V1_OPTIONS: [&str; 14] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "pids",
    "blkio",
    "freezer",
    "devices",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
    "misc",
];

fn parse(text: &str) -> Hierarchies {
    let mut found = Hierarchies::default();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(mount) = left.split(' ').nth(4).map(unescape) else { continue };
        let mut right = right.split(' ');
        match right.next() {
            Some("cgroup2") => {
                found.unified.get_or_insert(mount);
            }
            Some("cgroup") => {
                let options = right.nth(1).unwrap_or("");
                let controllers: Vec<String> = options
                    .split(',')
                    .filter(|option| V1_OPTIONS.contains(option) || option.starts_with("name="))
                    .map(str::to_owned)
                    .collect();
                if !controllers.is_empty() && !found.v1.iter().any(|known| known.controllers == controllers) {
                    found.v1.push(Hierarchy { controllers, mount });
                }
            }
            _ => {}
        }
    }
    found
}

/// mountinfo writes blanks and backslashes in octal.
fn unescape(text: &str) -> PathBuf {
    let mut plain = text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
    plain = plain.replace("\\134", "\\");
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_and_pure() {
        let hybrid = parse(
            "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw shared:9 - cgroup systemd rw,xattr,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\nnonsense\n",
        );
        assert_eq!(hybrid.v1[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(hybrid.v1[1].controllers, ["name=systemd"]);
        assert_eq!(hybrid.unified, Some("/sys/fs/cgroup/unified".into()));
        let pure = parse("41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(pure.v1.is_empty());
        assert_eq!(pure.unified, Some("/sys/fs/cgroup".into()));
    }
}

//! Which features the kernel has, and what stands in for those that it lacks (design D9). What the floor brings is not
//! listed: openat2(2) (5.6), clone3(2) into a cgroup (5.7), namespaces by pidfd (5.8).

use std::fs;

use super::Finding;

/// The oldest kernel that is supported.
const FLOOR: (u32, u32) = (5, 10);

/// A feature, the kernel that brought it, and what is done without it.
const FEATURES: [(&str, (u32, u32), &str); 4] = [
    ("mount_setattr(2)", (5, 12), "mounts are made read-only one by one, and the program runs from a copy in memory"),
    ("cgroup.kill", (5, 14), "the processes of a cgroup are killed one by one"),
    ("overlay mounts over id-mapped layers", (5, 19), "pods with hostUsers: false do not start"),
    ("id-mapped mounts of tmpfs", (6, 3), "pods with hostUsers: false do not start"),
];

/// The running kernel's release, such as `6.1.0-56-cloud-amd64`.
pub(super) fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// The first two numbers of a release.
pub(super) fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

pub(super) fn findings(release: &str) -> Vec<Finding> {
    let version = version(release);
    if version < FLOOR {
        let what = format!("kernel {release} is older than {}.{}", FLOOR.0, FLOOR.1);
        return vec![Finding::Broken(what, "boot a newer kernel".into())];
    }
    let lacking = FEATURES.iter().filter(|(_, since, _)| version < *since).map(|(feature, since, instead)| {
        Finding::Thin(format!("kernel {release} has no {feature} (since {}.{}): {instead}", since.0, since.1))
    });
    [Finding::Fine(format!("kernel {release}"))].into_iter().chain(lacking).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_told_what_stands_in() {
        let count = |release: &str| findings(release).len();
        assert_eq!((count("6.1.0-56-cloud-amd64"), count("5.13.1"), count("5.10.0-8-amd64")), (2, 4, 5));
        assert!(matches!(findings("4.19.0").as_slice(), [Finding::Broken(what, _)] if what.contains("5.10")));
    }
}

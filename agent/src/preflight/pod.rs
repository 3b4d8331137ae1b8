//! What pods may ask for beyond the plain: profiles of security modules, memory that is not swapped, limits of processes,
//! their time when the machine goes down. Pods that ask for none of it run without.

use std::fs;
use std::path::Path;

use super::Finding;
use crate::cpus;
use crate::topology::NODES_MAX;

/// What a look at the machine showed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// /sys/kernel/security/lsm: the security modules that are on.
    modules: String,
    /// /proc/swaps has more than its head.
    swaps: bool,
    /// Controllers of the cgroups.
    has_hugetlb: bool,
    has_pids: bool,
    has_cpuset: bool,
    /// The cgroups are those of version 2 for everything.
    is_v2: bool,
    systemd: bool,
    /// max_user_namespaces is not 0.
    user_namespaces: bool,
    /// NUMA nodes that are on; none where the kernel tells of none.
    numa_nodes: usize,
}

impl Seen {
    fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let numa_nodes = cpus::set::parse(&read("/sys/devices/system/node/online")).map_or(0, |all| all.len());
        let of_v1 = |name: &str| Path::new("/sys/fs/cgroup").join(name).is_dir();
        let of_v2 =
            ["/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/unified/cgroup.controllers"].map(read).join(" ");
        let has = |name: &str| of_v1(name) || of_v2.split_whitespace().any(|own| own == name);
        // Where securityfs is not mounted AppArmor still tells of itself.
        let apparmor = read("/sys/module/apparmor/parameters/enabled").trim() == "Y";
        let selinux = Path::new("/sys/fs/selinux/enforce").exists();
        let named = [(apparmor, ",apparmor"), (selinux, ",selinux")];
        let modules = named.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect::<String>();
        Self {
            modules: read("/sys/kernel/security/lsm") + &modules,
            swaps: read("/proc/swaps").lines().count() > 1,
            numa_nodes,
            has_hugetlb: has("hugetlb"),
            has_pids: has("pids"),
            has_cpuset: has("cpuset"),
            is_v2: agent_runtime::cgroup::is_v2(),
            systemd: Path::new("/run/systemd/system").is_dir(),
            user_namespaces: read("/proc/sys/user/max_user_namespaces")
                .trim()
                .parse::<u64>()
                .is_ok_and(|most| most > 0),
        }
    }

    fn findings(&self) -> Vec<Finding> {
        let has = |module: &str| self.modules.split(',').any(|own| own.trim() == module);
        let mut findings = Vec::new();
        let mut thin = |is_so: bool, what: &str| {
            if is_so {
                findings.push(Finding::Thin(what.to_owned()));
            }
        };
        thin(
            !has("apparmor"),
            "AppArmor is off: pods with an appArmorProfile of type Localhost fail; boot with apparmor=1 security=apparmor",
        );
        thin(
            !has("selinux"),
            "SELinux is off: seLinuxOptions of pods do nothing; boot with selinux=1 security=selinux and load a policy",
        );
        thin(
            self.swaps && !self.is_v2,
            "swap is on: what pods ask of memory may lie on a disk; swapoff -a, and take swap out of /etc/fstab",
        );
        thin(
            !self.has_hugetlb,
            "the cgroup controller hugetlb is missing: limits of huge pages do not hold; boot a kernel with CONFIG_CGROUP_HUGETLB",
        );
        thin(
            !self.has_pids,
            "the cgroup controller pids is missing: --pod-max-pids fails; boot a kernel with CONFIG_CGROUP_PIDS",
        );
        thin(
            !self.has_cpuset,
            "the cgroup controller cpuset is missing: --cpu-manager-policy static fails; boot a kernel with CONFIG_CPUSETS",
        );
        thin(
            !self.is_v2,
            "cgroup v2 is not there for everything: --memory-qos, --memory-reservation-policy and --swap-behavior are refused; boot \
             with systemd.unified_cgroup_hierarchy=1",
        );
        thin(
            !self.systemd,
            "systemd does not run here: --shutdown-grace-period does nothing, nobody says that the machine goes down",
        );
        thin(
            !self.user_namespaces,
            "user namespaces are off: pods with hostUsers: false fail; sysctl -w user.max_user_namespaces=65536",
        );
        if self.numa_nodes > NODES_MAX {
            findings.push(Finding::Thin(format!(
                "this machine has {} NUMA nodes: --topology-manager-policy can only be none with more than {NODES_MAX}",
                self.numa_nodes
            )));
        }
        findings
    }
}

pub(super) fn findings() -> Vec<Finding> {
    Seen::look().findings()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_lacks_is_named_with_what_to_do() {
        let all = Seen {
            modules: "capability,landlock,apparmor,selinux".into(),
            swaps: false,
            has_hugetlb: true,
            has_pids: true,
            has_cpuset: true,
            is_v2: true,
            systemd: true,
            user_namespaces: true,
            numa_nodes: 2,
        };
        assert_eq!(all.findings(), []);
        let large = Seen { numa_nodes: 16, ..all }.findings();
        assert!(matches!(&large[..], [Finding::Thin(text)] if text.contains("has 16 NUMA nodes")), "{large:?}");
        let told = Seen { modules: "capability".into(), swaps: true, ..Seen::default() }.findings();
        assert_eq!(told.len(), 9);
        let is_advice = |finding: &Finding| matches!(finding, Finding::Thin(text) if text.contains(": "));
        assert!(told.iter().all(is_advice));
    }
}

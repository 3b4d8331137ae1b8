//! Software on this machine whose settings keep packets from pods, and how to make room for us.

use std::fs;

use agent_network::Barrier;
use ipnet::Ipv4Net;

use super::Finding;

/// What else is on the machine.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// Chains that drop forwarded packets; `None` where nobody says.
    barriers: Option<Vec<Barrier>>,
    /// Rules of the old iptables, which nftables does not show.
    legacy_filter: bool,
    docker: bool,
    ufw: bool,
    firewalld: bool,
    network_manager: bool,
    /// NetworkManager is told to leave links of kind veth alone.
    veth_unmanaged: bool,
}

impl Neighbours {
    pub(super) fn look() -> Self {
        let programs = running();
        let runs = |name: &str| programs.iter().any(|program| program == name);
        let tables = fs::read_to_string("/proc/net/ip_tables_names").unwrap_or_default();
        let rules = ["/usr/lib/udev/rules.d", "/lib/udev/rules.d", "/etc/udev/rules.d"];
        let ufw = fs::read_to_string("/etc/ufw/ufw.conf").unwrap_or_default();
        Self {
            barriers: agent_network::forward_barriers().ok(),
            legacy_filter: tables.lines().any(|table| table == "filter"),
            docker: runs("dockerd"),
            ufw: ufw.lines().any(|line| line.trim().eq_ignore_ascii_case("ENABLED=yes")),
            firewalld: runs("firewalld"),
            network_manager: runs("NetworkManager"),
            veth_unmanaged: rules.iter().any(|dir| leaves_veth_alone(dir)),
        }
    }
}

/// Names of the processes; proc(5), comm.
fn running() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).collect()
}

/// Whether a directory of udev rules marks veth links as unmanaged, as NetworkManager's own package does.
fn leaves_veth_alone(dir: &str) -> bool {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    texts.any(|text| text.lines().any(|line| line.contains("veth") && line.contains("NM_UNMANAGED")))
}

pub(super) fn findings(neighbours: &Neighbours, pods: Ipv4Net) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(barriers) = &neighbours.barriers else {
        return vec![Finding::Thin("nftables does not tell its chains: other firewalls are not looked at".into())];
    };
    for Barrier { table, chain } in barriers {
        let fix = fix(neighbours, table, pods);
        findings.push(Finding::Thin(format!(
            "chain {chain} of table {table} drops forwarded packets, those of pods too: {fix}"
        )));
    }
    if neighbours.legacy_filter {
        findings.push(Finding::Thin(
            "rules of the old iptables are loaded and cannot be looked at: see that the policy of FORWARD is ACCEPT \
             (iptables-legacy -S FORWARD), or run iptables-legacy -P FORWARD ACCEPT"
                .into(),
        ));
    }
    if neighbours.network_manager && !neighbours.veth_unmanaged {
        findings.push(Finding::Thin(
            "NetworkManager may take over the links of pods: put `[keyfile]` and \
             `unmanaged-devices=driver:veth` into /etc/NetworkManager/conf.d/gantry.conf and reload it"
                .into(),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::Fine("no other firewall drops packets of pods".into()));
    }
    findings
}

/// The way that the owner of a chain has for letting others pass.
fn fix(neighbours: &Neighbours, table: &str, pods: Ipv4Net) -> String {
    if table == "firewalld" || neighbours.firewalld {
        return format!(
            "run firewall-cmd --permanent --zone=trusted --add-source={pods} && firewall-cmd --reload (firewalld)"
        );
    }
    if neighbours.ufw {
        return format!("run ufw route allow from {pods} && ufw route allow to {pods} (ufw)");
    }
    if neighbours.docker {
        return format!(
            "run iptables -I DOCKER-USER -s {pods} -j ACCEPT && iptables -I DOCKER-USER -d {pods} -j ACCEPT (Docker)"
        );
    }
    format!("accept packets from and to {pods} there, or make its policy accept (nft list table shows it)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> Ipv4Net {
        "10.42.0.0/16".parse().unwrap()
    }

    fn said(neighbours: &Neighbours) -> String {
        format!("{:?}", findings(neighbours, pods()))
    }

    #[test]
    fn each_firewall_is_told_in_its_own_words() {
        let barrier = || Some(vec![Barrier { table: "filter".into(), chain: "FORWARD".into() }]);
        let docker = Neighbours { barriers: barrier(), docker: true, ..Neighbours::default() };
        assert!(said(&docker).contains("DOCKER-USER -s 10.42.0.0/16"));
        // ufw is asked first where both are there: its chains come before Docker's.
        let both = Neighbours { barriers: barrier(), docker: true, ufw: true, ..Neighbours::default() };
        assert!(said(&both).contains("ufw route allow from 10.42.0.0/16"));
        let firewalld = Neighbours { barriers: barrier(), firewalld: true, ..Neighbours::default() };
        assert!(said(&firewalld).contains("--add-source=10.42.0.0/16"));
        let nobody = Neighbours { barriers: barrier(), ..Neighbours::default() };
        assert!(said(&nobody).contains("make its policy accept"));
    }

    #[test]
    fn a_machine_of_our_own_is_fine() {
        let alone = Neighbours { barriers: Some(vec![]), ..Neighbours::default() };
        assert!(matches!(findings(&alone, pods()).as_slice(), [Finding::Fine(_)]));
        let managed = Neighbours { barriers: Some(vec![]), network_manager: true, ..Neighbours::default() };
        assert!(said(&managed).contains("unmanaged-devices=driver:veth"));
        let left_alone = Neighbours { veth_unmanaged: true, ..managed };
        assert!(matches!(findings(&left_alone, pods()).as_slice(), [Finding::Fine(_)]));
    }
}

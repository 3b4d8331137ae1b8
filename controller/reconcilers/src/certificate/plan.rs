//! What becomes of a certificate request: pure.
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

const CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING: &str = "kubernetes.io/kubelet-serving";
const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";
const HOUR: i64 = 3600;

/// A request that nobody has decided about yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) signer: String,
    pub(crate) username: String,
    pub(crate) common_name: String,
    pub(crate) organizations: Vec<String>,
    pub(crate) dns_names: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
    /// It names something else besides: e-mail, URI.
    pub(crate) has_other_names: bool,
}

/// What is known of the cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// The nodes that there are, and their addresses.
    pub(crate) nodes: BTreeMap<String, Vec<IpAddr>>,
    /// Where the API server answers.
    pub(crate) servers: Vec<IpAddr>,
    /// Addresses of Services and pods: no node is reached by one.
    pub(crate) ranges: Vec<IpNet>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Somebody else decides.
    Leave,
    /// Approve, if the one who asks may create this subresource of certificatesigningrequests.
    Approve { subresource: &'static str },
    /// Deny: what is asked for belongs to somebody else.
    Deny(String),
}

/// Decides about a request for a node's certificate.
pub(crate) fn judge(asked: &Asked, known: &Known) -> Verdict {
    let Some(node) = asked.common_name.strip_prefix(NODE_PREFIX).filter(|node| !node.is_empty()) else {
        return Verdict::Leave;
    };
    if asked.organizations != [NODES] || asked.has_other_names {
        return Verdict::Leave;
    }
    let is_own = asked.username == asked.common_name;
    match asked.signer.as_str() {
        CLIENT if !asked.dns_names.is_empty() || !asked.addresses.is_empty() => Verdict::Leave,
        CLIENT if is_own => Verdict::Approve { subresource: "selfnodeclient" },
        // A token lets machines join; it must not make one of them another that is there already.
        CLIENT if known.nodes.contains_key(node) => Verdict::Deny(format!(
            "node {node} exists already: join by another name, or delete that node first if this machine takes its place"
        )),
        CLIENT => Verdict::Approve { subresource: "nodeclient" },
        SERVING if !is_own => Verdict::Leave,
        SERVING => match foreign(asked, node, known) {
            Some(whose) => Verdict::Deny(whose),
            None => Verdict::Approve { subresource: "selfnodeserver" },
        },
        _ => Verdict::Leave,
    }
}

/// What a serving certificate would name that is not the node's.
fn foreign(asked: &Asked, node: &str, known: &Known) -> Option<String> {
    if let Some(name) = asked.dns_names.iter().find(|name| *name != node) {
        return Some(format!("{name} is not the name of node {node}"));
    }
    asked.addresses.iter().find_map(|address| {
        // An IPv4 address that is written as IPv6 is what it is.
        let address = &address.to_canonical();
        let other = known.nodes.iter().find(|(other, held)| *other != node && held.contains(address));
        if let Some((other, _)) = other {
            return Some(format!("{address} is an address of node {other}"));
        }
        if known.servers.contains(address) {
            return Some(format!("{address} is an address of the API server"));
        }
        let in_range = known.ranges.iter().any(|range| range.contains(address));
        (in_range || api::address::special(*address).is_some()).then(|| format!("{address} is no address of a node"))
    })
}

/// Requests for pods' certificates are forgotten this long after they were made, in seconds: answered or not, their agent
/// does not wait any longer.
pub(crate) const POD_LIFETIME: i64 = HOUR / 4;

/// How a request stands that was decided about, or was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Pending,
    Approved,
    Refused,
}

/// When a request may be forgotten, in seconds after it was made: an hour once it was decided, a day otherwise.
pub(crate) fn lifetime(standing: Standing) -> i64 {
    match standing {
        Standing::Approved | Standing::Refused => HOUR,
        Standing::Pending => 24 * HOUR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lets_machines_join_and_nobody_becomes_somebody_else() {
        let known = Known {
            nodes: BTreeMap::from([
                ("a".to_owned(), vec!["10.0.0.1".parse().unwrap()]),
                ("b".to_owned(), vec!["10.0.0.2".parse().unwrap()]),
            ]),
            servers: vec!["10.0.0.9".parse().unwrap()],
            ranges: vec!["10.43.0.0/16".parse().unwrap()],
        };
        let asked = |signer: &str, username: &str, node: &str, dns: &[&str], addresses: &[&str]| Asked {
            signer: signer.into(),
            username: username.into(),
            common_name: format!("system:node:{node}"),
            organizations: vec![NODES.into()],
            dns_names: dns.iter().map(|name| (*name).to_owned()).collect(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            has_other_names: false,
        };
        let token = "system:bootstrap:abcdef";
        let approve = |subresource| Verdict::Approve { subresource };
        let denied = |asked: &Asked| matches!(judge(asked, &known), Verdict::Deny(_));
        assert_eq!(judge(&asked(CLIENT, token, "new", &[], &[]), &known), approve("nodeclient"));
        assert_eq!(judge(&asked(CLIENT, "system:node:a", "a", &[], &[]), &known), approve("selfnodeclient"));
        assert!(denied(&asked(CLIENT, token, "a", &[], &[])), "a token makes nobody node a");
        assert!(denied(&asked(CLIENT, "system:node:b", "a", &[], &[])), "nor does another node's certificate");
        assert_eq!(judge(&asked(CLIENT, token, "new", &["x"], &[]), &known), Verdict::Leave);

        let serving = |dns: &[&str], addresses: &[&str]| asked(SERVING, "system:node:a", "a", dns, addresses);
        assert_eq!(judge(&serving(&["a"], &["10.0.0.1", "10.0.0.7"]), &known), approve("selfnodeserver"));
        for (dns, address) in [
            ("b", "10.0.0.1"),
            ("kubernetes.default.svc", "10.0.0.1"),
            ("a", "10.0.0.2"),
            ("a", "10.0.0.9"),
            ("a", "10.43.0.1"),
            ("a", "127.0.0.1"),
            ("a", "169.254.169.254"),
            ("a", "::ffff:10.0.0.9"),
        ] {
            assert!(denied(&serving(&[dns], &[address])), "{dns} {address}");
        }
        assert_eq!(judge(&asked(SERVING, token, "a", &["a"], &[]), &known), Verdict::Leave);

        let mut other = asked(CLIENT, token, "new", &[], &[]);
        other.organizations = vec!["system:masters".into()];
        assert_eq!(judge(&other, &known), Verdict::Leave);
        assert_eq!(
            judge(&asked("kubernetes.io/kube-apiserver-client", token, "new", &[], &[]), &known),
            Verdict::Leave
        );
    }
}

//! Which part of the cluster's addresses belongs to which node: pure.
use ipnet::Ipv4Net;
use std::collections::BTreeSet;

/// The cluster's addresses and the size of a part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ranges {
    cluster: Ipv4Net,
    prefix: u8,
}

impl Ranges {
    /// The parts of `cluster` with this prefix length.
    pub(crate) fn new(cluster: Ipv4Net, prefix: u8) -> Self {
        Self { cluster: cluster.trunc(), prefix }
    }

    /// The first part that overlaps none of those taken.
    pub(super) fn free<'a>(&self, taken: impl Iterator<Item = &'a str>) -> Option<Ipv4Net> {
        let taken: BTreeSet<Ipv4Net> =
            taken.filter_map(|text| text.parse::<Ipv4Net>().ok()).map(|n| n.trunc()).collect();
        let odd: Vec<&Ipv4Net> = taken.iter().filter(|net| net.prefix_len() != self.prefix).collect();
        self.cluster
            .subnets(self.prefix)
            .ok()?
            .find(|part| !taken.contains(part) && odd.iter().all(|net| !net.contains(part) && !part.contains(*net)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_one() {
        let ranges = Ranges::new("10.42.0.0/16".parse().unwrap(), 24);
        let free = |taken: &[&str]| ranges.free(taken.iter().copied()).map(|net| net.to_string());
        assert_eq!(free(&[]).as_deref(), Some("10.42.0.0/24"));
        assert_eq!(free(&["10.42.0.0/24", "10.42.2.0/24", "fd00::/64", "x"]).as_deref(), Some("10.42.1.0/24"));
        assert_eq!(free(&["10.42.0.0/17"]).as_deref(), Some("10.42.128.0/24"));
        assert_eq!(free(&["10.0.0.0/8"]), None);
        assert!(Ranges::new("10.42.0.0/16".parse().unwrap(), 8).free(std::iter::empty()).is_none());
    }
}

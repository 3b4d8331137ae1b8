//! The names that carry an instance, so that several share a machine and `reset` finds its own.

use std::net::Ipv4Addr;

use crate::NetworkError;

/// The first eight hexadecimal digits of the hash of a data-dir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    digits: String,
    group: u32,
}

impl Instance {
    pub(crate) fn parse(digits: &str) -> Result<Instance, NetworkError> {
        let lower_hex = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u32::from_str_radix(digits, 16) {
            Ok(group) if lower_hex && digits.len() == 8 => Ok(Instance { digits: digits.to_owned(), group }),
            _ => Err(NetworkError::Instance { instance: digits.to_owned() }),
        }
    }

    /// What the names of all links start with; the rules match it.
    pub(crate) fn link_prefix(&self) -> String {
        format!("g{}", &self.digits[..6])
    }

    /// The host's end of the pod at `address`: 15 characters, the most that the kernel takes. An address is leased to
    /// one pod at a time, so names cannot collide within an instance.
    pub(crate) fn link_name(&self, address: Ipv4Addr) -> String {
        format!("{}{:08x}", self.link_prefix(), u32::from(address))
    }

    /// All eight digits as the group of the links: a name has room for six only.
    pub(crate) fn link_group(&self) -> u32 {
        self.group
    }

    /// The metric of the routes to other nodes, by which they are known; 0 would mean none.
    pub(crate) fn route_metric(&self) -> u32 {
        self.group.max(1)
    }

    /// The nftables table of the rules of Services.
    pub(crate) fn service_table(&self) -> String {
        format!("gantry-{}-services", self.digits)
    }

    /// The nftables table.
    pub(crate) fn table(&self) -> String {
        format!("gantry-{}", self.digits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_tell_instances_apart() {
        let one = Instance::parse("0a1b2c3d").unwrap();
        assert_eq!(one.link_name(Ipv4Addr::new(10, 42, 0, 5)), "g0a1b2c0a2a0005");
        assert_eq!(one.link_name(Ipv4Addr::BROADCAST).len(), 15);
        assert_eq!(one.table(), "gantry-0a1b2c3d");
        let other = Instance::parse("0a1b2c3e").unwrap();
        assert_ne!(one.link_group(), other.link_group());
    }

    #[test]
    fn anything_but_eight_lower_case_digits_is_refused() {
        for bad in ["", "0a1b2c3", "0a1b2c3d4", "0A1B2C3D", "+a1b2c3d", "ghijklmn", "äää12"] {
            assert!(matches!(Instance::parse(bad), Err(NetworkError::Instance { .. })), "{bad:?}");
        }
    }
}

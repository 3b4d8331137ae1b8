//! Addresses that belong to every machine and so to none.

use std::net::IpAddr;

/// Why an address is no other machine's (`ValidateNonSpecialIP` of Kubernetes); an IPv4 address that is written as IPv6
/// is what it is.
pub fn special(address: IpAddr) -> Option<&'static str> {
    let address = address.to_canonical();
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    match address {
        _ if address.is_unspecified() => Some("may not be unspecified"),
        _ if address.is_loopback() => Some("may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        _ if is_link_local => Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        _ if address.is_multicast() => Some("may not be in the multicast range (224.0.0.0/4, ff00::/8)"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_have_plain_addresses() {
        for (address, word) in [
            ("0.0.0.0", Some("unspecified")),
            ("127.0.0.9", Some("loopback")),
            ("::ffff:127.0.0.1", Some("loopback")),
            ("169.254.169.254", Some("link-local")),
            ("ff02::1", Some("multicast")),
            ("10.0.0.1", None),
            ("fd00::1", None),
        ] {
            let told = special(address.parse().unwrap());
            assert_eq!(told.is_some(), word.is_some(), "{address}");
            assert!(told.unwrap_or_default().contains(word.unwrap_or_default()), "{address}");
        }
    }
}

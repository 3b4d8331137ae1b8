//! Which pod holds which address: a pure table.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::NetworkError;

/// The addresses of the node's range and who holds them. Addresses are handed out round robin, so that one freed a
/// moment ago, which peers may still talk to, is the last to come back.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    holders: BTreeMap<Ipv4Addr, String>,
    addresses: HashMap<String, Ipv4Addr>,
    last: Option<Ipv4Addr>,
}

/// What asking for an address gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leased {
    /// The pod holds it already.
    Held(Ipv4Addr),
    /// It was free until now.
    New(Ipv4Addr),
}

impl Pool {
    /// Takes a known lease in; an address that another pod holds is refused with that pod's uid.
    pub(crate) fn adopt(&mut self, uid: &str, address: Ipv4Addr) -> Result<(), String> {
        if let Some(holder) = self.holders.get(&address) {
            return Err(holder.clone());
        }
        self.holders.insert(address, uid.to_owned());
        self.addresses.insert(uid.to_owned(), address);
        self.last = Some(address);
        Ok(())
    }

    /// The pod's address, a free one of `range` if it has none: never its first (the gateway's side), network or
    /// broadcast address.
    pub(crate) fn lease(&mut self, uid: &str, range: Ipv4Net) -> Result<Leased, NetworkError> {
        if let Some(address) = self.addresses.get(uid) {
            return Ok(Leased::Held(*address));
        }
        let (lowest, highest) = bounds(range)?;
        let start = match self.last {
            Some(last) if (lowest..highest).contains(&u32::from(last)) => u32::from(last) + 1,
            Some(_) | None => lowest,
        };
        let free = (start..=highest)
            .chain(lowest..start)
            .map(Ipv4Addr::from)
            .find(|address| !self.holders.contains_key(address))
            .ok_or(NetworkError::Exhausted { range, taken: self.holders.len() })?;
        self.holders.insert(free, uid.to_owned());
        self.addresses.insert(uid.to_owned(), free);
        self.last = Some(free);
        Ok(Leased::New(free))
    }

    pub(crate) fn address(&self, uid: &str) -> Option<Ipv4Addr> {
        self.addresses.get(uid).copied()
    }

    pub(crate) fn holds(&self, address: Ipv4Addr) -> bool {
        self.holders.contains_key(&address)
    }

    pub(crate) fn free(&mut self, uid: &str) {
        if let Some(address) = self.addresses.remove(uid) {
            self.holders.remove(&address);
        }
    }

    pub(crate) fn uids(&self) -> Vec<String> {
        self.addresses.keys().cloned().collect()
    }
}

/// The address of the host in the range: what pods see connections from the node come from.
pub(crate) fn node_address(range: Ipv4Net) -> Result<Ipv4Addr, NetworkError> {
    bounds(range).map(|(lowest, _)| Ipv4Addr::from(lowest - 1))
}

/// The lowest and highest address for pods.
fn bounds(range: Ipv4Net) -> Result<(u32, u32), NetworkError> {
    if range.prefix_len() > 30 {
        return Err(NetworkError::RangeTooSmall { range });
    }
    Ok((u32::from(range.network()) + 2, u32::from(range.broadcast()) - 1))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn a_freed_address_comes_back_last() {
        let mut pool = Pool::default();
        let range = range("10.1.0.0/29");
        assert_eq!(pool.lease("a", range).unwrap(), Leased::New(Ipv4Addr::new(10, 1, 0, 2)));
        pool.free("a");
        for last in [3, 4, 5, 6, 2] {
            let uid = last.to_string();
            assert_eq!(pool.lease(&uid, range).unwrap(), Leased::New(Ipv4Addr::new(10, 1, 0, last)));
        }
        let error = pool.lease("one too many", range).unwrap_err();
        assert_eq!(error.to_string(), "pod range 10.1.0.0/29 has no free address: 5 are taken");
    }

    #[test]
    fn the_ends_of_the_address_space_do_not_overflow() {
        assert_eq!(node_address(range("0.0.0.0/0")).unwrap(), Ipv4Addr::new(0, 0, 0, 1));
        assert!(node_address(range("10.0.0.0/31")).is_err());
        let mut pool = Pool::default();
        let top = range("255.255.255.252/30");
        assert_eq!(pool.lease("a", top).unwrap(), Leased::New(Ipv4Addr::new(255, 255, 255, 254)));
        assert!(pool.lease("b", top).is_err());
    }

    proptest! {
        #[test]
        fn no_two_pods_share_an_address(
            prefix in 24u8..=30,
            steps in prop::collection::vec((any::<bool>(), 0u8..40), 0..200),
        ) {
            let range = Ipv4Net::new(Ipv4Addr::new(10, 7, 3, 0), prefix).unwrap().trunc();
            let capacity = (1usize << (32 - prefix)) - 3;
            let mut pool = Pool::default();
            let mut model: HashMap<String, Ipv4Addr> = HashMap::new();
            for (add, number) in steps {
                let uid = number.to_string();
                if add {
                    match pool.lease(&uid, range) {
                        Ok(Leased::Held(address)) => prop_assert_eq!(model.get(&uid), Some(&address)),
                        Ok(Leased::New(address)) => {
                            prop_assert!(!model.contains_key(&uid));
                            prop_assert!(range.contains(&address));
                            prop_assert!(![range.network(), range.broadcast(), node_address(range).unwrap()].contains(&address));
                            model.insert(uid, address);
                        }
                        Err(_) => prop_assert_eq!(model.len(), capacity),
                    }
                } else {
                    pool.free(&uid);
                    model.remove(&uid);
                }
                let distinct: HashSet<_> = model.values().collect();
                prop_assert_eq!(distinct.len(), model.len());
                prop_assert_eq!(pool.holders.len(), model.len());
            }
        }
    }
}

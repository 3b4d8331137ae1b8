//! The rules of Services as a value: what `plan` makes and `difference` compares.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::Protocol;

/// Address and port of an endpoint.
pub(crate) type Backend = (Ipv4Addr, u16);

/// Everything that Services change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    /// What is done with a new connection, by the chain's name.
    pub(crate) chains: BTreeMap<String, Chain>,
    /// Which chain an address, protocol and port lead to.
    pub(crate) addresses: BTreeMap<(Ipv4Addr, Protocol, u16), String>,
    /// Which chain a port of this machine leads to.
    pub(crate) ports: BTreeMap<(Protocol, u16), String>,
    /// Outside addresses whose Services have nothing behind them. Packets for those would be sent on for ever.
    pub(crate) refused: BTreeSet<(Ipv4Addr, Protocol, u16)>,
    /// Endpoints that may meet themselves behind a Service: then they must not see their own address.
    pub(crate) local: BTreeSet<Ipv4Addr>,
    /// Endpoints elsewhere, which must answer by way of this node to clients that are not pods.
    pub(crate) remote: BTreeSet<Ipv4Addr>,
}

/// One chain: a new connection goes to one of the backends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Where pods' connections go instead, if not to `backends` too.
    pub(crate) from_pods: Option<Vec<Backend>>,
    /// In order, without doubles; not empty unless `from_pods` is set.
    pub(crate) backends: Vec<Backend>,
    /// How long a client stays with its backend.
    pub(crate) affinity_seconds: Option<u32>,
}

impl Ruleset {
    /// What must hold for every ruleset; a sentence for the first thing that does not.
    #[cfg(test)]
    pub(crate) fn validate(&self) -> Result<(), String> {
        let named: BTreeSet<&String> = self.addresses.values().chain(self.ports.values()).collect();
        if let Some(lost) = named.iter().find(|name| !self.chains.contains_key(**name)) {
            return Err(format!("{lost} is led to and does not exist"));
        }
        if let Some(idle) = self.chains.keys().find(|name| !named.contains(name)) {
            return Err(format!("{idle} is led to by nothing"));
        }
        for (name, chain) in &self.chains {
            if chain.backends.is_empty() && chain.from_pods.as_ref().is_none_or(Vec::is_empty) {
                return Err(format!("{name} leads nowhere"));
            }
            if !chain.backends.is_sorted_by(|a, b| a < b) {
                return Err(format!("{name} has doubles"));
            }
        }
        match self.refused.iter().find(|place| self.addresses.contains_key(place)) {
            Some(place) => Err(format!("{place:?} is both refused and led on")),
            None => Ok(()),
        }
    }
}

//! The part of the table that no Service changes.
//!
//! ```text
//! table inet gantry-INSTANCE-services {
//!   map addresses { ipv4_addr . inet_proto . inet_service : verdict }    set refused { the same key }
//!   map ports     { inet_proto . inet_service : verdict }
//!   set itself    { ipv4_addr . ipv4_addr }                              set remote  { ipv4_addr }
//!   chain prerouting, output { type nat hook ... priority dstnat; jump services }
//!   chain services { ip daddr . meta l4proto . th dport vmap @addresses
//!                    fib daddr type local meta l4proto . th dport vmap @ports }
//!   chain forward, outward   { type filter hook forward, output; jump refuse }
//!   chain refuse   { ip daddr SERVICE-RANGE reject; ip daddr . meta l4proto . th dport @refused reject }
//!   chain postrouting { type nat hook postrouting priority srcnat - 10;
//!     ip saddr . ip daddr @itself snat to NODE; oifname "gNNNNNN*" ip saddr 127.0.0.0/8 snat to NODE
//!     ip daddr @remote ip saddr != CLUSTER-RANGE ct status dnat masquerade }
//! }
//! ```
//!
//! An address of the services' range that is still a packet's destination when it is sent on belongs to no Service, to
//! one without endpoints, or is asked for a port it does not have: refused, or it would leave by the default route and
//! come back. Clients of endpoints on this node keep their address, whatever `externalTrafficPolicy` says: answers
//! pass here all the same.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::attribute::Raw;
use super::expression::{
    ADDRESS, ADDRESS_PAIR, ADDRESS_PROTOCOL_PORT, DESTINATION, DESTINATION_PORT, META_L4PROTO, META_OIFNAME,
    PROTOCOL_PORT, Register, Rule, SOURCE, SetKind, add_base_chain, add_chain, add_rule, add_set, add_table,
    delete_table,
};
use crate::netlink::Request;

pub(crate) const ADDRESSES: &str = "addresses";
pub(crate) const PORTS: &str = "ports";
pub(crate) const REFUSED: &str = "refused";
pub(crate) const ITSELF: &str = "itself";
pub(crate) const REMOTE: &str = "remote";

const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
/// Before the rules that masquerade what leaves the cluster: the first translation of a connection stays.
const PRIORITY_BEFORE_SRCNAT: i32 = 90;

/// What the rules of a node depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) table: String,
    pub(crate) link_prefix: String,
    pub(crate) service_cidr: Ipv4Net,
    pub(crate) cluster_cidr: Ipv4Net,
    /// The host's address in the pods' range.
    pub(crate) node_address: Ipv4Addr,
}

impl Place {
    /// An empty table with everything that stays.
    pub(super) fn messages(&self) -> Vec<Request<Raw>> {
        let table = self.table.as_str();
        // Adding a table that is there changes nothing, so that the removal always finds one.
        let mut all = vec![add_table(table), delete_table(table), add_table(table)];
        all.extend([
            add_set(table, ADDRESSES, ADDRESS_PROTOCOL_PORT, SetKind::VerdictMap, 1),
            add_set(table, PORTS, PROTOCOL_PORT, SetKind::VerdictMap, 2),
            add_set(table, REFUSED, ADDRESS_PROTOCOL_PORT, SetKind::Set, 3),
            add_set(table, ITSELF, ADDRESS_PAIR, SetKind::Set, 4),
            add_set(table, REMOTE, ADDRESS, SetKind::Set, 5),
        ]);
        all.extend(["services", "refuse"].map(|chain| add_chain(table, chain)));
        for (chain, kind, hook, priority, target) in [
            ("prerouting", "nat", PREROUTING, PRIORITY_DSTNAT, "services"),
            ("output", "nat", OUTPUT, PRIORITY_DSTNAT, "services"),
            ("forward", "filter", FORWARD, PRIORITY_FILTER, "refuse"),
            ("outward", "filter", OUTPUT, PRIORITY_FILTER, "refuse"),
        ] {
            all.push(add_base_chain(table, chain, kind, hook, priority));
            all.push(add_rule(table, chain, Rule::new().if_ipv4().jump(target)));
        }
        all.push(add_base_chain(table, "postrouting", "nat", POSTROUTING, PRIORITY_BEFORE_SRCNAT));
        let rules = [
            ("services", place().verdict_of(ADDRESSES, Register(0))),
            ("services", port().verdict_of(PORTS, Register(1))),
            ("refuse", self.unserved().reset_connection()),
            ("refuse", self.unserved().port_unreachable()),
            ("refuse", place().if_in(REFUSED, Register(0)).reset_connection()),
            ("refuse", place().if_in(REFUSED, Register(0)).port_unreachable()),
            ("postrouting", self.to_itself()),
            ("postrouting", self.loopback_to_pods()),
            ("postrouting", self.to_elsewhere()),
        ];
        all.extend(rules.map(|(chain, rule)| add_rule(table, chain, rule)));
        all
    }

    fn unserved(&self) -> Rule {
        Rule::new().if_ipv4().range(DESTINATION, true, self.service_cidr)
    }

    fn to_itself(&self) -> Rule {
        let pair = Rule::new().if_ipv4().load(SOURCE, Register(0)).load(DESTINATION, Register(1));
        pair.if_in(ITSELF, Register(0)).translate_source(self.node_address)
    }

    fn loopback_to_pods(&self) -> Rule {
        let to_pods = Rule::new().if_ipv4().meta(META_OIFNAME, Register(0));
        let to_pods = to_pods.compare(Register(0), true, self.link_prefix.as_bytes());
        let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
        to_pods.range(SOURCE, true, loopback).translate_source(self.node_address)
    }

    fn to_elsewhere(&self) -> Rule {
        let remote = Rule::new().if_ipv4().load(DESTINATION, Register(0)).if_in(REMOTE, Register(0));
        remote.range(SOURCE, false, self.cluster_cidr).if_translated().masquerade()
    }
}

fn place() -> Rule {
    let rule = Rule::new().if_ipv4().load(DESTINATION, Register(0));
    rule.meta(META_L4PROTO, Register(1)).load(DESTINATION_PORT, Register(2))
}

fn port() -> Rule {
    Rule::new().if_for_here().meta(META_L4PROTO, Register(1)).load(DESTINATION_PORT, Register(2))
}

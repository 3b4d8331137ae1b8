//! The instance's nftables table, replaced as a whole in one transaction.
//!
//! ```text
//! table inet gantry-INSTANCE {
//!   chain sources  { type filter hook prerouting priority raw;
//!                    iifname "gNNNNNN*" ip daddr 127.0.0.0/8 drop
//!                    iifname "gNNNNNN*" fib saddr . iif oif missing drop }
//!   chain outgoing { type nat hook postrouting priority srcnat;
//!                    ip saddr POD-RANGE ip daddr != CLUSTER-RANGE oifname != "gNNNNNN*" masquerade fully-random }
//! }
//! ```
//!
//! Numbers without a name in the crates are of the kernel's `include/uapi/linux/netfilter/nf_tables.h` and `nf_nat.h`.

use std::io;

use ipnet::Ipv4Net;
use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions, Hook, Immediate,
    InetHookNumber, ListAttribute, Meta, MetaKey, NfTablesMessage, Operator, Payload, Register, RuleAttribute,
    RuleMessage, TableAttribute, TableMessage, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::NetworkError;
use crate::instance::Instance;
use crate::netlink::{Conversation, Request};

/// `NFNL_SUBSYS_NFTABLES`: whom a transaction is for.
const SUBSYSTEM: u16 = 10;
const PRIORITY_RAW: i32 = -300;
const PRIORITY_SRCNAT: i32 = 100;
const NETWORK_HEADER: u32 = 1;
const IPV4_SOURCE: u32 = 12;
const IPV4_DESTINATION: u32 = 16;

/// What the rules are about.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) instance: Instance,
    pub(crate) pod_range: Ipv4Net,
    pub(crate) cluster_cidr: Ipv4Net,
}

impl Rules {
    /// Replaces the table by these rules; nothing changes if the kernel refuses one of them.
    pub(crate) fn install(&self) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::InstallRules { table: self.instance.table(), source };
        match transact(self.messages(true)) {
            // A kernel without `fib`: `rp_filter` of the pods' links drops forged sources alone, unless
            // `net.ipv4.conf.all.rp_filter` is 2.
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::Unsupported => {
                transact(self.messages(false)).map_err(failed)?;
                tracing::warn!(%error, "no nftables fib expression: forged pod sources are left to rp_filter");
                Ok(())
            }
            result => result.map_err(failed),
        }
    }

    fn messages(&self, check_sources: bool) -> Vec<Request<NetfilterMessage>> {
        let table = self.instance.table();
        // Adding a table that is there changes nothing, so that the removal always finds one.
        let mut messages = vec![add_table(&table), delete_table(&table), add_table(&table)];
        messages.push(add_chain(&table, "sources", "filter", InetHookNumber::PreRouting, PRIORITY_RAW));
        messages.push(add_rule(&table, "sources", self.drop_to_loopback()));
        if check_sources {
            messages.push(add_rule(&table, "sources", self.drop_forged_sources()));
        }
        messages.push(add_chain(&table, "outgoing", "nat", InetHookNumber::PostRouting, PRIORITY_SRCNAT));
        messages.push(add_rule(&table, "outgoing", self.masquerade()));
        messages
    }

    fn drop_forged_sources(&self) -> Vec<Expressions> {
        let prefix = self.instance.link_prefix();
        let mut rule = vec![load(MetaKey::Iifname), compare(Operator::Equal, prefix.as_bytes())];
        // Attributes: destination register, what to return (output interface), flags (source address, input
        // interface, presence only).
        rule.push(other("fib", &[(1, 1), (2, 1), (3, 1 | 1 << 3 | 1 << 5)]));
        rule.push(compare(Operator::Equal, &[0; 4]));
        rule.push(drop_packet());
        rule
    }

    /// Pods' links let loopback addresses pass, so that ports of this machine lead to pods at 127.0.0.1 too. The way
    /// back in, to what listens there, is closed.
    fn drop_to_loopback(&self) -> Vec<Expressions> {
        let prefix = self.instance.link_prefix();
        let mut rule = vec![load(MetaKey::Nfproto), compare(Operator::Equal, &[2])];
        rule.extend([load(MetaKey::Iifname), compare(Operator::Equal, prefix.as_bytes())]);
        let loopback = Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8);
        rule.extend(address_in(IPV4_DESTINATION, Operator::Equal, loopback));
        rule.push(drop_packet());
        rule
    }

    fn masquerade(&self) -> Vec<Expressions> {
        let mut rule = vec![load(MetaKey::Nfproto), compare(Operator::Equal, &[2])];
        rule.extend(address_in(IPV4_SOURCE, Operator::Equal, self.pod_range));
        rule.extend(address_in(IPV4_DESTINATION, Operator::NotEqual, self.cluster_cidr));
        rule.push(load(MetaKey::Oifname));
        rule.push(compare(Operator::NotEqual, self.instance.link_prefix().as_bytes()));
        // Flags: fully random ports, or connections made at once race for one port.
        rule.push(other("masq", &[(1, 1 << 4)]));
        rule
    }
}

/// Removes the instance's tables that are there.
pub(crate) fn remove(instance: &Instance) -> Result<(), NetworkError> {
    let results = [instance.service_table(), instance.table()].map(remove_table);
    NetworkError::collect(results.into_iter().filter_map(Result::err).collect())
}

fn remove_table(table: String) -> Result<(), NetworkError> {
    transact(vec![add_table(&table), delete_table(&table)])
        .map_err(|source| NetworkError::RemoveRules { table, source })
}

fn drop_packet() -> Expressions {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(0))])),
    ])
}

fn transact(messages: Vec<Request<NetfilterMessage>>) -> io::Result<()> {
    let bracket = |control: ControlMessage| {
        Request::silent(NetfilterMessage::new(
            NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM),
            control,
        ))
    };
    let mut requests = vec![bracket(ControlMessage::BatchBegin)];
    requests.extend(messages);
    requests.push(bracket(ControlMessage::BatchEnd));
    let answer = Conversation::open(NETLINK_NETFILTER)?.ask(requests)?;
    answer.results.into_iter().collect()
}

fn request(inner: NfTablesMessage, flags: u16) -> Request<NetfilterMessage> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    Request::new(NetfilterMessage::new(header, NetfilterMessageInner::NfTables(inner)), flags)
}

fn add_table(table: &str) -> Request<NetfilterMessage> {
    let attributes = vec![TableAttribute::Name(table.to_owned())];
    request(NfTablesMessage::NewTable(TableMessage { attributes }), NLM_F_CREATE)
}

fn delete_table(table: &str) -> Request<NetfilterMessage> {
    let attributes = vec![TableAttribute::Name(table.to_owned())];
    request(NfTablesMessage::DeleteTable(TableMessage { attributes }), 0)
}

fn add_chain(table: &str, name: &str, kind: &str, hook: InetHookNumber, priority: i32) -> Request<NetfilterMessage> {
    let attributes = vec![
        ChainAttribute::Table(table.to_owned()),
        ChainAttribute::Name(name.to_owned()),
        ChainAttribute::Hook(vec![Hook::Number(hook.into()), Hook::Priority(priority as u32)]),
        ChainAttribute::Type(kind.to_owned()),
    ];
    request(NfTablesMessage::NewChain(ChainMessage { attributes }), NLM_F_CREATE)
}

fn add_rule(table: &str, chain: &str, expressions: Vec<Expressions>) -> Request<NetfilterMessage> {
    let expressions: Vec<ListAttribute<ExpressionAttribute>> = expressions.into_iter().map(Into::into).collect();
    let attributes = vec![
        RuleAttribute::Table(table.to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Expressions(expressions),
    ];
    request(NfTablesMessage::NewRule(RuleMessage { attributes }), NLM_F_CREATE | NLM_F_APPEND)
}

fn load(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)])
}

/// Compares as many bytes as are given: a part of an interface's name is a prefix of it.
fn compare(operator: Operator, bytes: &[u8]) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(bytes.to_vec())),
    ])
}

fn address_in(offset: u32, operator: Operator, range: Ipv4Net) -> [Expressions; 3] {
    let value = |address: std::net::Ipv4Addr| DataAttribute::Value(address.octets().to_vec());
    [
        Expressions::Payload(vec![
            Payload::DestinationRegister(Register::Reg1),
            Payload::Base(NETWORK_HEADER),
            Payload::Offset(offset),
            Payload::Len(4),
        ]),
        Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(4),
            Bitwise::Mask(value(range.netmask())),
            Bitwise::Xor(DataAttribute::Value(vec![0; 4])),
        ]),
        compare(operator, &range.network().octets()),
    ]
}

/// An expression that the crate does not model, with numbers for attributes.
fn other(kind: &str, attributes: &[(u16, u32)]) -> Expressions {
    Expressions::Other {
        expression_type: kind.to_owned(),
        attributes: attributes
            .iter()
            .map(|(attribute, value)| DefaultNla::new(*attribute, value.to_be_bytes().to_vec()))
            .collect(),
    }
}

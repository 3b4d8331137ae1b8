//! Expressions and objects of nftables as attributes; numbers are of `include/uapi/linux/netfilter/nf_tables.h`.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::attribute::{Attributes, Raw};
use crate::netlink::Request;

/// `NFNL_SUBSYS_NFTABLES`.
pub(crate) const NFTABLES: u16 = 10;
const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u32 = 2;
/// `NFTA_LIST_ELEM`.
const ELEMENT: u16 = 1;
const GOTO: i32 = -4;
const JUMP: i32 = -3;
/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;

/// A register of four bytes; what is longer takes the following ones too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Register(pub(crate) u32);

impl Register {
    /// The one behind it.
    pub(crate) const fn next(self) -> Register {
        Register(self.0 + 1)
    }

    /// `NFT_REG32_00` and so on.
    const fn number(self) -> u32 {
        8 + self.0
    }
}

/// A rule, expression by expression.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rule(Attributes);

pub(crate) const SOURCE: (u32, u32, u32) = (1, 12, 4);
pub(crate) const DESTINATION: (u32, u32, u32) = (1, 16, 4);
pub(crate) const DESTINATION_PORT: (u32, u32, u32) = (2, 2, 2);
pub(crate) const META_OIFNAME: u32 = 7;
pub(crate) const META_NFPROTO: u32 = 15;
pub(crate) const META_L4PROTO: u32 = 16;

impl Rule {
    pub(crate) fn new() -> Rule {
        Rule::default()
    }

    fn expression(mut self, name: &str, data: Attributes) -> Rule {
        self.0 = self.0.nest(ELEMENT, Attributes::new().text(1, name).nest(2, data));
        self
    }

    /// Loads a part of the packet: header, offset and length.
    pub(crate) fn load(self, (base, offset, length): (u32, u32, u32), to: Register) -> Rule {
        let data = Attributes::new().number(1, to.number()).number(2, base).number(3, offset).number(4, length);
        self.expression("payload", data)
    }

    pub(crate) fn meta(self, key: u32, to: Register) -> Rule {
        self.expression("meta", Attributes::new().number(1, to.number()).number(2, key))
    }

    pub(crate) fn compare(self, from: Register, is_equal: bool, value: &[u8]) -> Rule {
        let value = Attributes::new().bytes(1, value);
        let data = Attributes::new().number(1, from.number()).number(2, u32::from(!is_equal)).nest(3, value);
        self.expression("cmp", data)
    }

    fn mask(self, register: Register, mask: &[u8]) -> Rule {
        let data = Attributes::new().number(1, register.number()).number(2, register.number());
        let data = data.number(3, mask.len() as u32).nest(4, Attributes::new().bytes(1, mask));
        self.expression("bitwise", data.nest(5, Attributes::new().bytes(1, &vec![0; mask.len()])))
    }

    pub(crate) fn if_ipv4(self) -> Rule {
        self.meta(META_NFPROTO, Register(0)).compare(Register(0), true, &[FAMILY_IPV4 as u8])
    }

    /// Whether an address of the packet lies in a range.
    pub(crate) fn range(self, part: (u32, u32, u32), is_in: bool, range: Ipv4Net) -> Rule {
        let rule = self.load(part, Register(0)).mask(Register(0), &range.netmask().octets());
        rule.compare(Register(0), is_in, &range.network().octets())
    }

    /// `fib daddr type local`: the packet is for this machine.
    pub(crate) fn if_for_here(self) -> Rule {
        const ADDRESS_TYPE: u32 = 3;
        const DESTINATION_ADDRESS: u32 = 2;
        const LOCAL: u32 = 2;
        let to = Register(0);
        let data = Attributes::new().number(1, to.number()).number(2, ADDRESS_TYPE).number(3, DESTINATION_ADDRESS);
        self.expression("fib", data).compare(to, true, &LOCAL.to_ne_bytes())
    }

    /// Only connections whose destination was translated (`IPS_DST_NAT`).
    pub(crate) fn if_translated(self) -> Rule {
        const STATUS: u32 = 2;
        let bit = (1u32 << 5).to_ne_bytes();
        let rule = self.expression("ct", Attributes::new().number(1, Register(0).number()).number(2, STATUS));
        rule.mask(Register(0), &bit).compare(Register(0), true, &bit)
    }

    pub(crate) fn if_in(self, set: &str, key: Register) -> Rule {
        self.expression("lookup", Attributes::new().text(1, set).number(2, key.number()))
    }

    pub(crate) fn verdict_of(self, map: &str, key: Register) -> Rule {
        self.expression("lookup", Attributes::new().text(1, map).number(2, key.number()).number(3, VERDICT))
    }

    /// The value in a map that was made for this rule alone, in this transaction.
    pub(crate) fn value_of_own(self, id: u32, key: Register, to: Register) -> Rule {
        let data = Attributes::new().text(1, OWN).number(2, key.number()).number(3, to.number()).number(4, id);
        self.expression("lookup", data)
    }

    /// A random number below `modulus`.
    pub(crate) fn random(self, modulus: u32, to: Register) -> Rule {
        const RANDOM: u32 = 1;
        self.expression("numgen", Attributes::new().number(1, to.number()).number(2, modulus).number(3, RANDOM))
    }

    pub(crate) fn constant(self, value: &[u8], to: Register) -> Rule {
        let data = Attributes::new().number(1, to.number()).nest(2, Attributes::new().bytes(1, value));
        self.expression("immediate", data)
    }

    /// Puts the key into a dynamic set, or lets it stay there for another while.
    pub(crate) fn remember(self, set: &str, key: Register) -> Rule {
        const UPDATE: u32 = 1;
        self.expression("dynset", Attributes::new().text(1, set).number(3, UPDATE).number(4, key.number()))
    }

    /// New destination: address in one register, port in the next.
    pub(crate) fn translate_destination(self, from: Register) -> Rule {
        let data = Attributes::new().number(1, 1).number(2, FAMILY_IPV4).number(3, from.number());
        let port = from.next().number();
        self.expression("nat", data.number(4, from.number()).number(5, port).number(6, port))
    }

    /// New source address, and a port by chance.
    pub(crate) fn translate_source(self, address: Ipv4Addr) -> Rule {
        const FULLY_RANDOM: u32 = 1 << 4;
        let from = Register(4);
        let data =
            Attributes::new().number(1, 0).number(2, FAMILY_IPV4).number(3, from.number()).number(4, from.number());
        self.constant(&address.octets(), from).expression("nat", data.number(7, FULLY_RANDOM))
    }

    pub(crate) fn masquerade(self) -> Rule {
        const FULLY_RANDOM: u32 = 1 << 4;
        self.expression("masq", Attributes::new().number(1, FULLY_RANDOM))
    }

    pub(crate) fn reset_connection(self) -> Rule {
        let rule = self.meta(META_L4PROTO, Register(0)).compare(Register(0), true, &[6]);
        rule.expression("reject", Attributes::new().number(1, 1).bytes(2, &[0]))
    }

    pub(crate) fn port_unreachable(self) -> Rule {
        self.expression("reject", Attributes::new().number(1, 2).bytes(2, &[1]))
    }

    pub(crate) fn jump(self, chain: &str) -> Rule {
        let data = Attributes::new().number(1, VERDICT).nest(2, verdict(JUMP, chain));
        self.expression("immediate", data)
    }
}

/// How sets of one rule are called; the kernel puts a number in.
const OWN: &str = "__own%d";

fn verdict(code: i32, chain: &str) -> Attributes {
    Attributes::new().nest(2, Attributes::new().bytes(1, &code.to_be_bytes()).text(2, chain))
}

fn message(kind: u8, attributes: Attributes) -> Raw {
    Raw::new(NFTABLES, kind, FAMILY_INET, 0, attributes)
}

const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

fn plain(kind: u8, attributes: Attributes, flags: u16) -> Request<Raw> {
    Request::quiet(message(kind, attributes), flags)
}

pub(crate) fn add_table(table: &str) -> Request<Raw> {
    plain(0, Attributes::new().text(1, table), CREATE)
}

pub(crate) fn delete_table(table: &str) -> Request<Raw> {
    plain(2, Attributes::new().text(1, table), 0)
}

pub(crate) fn add_chain(table: &str, name: &str) -> Request<Raw> {
    plain(3, Attributes::new().text(1, table).text(3, name), CREATE)
}

/// A chain at a hook (`enum nf_inet_hooks`).
pub(crate) fn add_base_chain(table: &str, name: &str, kind: &str, hook: u32, priority: i32) -> Request<Raw> {
    let hook = Attributes::new().number(1, hook).bytes(2, &priority.to_be_bytes());
    plain(3, Attributes::new().text(1, table).text(3, name).nest(4, hook).text(7, kind), CREATE)
}

pub(crate) fn delete_chain(table: &str, name: &str) -> Request<Raw> {
    plain(5, Attributes::new().text(1, table).text(3, name), 0)
}

pub(crate) fn add_rule(table: &str, chain: &str, rule: Rule) -> Request<Raw> {
    plain(6, Attributes::new().text(1, table).text(2, chain).nest(4, rule.0), CREATE | APPEND)
}

/// Removes every rule of a chain.
pub(crate) fn flush_chain(table: &str, chain: &str) -> Request<Raw> {
    plain(8, Attributes::new().text(1, table).text(2, chain), 0)
}

/// Types of keys and values, which only tools that show rules look at (libnftables' `datatype.h`).
pub(crate) const ADDRESS: &[u32] = &[7];
pub(crate) const ADDRESS_PAIR: &[u32] = &[7, 7];
pub(crate) const ADDRESS_PROTOCOL_PORT: &[u32] = &[7, 12, 13];
pub(crate) const PROTOCOL_PORT: &[u32] = &[12, 13];
const ADDRESS_PORT: &[u32] = &[7, 13];
const INTEGER: &[u32] = &[4];

fn type_of(parts: &[u32]) -> u32 {
    parts.iter().fold(0, |all, part| all << 6 | part)
}

/// What a set is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetKind {
    Set,
    VerdictMap,
    /// Addresses of clients, forgotten after some seconds without a connection.
    Clients {
        seconds: u32,
    },
}

pub(crate) fn add_set(table: &str, name: &str, key: &[u32], kind: SetKind, id: u32) -> Request<Raw> {
    const MAP: u32 = 8;
    const TIMEOUT: u32 = 0x10;
    const EVALUATED: u32 = 0x20;
    /// `NFT_DATA_VERDICT`.
    const VERDICTS: u32 = 0xffff_ff00;
    /// Clients that are remembered at most; more are sent anywhere.
    const CLIENTS: u32 = 1 << 16;
    let set = Attributes::new().text(1, table).text(2, name).number(4, type_of(key)).number(5, 4 * key.len() as u32);
    let set = set.number(10, id);
    let set = match kind {
        SetKind::Set => set.number(3, 0),
        SetKind::VerdictMap => set.number(3, MAP).number(6, VERDICTS).number(7, 0),
        SetKind::Clients { seconds } => {
            let set = set.number(3, TIMEOUT | EVALUATED);
            let set = set.nest(9, Attributes::new().number(1, CLIENTS));
            set.bytes(11, &(u64::from(seconds) * 1000).to_be_bytes())
        }
    };
    plain(9, set, CREATE)
}

/// A map for one rule: numbers to backends.
pub(crate) fn add_own_map(table: &str, id: u32) -> Request<Raw> {
    const ANONYMOUS_CONSTANT_MAP: u32 = 1 | 2 | 8;
    let set = Attributes::new().text(1, table).text(2, OWN).number(10, id).number(3, ANONYMOUS_CONSTANT_MAP);
    let set = set.number(4, type_of(INTEGER)).number(5, 4).number(6, type_of(ADDRESS_PORT)).number(7, 8);
    plain(9, set, CREATE)
}

pub(crate) fn delete_set(table: &str, name: &str) -> Request<Raw> {
    plain(11, Attributes::new().text(1, table).text(2, name), 0)
}

/// One element of a set.
#[derive(Debug, Clone)]
pub(crate) struct Element(Attributes);

impl Element {
    pub(crate) fn key(key: &[u8]) -> Element {
        Element(Attributes::new().nest(1, Attributes::new().bytes(1, key)))
    }

    pub(crate) fn value(self, value: &[u8]) -> Element {
        Element(self.0.nest(2, Attributes::new().bytes(1, value)))
    }

    pub(crate) fn goto(self, chain: &str) -> Element {
        Element(self.0.nest(2, verdict(GOTO, chain)))
    }
}

/// Elements in as many messages as needed: the length of an attribute has 16 bits.
pub(crate) fn elements(table: &str, set: SetName<'_>, adds: bool, elements: &[Element]) -> Vec<Request<Raw>> {
    const BYTES: usize = 32 * 1024;
    let mut messages = Vec::new();
    let mut list = Attributes::new();
    for (index, element) in elements.iter().enumerate() {
        list = list.nest(ELEMENT, element.0.clone());
        if list.0.len() >= BYTES || index + 1 == elements.len() {
            let part = Attributes::new().text(1, table);
            let part = match set {
                SetName::Named(name) => part.text(2, name),
                SetName::Own(id) => part.text(2, OWN).number(4, id),
            };
            let part = part.nest(3, std::mem::take(&mut list));
            messages.push(if adds { plain(12, part, CREATE) } else { plain(14, part, 0) });
        }
    }
    messages
}

/// Which set elements go to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SetName<'a> {
    Named(&'a str),
    /// One of this transaction, by its number.
    Own(u32),
}

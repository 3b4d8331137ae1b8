//! What has to change in the kernel for one ruleset to become another: the messages of one transaction. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::Protocol;
use super::attribute::Raw;
use super::expression::{
    ADDRESS, Element, Register, Rule, SOURCE, SetKind, SetName, add_chain, add_own_map, add_rule, add_set,
    delete_chain, delete_set, elements, flush_chain,
};
use super::fixed::{ADDRESSES, ITSELF, PORTS, Place, REFUSED, REMOTE};
use super::ruleset::{Backend, Chain, Ruleset};
use crate::netlink::Request;

/// Numbers of sets in a transaction; the fixed ones have the first few.
const FIRST_OWN_SET: u32 = 16;

/// The messages that make `new` of `old`; without `old`, of nothing or of whatever is there.
pub(super) fn difference(place: &Place, old: Option<&Ruleset>, new: &Ruleset) -> Vec<Request<Raw>> {
    let empty = Ruleset::default();
    let mut messages = if old.is_none() { place.messages() } else { Vec::new() };
    let old = old.unwrap_or(&empty);
    let table = place.table.as_str();
    let changes = [
        changed(ADDRESSES, &verdicts(&old.addresses, address_key), &verdicts(&new.addresses, address_key)),
        changed(PORTS, &verdicts(&old.ports, port_key), &verdicts(&new.ports, port_key)),
        changed(REFUSED, &keys(&old.refused, address_key), &keys(&new.refused, address_key)),
        changed(ITSELF, &keys(&old.local, pair), &keys(&new.local, pair)),
        changed(REMOTE, &keys(&old.remote, single), &keys(&new.remote, single)),
    ];
    // Nothing may lead to a chain that goes, and nothing be led to one that is not there yet.
    for change in &changes {
        messages.extend(elements(table, SetName::Named(change.set), false, &change.gone));
    }
    let mut own_set = FIRST_OWN_SET;
    for (name, chain) in &old.chains {
        match new.chains.get(name) {
            Some(same) if same == chain => continue,
            _ => messages.push(flush_chain(table, name)),
        }
        let kept = new.chains.get(name).map(|chain| memories(name, chain)).unwrap_or_default();
        let gone = memories(name, chain).into_keys().filter(|set| !kept.contains_key(set));
        messages.extend(gone.map(|set| delete_set(table, &set)));
    }
    messages
        .extend(old.chains.keys().filter(|name| !new.chains.contains_key(*name)).map(|name| delete_chain(table, name)));
    for (name, chain) in &new.chains {
        let former = old.chains.get(name);
        match former {
            Some(same) if same == chain => continue,
            Some(_) => {}
            None => messages.push(add_chain(table, name)),
        }
        let known = former.map(|chain| memories(name, chain)).unwrap_or_default();
        for (set, seconds) in memories(name, chain).into_iter().filter(|(set, _)| !known.contains_key(set)) {
            messages.push(add_set(table, &set, ADDRESS, SetKind::Clients { seconds }, own_set));
            own_set += 1;
        }
        let affinity_seconds = chain.affinity_seconds;
        let mut fill = Filling { place, name, affinity_seconds, own_set: &mut own_set, messages: &mut messages };
        if let Some(backends) = &chain.from_pods {
            fill.backends(backends, true);
        }
        fill.backends(&chain.backends, false);
    }
    for change in &changes {
        messages.extend(elements(table, SetName::Named(change.set), true, &change.come));
    }
    messages
}

/// The memories of a chain's clients, one for each backend: with a backend goes what is remembered of it. They carry
/// their time in the name, for it cannot be changed later.
fn memories(name: &str, chain: &Chain) -> BTreeMap<String, u32> {
    let Some(seconds) = chain.affinity_seconds else { return BTreeMap::new() };
    let all = chain.backends.iter().chain(chain.from_pods.iter().flatten());
    all.map(|backend| (memory(name, seconds, *backend), seconds)).collect()
}

fn memory(name: &str, seconds: u32, (address, port): Backend) -> String {
    format!("clients/{seconds}/{name}/{address}/{port}")
}

/// Rules of one chain on their way into a transaction.
struct Filling<'a> {
    place: &'a Place,
    name: &'a str,
    affinity_seconds: Option<u32>,
    own_set: &'a mut u32,
    messages: &'a mut Vec<Request<Raw>>,
}

const CLIENT: Register = Register(0);
const NUMBER: Register = Register(1);
const CHOICE: Register = Register(4);

impl Filling<'_> {
    /// Sends connections to any of the backends, or to the one that the client had before.
    fn backends(&mut self, backends: &[Backend], only_from_pods: bool) {
        let begin = || match only_from_pods {
            true => Rule::new().if_ipv4().range(SOURCE, true, self.place.cluster_cidr),
            false => Rule::new().if_ipv4(),
        };
        let table = self.place.table.as_str();
        let lead = |rule: Rule, (address, port): Backend| {
            let rule = rule.constant(&address.octets(), CHOICE).constant(&port.to_be_bytes(), CHOICE.next());
            rule.translate_destination(CHOICE)
        };
        let mut rules = Vec::new();
        if let Some(seconds) = self.affinity_seconds {
            for backend in backends {
                let memory = memory(self.name, seconds, *backend);
                let known = begin().load(SOURCE, CLIENT).if_in(&memory, CLIENT);
                rules.push(lead(known.remember(&memory, CLIENT), *backend));
            }
            // One after another, each with the chance that makes them all equal.
            for (left, backend) in (1u32..=u32::try_from(backends.len()).unwrap_or(u32::MAX)).rev().zip(backends) {
                let memory = memory(self.name, seconds, *backend);
                let chosen = begin().random(left, NUMBER).compare(NUMBER, true, &0u32.to_ne_bytes());
                rules.push(lead(chosen.load(SOURCE, CLIENT).remember(&memory, CLIENT), *backend));
            }
        } else if backends.len() > 1 {
            let choices = *self.own_set;
            *self.own_set += 1;
            self.messages.push(add_own_map(table, choices));
            let all: Vec<Element> = (0u32..)
                .zip(backends)
                .map(|(number, backend)| Element::key(&number.to_ne_bytes()).value(&backend_bytes(*backend)))
                .collect();
            self.messages.extend(elements(table, SetName::Own(choices), true, &all));
            let modulus = u32::try_from(backends.len()).unwrap_or(u32::MAX);
            let rule = begin().random(modulus, NUMBER).value_of_own(choices, NUMBER, CHOICE);
            rules.push(rule.translate_destination(CHOICE));
        }
        // The only one. Also where a memory is full, and where a packet has the old rules and the new choices in the
        // moment that they change.
        rules.extend(backends.first().map(|backend| lead(begin(), *backend)));
        self.messages.extend(rules.into_iter().map(|rule| add_rule(table, self.name, rule)));
    }
}

/// What a set loses and gets.
struct Change {
    set: &'static str,
    gone: Vec<Element>,
    come: Vec<Element>,
}

/// Elements by key, with the chain they lead to.
type Content<'a> = BTreeMap<Vec<u8>, Option<&'a str>>;

fn changed(set: &'static str, old: &Content<'_>, new: &Content<'_>) -> Change {
    let element = |(key, target): (&Vec<u8>, &Option<&str>)| match target {
        Some(chain) => Element::key(key).goto(chain),
        None => Element::key(key),
    };
    let only = |these: &Content<'_>, those: &Content<'_>| {
        these.iter().filter(|(key, target)| those.get(*key) != Some(target)).map(element).collect()
    };
    Change { set, gone: only(old, new), come: only(new, old) }
}

fn verdicts<'a, K: Copy>(map: &'a BTreeMap<K, String>, key: fn(K) -> Vec<u8>) -> Content<'a> {
    map.iter().map(|(place, chain)| (key(*place), Some(chain.as_str()))).collect()
}

fn keys<K: Copy>(set: &BTreeSet<K>, key: fn(K) -> Vec<u8>) -> Content<'static> {
    set.iter().map(|place| (key(*place), None)).collect()
}

/// Each part of a key fills whole registers of four bytes.
fn address_key((address, protocol, port): (Ipv4Addr, Protocol, u16)) -> Vec<u8> {
    [address.octets().to_vec(), port_key((protocol, port))].concat()
}

fn port_key((protocol, port): (Protocol, u16)) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![protocol.number(), 0, 0, 0, high, low, 0, 0]
}

fn pair(address: Ipv4Addr) -> Vec<u8> {
    [address.octets(), address.octets()].concat()
}

fn single(address: Ipv4Addr) -> Vec<u8> {
    address.octets().to_vec()
}

fn backend_bytes((address, port): Backend) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    [address.octets(), [high, low, 0, 0]].concat()
}

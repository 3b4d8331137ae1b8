//! The one executor of the rules of Services.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::attribute::{Attributes, Raw};
use super::conntrack;
use super::difference::difference;
use super::expression::NFTABLES;
use super::fixed::Place;
use super::plan::plan;
use super::ruleset::{Backend, Ruleset};
use super::{HostPort, Protocol, ServicePort};
use crate::NetworkError;
use crate::netlink::{Conversation, Request};

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BRACKETS: [u8; 2] = [16, 17];

/// What a change took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Bytes that were sent to the kernel; 0 if nothing had to change.
    pub bytes: usize,
    /// From the plan to the kernel's answer.
    pub took: Duration,
}

/// A UDP place: an address and a port, or a port of this machine.
type Door = (Option<Ipv4Addr>, u16);
/// A UDP place and where flows to it were led; nowhere without.
type Led = (Door, Option<Backend>);

/// An endpoint that was asked shortly before it went may still answer: its flows are forgotten so much later.
const GRACE: Duration = Duration::from_secs(1);

/// The rules of one node as they stand in the kernel. Blocks: to be used on a thread for that.
#[derive(Debug)]
pub struct Services {
    place: Place,
    /// `None` until the first time, and when nobody knows.
    applied: Option<Ruleset>,
    /// UDP flows that lead where no rule leads any more, and since when.
    stale: BTreeMap<Led, Instant>,
    /// UDP places that lead somewhere since a moment ago; flows of before lead to nobody, or to who is long gone.
    fresh: BTreeSet<Door>,
    /// Nobody knows what flows there were before the first rules.
    knows_flows: bool,
}

impl Services {
    pub(crate) fn new(place: Place) -> Services {
        Services { place, applied: None, stale: BTreeMap::new(), fresh: BTreeSet::new(), knows_flows: false }
    }

    /// Makes the rules be what these Services and host ports need.
    ///
    /// # Guarantees
    /// One transaction: a packet meets the old rules or the new ones. If the kernel refuses it nothing changes, and the
    /// next call writes everything anew.
    pub fn apply(&mut self, services: &[ServicePort], host_ports: &[HostPort]) -> Result<Applied, NetworkError> {
        let begin = Instant::now();
        let rules = plan(services, host_ports);
        if self.applied.as_ref() == Some(&rules) {
            return Ok(Applied::default());
        }
        let old = self.applied.take();
        let failed = |source| NetworkError::InstallRules { table: self.place.table.clone(), source };
        let bytes = transact(difference(&self.place, old.as_ref(), &rules)).map_err(failed)?;
        self.note_stale(&led(old.as_ref()), &led(Some(&rules)), begin);
        self.applied = Some(rules);
        Ok(Applied { bytes, took: begin.elapsed() })
    }

    fn note_stale(&mut self, before: &BTreeSet<Led>, after: &BTreeSet<Led>, now: Instant) {
        for one in before.difference(after) {
            self.stale.entry(*one).or_insert(now + GRACE);
        }
        for one in after.difference(before) {
            self.stale.remove(one);
            if !serves(before, &one.0) {
                // What was sent there so far met nobody, or endpoints of an earlier Service, and would go on so.
                self.fresh.insert(one.0);
            }
        }
    }

    /// When [`Services::forget`] has something to do, if ever.
    pub fn forgets_at(&self) -> Option<Instant> {
        match (self.knows_flows && self.fresh.is_empty()) || self.applied.is_none() {
            true => self.stale.values().min().copied(),
            false => Some(Instant::now()),
        }
    }

    /// Makes the kernel forget UDP flows that lead to endpoints which are gone, or clients that never stop asking
    /// would never find another. Answers how many there were.
    pub fn forget(&mut self, now: Instant) -> Result<usize, NetworkError> {
        let due: BTreeSet<Led> = self.stale.iter().filter(|(_, at)| **at <= now).map(|(one, _)| *one).collect();
        let asks_all = !self.knows_flows;
        let fresh = std::mem::take(&mut self.fresh);
        if due.is_empty() && fresh.is_empty() && !asks_all {
            return Ok(0);
        }
        let current = led(self.applied.as_ref());
        let is_stale = |(address, port): (Ipv4Addr, u16), backend: Option<Backend>| {
            let places = [(Some(address), port), (None, port)];
            let is_due = places.iter().any(|place| due.contains(&(*place, backend)));
            let is_fresh = places.iter().any(|place| fresh.contains(place));
            let mut leads = places.iter().filter(|place| serves(&current, place)).peekable();
            let leads_elsewhere = leads.peek().is_some() && leads.all(|place| !current.contains(&(*place, backend)));
            is_due || leads_elsewhere && (is_fresh || asks_all && backend.is_some())
        };
        let forgotten = conntrack::forget(is_stale).map_err(|source| {
            self.fresh.extend(&fresh);
            NetworkError::ForgetFlows { source }
        })?;
        self.stale.retain(|one, _| !due.contains(one));
        self.knows_flows = self.applied.is_some();
        Ok(forgotten)
    }
}

/// Whether something is led from a place.
fn serves(all: &BTreeSet<Led>, place: &Door) -> bool {
    all.range((*place, None)..).next().is_some_and(|(own, _)| own == place)
}

/// Which UDP places lead where.
fn led(rules: Option<&Ruleset>) -> BTreeSet<Led> {
    let Some(rules) = rules else { return BTreeSet::new() };
    let addresses = rules.addresses.iter().filter(|((_, protocol, _), _)| *protocol == Protocol::Udp);
    let addresses = addresses.map(|((address, _, port), chain)| ((Some(*address), *port), chain));
    let ports = rules.ports.iter().filter(|((protocol, _), _)| *protocol == Protocol::Udp);
    let places = addresses.chain(ports.map(|((_, port), chain)| ((None, *port), chain)));
    places
        .flat_map(|(place, chain)| {
            let chain = rules.chains.get(chain);
            let all = chain.into_iter().flat_map(|chain| chain.backends.iter().chain(chain.from_pods.iter().flatten()));
            all.map(move |backend| (place, Some(*backend)))
        })
        .collect()
}

/// Sends a transaction; answers its bytes.
pub(crate) fn transact(mut messages: Vec<Request<Raw>>) -> io::Result<usize> {
    let Some(last) = messages.pop() else { return Ok(0) };
    messages.push(last.acknowledged());
    let [begin, end] = BRACKETS.map(|kind| {
        // The brackets belong to no subsystem and name the one that is meant.
        Request::silent(Raw::new(0, kind, 0, NFTABLES, Attributes::new()))
    });
    messages.insert(0, begin);
    messages.push(end);
    let mut kernel = Conversation::open(NETLINK_NETFILTER)?;
    let answer = kernel.ask(messages)?;
    answer.results.into_iter().collect::<io::Result<()>>()?;
    Ok(kernel.sent_bytes())
}

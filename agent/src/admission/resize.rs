//! Whether a pod that runs here is given the other resources that it asks for now, and who is asked first when there is room
//! again: the rules of the kubelet (`pkg/kubelet/allocation`). Pure.

use std::cmp::Reverse;
use std::sync::Arc;

use agent_pod::facts::{Pending, Resources};
use api::pod::{Amounts, QosClass};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;

use super::room::{self, number};
use super::{Admission, Reason, Surroundings, Taken};
use crate::allocation::Allocation;
use crate::memory::{self, Asked, Swap};

/// A pod that asks for other resources than it was given.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    /// What it asks for.
    pod: Arc<Pod>,
    /// Since when it is known that it has to wait.
    since: Timestamp,
    /// Why it waits; `None` before it was asked for the first time.
    pending: Option<Pending>,
}

/// What became of a pod that asked for other resources.
#[derive(Debug, Clone)]
pub(crate) struct Resized {
    pub(crate) uid: String,
    /// The pod as it asks for them.
    pub(crate) pod: Arc<Pod>,
    /// Why it was not given them.
    pub(crate) pending: Option<Pending>,
}

impl Admission {
    /// A pod that is here asks for this now, which may be what it has.
    pub(crate) fn want(&mut self, uid: &str, pod: &Arc<Pod>, now: Timestamp) {
        let Some(taken) = self.pods.get_mut(uid) else { return };
        let wanted = Allocation::of(pod);
        if taken.allocation.is_as(&wanted) {
            // It is as much, and may be written otherwise.
            *taken = Taken::of(pod, wanted);
        } else if pod.metadata.deletion_timestamp.is_some() {
            taken.waits = None;
        } else {
            let told = || told_since(pod).unwrap_or(now);
            let (since, pending) = taken.waits.take().map_or_else(|| (told(), None), |own| (own.since, own.pending));
            taken.waits = Some(Waiting { pod: Arc::clone(pod), since, pending });
        }
    }

    /// The pod as it is to run: with what it was given.
    pub(crate) fn given(&self, uid: &str, pod: &Arc<Pod>) -> Arc<Pod> {
        match self.pods.get(uid) {
            Some(taken) if taken.waits.is_some() || taken.allocation != Allocation::of(pod) => {
                Arc::new(taken.allocation.apply(pod))
            }
            _ => Arc::clone(pod),
        }
    }

    /// Why a pod was not given what it asks for.
    pub(crate) fn pending(&self, uid: &str) -> Option<Pending> {
        self.pods.get(uid)?.waits.as_ref()?.pending.clone()
    }

    /// Asks for all pods that wait, in the order of their turns. Tells those to whom something has happened.
    pub(crate) fn retry(&mut self, here: Surroundings<'_>) -> Vec<Resized> {
        let mut told = Vec::new();
        // Who is given less makes room for others; each round gives to somebody, or is the last.
        while self.retry_once(here, &mut told) {}
        told
    }

    fn retry_once(&mut self, here: Surroundings<'_>, told: &mut Vec<Resized>) -> bool {
        let waits = self.pods.iter().filter_map(|(uid, taken)| Some((taken.turn()?, uid.clone())));
        let mut turns: Vec<_> = waits.collect();
        turns.sort();
        let mut is_given = false;
        for (_, uid) in turns {
            let Some((taken, waiting)) = self.pods.get(&uid).and_then(|own| Some((own, own.waits.clone()?))) else {
                continue;
            };
            let pending = self.judge_resize(&uid, taken, &waiting.pod, here).err();
            let is_news = pending != waiting.pending || pending.is_none();
            let Some(taken) = self.pods.get_mut(&uid) else { continue };
            match &pending {
                None => {
                    is_given = true;
                    *taken = Taken::of(&waiting.pod, Allocation::of(&waiting.pod));
                }
                Some(_) => taken.waits = Some(Waiting { pending: pending.clone(), ..waiting.clone() }),
            }
            if is_news {
                told.retain(|other: &Resized| other.uid != uid);
                told.push(Resized { uid, pod: waiting.pod, pending });
            }
        }
        is_given
    }

    fn judge_resize(&self, uid: &str, taken: &Taken, wanted: &Pod, here: Surroundings<'_>) -> Result<(), Pending> {
        let infeasible = |message: &str| Err(Pending::Infeasible(message.to_owned()));
        let to = Allocation::of(wanted);
        if here.swap.is_some_and(|machine| would_swap(taken, &to, wanted, &machine)) {
            return infeasible("In-place resize of containers with swap is not supported.");
        }
        let asks = |of: Resources| of.cpu_request.or(of.cpu_limit);
        let changes_cpu = || taken.allocation.changes(&to).any(|(_, from, to)| asks(from) != asks(to));
        // Free ones are counted where containers get some for themselves.
        if here.free_cpus.is_some() && taken.qos == QosClass::Guaranteed && changes_cpu() {
            return infeasible("Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\"");
        }
        let (capacity, requests) = (here.capacity(), wanted.spec.as_ref().map(api::pod::requests).unwrap_or_default());
        for name in ["memory", "cpu"] {
            let of = |amounts: &Amounts| amounts.get(name).map_or(0, |own| number(name, *own));
            let (requested, has) = (of(&requests), of(&capacity));
            if requested > has {
                return infeasible(&format!(
                    "Node didn't have enough capacity: {name}, requested: {requested}, capacity: {has}"
                ));
            }
        }
        let mut requests = requests;
        requests.retain(|name, _| !here.devices.contains_key(name));
        let lacks = room::missing(&requests, &self.used_but(uid), &capacity);
        lacks.first().map_or(Ok(()), |reason| Err(Pending::Deferred(Reason::message(reason))))
    }
}

impl Taken {
    /// When it is asked for this pod: those that ask for no more first, then by priority, by class, and by how long they wait.
    fn turn(&self) -> Option<(bool, Reverse<i32>, QosClass, Timestamp)> {
        let waiting = self.waits.as_ref()?;
        let wanted = waiting.pod.spec.as_ref().map(api::pod::requests).unwrap_or_default();
        let of = |amounts: &Amounts, name: &str| amounts.get(name).map_or(0, |own| number(name, *own));
        let is_more = ["cpu", "memory"].into_iter().any(|name| of(&wanted, name) > of(&self.requests, name));
        Some((is_more, Reverse(self.priority), self.qos, waiting.since))
    }
}

/// Whether a container that keeps running would have other memory while it may swap, before or after.
fn would_swap(taken: &Taken, to: &Allocation, wanted: &Pod, machine: &memory::Machine) -> bool {
    let restarts = |name: &str| {
        let mut all = agent_pod::facts::containers(wanted).map(|(own, _)| own);
        all.any(|own: Container| {
            let mut policies = own.resize_policy.iter().flatten();
            own.name == name
                && policies.any(|own| own.resource_name == "memory" && own.restart_policy == "RestartContainer")
        })
    };
    let swaps = |of: &Resources| memory::swap(Swap::Limited, &Asked::of(wanted, of), machine) > 0;
    taken.allocation.changes(to).any(|(name, from, to)| {
        let changes = (from.memory_request, from.memory_limit) != (to.memory_request, to.memory_limit);
        changes && !restarts(name) && (swaps(&from) || swaps(&to))
    })
}

/// Since when the pod's status says that it waits.
fn told_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let own = conditions.iter().find(|own| own.type_ == "PodResizePending" && own.status == "True")?;
    own.last_transition_time.as_ref().map(|time| time.0)
}

#[cfg(test)]
#[path = "resize_tests.rs"]
mod tests;

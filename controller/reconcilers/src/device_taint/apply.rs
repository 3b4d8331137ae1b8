//! Deletes pods when their time has come, woken by claims, slices, rules and pods; tells rules how far that is.
use super::facts::{CONDITION, RuleFacts, SliceFacts};
use super::plan::{Leaving, Tally, leaving, said};
use crate::cache::{Cache, Key};
use crate::error::{ReconcileError, at, code};
use crate::pod::{PodFacts, evict};
use crate::queue::{Next, Queue};
use crate::record::{Recorder, Severity};
use crate::resource_claim::{DeviceClaimFacts, Given};
use api::device_taint::{NO_EXECUTE, is_tainted_by};
use jiff::Timestamp;
use k8s_openapi::api::resource::v1::DeviceTaintRule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const WORKERS: usize = 2;
/// A rule tells how far it is no more often than this, as with kube-controller-manager.
const TELLING: Duration = Duration::from_secs(10);

/// What looks after taints of devices.
pub(crate) struct Reconciler {
    pub(crate) client: kube::Client,
    pub(crate) recorder: Recorder,
    pub(crate) pods: Arc<Cache<PodFacts>>,
    pub(crate) claims: Arc<Cache<DeviceClaimFacts>>,
    pub(crate) slices: Arc<Cache<SliceFacts>>,
    pub(crate) rules: Arc<Cache<RuleFacts>>,
}

struct Shared {
    reconciler: Reconciler,
    rules: Arc<Queue<Key>>,
    /// Pods that are to leave later, by uid.
    waiting: Mutex<HashSet<Box<str>>>,
    /// By uid of a rule, how many pods left for it.
    evicted: Mutex<HashMap<Box<str>, u64>>,
}

/// The pods that use a claim with a device that this is true of need a look.
fn wake(pods: &Queue<Key>, claims: &Cache<DeviceClaimFacts>, is_about: impl Fn(&Given) -> bool) {
    for claim in claims.select(|claim| claim.given().iter().any(&is_about)) {
        claim.users().for_each(|pod| pods.add(pod));
    }
}

/// Reconciles until dropped.
pub(crate) async fn start(reconciler: Reconciler) {
    let pods: Arc<Queue<Key>> = Queue::new("device-taint-pods");
    let rules: Arc<Queue<Key>> = Queue::new("device-taint-rules");
    let queue = Arc::clone(&pods);
    reconciler.pods.on_change(move |before, after| {
        let Some(pod) = after.filter(|pod| !pod.device_claims.is_empty()) else { return };
        let is_news = before.is_none_or(|before| {
            before.uid != pod.uid || before.node != pod.node || before.device_claims != pod.device_claims
        });
        if let Some(key) = pod.key.as_ref().filter(|_| is_news) {
            queue.add(Arc::clone(key));
        }
    });
    let queue = Arc::clone(&pods);
    reconciler.claims.on_change(move |before, after| {
        for claim in [before, after].into_iter().flatten().filter(|claim| !claim.given().is_empty()) {
            claim.users().for_each(|pod| queue.add(pod));
        }
    });
    let (queue, claims) = (Arc::clone(&pods), Arc::clone(&reconciler.claims));
    reconciler.slices.on_change(move |before, after| {
        if before == after {
            return;
        }
        for slice in [before, after].into_iter().flatten() {
            wake(&queue, &claims, |given| given.driver == slice.driver && given.pool == slice.pool);
        }
    });
    let (queue, told, claims) = (Arc::clone(&pods), Arc::clone(&rules), Arc::clone(&reconciler.claims));
    reconciler.rules.on_change(move |before, after| {
        if let (Some(before), Some(after)) = (before, after)
            && (&before.uid, &before.spec) == (&after.uid, &after.spec)
        {
            return;
        }
        for rule in [before, after].into_iter().flatten() {
            // What it says stands there before the first pod leaves.
            told.add(Arc::clone(&rule.name));
            if rule.spec.taint.effect == NO_EXECUTE {
                wake(&queue, &claims, |given| given.is_tainted_by(rule));
            }
        }
    });
    reconciler.pods.listed().await;
    reconciler.claims.listed().await;
    reconciler.slices.listed().await;
    reconciler.rules.listed().await;
    let shared = Arc::new(Shared {
        reconciler,
        rules: Arc::clone(&rules),
        waiting: Mutex::default(),
        evicted: Mutex::default(),
    });
    let (pod_shared, rule_shared) = (Arc::clone(&shared), shared);
    let look_at_pod = move |key: Key| {
        let shared = Arc::clone(&pod_shared);
        async move { shared.look_at_pod(&key).await }
    };
    let look_at_rule = move |name: Key| {
        let shared = Arc::clone(&rule_shared);
        async move { shared.look_at_rule(&name).await }
    };
    tokio::join!(pods.work(WORKERS, look_at_pod), rules.work(1, look_at_rule));
}

impl Given {
    fn is_tainted_by(&self, rule: &RuleFacts) -> bool {
        is_tainted_by(&rule.spec, &self.driver, &self.pool, &self.device)
    }
}

impl Shared {
    /// The claims that a pod uses: it asks for them, and they are kept for it.
    fn claims_of(&self, pod: &PodFacts) -> Vec<Arc<DeviceClaimFacts>> {
        let names = pod.device_claims.iter().filter_map(|claim| claim.object());
        let claims = names.filter_map(|name| self.reconciler.claims.get(&format!("{}/{name}", pod.namespace())));
        claims.filter(|claim| claim.is_used_by(&pod.uid)).collect()
    }

    fn leaving(&self, pod: &PodFacts, now: Timestamp) -> Option<Leaving> {
        let claims = self.claims_of(pod);
        if claims.iter().all(|claim| claim.given().is_empty()) {
            return None;
        }
        let (slices, rules) = (self.reconciler.slices.all(), self.reconciler.rules.all());
        let (slices, rules) = (slices.iter().map(|own| &**own), rules.iter().map(|own| &**own));
        let each = claims.iter().filter_map(|claim| leaving(claim.given(), slices.clone(), rules.clone(), now));
        each.reduce(Leaving::and)
    }

    async fn look_at_pod(&self, key: &Key) -> Result<Next, ReconcileError> {
        let Some(pod) = self.reconciler.pods.get(key).filter(|pod| pod.is_active()) else { return Ok(Next::Wait) };
        let now = Timestamp::now();
        // One without a node has no device in its hands.
        let leaving = pod.node.as_ref().and_then(|_| self.leaving(&pod, now));
        let Some(leaving) = leaving else {
            if self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&pod.uid) {
                self.tell(&pod, "Cancelling deletion");
            }
            return Ok(Next::Wait);
        };
        leaving.rules.iter().for_each(|rule| self.rules.add(Arc::clone(rule)));
        let left = leaving.at.duration_since(now);
        if left.is_positive() {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(pod.uid.clone());
            let left = Duration::try_from(left).unwrap_or(Duration::MAX);
            // A timer of years is of no use, and not every clock can count that far.
            return Ok(Next::After(left.min(Duration::from_secs(24 * 3600)) + Duration::from_millis(10)));
        }
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&pod.uid);
        self.tell(&pod, "Marking for deletion");
        let message = "Device Taint manager: deleting due to NoExecute taint";
        if evict(&self.reconciler.client, &pod, "DeletionByDeviceTaintManager", message).await? {
            for rule in leaving.rules.iter().filter_map(|name| self.reconciler.rules.get(name)) {
                *self.evicted.lock().unwrap_or_else(PoisonError::into_inner).entry(rule.uid.clone()).or_default() += 1;
                self.rules.add(Arc::clone(&rule.name));
            }
        }
        Ok(Next::Wait)
    }

    fn tell(&self, pod: &PodFacts, message: &str) {
        let reason = "DeviceTaintManagerEviction";
        self.reconciler.recorder.send(pod.reference(), Severity::Normal, reason, message.to_owned());
    }

    async fn look_at_rule(&self, name: &Key) -> Result<Next, ReconcileError> {
        let Some(rule) = self.reconciler.rules.get(name) else {
            let known: HashSet<Box<str>> = self.reconciler.rules.all().iter().map(|rule| rule.uid.clone()).collect();
            self.evicted.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| known.contains(uid));
            return Ok(Next::Wait);
        };
        let now = Timestamp::now();
        if let Some(told) = rule.condition.as_ref().filter(|told| told.observed_generation == rule.generation) {
            let since = now.duration_since(told.last_transition_time.0);
            let left = TELLING.checked_sub(Duration::try_from(since).unwrap_or_default());
            if let Some(left) = left.filter(|left| !left.is_zero()) {
                return Ok(Next::After(left));
            }
        }
        let tally = self.tally(&rule, now);
        let said = said(&rule.spec.taint.effect, &tally);
        let condition = Condition {
            type_: CONDITION.into(),
            status: if said.is_in_progress { "True" } else { "False" }.into(),
            reason: said.reason.into(),
            message: said.message,
            observed_generation: rule.generation,
            last_transition_time: rule.condition.as_ref().map_or(Time(now), |told| told.last_transition_time.clone()),
        };
        if rule.condition.as_ref() != Some(&condition) {
            let condition = Condition { last_transition_time: Time(now), ..condition };
            let rules: Api<DeviceTaintRule> = Api::all(self.reconciler.client.clone());
            let patch = json!({"metadata": {"uid": rule.uid}, "status": {"conditions": [condition]}});
            match rules.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(rule) => self.reconciler.rules.put(&rule.metadata.clone(), RuleFacts::new(rule)),
                Err(error) if matches!(code(&error), 404 | 409) => {}
                Err(error) => return Err(at("telling how far a rule is")(error)),
            }
        }
        Ok(if said.is_in_progress { Next::After(TELLING) } else { Next::Wait })
    }

    fn tally(&self, rule: &RuleFacts, now: Timestamp) -> Tally {
        let evicted = self.evicted.lock().unwrap_or_else(PoisonError::into_inner).get(&rule.uid).copied();
        let mut tally = Tally { evicted: evicted.unwrap_or_default(), ..Tally::default() };
        // What would be if it evicted.
        let mut evicting = rule.clone();
        evicting.spec.taint.effect = NO_EXECUTE.into();
        let (mut pods, mut namespaces) = (HashSet::new(), HashSet::new());
        for claim in self.reconciler.claims.select(|claim| !claim.given().is_empty()) {
            tally.allocated += claim.given().iter().filter(|given| given.is_tainted_by(rule)).count();
            if leaving(claim.given(), std::iter::empty(), std::iter::once(&evicting), now).is_none() {
                continue;
            }
            for pod in claim.users().filter_map(|key| self.reconciler.pods.get(&key)) {
                if pod.is_active() && pod.node.is_some() && claim.is_used_by(&pod.uid) {
                    namespaces.insert(pod.namespace().to_owned());
                    pods.insert(pod.uid.clone());
                }
            }
        }
        for slice in self.reconciler.slices.all() {
            let is_selected = |name: &str| is_tainted_by(&rule.spec, &slice.driver, &slice.pool, name);
            tally.published += slice.devices.iter().filter(|device| is_selected(&device.name)).count();
        }
        (tally.pods, tally.namespaces) = (pods.len(), namespaces.len());
        tally
    }
}

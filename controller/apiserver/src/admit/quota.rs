//! ResourceQuota, the last of those who judge: what an object uses is charged in the very commit that stores it, on
//! condition that the quota is as it was read. So two creations at once never pass both where only one may, and a
//! creation that fails charges nothing. What is deleted is given back by the quota reconciler, which counts anew.
//! Kubernetes documentation, "Resource Quotas"; messages of apiserver/pkg/admission/plugin/resourcequota.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use api::pod::{Amounts, add};
use api::quota::{Quota, amounts, unsaid};
use controller_object::resource::{Resource, Subresource};
use controller_object::status::{About, Status};
use controller_store::model::{Compare, Op};
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::{Attributes, Operation};
use crate::registry::{Current, Registry, is_storage_version, names, stored_bytes};

const PREFIX: &str = "/registry/core/resourcequotas/";

/// One charge at a time in each namespace that has quotas: without this, racing creations would try again and again.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    async fn take(&self, namespace: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever waits holds a second reference; the others are of namespaces where nothing happens.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(namespace.to_owned()).or_default())
        };
        turn.lock_owned().await
    }
}

/// What goes with the commit that stores an object.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    pub(crate) compares: Vec<Compare>,
    pub(crate) ops: Vec<Op>,
    /// Given up after the commit.
    _turn: Option<OwnedMutexGuard<()>>,
}

/// Whether a key that a commit lost about is a quota's: then the same request is tried again.
pub(crate) fn is_quota(key: &[u8]) -> bool {
    key.starts_with(PREFIX.as_bytes())
}

/// Charges a new object, or what a change adds; refuses what is too much.
pub(super) async fn charge(attributes: &Attributes<'_>, object: &Value) -> Result<Charge, Status> {
    let Some(namespace) = attributes.namespace.filter(|_| counts(attributes)) else { return Ok(Charge::default()) };
    let (resource, registry) = (attributes.resource, &attributes.state.registry);
    let (group, plural) = (resource.storage_group.as_str(), resource.storage_plural.as_str());
    let is_limited = |quota: &Value| !Quota::read(&quota["spec"]).counted(group, plural).is_empty();
    if !registry.list("", "v1", "resourcequotas", Some(namespace))?.iter().any(is_limited) {
        return Ok(Charge::default());
    }
    let turn = attributes.state.quota_turns.take(namespace).await;
    let quotas = registry.builtin().find("", "v1", "resourcequotas");
    let quotas = quotas.ok_or_else(|| Status::internal_error("the table has no quotas"))?;
    let mut charge = Charge { _turn: Some(turn), ..Charge::default() };
    for listed in registry.list("", "v1", "resourcequotas", Some(namespace))? {
        // A quota that is gone by now limits nothing.
        let Ok(Current { object: mut held, revision }) = registry.current(quotas, Some(namespace), names(&listed).1)
        else {
            continue;
        };
        let quota = Quota::read(&held["spec"]);
        let used = used(&quota, &held).map_or_else(|| count(registry, namespace, &quota), Ok)?;
        let Some(after) = decide(&quota, &used, group, plural, attributes.old, object).map_err(|detail| {
            let detail = match detail {
                Refusal::Unsaid(said) => format!("failed quota: {}: {said}", names(&held).1),
                Refusal::Exceeded(told) => format!("exceeded quota: {}, {told}", names(&held).1),
            };
            Status::forbidden(About::resource(resource, names(object).1), &detail)
        })?
        else {
            continue;
        };
        held["status"] = json!({"hard": held["spec"]["hard"], "used": told_amounts(&after)});
        let key = registry.key(quotas, Some(namespace), names(&held).1);
        charge.compares.push(Compare::ModRevision(key.clone(), revision));
        charge.ops.push(Op::Put { key, value: stored_bytes(quotas, &held), ttl: None });
    }
    Ok(charge)
}

/// Which requests can use more than before.
fn counts(attributes: &Attributes<'_>) -> bool {
    let may_grow = attributes.is("", "services") || attributes.is("", "persistentvolumeclaims");
    match (attributes.operation, attributes.subresource) {
        (Operation::Create, None) => attributes.resource.is_namespaced(),
        (Operation::Update, None) => may_grow,
        (Operation::Update, Some(Subresource::Resize)) => true,
        _ => false,
    }
}

/// What a quota's status says is used, if it says so of everything that is limited now.
fn used(quota: &Quota, held: &Value) -> Option<Amounts> {
    let mut used = amounts(held.pointer("/status/used"));
    // A status that somebody wrote by hand, or that is of other limits, is no ground to stand on.
    let is_whole = quota.hard.keys().all(|name| used.contains_key(name));
    let is_of_spec = held.pointer("/status/hard") == held.pointer("/spec/hard");
    used.retain(|name, _| quota.hard.contains_key(name));
    (is_whole && is_of_spec).then_some(used)
}

/// The status of a quota that is new: everything that is there already. Whatever is stored at the same moment is counted
/// by the reconciler, which looks at each new quota.
pub(crate) fn first_status(registry: &Registry, quota: &Value) -> Result<Value, Status> {
    let spec = Quota::read(&quota["spec"]);
    let used = names(quota).0.map_or_else(|| Ok(spec.nothing()), |namespace| count(registry, namespace, &spec))?;
    Ok(json!({"hard": quota["spec"].get("hard").cloned().unwrap_or_else(|| json!({})), "used": told_amounts(&used)}))
}

/// Counts everything that is there.
fn count(registry: &Registry, namespace: &str, quota: &Quota) -> Result<Amounts, Status> {
    let mut total = quota.nothing();
    let now = crate::time::epoch();
    for (group, plural) in quota.kinds() {
        for object in stored(registry, group, plural, namespace)? {
            add(&mut total, &quota.charge(group, plural, &object, now));
        }
    }
    Ok(total)
}

/// The objects of a kind in the version that they are stored in, which needs no webhook.
fn stored(registry: &Registry, group: &str, plural: &str, namespace: &str) -> Result<Vec<Value>, Status> {
    let table = registry.table();
    let is_meant =
        |one: &&Arc<Resource>| one.storage_group == group && one.storage_plural == plural && is_storage_version(one);
    match table.all().find(is_meant) {
        Some(resource) => registry.list_of(resource, Some(namespace)),
        None => Ok(Vec::new()),
    }
}

/// Why an object is refused.
#[derive(Debug, PartialEq)]
enum Refusal {
    /// Containers do not say what they want of something that is limited.
    Unsaid(String),
    /// `requested: pods=1, used: pods=2, limited: pods=2`
    Exceeded(String),
}

/// What is used afterwards; `None` where the object does not change it.
fn decide(
    quota: &Quota,
    used: &Amounts,
    group: &str,
    plural: &str,
    old: Option<&Value>,
    new: &Value,
) -> Result<Option<Amounts>, Refusal> {
    let before = old.map(|old| quota.charge(group, plural, old, 0)).unwrap_or_default();
    let after = quota.charge(group, plural, new, 0);
    if (group, plural) == ("", "pods")
        && quota.covers(group, plural, new)
        && let Some(said) = unsaid(&quota.counted(group, plural), new)
    {
        return Err(Refusal::Unsaid(said));
    }
    let changed: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut total = used.clone();
    let (mut asked, mut spent, mut limited) = (Amounts::new(), Amounts::new(), Amounts::new());
    let mut anything = false;
    for name in changed {
        let nothing = api::quantity::Quantity::ZERO;
        let of = |amounts: &Amounts| amounts.get(name).copied().unwrap_or(nothing);
        let delta = of(&after).minus(of(&before));
        let Some(hard) = quota.hard.get(name).filter(|_| !delta.is_zero()) else { continue };
        anything = true;
        let sum = of(used).plus(delta);
        if !delta.is_negative() && sum.nano() > hard.nano() {
            asked.insert(name.clone(), delta);
            spent.insert(name.clone(), of(used));
            limited.insert(name.clone(), *hard);
        }
        total.insert(name.clone(), sum);
    }
    if !asked.is_empty() {
        let told = format!("requested: {}, used: {}, limited: {}", pairs(&asked), pairs(&spent), pairs(&limited));
        return Err(Refusal::Exceeded(told));
    }
    Ok(anything.then_some(total))
}

/// `cpu=1,memory=2Gi`
fn pairs(amounts: &Amounts) -> String {
    amounts.iter().map(|(name, quantity)| format!("{name}={quantity}")).collect::<Vec<_>>().join(",")
}

fn told_amounts(amounts: &Amounts) -> Value {
    amounts.iter().map(|(name, quantity)| (name.clone(), Value::from(quantity.to_string()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[test]
    fn what_is_too_much_is_told_with_what_is_used() {
        let quota = Quota::read(&json!({"hard": {"cpu": "1", "pods": "2", "memory": "1Gi"}}));
        let used = |cpu: &str, pods: &str| amounts(Some(&json!({"cpu": cpu, "pods": pods, "memory": "0"})));
        let open = Quota::read(&json!({"hard": {"requests.ephemeral-storage": "1", "pods": "2"}}));
        assert_eq!(
            decide(&quota, &used("0", "0"), "", "pods", None, &pod("1")),
            Err(Refusal::Unsaid("must specify memory for: c".into()))
        );
        let after = decide(&open, &used("0", "1"), "", "pods", None, &pod("1")).unwrap().unwrap();
        assert_eq!(after["pods"].to_string(), "2");
        assert_eq!(
            decide(&open, &used("0", "2"), "", "pods", None, &pod("1")),
            Err(Refusal::Exceeded("requested: pods=1, used: pods=2, limited: pods=2".into()))
        );
    }

    #[test]
    fn changes_cost_what_they_add_and_less_is_always_allowed() {
        let quota = Quota::read(&json!({"hard": {"services.nodeports": "1"}}));
        let used = amounts(Some(&json!({"services.nodeports": "3"})));
        let service = |ports: usize| json!({"spec": {"type": "NodePort", "ports": vec![json!({"port": 1}); ports]}});
        let ask = |old, new| decide(&quota, &used, "", "services", Some(&service(old)), &service(new));
        assert!(matches!(ask(1, 2), Err(Refusal::Exceeded(_))));
        assert_eq!(ask(3, 2).unwrap().unwrap()["services.nodeports"].to_string(), "2");
        assert_eq!(ask(2, 2), Ok(None));
    }
}

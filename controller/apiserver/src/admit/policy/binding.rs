//! All policies and bindings, compiled anew when one changed. Policies go by name, bindings of each by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_object::policy::{Mutating, Validating};
use controller_store::model::KeyValue;
use controller_store::store::Store;
use serde_json::Value;

use super::params::ParamRef;
use crate::admit::matching::Criteria;
use crate::followed::{Followed, objects};
use crate::registry::names;

const GROUP: [&str; 4] = [
    "/registry/admissionregistration.k8s.io/validatingadmissionpolicies/",
    "/registry/admissionregistration.k8s.io/validatingadmissionpolicybindings/",
    "/registry/admissionregistration.k8s.io/mutatingadmissionpolicies/",
    "/registry/admissionregistration.k8s.io/mutatingadmissionpolicybindings/",
];

/// A policy of either kind.
#[derive(Debug)]
pub(super) struct Policy<P> {
    pub(super) name: String,
    pub(super) criteria: Criteria,
    pub(super) compiled: P,
}

/// Where a policy holds, and what follows from it.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) name: String,
    /// What restricts it beside the policy's own constraints.
    pub(super) criteria: Option<Criteria>,
    pub(super) params: Option<ParamRef>,
    pub(super) actions: Vec<String>,
}

pub(super) type All<P> = Vec<Policy<P>>;
/// By the policy's name.
pub(super) type Bindings = BTreeMap<String, Vec<Binding>>;

/// All policies of the cluster.
pub(crate) struct Policies {
    validating: Followed<All<Validating>>,
    validating_bindings: Followed<Bindings>,
    mutating: Followed<All<Mutating>>,
    mutating_bindings: Followed<Bindings>,
}

impl Policies {
    pub(crate) fn new(store: &Arc<Store>) -> Self {
        let [validating, validating_bindings, mutating, mutating_bindings] = GROUP;
        Self {
            validating: Followed::new(Arc::clone(store), validating, |items| policies(items, Validating::read)),
            validating_bindings: Followed::new(Arc::clone(store), validating_bindings, bindings),
            mutating: Followed::new(Arc::clone(store), mutating, |items| policies(items, Mutating::read)),
            mutating_bindings: Followed::new(Arc::clone(store), mutating_bindings, bindings),
        }
    }

    pub(super) fn validating(&self) -> (Arc<All<Validating>>, Arc<Bindings>) {
        (self.validating.now(), self.validating_bindings.now())
    }

    pub(super) fn mutating(&self) -> (Arc<All<Mutating>>, Arc<Bindings>) {
        (self.mutating.now(), self.mutating_bindings.now())
    }
}

fn policies<P>(items: &[KeyValue], compile: fn(&Value) -> P) -> All<P> {
    let policy = |object: Value| Policy {
        name: names(&object).1.to_owned(),
        criteria: Criteria::read(&object["spec"]["matchConstraints"], "resourceRules"),
        compiled: compile(&object),
    };
    objects(items).map(policy).collect()
}

fn bindings(items: &[KeyValue]) -> Bindings {
    let mut all = Bindings::new();
    for object in objects::<Value>(items) {
        let spec = &object["spec"];
        let restricts = spec.get("matchResources").filter(|given| !given.is_null());
        let actions = spec.get("validationActions").and_then(Value::as_array).into_iter().flatten();
        let binding = Binding {
            name: names(&object).1.to_owned(),
            criteria: restricts.map(|given| Criteria::read(given, "resourceRules")),
            params: spec.get("paramRef").filter(|given| !given.is_null()).map(ParamRef::read),
            actions: actions.filter_map(Value::as_str).map(str::to_owned).collect(),
        };
        all.entry(spec["policyName"].as_str().unwrap_or_default().to_owned()).or_default().push(binding);
    }
    all
}

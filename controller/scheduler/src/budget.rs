//! PodDisruptionBudgets, as preemption counts them.
use crate::pod::{PodKey, Shape};
use api::selector::Selector;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use std::collections::BTreeSet;

/// A budget.
#[derive(Clone, Debug)]
pub struct Budget {
    /// `namespace/name`.
    pub key: String,
    namespace: Box<str>,
    /// `None` selects nothing.
    selector: Option<Selector>,
    /// How many pods may go now.
    pub allowed: i64,
    /// The names of pods that go already and are counted.
    disrupted: BTreeSet<String>,
}

impl Budget {
    /// Takes the facts out of a budget.
    pub fn new(budget: PodDisruptionBudget) -> Self {
        let namespace = budget.metadata.namespace.unwrap_or_default();
        let status = budget.status.unwrap_or_default();
        let selector = budget.spec.and_then(|spec| spec.selector);
        Self {
            key: format!("{namespace}/{}", budget.metadata.name.unwrap_or_default()),
            namespace: namespace.into(),
            selector: selector.and_then(|selector| Selector::from_label_selector(&selector).ok()),
            allowed: status.disruptions_allowed.map_or(0, i64::from),
            disrupted: status.disrupted_pods.unwrap_or_default().into_keys().collect(),
        }
    }

    /// Whether the end of a pod counts against it.
    pub fn covers(&self, key: &PodKey, shape: &Shape) -> bool {
        let name = key.split_once('/').map_or("", |(_, name)| name);
        self.namespace == shape.namespace
            && self.selector.as_ref().is_some_and(|selector| selector.matches(&shape.labels))
            && !self.disrupted.contains(name)
    }
}

//! The webhooks of all configurations, read anew when one changed. Configurations go by name, their webhooks as listed.

use std::sync::Arc;
use std::time::Duration;

use controller_object::policy::Conditions;
use controller_store::model::KeyValue;
use controller_store::store::Store;
use serde::Deserialize;
use serde_json::Value;

use crate::admit::matching::Criteria;
use crate::followed::{Followed, objects};
use crate::webhook::ClientConfig;

const MUTATING: &str = "/registry/admissionregistration.k8s.io/mutatingwebhookconfigurations/";
const VALIDATING: &str = "/registry/admissionregistration.k8s.io/validatingwebhookconfigurations/";
const DEFAULT_TIMEOUT_SECONDS: u64 = 10;

/// One webhook of a configuration.
#[derive(Debug, Clone)]
pub(super) struct Hook {
    /// Unlike names, no two have the same.
    pub(super) id: String,
    pub(super) name: String,
    pub(super) client: ClientConfig,
    pub(super) criteria: Criteria,
    pub(super) conditions: Conditions,
    /// What its failure means for the request.
    pub(super) fails_closed: bool,
    /// Whether it may be asked about what will not happen.
    pub(super) takes_dry_runs: bool,
    pub(super) timeout: Duration,
    /// The version of AdmissionReview that it reads.
    pub(super) review: &'static str,
    pub(super) reinvoked: bool,
}

impl Hook {
    /// The configuration that it stands in.
    pub(super) fn configuration(&self) -> &str {
        self.id.split_once('/').map_or("", |(configuration, _)| configuration)
    }
}

/// All webhooks of the cluster.
pub(crate) struct Hooks {
    mutating: Followed<Vec<Arc<Hook>>>,
    validating: Followed<Vec<Arc<Hook>>>,
}

impl Hooks {
    pub(crate) fn new(store: &Arc<Store>) -> Self {
        Self {
            mutating: Followed::new(Arc::clone(store), MUTATING, read),
            validating: Followed::new(Arc::clone(store), VALIDATING, read),
        }
    }

    pub(super) fn mutating(&self) -> Arc<Vec<Arc<Hook>>> {
        self.mutating.now()
    }

    pub(super) fn validating(&self) -> Arc<Vec<Arc<Hook>>> {
        self.validating.now()
    }
}

fn read(items: &[KeyValue]) -> Vec<Arc<Hook>> {
    let hooks = objects(items).flat_map(|configuration: Value| {
        let name = configuration.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let hooks = configuration.get("webhooks").and_then(Value::as_array).cloned().unwrap_or_default();
        hooks.into_iter().map(move |value| Arc::new(hook(&name, &value)))
    });
    hooks.collect()
}

fn hook(configuration: &str, value: &Value) -> Hook {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let versions = value.get("admissionReviewVersions").and_then(Value::as_array);
    // The first of the list that is known here.
    let mut known = versions.into_iter().flatten().filter_map(|version| match version.as_str() {
        Some("v1") => Some("v1"),
        Some("v1beta1") => Some("v1beta1"),
        _ => None,
    });
    let name = text("name").to_owned();
    Hook {
        id: format!("{configuration}/{name}"),
        client: value.get("clientConfig").and_then(|one| ClientConfig::deserialize(one).ok()).unwrap_or_default(),
        criteria: Criteria::read(value, "rules"),
        conditions: Conditions::read(value, false),
        fails_closed: text("failurePolicy") != "Ignore",
        takes_dry_runs: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
        timeout: Duration::from_secs(
            value.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(DEFAULT_TIMEOUT_SECONDS).clamp(1, 30),
        ),
        review: known.next().unwrap_or("v1"),
        reinvoked: text("reinvocationPolicy") == "IfNeeded",
        name,
    }
}

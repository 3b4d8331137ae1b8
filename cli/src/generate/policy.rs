//! Budgets, priorities and quotas made of flags.

use serde_json::{Map, Value, json};

use crate::failure::Failure;

/// Flags of `gantry create poddisruptionbudget`.
#[derive(Debug, clap::Args)]
pub(crate) struct Budget {
    /// Its name.
    name: String,
    /// Which pods it is for, such as app=web.
    #[arg(long, value_name = "SELECTOR")]
    selector: String,
    /// How many pods must be there: a number or a percentage.
    #[arg(long, value_name = "COUNT")]
    min_available: Option<String>,
    /// How many pods may be away: a number or a percentage.
    #[arg(long, value_name = "COUNT")]
    max_unavailable: Option<String>,
}

/// Flags of `gantry create priorityclass`.
#[derive(Debug, clap::Args)]
pub(crate) struct PriorityClass {
    /// Its name.
    name: String,
    /// The priority: higher goes first.
    #[arg(long, default_value_t = 0, value_name = "NUMBER", allow_negative_numbers = true)]
    value: i32,
    /// Whether pods without a class get this one.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    global_default: bool,
    /// When to use it.
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
    /// PreemptLowerPriority or Never.
    #[arg(long, default_value = "PreemptLowerPriority", value_name = "POLICY")]
    preemption_policy: String,
}

/// Flags of `gantry create quota`.
#[derive(Debug, clap::Args)]
pub(crate) struct Quota {
    /// Its name.
    name: String,
    /// RESOURCE=QUANTITY, with commas between several.
    #[arg(long, default_value = "", value_name = "LIST")]
    hard: String,
    /// Scopes such as BestEffort, with commas between several.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    scopes: Vec<String>,
}

impl Budget {
    /// The budget.
    pub(crate) fn object(&self) -> Result<Value, Failure> {
        let count = |text: &String| text.parse::<i32>().map_or_else(|_| json!(text), |number| json!(number));
        let mut spec = json!({"selector": selector(&self.selector)?});
        match (&self.min_available, &self.max_unavailable) {
            (Some(least), None) => spec["minAvailable"] = count(least),
            (None, Some(most)) => spec["maxUnavailable"] = count(most),
            (None, None) => return Err(Failure::error("one of min-available or max-unavailable must be specified")),
            (Some(_), Some(_)) => {
                return Err(Failure::error("min-available and max-unavailable cannot be both specified"));
            }
        }
        Ok(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": self.name},
            "spec": spec}))
    }
}

/// Text such as `a=b,c in (d,e),!f` as a `LabelSelector`.
fn selector(text: &str) -> Result<Value, Failure> {
    use api::selector::Selector;
    let invalid = |reason: &dyn std::fmt::Display| Failure::error(format!("--selector: {text:?}: {reason}"));
    Selector::parse(text).map_err(|error| invalid(&error))?;
    let mut labels = Map::new();
    for part in text.split(',') {
        match part.split_once('=') {
            Some((key, value)) if !key.ends_with('!') => {
                let value = value.strip_prefix('=').unwrap_or(value);
                labels.insert(key.trim().to_owned(), value.trim().into());
            }
            _ => return Err(invalid(&"expected KEY=VALUE, with commas between several")),
        }
    }
    Ok(json!({"matchLabels": labels}))
}

impl PriorityClass {
    /// The class.
    pub(crate) fn object(&self) -> Value {
        let mut class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": self.name}, "value": self.value, "preemptionPolicy": self.preemption_policy});
        if self.global_default {
            class["globalDefault"] = true.into();
        }
        if !self.description.is_empty() {
            class["description"] = self.description.clone().into();
        }
        class
    }
}

impl Quota {
    /// The quota.
    pub(crate) fn object(&self) -> Result<Value, Failure> {
        let mut hard = Map::new();
        for part in self.hard.split(',').filter(|part| !part.is_empty()) {
            let invalid = || Failure::error(format!("Invalid argument syntax {part}, expected <resource>=<quantity>"));
            let (resource, quantity) = part.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(invalid)?;
            let parsed = api::quantity::Quantity::parse(quantity);
            parsed.map_err(|error| Failure::error(format!("--hard: {resource}: {quantity:?}: {error}")))?;
            hard.insert(resource.to_owned(), quantity.into());
        }
        let mut spec = json!({});
        if !hard.is_empty() {
            spec["hard"] = hard.into();
        }
        if !self.scopes.is_empty() {
            spec["scopes"] = json!(self.scopes);
        }
        Ok(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": self.name}, "spec": spec}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_objects() {
        let budget = |least: Option<&str>, most: Option<&str>, selector: &str| Budget {
            name: "b".into(),
            selector: selector.into(),
            min_available: least.map(str::to_owned),
            max_unavailable: most.map(str::to_owned),
        };
        let made = budget(Some("1"), None, "a=b,c==d").object().unwrap();
        assert_eq!(made["spec"], json!({"minAvailable": 1, "selector": {"matchLabels": {"a": "b", "c": "d"}}}));
        assert_eq!(budget(None, Some("50%"), "a=b").object().unwrap()["spec"]["maxUnavailable"], "50%");
        assert!(budget(None, None, "a=b").object().is_err() && budget(Some("1"), Some("1"), "a=b").object().is_err());
        assert!(budget(Some("1"), None, "a!=b").object().is_err());
        let quota = |hard: &str| Quota { name: "q".into(), hard: hard.into(), scopes: vec![] }.object();
        assert_eq!(quota("cpu=1,pods=2").unwrap()["spec"]["hard"], json!({"cpu": "1", "pods": "2"}));
        assert!(quota("cpu").is_err() && quota("cpu=x").is_err());
    }
}

//! What a quota's status has to say: pure.
use api::pod::{Amounts, add};
use api::quota::Quota;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Objects of a namespace by (group, plural).
pub(super) type Objects = BTreeMap<(String, String), Vec<Value>>;

/// The status of a quota over everything there is. `now` is in seconds since 1970.
pub(super) fn status(spec: &Value, objects: &Objects, now: i64) -> Value {
    let quota = Quota::read(spec);
    let mut used = quota.nothing();
    for ((group, plural), objects) in objects {
        for object in objects {
            add(&mut used, &quota.charge(group, plural, object, now));
        }
    }
    let hard = spec.get("hard").cloned().unwrap_or_else(|| json!({}));
    json!({"hard": hard, "used": told(&used)})
}

fn told(amounts: &Amounts) -> Value {
    amounts.iter().map(|(name, quantity)| (name.clone(), Value::from(quantity.to_string()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_counted_once_and_limits_without_objects_are_zero() {
        let spec = json!({"hard": {"pods": "5", "cpu": "2", "configmaps": "3", "count/deployments.apps": "1"}});
        let pod = |cpu: &str, phase: &str| {
            json!({"status": {"phase": phase},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
        };
        let objects = Objects::from([
            (("".into(), "pods".into()), vec![pod("500m", "Running"), pod("1", "Pending"), pod("1", "Failed")]),
            (("".into(), "configmaps".into()), vec![json!({}), json!({})]),
        ]);
        assert_eq!(
            status(&spec, &objects, 0),
            json!({"hard": spec["hard"],
            "used": {"pods": "2", "cpu": "1500m", "configmaps": "2", "count/deployments.apps": "0"}})
        );
    }
}

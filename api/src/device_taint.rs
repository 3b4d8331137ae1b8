//! Taints of devices: what a rule taints, and which of them who uses a device bears with. Who gives devices and who takes them back
//! must decide it alike. Kubernetes documentation, "Dynamic Resource Allocation", device taints and tolerations.
use k8s_openapi::api::resource::v1::{DeviceTaint, DeviceTaintRuleSpec, DeviceToleration};

/// Who does not tolerate a taint of this effect gets no such device, and loses one that it has.
pub const NO_EXECUTE: &str = "NoExecute";
/// Who does not tolerate a taint of this effect gets no such device.
pub const NO_SCHEDULE: &str = "NoSchedule";

/// Whether a toleration answers a taint.
pub fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    let is_any = text(&toleration.operator) == "Exists";
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() && is_any || key == taint.key)
        && (is_any || text(&toleration.value) == text(&taint.value))
}

/// Whether a rule taints the device of this driver, pool and name. One without a selector taints none, an empty selector
/// all.
pub fn is_tainted_by(rule: &DeviceTaintRuleSpec, driver: &str, pool: &str, device: &str) -> bool {
    let is = |wanted: &Option<String>, own: &str| wanted.as_ref().is_none_or(|wanted| wanted == own);
    rule.device_selector.as_ref().is_some_and(|selector| {
        is(&selector.driver, driver) && is(&selector.pool, pool) && is(&selector.device, device)
    })
}

/// How many seconds a taint is borne with by these tolerations: `None` for ever, 0 if none answers it.
pub fn patience(tolerations: &[DeviceToleration], taint: &DeviceTaint) -> Option<i64> {
    let mut patience = None;
    let mut is_answered = false;
    for toleration in tolerations.iter().filter(|own| tolerates(own, taint)) {
        is_answered = true;
        // The shortest counts, but for ever is for ever.
        let seconds = toleration.toleration_seconds?.max(0);
        patience = Some(patience.map_or(seconds, |own: i64| own.min(seconds)));
    }
    if is_answered { patience } else { Some(0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn toleration(value: Value) -> DeviceToleration {
        from_value(value).unwrap()
    }

    fn taint() -> DeviceTaint {
        from_value(json!({"key": "broken", "value": "fan", "effect": NO_EXECUTE})).unwrap()
    }

    #[test]
    fn tolerations_answer_by_key_value_and_effect() {
        for (own, answers) in [
            (json!({"key": "broken", "value": "fan"}), true),
            (json!({"key": "broken", "value": "fan", "effect": "NoSchedule"}), false),
            (json!({"key": "broken", "value": "disk"}), false),
            (json!({"key": "broken", "operator": "Exists", "effect": NO_EXECUTE}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({}), false),
        ] {
            assert_eq!(tolerates(&toleration(own.clone()), &taint()), answers, "{own}");
        }
    }

    #[test]
    fn the_shortest_patience_counts_and_for_ever_is_for_ever() {
        let own = |seconds: Value| toleration(json!({"operator": "Exists", "tolerationSeconds": seconds}));
        let of = |all: &[Value]| patience(&all.iter().cloned().map(own).collect::<Vec<_>>(), &taint());
        assert_eq!(of(&[]), Some(0));
        assert_eq!(of(&[json!(30), json!(20)]), Some(20));
        assert_eq!(of(&[json!(-5)]), Some(0));
        assert_eq!(of(&[json!(30), Value::Null]), None);
        let other = toleration(json!({"key": "other", "operator": "Exists"}));
        assert_eq!(patience(&[other], &taint()), Some(0), "it is about something else");
    }

    #[test]
    fn a_rule_is_about_what_it_selects() {
        let rule = |selector: Value| -> DeviceTaintRuleSpec {
            from_value(json!({"deviceSelector": selector, "taint": {"key": "k", "effect": NO_EXECUTE}})).unwrap()
        };
        let is = |selector: Value| is_tainted_by(&rule(selector), "d", "p", "x");
        assert!(is(json!({})) && is(json!({"driver": "d", "pool": "p", "device": "x"})));
        assert!(!is(Value::Null) && !is(json!({"pool": "q"})) && !is(json!({"driver": "e", "device": "x"})));
    }
}

//! Since when devices are tainted (`SetDefaults_DeviceTaint`, pkg/registry/resource/devicetaintrule): whoever tolerates a taint
//! for a while counts from then.
use crate::resource::Resource;
use crate::tree::{at, list, list_mut, text};
use serde_json::Value;

/// Fills in when each taint came that does not say so: a taint that was there before came when it did.
pub(super) fn times(resource: &Resource, old: Option<&Value>, new: &mut Value, now: &str) {
    let old = old.unwrap_or(&Value::Null);
    if resource.is("resource.k8s.io", "resourceslices") {
        for device in list_mut(new, &["spec", "devices"]) {
            if list(device, &["taints"]).is_empty() {
                continue;
            }
            let before = list(old, &["spec", "devices"]).iter().find(|before| before["name"] == device["name"]);
            let before = before.map(|before| list(before, &["taints"])).unwrap_or_default();
            for taint in list_mut(device, &["taints"]) {
                let same =
                    before.iter().find(|old| ["key", "value", "effect"].iter().all(|key| old[key] == taint[key]));
                fill(taint, same, now);
            }
        }
    }
    if resource.is("resource.k8s.io", "devicetaintrules") {
        let before = at(old, &["spec", "taint"]);
        let Some(taint) = new.get_mut("spec").and_then(|spec| spec.get_mut("taint")) else { return };
        let has_same_effect = before.filter(|before| before["effect"] == taint["effect"]);
        // What counts is since when it has this effect, unless the client says when that was.
        if before.is_some_and(|before| has_same_effect.is_none() && before["timeAdded"] == taint["timeAdded"]) {
            taint["timeAdded"] = now.into();
        }
        fill(taint, has_same_effect, now);
    }
}

fn fill(taint: &mut Value, same: Option<&Value>, now: &str) {
    let is_set = text(taint, &["timeAdded"]).is_some_and(|time| !time.is_empty());
    if taint.is_object() && !is_set {
        let time = same.and_then(|same| text(same, &["timeAdded"])).unwrap_or(now);
        taint["timeAdded"] = time.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Table;
    use serde_json::json;

    fn of(plural: &str, old: Option<&Value>, mut new: Value) -> Value {
        let resource = Table::builtin().find("resource.k8s.io", "v1", plural).unwrap();
        times(resource, old, &mut new, "2026-01-02T00:00:00Z");
        new
    }

    #[test]
    fn a_taint_of_a_device_says_since_when() {
        let slice = |time: Option<&str>| {
            let mut taint = json!({"key": "broken", "effect": "NoExecute"});
            if let Some(time) = time {
                taint["timeAdded"] = time.into();
            }
            json!({"spec": {"devices": [{"name": "a"}, {"name": "b", "taints": [taint]}]}})
        };
        let time = |slice: &Value| slice["spec"]["devices"][1]["taints"][0]["timeAdded"].clone();
        let made = of("resourceslices", None, slice(None));
        assert_eq!(time(&made), "2026-01-02T00:00:00Z");
        assert_eq!(made["spec"]["devices"][0], json!({"name": "a"}));
        let first = slice(Some("2026-01-01T00:00:00Z"));
        assert_eq!(time(&of("resourceslices", None, first.clone())), "2026-01-01T00:00:00Z");
        assert_eq!(time(&of("resourceslices", Some(&first), slice(None))), "2026-01-01T00:00:00Z", "it was there");
        let mut other = slice(None);
        other["spec"]["devices"][1]["taints"][0]["value"] = "fan".into();
        assert_eq!(time(&of("resourceslices", Some(&first), other)), "2026-01-02T00:00:00Z", "another one");
    }

    #[test]
    fn a_rule_says_since_when_it_has_its_effect() {
        let rule = |effect: &str, time: Option<&str>| {
            let mut taint = json!({"key": "broken", "effect": effect});
            if let Some(time) = time {
                taint["timeAdded"] = time.into();
            }
            json!({"spec": {"taint": taint}})
        };
        let time = |rule: &Value| rule["spec"]["taint"]["timeAdded"].clone();
        let (first, then) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        assert_eq!(time(&of("devicetaintrules", None, rule("None", None))), then);
        let old = rule("None", Some(first));
        let update = |new: Value| time(&of("devicetaintrules", Some(&old), new));
        assert_eq!(update(rule("None", None)), first);
        assert_eq!(update(rule("NoExecute", Some(first))), then, "kept by a client that read it");
        assert_eq!(update(rule("NoExecute", None)), then);
        assert_eq!(update(rule("NoExecute", Some("2025-01-01T00:00:00Z"))), "2025-01-01T00:00:00Z", "meant so");
    }
}

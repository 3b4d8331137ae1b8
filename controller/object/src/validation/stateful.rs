//! Rules of StatefulSets and DaemonSets, and of the revisions that both keep.
use super::check::{Faults, is_blank};
use super::workload::{common_with, is_zero};
use crate::tree::{list, text};
use serde_json::{Value, json};

/// A StatefulSet's pods as they will be: each claim of its templates is a volume of that name, in place of one that the
/// pod's template has (API field `volumeClaimTemplates`).
fn with_claims(spec: &Value) -> Value {
    let mut pods = spec["template"].clone();
    let claims: Vec<&str> =
        list(spec, &["volumeClaimTemplates"]).iter().filter_map(|c| text(c, &["metadata", "name"])).collect();
    if claims.is_empty() || !pods["spec"].is_object() {
        return pods;
    }
    let own = list(&pods, &["spec", "volumes"]);
    let own = own.iter().filter(|volume| text(volume, &["name"]).is_none_or(|name| !claims.contains(&name))).cloned();
    let made = claims.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
    let volumes: Vec<Value> = own.chain(made).collect();
    pods["spec"]["volumes"] = Value::Array(volumes);
    pods
}

pub(super) fn stateful_set(object: &Value, faults: &mut Faults) {
    common_with(object, &with_claims(&object["spec"]), "StatefulSet", faults);
    let spec = &object["spec"];
    if let Some(name) = text(object, &["metadata", "name"]) {
        // Pods have it in their host names.
        faults.rule("metadata.name", name, api::name::rfc1123_label(name));
    }
    if let Some(service) = text(spec, &["serviceName"]).filter(|service| !service.is_empty()) {
        faults.rule("spec.serviceName", service, api::name::rfc1123_label(service));
    }
    faults.needs_one_of(spec, "podManagementPolicy", "spec", &["OrderedReady", "Parallel"]);
    let strategy = &spec["updateStrategy"];
    faults.needs_one_of(strategy, "type", "spec.updateStrategy", &["RollingUpdate", "OnDelete"]);
    let rolling = &strategy["rollingUpdate"];
    let path = "spec.updateStrategy.rollingUpdate";
    if strategy["type"] == "OnDelete" && !rolling.is_null() {
        faults.invalid(path, rolling.clone(), "only allowed for updateStrategy 'RollingUpdate'");
    } else {
        faults.not_negative(rolling, "partition", path);
        faults.count_or_percent(rolling, "maxUnavailable", path, true);
        if is_zero(rolling.get("maxUnavailable")) {
            faults.invalid(format!("{path}.maxUnavailable"), rolling["maxUnavailable"].clone(), "cannot be 0");
        }
    }
    for key in ["whenDeleted", "whenScaled"] {
        faults.one_of(
            &spec["persistentVolumeClaimRetentionPolicy"],
            key,
            "spec.persistentVolumeClaimRetentionPolicy",
            &["Retain", "Delete"],
        );
    }
    faults.not_negative(&spec["ordinals"], "start", "spec.ordinals");
}

pub(super) fn daemon_set(object: &Value, faults: &mut Faults) {
    common_with(object, &object["spec"]["template"], "DaemonSet", faults);
    let strategy = &object["spec"]["updateStrategy"];
    faults.needs_one_of(strategy, "type", "spec.updateStrategy", &["RollingUpdate", "OnDelete"]);
    if strategy["type"] != "RollingUpdate" {
        return;
    }
    let (rolling, path) = (&strategy["rollingUpdate"], "spec.updateStrategy.rollingUpdate");
    if rolling.is_null() {
        return faults.required(path, "");
    }
    faults.count_or_percent(rolling, "maxUnavailable", path, true);
    faults.count_or_percent(rolling, "maxSurge", path, true);
    let is_none = |key: &str| rolling.get(key).is_none() || is_zero(rolling.get(key));
    match (is_none("maxUnavailable"), is_none("maxSurge")) {
        (false, false) => faults.invalid(
            format!("{path}.maxSurge"),
            rolling["maxSurge"].clone(),
            "may not be set when maxUnavailable is non-zero",
        ),
        (true, true) => faults.required(format!("{path}.maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        (true, false) | (false, true) => {}
    }
}

pub(super) fn controller_revision(object: &Value, faults: &mut Faults) {
    if is_blank(object.get("data")) {
        faults.required("data", "data is mandatory");
    }
    faults.not_negative(object, "revision", "");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(check: fn(&Value, &mut Faults), object: &Value) -> Vec<String> {
        let mut faults = Faults::default();
        check(object, &mut faults);
        let all = faults.into_causes().into_iter().map(|cause| cause.field);
        all.filter(|field| !field.starts_with("spec.template.spec")).collect()
    }

    fn with(kind: &str, change: Value) -> Value {
        let mut object = json!({"metadata": {"name": "a"}, "spec": {
            "selector": {"matchLabels": {"a": "b"}}, "podManagementPolicy": "OrderedReady", "serviceName": "s",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Always"}}}});
        if kind == "DaemonSet" {
            object["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"] = 0.into();
        }
        for (key, value) in change.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        object
    }

    #[test]
    fn stateful_sets_are_refused_by_field() {
        let rolling = |rolling: Value| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}});
        let strategy = "spec.updateStrategy.rollingUpdate";
        for (change, field) in [
            (json!({}), None),
            (rolling(json!({"maxUnavailable": "50%", "partition": 3})), None),
            (rolling(json!({"maxUnavailable": 0})), Some(format!("{strategy}.maxUnavailable"))),
            (rolling(json!({"maxUnavailable": "101%"})), Some(format!("{strategy}.maxUnavailable"))),
            (rolling(json!({"partition": -1})), Some(format!("{strategy}.partition"))),
            (json!({"updateStrategy": {"type": "OnDelete"}}), None),
            (json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {}}}), Some(strategy.into())),
            (json!({"podManagementPolicy": "Sometimes"}), Some("spec.podManagementPolicy".into())),
            (json!({"serviceName": "a.b"}), Some("spec.serviceName".into())),
            (json!({"ordinals": {"start": -1}}), Some("spec.ordinals.start".into())),
            (json!({"revisionHistoryLimit": -1}), Some("spec.revisionHistoryLimit".into())),
            (json!({"selector": {}}), Some("spec.selector".into())),
            (
                json!({"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Keep"}}),
                Some("spec.persistentVolumeClaimRetentionPolicy.whenScaled".into()),
            ),
        ] {
            let found = told(stateful_set, &with("StatefulSet", change.clone()));
            assert_eq!(found, field.into_iter().collect::<Vec<_>>(), "{change}");
        }
    }

    #[test]
    fn daemon_sets_are_refused_by_field() {
        let strategy = "spec.updateStrategy.rollingUpdate";
        let of = |unavailable: Value, surge: Value| {
            json!({"updateStrategy": {"type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}}})
        };
        for (change, field) in [
            (of(json!(1), json!(0)), None),
            (of(json!("10%"), json!(0)), None),
            (of(json!(0), json!("10%")), None),
            (of(json!(1), json!(1)), Some(format!("{strategy}.maxSurge"))),
            (of(json!(0), json!(0)), Some(format!("{strategy}.maxUnavailable"))),
            (of(json!(0), json!("200%")), Some(format!("{strategy}.maxSurge"))),
            (json!({"updateStrategy": {"type": "RollingUpdate"}}), Some(strategy.into())),
            (json!({"updateStrategy": {"type": "OnDelete"}}), None),
            (json!({"minReadySeconds": -1}), Some("spec.minReadySeconds".into())),
        ] {
            let found = told(daemon_set, &with("DaemonSet", change.clone()));
            assert_eq!(found, field.into_iter().collect::<Vec<_>>(), "{change}");
        }
    }

    #[test]
    fn a_revision_has_data() {
        assert_eq!(told(controller_revision, &json!({"revision": 1})), ["data"]);
        assert_eq!(told(controller_revision, &json!({"data": {"spec": {}}, "revision": -1})), ["revision"]);
        assert_eq!(told(controller_revision, &json!({"data": {"spec": {}}})), [""; 0]);
    }
}

//! Rules of PodGroups and Workloads, and of pods that belong to a group (facts from the markers of Kubernetes'
//! `k8s.io/api/scheduling/v1beta1`). Fields of features that are off in release 1.37 are refused, not dropped: whoever
//! asks for a topology is told that it would not be kept.
use super::check::{Faults, is_blank, join};
use crate::status::Cause;
use crate::tree::{at, integer, list, text};
use serde_json::Value;

/// `HighestUserDefinablePriority`.
const MAX_PRIORITY: i64 = 1_000_000_000;
/// `WorkloadMaxPodGroupTemplates`.
const MAX_TEMPLATES: usize = 8;

/// Fields of a group and of a template that are served only with a feature that is off in Kubernetes 1.37, and the feature.
const CLOSED: [(&str, &str); 4] = [
    ("schedulingConstraints", "TopologyAwareWorkloadScheduling"),
    ("resourceClaims", "DRAWorkloadResourceClaims"),
    ("preemptionPolicy", "PodGroupPreemptionPolicy"),
    ("parentCompositePodGroupName", "CompositePodGroup"),
];

/// Fields of a group that keep their first value, besides its kind of policy.
pub(super) const FIXED_IN_GROUP: [&str; 5] = [
    "spec.workloadRef",
    "spec.disruptionMode",
    "spec.priorityClassName",
    "spec.priority",
    "spec.schedulingPolicy.basic",
];
/// The same of a Workload's template.
const FIXED_IN_TEMPLATE: [&[&str]; 4] =
    [&["disruptionMode"], &["priorityClassName"], &["priority"], &["schedulingPolicy", "basic"]];

pub(super) fn pod_group(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    shared(spec, "spec", faults);
    if let Some(reference) = at(spec, &["workloadRef"]) {
        named(reference, "workloadName", "spec.workloadRef", api::name::rfc1123_subdomain, faults);
        named(reference, "templateName", "spec.workloadRef", api::name::rfc1123_label, faults);
    }
}

pub(super) fn workload(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    if let Some(reference) = at(spec, &["controllerRef"]) {
        let path = "spec.controllerRef";
        if let Some(group) = text(reference, &["apiGroup"]).filter(|group| !group.is_empty()) {
            faults.rule(&join(path, "apiGroup"), group, api::name::rfc1123_subdomain(group));
        }
        named(reference, "kind", path, api::name::path_segment, faults);
        named(reference, "name", path, api::name::path_segment, faults);
    }
    if !is_blank(spec.get("compositePodGroupTemplates")) {
        closed("spec.compositePodGroupTemplates", "CompositePodGroup", faults);
    }
    let (templates, path) = (list(spec, &["podGroupTemplates"]), "spec.podGroupTemplates");
    if templates.is_empty() {
        faults.required(path, "must have at least one item");
    }
    if templates.len() > MAX_TEMPLATES {
        faults.add(Cause::too_many(path, templates.len(), MAX_TEMPLATES));
        return;
    }
    for (index, template) in templates.iter().enumerate() {
        let path = format!("{path}[{index}]");
        named(template, "name", &path, api::name::rfc1123_label, faults);
        if templates.iter().take(index).any(|other| name_of(other) == name_of(template)) {
            faults.add(Cause::duplicate(join(&path, "name"), &template["name"]));
        }
        shared(template, &path, faults);
    }
}

/// What a group and a template of groups have in common.
fn shared(holder: &Value, path: &str, faults: &mut Faults) {
    for (field, feature) in CLOSED {
        if !is_blank(holder.get(field)) {
            closed(&join(path, field), feature, faults);
        }
    }
    let policy = join(path, "schedulingPolicy");
    one_of(&holder["schedulingPolicy"], &policy, ["basic", "gang"], faults);
    if let Some(gang) = at(holder, &["schedulingPolicy", "gang"]) {
        let field = join(&policy, "gang.minCount");
        match integer(gang, &["minCount"]) {
            None | Some(0) => faults.required(field, ""),
            Some(count) if count < 1 => faults.invalid(field, count, "must be greater than or equal to 1"),
            Some(_) => {}
        }
    }
    if let Some(mode) = at(holder, &["disruptionMode"]) {
        one_of(mode, &join(path, "disruptionMode"), ["single", "all"], faults);
    }
    if let Some(class) = text(holder, &["priorityClassName"]).filter(|class| !class.is_empty()) {
        faults.rule(&join(path, "priorityClassName"), class, api::name::rfc1123_subdomain(class));
    }
    if let Some(priority) = integer(holder, &["priority"]).filter(|priority| *priority > MAX_PRIORITY) {
        // Only a class of the system gives more.
        let is_of_system = text(holder, &["priorityClassName"]).is_some_and(|class| class.starts_with("system-"));
        if !is_of_system {
            faults.invalid(join(path, "priority"), priority, "must be less than or equal to 1000000000");
        }
    }
}

fn closed(field: &str, feature: &str, faults: &mut Faults) {
    faults.forbidden(field, &format!("needs the feature {feature}, which is off"));
}

/// Exactly one of two fields is there.
fn one_of(holder: &Value, path: &str, fields: [&str; 2], faults: &mut Faults) {
    let [one, other] = fields;
    match fields.map(|field| at(holder, &[field]).is_some()) {
        [true, false] | [false, true] => {}
        [false, false] => faults.invalid(path, "", &format!("must specify one of: `{one}`, `{other}`")),
        [true, true] => {
            let detail = format!("exactly one of `{one}`, `{other}` is required, but multiple fields are set");
            faults.invalid(path, format!("{{`{one}`, `{other}`}}"), &detail);
        }
    }
}

/// A name that must be there.
fn named(holder: &Value, key: &str, path: &str, rule: fn(&str) -> Vec<String>, faults: &mut Faults) {
    let field = join(path, key);
    match text(holder, &[key]).filter(|name| !name.is_empty()) {
        Some(name) => faults.rule(&field, name, rule(name)),
        None => faults.required(field, ""),
    }
}

fn name_of(template: &Value) -> Option<&str> {
    text(template, &["name"])
}

/// The group that a pod's spec names.
pub(super) fn group_of_pod(spec: &Value, path: &str, faults: &mut Faults) {
    if let Some(group) = at(spec, &["schedulingGroup"]) {
        named(group, "podGroupName", &join(path, "schedulingGroup"), api::name::rfc1123_subdomain, faults);
    }
}

/// A policy keeps its kind.
fn policy_update(old: &Value, new: &Value, path: &str, faults: &mut Faults) {
    let gang = |holder: &Value| at(holder, &["schedulingPolicy", "gang"]).is_some();
    let field = join(path, "schedulingPolicy.gang");
    match (gang(old), gang(new)) {
        (false, true) => faults.invalid(field, "", "field cannot be set once created"),
        (true, false) => faults.invalid(field, "", "field cannot be cleared once set"),
        (true, true) | (false, false) => {}
    }
}

pub(super) fn pod_group_update(old: &Value, new: &Value, faults: &mut Faults) {
    policy_update(&old["spec"], &new["spec"], "spec", faults);
}

/// Templates neither come nor go, and of each only `minCount` changes.
pub(super) fn workload_update(old: &Value, new: &Value, faults: &mut Faults) {
    let path = "spec.podGroupTemplates";
    let (before, after) = (list(&old["spec"], &["podGroupTemplates"]), list(&new["spec"], &["podGroupTemplates"]));
    let is_in = |all: &[Value], one: &Value| all.iter().any(|other| name_of(other) == name_of(one));
    if after.iter().any(|template| !is_in(before, template)) {
        faults.forbidden(path, "items may not be added");
    }
    if before.iter().any(|template| !is_in(after, template)) {
        faults.forbidden(path, "items may not be removed");
    }
    for (index, template) in after.iter().enumerate() {
        let Some(known) = before.iter().find(|known| name_of(known) == name_of(template)) else { continue };
        let path = format!("{path}[{index}]");
        for keys in FIXED_IN_TEMPLATE {
            let now = at(template, keys);
            if at(known, keys) != now {
                faults.invalid(join(&path, &keys.join(".")), now.cloned().unwrap_or_default(), "field is immutable");
            }
        }
        policy_update(known, template, &path, faults);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(check: impl FnOnce(&mut Faults)) -> Vec<String> {
        let mut faults = Faults::default();
        check(&mut faults);
        faults.into_causes().iter().map(Cause::describe).collect()
    }

    fn of_group(spec: &Value) -> Vec<String> {
        said(|faults| pod_group(&json!({"spec": spec}), faults))
    }

    #[test]
    fn a_group_has_one_policy_and_asks_for_somebody() {
        assert_eq!(of_group(&json!({"schedulingPolicy": {"gang": {"minCount": 3}}})), Vec::<String>::new());
        assert_eq!(of_group(&json!({"schedulingPolicy": {"basic": {}}})), Vec::<String>::new());
        for (policy, want) in [
            (json!({}), "spec.schedulingPolicy: Invalid value: \"\": must specify one of: `basic`, `gang`"),
            (
                json!({"basic": {}, "gang": {"minCount": 1}}),
                "spec.schedulingPolicy: Invalid value: \"{`basic`, `gang`}\": exactly one of `basic`, `gang` is required, but multiple fields are set",
            ),
            (json!({"gang": {}}), "spec.schedulingPolicy.gang.minCount: Required value"),
            (
                json!({"gang": {"minCount": -1}}),
                "spec.schedulingPolicy.gang.minCount: Invalid value: -1: must be greater than or equal to 1",
            ),
        ] {
            assert_eq!(of_group(&json!({"schedulingPolicy": policy})), [want]);
        }
    }

    #[test]
    fn what_is_off_is_refused_by_name() {
        let spec = json!({"schedulingPolicy": {"basic": {}}, "schedulingConstraints": {"topology": [{"key": "rack"}]},
            "preemptionPolicy": "Never", "workloadRef": {"workloadName": "W", "templateName": ""},
            "disruptionMode": {"single": {}, "all": {}}, "priority": 1_000_000_001});
        let faults = of_group(&spec);
        for part in [
            "spec.schedulingConstraints: Forbidden: needs the feature TopologyAwareWorkloadScheduling",
            "spec.preemptionPolicy: Forbidden: needs the feature PodGroupPreemptionPolicy",
            "spec.workloadRef.workloadName: Invalid value: \"W\"",
            "spec.workloadRef.templateName: Required value",
            "spec.disruptionMode: Invalid value",
            "spec.priority: Invalid value: 1000000001: must be less than or equal to 1000000000",
        ] {
            assert!(faults.iter().any(|fault| fault.starts_with(part)), "{part}: {faults:?}");
        }
        assert_eq!(faults.len(), 6, "{faults:?}");
        let composite = json!({"spec": {"compositePodGroupTemplates": [{"name": "c"}]}});
        let faults = said(|faults| workload(&composite, faults));
        assert!(faults[0].contains("needs the feature CompositePodGroup"), "{faults:?}");
    }

    #[test]
    fn a_policy_keeps_its_kind_and_a_workload_its_templates() {
        let gang = |count: i64| json!({"schedulingPolicy": {"gang": {"minCount": count}}});
        let update = |old: Value, new: Value| {
            said(|faults| pod_group_update(&json!({"spec": old}), &json!({"spec": new}), faults))
        };
        assert_eq!(update(gang(1), gang(2)), Vec::<String>::new());
        assert!(update(gang(1), json!({"schedulingPolicy": {"basic": {}}}))[0].contains("cannot be cleared once set"));
        let templates = |all: Value| json!({"spec": {"podGroupTemplates": all}});
        let one = json!({"name": "a", "schedulingPolicy": {"gang": {"minCount": 1}}});
        let mut more = one.clone();
        more["schedulingPolicy"]["gang"]["minCount"] = json!(4);
        let change = |old: &Value, new: &Value| said(|faults| workload_update(old, new, faults));
        assert_eq!(change(&templates(json!([one])), &templates(json!([more]))), Vec::<String>::new());
        more["priority"] = json!(5);
        assert_eq!(
            change(&templates(json!([one])), &templates(json!([more, {"name": "b"}]))),
            [
                "spec.podGroupTemplates: Forbidden: items may not be added",
                "spec.podGroupTemplates[0].priority: Invalid value: 5: field is immutable",
            ]
        );
        let twice = templates(json!([one, one]));
        assert_eq!(said(|faults| workload(&twice, faults)), ["spec.podGroupTemplates[1].name: Duplicate value: \"a\""]);
    }
}

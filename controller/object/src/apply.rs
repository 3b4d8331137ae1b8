//! Server-side apply: who owns which fields (`metadata.managedFields`), merging, conflicts, and removal.
//! After the rules of structured-merge-diff; list and map kinds come from the schema.
mod client_side;
mod merge;
mod ownership;
mod set;

use crate::resource::Resource;
use crate::status::{Cause, CauseReason, Status};
use ownership::{Managed, given_managed, read_managed, read_stored, write_managed};
pub use ownership::{Manager, Operation};
use serde_json::{Value, json};
use set::FieldSet;

/// Applies a configuration to the live object, or makes a new one. The result is not defaulted and not validated.
pub fn apply(
    resource: &Resource,
    live: Option<&Value>,
    applied: &Value,
    manager: &Manager,
    force: bool,
) -> Result<Value, Status> {
    if applied
        .get("metadata")
        .and_then(|m| m.get("managedFields"))
        .is_some_and(|m| m.as_array().is_none_or(|a| !a.is_empty()))
    {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    if !applied.is_object() || applied.get("metadata").is_some_and(|m| !m.is_object()) {
        return Err(Status::bad_request("the applied configuration must be an object with metadata"));
    }
    let Some(cursor) = resource.cursor() else {
        return Err(Status::bad_request(format!("{} has no schema to apply with", resource.describe_kind())));
    };
    // Lists of custom resources may have keys with defaults.
    let keyed = resource.custom.as_ref().map(|custom| {
        let mut keyed = applied.clone();
        crate::custom::fill_keys(&custom.node, &mut keyed);
        keyed
    });
    let applied = keyed.as_ref().unwrap_or(applied);
    let empty = json!({});
    let live_object = live.unwrap_or(&empty);
    let mut managed = match live {
        Some(live) => read_stored(live),
        None => Vec::new(),
    };
    if let Some(live) = live
        && managed.is_empty()
    {
        // What was there before the first apply belongs to nobody in particular.
        let fields = FieldSet::of(cursor, live).without_system();
        let earlier = Manager {
            name: "before-first-apply".into(),
            operation: Operation::Update,
            subresource: None,
            now: manager.now.clone(),
        };
        managed.extend((!fields.is_empty()).then(|| Managed::new(&earlier, resource, fields)));
    }
    let wanted = FieldSet::of(cursor, applied).without_system();
    let changing = FieldSet::changed(cursor, live, applied).without_system();
    let pledged = live.and_then(|live| client_side::pledged(cursor, live, manager));
    let mut causes = Vec::new();
    for other in managed.iter().filter(|m| !m.is(manager) && !force) {
        let mut lost = other.fields().shared(&changing);
        pledged.as_ref().map(|pledged| lost.subtract(pledged));
        for path in lost.paths() {
            let message = format!("conflict with {}", other.describe());
            causes.push(Cause { reason: CauseReason::FieldManagerConflict, message, field: path });
        }
    }
    if !causes.is_empty() {
        return Err(Status::apply_conflict(causes));
    }
    for other in managed.iter_mut().filter(|m| !m.is(manager)) {
        other.change(|fields| fields.subtract(&changing));
    }
    let mut merged = merge::merge(cursor, live_object, applied);
    let before = managed.iter().find(|m| m.is(manager)).map(|m| m.fields().clone());
    if let Some(before) = &before {
        let mut keep = wanted.clone();
        for other in managed.iter().filter(|m| !m.is(manager)) {
            keep.add(other.fields());
        }
        merge::remove_unowned(&mut merged, before, &keep);
    }
    let unchanged = before.as_ref() == Some(&wanted) && without_managed(&merged) == without_managed(live_object);
    if !unchanged {
        managed.retain(|m| !m.is(manager));
        if !wanted.is_empty() {
            managed.push(Managed::new(manager, resource, wanted));
        }
    }
    for other in &mut managed {
        other.change(|fields| fields.keep_existing(cursor, &merged));
    }
    write_managed(&mut merged, managed);
    merged["apiVersion"] = resource.api_version().into();
    merged["kind"] = resource.kind.as_str().into();
    if let Some(live) = live {
        client_side::keep_up(live, applied, &mut merged, manager);
    }
    Ok(merged)
}

/// The object with an applied configuration laid over it, whoever owns what: what a mutating policy's configuration does.
pub fn merged(resource: &Resource, live: &Value, applied: &Value) -> Value {
    match resource.cursor() {
        Some(cursor) => merge::merge(cursor, live, applied),
        None => live.clone(),
    }
}

/// The first list, map or struct of a configuration that can only be replaced as a whole.
pub fn atomic_path(resource: &Resource, applied: &Value) -> Option<String> {
    merge::atomic_path(resource.cursor()?, applied)
}

/// Takes fields that are not there any more from those who owned them: others removed them after an apply.
pub fn settle(resource: &Resource, object: &mut Value) {
    let Some(cursor) = resource.cursor() else { return };
    let mut managed = read_managed(object);
    if managed.is_empty() {
        return;
    }
    for entry in &mut managed {
        entry.change(|fields| fields.keep_existing(cursor, object));
    }
    write_managed(object, managed);
}

/// Records who changed which fields by create, update or patch. `old` and `new` are defaulted objects.
///
/// The entries in `new` count, so that clients can mend them, but not through a subresource. An empty list changes
/// nothing: many clients do not know the field. A list of one empty entry forgets all owners. Where nobody owns
/// anything nothing is recorded, until the first apply says who was there before. (Kubernetes documentation,
/// "Server-Side Apply", "Clearing managedFields"; apimachinery, managedfields/internal/{fieldmanager,skipnonapplied}.go)
pub fn track_update(resource: &Resource, old: Option<&Value>, new: &mut Value, manager: &Manager) {
    let Some(cursor) = resource.cursor() else { return };
    let mut managed = given_managed(old, new, manager.subresource.is_some());
    if managed.is_empty() && old.is_some() {
        return write_managed(new, managed);
    }
    let taken = FieldSet::changed(cursor, old, new).without_system();
    for entry in &mut managed {
        if !entry.is(manager) {
            entry.change(|fields| fields.subtract(&taken));
        }
        entry.change(|fields| fields.keep_existing(cursor, new));
    }
    match managed.iter_mut().find(|entry| entry.is(manager)) {
        _ if taken.is_empty() => {}
        Some(own) => {
            own.change(|fields| fields.add(&taken));
            own.renew(manager, resource);
        }
        None => managed.push(Managed::new(manager, resource, taken)),
    }
    ownership::cap_updates(&mut managed);
    write_managed(new, managed);
}

fn without_managed(object: &Value) -> Value {
    let mut copy = object.clone();
    if let Some(metadata) = copy.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    copy
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Table;

    fn manager(name: &str, operation: Operation, now: &str) -> Manager {
        Manager { name: name.into(), operation, subresource: None, now: now.into() }
    }

    fn deployments() -> &'static Resource {
        Table::builtin().find("apps", "v1", "deployments").unwrap()
    }

    fn deployment(replicas: i64, image: &str) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "labels": {"x": "y"}},
            "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"name": "c", "image": image, "ports": [{"containerPort": 80}]}]}}}})
    }

    #[test]
    fn first_apply_owns_what_it_says() {
        let m = manager("me", Operation::Apply, "t1");
        let result = apply(deployments(), None, &deployment(1, "i"), &m, false).unwrap();
        let entry = &result["metadata"]["managedFields"][0];
        assert_eq!(entry["manager"], "me");
        assert_eq!(
            entry["fieldsV1"],
            json!({"f:metadata": {"f:labels": {"f:x": {}}}, "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers":
                {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}})
        );
    }

    #[test]
    fn applying_again_changes_nothing() {
        let first =
            apply(deployments(), None, &deployment(1, "i"), &manager("me", Operation::Apply, "t1"), false).unwrap();
        let second =
            apply(deployments(), Some(&first), &deployment(1, "i"), &manager("me", Operation::Apply, "t2"), false)
                .unwrap();
        assert_eq!(first, second);
    }

    #[test]
    fn what_others_removed_belongs_to_nobody() {
        let m = manager("me", Operation::Apply, "t1");
        let mut object = apply(deployments(), None, &deployment(1, "i"), &m, false).unwrap();
        object["metadata"].as_object_mut().unwrap().remove("labels");
        settle(deployments(), &mut object);
        let fields = &object["metadata"]["managedFields"][0]["fieldsV1"];
        assert!(fields.get("f:metadata").is_none() && fields["f:spec"].get("f:replicas").is_some());
    }

    #[test]
    fn conflicts_force_and_sharing() {
        let first =
            apply(deployments(), None, &deployment(1, "i"), &manager("me", Operation::Apply, "t1"), false).unwrap();
        let you = manager("you", Operation::Apply, "t2");
        let error = apply(deployments(), Some(&first), &deployment(2, "i"), &you, false).unwrap_err();
        assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"me\": .spec.replicas");
        let shared = apply(deployments(), Some(&first), &deployment(1, "i"), &you, false).unwrap();
        assert_eq!(shared["metadata"]["managedFields"].as_array().unwrap().len(), 2);
        let forced = apply(deployments(), Some(&first), &deployment(2, "i"), &you, true).unwrap();
        assert_eq!(forced["spec"]["replicas"], 2);
        let mine = &forced["metadata"]["managedFields"][0];
        assert_eq!(mine["manager"], "me");
        assert!(mine["fieldsV1"]["f:spec"].get("f:replicas").is_none());
    }

    #[test]
    fn dropped_fields_go_unless_owned_by_others() {
        let first =
            apply(deployments(), None, &deployment(1, "i"), &manager("me", Operation::Apply, "t1"), false).unwrap();
        let mut scaled = first.clone();
        scaled["spec"]["replicas"] = 5.into();
        track_update(deployments(), Some(&first), &mut scaled, &manager("scaler", Operation::Update, "t2"));
        let mut less = deployment(1, "i");
        less["spec"].as_object_mut().unwrap().remove("replicas");
        less["metadata"].as_object_mut().unwrap().remove("labels");
        let result = apply(deployments(), Some(&scaled), &less, &manager("me", Operation::Apply, "t3"), false).unwrap();
        assert_eq!(result["spec"]["replicas"], 5);
        assert!(result["metadata"].get("labels").is_none());
    }

    #[test]
    fn items_are_added_and_removed_by_key() {
        let m = manager("me", Operation::Apply, "t1");
        let mut two = deployment(1, "i");
        two["spec"]["template"]["spec"]["containers"] =
            json!([{"name": "c", "image": "i"}, {"name": "d", "image": "j"}]);
        let first = apply(deployments(), None, &two, &m, false).unwrap();
        let second = apply(deployments(), Some(&first), &deployment(1, "i2"), &m, false).unwrap();
        assert_eq!(
            second["spec"]["template"]["spec"]["containers"],
            json!([{"name": "c", "image": "i2", "ports": [{"containerPort": 80}]}])
        );
    }

    #[test]
    fn updates_take_fields_and_keep_time_when_nothing_changes() {
        let created = {
            let mut object = deployment(1, "i");
            track_update(deployments(), None, &mut object, &manager("create", Operation::Update, "t1"));
            object
        };
        let mut same = created.clone();
        track_update(deployments(), Some(&created), &mut same, &manager("create", Operation::Update, "t2"));
        assert_eq!(created, same);
        let error =
            apply(deployments(), Some(&created), &deployment(3, "i"), &manager("me", Operation::Apply, "t3"), false)
                .unwrap_err();
        assert_eq!(
            error.message,
            "Apply failed with 1 conflict: conflict with \"create\" using apps/v1 at t1: .spec.replicas"
        );
        let mut emptied = created.clone();
        emptied["metadata"].as_object_mut().unwrap().remove("labels");
        track_update(deployments(), Some(&created), &mut emptied, &manager("other", Operation::Update, "t4"));
        assert!(emptied["metadata"]["managedFields"][0]["fieldsV1"].get("f:metadata").is_none());
    }
}

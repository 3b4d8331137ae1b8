//! OwnerReferencesPermissionEnforcement: who gives an object to an owner that may not be deleted before it must be
//! allowed to hold that owner up; who changes owners at all must be allowed to delete the object.
//! Kubernetes documentation, "Admission Control in Kubernetes"; messages of plugin/pkg/admission/gc.

use controller_object::status::{About, Status};
use serde_json::Value;

use crate::admit::{Attributes, Operation};
use crate::authn::MASTERS;
use crate::authz::{Action, ResourceAction};
use crate::registry::names;

pub(super) fn validate(attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    if !matches!(attributes.operation, Operation::Create | Operation::Update)
        || attributes.subresource.is_some()
        || attributes.user.is_in(MASTERS)
    {
        return Ok(());
    }
    let references = |object: Option<&Value>| -> Vec<Value> {
        object
            .and_then(|one| one.pointer("/metadata/ownerReferences"))
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let (before, after) = (references(attributes.old), references(Some(object)));
    if before == after {
        return Ok(());
    }
    let refuse =
        |detail: String| Err(Status::forbidden(About::resource(attributes.resource, names(object).1), &detail));
    let allowed =
        |action: ResourceAction<'_>| attributes.state.authorizer.is_allowed(attributes.user, &Action::Resource(action));
    if attributes.operation == Operation::Update {
        let delete = ResourceAction {
            verb: "delete",
            group: &attributes.resource.group,
            resource: &attributes.resource.plural,
            namespace: attributes.namespace,
            name: Some(attributes.name),
            ..Default::default()
        };
        if !allowed(delete) {
            return refuse(format!(
                "cannot set an ownerRef on a resource you can't delete: User {:?} cannot delete resource",
                attributes.user.name
            ));
        }
    }
    let table = attributes.table();
    for owner in added(&before, &after) {
        let text = |key: &str| owner.get(key).and_then(Value::as_str).unwrap_or_default();
        let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
        // A kind that is not served cannot be held up either; a plain name of it tells nobody anything.
        let Some(resource) = table.find_kind(group, version, text("kind")) else {
            return refuse(format!(
                "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {} Kind {}: no matches for kind {:?} in version {:?}",
                text("apiVersion"),
                text("kind"),
                text("kind"),
                text("apiVersion")
            ));
        };
        let finalize = ResourceAction {
            verb: "update",
            group,
            resource: &resource.plural,
            subresource: Some("finalizers"),
            namespace: attributes.namespace.filter(|_| resource.is_namespaced()),
            name: Some(text("name")),
            ..Default::default()
        };
        if !allowed(finalize) {
            return refuse(format!(
                "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: User {:?} cannot update resource",
                attributes.user.name
            ));
        }
    }
    Ok(())
}

/// The owners that block their own deletion now and did not before.
fn added<'a>(before: &[Value], after: &'a [Value]) -> Vec<&'a Value> {
    let blocks = |owner: &Value| owner.get("blockOwnerDeletion") == Some(&Value::Bool(true));
    let held = |uid: &Value| before.iter().any(|owner| blocks(owner) && owner.get("uid") == Some(uid));
    after.iter().filter(|owner| blocks(owner) && !owner.get("uid").is_some_and(held)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_new_blocks_count() {
        let owner = |uid: &str, blocks: bool| json!({"uid": uid, "blockOwnerDeletion": blocks});
        let after = [owner("a", true), owner("b", true), owner("c", false)];
        assert_eq!(added(&[owner("a", true), owner("b", false)], &after), [&after[1]]);
    }
}

//! Roles and bindings grant only what their author has, or was allowed to `escalate` or `bind`.

use controller_object::status::{About, Status};
use serde::Deserialize as _;
use serde_json::Value;

use crate::admit::Attributes;
use crate::authz::rbac::{RoleRef, Rule};
use crate::authz::{Action, ResourceAction, escalation};
use crate::registry::names;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn admit(attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    let authorizer = &attributes.state.authorizer;
    if attributes.resource.group != GROUP || attributes.user.is_in(crate::authn::MASTERS) {
        return Ok(());
    }
    let (namespace, name) = names(object);
    let allowed = |verb, resource, target| {
        let action =
            ResourceAction { verb, group: GROUP, resource, namespace, name: Some(target), ..Default::default() };
        authorizer.is_allowed(attributes.user, &Action::Resource(action))
    };
    let wanted = match attributes.resource.plural.as_str() {
        plural @ ("roles" | "clusterroles") => {
            if attributes.old.is_some_and(|old| old.get("rules") == object.get("rules"))
                || allowed("escalate", plural, name)
            {
                return Ok(());
            }
            object.get("rules").and_then(|rules| Vec::<Rule>::deserialize(rules).ok()).unwrap_or_default()
        }
        _ => {
            let role = object.get("roleRef").and_then(|role| RoleRef::deserialize(role).ok()).unwrap_or_default();
            let plural = if role.kind == "Role" { "roles" } else { "clusterroles" };
            let unchanged = attributes.old.is_some_and(|old| old.get("subjects") == object.get("subjects"));
            if unchanged || allowed("bind", plural, &role.name) {
                return Ok(());
            }
            match authorizer.rbac.role(&role, namespace) {
                Some(rules) => rules.to_vec(),
                None => {
                    let detail = format!("{plural}.{GROUP} {:?} not found", role.name);
                    return Err(Status::forbidden(About::resource(attributes.resource, name), &detail));
                }
            }
        }
    };
    match escalation::uncovered(&authorizer.rbac.rules(attributes.user, namespace), &wanted) {
        None => Ok(()),
        Some(missing) => {
            let detail = format!(
                "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{missing}",
                attributes.user.name, attributes.user.groups
            );
            Err(Status::forbidden(About::resource(attributes.resource, name), &detail))
        }
    }
}

//! Claims that reach devices whoever has them are for namespaces that an administrator marked. API reference,
//! ExactDeviceRequest, adminAccess.

use controller_object::status::{Cause, Status};
use serde_json::Value;

use crate::admit::Attributes;
use crate::registry::names;

/// On a namespace, with the value `true`.
const LABEL_ADMIN_ACCESS: &str = "resource.kubernetes.io/admin-access";

pub(super) fn validate(attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    let path = if attributes.creates("resource.k8s.io", "resourceclaims") {
        "spec"
    } else if attributes.creates("resource.k8s.io", "resourceclaimtemplates") {
        "spec.spec"
    } else {
        return Ok(());
    };
    let causes = asking(object, path);
    let (namespace, name) = names(object);
    if causes.is_empty() || namespace.is_some_and(|namespace| is_marked(attributes, namespace)) {
        return Ok(());
    }
    Err(Status::invalid(attributes.resource, name, causes))
}

fn is_marked(attributes: &Attributes<'_>, namespace: &str) -> bool {
    let found = attributes.state.registry.peek("", "v1", "namespaces", None, namespace);
    found.is_some_and(|found| found["metadata"]["labels"][LABEL_ADMIN_ACCESS] == "true")
}

/// The requests that ask for it, each as a fault.
fn asking(object: &Value, path: &str) -> Vec<Cause> {
    let requests = object.pointer(&format!("/{}/devices/requests", path.replace('.', "/")));
    let all = requests.and_then(Value::as_array).into_iter().flatten().enumerate();
    let asking = all.filter(|(_, request)| request["exactly"]["adminAccess"] == true);
    let detail =
        format!("admin access to devices requires the `{LABEL_ADMIN_ACCESS}: true` label on the containing namespace");
    let field = |index: usize| format!("{path}.devices.requests[{index}].exactly.adminAccess");
    asking.map(|(index, _)| Cause::forbidden(field(index), &detail)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_request_that_asks_for_it_is_told() {
        let devices =
            json!({"requests": [{"exactly": {"adminAccess": false}}, {"exactly": {"adminAccess": true}}, {}]});
        let fields = |object: Value, path| asking(&object, path).iter().map(Cause::describe).collect::<Vec<_>>();
        let of_claim = fields(json!({"spec": {"devices": devices}}), "spec");
        assert_eq!(of_claim.len(), 1);
        assert!(of_claim[0].starts_with("spec.devices.requests[1].exactly.adminAccess: Forbidden: admin access"));
        let of_template = fields(json!({"spec": {"spec": {"devices": devices}}}), "spec.spec");
        assert!(of_template[0].starts_with("spec.spec.devices.requests[1]."));
    }
}

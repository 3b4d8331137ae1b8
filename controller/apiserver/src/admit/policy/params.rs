//! The parameters that a binding gives its policy. Messages of apiserver/pkg/admission/plugin/policy/generic.

use api::selector::Selector;
use controller_object::policy::ParamKind;
use controller_object::status::Reason;
use serde_json::Value;

use crate::admit::Attributes;
use crate::admit::matching::labels;
use crate::custom::convert;

/// `paramRef` of a binding.
#[derive(Debug)]
pub(super) struct ParamRef {
    name: String,
    namespace: String,
    selector: Option<Selector>,
    /// What a request without parameters comes to.
    denies: bool,
}

impl ParamRef {
    pub(super) fn read(reference: &Value) -> Self {
        let text = |key: &str| reference.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let selector = reference.get("selector").filter(|given| !given.is_null());
        Self {
            name: text("name"),
            namespace: text("namespace"),
            selector: selector.map(|given| Selector::from_value(given).unwrap_or_default()),
            denies: text("parameterNotFoundAction") == "Deny",
        }
    }
}

/// The parameters of each evaluation; one evaluation without any where the policy or the binding has none.
pub(super) async fn collect(
    attributes: &Attributes<'_>,
    kind: Option<&ParamKind>,
    reference: Option<&ParamRef>,
) -> Result<Vec<Option<Value>>, String> {
    let (Some(kind), Some(reference)) = (kind, reference) else { return Ok(vec![None]) };
    let table = attributes.table();
    let (group, version) = kind.api_version.split_once('/').unwrap_or(("", &kind.api_version));
    let Some(resource) = table.find_kind(group, version, &kind.kind) else {
        return Err(format!("paramKind kind `{}, Kind={}` not known", kind.api_version, kind.kind));
    };
    let namespace = match (resource.is_namespaced(), reference.namespace.as_str()) {
        (false, "") => None,
        (false, _) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()),
        (true, "") => Some(
            attributes
                .namespace
                .ok_or("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")?,
        ),
        (true, given) => Some(given),
    };
    let registry = &attributes.state.registry;
    let read = || match &reference.selector {
        None => match registry.current(resource, namespace, &reference.name) {
            Ok(found) => Ok(vec![Some(found.object)]),
            Err(status) if status.reason == Reason::NotFound => Ok(Vec::new()),
            Err(status) => Err(status),
        },
        Some(selector) => {
            let all = registry.list_of(resource, namespace)?.into_iter();
            Ok(all.filter(|object| selector.matches(&labels(object))).map(Some).collect::<Vec<_>>())
        }
    };
    let found = convert::reading(&registry.webhooks, resource, read).await.map_err(|status| status.message)?;
    if found.is_empty() && reference.denies {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    Ok(found)
}

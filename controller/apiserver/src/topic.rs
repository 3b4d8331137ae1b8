//! What a stored value is about besides its key: the node of a pod. Every node watches the pods of its own, and is woken
//! by no others.

use std::borrow::Cow;

use bytes::Bytes;
use controller_object::resource::Resource;
use controller_store::model::KeyValue;

/// Where pods are stored.
const PODS: &[u8] = b"/registry/core/pods/";

/// The field of a pod by which nodes watch.
pub(crate) const NODE_NAME: &str = "spec.nodeName";

/// The node that a pod is bound to, if the value is one that is. For `controller_store::store::Config`.
pub fn of(kv: &KeyValue) -> Option<Bytes> {
    #[derive(serde::Deserialize)]
    struct Pod<'a> {
        #[serde(borrow)]
        spec: Option<Spec<'a>>,
    }
    #[derive(serde::Deserialize)]
    struct Spec<'a> {
        #[serde(borrow, rename = "nodeName")]
        node_name: Option<Cow<'a, str>>,
    }
    if !kv.key.starts_with(PODS) {
        return None;
    }
    let pod: Pod<'_> = serde_json::from_slice(&kv.value).ok()?;
    pod.spec?.node_name.filter(|name| !name.is_empty()).map(|name| node(&name))
}

/// The topic of a node's pods.
fn node(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

/// The topic that a field of a kind has to be of, where there are topics for it.
pub(crate) fn wanted(resource: &Resource, path: &str, value: &str) -> Option<Bytes> {
    (resource.is("", "pods") && path == NODE_NAME && !value.is_empty()).then(|| node(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use controller_object::resource::Table;
    use controller_store::model::Revision;

    #[test]
    fn a_pod_is_about_its_node() {
        let of = |key: &str, value: &str| {
            let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
            of(&KeyValue { key, value, create_revision: Revision(2), mod_revision: Revision(2) })
        };
        let pods = Table::builtin().find("", "v1", "pods").unwrap();
        let wanted = |value| wanted(pods, NODE_NAME, value);
        let key = "/registry/core/pods/d/a";
        let bound = r#"{"metadata":{"name":"a","annotations":{"nodeName":"no"}},"spec":{"x":[{"nodeName":"no"}],"nodeName":"n-1"}}"#;
        assert_eq!(of(key, bound), wanted("n-1"));
        assert_eq!(
            of(key, r#"{"metadata":{},"spec":{"nodeName":"n\u002d1"}}"#),
            wanted("n-1"),
            "an escape is no way out"
        );
        assert_eq!(of(key, r#"{"metadata":{},"spec":{"nodeName":""}}"#), None);
        assert_eq!(of(key, r#"{"metadata":{},"spec":{}}"#), None);
        assert_eq!(of("/registry/core/nodes/a", bound), None);
        assert_eq!(wanted(""), None, "who wants pods without a node wants many");
    }
}

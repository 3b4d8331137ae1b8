//! The node authorizer: an agent reads what its own pods need, and nothing of the others'.
//! Kubernetes documentation, "Using Node Authorization".

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use api::well_known::LABEL_VOLUME_NODE;
use bytes::Bytes;
use controller_store::model::RangeRequest;
use controller_store::store::Store;
use controller_store::watch::Watcher;
use serde_json::Value;

use super::{Action, ResourceAction};
use crate::authn::User;

const PODS: &str = "/registry/core/pods/";
const POD_CERTIFICATES: &str = "/registry/certificates.k8s.io/podcertificaterequests/";
const CLAIMS: &str = "/registry/core/persistentvolumeclaims/";
const VOLUMES: &str = "/registry/core/persistentvolumes/";
const SLICES: &str = "/registry/resource.k8s.io/resourceslices/";

/// What one pod lets its node read.
#[derive(Debug, Default)]
struct PodRefs {
    node: String,
    namespace: String,
    name: String,
    service_account: String,
    /// Resource plural and name, in the pod's namespace.
    refs: Vec<(&'static str, String)>,
}

/// Decides by the pods bound to the node that asks.
pub(crate) struct NodeAuthorizer {
    store: Arc<Store>,
    state: Mutex<(Option<Watcher>, HashMap<Bytes, PodRefs>)>,
}

impl NodeAuthorizer {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store, state: Mutex::new((None, HashMap::new())) }
    }

    pub(crate) fn is_allowed(&self, user: &User, action: &Action<'_>) -> bool {
        let (Some(node), Action::Resource(action)) = (user.node_name(), action) else { return false };
        match (action.group, action.resource) {
            ("", "nodes") => self.may_use_node(node, action),
            ("", "pods") => self.may_use_pods(node, action),
            ("", "secrets" | "configmaps" | "persistentvolumeclaims") => {
                // Lists and watches must name the one object (`metadata.name=`), which is then `name`.
                let reads = matches!(action.verb, "get" | "list" | "watch") && action.subresource.is_none();
                // What has grown on a node is told by it.
                let tells = action.resource == "persistentvolumeclaims"
                    && matches!(action.verb, "patch" | "update")
                    && action.subresource == Some("status");
                (reads || tells) && self.refers(node, action.resource, action)
                    || reads && action.resource == "secrets" && self.volume_needs(node, action)
            }
            ("storage.k8s.io", "csinodes") => match action.verb {
                // The name of a new one is in its body; NodeRestriction compares it.
                "create" => true,
                "get" | "update" | "patch" | "delete" => action.name == Some(node),
                _ => false,
            },
            ("", "persistentvolumes") => self.may_use_volumes(node, action),
            ("storage.k8s.io", "csidrivers" | "volumeattachments") | ("certificates.k8s.io", "clustertrustbundles") => {
                matches!(action.verb, "get" | "list" | "watch")
            }
            ("certificates.k8s.io", "podcertificaterequests") => self.may_use_pod_certificates(node, action),
            ("resource.k8s.io", "resourceclaims") => {
                (action.verb, action.subresource) == ("get", None) && self.refers(node, action.resource, action)
            }
            ("resource.k8s.io", "resourceslices") => self.may_use_slices(node, action),
            ("", "serviceaccounts") => match (action.verb, action.subresource) {
                ("create", Some("token")) => self.runs_as(node, action),
                ("get", None) => self.runs_as(node, action),
                _ => false,
            },
            ("", "services") => matches!(action.verb, "get" | "list" | "watch"),
            ("", "events") | ("events.k8s.io", "events") => matches!(action.verb, "create" | "update" | "patch"),
            ("coordination.k8s.io", "leases") => {
                action.namespace == Some("kube-node-lease")
                    && (action.verb == "create" || action.name == Some(node))
                    && matches!(action.verb, "create" | "get" | "update" | "patch" | "delete")
            }
            ("node.k8s.io", "runtimeclasses") => matches!(action.verb, "get" | "list" | "watch"),
            ("authentication.k8s.io", "tokenreviews") | ("authorization.k8s.io", "subjectaccessreviews") => {
                action.verb == "create"
            }
            _ => false,
        }
    }

    fn may_use_node(&self, node: &str, action: &ResourceAction<'_>) -> bool {
        let own = action.name == Some(node) || action.selected_node == Some(node);
        match (action.verb, action.subresource) {
            // The name of a new node is in its body; NodeRestriction compares it.
            ("create", None) => true,
            ("get" | "list" | "watch", None) => own,
            ("update" | "patch", None | Some("status")) => action.name == Some(node),
            _ => false,
        }
    }

    fn may_use_pods(&self, node: &str, action: &ResourceAction<'_>) -> bool {
        match (action.verb, action.subresource) {
            ("list" | "watch", None) => action.selected_node == Some(node),
            ("get" | "delete", None) | ("update" | "patch", Some("status")) => {
                let (Some(namespace), Some(name)) = (action.namespace, action.name) else { return false };
                // A pod that is gone is answered with NotFound, so that its agent can stop asking.
                let gone = self.store.get(format!("{PODS}{namespace}/{name}").as_bytes()).is_none();
                gone || self.any_pod(|pod| pod.node == node && pod.namespace == namespace && pod.name == name)
            }
            // Mirrors of its static pods, says NodeRestriction: a pod that names other people's Secrets would let its node
            // read them.
            ("create", None) => true,
            _ => false,
        }
    }

    /// A node asks for certificates of its pods (NodeRestriction looks whose they are) and sees what it asked for.
    fn may_use_pod_certificates(&self, node: &str, action: &ResourceAction<'_>) -> bool {
        match (action.verb, action.subresource) {
            ("create", None) => true,
            ("list" | "watch", None) if action.selected_node == Some(node) => true,
            ("get" | "list" | "watch", None) => {
                let (Some(namespace), Some(name)) = (action.namespace, action.name) else { return false };
                let held = self.store.get(format!("{POD_CERTIFICATES}{namespace}/{name}").as_bytes());
                let request = held.and_then(|held| serde_json::from_slice::<Value>(&held.value).ok());
                request.is_some_and(|request| request["spec"]["nodeName"] == node)
            }
            _ => false,
        }
    }

    /// A node tells of its own devices, and takes back what drivers that are gone told of them.
    fn may_use_slices(&self, node: &str, action: &ResourceAction<'_>) -> bool {
        match (action.verb, action.subresource) {
            // Whose the new one is stands in its body; NodeRestriction compares it.
            ("create", None) => true,
            ("list" | "watch" | "deletecollection", None) => action.selected_node == Some(node),
            ("get" | "update" | "patch" | "delete", None) => {
                let held = action.name.and_then(|name| self.store.get(format!("{SLICES}{name}").as_bytes()));
                let slice = held.and_then(|held| serde_json::from_slice::<Value>(&held.value).ok());
                slice.is_some_and(|slice| slice["spec"]["nodeName"] == node)
            }
            _ => false,
        }
    }

    /// A node reads the volumes of its pods, and has a hand in those whose directories it makes and removes.
    fn may_use_volumes(&self, node: &str, action: &ResourceAction<'_>) -> bool {
        let volume = || {
            let held = self.store.get(format!("{VOLUMES}{}", action.name?).as_bytes())?;
            serde_json::from_slice::<Value>(&held.value).ok()
        };
        let is_made_here = |volume: &Value| volume["metadata"]["labels"][LABEL_VOLUME_NODE] == node;
        match (action.verb, action.subresource) {
            ("list" | "watch", None) => action.selected_node == Some(node),
            ("get", None) => volume().is_some_and(|volume| {
                let claim = |field: &str| volume["spec"]["claimRef"][field].as_str();
                let (namespace, name) = (claim("namespace"), claim("name"));
                let claim =
                    ResourceAction { resource: "persistentvolumeclaims", namespace, name, ..Default::default() };
                is_made_here(&volume) || self.refers(node, "persistentvolumeclaims", &claim)
            }),
            // What it may change of it is NodeRestriction's to say.
            ("patch", None) => volume().as_ref().is_some_and(is_made_here),
            _ => false,
        }
    }

    /// Whether a volume that a pod of the node uses names a Secret for its driver.
    fn volume_needs(&self, node: &str, action: &ResourceAction<'_>) -> bool {
        let (Some(namespace), Some(name)) = (action.namespace, action.name) else { return false };
        let read =
            |key: String| -> Option<Value> { serde_json::from_slice(&self.store.get(key.as_bytes())?.value).ok() };
        let names_it = |claim: &(String, String)| {
            let claim = read(format!("{CLAIMS}{}/{}", claim.0, claim.1))?;
            let volume = read(format!("{VOLUMES}{}", claim["spec"]["volumeName"].as_str()?))?;
            if volume["spec"]["claimRef"]["uid"] != claim["metadata"]["uid"] {
                return None;
            }
            let source = &volume["spec"]["csi"];
            let fields = ["nodeStageSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"];
            Some(fields.iter().any(|field| source[*field]["namespace"] == namespace && source[*field]["name"] == name))
        };
        let mut claims = Vec::new();
        self.any_pod(|pod| {
            if pod.node == node {
                let own = pod.refs.iter().filter(|(kind, _)| *kind == "persistentvolumeclaims");
                claims.extend(own.map(|(_, name)| (pod.namespace.clone(), name.clone())));
            }
            false
        });
        claims.iter().any(|claim| names_it(claim) == Some(true))
    }

    fn refers(&self, node: &str, resource: &str, action: &ResourceAction<'_>) -> bool {
        let (Some(namespace), Some(name)) = (action.namespace, action.name) else { return false };
        self.any_pod(|pod| {
            pod.node == node
                && pod.namespace == namespace
                && pod.refs.iter().any(|(kind, target)| *kind == resource && target == name)
        })
    }

    fn runs_as(&self, node: &str, action: &ResourceAction<'_>) -> bool {
        let (Some(namespace), Some(name)) = (action.namespace, action.name) else { return false };
        self.any_pod(|pod| pod.node == node && pod.namespace == namespace && pod.service_account == name)
    }

    /// Takes in what changed since the last question, then looks.
    fn any_pod(&self, matches: impl FnMut(&PodRefs) -> bool) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (watcher, pods) = &mut *state;
        match watcher.as_mut().map(Watcher::poll_batch) {
            Some(Ok(events)) => {
                for event in events {
                    match event.current.as_ref().and_then(|kv| pod_refs(&kv.value)) {
                        Some(refs) => pods.insert(event.key().clone(), refs),
                        None => pods.remove(event.key()),
                    };
                }
            }
            None | Some(Err(_)) => {
                let request = RangeRequest { prefix: Bytes::from_static(PODS.as_bytes()), ..Default::default() };
                if let Ok(page) = self.store.range(&request) {
                    *pods = page.items.iter().filter_map(|kv| Some((kv.key.clone(), pod_refs(&kv.value)?))).collect();
                    *watcher = self.store.watch(request.prefix, page.revision).ok();
                }
            }
        }
        pods.values().any(matches)
    }
}

/// The references of a bound pod; `None` for one that is not bound.
fn pod_refs(pod: &[u8]) -> Option<PodRefs> {
    let pod: Value = serde_json::from_slice(pod).ok()?;
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let node = text("/spec/nodeName");
    if node.is_empty() {
        return None;
    }
    Some(PodRefs {
        node,
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
        service_account: text("/spec/serviceAccountName"),
        refs: references(&pod),
    })
}

/// What a pod lets its node read: the plural and the name of each object.
pub(crate) fn references(pod: &Value) -> Vec<(&'static str, String)> {
    let mut refs = Vec::new();
    let mut add = |kind, name: Option<&Value>| {
        if let Some(name) = name.and_then(Value::as_str) {
            refs.push((kind, name.to_owned()));
        }
    };
    let list = |value: &Value, field: &str| value.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let spec = &pod["spec"];
    for secret in list(spec, "imagePullSecrets") {
        add("secrets", secret.get("name"));
    }
    for claim in list(spec, "resourceClaims") {
        add("resourceclaims", claim.get("resourceClaimName"));
    }
    for status in list(&pod["status"], "resourceClaimStatuses") {
        add("resourceclaims", status.get("resourceClaimName"));
    }
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for container in list(spec, field) {
            for source in list(&container, "envFrom") {
                add("secrets", source.pointer("/secretRef/name"));
                add("configmaps", source.pointer("/configMapRef/name"));
            }
            for variable in list(&container, "env") {
                add("secrets", variable.pointer("/valueFrom/secretKeyRef/name"));
                add("configmaps", variable.pointer("/valueFrom/configMapKeyRef/name"));
            }
        }
    }
    for volume in list(spec, "volumes") {
        add("secrets", volume.pointer("/secret/secretName"));
        add("secrets", volume.pointer("/csi/nodePublishSecretRef/name"));
        add("configmaps", volume.pointer("/configMap/name"));
        add("persistentvolumeclaims", volume.pointer("/persistentVolumeClaim/claimName"));
        if let (Some(_), Some(name)) = (volume.get("ephemeral"), volume.get("name").and_then(Value::as_str)) {
            let claim = format!("{}-{name}", pod["metadata"]["name"].as_str().unwrap_or_default());
            add("persistentvolumeclaims", Some(&Value::from(claim)));
        }
        for source in volume.pointer("/projected/sources").and_then(Value::as_array).into_iter().flatten() {
            add("secrets", source.pointer("/secret/name"));
            add("configmaps", source.pointer("/configMap/name"));
        }
    }
    refs
}

#[cfg(test)]
mod tests {
    use controller_store::driver::Memory;
    use controller_store::model::Op;
    use controller_store::store::Config;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_field_that_names_an_object_refers_to_it() {
        let container = |own: Value| json!([own]);
        let volume = |own: Value| json!({"volumes": [own]});
        let env = json!({"env": [{"valueFrom": {"secretKeyRef": {"name": "x"}}}]});
        let env_from = json!({"envFrom": [{"configMapRef": {"name": "x"}}]});
        for (spec, kind) in [
            (json!({"imagePullSecrets": [{"name": "x"}]}), "secrets"),
            (json!({"containers": container(env.clone())}), "secrets"),
            (json!({"initContainers": container(env)}), "secrets"),
            (json!({"ephemeralContainers": container(env_from)}), "configmaps"),
            (volume(json!({"secret": {"secretName": "x"}})), "secrets"),
            (volume(json!({"csi": {"nodePublishSecretRef": {"name": "x"}}})), "secrets"),
            (volume(json!({"configMap": {"name": "x"}})), "configmaps"),
            (volume(json!({"persistentVolumeClaim": {"claimName": "x"}})), "persistentvolumeclaims"),
            (volume(json!({"projected": {"sources": [{"secret": {"name": "x"}}]}})), "secrets"),
            (volume(json!({"projected": {"sources": [{"configMap": {"name": "x"}}]}})), "configmaps"),
            (json!({"resourceClaims": [{"name": "c", "resourceClaimName": "x"}]}), "resourceclaims"),
        ] {
            assert_eq!(references(&json!({"spec": spec})), [(kind, "x".to_owned())], "{spec}");
        }
        let ephemeral = json!({"metadata": {"name": "p"}, "spec": volume(json!({"name": "v", "ephemeral": {}}))});
        assert_eq!(references(&ephemeral), [("persistentvolumeclaims", "p-v".to_owned())]);
        assert_eq!(references(&json!({"spec": volume(json!({"emptyDir": {}}))})), []);
        let generated = json!({"spec": {}, "status": {"resourceClaimStatuses": [{"name": "c", "resourceClaimName": "x"}, {"name": "d"}]}});
        assert_eq!(references(&generated), [("resourceclaims", "x".to_owned())]);
    }

    #[tokio::test]
    async fn a_node_reads_what_its_pods_use_and_no_more() {
        let store = Arc::new(Store::open(Memory, Config::default()).unwrap());
        let pod = json!({"metadata": {"name": "p", "namespace": "a"}, "spec": {"nodeName": "n1", "serviceAccountName": "sa",
            "volumes": [{"name": "v", "secret": {"secretName": "s1"}}, {"name": "w", "ephemeral": {}}],
            "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "c1"}}]}]}});
        let op = Op::Put { key: Bytes::from(format!("{PODS}a/p")), value: pod.to_string().into(), ttl: None };
        let authorizer = NodeAuthorizer::new(Arc::clone(&store));
        let may = |node: &str, verb, resource, name| {
            let user = User::new(&format!("system:node:{node}"), &["system:nodes"]);
            let action =
                ResourceAction { verb, resource, namespace: Some("a"), name: Some(name), ..Default::default() };
            authorizer.is_allowed(&user, &Action::Resource(action))
        };
        assert!(!may("n1", "get", "secrets", "s1"));
        store.commit(&[], vec![op]).await.unwrap();
        assert!(may("n1", "get", "secrets", "s1") && may("n1", "get", "configmaps", "c1"));
        assert!(!may("n1", "get", "secrets", "s2") && !may("n2", "get", "secrets", "s1"));
        assert!(!may("n1", "update", "secrets", "s1"));
        assert!(!may("n1", "get", "persistentvolumeclaims", "p-e"));
        let own = json!({"metadata": {"name": "v", "labels": {LABEL_VOLUME_NODE: "n2"}},
            "spec": {"claimRef": {"namespace": "a", "name": "p-w"}}});
        let volume = Op::Put { key: Bytes::from(format!("{VOLUMES}v")), value: own.to_string().into(), ttl: None };
        store.commit(&[], vec![volume]).await.unwrap();
        assert!(may("n1", "get", "persistentvolumeclaims", "p-w"), "a claim made for the pod");
        assert!(may("n1", "get", "persistentvolumes", "v") && may("n2", "get", "persistentvolumes", "v"));
        assert!(!may("n3", "get", "persistentvolumes", "v") && !may("n1", "list", "persistentvolumes", "v"));
        assert!(may("n2", "patch", "persistentvolumes", "v") && !may("n1", "patch", "persistentvolumes", "v"));
        let slices = |node: &str, verb, name: Option<&str>, selected: Option<&str>| {
            let user = User::new(&format!("system:node:{node}"), &["system:nodes"]);
            let (group, resource) = ("resource.k8s.io", "resourceslices");
            let action = ResourceAction { verb, group, resource, name, selected_node: selected, ..Default::default() };
            authorizer.is_allowed(&user, &Action::Resource(action))
        };
        let slice = json!({"metadata": {"name": "s"}, "spec": {"nodeName": "n1"}});
        let slice = Op::Put { key: Bytes::from(format!("{SLICES}s")), value: slice.to_string().into(), ttl: None };
        store.commit(&[], vec![slice]).await.unwrap();
        assert!(slices("n1", "delete", Some("s"), None) && !slices("n2", "delete", Some("s"), None));
        assert!(slices("n1", "deletecollection", None, Some("n1")) && !slices("n1", "deletecollection", None, None));
        let masquerade = User::new("system:node:n1", &[]);
        let action = ResourceAction {
            verb: "get",
            resource: "secrets",
            namespace: Some("a"),
            name: Some("s1"),
            ..Default::default()
        };
        assert!(!authorizer.is_allowed(&masquerade, &Action::Resource(action)), "the group is needed too");
        store.commit(&[], vec![Op::Delete { key: Bytes::from(format!("{PODS}a/p")) }]).await.unwrap();
        assert!(!may("n1", "get", "secrets", "s1"));
    }
}

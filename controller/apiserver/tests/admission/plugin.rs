//! The built-in plugins.

use axum::body::Body;
use controller_apiserver::authn::User;
use http::Method;
use serde_json::{Value, json};

use crate::server::Server;

const NS: &str = "/api/v1/namespaces/default";

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn c361_c362_limit_ranges_fill_in_and_bound() {
    let server = Server::start().await;
    let path = format!("{NS}/limitranges");
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container",
        "min": {"cpu": "50m", "memory": "100Mi"}, "max": {"cpu": "500m", "memory": "500Mi"},
        "default": {"cpu": "500m", "memory": "500Mi"}, "defaultRequest": {"cpu": "100m", "memory": "200Mi"}}]}});
    server.create(&path, range).await.ok();
    let made = server.create(&format!("{NS}/pods"), pod("p")).await.ok();
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"requests": {"cpu": "100m", "memory": "200Mi"}, "limits": {"cpu": "500m", "memory": "500Mi"}})
    );
    assert_eq!(made["status"]["qosClass"], "Burstable", "of what was filled in");
    let mut small = pod("small");
    small["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "10m"}});
    assert_eq!(
        server.create(&format!("{NS}/pods"), small.clone()).await.refused(403),
        "pods \"small\" is forbidden: minimum cpu usage per Container is 50m, but request is 10m"
    );
    let less = json!({"spec": {"limits": [{"type": "Container", "min": {"cpu": "1m"}}]}});
    server.patch(&format!("{path}/l"), less).await.ok();
    server.create(&format!("{NS}/pods"), small).await.ok();
    let upside_down = json!({"metadata": {"name": "u"}, "spec": {"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}});
    let refused = server.create(&path, upside_down).await;
    assert!(refused.refused(422).contains("min value 2 is greater than max value 1"), "{}", refused.body);
    server.call(Method::DELETE, &path, Value::Null).await.ok();
    assert_eq!(server.get(&path).await.body["items"], json!([]));
}

#[tokio::test]
async fn pod_security_refuses_pods_and_warns_of_templates() {
    let server = Server::start().await;
    let label = |mode: &str, level: &str| (format!("pod-security.kubernetes.io/{mode}"), Value::from(level));
    let labels: Value = [label("enforce", "baseline"), label("warn", "restricted")].into_iter().collect();
    server.namespace("safe", labels).await;
    let mut host = pod("host");
    host["spec"]["hostNetwork"] = true.into();
    let refused = server.create("/api/v1/namespaces/safe/pods", host.clone()).await;
    assert_eq!(
        refused.refused(403),
        "pods \"host\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
    );
    let warned = server.create("/api/v1/namespaces/safe/pods", pod("plain")).await;
    assert_eq!(warned.code, 201);
    assert!(
        warned.warnings[0].contains("would violate PodSecurity \\\"restricted:latest\\\""),
        "{:?}",
        warned.warnings
    );
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": host["spec"]}}});
    let warned = server.create("/apis/apps/v1/namespaces/safe/deployments", deployment).await;
    assert_eq!(warned.code, 201, "only pods are refused: {}", warned.body);
    assert!(warned.warnings[0].contains("host namespaces"), "{:?}", warned.warnings);
    let stricter: Value = [label("enforce", "restricted")].into_iter().collect();
    let warned = server.patch("/api/v1/namespaces/safe", json!({"metadata": {"labels": stricter}})).await;
    assert_eq!(warned.code, 200);
    assert!(
        warned.warnings[0]
            .contains("existing pods in namespace \\\"safe\\\" violate the new PodSecurity enforce level")
    );
    assert!(warned.warnings[1].contains("plain: "), "{:?}", warned.warnings);
    let wrong: Value = [label("enforce", "strict")].into_iter().collect();
    server.patch("/api/v1/namespaces/default", json!({"metadata": {"labels": wrong}})).await.refused(422);
}

#[tokio::test]
async fn c330_c331_c332_c333_runtime_classes_add_overhead_or_are_missing() {
    let server = Server::start().await;
    let mut wants = pod("p");
    wants["spec"]["runtimeClassName"] = "kata".into();
    let refused = server.create(&format!("{NS}/pods"), wants.clone()).await;
    assert_eq!(refused.refused(403), "pods \"p\" is forbidden: pod rejected: RuntimeClass \"kata\" not found");
    let class = json!({"metadata": {"name": "kata"}, "handler": "kata", "overhead": {"podFixed": {"cpu": "10m", "memory": "1Mi"}},
        "scheduling": {"nodeSelector": {"kata": "yes"}, "tolerations": [{"key": "kata", "operator": "Exists"}]}});
    server.create("/apis/node.k8s.io/v1/runtimeclasses", class).await.ok();
    let made = server.create(&format!("{NS}/pods"), wants.clone()).await.ok();
    assert_eq!(made["spec"]["overhead"], json!({"cpu": "10m", "memory": "1Mi"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"kata": "yes"}));
    let mut own = pod("own");
    own["spec"]["overhead"] = json!({"cpu": "1"});
    server.create(&format!("{NS}/pods"), own).await.refused(403);
    server
        .create("/apis/node.k8s.io/v1/runtimeclasses", json!({"metadata": {"name": "plain"}, "handler": "runc"}))
        .await
        .ok();
    wants["metadata"]["name"] = "q".into();
    wants["spec"]["runtimeClassName"] = "plain".into();
    assert_eq!(server.create(&format!("{NS}/pods"), wants.clone()).await.ok()["spec"].get("overhead"), None);
    server.delete("/apis/node.k8s.io/v1/runtimeclasses/plain").await.ok();
    wants["metadata"]["name"] = "r".into();
    server.create(&format!("{NS}/pods"), wants).await.refused(403);
}

#[tokio::test]
async fn classes_are_chosen_by_default_and_claims_grow_where_they_may() {
    let server = Server::start().await;
    let class = |name: &str, default: bool, grows: bool| {
        json!({"metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": default.to_string()}},
            "provisioner": "x", "allowVolumeExpansion": grows})
    };
    for (name, default, grows) in [("gold", true, true), ("iron", false, false)] {
        server.create("/apis/storage.k8s.io/v1/storageclasses", class(name, default, grows)).await.ok();
    }
    let claim = |name: &str, class: Value| {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": {"requests": {"storage": "1Gi"}}}})
    };
    let path = format!("{NS}/persistentvolumeclaims");
    assert_eq!(server.create(&path, claim("a", Value::Null)).await.ok()["spec"]["storageClassName"], "gold");
    assert_eq!(server.create(&path, claim("b", "".into())).await.ok()["spec"]["storageClassName"], "");
    server.create(&path, claim("c", "iron".into())).await.ok();
    let grow = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let refused = server.patch(&format!("{path}/a"), grow.clone()).await;
    assert!(refused.code == 403 || refused.code == 422, "only bound claims grow: {}", refused.body);
    for name in ["a", "c"] {
        server.patch(&format!("{path}/{name}/status"), json!({"status": {"phase": "Bound"}})).await.ok();
    }
    server.patch(&format!("{path}/a"), grow.clone()).await.ok();
    let refused = server.patch(&format!("{path}/c"), grow).await;
    assert!(refused.refused(403).contains("must support resize"), "{}", refused.body);

    let ingress = json!({"metadata": {"name": "i"}, "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
    let ingress_class = json!({"metadata": {"name": "web", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
        "spec": {"controller": "example.com/web"}});
    server.create("/apis/networking.k8s.io/v1/ingressclasses", ingress_class).await.ok();
    let made = server.create("/apis/networking.k8s.io/v1/namespaces/default/ingresses", ingress).await.ok();
    assert_eq!(made["spec"]["ingressClassName"], "web");
}

#[tokio::test]
async fn owners_are_held_up_only_by_who_may() {
    let server = Server::start().await;
    let role = json!({"metadata": {"name": "maps"}, "rules": [{"verbs": ["*"], "apiGroups": [""], "resources": ["configmaps"]}]});
    server.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await.ok();
    let binding = json!({"metadata": {"name": "maps"}, "roleRef": {"kind": "ClusterRole", "name": "maps"},
        "subjects": [{"kind": "User", "name": "jane"}]});
    server.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.ok();
    let owned = |name: &str, kind: &str, blocks: bool| {
        json!({"metadata": {"name": name, "ownerReferences": [{"apiVersion": "v1", "kind": kind, "name": "o", "uid": "u",
            "blockOwnerDeletion": blocks}]}})
    };
    let as_jane = |object: Value| {
        let path = format!("{NS}/configmaps");
        let server = &server;
        async move {
            let body = Body::from(object.to_string());
            server.raw(User::new("jane", &[]), Method::POST, &path, "application/json", body).await
        }
    };
    as_jane(owned("a", "Secret", false)).await.ok();
    let refused = as_jane(owned("b", "Secret", true)).await;
    assert!(refused.refused(403).contains(
        "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on"
    ));
}

#[tokio::test]
async fn new_nodes_get_no_pods_before_they_are_ready() {
    let server = Server::start().await;
    let made = server.create("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await.ok();
    assert_eq!(made["spec"]["taints"], json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]));
}

#[tokio::test]
async fn c368_priority_classes_change_where_they_may_and_only_one_is_the_default() {
    let server = Server::start().await;
    let path = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class = |name: &str, default: bool| json!({"metadata": {"name": name}, "value": 5, "globalDefault": default});
    server.create(path, class("a", true)).await.ok();
    let refused = server.create(path, class("b", true)).await;
    assert_eq!(
        refused.refused(403),
        "priorityclasses.scheduling.k8s.io \"b\" is forbidden: PriorityClass a is already marked as default. Only one default can exist"
    );
    server.patch(&format!("{path}/a"), json!({"description": "d"})).await.ok();
    let fixed = server.patch(&format!("{path}/a"), json!({"value": 6})).await;
    assert!(fixed.refused(422).contains("value: Invalid value"), "{}", fixed.body);
    let made = server.create(&format!("{NS}/pods"), pod("p")).await.ok();
    assert_eq!((&made["spec"]["priority"], &made["spec"]["priorityClassName"]), (&json!(5), &json!("a")));
}

#[tokio::test]
async fn bound_pods_carry_the_zone_of_their_node() {
    let server = Server::start().await;
    let labels = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "other": "x"});
    server.create("/api/v1/nodes", json!({"metadata": {"name": "n", "labels": labels}})).await.ok();
    server.create(&format!("{NS}/pods"), pod("p")).await.ok();
    server.create(&format!("{NS}/pods/p/binding"), json!({"target": {"name": "n"}})).await.ok();
    let mut named = pod("q");
    named["spec"]["nodeName"] = "n".into();
    server.create(&format!("{NS}/pods"), named).await.ok();
    for name in ["p", "q"] {
        let bound = server.get(&format!("{NS}/pods/{name}")).await.body;
        let expected = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r"});
        assert_eq!((&bound["spec"]["nodeName"], &bound["metadata"]["labels"]), (&json!("n"), &expected));
    }
}

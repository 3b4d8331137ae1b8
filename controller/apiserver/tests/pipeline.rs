//! The API server as clients meet it: one request after another through the whole pipeline, in one process.

mod server;

use std::time::Duration;

use axum::body::Body;
use controller_apiserver::authn::{NODES, User};
use futures::StreamExt as _;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use server::{admin, server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"n": name}}, "data": {"k": "v"}})
}

#[tokio::test]
async fn objects_are_created_read_changed_and_deleted() {
    let server = server().await;
    let created = server.create(MAPS, map("a")).await;
    assert_eq!(created.code, 201, "{}", created.body);
    let metadata = &created.body["metadata"];
    assert!(metadata["uid"].is_string() && metadata["creationTimestamp"].is_string());
    let again = server.create(MAPS, map("a")).await;
    assert_eq!((again.code, again.body["reason"].as_str()), (409, Some("AlreadyExists")));
    assert_eq!(again.body["message"], "configmaps \"a\" already exists");

    let path = format!("{MAPS}/a");
    let mut stale = server.get(&path).await.body;
    let patched = server.call(Method::PATCH, &path, json!({"data": {"k": "w"}})).await;
    assert_eq!((patched.code, &patched.body["data"]["k"]), (200, &json!("w")));
    stale["data"]["k"] = "x".into();
    let conflict = server.call(Method::PUT, &path, stale).await;
    assert_eq!((conflict.code, conflict.body["reason"].as_str()), (409, Some("Conflict")));
    let unchanged = server.call(Method::PATCH, &path, json!({"data": {"k": "w"}})).await;
    assert_eq!(unchanged.body["metadata"]["resourceVersion"], patched.body["metadata"]["resourceVersion"]);

    let dry = server.call(Method::DELETE, &format!("{path}?dryRun=All"), Value::Null).await;
    assert_eq!((dry.code, server.get(&path).await.code), (200, 200));
    let deleted = server.call(Method::DELETE, &path, Value::Null).await;
    assert_eq!((deleted.code, deleted.body["status"].as_str()), (200, Some("Success")));
    let gone = server.get(&path).await;
    assert_eq!((gone.code, gone.body["message"].as_str()), (404, Some("configmaps \"a\" not found")));
}

#[tokio::test]
async fn names_are_generated_and_dry_runs_leave_nothing() {
    let server = server().await;
    let made = server.create(MAPS, json!({"metadata": {"generateName": "g-"}})).await;
    let name = made.body["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("g-") && name.len() == 7, "{name}");
    let dry = server.create(&format!("{MAPS}?dryRun=All"), map("dry")).await;
    assert_eq!((dry.code, server.get(&format!("{MAPS}/dry")).await.code), (201, 404));
    let bad = server.create(&format!("{MAPS}?dryRun=Most"), map("dry")).await;
    assert_eq!(bad.code, 400);
    assert!(bad.body["message"].as_str().unwrap().contains("dryRun"));
}

#[tokio::test]
async fn bad_input_is_refused_by_field() {
    let server = server().await;
    let invalid = server
        .create(
            "/api/v1/namespaces/default/pods",
            json!({"metadata": {"name": "Bad_Name"}, "spec": {"containers": []}}),
        )
        .await;
    // The namespace's default account is missing; validation comes after admission.
    assert_eq!(invalid.code, 403, "{}", invalid.body);
    let invalid = server
        .create("/apis/apps/v1/namespaces/default/deployments", json!({"metadata": {"name": "d"}, "spec": {"replicas": -1,
            "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "c"}}, "spec": {"containers": []}}}}))
        .await;
    assert_eq!((invalid.code, invalid.body["reason"].as_str()), (422, Some("Invalid")));
    let fields: Vec<&str> = invalid.body["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|cause| cause["field"].as_str())
        .collect();
    for field in ["spec.replicas", "spec.template.metadata.labels", "spec.template.spec.containers"] {
        assert!(fields.contains(&field), "{field} in {fields:?}");
    }
    let typed = server
        .create(
            "/apis/apps/v1/namespaces/default/deployments",
            json!({"metadata": {"name": "d"}, "spec": {"replicas": "two"}}),
        )
        .await;
    assert_eq!(typed.code, 400);
    assert!(typed.body["message"].as_str().unwrap().contains("replicas"), "{}", typed.body);
    let unknown = server.create(MAPS, json!({"metadata": {"name": "u"}, "dada": {}})).await;
    assert_eq!(unknown.code, 201);
    assert!(unknown.warnings[0].contains("unknown field \\\"dada\\\""), "{:?}", unknown.warnings);
    let strict =
        server.create(&format!("{MAPS}?fieldValidation=Strict"), json!({"metadata": {"name": "s"}, "dada": {}})).await;
    assert_eq!(strict.code, 400);
    for (media, body, code) in [
        ("application/json", "{", 400),
        ("application/json", "[]", 400),
        ("text/plain", "{}", 415),
        ("application/vnd.kubernetes.protobuf", "k8s\0junk", 400),
    ] {
        let answer = server.raw(admin(), Method::POST, MAPS, media, body).await;
        assert_eq!(answer.code, code, "{media} {body}: {}", answer.body);
        assert_eq!(answer.body["kind"], "Status");
    }
    let large = server.raw(admin(), Method::POST, MAPS, "application/json", "x".repeat((3 << 20) + 1)).await;
    assert_eq!((large.code, large.body["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
    for path in [
        "/api/v1/nothing",
        "/apis/none/v1/x",
        "/api/v1/configmaps/a",
        "/api/v1/namespaces/default/configmaps/a/unknown",
        "/nowhere",
    ] {
        assert_eq!(server.get(path).await.code, 404, "{path}");
    }
    assert_eq!(server.create("/api/v1/namespaces/none/configmaps", map("a")).await.code, 404);
    let other = server.create(MAPS, json!({"metadata": {"name": "a", "namespace": "elsewhere"}})).await;
    assert_eq!(other.code, 400);
}

#[tokio::test]
async fn lists_select_page_and_stay_consistent() {
    let server = server().await;
    for name in ["a", "b", "c", "d"] {
        server.create(MAPS, map(name)).await;
    }
    let names = |list: &Value| -> Vec<String> {
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let selected = server.get(&format!("{MAPS}?labelSelector=n%20in%20(a,c)")).await;
    assert_eq!(names(&selected.body), ["a", "c"]);
    assert_eq!(names(&server.get(&format!("{MAPS}?fieldSelector=metadata.name%3Db")).await.body), ["b"]);
    assert_eq!(server.get(&format!("{MAPS}?fieldSelector=data.k%3Dv")).await.code, 400);
    assert_eq!(server.get(&format!("{MAPS}?labelSelector=%3D%3D")).await.code, 400);

    let first = server.get(&format!("{MAPS}?limit=2")).await.body;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a".into(), "b".into()], &json!(2)));
    server.call(Method::DELETE, &format!("{MAPS}/c"), Value::Null).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.body;
    assert_eq!(names(&second), ["c", "d"], "the second page is of the first one's time");
    server.store.compact(server.store.revision());
    let expired = server.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!((expired.code, expired.body["reason"].as_str()), (410, Some("Expired")));
    assert_eq!(server.get(&format!("{MAPS}?resourceVersion=99999")).await.code, 504);
    assert_eq!(server.get(&format!("{MAPS}?resourceVersion=x")).await.code, 400);
}

/// Reads lines of a watch until one fits.
async fn lines(body: Body, count: usize) -> Vec<Value> {
    let mut stream = body.into_data_stream();
    let mut text = String::new();
    while text.matches('\n').count() < count {
        let chunk =
            tokio::time::timeout(Duration::from_secs(5), stream.next()).await.expect("in time").unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn watches_show_what_enters_changes_and_leaves() {
    let server = server().await;
    server.create(MAPS, map("a")).await;
    let request = Request::get(format!("{MAPS}?watch=true&labelSelector=on%3Dyes")).body(Body::empty()).unwrap();
    let watch = server.send(admin(), request).await;
    let label = |value: Value| json!({"metadata": {"labels": {"on": value}}});
    for change in [label("yes".into()), json!({"data": {"k": "2"}}), label(Value::Null)] {
        server.call(Method::PATCH, &format!("{MAPS}/a"), change).await;
    }
    let seen = lines(watch.into_body(), 3).await;
    let kinds: Vec<&str> = seen.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ADDED", "MODIFIED", "DELETED"]);

    let old = seen[0]["object"]["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    server.store.compact(server.store.revision());
    let request = Request::get(format!("{MAPS}?watch=true&resourceVersion={old}")).body(Body::empty()).unwrap();
    let event = &lines(server.send(admin(), request).await.into_body(), 1).await[0];
    assert_eq!((event["type"].as_str(), &event["object"]["code"]), (Some("ERROR"), &json!(410)));

    let path =
        format!("{MAPS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan");
    let request = Request::get(path).body(Body::empty()).unwrap();
    let seen = lines(server.send(admin(), request).await.into_body(), 2).await;
    assert_eq!((seen[0]["type"].as_str(), seen[1]["type"].as_str()), (Some("ADDED"), Some("BOOKMARK")));
    assert_eq!(seen[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn finalizers_hold_objects_and_policies_become_finalizers() {
    let server = server().await;
    let mut held = map("held");
    held["metadata"]["finalizers"] = json!(["example.org/wait"]);
    server.create(MAPS, held).await;
    let path = format!("{MAPS}/held");
    let deleted = server.call(Method::DELETE, &path, json!({"propagationPolicy": "Foreground"})).await;
    assert_eq!(deleted.body["metadata"]["finalizers"], json!(["example.org/wait", "foregroundDeletion"]));
    assert!(deleted.body["metadata"]["deletionTimestamp"].is_string());
    server.call(Method::PATCH, &path, json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(server.get(&path).await.code, 404, "the last finalizer took it along");
    server.create(MAPS, map("exact")).await;
    let wrong = server.call(Method::DELETE, &format!("{MAPS}/exact"), json!({"preconditions": {"uid": "other"}})).await;
    assert_eq!((wrong.code, server.get(&format!("{MAPS}/exact")).await.code), (409, 200));
    let immortal = server.call(Method::DELETE, "/api/v1/namespaces/kube-system", Value::Null).await;
    assert_eq!(immortal.code, 403);
    server.create("/api/v1/namespaces", json!({"metadata": {"name": "going"}})).await;
    let going = server.call(Method::DELETE, "/api/v1/namespaces/going", Value::Null).await;
    assert_eq!(going.body["status"]["phase"], "Terminating");
    let refused = server.create("/api/v1/namespaces/going/configmaps", map("late")).await;
    assert_eq!((refused.code, &refused.body["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")));
}

#[tokio::test]
async fn apply_owns_fields_and_refuses_to_take_others() {
    let server = server().await;
    let apply = async |manager: &str, force: bool, data: Value| {
        let path = format!("{MAPS}/applied?fieldManager={manager}&force={force}");
        let body =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": data}).to_string();
        server.raw(admin(), Method::PATCH, &path, "application/apply-patch+yaml", body).await
    };
    assert_eq!(apply("one", false, json!({"a": "1", "b": "1"})).await.code, 201);
    let again = apply("one", false, json!({"a": "1", "b": "1"})).await;
    assert_eq!(again.code, 200);
    let conflict = apply("two", false, json!({"a": "2"})).await;
    assert_eq!(conflict.code, 409, "{}", conflict.body);
    assert_eq!(conflict.body["details"]["causes"][0]["field"], ".data.a");
    assert_eq!(apply("two", true, json!({"a": "2"})).await.body["data"], json!({"a": "2", "b": "1"}));
    assert_eq!(
        apply("one", false, json!({})).await.body["data"],
        json!({"a": "2"}),
        "what one gave up is gone, two's stays"
    );
    let unmanaged =
        server.raw(admin(), Method::PATCH, &format!("{MAPS}/applied"), "application/apply-patch+yaml", "{}").await;
    assert_eq!(unmanaged.code, 400);
}

#[tokio::test]
async fn scale_and_status_are_subresources() {
    let server = server().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}, "status": {"replicas": 9}});
    let created = server.create(path, deployment).await;
    assert_eq!((created.code, &created.body["status"]["replicas"]), (201, &Value::Null), "{}", created.body);
    assert_eq!(created.body["metadata"]["generation"], 1);
    let path = format!("{path}/d");
    let scaled = server.call(Method::PATCH, &format!("{path}/scale"), json!({"spec": {"replicas": 4}})).await;
    assert_eq!((scaled.body["kind"].as_str(), &scaled.body["spec"]["replicas"]), (Some("Scale"), &json!(4)));
    let status = server
        .call(Method::PATCH, &format!("{path}/status"), json!({"spec": {"replicas": 7}, "status": {"replicas": 4}}))
        .await;
    assert_eq!((&status.body["spec"]["replicas"], &status.body["status"]["replicas"]), (&json!(4), &json!(4)));
    assert_eq!(server.get(&path).await.body["metadata"]["generation"], 2, "only the spec's change counts");
    assert_eq!(server.get(&format!("{path}/log")).await.code, 404);
}

#[tokio::test]
async fn what_is_left_out_and_has_its_default_is_no_change() {
    let server = server().await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    let written = json!({"metadata": {"name": "web"}, "spec": spec});
    let all = "/apis/apps/v1/namespaces/default/deployments";
    let made = server.create(all, written.clone()).await.body;
    let path = format!("{all}/web");
    let again = server.call(Method::PUT, &path, written).await;
    assert_eq!((again.code, &again.body["metadata"]), (200, &made["metadata"]));
}

#[tokio::test]
async fn a_pods_token_is_refused_secrets_it_has_no_role_for() {
    let server = server().await;
    server.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    server
        .create("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "s"}, "stringData": {"k": "v"}}))
        .await;
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    let pod = server.create("/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(pod.code, 201, "{}", pod.body);
    assert_eq!(pod.body["spec"]["serviceAccountName"], "default");
    let bound = json!({"spec": {"boundObjectRef": {"kind": "Pod", "name": "p", "uid": pod.body["metadata"]["uid"]}}});
    let node = |name: &str| User::new(&format!("system:node:{name}"), &[NODES]);
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let other = server.raw(node("n2"), Method::POST, path, "application/json", bound.to_string()).await;
    assert_eq!(other.code, 403, "another node's agent gets no token: {}", other.body);
    let token = server.raw(node("n1"), Method::POST, path, "application/json", bound.to_string()).await;
    let token = token.body["status"]["token"].as_str().expect("a token").to_owned();

    let with_token = async |path: &str| {
        // No user comes with the connection: the token alone says who it is.
        let review = json!({"spec": {"token": token}});
        let reviewed = server.create("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
        assert_eq!(reviewed.body["status"]["user"]["username"], "system:serviceaccount:default:default");
        server
            .raw(User::service_account("default", "default"), Method::GET, path, "application/json", Body::empty())
            .await
    };
    let refused = with_token("/api/v1/namespaces/default/secrets/s").await;
    assert_eq!((refused.code, refused.body["reason"].as_str()), (403, Some("Forbidden")));
    let said = refused.body["message"].as_str().unwrap();
    assert!(said.contains("User \"system:serviceaccount:default:default\" cannot get resource \"secrets\""), "{said}");
    let role =
        json!({"metadata": {"name": "r"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]});
    server.create("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", role).await;
    let binding = json!({"metadata": {"name": "b"}, "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}});
    server.create("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
    assert_eq!(with_token("/api/v1/namespaces/default/secrets/s").await.code, 200);

    server.call(Method::DELETE, "/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0", Value::Null).await;
    let reviewed =
        server.create("/apis/authentication.k8s.io/v1/tokenreviews", json!({"spec": {"token": token}})).await;
    assert_eq!(reviewed.body["status"]["authenticated"], false, "the token ends with its pod");
}

#[tokio::test]
async fn nodes_and_strangers_stay_within_their_bounds() {
    let server = server().await;
    let node = User::new("system:node:n1", &[NODES]);
    let made = server
        .raw(
            node.clone(),
            Method::POST,
            "/api/v1/nodes",
            "application/json",
            json!({"metadata": {"name": "n1"}}).to_string(),
        )
        .await;
    assert_eq!(made.code, 201, "{}", made.body);
    let other = server
        .raw(
            node.clone(),
            Method::POST,
            "/api/v1/nodes",
            "application/json",
            json!({"metadata": {"name": "n2"}}).to_string(),
        )
        .await;
    assert_eq!(other.code, 403);
    let greedy =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}})
            .to_string();
    let pods = "/api/v1/namespaces/default/pods";
    let made = server.raw(node.clone(), Method::POST, pods, "application/json", greedy).await;
    assert_eq!(made.code, 403, "an agent makes no pods");
    let taint = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}).to_string();
    let tainted = server.raw(node, Method::PATCH, "/api/v1/nodes/n1", "application/merge-patch+json", taint).await;
    assert_eq!(tainted.code, 403, "{}", tainted.body);
    let label = json!({"metadata": {"labels": {"node-restriction.kubernetes.io/x": "y"}}}).to_string();
    let node = User::new("system:node:n1", &[NODES]);
    let labelled =
        server.raw(node, Method::PATCH, "/api/v1/nodes/n1/status", "application/merge-patch+json", label).await;
    assert_eq!(labelled.code, 403, "{}", labelled.body);
    let nobody = User::new("somebody", &[]);
    assert_eq!(server.raw(nobody.clone(), Method::GET, MAPS, "application/json", Body::empty()).await.code, 403);
    assert_eq!(server.raw(nobody, Method::GET, "/version", "application/json", Body::empty()).await.code, 200);
}

#[tokio::test]
async fn rights_are_those_that_were_given() {
    let server = server().await;
    let role = json!({"metadata": {"name": "patcher"}, "rules": [{"verbs": ["patch", "get"], "apiGroups": [""], "resources": ["configmaps"]}]});
    server.create("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", role).await;
    let binding = json!({"metadata": {"name": "b"}, "subjects": [{"kind": "User", "name": "pat"}, {"kind": "User", "name": "*"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "patcher"}});
    server.create("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "made"}}).to_string();
    let path = format!("{MAPS}/made?fieldManager=m");
    let pat = User::new("pat", &[]);
    let made = server.raw(pat, Method::PATCH, &path, "application/apply-patch+yaml", body).await;
    assert_eq!(made.code, 403, "who may patch may not create by applying: {}", made.body);
    let other = server.raw(User::new("other", &[]), Method::GET, MAPS, "application/json", Body::empty()).await;
    assert_eq!(other.code, 403, "a star is a name like any other");
    for (name, value) in
        [("impersonate-user", &b"j\xfcrgen"[..]), ("impersonate-user", b""), ("impersonate-group", b"g")]
    {
        let request =
            Request::get(MAPS).header(name, http::HeaderValue::from_bytes(value).unwrap()).body(Body::empty()).unwrap();
        assert_eq!(server.send(admin(), request).await.status(), 400, "{name}: {value:?}");
    }
    let everywhere = server.call(Method::DELETE, "/api/v1/pods", Value::Null).await;
    assert_eq!(everywhere.code, 405);
}

#[tokio::test]
async fn tables_and_discovery_answer_what_clients_ask() {
    let server = server().await;
    server.create(MAPS, map("a")).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let request = Request::get(MAPS).header("accept", accept).body(Body::empty()).unwrap();
    let body = server.send(admin(), request).await.into_body().collect().await.unwrap().to_bytes();
    let table: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((table["kind"].as_str(), &table["rows"][0]["cells"][0]), (Some("Table"), &json!("a")));
    let resources = server.get("/apis/apps/v1").await.body;
    assert!(resources["resources"].as_array().unwrap().iter().any(|r| r["name"] == "deployments/scale"));
    let document = server.get("/openapi/v3/apis/apps/v1").await.body;
    let containers = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(server.get("/version").await.body["minor"], "37");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_get_addresses_that_nobody_else_has_and_give_them_back() {
    let server = server().await;
    server.api.announce("192.0.2.1".parse().unwrap(), 6443).await.unwrap();
    let path = "/api/v1/namespaces/default/services";
    let kubernetes = server.call(Method::GET, &format!("{path}/kubernetes"), Value::Null).await;
    assert_eq!(kubernetes.body["spec"]["clusterIP"], "10.43.0.1");
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    assert_eq!(server.call(Method::GET, slice, Value::Null).await.body["ports"][0]["port"], 6443);
    let service = |name: String, more: Value| {
        let mut spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
    };
    let made = futures::future::join_all(
        (0..64).map(|n| server.call(Method::POST, path, service(format!("s{n}"), json!({})))),
    )
    .await;
    let (mut addresses, mut ports) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for answer in &made {
        assert_eq!(answer.code, 201, "{}", answer.body);
        assert!(addresses.insert(answer.body["spec"]["clusterIP"].to_string()));
        assert!(ports.insert(answer.body["spec"]["ports"][0]["nodePort"].as_u64().unwrap()));
    }
    // One address, asked for by many at once: one gets it.
    let wish = json!({"clusterIP": "10.43.0.77"});
    let raced = futures::future::join_all(
        (0..16).map(|n| server.call(Method::POST, path, service(format!("r{n}"), wish.clone()))),
    )
    .await;
    assert_eq!(raced.iter().filter(|answer| answer.code == 201).count(), 1);
    let refused = raced.iter().find(|answer| answer.code != 201).unwrap();
    assert_eq!((refused.code, &refused.body["details"]["causes"][0]["field"]), (422, &json!("spec.clusterIPs")));
    let winner = raced.iter().find(|answer| answer.code == 201).unwrap().body["metadata"]["name"].clone();
    let name = winner.as_str().unwrap();

    // Another type gives back what it does not use.
    let port = made[0].body["spec"]["ports"][0]["nodePort"].clone();
    let plain = server.call(Method::PATCH, &format!("{path}/s0"), json!({"spec": {"type": "ClusterIP"}})).await;
    assert_eq!((plain.code, plain.body["spec"]["ports"][0].get("nodePort")), (200, None), "{}", plain.body);
    let taken = json!({"ports": [{"port": 80, "nodePort": port}]});
    assert_eq!(server.call(Method::POST, path, service("again".into(), taken.clone())).await.code, 201);
    assert_eq!(server.call(Method::POST, path, service("twice".into(), taken)).await.code, 422);
    let named = json!({"spec": {"type": "ExternalName", "externalName": "example.org", "ports": null}});
    let changed = server.call(Method::PATCH, &format!("{path}/{name}"), named).await;
    assert_eq!((changed.code, changed.body["spec"].get("clusterIP")), (200, None), "{}", changed.body);
    assert_eq!(server.call(Method::POST, path, service("after".into(), wish.clone())).await.code, 201);
    assert_eq!(server.call(Method::DELETE, &format!("{path}/after"), Value::Null).await.code, 200);
    let last = server.call(Method::POST, path, service("last".into(), wish)).await;
    assert_eq!(last.code, 201, "{}", last.body);
    let update = server.call(Method::PUT, &format!("{path}/last"), service("last".into(), json!({}))).await;
    assert_eq!(update.body["spec"]["ports"][0]["nodePort"], last.body["spec"]["ports"][0]["nodePort"]);
    assert_eq!(update.body["spec"]["clusterIP"], "10.43.0.77");
}

#[tokio::test(start_paused = true)]
async fn a_profile_is_taken_for_who_may_one_at_a_time_and_no_longer_than_said() {
    const PROFILE: &str = "/debug/pprof/profile";
    let server = server().await;
    let get = async |user, query: &str| {
        server.raw(user, Method::GET, &format!("{PROFILE}{query}"), "application/json", Body::empty()).await
    };
    assert_eq!(get(admin(), "").await.code, 404, "nobody takes profiles in this process");
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let running = std::sync::Arc::clone(&asked);
    server.api.profile_by(Box::new(move |length: Duration| {
        let mut asked = running.lock().unwrap();
        asked.push(length.as_secs());
        if asked.len() > 2 {
            return Err(std::io::ErrorKind::ResourceBusy.into());
        }
        Ok(Box::new(|| Ok(b"\"profile\"".to_vec())))
    }));
    for (user, reason) in [(User::new("jane", &[]), "Forbidden"), (User::new("m", &["system:monitoring"]), "Forbidden")]
    {
        let refused = get(user, "?seconds=1").await;
        assert_eq!((refused.code, refused.body["reason"].as_str()), (403, Some(reason)), "{}", refused.body);
    }
    for bad in ["0", "61", "-1", "x"] {
        let refused = get(admin(), &format!("?seconds={bad}")).await;
        let said = refused.body["message"].as_str().unwrap().to_owned();
        assert!(refused.code == 400 && said.contains("query parameter seconds"), "{bad}: {said}");
    }
    assert_eq!(*asked.lock().unwrap(), [0_u64; 0]);
    let started = tokio::time::Instant::now();
    let answer = get(admin(), "?seconds=2").await;
    assert_eq!((answer.code, &answer.body), (200, &json!("profile")));
    assert_eq!(started.elapsed().as_secs(), 2);
    assert_eq!(get(admin(), "").await.code, 200);
    assert_eq!(*asked.lock().unwrap(), [2, 30]);
    let busy = get(admin(), "").await;
    assert_eq!((busy.code, busy.body["reason"].as_str()), (429, Some("TooManyRequests")));
}

#[tokio::test]
async fn owners_are_kept_apart_by_path_and_forgotten_when_asked() {
    let server = server().await;
    const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/owned";
    const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
    let account = json!({"metadata": {"name": "owned", "labels": {"a": "b"}}});
    server.create("/api/v1/namespaces/default/serviceaccounts?fieldManager=maker", account).await;
    let patch = async |operation: Value| {
        let media = "application/json-patch+json";
        server.raw(admin(), Method::PATCH, ACCOUNT, media, json!([operation]).to_string()).await.body
    };
    let kept = patch(json!({"op": "replace", "path": "/metadata/managedFields", "value": []})).await;
    assert_eq!(kept["metadata"]["managedFields"][0]["manager"], "maker");
    let forgotten = patch(json!({"op": "replace", "path": "/metadata/managedFields", "value": [{}]})).await;
    assert_eq!(
        (forgotten["kind"].as_str(), forgotten["metadata"].get("managedFields")),
        (Some("ServiceAccount"), None)
    );

    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    assert_eq!(server.create(CLAIMS, claim).await.code, 201);
    let status = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"},
        "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}});
    let path = format!("{CLAIMS}/c/status?fieldManager=binder&force=true");
    let media = "application/apply-patch+yaml";
    let applied = server.raw(admin(), Method::PATCH, &path, media, status.to_string()).await.body;
    let entries = applied["metadata"]["managedFields"].as_array().unwrap();
    let binder = entries.iter().find(|entry| entry["manager"] == "binder").unwrap();
    assert_eq!(
        (&binder["fieldsV1"], &binder["subresource"]),
        (&json!({"f:status": {"f:phase": {}}}), &json!("status"))
    );
    assert_eq!(applied["spec"].get("volumeName"), None);
}

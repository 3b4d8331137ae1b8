//! Mutating and validating webhooks.

use std::time::{Duration, Instant};

use axum::body::Body;
use controller_apiserver::authn::User;
use http::Method;
use serde_json::{Value, json};

use crate::hook::{Hook, Reply, allow, deny, patch};
use crate::server::{Answer, Server, admin};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

fn map(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name}, "data": data})
}

fn configuration(name: &str, webhooks: Value) -> Value {
    json!({"metadata": {"name": name, "labels": {"of": "test"}}, "webhooks": webhooks})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn c003_c005_c015_webhooks_change_objects_in_order_until_their_configurations_are_gone() {
    let server = Server::start().await;
    let hook = Hook::start(|path, request| {
        let stages = request["object"]["data"].as_object().map_or(0, |data| data.len());
        patch(json!([{"op": "add", "path": format!("/data/{}", path.trim_start_matches('/')), "value": stages.to_string()}]))
    })
    .await;
    let entry = |path: &str| hook.entry("h", path, json!(["CREATE"]), json!(["configmaps"]));
    server.create(MUTATING, configuration("b", json!([entry("/second")]))).await.ok();
    server.create(MUTATING, configuration("a", json!([entry("/first")]))).await.ok();
    let made = server.create(MAPS, map("m", json!({"k": "v"}))).await.ok();
    assert_eq!(made["data"], json!({"k": "v", "first": "1", "second": "2"}));
    assert_eq!(server.get(&format!("{MAPS}/m")).await.body["data"], made["data"]);
    let owners = &made["metadata"]["managedFields"];
    assert!(owners[0]["fieldsV1"]["f:data"].get("f:second").is_some(), "the writer owns what webhooks add: {owners}");
    assert_eq!(hook.connections(), 1, "a connection is used again");

    let with = |path: &str, operation: &str| {
        configuration("b", json!([hook.entry("h", path, json!([operation]), json!(["configmaps"]))]))
    };
    server.call(Method::PUT, &format!("{MUTATING}/b"), with("/second", "UPDATE")).await.ok();
    let made = server.create(MAPS, map("without", json!({"k": "v"}))).await.ok();
    assert_eq!(made["data"], json!({"k": "v", "first": "1"}), "a rule that was taken away");
    server.patch(&format!("{MUTATING}/b"), with("/second", "CREATE")).await.ok();
    let made = server.create(MAPS, map("with", json!({"k": "v"}))).await.ok();
    assert_eq!(made["data"], json!({"k": "v", "first": "1", "second": "2"}), "and given back");

    server.call(Method::DELETE, &format!("{MUTATING}?labelSelector=of%3Dtest"), Value::Null).await.ok();
    assert_eq!(server.create(MAPS, map("n", json!({"k": "v"}))).await.ok()["data"], json!({"k": "v"}));
}

#[tokio::test]
async fn c004_c006_c011_webhooks_refuse_creations_updates_and_patches() {
    let server = Server::start().await;
    let hook = Hook::start(|_, request| match request["object"]["data"].get("bad") {
        Some(_) => Some(json!({"allowed": false, "warnings": ["mind the data"],
            "status": {"code": 403, "reason": "TooBad", "message": "bad data"}})),
        None => allow(),
    })
    .await;
    let mut entry = hook.entry("deny", "/", json!(["CREATE", "UPDATE"]), json!(["configmaps", "pods"]));
    entry["namespaceSelector"] = json!({"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]});
    server.create(VALIDATING, configuration("deny", json!([entry]))).await.ok();
    let denied = |answer: &Answer| {
        assert_eq!(answer.refused(403), "admission webhook \"deny.example.com\" denied the request: bad data");
        assert_eq!(answer.body["reason"], "TooBad");
        assert!(answer.warnings[0].contains("mind the data"));
    };
    denied(&server.create(MAPS, map("m", json!({"bad": "1"}))).await);
    server.create(MAPS, map("m", json!({"good": "1"}))).await.ok();
    let path = format!("{MAPS}/m");
    denied(&server.patch(&path, json!({"data": {"bad": "1"}})).await);
    denied(&server.call(Method::PUT, &path, map("m", json!({"bad": "1"}))).await);
    let apply = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"bad": "1"}});
    let applied = server
        .raw(
            admin(),
            Method::PATCH,
            &format!("{path}?fieldManager=t&force=true"),
            "application/apply-patch+yaml",
            Body::from(apply.to_string()),
        )
        .await;
    denied(&applied);
    let asked = hook.asked();
    let (_, update) = asked.iter().find(|(_, request)| request["operation"] == "UPDATE").unwrap();
    assert_eq!(update["oldObject"]["data"], json!({"good": "1"}));
    assert_eq!((&update["name"], &update["namespace"]), (&json!("m"), &json!("default")));
    assert_eq!(update["userInfo"]["username"], "admin");
    assert_eq!(update["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!(update["options"]["kind"], "UpdateOptions");
    assert_eq!(update["dryRun"], false);

    server.namespace("free", json!({"skip": "yes"})).await;
    server.create("/api/v1/namespaces/free/configmaps", map("m", json!({"bad": "1"}))).await.ok();

    let rules = |operations: Value| {
        let mut changed = hook.entry("deny", "/", operations, json!(["configmaps"]));
        changed["namespaceSelector"] = json!({});
        configuration("deny", json!([changed]))
    };
    server.call(Method::PUT, &format!("{VALIDATING}/deny"), rules(json!(["UPDATE"]))).await.ok();
    server.create(MAPS, map("free", json!({"bad": "1"}))).await.ok();
    server.patch(&format!("{VALIDATING}/deny"), rules(json!(["CREATE"]))).await.ok();
    denied(&server.create(MAPS, map("again", json!({"bad": "1"}))).await);
}

#[tokio::test]
async fn c009_connections_into_pods_are_refused() {
    let server = Server::start().await;
    let hook = Hook::start(|_, request| match request["object"]["kind"].as_str() {
        Some("PodAttachOptions") => deny("no attaching"),
        _ => allow(),
    })
    .await;
    let entry = hook.entry("attach", "/", json!(["CONNECT"]), json!(["pods/attach", "pods/exec"]));
    server.create(VALIDATING, configuration("attach", json!([entry]))).await.ok();
    server.create("/api/v1/namespaces/default/pods", pod("p")).await.ok();
    let path = "/api/v1/namespaces/default/pods/p/attach?stdin=true&container=c";
    let attached = server.create(path, Value::Null).await;
    assert_eq!(attached.refused(400), "admission webhook \"attach.example.com\" denied the request: no attaching");
    let (_, request) = hook.asked().pop().unwrap();
    assert_eq!(
        request["object"],
        json!({"apiVersion": "v1", "kind": "PodAttachOptions", "stdin": true, "container": "c"})
    );
    assert_eq!((&request["subResource"], &request["operation"]), (&json!("attach"), &json!("CONNECT")));
    let exec = server.create("/api/v1/namespaces/default/pods/p/exec?command=ls&command=-l", Value::Null).await;
    assert_eq!(exec.refused(400), "Upgrade request required", "exec came past admission");
    assert_eq!(hook.asked().pop().unwrap().1["object"]["command"], json!(["ls", "-l"]));
}

#[tokio::test]
async fn c010_c012_deletions_and_definitions_are_judged() {
    let server = Server::start().await;
    let hook = Hook::start(|_, request| match request["operation"].as_str() {
        Some("DELETE") => deny("it stays"),
        _ => deny("no definitions"),
    })
    .await;
    let entries = json!([
        hook.entry("delete", "/", json!(["DELETE"]), json!(["configmaps"])),
        hook.entry("definition", "/", json!(["CREATE"]), json!(["customresourcedefinitions"])),
    ]);
    server.create(VALIDATING, configuration("v", entries)).await.ok();
    server.create(MAPS, map("m", json!({}))).await.ok();
    let kept = server.delete(&format!("{MAPS}/m?gracePeriodSeconds=3")).await;
    assert!(kept.refused(400).ends_with("denied the request: it stays"));
    let (_, request) = hook.asked().pop().unwrap();
    assert_eq!((&request["object"], &request["oldObject"]["metadata"]["name"]), (&Value::Null, &json!("m")));
    assert_eq!(
        request["options"],
        json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "gracePeriodSeconds": 3})
    );
    let collection = server.delete(MAPS).await;
    assert!(collection.refused(400).ends_with("it stays"));
    assert_eq!(server.get(&format!("{MAPS}/m")).await.code, 200);
    let definition = json!({"metadata": {"name": "foos.example.com"}, "spec": {"group": "example.com", "scope": "Cluster",
        "names": {"plural": "foos", "kind": "Foo", "singular": "foo", "listKind": "FooList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let refused = server.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    assert!(refused.refused(400).ends_with("no definitions"));
}

#[tokio::test]
async fn c011_c013_timeouts_are_honoured() {
    let server = Server::start().await;
    let hook = Hook::start(|_, _| None).await;
    let mut entry = hook.entry("slow", "/slow", json!(["CREATE"]), json!(["configmaps"]));
    entry["timeoutSeconds"] = 1.into();
    server.create(VALIDATING, configuration("slow", json!([entry]))).await.ok();
    let started = Instant::now();
    let late = server.create(MAPS, map("m", json!({}))).await;
    let url = format!("https://127.0.0.1:{}/slow?timeout=1s", hook.port);
    assert_eq!(
        late.refused(500),
        format!(
            "Internal error occurred: failed calling webhook \"slow.example.com\": failed to call webhook: Post {url:?}: context deadline exceeded"
        )
    );
    assert!(started.elapsed() >= Duration::from_secs(1) && started.elapsed() < Duration::from_secs(8));
    entry["failurePolicy"] = "Ignore".into();
    server.patch(&format!("{VALIDATING}/slow"), configuration("slow", json!([entry]))).await.ok();
    server.create(MAPS, map("m", json!({}))).await.ok();
    for (seconds, code) in [(0, 422), (31, 422), (30, 201)] {
        entry["timeoutSeconds"] = seconds.into();
        let answer = server.create(MUTATING, configuration("bounds", json!([entry]))).await;
        assert_eq!(answer.code, code, "{seconds}: {}", answer.body);
    }
    let made = server.get(&format!("{MUTATING}/bounds")).await.body;
    assert_eq!(made["webhooks"][0]["matchPolicy"], "Equivalent");
}

#[tokio::test]
async fn c020_what_webhooks_add_gets_its_defaults() {
    let server = Server::start().await;
    let hook = Hook::start(|_, _| {
        patch(json!([{"op": "add", "path": "/spec/initContainers", "value": [{"name": "init", "image": "i", "unknown": 1}]}]))
    })
    .await;
    let entry = hook.entry("init", "/", json!(["CREATE"]), json!(["pods"]));
    server.create(MUTATING, configuration("init", json!([entry]))).await.ok();
    let made = server.create("/api/v1/namespaces/default/pods", pod("p")).await.ok();
    let init = &made["spec"]["initContainers"][0];
    assert_eq!((&init["terminationMessagePolicy"], init.get("unknown")), (&json!("File"), None));
    let mounted = init["volumeMounts"][0]["name"].as_str().unwrap();
    assert_eq!(made["spec"]["containers"][0]["volumeMounts"][0]["name"], mounted, "plugins saw what was added");
}

#[tokio::test]
async fn c021_configurations_are_never_judged() {
    let server = Server::start().await;
    let hook = Hook::start(|_, _| deny("never")).await;
    let entry = hook.entry("all", "/", json!(["*"]), json!(["*/*"]));
    server.create(VALIDATING, configuration("all", json!([entry]))).await.ok();
    server.create(MUTATING, configuration("all", json!([entry]))).await.ok();
    assert_eq!(server.create(MAPS, map("m", json!({}))).await.code, 400);
    server.patch(&format!("{VALIDATING}/all"), json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    server.delete(&format!("{VALIDATING}/all")).await.ok();
    server.delete(&format!("{MUTATING}/all")).await.ok();
    server.create(MAPS, map("m", json!({}))).await.ok();
}

#[tokio::test]
async fn c024_what_cannot_be_asked_refuses_all() {
    let server = Server::start().await;
    let hook = Hook::start(|_, _| allow()).await;
    let mut entry = hook.entry("closed", "/", json!(["CREATE"]), json!(["configmaps"]));
    entry["clientConfig"]["caBundle"] = Value::Null;
    server.create(VALIDATING, configuration("closed", json!([entry]))).await.ok();
    let refused = server.create(MAPS, map("m", json!({}))).await;
    let message = refused.refused(500);
    assert!(
        message.contains("failed calling webhook \"closed.example.com\": failed to call webhook: Post"),
        "{message}"
    );
    assert!(message.contains("certificate"), "{message}");
    assert!(hook.asked().is_empty());
}

#[tokio::test]
async fn services_are_resolved_to_ready_endpoints() {
    let server = Server::start().await;
    let hook = Hook::start(|_, _| deny("by service")).await;
    let mut entry = hook.entry("service", "/", json!(["CREATE"]), json!(["configmaps"]));
    entry["clientConfig"] = json!({"caBundle": hook.bundle,
        "service": {"namespace": "default", "name": "hook", "path": "/at", "port": 8443}});
    server.create(VALIDATING, configuration("service", json!([entry]))).await.ok();
    let refused = server.create(MAPS, map("m", json!({}))).await;
    assert!(refused.refused(500).ends_with(": service \"hook\" not found"), "{}", refused.body);
    let service = json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 8443, "targetPort": hook.port}]}});
    server.create("/api/v1/namespaces/default/services", service).await.ok();
    let refused = server.create(MAPS, map("m", json!({}))).await;
    assert!(refused.refused(500).ends_with(": no endpoints available for service \"hook\""), "{}", refused.body);
    // No slice of the API may name an address of this machine alone.
    let slice = json!({"metadata": {"name": "hook-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "hook"}},
        "addressType": "IPv4", "ports": [{"port": hook.port}], "endpoints": [{"addresses": ["127.0.0.1"]}]});
    server.plant("/registry/discovery.k8s.io/endpointslices/default/hook-1", slice).await;
    let refused = server.create(MAPS, map("m", json!({}))).await;
    assert!(refused.refused(400).ends_with("by service"), "{}", refused.body);
    assert_eq!(hook.asked()[0].0, "/at");
}

#[tokio::test]
async fn dry_runs_ask_only_who_takes_them() {
    let server = Server::start().await;
    let hook = Hook::start(|_, _| allow()).await;
    let mut entry = hook.entry("dry", "/", json!(["CREATE"]), json!(["configmaps"]));
    server.create(VALIDATING, configuration("dry", json!([entry]))).await.ok();
    server.create(&format!("{MAPS}?dryRun=All"), map("m", json!({}))).await.ok();
    assert_eq!(hook.asked()[0].1["dryRun"], true);
    // No new configuration may have it, but old ones do.
    entry["sideEffects"] = "Some".into();
    let old = json!({"metadata": {"name": "old"}, "webhooks": [entry]});
    server.plant("/registry/admissionregistration.k8s.io/mutatingwebhookconfigurations/old", old).await;
    let refused = server.create(&format!("{MAPS}?dryRun=All"), map("m", json!({}))).await;
    assert_eq!(refused.refused(400), "admission webhook \"dry.example.com\" does not support dry run");
    server.create(MAPS, map("m", json!({}))).await.ok();
}

#[tokio::test]
async fn webhooks_are_asked_again_only_if_somebody_after_them_changed_the_object() {
    let server = Server::start().await;
    let hook = Hook::start(|path, request| match path {
        "/late" if request["object"]["data"].get("late").is_none() => {
            patch(json!([{"op": "add", "path": "/data/late", "value": "1"}]))
        }
        _ => allow(),
    })
    .await;
    let entry = |name: &str, policy: &str| {
        let mut entry = hook.entry(name, &format!("/{name}"), json!(["CREATE"]), json!(["configmaps"]));
        entry["reinvocationPolicy"] = policy.into();
        entry
    };
    let entries = json!([entry("never", "Never"), entry("early", "IfNeeded"), entry("late", "IfNeeded")]);
    server.create(MUTATING, configuration("again", entries)).await.ok();
    server.create(MAPS, map("m", json!({"k": "v"}))).await.ok();
    let paths: Vec<String> = hook.asked().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["/never", "/early", "/late", "/early"]);
    server.create(MAPS, map("n", json!({"late": "v"}))).await.ok();
    assert_eq!(hook.asked().len(), 4 + 3);
}

#[tokio::test]
async fn other_versions_are_shown_as_rules_name_them() {
    let server = Server::start().await;
    let hook = Hook::start(|_, request| match request["object"]["apiVersion"].as_str() {
        Some("autoscaling/v1") => {
            patch(json!([{"op": "replace", "path": "/spec/targetCPUUtilizationPercentage", "value": 55}]))
        }
        _ => deny("another version"),
    })
    .await;
    let mut entry = hook.entry("v1", "/", json!(["CREATE"]), json!(["horizontalpodautoscalers"]));
    entry["rules"][0]["apiVersions"] = json!(["v1"]);
    server.create(MUTATING, configuration("v1", json!([entry]))).await.ok();
    let autoscaler = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"maxReplicas": 3,
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]}})
    };
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let made = server.create(path, autoscaler("a")).await.ok();
    assert_eq!(made["apiVersion"], "autoscaling/v2");
    assert_eq!(made["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 55);
    let (_, request) = hook.asked().pop().unwrap();
    assert_eq!((&request["kind"]["version"], &request["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
    entry["matchPolicy"] = "Exact".into();
    server.patch(&format!("{MUTATING}/v1"), configuration("v1", json!([entry]))).await.ok();
    let made = server.create(path, autoscaler("b")).await.ok();
    assert_eq!(made["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
}

#[tokio::test]
async fn scales_are_judged_as_scales() {
    let server = Server::start().await;
    let hook = Hook::start(|_, request| match request["object"]["spec"]["replicas"].as_i64() {
        Some(count) if count > 5 => deny("too many"),
        _ => patch(json!([{"op": "replace", "path": "/spec/replicas", "value": 4}])),
    })
    .await;
    let entry = hook.entry("scale", "/", json!(["UPDATE"]), json!(["deployments/scale"]));
    server.create(MUTATING, configuration("scale", json!([entry]))).await.ok();
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    server.create(path, deployment).await.ok();
    let scaled = server.patch(&format!("{path}/d/scale"), json!({"spec": {"replicas": 2}})).await.ok();
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(4)));
    assert_eq!(server.get(&format!("{path}/d")).await.body["spec"]["replicas"], 4);
    let refused = server.patch(&format!("{path}/d/scale"), json!({"spec": {"replicas": 6}})).await;
    assert!(refused.refused(400).ends_with("too many"));
    let (_, request) = hook.asked().pop().unwrap();
    assert_eq!((&request["kind"]["kind"], &request["oldObject"]["spec"]["replicas"]), (&json!("Scale"), &json!(4)));
}

#[tokio::test]
async fn users_are_told_with_all_that_is_known_of_them() {
    let server = Server::start().await;
    let hook = Hook::start(|_, _| deny("no")).await;
    let entry = hook.entry("who", "/", json!(["CREATE"]), json!(["configmaps"]));
    server.create(VALIDATING, configuration("who", json!([entry]))).await.ok();
    let mut user = User::new("jane", &["system:masters"]);
    user.uid = "u1".into();
    user.extra.insert("k".into(), vec!["v".into()]);
    let body = Body::from(map("m", json!({})).to_string());
    server.raw(user, Method::POST, MAPS, "application/json", body).await.refused(400);
    let (_, request) = hook.asked().pop().unwrap();
    assert_eq!(request["userInfo"]["username"], "jane");
    assert_eq!((&request["userInfo"]["uid"], &request["userInfo"]["extra"]), (&json!("u1"), &json!({"k": ["v"]})));
}

#[tokio::test]
async fn paths_below_an_object_are_judged_as_what_they_exchange() {
    let server = Server::start().await;
    let hook = Hook::start(|_, _| allow()).await;
    let below = [
        "pods/binding",
        "pods/eviction",
        "pods/status",
        "pods/ephemeralcontainers",
        "pods/resize",
        "serviceaccounts/token",
    ];
    let entry = hook.entry("below", "/", json!(["*"]), json!(below));
    server.create(VALIDATING, configuration("below", json!([entry]))).await.ok();
    let pods = "/api/v1/namespaces/default/pods";
    // A resize changes what is there, not the class of service.
    let mut running = pod("p");
    running["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "2"}});
    server.create(pods, running).await.ok();
    server.create(&format!("{pods}/p/binding"), json!({"target": {"name": "n"}})).await.ok();
    server.patch(&format!("{pods}/p/status"), json!({"status": {"phase": "Running"}})).await.ok();
    let resources =
        json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]}});
    server.patch(&format!("{pods}/p/resize"), resources).await.ok();
    let debugger = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}]}});
    server.patch(&format!("{pods}/p/ephemeralcontainers"), debugger).await.ok();
    server.create(&format!("{pods}/p/eviction"), json!({"metadata": {"name": "p"}})).await.ok();
    let token = json!({"spec": {"audiences": ["a"], "expirationSeconds": 600}});
    server.create("/api/v1/namespaces/default/serviceaccounts/default/token", token).await.ok();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let asked = hook.asked().into_iter().map(|(_, request)| {
        format!("{} {} {}", text(&request["operation"]), text(&request["subResource"]), text(&request["kind"]["kind"]))
    });
    let asked: Vec<String> = asked.collect();
    assert_eq!(
        asked,
        [
            "CREATE binding Binding",
            "UPDATE status Pod",
            "UPDATE resize Pod",
            "UPDATE ephemeralcontainers Pod",
            "CREATE eviction Eviction",
            "CREATE token TokenRequest"
        ]
    );
}

#[tokio::test]
async fn ownership_stays_sound_when_webhooks_change_what_was_applied() {
    let server = Server::start().await;
    let hook = Hook::start(|_, request| {
        let mut operations = vec![json!({"op": "add", "path": "/data/added", "value": "1"})];
        if request["object"]["data"].get("gone").is_some() {
            operations.push(json!({"op": "remove", "path": "/data/gone"}));
        }
        operations.push(json!({"op": "add", "path": "/metadata/managedFields", "value": []}));
        patch(json!(operations))
    })
    .await;
    let entry = hook.entry("h", "/", json!(["CREATE", "UPDATE"]), json!(["configmaps"]));
    server.create(MUTATING, configuration("h", json!([entry]))).await.ok();
    let apply = || async {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"kept": "1", "gone": "1"}});
        let path = format!("{MAPS}/m?fieldManager=me");
        let body = Body::from(object.to_string());
        server.raw(admin(), Method::PATCH, &path, "application/apply-patch+yaml", body).await.ok()
    };
    let made = apply().await;
    assert_eq!(made["data"], json!({"kept": "1", "added": "1"}));
    let managed = made["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(managed.len(), 1, "{managed:?}");
    assert_eq!(managed[0]["fieldsV1"], json!({"f:data": {"f:kept": {}}}));
    assert_eq!(apply().await["data"], made["data"], "applying again changes nothing");
    let updated = server.patch(&format!("{MAPS}/m"), json!({"data": {"own": "1"}})).await.ok();
    assert_eq!(updated["data"], json!({"kept": "1", "added": "1", "own": "1"}));
    let managers: Vec<&str> = updated["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["manager"].as_str())
        .collect();
    assert_eq!(managers, ["me", "unknown"]);
}

#[tokio::test]
async fn no_webhook_makes_an_object_larger_than_a_client_may() {
    let server = Server::start().await;
    let hook = Hook::start(|_, _| {
        patch(json!([{"op": "add", "path": "/metadata/annotations", "value": {"a": "x".repeat(4 << 20)}}]))
    })
    .await;
    let entry = hook.entry("large", "/", json!(["CREATE"]), json!(["configmaps"]));
    server.create(MUTATING, configuration("large", json!([entry]))).await.ok();
    server.create(MAPS, map("m", json!({}))).await.refused(413);
}

#[tokio::test]
async fn answers_that_are_none_refuse_and_harm_nobody_else() {
    let server = Server::start().await;
    let hook = Hook::replying(|path, _| {
        let raw = |code: u16, body: Vec<u8>| Reply::Raw(http::StatusCode::from_u16(code).unwrap(), body.into());
        match path {
            "/html" => raw(200, b"<html>".to_vec()),
            "/deep" => raw(200, b"[".repeat(100_000)),
            "/large" => raw(200, vec![b' '; 33 << 20]),
            "/error" => raw(500, b"out of order".to_vec()),
            "/nowhere" => raw(404, Vec::new()),
            "/elsewhere" => raw(307, Vec::new()),
            "/kind" => raw(200, br#"{"apiVersion": "v1", "kind": "Status"}"#.to_vec()),
            _ => Reply::Review(json!({"allowed": true, "patchType": "JSONPatch", "patch": "bm90IGpzb24="})),
        }
    })
    .await;
    for (path, told) in [
        ("/html", "failed to call webhook: couldn't get version/kind; json parse error: "),
        ("/deep", "failed to call webhook: couldn't get version/kind; json parse error: "),
        ("/large", "failed to call webhook: the answer is larger than"),
        (
            "/error",
            "failed to call webhook: an error on the server (\"out of order\") has prevented the request from succeeding",
        ),
        ("/nowhere", "failed to call webhook: the server could not find the requested resource"),
        ("/elsewhere", "failed to call webhook: the server rejected our request with 307"),
        (
            "/kind",
            "received invalid webhook response: expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got v1, Kind=Status",
        ),
        ("/patch", "received invalid webhook response: received undecodable patch in webhook response: "),
    ] {
        let entry = hook.entry("h", path, json!(["CREATE"]), json!(["configmaps"]));
        server.create(MUTATING, configuration("h", json!([entry]))).await.ok();
        let refused = server.create(MAPS, map("m", json!({}))).await;
        assert!(refused.refused(500).contains(told), "{path}: {}", refused.body);
        server.create("/api/v1/namespaces/default/secrets", json!({"metadata": {"generateName": "s-"}})).await.ok();
        server.delete(&format!("{MUTATING}/h")).await.ok();
    }
}

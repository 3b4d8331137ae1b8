//! ResourceQuota: what is stored is charged, racing creations included.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use crate::server::Server;

const NS: &str = "/api/v1/namespaces/default";

fn pod(name: &str, resources: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

async fn quota(server: &Server, name: &str, spec: Value) {
    server.create(&format!("{NS}/resourcequotas"), json!({"metadata": {"name": name}, "spec": spec})).await.ok();
}

async fn used(server: &Server, name: &str) -> Value {
    server.get(&format!("{NS}/resourcequotas/{name}")).await.body["status"]["used"].clone()
}

#[tokio::test]
async fn c078_pods_are_charged_and_too_much_is_refused() {
    let server = Server::start().await;
    let hard = json!({"pods": "2", "cpu": "1", "memory": "500Mi", "requests.example.com/dongle": "3"});
    quota(&server, "q", json!({"hard": hard})).await;
    let pods = format!("{NS}/pods");
    let resources = |cpu: &str| json!({"requests": {"cpu": cpu, "memory": "252Mi", "example.com/dongle": "2"}, "limits": {"example.com/dongle": "2"}});
    let unsaid = server.create(&pods, pod("a", json!({}))).await;
    assert_eq!(unsaid.refused(403), "pods \"a\" is forbidden: failed quota: q: must specify cpu for: c; memory for: c");
    server.create(&pods, pod("a", resources("500m"))).await.ok();
    assert_eq!(
        used(&server, "q").await,
        json!({"pods": "1", "cpu": "500m", "memory": "252Mi", "requests.example.com/dongle": "2"})
    );
    let refused = server.create(&pods, pod("b", resources("600m"))).await;
    assert_eq!(
        refused.refused(403),
        "pods \"b\" is forbidden: exceeded quota: q, requested: cpu=600m,memory=252Mi,requests.example.com/dongle=2, \
         used: cpu=500m,memory=252Mi,requests.example.com/dongle=2, limited: cpu=1,memory=500Mi,requests.example.com/dongle=3"
    );
    let dry = server
        .create(&format!("{pods}?dryRun=All"), pod("c", json!({"requests": {"cpu": "100m", "memory": "1Mi"}})))
        .await;
    assert_eq!(dry.code, 201);
    assert_eq!(used(&server, "q").await["pods"], "1", "a dry run costs nothing");
    // A creation that fails for another reason costs nothing either.
    let taken = server.create(&pods, pod("a", json!({"requests": {"cpu": "100m", "memory": "1Mi"}}))).await;
    assert_eq!(taken.code, 409);
    assert_eq!(used(&server, "q").await["pods"], "1");
}

#[tokio::test]
async fn c077_c079_c080_c081_c082_other_objects_are_counted() {
    let server = Server::start().await;
    let hard = json!({"configmaps": "1", "secrets": "1", "services": "3", "services.nodeports": "1",
        "services.loadbalancers": "1", "count/replicasets.apps": "1", "replicationcontrollers": "1"});
    quota(&server, "q", json!({"hard": hard})).await;
    server.create(&format!("{NS}/configmaps"), json!({"metadata": {"name": "a"}})).await.ok();
    let refused = server.create(&format!("{NS}/configmaps"), json!({"metadata": {"name": "b"}})).await;
    assert_eq!(
        refused.refused(403),
        "configmaps \"b\" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=1, limited: configmaps=1"
    );
    server.create(&format!("{NS}/secrets"), json!({"metadata": {"name": "a"}})).await.ok();
    let service = |name: &str, kind: &str| json!({"metadata": {"name": name}, "spec": {"type": kind, "selector": {"a": "b"}, "ports": [{"port": 80}]}});
    let services = format!("{NS}/services");
    server.create(&services, service("a", "ClusterIP")).await.ok();
    server.create(&services, service("b", "NodePort")).await.ok();
    let refused = server.create(&services, service("c", "LoadBalancer")).await;
    assert!(refused.refused(403).contains("requested: services.nodeports=1, used: services.nodeports=1"));
    // A change of type is charged by what it adds, and given back when it is taken back.
    let to = |kind: &str| json!({"spec": {"type": kind}});
    server.patch(&format!("{services}/a"), to("NodePort")).await.refused(403);
    server.patch(&format!("{services}/b"), to("ClusterIP")).await.ok();
    assert_eq!(used(&server, "q").await["services.nodeports"], "0");
    server.patch(&format!("{services}/a"), to("NodePort")).await.ok();
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let set = json!({"metadata": {"name": "r"}, "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    server.create("/apis/apps/v1/namespaces/default/replicasets", set).await.ok();
    let controller =
        json!({"metadata": {"name": "r"}, "spec": {"replicas": 0, "selector": {"a": "b"}, "template": template}});
    server.create(&format!("{NS}/replicationcontrollers"), controller).await.ok();
    let all = used(&server, "q").await;
    assert_eq!((&all["count/replicasets.apps"], &all["replicationcontrollers"]), (&json!("1"), &json!("1")));
}

#[tokio::test]
async fn c083_a_new_quota_tells_at_once_what_is_used() {
    let server = Server::start().await;
    for name in ["a", "b"] {
        server.create(&format!("{NS}/configmaps"), json!({"metadata": {"name": name}})).await.ok();
    }
    let hard = json!({"configmaps": "5", "pods": "1", "count/deployments.apps": "2"});
    quota(&server, "q", json!({"hard": hard})).await;
    let status = server.get(&format!("{NS}/resourcequotas/q/status")).await.body["status"].clone();
    let used = json!({"configmaps": "2", "pods": "0", "count/deployments.apps": "0"});
    assert_eq!(status, json!({"hard": hard, "used": used}));
}

#[tokio::test]
async fn c085_c086_scopes_choose_the_pods_that_are_charged() {
    let server = Server::start().await;
    for (name, scope) in
        [("best", "BestEffort"), ("not-best", "NotBestEffort"), ("ends", "Terminating"), ("stays", "NotTerminating")]
    {
        quota(&server, name, json!({"hard": {"pods": "5"}, "scopes": [scope]})).await;
    }
    let pods = format!("{NS}/pods");
    server.create(&pods, pod("best", json!({}))).await.ok();
    let mut burst = pod("burst", json!({"requests": {"cpu": "1"}}));
    burst["spec"]["activeDeadlineSeconds"] = 60.into();
    server.create(&pods, burst).await.ok();
    for (name, expected) in [("best", "1"), ("not-best", "1"), ("ends", "1"), ("stays", "1")] {
        assert_eq!(used(&server, name).await, json!({"pods": expected}), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn racing_creations_never_exceed_a_quota() {
    let server = Arc::new(Server::start().await);
    quota(&server, "q", json!({"hard": {"configmaps": "37"}})).await;
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                server.create(&format!("{NS}/configmaps"), json!({"metadata": {"name": format!("m{n}")}})).await.code
            })
        })
        .collect();
    let mut codes = Vec::new();
    for task in tasks {
        codes.push(task.await.unwrap());
    }
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 37, "{codes:?}");
    assert!(codes.iter().all(|code| matches!(code, 201 | 403)), "{codes:?}");
    let stored = server.get(&format!("{NS}/configmaps")).await.body["items"].as_array().unwrap().len();
    assert_eq!((stored, used(&server, "q").await), (37, json!({"configmaps": "37"})));
}

#[tokio::test]
async fn c075_a_status_that_was_written_by_hand_is_no_ground_to_stand_on() {
    let server = Server::start().await;
    quota(&server, "q", json!({"hard": {"configmaps": "1"}})).await;
    server.create(&format!("{NS}/configmaps"), json!({"metadata": {"name": "a"}})).await.ok();
    let path = format!("{NS}/resourcequotas/q/status");
    let status = json!({"status": {"hard": {"configmaps": "9"}, "used": {"configmaps": "0"}}});
    let told = server.patch(&path, status).await.ok();
    assert_eq!(
        (&told["status"]["hard"]["configmaps"], &told["spec"]["hard"]["configmaps"]),
        (&json!("9"), &json!("1"))
    );
    assert_eq!(server.get(&path).await.code, 200);
    server.create(&format!("{NS}/configmaps"), json!({"metadata": {"name": "b"}})).await.refused(403);
}

#[tokio::test]
async fn c076_c084_quotas_are_checked() {
    let server = Server::start().await;
    let path = format!("{NS}/resourcequotas");
    for (spec, problem) in [
        (json!({"hard": {"pods": "-1"}}), "spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0"),
        (json!({"hard": {"pods": "1.5"}}), "spec.hard[pods]: Invalid value: \"1500m\": must be an integer"),
        (
            json!({"hard": {"unheard-of": "1"}}),
            "spec.hard[unheard-of]: Invalid value: \"unheard-of\": must be a standard resource for quota",
        ),
        (
            json!({"hard": {"pods": "1"}, "scopes": ["Nice"]}),
            "spec.scopes: Invalid value: [\"Nice\"]: unsupported scope",
        ),
        (
            json!({"hard": {"services": "1"}, "scopes": ["BestEffort"]}),
            "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
        ),
        (
            json!({"hard": {"pods": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}),
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
        ),
        (
            json!({"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}),
            "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        ),
    ] {
        let refused = server.create(&path, json!({"metadata": {"name": "q"}, "spec": spec})).await;
        assert!(refused.refused(422).contains(problem), "{problem}: {}", refused.body);
    }
    quota(&server, "q", json!({"hard": {"pods": "1"}})).await;
    let changed = server.patch(&format!("{path}/q"), json!({"spec": {"hard": {"pods": "2"}}})).await.ok();
    assert_eq!(changed["spec"]["hard"]["pods"], "2");
    let scoped = server.patch(&format!("{path}/q"), json!({"spec": {"scopes": ["BestEffort"]}})).await;
    assert!(scoped.refused(422).contains("spec.scopes: Invalid value"), "{}", scoped.body);
    server.call(Method::DELETE, &path, Value::Null).await.ok();
    assert_eq!(server.get(&format!("{path}/q")).await.code, 404);
}

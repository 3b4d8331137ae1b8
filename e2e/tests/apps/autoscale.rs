//! HorizontalPodAutoscalers: load that comes and goes, targets of every kind, and what is said where nothing can be scaled.

use std::time::Duration;

use e2e::api::{Api, condition};
use serde_json::{Value, json};

use crate::batch::container;
use crate::scene::{Scene, name_of};

/// An autoscaler looks every 15 seconds, and a machine under load answers late.
const PATIENCE: Duration = Duration::from_secs(120);

fn autoscalers(api: &Api) -> String {
    api.path("autoscaling/v2", "horizontalpodautoscalers")
}

fn autoscaler(name: &str, (version, kind, target): (&str, &str, &str), spec: Value) -> Value {
    let mut made = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": version, "kind": kind, "name": target}}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        made["spec"][key] = value.clone();
    }
    made
}

fn cpu(percent: i32) -> Value {
    json!([{"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": percent}}}])
}

/// Pods that ask for little CPU time and run a script.
fn template(app: &str, script: &str) -> Value {
    let mut container = container("c", script);
    container["resources"] = json!({"requests": {"cpu": "20m"}, "limits": {"cpu": "50m"}});
    json!({"metadata": {"labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}})
}

const IDLE: &str = "trap 'exit 0' TERM; sleep 1000000 & wait";

fn workload(kind: &str, name: &str, replicas: i32, script: &str) -> Value {
    let version = if kind == "ReplicationController" { "v1" } else { "apps/v1" };
    let labels = json!({"app": name});
    let selector = if version == "v1" { labels } else { json!({"matchLabels": labels}) };
    let mut made = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": selector, "template": template(name, script)}});
    if kind == "StatefulSet" {
        made["spec"]["serviceName"] = name.into();
        made["spec"]["podManagementPolicy"] = "Parallel".into();
    }
    made
}

/// The autoscaler once its conditions, or whatever else, fit.
async fn until(api: &Api, name: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    api.until_within(PATIENCE, &format!("{}/{name}", autoscalers(api)), what, fits).await
}

/// Whether a condition has this state and reason.
fn is(object: &Value, kind: &str, status: &str, reason: &str) -> bool {
    let told = condition(object, kind);
    told["status"] == status && told["reason"] == reason
}

fn message<'a>(object: &'a Value, kind: &str) -> &'a str {
    condition(object, kind)["message"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn load_adds_replicas_and_its_end_takes_them_away() {
    e2e::need!(e2e::machine::root());
    let scene = Scene::new("autoscale-load").await;
    let api = &scene.api;
    let burn = "trap 'exit 0' TERM; while [ ! -e /tmp/idle ]; do :; done; sleep 1000000 & wait";
    scene.make("deployments", &workload("Deployment", "burn", 1, burn)).await;
    let behavior = json!({"scaleDown": {"stabilizationWindowSeconds": 0}});
    let spec = json!({"metrics": cpu(50), "behavior": behavior});
    let made = api.post(&autoscalers(api), autoscaler("burn", ("apps/v1", "Deployment", "burn"), spec)).await.ok();
    assert_eq!(made["spec"]["minReplicas"], 1);
    let down = &made["spec"]["behavior"]["scaleDown"];
    assert_eq!(down["policies"], json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));

    let grown =
        until(api, "burn", "the most replicas are asked for", |hpa| hpa["status"]["desiredReplicas"] == 3).await;
    assert!(grown["status"]["lastScaleTime"].is_string(), "{grown:#}");
    let pods = scene.ready("burn", 3).await;
    let limited = until(api, "burn", "it would grow further", |hpa| {
        hpa["status"]["currentReplicas"] == 3 && is(hpa, "ScalingLimited", "True", "TooManyReplicas")
    });
    let limited = limited.await;
    assert!(is(&limited, "ScalingActive", "True", "ValidMetricFound"), "{limited:#}");
    assert!(is(&limited, "AbleToScale", "True", "ReadyForNewScale"), "{limited:#}");
    let used = &limited["status"]["currentMetrics"][0]["resource"];
    assert_eq!(used["name"], "cpu");
    assert!(used["current"]["averageUtilization"].as_i64().is_some_and(|percent| percent > 55), "{limited:#}");
    api.event("burn", "SuccessfulRescale", "New size: 3; reason: cpu resource utilization").await;

    let told = scene.gantry(&["get", "hpa", "burn"]).ok();
    let words: Vec<&str> = told.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(words, ["NAME", "REFERENCE", "TARGETS", "MINPODS", "MAXPODS", "REPLICAS", "AGE"]);
    assert!(told.contains("Deployment/burn") && told.contains("%/50%"), "{told}");
    let page = scene.gantry(&["describe", "hpa", "burn"]).ok();
    assert!(page.contains("resource cpu on pods  (as a percentage of request):"), "{page}");

    for pod in &pods {
        scene.gantry(&["exec", name_of(pod), "--", "touch", "/tmp/idle"]).ok();
    }
    until(api, "burn", "one replica is asked for", |hpa| hpa["status"]["desiredReplicas"] == 1).await;
    api.event("burn", "SuccessfulRescale", "reason: All metrics below target").await;
    scene.ready("burn", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_scaled_is_told() {
    e2e::need!(e2e::machine::root());
    let scene = Scene::new("autoscale-told").await;
    let api = &scene.api;
    let all = autoscalers(api);
    let deployment = |name: &'static str| ("apps/v1", "Deployment", name);
    api.post(&all, autoscaler("lost", deployment("nobody"), json!({}))).await.ok();
    let lost =
        until(api, "lost", "the target is missing", |hpa| is(hpa, "AbleToScale", "False", "FailedGetScale")).await;
    assert!(message(&lost, "AbleToScale").contains("\"nobody\" not found"), "{lost:#}");
    api.event("lost", "FailedGetScale", "not found").await;
    api.post(&all, autoscaler("odd", ("odd.example.com/v1", "Odd", "a"), json!({}))).await.ok();
    let odd = until(api, "odd", "the kind is unknown", |hpa| is(hpa, "AbleToScale", "False", "FailedGetScale")).await;
    assert!(message(&odd, "AbleToScale").contains("no matches for kind \"Odd\""), "{odd:#}");

    scene.make("deployments", &workload("Deployment", "off", 0, IDLE)).await;
    api.post(&all, autoscaler("off", deployment("off"), json!({}))).await.ok();
    until(api, "off", "nothing is scaled", |hpa| is(hpa, "ScalingActive", "False", "ScalingDisabled")).await;

    // Nobody here serves metrics of others.
    scene.make("deployments", &workload("Deployment", "shared", 1, IDLE)).await;
    scene.ready("shared", 1).await;
    let custom = json!({"metrics": [{"type": "Pods", "pods": {"metric": {"name": "hits"},
        "target": {"type": "AverageValue", "averageValue": "5"}}}]});
    api.post(&all, autoscaler("one", deployment("shared"), custom)).await.ok();
    let one = until(api, "one", "no metric", |hpa| is(hpa, "ScalingActive", "False", "FailedGetPodsMetric")).await;
    assert!(
        message(&one, "ScalingActive").contains("no custom metrics API (custom.metrics.k8s.io) registered"),
        "{one:#}"
    );
    api.event("one", "FailedComputeMetricsReplicas", "invalid metrics (1 invalid out of 1)").await;

    // Two that have the same pods have none.
    api.post(&all, autoscaler("two", deployment("shared"), json!({"metrics": cpu(50)}))).await.ok();
    for name in ["one", "two"] {
        let torn =
            until(api, name, "it is not alone", |hpa| is(hpa, "ScalingActive", "False", "AmbiguousSelector")).await;
        assert!(message(&torn, "ScalingActive").contains("controlled by multiple HPAs"), "{torn:#}");
    }
    api.delete(&format!("{all}/one"), Value::Null).await.ok();
    until(api, "two", "it is alone", |hpa| condition(hpa, "ScalingActive")["reason"] != "AmbiguousSelector").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_has_a_scale_is_scaled() {
    e2e::need!(e2e::machine::root());
    let scene = Scene::new("autoscale-kinds").await;
    let api = &scene.api;
    let group = format!("{}.example.com", api.namespace);
    let number = json!({"type": "integer"});
    let counts = json!({"type": "object", "properties": {"replicas": number, "selector": {"type": "string"}}});
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("herds.{group}")}, "spec": {"group": group, "scope": "Namespaced",
            "names": {"plural": "herds", "singular": "herd", "kind": "Herd", "listKind": "HerdList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": counts, "status": counts}}},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    api.post(definitions, crd).await.ok();
    api.until(definitions, &format!("herds.{group}"), "the kind is served", |crd| {
        condition(crd, "Established")["status"] == "True"
    })
    .await;
    let version = format!("{group}/v1");
    let herds = api.path(&version, "herds");
    let herd = json!({"apiVersion": version, "kind": "Herd", "metadata": {"name": "herd"}, "spec": {"replicas": 1}});
    api.post(&herds, herd).await.ok();

    let mut targets = vec![(version.as_str(), "Herd", "herd", format!("{herds}/herd"))];
    for (kind, name, plural) in [
        ("Deployment", "dep", "deployments"),
        ("ReplicaSet", "rs", "replicasets"),
        ("StatefulSet", "sts", "statefulsets"),
        ("ReplicationController", "rc", "replicationcontrollers"),
    ] {
        let made = workload(kind, name, 1, IDLE);
        let version = if kind == "ReplicationController" { "v1" } else { "apps/v1" };
        let path = api.path(version, plural);
        api.post(&path, made).await.ok();
        let scale = api.get(&format!("{path}/{name}/scale")).await.ok();
        assert_eq!(scale["status"]["selector"], format!("app={name}"), "{scale:#}");
        targets.push((version, kind, name, format!("{path}/{name}")));
    }
    for (version, kind, name, path) in &targets {
        let hpa = autoscaler(name, (version, kind, name), json!({"minReplicas": 2}));
        api.post(&autoscalers(api), hpa).await.ok();
        let what = format!("a {kind} has its fewest replicas");
        api.until_within(PATIENCE, path, &what, |object| object["spec"]["replicas"] == 2).await;
        api.event(name, "SuccessfulRescale", "New size: 2; reason: Current number of replicas below Spec.MinReplicas")
            .await;
        let hpa = until(api, name, "it is told", |hpa| hpa["status"]["desiredReplicas"] == 2).await;
        assert_eq!(condition(&hpa, "AbleToScale")["status"], "True", "{hpa:#}");
    }
    api.delete(&format!("{definitions}/herds.{group}"), Value::Null).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_tell_the_same() {
    e2e::need!(e2e::machine::root());
    let scene = Scene::new("autoscale-versions").await;
    let api = &scene.api;
    let first = api.path("autoscaling/v1", "horizontalpodautoscalers");
    let second = autoscalers(api);
    let target = ("apps/v1", "Deployment", "web");
    let mut old = autoscaler("old", target, json!({"targetCPUUtilizationPercentage": 70}));
    old["apiVersion"] = "autoscaling/v1".into();
    api.post(&first, old).await.ok();
    assert_eq!(api.get(&format!("{second}/old")).await.ok()["spec"]["metrics"], cpu(70));

    api.post(&second, autoscaler("plain", target, json!({}))).await.ok();
    assert_eq!(api.get(&format!("{second}/plain")).await.ok()["spec"]["metrics"], cpu(80));
    assert_eq!(api.get(&format!("{first}/plain")).await.ok()["spec"]["targetCPUUtilizationPercentage"], 80);

    let memory = json!({"type": "Resource", "resource": {"name": "memory",
        "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
    api.post(&second, autoscaler("more", target, json!({"metrics": [memory]}))).await.ok();
    let more = api.get(&format!("{first}/more")).await.ok();
    let told = more["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"].as_str().unwrap_or_default();
    assert!(told.contains("\"targetAverageValue\":\"1Gi\""), "{more:#}");
    // Who writes back what v1 has shown loses nothing.
    api.edit(&format!("{first}/more"), |hpa| hpa["spec"]["maxReplicas"] = 5.into()).await;
    let more = api.get(&format!("{second}/more")).await.ok();
    assert_eq!((&more["spec"]["maxReplicas"], &more["spec"]["metrics"]), (&json!(5), &json!([memory])));

    let refused = api.post(&second, autoscaler("bad", target, json!({"minReplicas": 9}))).await.refused(422);
    assert!(
        refused.contains("spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"),
        "{refused}"
    );
    let refused = api.post(&second, autoscaler("bad", target, json!({"minReplicas": 0}))).await.refused(422);
    assert!(refused.contains("must specify at least one Object or External metric"), "{refused}");

    scene.make("deployments", &workload("Deployment", "web", 0, IDLE)).await;
    let said = scene.gantry(&["autoscale", "deployment", "web", "--min=1", "--max=4", "--cpu=60%"]).ok();
    assert_eq!(said.trim(), "horizontalpodautoscaler.autoscaling/web autoscaled");
    assert_eq!(api.get(&format!("{second}/web")).await.ok()["spec"]["metrics"], cpu(60));
    let said = scene.gantry(&["autoscale", "deployment", "web"]);
    assert!(
        said.code == 1 && said.err.contains("--max=MAXPODS is required and must be at least 1, max: -1"),
        "{}",
        said.err
    );
}

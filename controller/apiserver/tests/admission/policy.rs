//! ValidatingAdmissionPolicy, MutatingAdmissionPolicy, and match conditions of webhooks.

use axum::body::Body;
use controller_apiserver::authn::User;
use http::Method;
use serde_json::{Value, json};

use crate::hook::{Hook, allow, patch};
use crate::server::Server;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn constraints(group: &str, resource: &str) -> Value {
    json!({"resourceRules": [{"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
        "resources": [resource]}]})
}

async fn bind(server: &Server, kind: &str, name: &str, spec: Value, binding: Value) {
    server.create(&format!("{GROUP}/{kind}policies"), json!({"metadata": {"name": name}, "spec": spec})).await.ok();
    let mut binding = json!({"metadata": {"name": format!("{name}-binding")}, "spec": binding});
    binding["spec"]["policyName"] = name.into();
    if kind.starts_with("validating") && binding["spec"].get("validationActions").is_none() {
        binding["spec"]["validationActions"] = json!(["Deny"]);
    }
    server.create(&format!("{GROUP}/{kind}policybindings"), binding).await.ok();
}

fn deployment(name: &str, replicas: i64) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

fn map(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name}, "data": data})
}

#[tokio::test]
async fn c091_c094_policies_judge_deployments_by_variables() {
    let server = Server::start().await;
    let spec = json!({"matchConstraints": constraints("apps", "deployments"),
        "variables": [{"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "isOdd", "expression": "variables.replicas % 2 == 1"}],
        "validations": [{"expression": "variables.replicas > 1", "messageExpression": "'wants ' + string(variables.replicas + 1)"},
            {"expression": "variables.isOdd"}]});
    bind(&server, "validatingadmission", "odd", spec, json!({})).await;
    let refused = server.create(DEPLOYMENTS, deployment("one", 1)).await;
    assert_eq!(
        refused.refused(422),
        "deployments.apps \"one\" is forbidden: ValidatingAdmissionPolicy 'odd' with binding 'odd-binding' denied request: wants 2"
    );
    assert_eq!(refused.body["reason"], "Invalid");
    let cause =
        json!({"message": "ValidatingAdmissionPolicy 'odd' with binding 'odd-binding' denied request: wants 2"});
    assert_eq!(refused.body["details"]["causes"], json!([cause]));
    let refused = server.create(DEPLOYMENTS, deployment("two", 2)).await;
    assert!(refused.refused(422).ends_with("denied request: failed expression: variables.isOdd"));
    server.create(DEPLOYMENTS, deployment("three", 3)).await.ok();
    server.patch(&format!("{DEPLOYMENTS}/three"), json!({"spec": {"replicas": 4}})).await.refused(422);
    server.delete(&format!("{GROUP}/validatingadmissionpolicybindings/odd-binding")).await.ok();
    server.create(DEPLOYMENTS, deployment("two", 2)).await.ok();
}

#[tokio::test]
async fn c092_c093_policies_are_checked_and_their_status_tells_of_types() {
    let server = Server::start().await;
    let path = format!("{GROUP}/validatingadmissionpolicies");
    let policy = |expression: &str| {
        json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": constraints("apps", "deployments"),
        "validations": [{"expression": expression}]}})
    };
    let refused = server.create(&path, policy("object.spec.replicas >")).await;
    assert!(refused.refused(422).contains("spec.validations[0].expression: Invalid value"), "{}", refused.body);
    assert!(refused.message().contains("compilation failed"), "{}", refused.body);
    let refused = server.create(&path, policy("'text'")).await;
    assert!(refused.refused(422).contains("must evaluate to bool"), "{}", refused.body);
    let refused = server.create(&path, policy("params.x")).await;
    assert!(refused.refused(422).contains("undeclared reference to 'params'"), "{}", refused.body);
    let made = server.create(&path, policy("object.spec.foo == 1")).await.ok();
    assert_eq!(made["status"]["observedGeneration"], 1);
    assert_eq!(made["status"]["typeChecking"]["expressionWarnings"][0]["fieldRef"], "spec.validations[0].expression");
    let made = server.patch(&format!("{path}/p"), policy("object.spec.replicas == 1")).await.ok();
    assert_eq!((&made["status"]["observedGeneration"], &made["status"]["typeChecking"]), (&json!(2), &json!({})));
    let status = json!({"status": {"conditions": [{"type": "T", "status": "True", "reason": "R", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let told = server.patch(&format!("{path}/p/status"), status).await.ok();
    assert_eq!(told["status"]["conditions"][0]["type"], "T");

    let bindings = format!("{GROUP}/validatingadmissionpolicybindings");
    for (spec, field) in [
        (json!({"validationActions": ["Deny"]}), "spec.policyName: Required value"),
        (json!({"policyName": "p"}), "spec.validationActions: Required value"),
        (json!({"policyName": "p", "validationActions": ["Deny", "Warn"]}), "must not contain both Deny and Warn"),
        (
            json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": {"parameterNotFoundAction": "Deny"}}),
            "one of name or selector must be specified",
        ),
    ] {
        let refused = server.create(&bindings, json!({"metadata": {"name": "b"}, "spec": spec})).await;
        assert!(refused.refused(422).contains(field), "{field}: {}", refused.body);
    }
}

#[tokio::test]
async fn parameters_come_by_name_or_selector_from_where_the_binding_says() {
    let server = Server::start().await;
    server.namespace("settings", json!({})).await;
    let limit =
        |name: &str, max: &str| json!({"metadata": {"name": name, "labels": {"is": "limit"}}, "data": {"max": max}});
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": constraints("apps", "deployments"),
        "validations": [{"expression": "object.spec.replicas <= int(params.data.max)",
            "messageExpression": "'more than ' + params.data.max", "reason": "Forbidden"}]});
    let by_name = json!({"paramRef": {"name": "limit", "namespace": "settings", "parameterNotFoundAction": "Deny"}});
    bind(&server, "validatingadmission", "limit", spec, by_name).await;
    let refused = server.create(DEPLOYMENTS, deployment("d", 3)).await;
    assert!(
        refused.refused(422).ends_with(
            "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
        ),
        "{}",
        refused.body
    );
    server.create("/api/v1/namespaces/settings/configmaps", limit("limit", "2")).await.ok();
    let refused = server.create(DEPLOYMENTS, deployment("d", 3)).await;
    assert!(refused.refused(403).ends_with("denied request: more than 2"), "{}", refused.body);
    server.create(DEPLOYMENTS, deployment("d", 2)).await.ok();

    let by_selector = json!({"spec": {"paramRef": {"name": null, "namespace": null,
        "selector": {"matchLabels": {"is": "limit"}}, "parameterNotFoundAction": "Allow"}}});
    server.patch(&format!("{GROUP}/validatingadmissionpolicybindings/limit-binding"), by_selector).await.ok();
    server.create(DEPLOYMENTS, deployment("e", 9)).await.ok();
    for (name, max) in [("a", "8"), ("b", "4")] {
        server.create(MAPS, limit(name, max)).await.ok();
    }
    let refused = server.create(DEPLOYMENTS, deployment("f", 5)).await;
    assert!(refused.refused(403).ends_with("more than 4"), "every parameter judges: {}", refused.body);
}

#[tokio::test]
async fn failures_are_warned_of_and_errors_follow_the_failure_policy() {
    let server = Server::start().await;
    let spec = |failure_policy: &str| {
        json!({"failurePolicy": failure_policy, "matchConstraints": constraints("", "configmaps"),
        "matchConditions": [{"name": "not-system", "expression": "!object.metadata.name.startsWith('kube-')"}],
        "validations": [{"expression": "object.data.number == '1'", "message": "wants one"}]})
    };
    bind(&server, "validatingadmission", "warn", spec("Fail"), json!({"validationActions": ["Warn", "Audit"]})).await;
    let warned = server.create(MAPS, map("a", json!({"number": "2"}))).await;
    assert_eq!(warned.code, 201);
    assert_eq!(
        warned.warnings,
        ["299 - \"Validation failed for ValidatingAdmissionPolicy 'warn' with binding 'warn-binding': wants one\""]
    );
    let refused = server.create(MAPS, map("b", json!({}))).await;
    assert!(
        refused.refused(422).ends_with("expression 'object.data.number == '1'' resulted in error: no such key: number"),
        "{}",
        refused.body
    );
    server.create(MAPS, map("kube-b", json!({}))).await.ok();
    let path = format!("{GROUP}/validatingadmissionpolicies/warn");
    server.patch(&path, json!({"spec": {"failurePolicy": "Ignore"}})).await.ok();
    server.create(MAPS, map("b", json!({}))).await.ok();
}

#[tokio::test]
async fn expressions_see_who_asks_where_and_what_they_may() {
    let server = Server::start().await;
    server.namespace("prod", json!({"env": "prod"})).await;
    let spec = json!({"matchConstraints": constraints("", "configmaps"), "validations": [
        {"expression": "namespaceObject.metadata.labels.env == 'prod' || request.userInfo.username != 'jane'", "message": "where"},
        {"expression": "authorizer.group('').resource('secrets').namespace('prod').check('delete').allowed()", "message": "may"},
        {"expression": "request.operation == 'CREATE' && oldObject == null && request.resource.resource == 'configmaps'", "message": "what"}]});
    let only_prod = json!({"matchResources": {"namespaceSelector": {"matchLabels": {"env": "prod"}}}});
    bind(&server, "validatingadmission", "who", spec, only_prod).await;
    let rules = json!([{"verbs": ["*"], "apiGroups": [""], "resources": ["configmaps"]}]);
    server
        .create(
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            json!({"metadata": {"name": "maps"}, "rules": rules}),
        )
        .await
        .ok();
    let binding = json!({"metadata": {"name": "maps"}, "roleRef": {"kind": "ClusterRole", "name": "maps"},
        "subjects": [{"kind": "User", "name": "jane"}]});
    server.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.ok();
    let prod = "/api/v1/namespaces/prod/configmaps";
    let as_jane = |path: &'static str| {
        let body = Body::from(map("m", json!({})).to_string());
        server.raw(User::new("jane", &[]), Method::POST, path, "application/json", body)
    };
    assert!(as_jane(prod).await.refused(422).ends_with("denied request: may"));
    assert_eq!(as_jane(MAPS).await.code, 201, "the binding is for other namespaces");
    server.create(prod, map("m", json!({}))).await.ok();
    assert!(server.patch(&format!("{prod}/m"), json!({"data": {"a": "b"}})).await.refused(422).ends_with("what"));
}

#[tokio::test]
async fn c064_c065_policies_change_deployments() {
    let server = Server::start().await;
    let spec = json!({"matchConstraints": constraints("apps", "deployments"), "reinvocationPolicy": "Never",
        "mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{metadata: Object.metadata{annotations: {'my-annotation': 'set'}}, spec: Object.spec{replicas: object.spec.replicas + 100}}"}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression":
                "[JSONPatch{op: 'add', path: '/spec/template/spec/initContainers', value: [{'name': 'i', 'image': 'x'}]}]"}}]});
    bind(&server, "mutatingadmission", "more", spec, json!({})).await;
    let made = server.create(DEPLOYMENTS, deployment("d", 1)).await.ok();
    assert_eq!(made["spec"]["replicas"], 101);
    assert_eq!(made["metadata"]["annotations"]["my-annotation"], "set");
    assert_eq!(made["spec"]["template"]["spec"]["initContainers"][0]["terminationMessagePolicy"], "File", "defaulted");
    assert_eq!(made["metadata"]["generation"], 1);
    server.delete(&format!("{GROUP}/mutatingadmissionpolicybindings/more-binding")).await.ok();
    assert_eq!(server.create(DEPLOYMENTS, deployment("e", 1)).await.ok()["spec"]["replicas"], 1);
}

#[tokio::test]
async fn c066_c067_mutating_policies_are_checked_and_errors_refuse() {
    let server = Server::start().await;
    let path = format!("{GROUP}/mutatingadmissionpolicies");
    let policy = |mutation: Value| {
        json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": constraints("", "configmaps"),
        "reinvocationPolicy": "IfNeeded", "mutations": [mutation]}})
    };
    for (mutation, problem) in [
        (json!({"patchType": "ApplyConfiguration"}), "spec.mutations[0].applyConfiguration: Required value"),
        (json!({"patchType": "Merge"}), "spec.mutations[0].patchType: Unsupported value"),
        (
            json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "1"}}),
            "must evaluate to Object",
        ),
        (
            json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "Object{}"}}),
            "must evaluate to list(JSONPatch)",
        ),
    ] {
        let refused = server.create(&path, policy(mutation)).await;
        assert!(refused.refused(422).contains(problem), "{problem}: {}", refused.body);
    }
    let broken = json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{data: object.missing}"}});
    server.create(&path, policy(broken)).await.ok();
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p"}});
    server.create(&format!("{GROUP}/mutatingadmissionpolicybindings"), binding).await.ok();
    let refused = server.create(MAPS, map("m", json!({}))).await;
    assert!(
        refused.refused(403).contains("policy 'p' with binding 'b' denied request: expression"),
        "{}",
        refused.body
    );
}

#[tokio::test]
async fn policies_see_again_what_webhooks_changed() {
    let server = Server::start().await;
    let spec = json!({"matchConstraints": constraints("", "configmaps"), "reinvocationPolicy": "IfNeeded",
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
            "Object{data: {'size': string(size(object.data.filter(k, k != 'size')))}}"}}]});
    bind(&server, "mutatingadmission", "size", spec, json!({})).await;
    let hook = Hook::start(|_, request| match request["object"]["data"].get("hook") {
        None => patch(json!([{"op": "add", "path": "/data/hook", "value": "1"}])),
        Some(_) => allow(),
    })
    .await;
    let entry = hook.entry("h", "/", json!(["CREATE"]), json!(["configmaps"]));
    let configuration = json!({"metadata": {"name": "h"}, "webhooks": [entry]});
    server.create(&format!("{GROUP}/mutatingwebhookconfigurations"), configuration).await.ok();
    let made = server.create(MAPS, map("m", json!({"k": "v"}))).await.ok();
    assert_eq!(made["data"], json!({"k": "v", "hook": "1", "size": "2"}));
    assert_eq!(hook.asked()[0].1["object"]["data"]["size"], "1", "policies come before webhooks");
}

#[tokio::test]
async fn c007_c019_c022_conditions_choose_the_requests_of_a_webhook() {
    let server = Server::start().await;
    let hook = Hook::start(|_, _| patch(json!([{"op": "add", "path": "/data/mutated", "value": "1"}]))).await;
    let path = format!("{GROUP}/mutatingwebhookconfigurations");
    let configuration = |expression: &str| {
        let mut entry = hook.entry("h", "/", json!(["CREATE"]), json!(["configmaps"]));
        entry["matchConditions"] = json!([{"name": "skip-me", "expression": expression}]);
        json!({"metadata": {"name": "h"}, "webhooks": [entry]})
    };
    for (expression, problem) in [
        ("... [] bad expression", "compilation failed"),
        ("object.metadata.name", "ok"),
        ("'text'", "must evaluate to bool"),
        ("variables.x == 1", "undeclared reference to 'variables'"),
    ] {
        let answer = server.create(&format!("{path}?dryRun=All"), configuration(expression)).await;
        match problem {
            "ok" => assert_eq!(answer.code, 201, "{}", answer.body),
            problem => assert!(answer.refused(422).contains(problem), "{}", answer.body),
        }
    }
    let made = server.create(&path, configuration("object.metadata.name != 'skip-me'")).await.ok();
    assert_eq!(made["webhooks"][0]["matchConditions"][0]["name"], "skip-me");
    assert_eq!(server.create(MAPS, map("skip-me", json!({}))).await.ok()["data"], json!({}));
    assert_eq!(server.create(MAPS, map("other", json!({}))).await.ok()["data"], json!({"mutated": "1"}));
    // One that cannot be evaluated refuses, or is not asked where its failures are ignored.
    server.patch(&format!("{path}/h"), configuration("object.data.missing == 'x'")).await.ok();
    let refused = server.create(MAPS, map("third", json!({}))).await;
    assert!(refused.refused(403).contains("no such key: missing"), "{}", refused.body);
    let mut ignoring = configuration("object.data.missing == 'x'");
    ignoring["webhooks"][0]["failurePolicy"] = "Ignore".into();
    server.patch(&format!("{path}/h"), ignoring).await.ok();
    assert_eq!(server.create(MAPS, map("third", json!({}))).await.ok()["data"], json!({}));
}

#[tokio::test]
async fn c008_c023_validating_configurations_have_conditions_too() {
    let server = Server::start().await;
    let hook = Hook::start(|_, _| allow()).await;
    let path = format!("{GROUP}/validatingwebhookconfigurations");
    let mut entry = hook.entry("h", "/", json!(["CREATE"]), json!(["configmaps"]));
    entry["matchConditions"] = json!([{"name": "c", "expression": "... [] bad"}]);
    let refused = server.create(&path, json!({"metadata": {"name": "h"}, "webhooks": [entry]})).await;
    assert!(refused.refused(422).contains("compilation failed"), "{}", refused.body);
    entry["matchConditions"][0]["expression"] = "request.name != 'x'".into();
    let made = server.create(&path, json!({"metadata": {"name": "h"}, "webhooks": [entry]})).await.ok();
    entry["matchConditions"][0]["expression"] = "request.name != 'y'".into();
    let mut changed = made.clone();
    changed["webhooks"] = json!([entry]);
    let changed = server.call(Method::PUT, &format!("{path}/h"), changed).await.ok();
    assert_eq!(changed["webhooks"][0]["matchConditions"][0]["expression"], "request.name != 'y'");
    server.create(MAPS, map("y", json!({}))).await.ok();
    assert!(hook.asked().is_empty());
}

#[tokio::test]
async fn the_audit_log_is_told_what_webhooks_and_policies_say() {
    let metadata = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n";
    let server = Server::with_audit_policy(Some(metadata)).await;
    let hook = Hook::start(|_, _| Some(json!({"allowed": true, "auditAnnotations": {"seen": "yes"}}))).await;
    let entry = hook.entry("h", "/", json!(["CREATE"]), json!(["configmaps"]));
    let configuration = json!({"metadata": {"name": "h"}, "webhooks": [entry]});
    server.create(&format!("{GROUP}/mutatingwebhookconfigurations"), configuration).await.ok();
    let spec = json!({"matchConstraints": constraints("", "configmaps"),
        "validations": [{"expression": "false", "message": "never"}],
        "auditAnnotations": [{"key": "name", "valueExpression": "object.metadata.name"}]});
    bind(&server, "validatingadmission", "audit", spec, json!({"validationActions": ["Audit"]})).await;
    server.create(MAPS, map("m", json!({}))).await.ok();
    let is_end = |event: &Value| event["stage"] == "ResponseComplete" && event["objectRef"]["resource"] == "configmaps";
    let annotations = &server.audited(is_end).await["annotations"];
    assert_eq!((&annotations["h.example.com/seen"], &annotations["audit/name"]), (&json!("yes"), &json!("m")));
    assert_eq!(annotations["authorization.k8s.io/decision"], "allow");
    assert_eq!(
        annotations["mutation.webhook.admission.k8s.io/round_0_index_0"],
        r#"{"configuration":"h","mutated":false,"webhook":"h.example.com"}"#
    );
    assert!(annotations["validation.policy.admission.k8s.io/validation_failure"].as_str().unwrap().contains("never"));

    // Who was authorized is so whatever admission says.
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"priorityClassName": "absent", "containers": [{"name": "c", "image": "i"}]}});
    server.create(pods, pod).await.refused(403);
    let nobody = User::new("nobody", &[]);
    server.raw(nobody, Method::GET, pods, "application/json", Body::empty()).await.refused(403);
    for (verb, decision) in [("create", "allow"), ("list", "forbid")] {
        let is_end = |event: &Value| event["stage"] == "ResponseComplete" && event["objectRef"]["resource"] == "pods";
        let event = server.audited(|event| is_end(event) && event["verb"] == verb).await;
        assert_eq!(event["annotations"]["authorization.k8s.io/decision"], decision, "{verb}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_for_the_audit_log_reaches_its_client() {
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: RequestResponse\n";
    let server = Server::with_audit_policy(Some(policy)).await;
    for name in ["a", "b", "c", "d"] {
        server.create(MAPS, map(name, json!({"k": "x".repeat(900 << 10)}))).await.ok();
    }
    assert_eq!(server.get(MAPS).await.ok()["items"].as_array().unwrap().len(), 4);
    let event = server.audited(|event| event["stage"] == "ResponseComplete" && event["verb"] == "list").await;
    assert_eq!((&event["responseStatus"]["code"], &event["responseObject"]), (&json!(200), &Value::Null));
}

#[tokio::test]
async fn expressions_that_blow_up_end_soon() {
    let server = Server::start().await;
    let all = "object.data.all(a, object.data.all(b, object.data.all(c, object.data.all(d, a + b + c + d != ''))))";
    let spec = json!({"matchConstraints": constraints("", "configmaps"), "validations": [{"expression": all}]});
    bind(&server, "validatingadmission", "slow", spec, json!({})).await;
    let many: serde_json::Map<String, Value> = (0..1000).map(|n| (format!("k{n}"), json!("v"))).collect();
    let started = std::time::Instant::now();
    let refused = server.create(MAPS, map("m", many.into())).await;
    assert!(refused.refused(422).contains("cost limit exceeded") || refused.message().contains("took too long"));
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
}

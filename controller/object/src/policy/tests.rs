use super::*;
use crate::resource::Table;
use controller_cel::Budget;
use controller_cel::authorizer::{Check, Decision};
use serde_json::json;

fn decide(_: &str, check: &Check) -> Decision {
    Decision { allowed: check.name == "mine", reason: String::new() }
}

fn outcome(policy: &Value, object: Value, params: Option<Value>) -> Outcome {
    let budget = Budget::default();
    let request = json!({"operation": "CREATE", "userInfo": {"username": "jane"}});
    let check = Check { name: "mine".into(), ..Check::default() };
    let scope = Scope::new(Some(&object), None, &request, check, &decide, &budget)
        .in_namespace(Some(&json!({"metadata": {"labels": {"env": "prod"}}})));
    Validating::read(policy).evaluate(&scope, params.as_ref())
}

fn policy(spec: Value) -> Value {
    json!({"spec": spec})
}

#[test]
fn failures_tell_the_message_that_was_made_then_the_fixed_one_then_the_expression() {
    let policy = policy(json!({"variables": [{"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "twice", "expression": "variables.replicas * 2"}],
        "validations": [
            {"expression": "variables.twice < 4", "messageExpression": "'twice is ' + string(variables.twice)"},
            {"expression": "variables.replicas < 2", "message": "fixed", "messageExpression": "object.nothing", "reason": "Forbidden"},
            {"expression": " object.spec.replicas < 2 "},
            {"expression": "namespaceObject.metadata.labels.env == 'prod' && request.userInfo.username == 'jane'"},
            {"expression": "authorizer.requestResource.check('update').allowed() && oldObject == null"}],
        "auditAnnotations": [{"key": "count", "valueExpression": "string(variables.replicas)"}]}));
    let found = outcome(&policy, json!({"spec": {"replicas": 3}}), None);
    let told: Vec<&str> = found.failures.iter().map(|failure| failure.message.as_str()).collect();
    assert_eq!(told, ["twice is 6", "fixed", "failed expression: object.spec.replicas < 2"]);
    assert_eq!(found.failures[1].reason, "Forbidden");
    assert_eq!((found.errors.len(), found.annotations), (0, vec![("count".into(), "3".into())]));
}

#[test]
fn conditions_skip_and_errors_are_told() {
    let with = |condition: &str| {
        policy(json!({"matchConditions": [{"name": "c", "expression": condition}],
        "validations": [{"expression": "false"}]}))
    };
    assert_eq!(outcome(&with("object.a == 2"), json!({"a": 1}), None), Outcome::default());
    assert_eq!(outcome(&with("object.a == 1"), json!({"a": 1}), None).failures.len(), 1);
    let broken = outcome(&with("object.b == 1"), json!({"a": 1}), None);
    assert_eq!(broken.errors, ["expression 'object.b == 1' resulted in error: no such key: b"]);
    let stored = policy(json!({"validations": [{"expression": "nothing.x"}]}));
    assert!(outcome(&stored, json!({}), None).errors[0].contains("undeclared reference"));
}

#[test]
fn parameters_are_there_only_with_a_kind() {
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "params != null && object.a < int(params.data.max)"}]});
    assert!(outcome(&policy(spec.clone()), json!({"a": 1}), Some(json!({"data": {"max": "2"}}))).failures.is_empty());
    assert_eq!(outcome(&policy(spec), json!({"a": 1}), None).failures.len(), 1);
    assert!(compiled("params.x", Purpose::Validation, false).is_err());
}

fn changed(spec: Value, object: Value) -> Result<Value, String> {
    let resource = Table::builtin().find("apps", "v1", "deployments").unwrap();
    let budget = Budget::default();
    let policy = Mutating::read(&policy(spec));
    let mut object = object;
    for index in 0..policy.len() {
        let scope = Scope::new(Some(&object), None, &json!({}), Check::default(), &decide, &budget);
        assert!(policy.is_meant(&scope, None)?);
        let change = policy.change(index, &scope, None)?.unwrap();
        object = applied(resource, &object, &change)?;
    }
    Ok(object)
}

#[test]
fn mutations_apply_and_patch_one_after_another() {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let spec = json!({"mutations": [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
            "Object{metadata: Object.metadata{annotations: {'a': 'b'}}, spec: Object.spec{replicas: object.spec.replicas + 1,
             template: Object.spec.template{spec: Object.spec.template.spec{containers:
             [Object.spec.template.spec.containers{name: 'c', imagePullPolicy: 'Always'}, Object.spec.template.spec.containers{name: 's', image: 'j'}]}}}}"}},
        {"patchType": "JSONPatch", "jsonPatch": {"expression":
            "[JSONPatch{op: 'replace', path: '/spec/replicas', value: object.spec.replicas * 5},
              JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('x/y'), value: 'z'}]"}}]});
    let made = changed(spec, deployment.clone()).unwrap();
    assert_eq!(
        (&made["spec"]["replicas"], &made["metadata"]["annotations"]),
        (&json!(10), &json!({"a": "b", "x/y": "z"}))
    );
    let containers = &made["spec"]["template"]["spec"]["containers"];
    assert_eq!(
        *containers,
        json!([{"name": "c", "image": "i", "imagePullPolicy": "Always"}, {"name": "s", "image": "j"}])
    );
    for (expression, problem) in [
        ("Object{spec: Object.spec{nothing: 1}}", "unknown field \"spec.nothing\""),
        (
            "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{nodeSelector: {'a': 'b'}}}}}",
            "may not mutate atomic arrays, maps or structs: .spec.template.spec.nodeSelector",
        ),
        ("Object{spec: object.spec.missing}", "no such key: missing"),
    ] {
        let spec = json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]});
        let error = changed(spec, deployment.clone()).unwrap_err();
        assert!(error.contains(problem), "{expression}: {error}");
    }
}

#[test]
fn fields_that_kinds_do_not_have_are_told() {
    let policy = policy(json!({"matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
        "resources": ["deployments", "*"]}]}, "validations": [{"expression": "object.spec.replicas > 1"},
        {"expression": "object.spec.foo > 1 || object.metadata.labels.anything == 'x'"}]}));
    let found = warnings(Table::builtin(), &policy);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["fieldRef"], "spec.validations[1].expression");
    let warning = found[0]["warning"].as_str().unwrap();
    assert!(warning.starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'foo'"), "{warning}");
}

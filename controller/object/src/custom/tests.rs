use super::*;
use crate::resource::{Resource, Table};
use crate::validation::{validate_create, validate_update};
use crate::{decode, defaulting};
use serde_json::{Value, json};

fn definition(schema: Value) -> Value {
    json!({"metadata": {"name": "foos.example.com", "uid": "u", "generation": 1},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

fn resource(schema: Value) -> Resource {
    let definition = definition(schema);
    assert_eq!(validate_definition(&definition), []);
    resources(&definition, &definition["spec"]["names"]).pop().unwrap()
}

fn messages(causes: Vec<crate::status::Cause>) -> Vec<String> {
    causes.iter().map(crate::status::Cause::describe).collect()
}

fn faults(schema: Value) -> Vec<String> {
    messages(validate_definition(&definition(schema)))
}

fn spec(schema: Value) -> Value {
    json!({"type": "object", "properties": {"spec": schema}})
}

fn with_spec(spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": "a", "namespace": "n"}, "spec": spec})
}

#[test]
fn versions_come_in_the_order_of_preference() {
    let mut versions =
        vec!["foo1", "v1", "v10", "v2", "v3beta1", "v11beta2", "v11alpha2", "foo10", "v12alpha1", "v3beta2"];
    versions.sort_by_cached_key(|version| version_order(version));
    let want = ["v10", "v2", "v1", "v11beta2", "v3beta2", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"];
    assert_eq!(versions, want, "the example of Kubernetes' documentation");
}

#[test]
fn nulls_and_defaults() {
    let foo = resource(spec(json!({"type": "object", "default": {}, "properties": {
        "a": {"type": "string", "default": "A"}, "n": {"type": "string", "nullable": true, "default": "N"},
        "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer", "default": 1}}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"y": {"type": "boolean", "default": true}}}}}})));
    let mut object = json!({"metadata": {"name": "a"}});
    defaulting::default(&foo, &mut object);
    assert_eq!(object["spec"], json!({"a": "A", "n": "N"}), "a default is defaulted itself");
    let mut object = with_spec(json!({"a": null, "n": null, "list": [{}, {"x": 2}], "map": {"k": {}}}));
    defaulting::default(&foo, &mut object);
    assert_eq!(object["spec"], json!({"a": "A", "n": null, "list": [{"x": 1}, {"x": 2}], "map": {"k": {"y": true}}}));
    let once = object.clone();
    defaulting::default(&foo, &mut object);
    assert_eq!(object, once);
}

#[test]
fn nulls_of_fields_that_allow_none_are_dropped_without_a_word() {
    let foo = resource(spec(json!({"type": "object", "properties": {
        "a": {"type": "string"}, "d": {"type": "string", "default": "D"}, "n": {"type": "string", "nullable": true},
        "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "object"}}}},
        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})));
    let own = foo.custom.as_ref().unwrap();
    let mut object =
        with_spec(json!({"a": null, "d": null, "n": null, "list": [{"x": null}, null], "any": {"free": null}}));
    assert_eq!(conform(&own.node, &mut object), Ok(Vec::new()));
    assert_eq!(object["spec"], json!({"d": null, "n": null, "list": [{}, null], "any": {"free": null}}));
}

#[test]
fn defaults_never_make_an_object_endless() {
    let big = "x".repeat(100_000);
    let foo = resource(spec(
        json!({"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string", "default": big}}}}),
    ));
    let mut object = with_spec(Value::Array(vec![json!({}); 100_000]));
    defaulting::default(&foo, &mut object);
    assert!(object.to_string().len() < 8 << 20);
    let told = messages(validate_create(&foo, &object));
    assert_eq!(told, ["Too long: may not be more than 3145728 bytes"]);
}

#[test]
fn hostile_schemas_are_refused_or_bounded() {
    let pattern = |source: &str| faults(spec(json!({"type": "string", "pattern": source})));
    assert!(pattern("((a{100}){100}){100}")[0].contains("must be a valid regular expression, but isn't"));
    assert!(pattern(&"(".repeat(1_000))[0].contains("must be a valid regular expression, but isn't"));
    assert_eq!(pattern("(a+)+$"), [""; 0]);
    let redos = resource(spec(json!({"type": "string", "pattern": "^(a+)+$"})));
    assert_eq!(validate_create(&redos, &with_spec(json!(format!("{}b", "a".repeat(100_000))))).len(), 1);
    let many: Value = (0..3_000)
        .map(|n| (format!("f{n}"), json!({"type": "string", "pattern": "a"})))
        .collect::<serde_json::Map<_, _>>()
        .into();
    assert!(
        faults(spec(json!({"type": "object", "properties": many})))[0].contains("may not have more than 2000 patterns")
    );
    let allowed: Vec<String> = (0..100_000).map(|n| n.to_string()).collect();
    let foo = resource(spec(json!({"type": "array", "items": {"type": "string", "enum": allowed}})));
    let told = messages(validate_create(&foo, &with_spec(json!(vec!["x"; 1_000]))));
    assert!(told.len() == 100 && told.iter().all(|message| message.len() < 1_000), "{}", told[0]);
    let choices: Vec<String> = (0..100_000).map(|n| n.to_string()).collect();
    let foo = resource(spec(json!({"type": "array", "items": {"type": "string", "anyOf": [{"enum": choices}]}})));
    let told = messages(validate_create(&foo, &with_spec(json!(vec!["99999"; 1_000]))));
    assert!(told.iter().any(|message| message.contains("too large for a schema as complex as this one")), "{told:?}");
    let any = |depth: usize| (0..depth).fold(json!({"minLength": 1}), |inner, _| json!({"not": {"not": inner}}));
    let mut deep = any(40);
    deep["type"] = "string".into();
    let foo = resource(spec(deep));
    assert_eq!(validate_create(&foo, &with_spec(json!(""))).len(), 1);
}

#[test]
fn an_integer_or_string_is_either_whatever_type_is_told_beside_it() {
    let foo = resource(spec(json!({"type": "object", "properties": {
        "size": {"type": "string", "x-kubernetes-int-or-string": true, "pattern": "^[0-9]+Gi$"}}})));
    for good in [json!(3), json!("3Gi")] {
        assert_eq!(messages(validate_create(&foo, &with_spec(json!({"size": good})))), [""; 0]);
    }
    for bad in [json!("x"), json!(true)] {
        assert_eq!(validate_create(&foo, &with_spec(json!({"size": bad}))).len(), 1);
    }
}

#[test]
fn structural_rules() {
    for (schema, want) in [
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}}, "additionalProperties": {"type": "string"}}}}),
            "additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ),
        (
            json!({"type": "object", "x-kubernetes-embedded-resource": true}),
            "properties: Required value: must not be empty if x-kubernetes-embedded-resource is true",
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}}),
            "items.x-kubernetes-map-type: Invalid value: null: must be atomic",
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}}}}),
            "properties[k].default: Required value: this property is in x-kubernetes-list-map-keys",
        ),
        (
            json!({"type": "object", "default": {"a": 1}, "properties": {"a": {"type": "string"}}}),
            "properties[spec].default.a: Invalid value: \"integer\"",
        ),
        (
            json!({"type": "object", "default": {"zzz": 1}, "properties": {"a": {"type": "string"}}}),
            "properties[spec].default: Invalid value: {\"zzz\":1}: must not have unknown fields",
        ),
        (
            json!({"type": "string", "default": null}),
            "default: Invalid value: null: must not be null if nullable is false",
        ),
        (json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}}), "uniqueItems: Forbidden"),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "1"}]}),
            "x-kubernetes-validations[0].rule: Invalid value: \"1\": cel expression must evaluate to a bool",
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "true", "fieldPath": ".zzz"}]}),
            "fieldPath: Invalid value: \".zzz\"",
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "true", "reason": "Because"}]}),
            "reason: Unsupported value: \"Because\"",
        ),
        (
            json!({"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}),
            "oldSelf cannot be used on the uncorrelatable portion",
        ),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": "true", "optionalOldSelf": true}]}),
            "may not be set if oldSelf is not used in rule",
        ),
    ] {
        let told = faults(spec(schema.clone()));
        assert!(told.iter().any(|message| message.contains(want)), "{schema}\n{want}\n{told:?}");
    }
    let root = json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}});
    assert!(faults(root)[0].contains("must not specify anything other than name and generateName"));
    let named = resource(
        json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 2}}}}}),
    );
    let mut object = with_spec(json!({}));
    object["metadata"]["name"] = "long".into();
    assert_eq!(messages(validate_create(&named, &object)), ["metadata.name: Too long: may not be more than 2 bytes"]);
}

#[test]
fn rules_see_typed_values() {
    let rules = |rules: &[&str]| rules.iter().map(|rule| json!({"rule": rule})).collect::<Value>();
    let foo = resource(json!({"type": "object",
        "x-kubernetes-validations": rules(&["self.metadata.name.startsWith('a')", "self.kind == 'Foo'"]),
        "properties": {"spec": {"type": "object",
            "x-kubernetes-validations": rules(&["self.end > self.start", "self.wait < duration('1h')", "self.ratio == 2.0", "size(self.data) == 3",
                "self.__namespace__ == 'n' && self.with__dash__dash == 'd'", "self.port == 80 || self.port == 'http'", "self.map['a.b'] == 1",
                "!has(self.unset)", "has(self.maybe) && self.maybe == null"]),
            "properties": {"start": {"type": "string", "format": "date-time"}, "end": {"type": "string", "format": "date-time"},
                "wait": {"type": "string", "format": "duration"}, "ratio": {"type": "number"}, "data": {"type": "string", "format": "byte"},
                "namespace": {"type": "string"}, "with-dash": {"type": "string"}, "port": {"x-kubernetes-int-or-string": true},
                "map": {"type": "object", "additionalProperties": {"type": "integer"}}, "unset": {"type": "string"},
                "maybe": {"type": "string", "nullable": true}}}}}));
    let object = with_spec(
        json!({"start": "2024-01-01T10:00:00Z", "end": "2024-01-01T10:00:00.5Z", "wait": "30m", "ratio": 2, "data": "YWJj",
        "namespace": "n", "with-dash": "d", "port": 80, "map": {"a.b": 1}, "maybe": null}),
    );
    assert_eq!(messages(validate_create(&foo, &object)), [""; 0]);
    let mut later = object.clone();
    later["spec"]["wait"] = "2h".into();
    assert_eq!(
        messages(validate_create(&foo, &later)),
        ["spec: Invalid value: \"object\": failed rule: self.wait < duration('1h')"]
    );
}

#[test]
fn what_is_unchanged_is_not_held_against_an_update() {
    let foo = resource(spec(json!({"type": "object", "properties": {
        "a": {"type": "string", "maxLength": 1, "x-kubernetes-validations": [{"rule": "self != 'bad'"}]},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "required": ["k"],
            "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 1, "x-kubernetes-validations": [{"rule": "self >= oldSelf", "message": "shrank"}]}}}},
        "b": {"type": "string"}}})));
    let old = with_spec(json!({"a": "bad", "list": [{"k": "x", "v": 5}, {"k": "y", "v": 1}], "b": "1"}));
    let update = |spec: Value| messages(validate_update(&foo, &old, &with_spec(spec), None));
    assert_eq!(update(json!({"a": "bad", "list": [{"k": "x", "v": 5}, {"k": "y", "v": 1}], "b": "2"})), [""; 0]);
    assert_eq!(
        update(json!({"a": "bad", "list": [{"k": "new"}, {"k": "x", "v": 5}]})),
        [""; 0],
        "elements are found by their keys"
    );
    assert_eq!(
        update(json!({"a": "bad", "list": [{"k": "y", "v": 0}]})),
        ["spec.list[0].v: Invalid value: \"integer\": shrank"]
    );
    assert_eq!(update(json!({"a": "worse"}))[0], "spec.a: Too long: may not be more than 1 bytes");
    assert_eq!(
        update(json!({"list": [{"k": "x", "v": 6}]}))[0],
        "spec.list[0].v: Invalid value: 6: spec.list[0].v in body should be less than or equal to 1"
    );
}

#[test]
fn faults_of_types_keep_rules_waiting_and_counts_are_checked() {
    let foo = resource(spec(
        json!({"type": "object", "required": ["a"], "x-kubernetes-validations": [{"rule": "self.b > 1"}],
        "properties": {"a": {"type": "string"}, "b": {"type": "integer", "minimum": 1}}}),
    ));
    let told = |spec: Value| messages(validate_create(&foo, &with_spec(spec)));
    let waiting = "<nil>: Invalid value: \"null\": some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
    assert_eq!(
        told(json!({"b": 0})),
        [
            "spec.a: Required value",
            "spec.b: Invalid value: 0: spec.b in body should be greater than or equal to 1",
            waiting
        ]
    );
    assert_eq!(told(json!({"a": "x", "b": 0})).len(), 2, "a bound does not keep rules waiting");
    let mut definition = definition(spec(json!({"type": "object", "properties": {"n": {"type": "integer"}}})));
    definition["spec"]["versions"][0]["subresources"] =
        json!({"scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}});
    let scaled = resources(&definition, &definition["spec"]["names"]).pop().unwrap();
    let told = messages(validate_create(&scaled, &with_spec(json!({"n": -1}))));
    assert_eq!(told, [".spec.n: Invalid value: -1: should be a non-negative integer"]);
    let warned = finalizer_warnings(None, &json!({"metadata": {"finalizers": ["bare", "a.b/c", "orphan"]}}));
    assert!(
        warned.len() == 1 && warned[0].starts_with("metadata.finalizers: \"bare\": prefer a domain-qualified"),
        "{warned:?}"
    );
}

#[test]
fn columns_follow_simple_paths() {
    let cell = |path: &str, kind: &str, object: &Value| {
        let mut definition = definition(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
        definition["spec"]["versions"][0]["additionalPrinterColumns"] =
            json!([{"name": "X", "type": kind, "jsonPath": path}]);
        assert_eq!(validate_definition(&definition), [], "{path}");
        let resource = resources(&definition, &definition["spec"]["names"]).pop().unwrap();
        cells(resource.custom.as_ref().unwrap(), object, 1_000_000_000)[0].clone()
    };
    let object = json!({"a": {"b.c": 5, "d": [1, 2], "on": true}, "when": "2001-09-09T01:46:30Z",
        "conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]});
    for (path, kind, want) in [
        (".a['b.c']", "integer", json!(5)),
        (".a.b\\.c", "integer", json!(5)),
        (".a.d", "string", json!("[1,2]")),
        (".a.d[1]", "integer", json!(2)),
        (".a.d[-1]", "integer", json!(2)),
        (".a.d[*]", "integer", json!(1)),
        (".a.on", "boolean", json!(true)),
        (".conditions[?(@.type==\"Ready\")].status", "string", json!("True")),
        (".when", "date", json!("10s")),
        (".missing.x", "string", Value::Null),
        (".a.on", "integer", Value::Null),
    ] {
        assert_eq!(cell(path, kind, &object), want, "{path}");
    }
    for bad in ["", "a", ".a[", ".a[?(x)]", "..", ".a..b"] {
        assert!(column::steps(bad).is_none(), "{bad}");
    }
}

#[test]
fn a_thousand_definitions_make_a_table() {
    let mut table = Table::builtin().clone();
    let before = table.all().count();
    for n in 0..1_000 {
        let mut one = definition(spec(json!({"type": "object", "properties": {"a": {"type": "string"}}})));
        one["spec"]["group"] = format!("g{}.example.com", n % 10).into();
        one["spec"]["names"]["plural"] = format!("foo{n}s").into();
        one["spec"]["names"]["kind"] = format!("Foo{n}").into();
        let made: Vec<_> = resources(&one, &one["spec"]["names"]).into_iter().map(std::sync::Arc::new).collect();
        table.insert_custom(made.iter());
        table.insert_custom(made.iter());
    }
    assert_eq!(table.all().count(), before + 1_000, "what is there is not taken");
    let foo = table.find("g7.example.com", "v1", "foo7s").unwrap();
    let body = br#"{"apiVersion": "g7.example.com/v1", "kind": "Foo7", "spec": {"a": "x", "b": 1}}"#;
    let decoded =
        decode::decode(&table, foo, crate::media::MediaType::Json, body, decode::FieldValidation::Warn).unwrap();
    assert_eq!(decoded.warnings, ["unknown field \"spec.b\""]);
    let index = crate::openapi::index(&table);
    assert!(index["paths"]["apis/g7.example.com/v1"].is_object());
}

#[test]
fn names_are_granted_once() {
    let judged = |definition: &Value, others: &[Value]| judge(definition, &Claims::of(others.iter()), "now");
    let first = definition(json!({"type": "object"}));
    let verdict = judged(&first, &[]);
    assert!(verdict.is_established);
    assert_eq!(verdict.status["storedVersions"], json!(["v1"]));
    let mut held = first.clone();
    held["status"] = verdict.status.clone();
    assert_eq!(judged(&held, &[]).status, verdict.status, "a verdict stands");
    let mut second = first.clone();
    second["spec"]["names"] =
        json!({"plural": "bars", "singular": "bar", "kind": "Bar", "listKind": "BarList", "shortNames": ["foo", "b"]});
    let refused = judged(&second, std::slice::from_ref(&held));
    assert!(!refused.is_established);
    let accepted = &refused.status["conditions"][0];
    assert_eq!(
        (&accepted["reason"], &accepted["message"]),
        (&json!("ShortNamesConflict"), &json!("\"foo\" is already in use"))
    );
    let mut protected = first;
    protected["spec"]["group"] = "x.k8s.io".into();
    let conditions = judged(&protected, &[]).status["conditions"].clone();
    assert!(conditions.as_array().unwrap().iter().any(|c| c["reason"] == "MissingAnnotation"), "{conditions}");
}

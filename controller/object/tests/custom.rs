//! What holds for every expression, every schema and every object: nothing panics, nothing runs away, and doing it twice
//! changes nothing.
use controller_cel::{Activation, Budget, Environment, compile};
use controller_object::custom::{resources, validate_definition};
use controller_object::decode::{self, FieldValidation};
use controller_object::media::MediaType;
use controller_object::resource::Table;
use controller_object::{apply, columns, defaulting, openapi, validation};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Words of the language, so that random texts are often expressions.
const WORDS: [&str; 66] = [
    "self",
    "oldSelf",
    "x",
    "y",
    "true",
    "false",
    "null",
    "in",
    "1",
    "-",
    "0u",
    "1.5",
    "9223372036854775807",
    "'a'",
    "\"b\"",
    "r'\\d'",
    "b'c'",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ".",
    ",",
    ":",
    "?",
    ".?",
    "[?",
    "{?",
    "!",
    "&&",
    "||",
    "==",
    "!=",
    "<",
    ">=",
    "+",
    "*",
    "/",
    "%",
    ".all(x, ",
    ".exists(x, ",
    ".map(x, ",
    ".filter(x, ",
    ".exists_one(x, y, ",
    ".transformMap(x, y, ",
    "has(",
    "size(",
    "cel.bind(x, ",
    ".matches(",
    ".a",
    ".l",
    ".m",
    ".s",
    "optional.of(",
    ".optMap(x, ",
    ".orValue(",
    "lists.range(",
    ".format([",
    "quantity(",
    "timestamp(",
    ".split(",
    ".replace(",
    "Object{a: ",
    "type(",
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3i64..9).prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no infinities", |n| n.is_finite()).prop_map(Value::from),
        "[a-c%~ ]{0,4}".prop_map(Value::from),
        Just("2024-01-01T00:00:00Z".into()),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::vec(
                (
                    prop_oneof![
                        Just("a"),
                        Just("l"),
                        Just("m"),
                        Just("s"),
                        Just("spec"),
                        Just("metadata"),
                        Just("kind")
                    ],
                    inner
                ),
                0..5
            )
            .prop_map(|fields| Value::Object(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())),
        ]
    })
}

/// Schemas that are often structural.
fn schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "string", "pattern": "^[a-b]*$", "maxLength": 3})),
        Just(json!({"type": "string", "enum": ["a", "b"], "default": "a"})),
        Just(json!({"type": "integer", "minimum": -1, "maximum": 5})),
        Just(json!({"type": "number", "nullable": true})),
        Just(json!({"type": "boolean"})),
        Just(json!({"x-kubernetes-int-or-string": true})),
        Just(json!({"x-kubernetes-preserve-unknown-fields": true})),
        Just(
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "x-kubernetes-embedded-resource": true})
        ),
        Just(
            json!({"type": "string", "format": "date-time", "x-kubernetes-validations": [{"rule": "self < timestamp('2025-01-01T00:00:00Z')"}]})
        ),
        Just(json!({"type": "nonsense"})),
    ];
    leaf.prop_recursive(4, 30, 4, |inner| {
        let fields = prop::collection::vec((prop_oneof![Just("a"), Just("l"), Just("m"), Just("s")], inner.clone()), 0..4);
        let list_type = prop_oneof![Just(Value::Null), Just("atomic".into()), Just("set".into())];
        prop_oneof![
            fields.prop_map(|fields| {
                let properties: Map<String, Value> = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
                json!({"type": "object", "properties": properties, "x-kubernetes-validations": [{"rule": "!has(self.a) || self == oldSelf || true", "optionalOldSelf": true}]})
            }),
            inner.clone().prop_map(|value| json!({"type": "object", "additionalProperties": value})),
            inner.clone().prop_map(|value| json!({"type": "object", "default": {}, "properties": {"a": value}})),
            (inner.clone(), list_type).prop_map(|(items, list_type)| match list_type {
                Value::Null => json!({"type": "array", "items": items}),
                list_type => json!({"type": "array", "items": items, "x-kubernetes-list-type": list_type}),
            }),
            inner.prop_map(|value| json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"],
                "items": {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}, "l": value}}})),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn expressions_end(words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..30), object in value()) {
        let open = words.iter().map(|word| word.matches(['(', '{', '[']).count()).sum::<usize>();
        let source = format!("{}{}", words.concat(), ")".repeat(open.min(20)));
        for source in [words.join(" "), source] {
            if let Ok(program) = compile(&source, &Environment::new(&["self", "oldSelf", "x", "y"]).with_messages()) {
                let mut variables = Activation::default();
                for name in ["self", "oldSelf", "x", "y"] {
                    variables.set_json(name, &object);
                }
                let budget = Budget::new(200_000);
                drop(program.evaluate_json(&variables, &budget));
                prop_assert!(budget.remaining() <= 200_000);
            }
        }
    }

    #[test]
    fn any_text_is_an_expression_or_an_error(source in "\\PC{0,60}") {
        if let Err(error) = compile(&source, &Environment::new(&["self"])) {
            prop_assert!(error.to_string().starts_with("compilation failed: ERROR: <input>:"), "{error}");
        }
    }

    #[test]
    fn schemas_prune_default_and_validate_alike_the_second_time(spec in schema(), given in value(), other in value()) {
        let definition = json!({"metadata": {"name": "foos.example.com"},
            "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}]}});
        let faults = validate_definition(&definition);
        let made = resources(&definition, &definition["spec"]["names"]);
        if faults.is_empty() {
            prop_assert_eq!(made.len(), 1);
        }
        for resource in &made {
            let body = |spec: &Value| json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": "a", "namespace": "n"}, "spec": spec}).to_string();
            let read = |spec: &Value| {
                let text = body(spec);
                decode::decode(Table::builtin(), resource, MediaType::Json, text.as_bytes(), FieldValidation::Warn)
            };
            let (Ok(first), Ok(second)) = (read(&given), read(&other)) else { continue };
            let (mut object, mut next) = (first.object, second.object);
            defaulting::default(resource, &mut object);
            defaulting::default(resource, &mut next);
            let mut again = object.clone();
            prop_assert_eq!(decode::conform(resource, &mut again, FieldValidation::Strict).unwrap(), Vec::<String>::new());
            defaulting::default(resource, &mut again);
            prop_assert_eq!(&again, &object);
            let causes = validation::validate_create(resource, &object);
            if causes.is_empty() {
                // What is valid may stay as it is.
                prop_assert_eq!(validation::validate_update(resource, &object, &object, None), vec![]);
            }
            drop(validation::validate_update(resource, &object, &next, None));
            let manager = apply::Manager { name: "m".into(), operation: apply::Operation::Apply, subresource: None, now: "t".into() };
            let applied = apply::apply(resource, Some(&next), &object, &manager, true).unwrap();
            let twice = apply::apply(resource, Some(&applied), &object, &manager, false).unwrap();
            // Elements without an identity of their own are not told apart; such an object is not valid.
            if causes.is_empty() {
                prop_assert_eq!(applied, twice);
            }
            drop(columns::table(resource, vec![object.clone()], 0, columns::IncludeObject::Object));
        }
        let mut table = Table::builtin().clone();
        let shared: Vec<_> = made.into_iter().map(std::sync::Arc::new).collect();
        table.insert_custom(shared.iter());
        prop_assert_eq!(openapi::document(&table, "apis/example.com/v1").is_some(), !shared.is_empty());
    }
}

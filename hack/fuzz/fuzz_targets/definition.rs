//! A custom resource definition, and an object of it on the second line.
#![no_main]
use controller_object::custom::{resources, validate_definition};
use controller_object::decode::{FieldValidation, conform};
use controller_object::resource::Table;
use controller_object::{defaulting, validation};
use serde_json::json;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((schema, mut object)) = fuzz::two(bytes) else { return };
    let names = json!({"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"});
    let mut definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "foos.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names,
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    let kind =
        Table::builtin().find("apiextensions.k8s.io", "v1", "customresourcedefinitions").expect("a built-in kind");
    if conform(kind, &mut definition, FieldValidation::Ignore).is_err() || !validate_definition(&definition).is_empty()
    {
        return;
    }
    for resource in resources(&definition, &names) {
        if conform(&resource, &mut object, FieldValidation::Warn).is_ok() {
            defaulting::default(&resource, &mut object);
            let _ = validation::validate_create(&resource, &object);
        }
    }
});

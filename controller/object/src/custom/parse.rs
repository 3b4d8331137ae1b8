//! JSON of a schema to a [`Node`], with every rule of structural schemas checked on the way.
//! Rules and messages: k8s.io/apiextensions-apiserver, `pkg/apiserver/schema/validation.go` and
//! `pkg/apis/apiextensions/validation`.
use super::constraint::{Constraint, Faults, Pattern, child};
use super::node::{Additional, Kind, Node};
use super::rule::{self, Place, Rule};
use crate::schema::ListKind;
use crate::status::Cause;
use controller_cel::pattern;
use serde_json::Value;
use std::collections::BTreeSet;

/// Patterns of one schema: each is compiled, so many cost time.
const MAX_PATTERNS: usize = 2_000;
/// Types of one schema.
const MAX_NODES: usize = 50_000;

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Reads schemas.
pub(super) struct Parser<'a> {
    pub(super) faults: &'a mut Faults,
    patterns: usize,
    nodes: usize,
    checks_patterns: bool,
}

/// Reads the schema of a version. Faults are named below `path`.
pub(super) fn parse(path: &str, schema: &Value, faults: &mut Faults) -> Node {
    let mut parser = Parser { faults, patterns: 0, nodes: 0, checks_patterns: true };
    parser.node(path, schema, Level::Root, true)
}

/// Reads a schema that was checked when it was stored; patterns are compiled when they are needed.
pub(super) fn parse_stored(path: &str, schema: &Value, faults: &mut Faults) -> Node {
    let mut parser = Parser { faults, patterns: 0, nodes: 0, checks_patterns: false };
    parser.node(path, schema, Level::Root, true)
}

fn key(path: &str, name: &str) -> String {
    format!("{path}[{name}]")
}

fn flag(schema: &Value, name: &str) -> bool {
    schema[name] == true
}

impl Parser<'_> {
    fn forbidden(&mut self, path: String, detail: &str) {
        self.faults.add(Cause::forbidden(path, detail));
    }

    fn invalid(&mut self, path: String, value: &Value, detail: &str) {
        self.faults.add(Cause::invalid(path, value, detail));
    }

    fn required(&mut self, path: String, detail: &str) {
        self.faults.add(Cause::required(path, detail));
    }

    fn node(&mut self, path: &str, schema: &Value, level: Level, is_correlatable: bool) -> Node {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            self.forbidden(path.to_owned(), &format!("a schema may not have more than {MAX_NODES} types"));
            return Node::default();
        }
        let mut node = Node {
            kind: self.kind(path, schema, level),
            nullable: flag(schema, "nullable"),
            preserve: flag(schema, "x-kubernetes-preserve-unknown-fields"),
            embedded: flag(schema, "x-kubernetes-embedded-resource"),
            default: schema.get("default").cloned(),
            map_atomic: schema.get("x-kubernetes-map-type").map(|kind| kind == "atomic"),
            ..Node::default()
        };
        self.unsupported(path, schema);
        self.properties(path, schema, level, is_correlatable, &mut node);
        self.items(path, schema, is_correlatable, &mut node);
        self.extensions(path, schema, &node);
        node.list = self.list_kind(path, schema, &node);
        node.constrain(self.constraint(path, schema, node.kind == Kind::IntOrString));
        let place = Place { is_resource: level == Level::Root || node.embedded, is_correlatable };
        node.rules = self.rules(path, schema, &node, place);
        self.complete(path, schema, &node);
        let below = || {
            let additional = match &node.additional {
                Additional::Schema(node) => Some(&**node),
                Additional::None | Additional::Any => None,
            };
            node.properties.values().map(|node| &**node).chain(node.items.as_deref()).chain(additional)
        };
        let has_rules = !node.rules.is_empty() || below().any(|node| node.has_rules);
        let has_defaults = node.default.is_some() || below().any(|node| node.has_defaults);
        Node { has_rules, has_defaults, ..node }
    }

    fn kind(&mut self, path: &str, schema: &Value, level: Level) -> Kind {
        let word = schema["type"].as_str().unwrap_or_default();
        // Whatever type stands beside it, as in the definitions of VolumeSnapshots.
        if flag(schema, "x-kubernetes-int-or-string") {
            return Kind::IntOrString;
        }
        let embedded = flag(schema, "x-kubernetes-embedded-resource");
        if embedded && word != "object" {
            let detail = "must be object if x-kubernetes-embedded-resource is true";
            match word.is_empty() {
                true => self.required(child(path, "type"), detail),
                false => self.invalid(child(path, "type"), &schema["type"], detail),
            }
        } else if word.is_empty() && !flag(schema, "x-kubernetes-preserve-unknown-fields") {
            let detail = match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            };
            self.required(child(path, "type"), detail);
        }
        if level == Level::Root && !word.is_empty() && word != "object" {
            self.invalid(child(path, "type"), &schema["type"], "must be object at the root");
        }
        match Kind::parse(word) {
            Some(kind) => kind,
            None if word.is_empty() => Kind::Any,
            None => {
                let known = ["array", "boolean", "integer", "number", "object", "string"];
                self.faults.add(Cause::unsupported(child(path, "type"), &schema["type"], &known));
                Kind::Any
            }
        }
    }

    /// What JSON schema has and structural schemas do not.
    fn unsupported(&mut self, path: &str, schema: &Value) {
        for name in ["$ref", "definitions", "dependencies", "additionalItems", "id", "patternProperties"] {
            let found = schema.get(name);
            if found.is_some_and(|value| !matches!(value, Value::Object(map) if map.is_empty())) {
                self.forbidden(child(path, name), &format!("{name} is not supported"));
            }
        }
        if flag(schema, "uniqueItems") {
            self.forbidden(
                child(path, "uniqueItems"),
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            );
        }
    }

    fn properties(&mut self, path: &str, schema: &Value, level: Level, is_correlatable: bool, node: &mut Node) {
        let is_resource = level == Level::Root || node.embedded;
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let below = key(&child(path, "properties"), name);
            if is_resource && name == "metadata" {
                self.metadata(&below, property, level);
                // `metadata` is an ObjectMeta whatever is said here; only its names can be restricted.
                let inner = property["properties"].as_object().into_iter().flatten();
                let mut restricted = Node { kind: Kind::Object, preserve: true, ..Node::default() };
                for (name, schema) in inner.filter(|(name, _)| matches!(name.as_str(), "name" | "generateName")) {
                    let node =
                        self.node(&key(&child(&below, "properties"), name), schema, Level::Field, is_correlatable);
                    restricted.properties.insert(name.clone(), Box::new(node));
                }
                node.properties.insert(name.clone(), Box::new(restricted));
                continue;
            }
            let property_node = self.node(&below, property, Level::Field, is_correlatable);
            if is_resource && matches!(name.as_str(), "kind" | "apiVersion") && property_node.kind != Kind::String {
                self.invalid(child(&below, "type"), &property["type"], "must be string");
            }
            node.properties.insert(name.clone(), Box::new(property_node));
        }
        match schema.get("additionalProperties") {
            None => {}
            Some(_) if level == Level::Root => {
                self.forbidden(child(path, "additionalProperties"), "must not be used at the root");
            }
            Some(Value::Bool(false)) => {}
            Some(Value::Bool(true)) => node.additional = Additional::Any,
            Some(below) => {
                let below = self.node(&child(path, "additionalProperties"), below, Level::Field, is_correlatable);
                node.additional = Additional::Schema(Box::new(below));
            }
        }
        let closed = schema.get("additionalProperties").is_some_and(|additional| *additional != true);
        if !node.properties.is_empty() && closed {
            self.forbidden(
                child(path, "additionalProperties"),
                "additionalProperties and properties are mutual exclusive",
            );
        }
        if node.embedded && !matches!(node.additional, Additional::None) {
            let detail = "must not be used if x-kubernetes-embedded-resource is set";
            self.forbidden(child(path, "additionalProperties"), detail);
        }
        if node.embedded && !node.preserve && node.properties.is_empty() {
            let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
            self.required(child(path, "properties"), detail);
        }
    }

    fn metadata(&mut self, path: &str, schema: &Value, level: Level) {
        if schema["type"] != "object" {
            self.invalid(child(path, "type"), &schema["type"], "must be object");
        }
        let restricts_more = schema.as_object().is_some_and(|map| {
            map.iter().any(|(name, value)| match name.as_str() {
                "type" | "description" => false,
                "properties" => value
                    .as_object()
                    .is_none_or(|fields| fields.keys().any(|name| !matches!(name.as_str(), "name" | "generateName"))),
                _ => true,
            })
        });
        if level == Level::Root && restricts_more {
            let detail =
                "must not specify anything other than name and generateName, but metadata is implicitly specified";
            self.forbidden(path.to_owned(), detail);
        }
    }

    fn items(&mut self, path: &str, schema: &Value, is_correlatable: bool, node: &mut Node) {
        let is_correlatable = is_correlatable && schema["x-kubernetes-list-type"] == "map";
        match schema.get("items") {
            Some(Value::Array(_)) => {
                self.forbidden(child(path, "items"), "items must be a schema object and not an array")
            }
            Some(items) => {
                node.items = Some(Box::new(self.node(&child(path, "items"), items, Level::Item, is_correlatable)))
            }
            None if node.kind == Kind::Array => self.required(child(path, "items"), "must be specified"),
            None => {}
        }
    }

    fn extensions(&mut self, path: &str, schema: &Value, node: &Node) {
        let preserve = "x-kubernetes-preserve-unknown-fields";
        if schema[preserve] == false {
            self.invalid(child(path, preserve), &false.into(), "must be true or undefined");
        }
        if node.kind == Kind::IntOrString {
            for name in [preserve, "x-kubernetes-embedded-resource"] {
                if flag(schema, name) {
                    self.invalid(
                        child(path, name),
                        &true.into(),
                        "must be false if x-kubernetes-int-or-string is true",
                    );
                }
            }
        }
        let map_type = "x-kubernetes-map-type";
        if let Some(value) = schema.get(map_type) {
            if node.kind != Kind::Object {
                self.invalid(
                    child(path, "type"),
                    &schema["type"],
                    "must be object if x-kubernetes-map-type is specified",
                );
            }
            if !matches!(value.as_str(), Some("atomic" | "granular")) {
                self.faults.add(Cause::unsupported(child(path, map_type), value, &["atomic", "granular"]));
            }
        }
    }

    fn list_kind(&mut self, path: &str, schema: &Value, node: &Node) -> Option<ListKind> {
        let keys: Vec<&str> =
            schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let list_type = schema.get("x-kubernetes-list-type");
        let word = list_type.and_then(Value::as_str);
        if list_type.is_some() && node.kind != Kind::Array {
            self.invalid(child(path, "type"), &schema["type"], "must be array if x-kubernetes-list-type is specified");
        }
        if let Some(value) = list_type
            && !matches!(word, Some("atomic" | "set" | "map"))
        {
            self.faults.add(Cause::unsupported(
                child(path, "x-kubernetes-list-type"),
                value,
                &["atomic", "map", "set"],
            ));
        }
        if !keys.is_empty() && word != Some("map") {
            let value = list_type.cloned().unwrap_or_default();
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            self.invalid(child(path, "x-kubernetes-list-type"), &value, detail);
        }
        match word {
            Some("set") => {
                if let Some(items) = &node.items {
                    self.set_items(&child(path, "items"), &schema["items"], items);
                }
                Some(ListKind::Set)
            }
            Some("map") => {
                self.map_keys(path, schema, node, &keys);
                Some(ListKind::Map(keys.into_iter().map(Into::into).collect()))
            }
            Some("atomic") => Some(ListKind::Atomic),
            _ => None,
        }
    }

    /// Elements of a set are told apart as a whole.
    fn set_items(&mut self, path: &str, schema: &Value, items: &Node) {
        if items.nullable {
            self.forbidden(child(path, "nullable"), "cannot be nullable when x-kubernetes-list-type is set");
        }
        match items.kind {
            Kind::Object if items.map_atomic != Some(true) => {
                let value = schema.get("x-kubernetes-map-type").cloned().unwrap_or_default();
                let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
                self.invalid(child(path, "x-kubernetes-map-type"), &value, detail);
            }
            Kind::Array if items.list.as_ref().is_some_and(|kind| *kind != ListKind::Atomic) => {
                let value = schema.get("x-kubernetes-list-type").cloned().unwrap_or_default();
                let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
                self.invalid(child(path, "x-kubernetes-list-type"), &value, detail);
            }
            _ => {}
        }
    }

    fn map_keys(&mut self, path: &str, schema: &Value, node: &Node, keys: &[&str]) {
        let at = child(path, "x-kubernetes-list-map-keys");
        if keys.is_empty() {
            self.required(at, "must not be empty if x-kubernetes-list-type is map");
            return;
        }
        let Some(items) = &node.items else { return };
        if items.nullable {
            self.forbidden(child(path, "items.nullable"), "cannot be nullable when x-kubernetes-list-type is map");
        }
        if items.kind != Kind::Object {
            let value = &schema["items"]["type"];
            self.invalid(
                child(path, "items.type"),
                value,
                "must be object if parent array's x-kubernetes-list-type is map",
            );
            return;
        }
        let mut seen = BTreeSet::new();
        for (index, name) in keys.iter().enumerate() {
            let at = format!("{at}[{index}]");
            if !seen.insert(*name) {
                self.faults.add(Cause::duplicate(at, &(*name).into()));
                continue;
            }
            let Some(property) = items.properties.get(*name) else {
                self.invalid(at, &(*name).into(), "must be the name of a property of items.properties");
                continue;
            };
            if matches!(property.kind, Kind::Object | Kind::Array) {
                let at = child(&key(&child(path, "items.properties"), name), "type");
                self.invalid(
                    at,
                    &property.kind.as_str().into(),
                    "must be a scalar type if parent array's x-kubernetes-list-type is map",
                );
            }
            if property.default.is_none() && !items.constraint().required.iter().any(|required| required == name) {
                let at = key(&child(path, "items.properties"), name);
                let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                self.required(child(&at, "default"), detail);
            }
        }
    }

    /// The value validations of a schema.
    fn constraint(&mut self, path: &str, schema: &Value, int_or_string: bool) -> Constraint {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Constraint::default();
        }
        let text = |name: &str| schema[name].as_str().filter(|text| !text.is_empty());
        let count = |name: &str| schema[name].as_u64();
        let limit = |name: &str, exclusive: &str| {
            let number = match &schema[name] {
                Value::Number(number) => number.clone(),
                _ => return None,
            };
            Some((number, flag(schema, exclusive)))
        };
        let mut constraint = Constraint {
            enumeration: schema["enum"].as_array().cloned(),
            format: text("format").map(str::to_owned),
            minimum: limit("minimum", "exclusiveMinimum"),
            maximum: limit("maximum", "exclusiveMaximum"),
            multiple_of: schema["multipleOf"].as_f64(),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            unique_items: flag(schema, "uniqueItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            required: schema["required"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect(),
            ..Constraint::default()
        };
        if let Some(source) = text("pattern") {
            self.patterns += 1;
            let compiled = match self.checks_patterns && self.patterns <= MAX_PATTERNS {
                true => pattern::compile(source).map(drop),
                false => Ok(()),
            };
            match compiled {
                _ if self.patterns > MAX_PATTERNS => self.forbidden(
                    child(path, "pattern"),
                    &format!("a schema may not have more than {MAX_PATTERNS} patterns"),
                ),
                Ok(()) => constraint.pattern = Some(Pattern::new(source)),
                Err(error) => {
                    let detail = format!("must be a valid regular expression, but isn't: {error}");
                    self.invalid(child(path, "pattern"), &source.into(), &detail);
                }
            }
        }
        for name in ["allOf", "anyOf", "oneOf"] {
            let parts = schema[name].as_array().into_iter().flatten().enumerate();
            let parts = parts.map(|(index, part)| {
                // int-or-string fields may say so once more, in the first allOf or in an anyOf.
                let excepted = int_or_string && (name == "anyOf" || name == "allOf" && index == 0);
                self.nested(&format!("{path}.{name}[{index}]"), part, excepted)
            });
            let parts: Vec<Constraint> = parts.collect();
            match name {
                "allOf" => constraint.all_of = parts,
                "anyOf" => constraint.any_of = parts,
                _ => constraint.one_of = parts,
            }
        }
        if let Some(part) = schema.get("not") {
            constraint.not = Some(Box::new(self.nested(&child(path, "not"), part, false)));
        }
        constraint
    }

    /// Below a junctor only values are validated: structure is said once, outside.
    fn nested(&mut self, path: &str, schema: &Value, excepted: bool) -> Constraint {
        let mut constraint = self.constraint(path, schema, excepted);
        if let Some(word) = schema["type"].as_str().filter(|word| !word.is_empty()) {
            match Kind::parse(word) {
                Some(kind @ (Kind::Integer | Kind::String)) if excepted => constraint.kind = kind,
                _ => self.forbidden(child(path, "type"), "must be empty to be structural"),
            }
        }
        for (name, detail) in [
            ("additionalProperties", "must be undefined to be structural"),
            ("default", "must be undefined to be structural"),
            ("title", "must be empty to be structural"),
            ("description", "must be empty to be structural"),
            ("externalDocs", "must be undefined to be structural"),
            ("x-kubernetes-list-type", "must be undefined to be structural"),
            ("x-kubernetes-map-type", "must be undefined to be structural"),
            ("x-kubernetes-list-map-keys", "must be empty to be structural"),
            ("x-kubernetes-validations", "must be empty to be structural"),
        ] {
            if schema.get(name).is_some_and(|value| *value != "" && *value != Value::Array(Vec::new())) {
                self.forbidden(child(path, name), detail);
            }
        }
        for name in [
            "nullable",
            "x-kubernetes-preserve-unknown-fields",
            "x-kubernetes-embedded-resource",
            "x-kubernetes-int-or-string",
        ] {
            if flag(schema, name) {
                self.forbidden(child(path, name), "must be false to be structural");
            }
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let below = key(&child(path, "properties"), name);
            if name == "metadata" {
                self.forbidden(below.clone(), "must not be specified in a nested context");
            }
            let property = self.nested(&below, property, false);
            constraint.properties.insert(name.clone(), property);
        }
        if let Some(items) = schema.get("items") {
            constraint.items = Some(Box::new(self.nested(&child(path, "items"), items, false)));
        }
        constraint
    }

    /// What a junctor names must be named outside of it too.
    fn complete(&mut self, path: &str, schema: &Value, node: &Node) {
        let constraint = &node.constraint();
        let junctors = [("allOf", &constraint.all_of), ("anyOf", &constraint.any_of), ("oneOf", &constraint.one_of)];
        for (name, parts) in junctors {
            for (index, part) in parts.iter().enumerate() {
                self.named(path, &format!("{path}.{name}[{index}]"), part, Some(node));
            }
        }
        if let Some(part) = &constraint.not {
            self.named(path, &child(path, "not"), part, Some(node));
        }
        if let Some(values) = schema["enum"].as_array()
            && values.is_empty()
        {
            self.required(child(path, "enum"), "must not be empty");
        }
    }

    fn named(&mut self, structure: &str, path: &str, part: &Constraint, node: Option<&Node>) {
        for (name, property) in &part.properties {
            let found = node.and_then(|node| node.property(name));
            let at = key(&child(structure, "properties"), name);
            if found.is_none() {
                let because = key(&child(path, "properties"), name);
                self.required(at.clone(), &format!("because it is defined in {because}"));
            }
            self.named(&at, &key(&child(path, "properties"), name), property, found);
        }
        if let Some(items) = &part.items {
            let found = node.and_then(|node| node.items.as_deref());
            let at = child(structure, "items");
            if found.is_none() {
                self.required(at.clone(), &format!("because it is defined in {}", child(path, "items")));
            }
            self.named(&at, &child(path, "items"), items, found);
        }
        for (name, parts) in [("allOf", &part.all_of), ("anyOf", &part.any_of), ("oneOf", &part.one_of)] {
            for (index, below) in parts.iter().enumerate() {
                self.named(structure, &format!("{path}.{name}[{index}]"), below, node);
            }
        }
        if let Some(below) = &part.not {
            self.named(structure, &child(path, "not"), below, node);
        }
    }

    fn rules(&mut self, path: &str, schema: &Value, node: &Node, place: Place) -> Vec<Rule> {
        let at = child(path, "x-kubernetes-validations");
        let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate();
        rules
            .filter_map(|(index, value)| rule::parse(&format!("{at}[{index}]"), value, node, place, self.faults))
            .collect()
    }
}

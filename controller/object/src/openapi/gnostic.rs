//! An OpenAPI 2.0 document as protobuf, which client-go prefers. Field numbers: `openapiv2/OpenAPIv2.proto` of
//! github.com/google/gnostic (Apache-2.0).
use crate::protobuf::wire::Writer;
use serde_json::{Map, Value};

/// Encodes a document of `v2::whole`.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Writer::default();
    message(&DOCUMENT, document, &mut out);
    out.into_bytes()
}

/// A message: its fields by their JSON names, and where what no field names goes.
struct Message {
    fields: &'static [(&'static str, u32, Kind)],
    /// The number of `vendor_extension`: names that begin with `x-`.
    extension: Option<u32>,
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Texts,
    Bool,
    Integer,
    Double,
    /// Any value, written as YAML (of which JSON is a part).
    Any,
    Anys,
    Message(&'static Message),
    /// Each element of a list inside a message of its own, as its field 1.
    Wrapped(&'static Message),
    /// A message with a list of names (1) and values (2) as its field 1.
    Named(&'static Message),
    /// The same without the message around the list.
    Entries(&'static Message),
    /// A message with a list of texts as its field 1; one text counts as a list.
    Type,
    /// A message with a schema as its field 1, or a flag as its field 2.
    SchemaOrBool,
    Parameters,
}

use Kind::{Any, Anys, Bool, Double, Entries, Integer, Named, Parameters, SchemaOrBool, Text, Texts, Type, Wrapped};

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, Kind::Message(&INFO)),
        ("paths", 8, Kind::Message(&PATHS)),
        ("definitions", 9, Named(&SCHEMA)),
    ],
    extension: Some(16),
};
static INFO: Message = Message { fields: &[("title", 1, Text), ("version", 2, Text)], extension: Some(7) };
/// The paths are a map whose entries are field 2.
static PATHS: Message = Message { fields: &[("", 2, Entries(&PATH_ITEM))], extension: Some(1) };
static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 2, Kind::Message(&OPERATION)),
        ("put", 3, Kind::Message(&OPERATION)),
        ("post", 4, Kind::Message(&OPERATION)),
        ("delete", 5, Kind::Message(&OPERATION)),
        ("patch", 8, Kind::Message(&OPERATION)),
        ("parameters", 9, Parameters),
    ],
    extension: Some(10),
};
static OPERATION: Message = Message {
    fields: &[
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("produces", 6, Texts),
        ("consumes", 7, Texts),
        ("parameters", 8, Parameters),
        ("responses", 9, Kind::Message(&RESPONSES)),
    ],
    extension: Some(13),
};
static RESPONSES: Message = Message { fields: &[("", 1, Entries(&RESPONSE_VALUE))], extension: Some(2) };
static RESPONSE_VALUE: Message = Message { fields: &[("", 1, Kind::Message(&RESPONSE))], extension: None };
static RESPONSE: Message =
    Message { fields: &[("description", 1, Text), ("schema", 2, Wrapped(&SCHEMA))], extension: Some(5) };
static BODY_PARAMETER: Message = Message {
    fields: &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Bool),
        ("schema", 5, Kind::Message(&SCHEMA)),
    ],
    extension: Some(6),
};
static QUERY_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Bool),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 6, Text),
        ("format", 7, Text),
        ("uniqueItems", 20, Bool),
    ],
    extension: Some(23),
};
static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Bool),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("format", 6, Text),
        ("uniqueItems", 19, Bool),
    ],
    extension: Some(22),
};
static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("multipleOf", 6, Double),
        ("maximum", 7, Double),
        ("exclusiveMaximum", 8, Bool),
        ("minimum", 9, Double),
        ("exclusiveMinimum", 10, Bool),
        ("maxLength", 11, Integer),
        ("minLength", 12, Integer),
        ("pattern", 13, Text),
        ("maxItems", 14, Integer),
        ("minItems", 15, Integer),
        ("uniqueItems", 16, Bool),
        ("maxProperties", 17, Integer),
        ("minProperties", 18, Integer),
        ("required", 19, Texts),
        ("enum", 20, Anys),
        ("additionalProperties", 21, SchemaOrBool),
        ("type", 22, Type),
        ("items", 23, Wrapped(&SCHEMA)),
        ("properties", 25, Named(&SCHEMA)),
        ("example", 30, Any),
    ],
    extension: Some(31),
};

fn message(kind: &Message, value: &Value, out: &mut Writer) {
    let Some(map) = value.as_object() else { return };
    for (name, number, field_kind) in kind.fields {
        // A field without a name stands for the value itself.
        let found = if name.is_empty() { Some(value) } else { map.get(*name) };
        if let Some(found) = found {
            field(*number, *field_kind, found, out);
        }
    }
    if let Some(number) = kind.extension {
        for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
            let mut entry = Writer::default();
            entry.bytes(1, name.as_bytes());
            entry.bytes(2, &any(value));
            out.bytes(number, &entry.into_bytes());
        }
    }
}

fn nested(kind: &Message, value: &Value) -> Vec<u8> {
    let mut inner = Writer::default();
    message(kind, value, &mut inner);
    inner.into_bytes()
}

fn any(value: &Value) -> Vec<u8> {
    let mut inner = Writer::default();
    inner.bytes(2, value.to_string().as_bytes());
    inner.into_bytes()
}

fn entries(number: u32, kind: &Message, map: &Map<String, Value>, out: &mut Writer) {
    for (name, value) in map.iter().filter(|(name, _)| !name.starts_with("x-")) {
        let mut entry = Writer::default();
        entry.bytes(1, name.as_bytes());
        entry.bytes(2, &nested(kind, value));
        out.bytes(number, &entry.into_bytes());
    }
}

fn field(number: u32, kind: Kind, value: &Value, out: &mut Writer) {
    let list = value.as_array().map_or(&[][..], Vec::as_slice);
    match kind {
        Kind::Text => out.bytes(number, value.as_str().unwrap_or_default().as_bytes()),
        Kind::Texts => list.iter().filter_map(Value::as_str).for_each(|text| out.bytes(number, text.as_bytes())),
        Kind::Bool => out.number(number, i64::from(value.as_bool().unwrap_or(false))),
        Kind::Integer => out.number(number, value.as_i64().unwrap_or_default()),
        Kind::Double => out.double(number, value.as_f64().unwrap_or_default()),
        Kind::Any => out.bytes(number, &any(value)),
        Kind::Anys => list.iter().for_each(|item| out.bytes(number, &any(item))),
        Kind::Message(kind) => out.bytes(number, &nested(kind, value)),
        Kind::Wrapped(kind) => {
            let mut inner = Writer::default();
            inner.bytes(1, &nested(kind, value));
            out.bytes(number, &inner.into_bytes());
        }
        Kind::Named(kind) => {
            let mut inner = Writer::default();
            entries(1, kind, value.as_object().unwrap_or(&Map::new()), &mut inner);
            out.bytes(number, &inner.into_bytes());
        }
        Kind::Entries(kind) => entries(number, kind, value.as_object().unwrap_or(&Map::new()), out),
        Kind::Type => {
            let mut inner = Writer::default();
            let one = value.as_str().into_iter().chain(list.iter().filter_map(Value::as_str));
            one.for_each(|text| inner.bytes(1, text.as_bytes()));
            out.bytes(number, &inner.into_bytes());
        }
        Kind::SchemaOrBool => {
            let mut inner = Writer::default();
            match value.as_bool() {
                Some(flag) => inner.number(2, i64::from(flag)),
                None => inner.bytes(1, &nested(&SCHEMA, value)),
            }
            out.bytes(number, &inner.into_bytes());
        }
        Kind::Parameters => list.iter().for_each(|item| out.bytes(number, &parameter(item))),
    }
}

/// `ParametersItem`, `Parameter`, and below it the parameter by where it stands.
fn parameter(value: &Value) -> Vec<u8> {
    let wrap = |number: u32, content: &[u8]| {
        let mut out = Writer::default();
        out.bytes(number, content);
        out.into_bytes()
    };
    let parameter = match value["in"].as_str() {
        Some("body") => wrap(1, &nested(&BODY_PARAMETER, value)),
        Some("path") => wrap(2, &wrap(4, &nested(&PATH_PARAMETER, value))),
        _ => wrap(2, &wrap(3, &nested(&QUERY_PARAMETER, value))),
    };
    wrap(1, &parameter)
}

//! JSON to values and back.
use super::operator::type_name;
use super::{Activation, Budget, Environment, EvaluationError, Program, compile};
use kube_cel::cel::Value;
use kube_cel::cel::objects::{Key, Map, OptionalValue};
use serde_json::Value as Json;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// A JSON value. Whole numbers are ints, others doubles.
pub fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::UInt(number),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(Arc::new(text.clone())),
        Json::Array(items) => Value::List(Arc::new(items.iter().map(from_json).collect())),
        Json::Object(fields) => {
            let map = fields.iter().map(|(key, value)| (key.as_str().into(), from_json(value)));
            map_of(map.collect())
        }
    }
}

pub(super) fn map_of(map: HashMap<Key, Value>) -> Value {
    Value::Map(Map { map: Arc::new(map) })
}

/// JSON of a value whose size was paid for: keys become text, times RFC 3339, bytes base64. What JSON cannot say is refused.
pub(super) fn to_json(value: &Value) -> Result<Json, EvaluationError> {
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(number) => (*number).into(),
        Value::UInt(number) => (*number).into(),
        Value::Float(number) => serde_json::Number::from_f64(*number)
            .map(Json::Number)
            .ok_or_else(|| EvaluationError::Function(format!("{number} is no JSON number")))?,
        Value::String(text) => Json::String(text.to_string()),
        Value::Bytes(bytes) => {
            use base64::Engine as _;
            Json::String(base64::engine::general_purpose::STANDARD.encode(&**bytes))
        }
        Value::List(items) => Json::Array(items.iter().map(to_json).collect::<Result<_, _>>()?),
        Value::Map(map) => {
            let entries = map.map.iter().map(|(key, value)| Ok((key.to_string(), to_json(value)?)));
            Json::Object(entries.collect::<Result<_, EvaluationError>>()?)
        }
        Value::Timestamp(time) => Json::String(time.to_rfc3339().replace("+00:00", "Z")),
        Value::Opaque(opaque) => match opaque.downcast_ref::<OptionalValue>().map(OptionalValue::value) {
            Some(Some(value)) => to_json(value)?,
            Some(None) => Json::Null,
            None => return Err(EvaluationError::ResultType { want: "JSON", got: type_name(value) }),
        },
        Value::Duration(_) | Value::Function(..) => {
            return Err(EvaluationError::ResultType { want: "JSON", got: type_name(value) });
        }
    })
}

/// A map with text keys.
pub fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    map_of(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

/// A list.
pub fn list(items: impl IntoIterator<Item = Value>) -> Value {
    Value::List(Arc::new(items.into_iter().collect()))
}

/// An optional value.
pub fn optional(value: Option<Value>) -> Value {
    Value::Opaque(Arc::new(value.map_or_else(OptionalValue::none, OptionalValue::of)))
}

/// Base64 as bytes.
pub fn bytes(text: &str) -> Option<Value> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok().map(|bytes| Value::Bytes(Arc::new(bytes)))
}

/// An RFC 3339 time.
pub fn timestamp(text: &str) -> Option<Value> {
    static CONVERSION: OnceLock<Option<Program>> = OnceLock::new();
    converted(&CONVERSION, "timestamp(x)", text)
}

/// A semantic version (https://semver.org) as `semver()` makes it.
pub fn semver(text: &str) -> Option<Value> {
    static CONVERSION: OnceLock<Option<Program>> = OnceLock::new();
    converted(&CONVERSION, "semver(x)", text)
}

/// A quantity as `quantity()` makes it.
pub fn quantity(text: &str) -> Option<Value> {
    static CONVERSION: OnceLock<Option<Program>> = OnceLock::new();
    converted(&CONVERSION, "quantity(x)", text)
}

/// A duration in Go's form.
pub fn duration(text: &str) -> Option<Value> {
    static CONVERSION: OnceLock<Option<Program>> = OnceLock::new();
    converted(&CONVERSION, "duration(x)", text)
}

fn converted(program: &OnceLock<Option<Program>>, source: &str, text: &str) -> Option<Value> {
    let program = program.get_or_init(|| compile(source, &Environment::new(&["x"])).ok()).as_ref()?;
    let mut variables = Activation::default();
    variables.set("x", Value::String(Arc::new(text.to_owned())));
    program.evaluate(&variables, &Budget::new(10_000)).ok()
}

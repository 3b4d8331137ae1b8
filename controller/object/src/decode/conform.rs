//! Gives a value the structure of its kind: prunes what is unknown, refuses wrong types, makes scalars canonical.
use super::FieldValidation;
use crate::resource::Resource;
use crate::schema::{Cursor, Scalar, Schema, View};
use crate::status::Status;
use api::quantity::Quantity;
use serde_json::Value;

/// More warnings than this are not collected.
const MAX_WARNINGS: usize = 100;
/// No built-in kind nests deeper, and JSON is read to 128 levels.
const MAX_DEPTH: usize = 256;

/// The word that Go's decoder uses for a value's type.
pub(super) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Gives a patched object the structure of its kind; returns warnings.
pub fn conform(resource: &Resource, object: &mut Value, validation: FieldValidation) -> Result<Vec<String>, Status> {
    conform_with(resource, object, validation, Vec::new())
}

/// The same for an object whose text had doubled fields.
pub(super) fn conform_with(
    resource: &Resource,
    object: &mut Value,
    validation: FieldValidation,
    doubled: Vec<String>,
) -> Result<Vec<String>, Status> {
    let refuse = |detail: String| {
        Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {detail}",
            resource.kind, resource.version, resource.kind
        ))
    };
    let unknown = match (&resource.custom, resource.cursor()) {
        (Some(custom), _) => crate::custom::conform(&custom.node, object).map_err(refuse)?,
        (None, Some(cursor)) => {
            let mut walk = Walk { unknown: Vec::new(), path: Vec::new() };
            walk.value(cursor, object, "").map_err(refuse)?;
            walk.unknown.sort();
            walk.unknown
        }
        (None, None) => Vec::new(),
    };
    let mut warnings = doubled;
    warnings.extend(unknown.iter().map(|path| format!("unknown field {path:?}")));
    match validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(warnings),
        FieldValidation::Strict if warnings.is_empty() => Ok(warnings),
        FieldValidation::Strict => Err(refuse(format!("strict decoding error: {}", warnings.join(", ")))),
    }
}

/// Gives `metadata` that stands at `path` its structure; answers the paths of unknown fields.
pub(crate) fn conform_metadata(path: &str, metadata: &mut Value) -> Result<Vec<String>, String> {
    let schema = Schema::builtin();
    let Some(root) = schema.find("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta") else { return Ok(Vec::new()) };
    let mut walk = Walk { unknown: Vec::new(), path: vec![Step::Key(path.to_owned())] };
    walk.value(schema.cursor(root), metadata, "ObjectMeta")?;
    Ok(walk.unknown)
}

enum Step {
    Key(String),
    Index(usize),
}

struct Walk {
    unknown: Vec<String>,
    path: Vec<Step>,
}

impl Walk {
    fn full_path(&self, last: Option<&str>) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Key(key) if text.is_empty() => text.push_str(key),
                Step::Key(key) => {
                    text.push('.');
                    text.push_str(key);
                }
                Step::Index(index) => text.push_str(&format!("[{index}]")),
            }
        }
        if let Some(last) = last {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(last);
        }
        text
    }

    /// `owner` is the Go type around the value, for messages.
    fn value(&mut self, cursor: Cursor<'_>, value: &mut Value, owner: &str) -> Result<(), String> {
        if self.path.len() > MAX_DEPTH {
            return Err("exceeded max depth".to_owned());
        }
        match cursor.view() {
            View::Any | View::Deduced => {}
            View::Object => {
                if !value.is_object() {
                    return Err(self.mismatch(value, owner, "object"));
                }
            }
            View::Scalar(scalar) => self.scalar(scalar, value, owner)?,
            View::Struct(kind) => {
                let Value::Object(map) = value else {
                    return Err(self.mismatch(value, owner, &format!("v1.{}", kind.short_name())));
                };
                let mut drop = Vec::new();
                for (key, entry) in map.iter_mut() {
                    match cursor.field(key) {
                        None => {
                            if self.unknown.len() < MAX_WARNINGS {
                                self.unknown.push(self.full_path(Some(key)));
                            }
                            drop.push(key.clone());
                        }
                        Some(_) if entry.is_null() => {
                            // A JSON schema's `default: null` means something; elsewhere null is absent.
                            if !matches!(cursor.field(key).map(Cursor::view), Some(View::Any)) {
                                drop.push(key.clone());
                            }
                        }
                        Some(field) => {
                            self.path.push(Step::Key(key.clone()));
                            self.value(field, entry, kind.short_name())?;
                            self.path.pop();
                        }
                    }
                }
                for key in drop {
                    map.remove(&key);
                }
            }
            View::List(item) => {
                let Value::Array(items) = value else {
                    return Err(self.mismatch(value, owner, &go_type(cursor)));
                };
                for (index, entry) in items.iter_mut().enumerate() {
                    self.path.push(Step::Index(index));
                    if entry.is_null() {
                        *entry = zero(item);
                    }
                    self.value(item, entry, owner)?;
                    self.path.pop();
                }
            }
            View::Map(item) => {
                let Value::Object(map) = value else {
                    return Err(self.mismatch(value, owner, &go_type(cursor)));
                };
                for (key, entry) in map.iter_mut() {
                    if entry.is_null() {
                        *entry = zero(item);
                    }
                    // Go's messages leave out the keys of maps; the key helps people, so only scalars drop it.
                    if matches!(item.view(), View::Scalar(_)) {
                        self.value(item, entry, owner)?;
                    } else {
                        self.path.push(Step::Key(key.clone()));
                        self.value(item, entry, owner)?;
                        self.path.pop();
                    }
                }
            }
        }
        Ok(())
    }

    fn mismatch(&self, value: &Value, owner: &str, go: &str) -> String {
        let path: Vec<&str> = self
            .path
            .iter()
            .filter_map(|step| match step {
                Step::Key(key) => Some(key.as_str()),
                Step::Index(_) => None,
            })
            .collect();
        let what = match value {
            Value::Number(number) if go.starts_with("int") => format!("number {number}"),
            other => json_type(other).to_owned(),
        };
        if path.is_empty() {
            return format!("json: cannot unmarshal {what} into Go value of type {go}");
        }
        format!("json: cannot unmarshal {what} into Go struct field {owner}.{} of type {go}", path.join("."))
    }

    fn scalar(&self, scalar: Scalar, value: &mut Value, owner: &str) -> Result<(), String> {
        let wrong = |value: &Value| Err(self.mismatch(value, owner, go_scalar(scalar)));
        match (scalar, &*value) {
            (Scalar::String, Value::String(_))
            | (Scalar::Bool, Value::Bool(_))
            | (Scalar::Number, Value::Number(_)) => Ok(()),
            (Scalar::IntOrString, Value::String(_)) => Ok(()),
            (Scalar::Int32 | Scalar::IntOrString, Value::Number(n)) => match n.as_i64() {
                Some(n) if i32::try_from(n).is_ok() => Ok(()),
                _ => wrong(value),
            },
            (Scalar::Int64, Value::Number(n)) if n.is_i64() => Ok(()),
            (Scalar::Bytes, Value::String(text)) => {
                use base64::Engine as _;
                // Go skips line ends inside base64.
                let clean: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
                match base64::engine::general_purpose::STANDARD.decode(&clean) {
                    Ok(_) => {
                        if clean.len() != text.len() {
                            *value = clean.into();
                        }
                        Ok(())
                    }
                    Err(error) => {
                        let at = match error {
                            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => {
                                at
                            }
                            base64::DecodeError::InvalidLength(at) => at,
                            base64::DecodeError::InvalidPadding => clean.len(),
                        };
                        Err(format!("illegal base64 data at input byte {at} of {}", self.full_path(None)))
                    }
                }
            }
            (Scalar::Quantity, Value::String(_) | Value::Number(_)) => {
                let text = match &*value {
                    Value::String(text) => text.trim().to_owned(),
                    other => other.to_string(),
                };
                let quantity = Quantity::parse(&text).map_err(|e| e.to_string())?;
                *value = quantity.to_string().into();
                Ok(())
            }
            (Scalar::Time | Scalar::MicroTime, Value::String(text)) => {
                let time: jiff::Timestamp = text.parse().map_err(|_| {
                    format!(
                        "parsing time {text:?} of {} as \"2006-01-02T15:04:05Z07:00\": not an RFC 3339 time",
                        self.full_path(None)
                    )
                })?;
                *value = match scalar {
                    Scalar::MicroTime => time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
                    _ => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                }
                .into();
                Ok(())
            }
            _ => wrong(value),
        }
    }
}

/// What Go makes of a null element.
fn zero(item: Cursor<'_>) -> Value {
    match item.view() {
        View::Scalar(Scalar::String | Scalar::Bytes) => "".into(),
        View::Scalar(Scalar::Quantity) => "0".into(),
        View::Scalar(Scalar::Bool) => false.into(),
        View::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Number | Scalar::IntOrString) => 0.into(),
        View::Scalar(Scalar::Time | Scalar::MicroTime) => "0001-01-01T00:00:00Z".into(),
        View::Struct(_) | View::Map(_) | View::Object => Value::Object(serde_json::Map::new()),
        View::List(_) => Value::Array(Vec::new()),
        View::Any | View::Deduced => Value::Null,
    }
}

fn go_scalar(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::String | Scalar::Bytes => "string",
        Scalar::Time | Scalar::MicroTime => "time.Time",
        Scalar::Bool => "bool",
        Scalar::Int32 | Scalar::IntOrString => "int32",
        Scalar::Int64 => "int64",
        Scalar::Number => "float64",
        Scalar::Quantity => "resource.Quantity",
    }
}

fn go_type(cursor: Cursor<'_>) -> String {
    match cursor.view() {
        View::Scalar(scalar) => go_scalar(scalar).to_owned(),
        View::Struct(kind) => format!("v1.{}", kind.short_name()),
        View::List(item) => format!("[]{}", go_type(item)),
        View::Map(item) => format!("map[string]{}", go_type(item)),
        View::Object | View::Any | View::Deduced => "object".to_owned(),
    }
}

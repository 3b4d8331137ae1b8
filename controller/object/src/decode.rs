//! Bytes to an object that has the structure of its kind.
//! Numbers, quantities and times come out canonical; `null` counts as absent, as in Go.
mod conform;
mod json;

use crate::media::MediaType;
use crate::resource::{Resource, Table, join_version};
use crate::status::Status;
pub use conform::conform;
pub(crate) use conform::conform_metadata;
use serde_json::Value;

/// The largest body that is read.
pub const MAX_BYTES: usize = 3 * 1024 * 1024;

/// What to do about fields that are unknown or stand twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and say so.
    #[default]
    Warn,
    /// Refuse the object.
    Strict,
}

impl FieldValidation {
    /// Reads the query parameter; absent or empty means [`FieldValidation::Warn`].
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A decoded object.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object, with `apiVersion` and `kind`.
    pub object: Value,
    /// What the client should be told.
    pub warnings: Vec<String>,
}

/// Decodes an object of `resource`.
pub fn decode(
    table: &Table,
    resource: &Resource,
    media: MediaType,
    bytes: &[u8],
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    let (mut object, duplicates) = parse(media, bytes)?;
    if !object.is_object() {
        return Err(Status::bad_request(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct {{ APIVersion string; Kind string }}",
            conform::json_type(&object)
        )));
    }
    check_kind(table, resource, &mut object)?;
    let warnings = conform::conform_with(resource, &mut object, validation, duplicates)?;
    Ok(Decoded { object, warnings })
}

/// Parses a body, with size and depth limits. The second part tells of fields that stand twice.
pub fn parse(media: MediaType, bytes: &[u8]) -> Result<(Value, Vec<String>), Status> {
    if bytes.len() > MAX_BYTES {
        return Err(Status::request_entity_too_large(&format!("limit is {MAX_BYTES}")));
    }
    match media {
        MediaType::Protobuf => Ok((crate::protobuf::decode(bytes)?, Vec::new())),
        MediaType::Yaml | MediaType::ApplyYaml => {
            let text = std::str::from_utf8(bytes)
                .map_err(|e| Status::bad_request(format!("error converting YAML to JSON: {e}")))?;
            // JSON is YAML, and most clients send it; the JSON parser is faster and finds doubled fields.
            if text.trim_start().starts_with('{')
                && let Ok(parsed) = json::parse(bytes)
            {
                return Ok(parsed);
            }
            let value = api::yaml::document(text).map_err(|error| {
                let cause = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
                Status::bad_request(format!("{error}{cause}"))
            })?;
            Ok((value, api::yaml::doubled_key(text).into_iter().collect()))
        }
        MediaType::Json | MediaType::JsonPatch | MediaType::MergePatch | MediaType::StrategicMergePatch => {
            json::parse(bytes)
                .map_err(|e| Status::bad_request(format!("couldn't get version/kind; json parse error: {e}")))
        }
    }
}

/// Fills in a missing kind, refuses another one.
fn check_kind(table: &Table, resource: &Resource, object: &mut Value) -> Result<(), Status> {
    let text = |key: &str| match object.get(key) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(Status::bad_request(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go struct field .{key} of type string",
            conform::json_type(other)
        ))),
    };
    let (version, kind) = (text("apiVersion")?, text("kind")?);
    let want_version = resource.api_version();
    if !kind.is_empty() && kind != resource.kind {
        let (group, short) = version.split_once('/').unwrap_or(("", version.as_str()));
        let known = version.is_empty() || table.find_kind(group, short, &kind).is_some();
        return Err(Status::bad_request(if known {
            format!(
                "{kind} in version {:?} cannot be handled as a {}: the body's kind is {kind}, the path is for {}",
                if version.is_empty() { &want_version } else { &version },
                resource.kind,
                resource.kind
            )
        } else {
            format!(
                "no kind {kind:?} is registered for version {version:?}, expected {} in {want_version}",
                resource.kind
            )
        }));
    }
    if !version.is_empty() && version != want_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({})",
            join_version(&resource.group, &resource.version)
        )));
    }
    object["apiVersion"] = want_version.into();
    object["kind"] = resource.kind.as_str().into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(body: &str, validation: FieldValidation) -> Result<Decoded, Status> {
        let table = Table::builtin();
        decode(table, table.find("", "v1", "pods").unwrap(), MediaType::Json, body.as_bytes(), validation)
    }

    #[test]
    fn fills_in_and_prunes() {
        let decoded = pod(
            r#"{"metadata":{"name":"a","creationTimestamp":null},"spec":{"foo":1,"containers":[{"name":"c","bar":2,"resources":{"limits":{"cpu":0.1,"memory":"1024Mi"}}}]},"x":1}"#,
            FieldValidation::Warn,
        )
        .unwrap();
        assert_eq!(
            decoded.object,
            json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"100m","memory":"1Gi"}}}]}})
        );
        assert_eq!(
            decoded.warnings,
            ["unknown field \"spec.containers[0].bar\"", "unknown field \"spec.foo\"", "unknown field \"x\""]
        );
    }

    #[test]
    fn strict_refuses() {
        let error = pod(r#"{"spec":{"foo":1,"nodeName":"a","nodeName":"b"}}"#, FieldValidation::Strict).unwrap_err();
        assert_eq!(
            error.message,
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: duplicate field \"spec.nodeName\", unknown field \"spec.foo\""
        );
    }

    #[test]
    fn type_errors_name_the_field() {
        for (body, want) in [
            (
                r#"{"spec":{"containers":{}}}"#,
                "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                r#"{"spec":{"hostNetwork":"yes"}}"#,
                "json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool",
            ),
            (
                r#"{"spec":{"priority":3000000000}}"#,
                "json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
            ),
            (
                r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"x"}}}]}}"#,
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
            (
                r#"{"metadata":{"labels":{"a":1}}}"#,
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
        ] {
            let error = pod(body, FieldValidation::Ignore).unwrap_err();
            assert_eq!(error.message, format!("Pod in version \"v1\" cannot be handled as a Pod: {want}"), "{body}");
        }
    }

    #[test]
    fn kinds_must_fit() {
        assert!(pod(r#"{"kind":"Node","apiVersion":"v1"}"#, FieldValidation::Warn).is_err());
        assert!(
            pod(r#"{"kind":"Pod","apiVersion":"apps/v1"}"#, FieldValidation::Warn)
                .unwrap_err()
                .message
                .starts_with("the API version in the data")
        );
        for bad in ["", "[]", "1", "{", "{\"kind\":1}", "nul", &"[".repeat(500)] {
            assert!(pod(bad, FieldValidation::Warn).is_err(), "{bad}");
        }
    }
}

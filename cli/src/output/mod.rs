//! The forms in which objects are shown: `-o json|yaml|wide|name|jsonpath=|custom-columns=|go-template=`.

pub(crate) mod columns;
pub(crate) mod jsonpath;
pub(crate) mod table;
pub(crate) mod template;

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::kind::Kind;
use crate::screen;
use columns::CustomColumns;
use jsonpath::JsonPath;
use template::Template;

/// A form, read from `-o`.
#[derive(Debug, Clone)]
pub(crate) enum Output {
    /// Columns that the server computes.
    Table {
        /// All of them.
        wide: bool,
    },
    Json,
    Yaml,
    Name,
    JsonPath(JsonPath),
    Columns(CustomColumns),
    Template(Template),
}

impl Output {
    /// Reads the value of `-o`.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, Failure> {
        let Some(text) = text else { return Ok(Self::Table { wide: false }) };
        // kubectl takes both `-o=json` and `-o json`; clap keeps the sign of the first for short flags.
        let text = text.strip_prefix('=').unwrap_or(text);
        let (form, argument) = text.split_once('=').map_or((text, None), |(form, argument)| (form, Some(argument)));
        let of_file = |what: &str| {
            let file = argument.ok_or_else(|| missing(what, "FILE"))?;
            std::fs::read_to_string(file).map_err(|error| Failure::error(format!("{file}: {error}")))
        };
        match (form, argument) {
            ("", None) => Ok(Self::Table { wide: false }),
            ("wide", None) => Ok(Self::Table { wide: true }),
            ("json", None) => Ok(Self::Json),
            ("yaml", None) => Ok(Self::Yaml),
            ("name", None) => Ok(Self::Name),
            ("jsonpath", Some(path)) => Ok(Self::JsonPath(JsonPath::parse(path)?)),
            ("jsonpath-file", _) => Ok(Self::JsonPath(JsonPath::parse(of_file(form)?.trim_end_matches('\n'))?)),
            ("custom-columns", Some(spec)) => Ok(Self::Columns(CustomColumns::parse(spec)?)),
            ("custom-columns-file", _) => Ok(Self::Columns(CustomColumns::parse_file(&of_file(form)?)?)),
            ("go-template" | "template", Some(text)) => Ok(Self::Template(Template::parse(text)?)),
            ("go-template-file" | "templatefile", _) => Ok(Self::Template(Template::parse(&of_file(form)?)?)),
            ("jsonpath" | "custom-columns" | "go-template" | "template", None) => Err(missing(form, "EXPRESSION")),
            _ => Err(Failure::error(format!(
                "unable to match a printer suitable for the output format {text:?}, allowed formats are: \
                 custom-columns,custom-columns-file,go-template,go-template-file,json,jsonpath,jsonpath-file,name,\
                 template,templatefile,wide,yaml"
            ))),
        }
    }

    /// Whether the server shall print.
    pub(crate) fn is_table(&self) -> bool {
        matches!(self, Self::Table { .. })
    }

    /// Shows one object (or a list as one object). Not for tables.
    pub(crate) fn show(&self, kind: &Kind, object: &Value) -> Result<(), Failure> {
        match self {
            Self::Json => screen::put(json_text(object)),
            Self::Yaml => screen::put(api::yaml::print(object)?),
            Self::Name => {
                let objects = object.get("items").and_then(Value::as_array);
                for object in objects.map_or_else(|| vec![object], |all| all.iter().collect()) {
                    screen::line(format!("{}/{}", prefix(kind, object), name_of(object)))?;
                }
                Ok(())
            }
            Self::JsonPath(path) => screen::put(path.render(object)?),
            Self::Template(template) => screen::put(template.render(object)?),
            Self::Columns(_) | Self::Table { .. } => Err(Failure::error("this output format is made for get")),
        }
    }
}

fn missing(form: &str, what: &str) -> Failure {
    Failure::error(format!("-o {form} needs {form}={what}"))
}

/// The object's own kind, where it says one (lists of mixed kinds), else that of the request.
fn prefix(kind: &Kind, object: &Value) -> String {
    let own = object.get("kind").and_then(Value::as_str);
    match (own, object.get("apiVersion").and_then(Value::as_str)) {
        (Some(own), Some(version)) => match version.split_once('/') {
            Some((group, _)) => format!("{}.{group}", own.to_lowercase()),
            None => own.to_lowercase(),
        },
        _ => kind.prefix(),
    }
}

/// The name of an object, or nothing.
pub(crate) fn name_of(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// JSON as kubectl prints it: four spaces, sorted keys, nothing that HTML could take for itself.
pub(crate) fn json_text(value: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // Writing a value into memory cannot fail.
    drop(serde::Serialize::serialize(value, &mut serializer));
    let text = String::from_utf8_lossy(&bytes);
    // These can only stand within strings.
    let mut text = text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    text.push('\n');
    text
}

/// Several objects as one list, as kubectl prints it.
pub(crate) fn list_of(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

/// Takes out what only field managers read.
pub(crate) fn without_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        without_managed_fields(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read() {
        assert!(matches!(Output::parse(Some("wide")), Ok(Output::Table { wide: true })));
        assert!(matches!(Output::parse(Some("=json")), Ok(Output::Json)));
        assert!(matches!(Output::parse(Some("jsonpath={.a}")), Ok(Output::JsonPath(_))));
        for bad in ["jsonpath", "json=x", "nope", "custom-columns=", "jsonpath={.a"] {
            assert!(Output::parse(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_is_indented_and_escaped() {
        assert_eq!(json_text(&json!({"b": "<x>", "a": []})), "{\n    \"a\": [],\n    \"b\": \"\\u003cx\\u003e\"\n}\n");
    }
}

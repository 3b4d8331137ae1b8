//! `gantry explain`: what the fields of a kind mean, out of the server's OpenAPI.

use std::process::ExitCode;

use serde_json::Value;

use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::{Catalog, Kind};
use crate::kubeconfig::ConnectArgs;
use crate::screen;

/// Where lines of a description end.
const WIDTH: usize = 80;
/// Schemas of definitions refer to themselves.
const DEPTH_LIMIT: usize = 24;

/// Flags of `gantry explain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// TYPE or TYPE.FIELD.FIELD.
    #[arg(value_name = "TYPE[.FIELD]...")]
    path: String,
    /// The names of all fields below.
    #[arg(long)]
    recursive: bool,
    /// GROUP/VERSION, where it is not the preferred one.
    #[arg(long, value_name = "GROUP/VERSION")]
    api_version: Option<String>,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let (kind, fields) = find(&catalog, &args.path)?;
    let kind = match &args.api_version {
        Some(version) => catalog
            .of_object(version, &kind.kind)
            .ok_or_else(|| Failure::error(format!("couldn't find resource for \"{version}, Kind={}\"", kind.kind)))?,
        None => kind,
    };
    let root = if kind.group.is_empty() { "api".to_owned() } else { format!("apis/{}", kind.group) };
    let document = session.get(Call::to(format!("/openapi/v3/{root}/{}", kind.version))).await?;
    let schemas = Schemas(document.pointer("/components/schemas").unwrap_or(&Value::Null));
    let mut field = schemas
        .of_kind(kind)
        .ok_or_else(|| Failure::error(format!("couldn't find a schema of {} in the server's OpenAPI", kind.kind)))?;
    let mut text = String::new();
    if !kind.group.is_empty() {
        text.push_str(&format!("GROUP:      {}\n", kind.group));
    }
    text.push_str(&format!("KIND:       {}\nVERSION:    {}\n\n", kind.kind, kind.version));
    for name in &fields {
        let inner = schemas.inner(field);
        field = inner.get("properties").and_then(|all| all.get(name)).ok_or_else(|| {
            // What was found so far helps to see where the path went wrong.
            Failure::error(format!("field \"{name}\" does not exist in {}", args.path))
        })?;
    }
    if let Some(name) = fields.last() {
        text.push_str(&format!("FIELD: {name} <{}>\n\n", schemas.type_name(field)));
        choices(&mut text, field);
    }
    text.push_str(if fields.is_empty() { "DESCRIPTION:\n" } else { "\nDESCRIPTION:\n" });
    let inner = schemas.inner(field);
    let own = description(field);
    let mut told = false;
    for text_of in [own, description(inner).filter(|of_type| Some(*of_type) != own)].into_iter().flatten() {
        wrap(&mut text, text_of, 4);
        told = true;
    }
    text.push_str(if told { "    \n" } else { "    <empty>\n\n" });
    if inner.get("properties").is_some() {
        text.push_str("FIELDS:\n");
        write_fields(&mut text, &schemas, inner, args.recursive, 1);
    }
    text.push('\n');
    screen::put(screen::plain(&text).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The kind is the longest beginning that names one (`deployments.apps.spec`), the rest is the path.
fn find<'a>(catalog: &'a Catalog, path: &str) -> Result<(&'a Kind, Vec<String>), Failure> {
    let parts: Vec<&str> = path.trim_end_matches('.').split('.').collect();
    for length in (1..=parts.len()).rev() {
        if let Some(kind) = catalog.find(&parts[..length].join(".")) {
            return Ok((kind, parts[length..].iter().map(|part| (*part).to_owned()).collect()));
        }
    }
    catalog.expect(parts.first().copied().unwrap_or_default()).map(|kind| (kind, Vec::new()))
}

struct Schemas<'a>(&'a Value);

impl<'a> Schemas<'a> {
    fn of_kind(&self, kind: &Kind) -> Option<&'a Value> {
        let schemas = self.0.as_object()?;
        let is_it = |schema: &&Value| {
            let known = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array).into_iter().flatten();
            known.into_iter().any(|gvk| {
                gvk["kind"] == kind.kind.as_str()
                    && gvk["version"] == kind.version.as_str()
                    && gvk.get("group").and_then(Value::as_str).unwrap_or_default() == kind.group
            })
        };
        schemas.values().find(is_it)
    }

    /// The schema behind a reference, if it is one.
    fn referred(&self, schema: &'a Value) -> Option<(&'a str, &'a Value)> {
        let reference = schema.get("$ref").or(schema.pointer("/allOf/0/$ref"))?.as_str()?;
        let name = reference.rsplit('/').next()?;
        Some((name.rsplit('.').next()?, self.0.get(name)?))
    }

    /// The schema of the object within lists, maps and references.
    fn inner(&self, schema: &'a Value) -> &'a Value {
        let mut schema = schema;
        for _ in 0..DEPTH_LIMIT {
            let next = self.referred(schema).map(|(_, schema)| schema);
            let next =
                next.or(schema.get("items")).or(schema.get("additionalProperties").filter(|all| all.is_object()));
            match next {
                Some(next) => schema = next,
                None => break,
            }
        }
        schema
    }

    /// `[]Container`, `map[string]string`, `integer`.
    fn type_name(&self, schema: &'a Value) -> String {
        self.type_at(schema, 0)
    }

    fn type_at(&self, schema: &'a Value, depth: usize) -> String {
        if depth > DEPTH_LIMIT {
            return "Object".to_owned();
        }
        if let Some((name, target)) = self.referred(schema) {
            return match target.get("properties").is_some() || target.get("type").is_none() {
                true => name.to_owned(),
                // Names of plain values, such as Time and Quantity, are shown as what they are.
                false if target["type"] == "object" => name.to_owned(),
                false => self.type_at(target, depth + 1),
            };
        }
        if let Some(items) = schema.get("items") {
            return format!("[]{}", self.type_at(items, depth + 1));
        }
        if let Some(values) = schema.get("additionalProperties").filter(|all| all.is_object()) {
            return format!("map[string]{}", self.type_at(values, depth + 1));
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("object") | None => "Object".to_owned(),
            Some(other) => other.to_owned(),
        }
    }
}

fn description(schema: &Value) -> Option<&str> {
    schema.get("description")?.as_str().filter(|text| !text.is_empty())
}

fn choices(text: &mut String, field: &Value) {
    if let Some(choices) = field.get("enum").and_then(Value::as_array) {
        text.push_str("ENUM:\n");
        choices.iter().filter_map(Value::as_str).for_each(|choice| text.push_str(&format!("    {choice}\n")));
    }
}

fn write_fields(text: &mut String, schemas: &Schemas<'_>, object: &Value, recursive: bool, level: usize) {
    let required = object.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|all| all.iter().any(|one| one == name));
    for (name, field) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let mark = if is_required(name) { " -required-" } else { "" };
        let type_name = schemas.type_name(field);
        text.push_str(&format!("{}{name}\t<{type_name}>{mark}\n", "  ".repeat(level)));
        if recursive {
            let inner = schemas.inner(field);
            // A definition within itself would never end.
            if level < 12 && inner.get("properties").is_some() && !type_name.ends_with("JSONSchemaProps") {
                write_fields(text, schemas, inner, true, level + 1);
            }
            continue;
        }
        match description(field).or_else(|| description(schemas.inner(field))) {
            Some(words) => wrap(text, words, 4),
            None => text.push_str("    <no description>\n"),
        }
        text.push('\n');
    }
}

/// Lines of at most `WIDTH` characters; the line ends of the description stay.
fn wrap(text: &mut String, words: &str, indent: usize) {
    for paragraph in words.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > WIDTH {
                text.push_str(&format!("{}{line}\n", " ".repeat(indent)));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        text.push_str(&format!("{}{line}\n", " ".repeat(indent)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn types_are_named() {
        let all = json!({"io.x.Pod": {"type": "object", "properties": {}}, "io.x.Time": {"type": "string"}});
        let schemas = Schemas(&all);
        let of = |schema: Value| {
            let schema: &'static Value = Box::leak(Box::new(schema));
            Schemas(Box::leak(Box::new(all.clone()))).type_name(schema)
        };
        assert_eq!(of(json!({"type": "array", "items": {"$ref": "#/components/schemas/io.x.Pod"}})), "[]Pod");
        assert_eq!(of(json!({"allOf": [{"$ref": "#/components/schemas/io.x.Time"}]})), "string");
        assert_eq!(of(json!({"type": "object", "additionalProperties": {"type": "string"}})), "map[string]string");
        assert!(schemas.0.is_object());
    }

    #[test]
    fn long_texts_are_wrapped() {
        let mut text = String::new();
        wrap(&mut text, &"word ".repeat(30), 4);
        assert!(text.lines().all(|line| line.len() <= WIDTH && line.starts_with("    word")));
        assert_eq!(text.lines().count(), 2);
    }
}

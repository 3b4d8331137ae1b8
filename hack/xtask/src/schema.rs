//! `cargo xtask schema`: the shapes and descriptions of k8s-openapi and the keys of
//! `controller/object/facts/keys.tsv`, written as `controller/object/generated/{schema.tsv,descriptions.zst,inputs.sha256}`.
//!
//! Lines of `schema.tsv`: `T name map-type expression?` starts a type, `F name expression required list-type keys
//! map-type patch-strategy merge-key` is a field of it. Expressions: `s` string, `t` date-time, `u` date-time with microseconds, `Q` quantity,
//! `B` base64 bytes, `b`
//! boolean, `i` int32, `l` int64, `n` number, `q` int-or-string, `o` any object, `a` anything, `&N` the N-th type,
//! `[X` list of X, `{X` map of X.
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../controller/object")
}

/// Writes the generated files and says what it wrote.
pub(crate) fn generate() -> Result<String> {
    let mut generator = schemars::generate::SchemaSettings::openapi3().into_generator();
    crate::kinds::add_all(&mut generator);
    let definitions = generator.take_definitions(true);
    let keys_text = std::fs::read_to_string(folder().join("facts/keys.tsv"))?;
    let keys = read_keys(&keys_text);
    let order: BTreeMap<&str, usize> = definitions.keys().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
    let mut structure = String::new();
    let mut descriptions: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    let mut used: BTreeSet<(String, String)> = BTreeSet::new();
    for (name, definition) in &definitions {
        let definition = definition.as_object().ok_or("a definition is no object")?;
        write_type(&mut structure, name, definition, &keys, &order, &mut used)?;
        let own = descriptions.entry(name).or_default();
        own.extend(definition.get("description").and_then(Value::as_str).map(|d| ("", d)));
        for (field, schema) in properties(definition) {
            own.extend(schema.get("description").and_then(Value::as_str).map(|d| (field.as_str(), d)));
        }
    }
    let generated = folder().join("generated");
    std::fs::create_dir_all(&generated)?;
    std::fs::write(generated.join("schema.tsv"), &structure)?;
    let packed = zstd::encode_all(serde_json::to_vec(&descriptions)?.as_slice(), 19)?;
    std::fs::write(generated.join("descriptions.zst"), &packed)?;
    std::fs::write(generated.join("inputs.sha256"), fingerprint(&keys_text, &structure))?;
    let unused = keys.keys().filter(|key| !used.contains(*key)).count();
    Ok(format!(
        "{} types, {} bytes of structure, {} bytes of packed descriptions, {unused} keys of types that are not served",
        definitions.len(),
        structure.len(),
        packed.len()
    ))
}

/// What the freshness test compares: a hash over the facts and the result.
fn fingerprint(keys: &str, structure: &str) -> String {
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    hash.update(keys.as_bytes());
    hash.update(structure.as_bytes());
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn read_keys(text: &str) -> BTreeMap<(String, String), String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut parts = line.splitn(3, '\t');
            Some(((parts.next()?.to_owned(), parts.next()?.to_owned()), parts.next()?.to_owned()))
        })
        .collect()
}

fn properties(definition: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    definition.get("properties").and_then(Value::as_object).into_iter().flatten()
}

fn write_type(
    out: &mut String,
    name: &str,
    definition: &Map<String, Value>,
    keys: &BTreeMap<(String, String), String>,
    order: &BTreeMap<&str, usize>,
    used: &mut BTreeSet<(String, String)>,
) -> Result<()> {
    let own = (name.to_owned(), ".".to_owned());
    let map_type = keys.get(&own).and_then(|k| k.split('\t').nth(2)).unwrap_or("-");
    used.insert(own);
    if !definition.contains_key("properties") {
        writeln!(out, "T\t{name}\t{map_type}\t{}", scalar_type(name, definition, order)?)?;
        return Ok(());
    }
    writeln!(out, "T\t{name}\t{map_type}")?;
    let required: Vec<&str> =
        definition.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let is_kind = definition["properties"].get("apiVersion").is_some();
    for (field, schema) in properties(definition) {
        // k8s-openapi makes `metadata` of kinds mandatory; the API does not.
        let needed = required.contains(&field.as_str()) && !(is_kind && field == "metadata");
        let key = (name.to_owned(), field.clone());
        let facts = keys.get(&key).map_or("", String::as_str);
        used.insert(key);
        let line = format!("F\t{field}\t{}\t{}\t{facts}", expression(schema, order)?, if needed { "!" } else { "-" });
        writeln!(out, "{}", line.trim_end_matches(['\t', '-']))?;
    }
    Ok(())
}

/// Named types without properties: the ones with a wire form of their own.
fn scalar_type(name: &str, definition: &Map<String, Value>, order: &BTreeMap<&str, usize>) -> Result<String> {
    let short = name.rsplit('.').next().unwrap_or(name);
    Ok(match short {
        "IntOrString" => "q".to_owned(),
        "Quantity" => "Q".to_owned(),
        "MicroTime" => "u".to_owned(),
        "JSON" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrStringArray" => "a".to_owned(),
        _ => expression(&Value::Object(definition.clone()), order)?,
    })
}

fn expression(schema: &Value, order: &BTreeMap<&str, usize>) -> Result<String> {
    let reference = schema.get("$ref").or_else(|| schema.get("allOf")?.get(0)?.get("$ref")).and_then(Value::as_str);
    if let Some(reference) = reference {
        let name = reference.strip_prefix("#/components/schemas/").ok_or_else(|| format!("reference {reference}"))?;
        return Ok(format!("&{}", order.get(name).ok_or_else(|| format!("no type {name}"))?));
    }
    let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
    Ok(match (schema.get("type").and_then(Value::as_str), format) {
        (Some("string"), "byte") => "B".to_owned(),
        (Some("string"), "date-time") => "t".to_owned(),
        (Some("string"), _) => "s".to_owned(),
        (Some("boolean"), _) => "b".to_owned(),
        (Some("integer"), "int32") => "i".to_owned(),
        (Some("integer"), _) => "l".to_owned(),
        (Some("number"), _) => "n".to_owned(),
        (Some("array"), _) => format!("[{}", expression(&schema["items"], order)?),
        (Some("object"), _) => match schema.get("additionalProperties") {
            Some(item @ Value::Object(_)) => format!("{{{}", expression(item, order)?),
            _ => "o".to_owned(),
        },
        (None, _) if schema.get("x-kubernetes-int-or-string").is_some() => "q".to_owned(),
        (None, _) => "a".to_owned(),
        (Some(other), _) => return Err(format!("type {other}: {schema}").into()),
    })
}

//! YAML to JSON values and back, the way kubectl reads and prints it: YAML 1.1 scalars (`yes`, `0644`),
//! the last of equal keys wins, sorted keys on output, strings quoted where a reader could take them for something else.
use serde_json::Value;

/// Why a text is no YAML, or a value cannot be printed.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    /// The text cannot be read.
    #[error("error converting YAML to JSON")]
    Read {
        /// The parser's message with the line.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// More than one document where one was expected.
    #[error("expected one YAML document, found {found}")]
    Documents {
        /// How many there are.
        found: usize,
    },
    /// The value cannot be printed.
    #[error("cannot print as YAML")]
    Write {
        /// The printer's message.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        legacy_octal_numbers: true,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        with_snippet: false,
    }
}

/// All documents of a stream; empty and comment-only ones are left out.
pub fn documents(text: &str) -> Result<Vec<Value>, YamlError> {
    let all: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options())
        .map_err(|source| YamlError::Read { source: Box::new(source) })?;
    Ok(all.into_iter().filter(|v| !v.is_null()).collect())
}

/// What is said about the first key that stands twice in one map, if any does, in the words of Go's parser.
pub fn doubled_key(text: &str) -> Option<String> {
    let strict = serde_saphyr::options! {
        legacy_octal_numbers: true,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        with_snippet: false,
    };
    // Merge keys and everything else were accepted already; only doubled keys can fail here.
    let error = serde_saphyr::from_multiple_with_options::<Value>(text, strict).err()?;
    let serde_saphyr::Error::DuplicateMappingKey { key, location } = &error else { return Some(error.to_string()) };
    let key = key.as_deref().unwrap_or_default();
    Some(format!("yaml: unmarshal errors:\n  line {}: key {key:?} already set in map", location.line()))
}

/// The only document of a text.
pub fn document(text: &str) -> Result<Value, YamlError> {
    let mut all = documents(text)?;
    match (all.len(), all.pop()) {
        (1, Some(value)) => Ok(value),
        (found, _) => Err(YamlError::Documents { found }),
    }
}

/// The fields of a configuration file beside `apiVersion` and `kind`, which have to be these; the error says what was expected.
pub fn configuration(text: &str, api_version: &str, kind: &str) -> Result<Value, String> {
    if let Some(problem) = doubled_key(text) {
        return Err(problem);
    }
    let mut value = document(text).map_err(|error| crate::causes::chain(&error))?;
    let mut is = |key: &str, wanted: &str| {
        let given = value.as_object_mut().and_then(|fields| fields.remove(key));
        given.is_some_and(|given| given == wanted)
    };
    match is("apiVersion", api_version) && is("kind", kind) {
        true => Ok(value),
        false => Err(format!("expected apiVersion {api_version}, kind {kind}")),
    }
}

/// Prints a value with sorted keys.
pub fn print(value: &Value) -> Result<String, YamlError> {
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    let mut text = serde_saphyr::to_string_with_options(&sorted(value), options)
        .map_err(|source| YamlError::Write { source: Box::new(source) })?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Sorted whatever the order in which `serde_json` keeps its maps.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().map(|(k, v)| (k.clone(), sorted(v))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_as_kubectl_does() {
        for (text, want) in [
            ("a: yes", json!({"a": true})),
            ("a: on", json!({"a": true})),
            ("a: 0644", json!({"a": 420})),
            ("a: 1_000", json!({"a": 1000})),
            ("a: 12:30", json!({"a": "12:30"})),
            ("a: 1\na: 2", json!({"a": 2})),
            ("a: \"yes\"", json!({"a": "yes"})),
            ("m: &m {x: 1}\nn:\n  <<: *m\n  y: 2", json!({"m": {"x": 1}, "n": {"x": 1, "y": 2}})),
        ] {
            assert_eq!(document(text).unwrap(), want, "{text}");
        }
        assert_eq!(documents("---\n# only words\n---\na: 1\n---\n---\nb: 2\n").unwrap().len(), 2);
        assert!(document("a: 1\n---\nb: 2").is_err());
        assert!(document("a: [").is_err());
        assert!(doubled_key("a: 1\nb: 2").is_none());
        let told = doubled_key("a: 1\na: 2").unwrap();
        assert_eq!(told, "yaml: unmarshal errors:\n  line 2: key \"a\" already set in map");
    }

    #[test]
    fn hostile_texts_are_refused() {
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
        assert!(documents(bomb).is_err());
        assert!(documents(&"[".repeat(20_000)).is_err());
    }

    #[test]
    fn printing_round_trips() {
        let value = json!({"z": "yes", "a": "on", "t": "12:30", "n": "1_000", "i": 5, "e": "", "l": [{"k": "v"}], "m": {}, "s": "a\nb\n",
            "long": "word ".repeat(60).trim_end(), "o": "0644", "x": null, "q": [], "c": "#x: y", "f": 1.5});
        let text = print(&value).unwrap();
        assert_eq!(document(&text).unwrap(), value, "{text}");
        assert!(text.starts_with("a: "), "{text}");
    }
}

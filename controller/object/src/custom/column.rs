//! `additionalPrinterColumns`: simple JSON paths into cells of a table.
//! Kubernetes documentation, "Additional printer columns".
use crate::columns::since;
use serde_json::{Value, json};

/// Elements that one step of a path may yield.
const MAX_FOUND: usize = 1_000;

/// A column behind the name.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i64,
    path: Vec<Step>,
}

/// A step of a path.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// `.key`, `['key']`
    Key(String),
    /// `[0]`, `[-1]`
    Index(i64),
    /// `[*]`, `.*`
    All,
    /// `[?(@.a.b=="value")]`
    Where { path: Vec<String>, value: Value, equal: bool },
}

/// The steps of a path; `None` where it is no simple one.
pub(super) fn steps(text: &str) -> Option<Vec<Step>> {
    let mut rest = text.trim().strip_prefix('$').unwrap_or(text.trim());
    if !rest.starts_with(['.', '[']) {
        return None;
    }
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let end = closing(inner)?;
            steps.push(bracket(inner.get(..end)?)?);
            rest = inner.get(end + 1..)?;
            continue;
        }
        rest = rest.strip_prefix('.')?;
        let (name, tail) = name(rest);
        rest = tail;
        match name.as_str() {
            "" if rest.starts_with('[') => {}
            "" => return None,
            "*" => steps.push(Step::All),
            _ => steps.push(Step::Key(name)),
        }
    }
    Some(steps)
}

/// A name up to the next dot or bracket; `\.` is a dot of the name.
fn name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '.' | '[' => return (name, text.get(at..).unwrap_or_default()),
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            c => name.push(c),
        }
    }
    (name, "")
}

/// Where the bracket ends that began before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (None, ']') => return Some(at),
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Option<Step> {
    let text = text.trim();
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(key) = unquoted(text) {
        return Some(Step::Key(key));
    }
    if let Ok(index) = text.parse() {
        return Some(Step::Index(index));
    }
    let condition = text.strip_prefix("?(")?.strip_suffix(')')?.trim().strip_prefix('@')?;
    let (path, value, equal) = match condition.split_once("==") {
        Some((path, value)) => (path, value, true),
        None => {
            let (path, value) = condition.split_once("!=")?;
            (path, value, false)
        }
    };
    let keys = steps(path.trim())?.into_iter().map(|step| if let Step::Key(key) = step { Some(key) } else { None });
    let value = value.trim();
    let value = match unquoted(value) {
        Some(text) => Value::String(text),
        None => serde_json::from_str(value).ok()?,
    };
    Some(Step::Where { path: keys.collect::<Option<_>>()?, value, equal })
}

fn unquoted(text: &str) -> Option<String> {
    ['\'', '"'].into_iter().find_map(|quote| {
        let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
        Some(inner.replace("\\'", "'").replace("\\\"", "\""))
    })
}

/// What a path leads to, the first of several.
fn find<'a>(object: &'a Value, path: &[Step]) -> Option<&'a Value> {
    let mut found = vec![object];
    for step in path {
        let mut next = Vec::new();
        for value in found {
            match step {
                Step::Key(key) => next.extend(value.get(key)),
                Step::Index(index) => next.extend(value.as_array().and_then(|items| {
                    let place = usize::try_from(*index).ok();
                    place
                        .or_else(|| items.len().checked_sub(usize::try_from(index.unsigned_abs()).ok()?))
                        .and_then(|i| items.get(i))
                })),
                Step::All => match value {
                    Value::Array(items) => next.extend(items),
                    Value::Object(map) => next.extend(map.values()),
                    _ => {}
                },
                Step::Where { path, value: wanted, equal } => {
                    next.extend(value.as_array().into_iter().flatten().filter(|item| {
                        let held = path.iter().try_fold(*item, |item, key| item.get(key));
                        held.is_some_and(|held| (held == wanted) == *equal)
                    }));
                }
            }
            if next.len() > MAX_FOUND {
                break;
            }
        }
        found = next;
    }
    found.first().copied()
}

/// The value of a selectable field.
pub(crate) fn selected<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    find(object, &steps(&format!(".{path}"))?)
}

impl Column {
    /// Reads a column of a definition; validation has refused what cannot be read.
    pub(super) fn parse(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        Some(Self {
            name: text("name"),
            kind: text("type"),
            format: text("format"),
            description: text("description"),
            priority: value["priority"].as_i64().unwrap_or(0),
            path: steps(value["jsonPath"].as_str()?)?,
        })
    }

    /// The column of definitions that name none.
    pub(super) fn age() -> Self {
        Self {
            name: "Age".into(),
            kind: "date".into(),
            format: String::new(),
            description: "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata".into(),
            priority: 0,
            path: ["metadata", "creationTimestamp"].map(|key| Step::Key(key.into())).into(),
        }
    }

    fn cell(&self, object: &Value, now_epoch_seconds: i64) -> Value {
        let Some(found) = find(object, &self.path) else { return Value::Null };
        match (self.kind.as_str(), found) {
            ("date", Value::String(text)) => since(text, now_epoch_seconds).into(),
            ("string", Value::String(_)) => found.clone(),
            ("string", Value::Null) => Value::Null,
            ("string", other) => other.to_string().into(),
            ("integer", Value::Number(number)) => {
                number.as_i64().or_else(|| number.as_f64().map(|number| number as i64)).into()
            }
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => found.clone(),
            _ => Value::Null,
        }
    }
}

/// The definitions of a table's columns behind the name.
pub(crate) fn columns(custom: &super::Custom) -> Vec<Value> {
    let one = |column: &Column| {
        json!({"name": column.name, "type": column.kind, "format": column.format, "description": column.description,
            "priority": column.priority})
    };
    custom.columns.iter().map(one).collect()
}

/// The cells of an object behind the name.
pub(crate) fn cells(custom: &super::Custom, object: &Value, now_epoch_seconds: i64) -> Vec<Value> {
    custom.columns.iter().map(|column| column.cell(object, now_epoch_seconds)).collect()
}

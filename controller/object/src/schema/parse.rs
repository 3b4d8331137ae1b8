//! Reads the table that `cargo xtask schema` writes; the form of its lines is described there.
use super::{Field, ListKind, Node, PatchKind, Scalar, Schema, Shape, Type, TypeId};
use std::sync::Arc;

/// Why a table cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// A line has another form.
    #[error("schema line {line}: expected {expected}")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// A reference points past the last type.
    #[error("schema refers to type {id} of {count}")]
    Reference {
        /// The number.
        id: u32,
        /// How many there are.
        count: usize,
    },
}

impl Schema {
    /// Reads a table.
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        let mut schema = Self::default();
        for (index, line) in text.lines().enumerate() {
            let fail = |expected| SchemaError::Line { line: index + 1, expected };
            let mut columns = line.split('\t');
            match columns.next() {
                Some("T") => {
                    let name: Arc<str> = columns.next().ok_or_else(|| fail("a type's name"))?.into();
                    let atomic = columns.next() == Some("atomic");
                    let shape = match columns.next() {
                        Some(expression) => Shape::Alias(node(expression).ok_or_else(|| fail("a type expression"))?),
                        None => Shape::Struct(Vec::new()),
                    };
                    let id = TypeId(u32::try_from(schema.types.len()).map_err(|_| fail("fewer types"))?);
                    schema.names.insert(Arc::clone(&name), id);
                    schema.types.push(Type { name, atomic, is_open: false, shape });
                }
                Some("F") => {
                    let name = columns.next().ok_or_else(|| fail("a field's name"))?.into();
                    let node = columns.next().and_then(node).ok_or_else(|| fail("a type expression"))?;
                    let field = field(name, node, columns);
                    match schema.types.last_mut().map(|t| &mut t.shape) {
                        Some(Shape::Struct(fields)) => fields.push(field),
                        Some(Shape::Alias(_)) | None => return Err(fail("a type before its fields")),
                    }
                }
                _ => return Err(fail("T or F")),
            }
        }
        schema.finish()
    }

    fn finish(mut self) -> Result<Self, SchemaError> {
        let count = self.types.len();
        for kind in &mut self.types {
            match &mut kind.shape {
                Shape::Struct(fields) => {
                    fields.sort_by(|a, b| a.name.cmp(&b.name));
                    fields.iter().try_for_each(|f| check(&f.node, count))?;
                }
                Shape::Alias(node) => check(node, count)?,
            }
        }
        Ok(self)
    }
}

fn check(node: &Node, count: usize) -> Result<(), SchemaError> {
    match node {
        Node::Ref(TypeId(id)) if *id as usize >= count => Err(SchemaError::Reference { id: *id, count }),
        Node::List(item) | Node::Map(item) => check(item, count),
        Node::Ref(_) | Node::Scalar(_) | Node::Object | Node::Any | Node::Deduced => Ok(()),
    }
}

fn field<'a>(name: Box<str>, node: Node, mut columns: impl Iterator<Item = &'a str>) -> Field {
    let required = columns.next() == Some("!");
    let mut next = || columns.next().filter(|text| *text != "-" && !text.is_empty());
    let (list, keys, map) = (next(), next(), next());
    let (strategy, key) = (next().unwrap_or_default(), next());
    let list_kind = match list {
        Some("set") => ListKind::Set,
        Some("map") => ListKind::Map(keys.unwrap_or_default().split(',').map(Into::into).collect()),
        _ => ListKind::Atomic,
    };
    let patch = PatchKind {
        merge: strategy.split(',').any(|s| s == "merge"),
        replace: strategy.split(',').any(|s| s == "replace"),
        retain_keys: strategy.split(',').any(|s| s == "retainKeys"),
        key: key.map(Into::into),
    };
    Field {
        name,
        node,
        required,
        list: list_kind,
        list_stated: list.is_some(),
        atomic: map.map(|m| m == "atomic"),
        patch,
    }
}

fn node(expression: &str) -> Option<Node> {
    if let Some(item) = expression.strip_prefix('[') {
        return Some(Node::List(Box::new(node(item)?)));
    }
    if let Some(item) = expression.strip_prefix('{') {
        return Some(Node::Map(Box::new(node(item)?)));
    }
    if let Some(id) = expression.strip_prefix('&') {
        return Some(Node::Ref(TypeId(id.parse().ok()?)));
    }
    Some(match expression {
        "s" => Node::Scalar(Scalar::String),
        "t" => Node::Scalar(Scalar::Time),
        "u" => Node::Scalar(Scalar::MicroTime),
        "B" => Node::Scalar(Scalar::Bytes),
        "b" => Node::Scalar(Scalar::Bool),
        "i" => Node::Scalar(Scalar::Int32),
        "l" => Node::Scalar(Scalar::Int64),
        "n" => Node::Scalar(Scalar::Number),
        "q" => Node::Scalar(Scalar::IntOrString),
        "Q" => Node::Scalar(Scalar::Quantity),
        "o" => Node::Object,
        "a" => Node::Any,
        _ => return None,
    })
}

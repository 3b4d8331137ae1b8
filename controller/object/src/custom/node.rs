//! A structural schema, taken apart. Kubernetes documentation, "Specifying a structural schema".
use super::constraint::Constraint;
use super::rule::Rule;
use crate::schema::ListKind;
use serde_json::Value;
use std::collections::BTreeMap;

/// The type of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing is said.
    #[default]
    Any,
    /// A JSON object.
    Object,
    /// A JSON array.
    Array,
    /// Text.
    String,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// `x-kubernetes-int-or-string`
    IntOrString,
}

impl Kind {
    /// The word in schemas; empty where nothing is said.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Any | Self::IntOrString => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    /// The type of a word.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::Object, Self::Array, Self::String, Self::Integer, Self::Number, Self::Boolean]
            .into_iter()
            .find(|kind| kind.as_str() == word)
    }

    /// Whether a value is of this type.
    pub(crate) fn fits(self, value: &Value) -> bool {
        match self {
            Self::Any => true,
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::String => value.is_string(),
            Self::Integer => is_integer(value),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::IntOrString => value.is_string() || is_integer(value),
        }
    }
}

/// Whether a number is whole; `1.0` is.
pub(crate) fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

/// The schema's word for the type of a value.
pub(crate) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_integer(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What an object's keys beyond its properties hold.
#[derive(Clone, Debug, Default)]
pub(crate) enum Additional {
    /// There are none.
    #[default]
    None,
    /// Anything.
    Any,
    /// Values of this schema.
    Schema(Box<Node>),
}

/// The schema of a value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) nullable: bool,
    /// `x-kubernetes-preserve-unknown-fields`
    pub(crate) preserve: bool,
    /// `x-kubernetes-embedded-resource`
    pub(crate) embedded: bool,
    pub(crate) default: Option<Value>,
    pub(crate) properties: BTreeMap<String, Box<Node>>,
    pub(crate) additional: Additional,
    pub(crate) items: Option<Box<Node>>,
    /// `x-kubernetes-list-type` and `-map-keys`.
    pub(crate) list: Option<ListKind>,
    /// `x-kubernetes-map-type`: `Some(true)` atomic.
    pub(crate) map_atomic: Option<bool>,
    /// Absent where it would say nothing: most nodes have none, and it is large.
    pub(super) constraint: Option<Box<Constraint>>,
    pub(crate) rules: Vec<Rule>,
    /// Whether a rule stands here or below.
    pub(crate) has_rules: bool,
    /// Whether a default stands here or below.
    pub(crate) has_defaults: bool,
}

impl Node {
    /// The constraints on values.
    pub(crate) fn constraint(&self) -> &Constraint {
        static NONE: Constraint = Constraint::NONE;
        self.constraint.as_deref().unwrap_or(&NONE)
    }

    /// Sets the constraints on values.
    pub(crate) fn constrain(&mut self, constraint: Constraint) {
        self.constraint = (!constraint.is_empty()).then(|| Box::new(constraint));
    }

    /// The schema of a property.
    pub(crate) fn property(&self, name: &str) -> Option<&Node> {
        self.properties.get(name).map(|node| &**node)
    }

    /// The schema of a field: a property, or what all other keys hold.
    pub(crate) fn field(&self, name: &str) -> Option<&Node> {
        self.property(name).or(match &self.additional {
            Additional::Schema(node) => Some(node),
            Additional::None | Additional::Any => None,
        })
    }

    /// Whether keys beyond the properties stay.
    pub(crate) fn keeps_unknown(&self) -> bool {
        self.preserve || matches!(self.additional, Additional::Any)
    }
}

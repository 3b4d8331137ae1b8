//! Value validations: what JSON schema says about a value besides its type. Messages are those of Kubernetes' OpenAPI
//! validation (k8s.io/kube-openapi, `pkg/validation`).
use super::format;
use super::node::{Kind, is_integer, type_of};
use crate::status::{Cause, CauseReason};
use controller_cel::pattern;
use regex::Regex;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::sync::OnceLock;

/// Faults of one object that are told.
pub(crate) const MAX_FAULTS: usize = 100;
/// Comparisons that validating one object may take.
const MAX_STEPS: usize = 10_000_000;
/// Allowed values that a message lists.
const MAX_LISTED: usize = 50;

/// The constraints on a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Constraint {
    /// Only inside `anyOf` and the like of int-or-string fields; elsewhere the node has it.
    pub(crate) kind: Kind,
    pub(crate) enumeration: Option<Vec<Value>>,
    pub(crate) format: Option<String>,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) minimum: Option<(serde_json::Number, bool)>,
    pub(crate) maximum: Option<(serde_json::Number, bool)>,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) unique_items: bool,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) required: Vec<String>,
    pub(crate) all_of: Vec<Constraint>,
    pub(crate) any_of: Vec<Constraint>,
    pub(crate) one_of: Vec<Constraint>,
    pub(crate) not: Option<Box<Constraint>>,
    /// Below a junctor only.
    pub(crate) properties: BTreeMap<String, Constraint>,
    /// Below a junctor only.
    pub(crate) items: Option<Box<Constraint>>,
}

/// A regular expression, compiled when it is first needed: definitions have many, and most are never used.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    source: Box<str>,
    compiled: OnceLock<Option<Regex>>,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Pattern {
    pub(crate) fn new(source: &str) -> Self {
        Self { source: source.into(), compiled: OnceLock::new() }
    }

    /// Anchors are the author's: a pattern may match anywhere. One that cannot be compiled was refused with its
    /// definition; it holds nothing up.
    fn is_match(&self, text: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| pattern::compile(&self.source).ok());
        compiled.as_ref().is_none_or(|regex| regex.is_match(text))
    }
}

/// Collects faults, up to a limit, and counts what looking for them takes.
#[derive(Debug)]
pub(crate) struct Faults {
    pub(crate) causes: Vec<Cause>,
    steps: usize,
}

impl Default for Faults {
    fn default() -> Self {
        Self { causes: Vec::new(), steps: MAX_STEPS }
    }
}

impl Faults {
    /// Pays for so many comparisons of a value; says whether they may be done. Large schemas times large objects
    /// would take minutes.
    fn pay(&mut self, path: &str, steps: usize) -> bool {
        if self.steps == 0 {
            return false;
        }
        self.steps = self.steps.saturating_sub(steps.max(1));
        if self.steps == 0 {
            self.causes.push(Cause::forbidden(path, "the object is too large for a schema as complex as this one"));
        }
        self.steps > 0
    }

    pub(crate) fn add(&mut self, cause: Cause) {
        if self.causes.len() < MAX_FAULTS {
            self.causes.push(cause);
        }
    }

    /// Whether no further fault would be told.
    pub(crate) fn is_full(&self) -> bool {
        self.causes.len() >= MAX_FAULTS
    }

    /// The fault of a value whose type is wrong.
    pub(crate) fn wrong_type(&mut self, path: &str, value: &Value, want: &str) {
        let found = type_of(value);
        let detail = format!("{} in body must be of type {want}: {found:?}", told(path));
        let mut cause = Cause::invalid(path, &found.into(), &detail);
        cause.reason = CauseReason::TypeInvalid;
        self.add(cause);
    }

    fn body(&mut self, path: &str, value: &Value, detail: &str) {
        self.add(Cause::invalid(path, value, &format!("{} in body {detail}", told(path))));
    }
}

fn told(path: &str) -> &str {
    if path.is_empty() { "<nil>" } else { path }
}

/// `path.key`
pub(crate) fn child(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

impl Constraint {
    /// Nothing is demanded.
    pub(crate) const NONE: Self = Self {
        kind: Kind::Any,
        enumeration: None,
        format: None,
        pattern: None,
        minimum: None,
        maximum: None,
        multiple_of: None,
        min_length: None,
        max_length: None,
        min_items: None,
        max_items: None,
        unique_items: false,
        min_properties: None,
        max_properties: None,
        required: Vec::new(),
        all_of: Vec::new(),
        any_of: Vec::new(),
        one_of: Vec::new(),
        not: None,
        properties: BTreeMap::new(),
        items: None,
    };

    /// Whether every value fits.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// Finds what is wrong with a value. A type that does not fit is the caller's to tell.
    pub(crate) fn check(&self, path: &str, value: &Value, faults: &mut Faults) {
        let choices = self.enumeration.as_ref().map_or(0, Vec::len);
        if faults.is_full() || !faults.pay(path, 1 + choices) {
            return;
        }
        if !self.kind.fits(value) {
            faults.wrong_type(path, value, self.kind.as_str());
            return;
        }
        if let Some(allowed) = &self.enumeration
            && !allowed.contains(value)
        {
            let mut listed: Vec<String> = allowed.iter().take(MAX_LISTED).map(shown).collect();
            if allowed.len() > MAX_LISTED {
                listed.push("...".into());
            }
            let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
            faults.add(Cause::unsupported(path, value, &listed));
        }
        match value {
            Value::String(text) => self.text(path, value, text, faults),
            Value::Number(number) => self.number(path, value, number, faults),
            Value::Array(items) => self.list(path, value, items, faults),
            Value::Object(map) => self.map(path, value, map, faults),
            Value::Null | Value::Bool(_) => {}
        }
        self.junctors(path, value, faults);
    }

    fn text(&self, path: &str, value: &Value, text: &str, faults: &mut Faults) {
        let length = text.chars().count() as u64;
        if let Some(max) = self.max_length.filter(|max| length > *max) {
            faults.add(Cause::too_long(path, usize::try_from(max).unwrap_or(usize::MAX)));
        }
        if let Some(min) = self.min_length.filter(|min| length < *min) {
            faults.body(path, value, &format!("should be at least {min} chars long"));
        }
        if let Some(pattern) = &self.pattern
            && !pattern.is_match(text)
        {
            faults.body(path, value, &format!("should match '{}'", pattern.source));
        }
        if let Some(format) = &self.format
            && !format::is_valid(format, text)
        {
            faults.body(path, value, &format!("must be of type {format}: {text:?}"));
        }
    }

    fn number(&self, path: &str, value: &Value, number: &serde_json::Number, faults: &mut Faults) {
        if let Some((limit, exclusive)) = &self.minimum {
            let order = compare(number, limit);
            if order.is_lt() || *exclusive && order.is_eq() {
                let words = if *exclusive { "should be greater than" } else { "should be greater than or equal to" };
                faults.body(path, value, &format!("{words} {limit}"));
            }
        }
        if let Some((limit, exclusive)) = &self.maximum {
            let order = compare(number, limit);
            if order.is_gt() || *exclusive && order.is_eq() {
                let words = if *exclusive { "should be less than" } else { "should be less than or equal to" };
                faults.body(path, value, &format!("{words} {limit}"));
            }
        }
        if let (Some(factor), Some(number)) = (self.multiple_of, number.as_f64()) {
            let quotient = number / factor;
            if factor <= 0.0 || quotient.fract() != 0.0 {
                faults.body(path, value, &format!("should be a multiple of {factor}"));
            }
        }
        let fits = match self.format.as_deref() {
            Some("int32") => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) || !is_integer(value),
            Some("int64") => value.is_i64() || !is_integer(value),
            _ => true,
        };
        if !fits {
            let format = self.format.as_deref().unwrap_or_default();
            faults.body(path, value, &format!("must be of type {format}: {number}"));
        }
    }

    fn list(&self, path: &str, value: &Value, items: &[Value], faults: &mut Faults) {
        let count = items.len() as u64;
        if let Some(max) = self.max_items.filter(|max| count > *max) {
            faults.add(Cause::too_many(path, items.len(), usize::try_from(max).unwrap_or(usize::MAX)));
        }
        if let Some(min) = self.min_items.filter(|min| count < *min) {
            faults.body(path, value, &format!("should have at least {min} items"));
        }
        if self.unique_items && has_doubles(items) {
            faults.body(path, value, "shouldn't contain duplicates");
        }
        if let Some(constraint) = &self.items {
            for (index, item) in items.iter().enumerate() {
                constraint.check(&format!("{path}[{index}]"), item, faults);
            }
        }
    }

    fn map(&self, path: &str, value: &Value, map: &serde_json::Map<String, Value>, faults: &mut Faults) {
        let count = map.len() as u64;
        if let Some(max) = self.max_properties.filter(|max| count > *max) {
            faults.add(Cause::too_many(path, map.len(), usize::try_from(max).unwrap_or(usize::MAX)));
        }
        if let Some(min) = self.min_properties.filter(|min| count < *min) {
            faults.body(path, value, &format!("should have at least {min} properties"));
        }
        for name in self.required.iter().filter(|name| !map.contains_key(*name)) {
            faults.add(Cause::required(child(path, name), ""));
        }
        for (name, constraint) in &self.properties {
            if let Some(value) = map.get(name) {
                constraint.check(&child(path, name), value, faults);
            }
        }
    }

    fn junctors(&self, path: &str, value: &Value, faults: &mut Faults) {
        let fits = |constraint: &Constraint, faults: &mut Faults| {
            let mut inner = Faults { causes: Vec::new(), steps: faults.steps };
            constraint.check(path, value, &mut inner);
            faults.steps = inner.steps.max(1);
            if inner.steps == 0 {
                faults.pay(path, 1);
            }
            inner.causes.is_empty()
        };
        for constraint in &self.all_of {
            constraint.check(path, value, faults);
        }
        if !self.any_of.is_empty() && !self.any_of.iter().any(|constraint| fits(constraint, faults)) {
            faults.body(path, value, "must validate at least one schema (anyOf)");
        }
        if !self.one_of.is_empty() {
            let found = self.one_of.iter().filter(|constraint| fits(constraint, faults)).count();
            if found != 1 {
                let found = if found == 0 { "none valid".to_owned() } else { format!("{found} valid alternatives") };
                faults.body(path, value, &format!("must validate one and only one schema (oneOf). Found {found}"));
            }
        }
        if self.not.as_ref().is_some_and(|constraint| fits(constraint, faults)) {
            faults.body(path, value, "must not validate the schema (not)");
        }
    }
}

/// An allowed value as messages show it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().take(200).collect(),
        other => other.to_string().chars().take(200).collect(),
    }
}

fn compare(left: &serde_json::Number, right: &serde_json::Number) -> std::cmp::Ordering {
    match (left.as_i64(), right.as_i64()) {
        (Some(left), Some(right)) => left.cmp(&right),
        _ => {
            let (left, right) = (left.as_f64().unwrap_or(f64::NAN), right.as_f64().unwrap_or(f64::NAN));
            left.partial_cmp(&right).unwrap_or(std::cmp::Ordering::Equal)
        }
    }
}

/// Whether two elements are equal. Text of JSON is canonical here: maps are sorted.
pub(crate) fn has_doubles(items: &[Value]) -> bool {
    let mut seen = HashSet::with_capacity(items.len());
    !items.iter().all(|item| seen.insert(item.to_string()))
}

//! Macros over lists and maps.
use super::ast::{Comprehension, Expr, Macro};
use super::evaluate::{Scope, no_overload};
use super::operator::ELEMENT_COST;
use super::{EvaluationError, convert, total};
use kube_cel::cel::Value;
use kube_cel::cel::objects::Key;
use std::collections::HashMap;
use std::sync::Arc;

/// What has come of the elements so far.
enum Outcome {
    /// `all`, `exists`: the value that decides, and an error that counts if nothing does.
    Decision {
        decisive: bool,
        failed: Option<EvaluationError>,
    },
    Count(usize),
    List(Vec<Value>),
    Map(HashMap<Key, Value>),
}

pub(super) fn run<'e>(scope: &mut Scope<'_, 'e>, it: &'e Comprehension) -> Result<Value, EvaluationError> {
    let range = scope.value(&it.range)?;
    let mut result = match it.kind {
        Macro::All => Outcome::Decision { decisive: false, failed: None },
        Macro::Exists => Outcome::Decision { decisive: true, failed: None },
        Macro::ExistsOne => Outcome::Count(0),
        Macro::Filter | Macro::Map | Macro::TransformList => Outcome::List(Vec::new()),
        Macro::TransformMap | Macro::TransformMapEntry => Outcome::Map(HashMap::new()),
    };
    let outer = scope.locals.len();
    let ended = match &range {
        Value::List(items) => items.iter().enumerate().try_for_each(|(index, item)| {
            // The index fits: no list has more elements than an i64 counts.
            visit(scope, it, &mut result, Value::Int(index as i64), item, item)
        }),
        other => match total::as_map(other) {
            Some((map, _)) => {
                let mut keys: Vec<&Key> = map.map.keys().collect();
                keys.sort();
                keys.into_iter().try_for_each(|key| {
                    let (key, element) = (Value::from(key), map.map.get(key).unwrap_or(&Value::Null));
                    visit(scope, it, &mut result, key.clone(), element, &key)
                })
            }
            None => Err(End::Failed(no_overload("comprehension", other))),
        },
    };
    scope.locals.truncate(outer);
    match ended {
        Err(End::Decided(value)) => Ok(Value::Bool(value)),
        Err(End::Failed(error)) => Err(error),
        Ok(()) => match result {
            Outcome::Decision { failed: Some(error), .. } => Err(error),
            Outcome::Decision { decisive, failed: None } => Ok(Value::Bool(!decisive)),
            Outcome::Count(count) => Ok(Value::Bool(count == 1)),
            Outcome::List(items) => Ok(Value::List(Arc::new(items))),
            Outcome::Map(map) => Ok(convert::map_of(map)),
        },
    }
}

/// Why no further element is looked at.
enum End {
    Decided(bool),
    Failed(EvaluationError),
}

impl From<EvaluationError> for End {
    fn from(error: EvaluationError) -> Self {
        Self::Failed(error)
    }
}

/// One element. A variable alone is `single`: a list's element or a map's key. Two are index or key, and element.
fn visit<'e>(
    scope: &mut Scope<'_, 'e>,
    it: &'e Comprehension,
    result: &mut Outcome,
    key: Value,
    element: &Value,
    single: &Value,
) -> Result<(), End> {
    scope.budget.charge(1)?;
    let outer = scope.locals.len();
    match &it.second {
        Some(second) => {
            scope.locals.push((&it.first, key.clone()));
            scope.locals.push((second, element.clone()));
        }
        None => scope.locals.push((&it.first, single.clone())),
    }
    let outcome = step(scope, it, result, &key, single);
    scope.locals.truncate(outer);
    outcome
}

fn step<'e>(
    scope: &mut Scope<'_, 'e>,
    it: &'e Comprehension,
    result: &mut Outcome,
    key: &Value,
    single: &Value,
) -> Result<(), End> {
    if let Some(condition) = &it.condition
        && !holds(scope, condition)?
    {
        return Ok(());
    }
    match result {
        Outcome::Decision { decisive, failed } => match scope.value(&it.body) {
            Ok(Value::Bool(value)) if value == *decisive => Err(End::Decided(value)),
            Ok(Value::Bool(_)) => Ok(()),
            Ok(other) => {
                failed.get_or_insert_with(|| no_overload("_&&_", &other));
                Ok(())
            }
            Err(error) if error.ends_everything() => Err(End::Failed(error)),
            Err(error) => {
                failed.get_or_insert(error);
                Ok(())
            }
        },
        Outcome::Count(count) => {
            *count += usize::from(holds(scope, &it.body)?);
            Ok(())
        }
        Outcome::List(items) => {
            let item = match it.kind {
                Macro::Filter => holds(scope, &it.body)?.then(|| single.clone()),
                _ => Some(scope.value(&it.body)?),
            };
            if let Some(item) = item {
                scope.budget.charge(ELEMENT_COST)?;
                items.push(item);
            }
            Ok(())
        }
        Outcome::Map(map) => {
            let value = scope.value(&it.body)?;
            scope.budget.charge(ELEMENT_COST)?;
            insert(it.kind, map, key, value).map_err(End::Failed)
        }
    }
}

fn insert(kind: Macro, map: &mut HashMap<Key, Value>, key: &Value, value: Value) -> Result<(), EvaluationError> {
    let entries: Vec<(Key, Value)> = match (kind, &value) {
        (Macro::TransformMapEntry, Value::Map(entry)) => {
            entry.map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
        }
        (Macro::TransformMapEntry, other) => return Err(no_overload("transformMapEntry", other)),
        _ => match key.clone().try_into() {
            Ok(key) => vec![(key, value)],
            Err(other) => return Err(no_overload("transformMap", &other)),
        },
    };
    for (key, value) in entries {
        if map.contains_key(&key) {
            return Err(EvaluationError::Function(format!("insert failed: key {key} already exists")));
        }
        map.insert(key, value);
    }
    Ok(())
}

fn holds<'e>(scope: &mut Scope<'_, 'e>, condition: &'e Expr) -> Result<bool, EvaluationError> {
    match scope.value(condition)? {
        Value::Bool(value) => Ok(value),
        other => Err(no_overload("@not_strictly_false", &other)),
    }
}

//! Operators on values.
use super::ast::Operator;
use super::budget::Budget;
use super::{EvaluationError, Value, total};
use kube_cel::cel::objects::{Key, OptionalValue, ValueType};
use std::cmp::Ordering;
use std::sync::Arc;

/// Longest text that an expression may make, in bytes: no object that holds it could be stored.
pub(super) const MAX_TEXT: usize = 3 << 20;
/// Making a list costs so much per element, for what it takes in memory.
pub(super) const ELEMENT_COST: usize = 4;

/// The language's word for the type of a value.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value.type_of() {
        ValueType::List => "list",
        ValueType::Map => "map",
        ValueType::Int => "int",
        ValueType::UInt => "uint",
        ValueType::Float => "double",
        ValueType::String => "string",
        ValueType::Bytes => "bytes",
        ValueType::Bool => "bool",
        ValueType::Duration => "google.protobuf.Duration",
        ValueType::Timestamp => "google.protobuf.Timestamp",
        ValueType::Null => "null_type",
        ValueType::Function => "function",
        ValueType::Opaque => match value {
            Value::Opaque(opaque) if opaque.downcast_ref::<OptionalValue>().is_some() => "optional_type",
            _ => "object",
        },
    }
}

/// Pays for a copy of a value, `each` for every element. Values share parts, so a small one may be endless when it is
/// copied; the walk ends where the budget does.
pub(super) fn charge_copy(value: &Value, each: usize, budget: &Budget<'_>) -> Result<(), EvaluationError> {
    match value {
        Value::String(text) => budget.charge(1 + text.len() / 4),
        Value::Bytes(bytes) => budget.charge(1 + bytes.len() / 4),
        Value::List(items) => {
            budget.charge(each.saturating_mul(items.len()))?;
            items.iter().try_for_each(|item| charge_copy(item, each, budget))
        }
        Value::Map(map) => {
            budget.charge(each.saturating_mul(map.map.len()))?;
            map.map.values().try_for_each(|item| charge_copy(item, each, budget))
        }
        _ => budget.charge(1),
    }
}

/// What it costs to look at a text or number.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => 1 + text.len() / 10,
        Value::Bytes(bytes) => 1 + bytes.len() / 10,
        _ => 1,
    }
}

/// Whether two values are equal. Pays as it goes.
fn equal(left: &Value, right: &Value, budget: &Budget<'_>) -> Result<bool, EvaluationError> {
    budget.charge(weight(left).min(weight(right)))?;
    match (left, right) {
        (Value::List(left), Value::List(right)) => {
            if left.len() != right.len() {
                return Ok(false);
            }
            for (left, right) in left.iter().zip(right.iter()) {
                if !equal(left, right, budget)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Value::Map(left), Value::Map(right)) => {
            if left.map.len() != right.map.len() {
                return Ok(false);
            }
            for (key, left) in left.map.iter() {
                match right.get(key) {
                    Some(right) if equal(left, right, budget)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (left, right) => Ok(left == right),
    }
}

fn no_overload(operator: Operator, left: &Value, right: &Value) -> EvaluationError {
    let symbol = match operator {
        Operator::Add => "_+_",
        Operator::Subtract => "_-_",
        Operator::Multiply => "_*_",
        Operator::Divide => "_/_",
        Operator::Modulo => "_%_",
        Operator::Equal => "_==_",
        Operator::NotEqual => "_!=_",
        Operator::Less => "_<_",
        Operator::LessOrEqual => "_<=_",
        Operator::Greater => "_>_",
        Operator::GreaterOrEqual => "_>=_",
        Operator::In => "@in",
    };
    EvaluationError::NoSuchOverload(format!("'{symbol}' applied to '({}, {})'", type_name(left), type_name(right)))
}

/// The result of a binary operator.
pub(super) fn binary(
    operator: Operator,
    left: Value,
    right: Value,
    budget: &Budget<'_>,
) -> Result<Value, EvaluationError> {
    match operator {
        Operator::Equal | Operator::NotEqual => {
            Ok(Value::Bool(equal(&left, &right, budget)? == (operator == Operator::Equal)))
        }
        Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
            budget.charge(weight(&left).min(weight(&right)))?;
            // Null has an order in the value type, but not in the language.
            let order = match (&left, &right) {
                (Value::Null, _) | (_, Value::Null) => None,
                _ => left.partial_cmp(&right),
            };
            let not_a_number = |value: &Value| matches!(value, Value::Float(number) if number.is_nan());
            let holds = match (order, operator) {
                (None, _) if not_a_number(&left) || not_a_number(&right) => false,
                (None, _) => return Err(no_overload(operator, &left, &right)),
                (Some(order), Operator::Less) => order == Ordering::Less,
                (Some(order), Operator::LessOrEqual) => order != Ordering::Greater,
                (Some(order), Operator::Greater) => order == Ordering::Greater,
                (Some(order), _) => order != Ordering::Less,
            };
            Ok(Value::Bool(holds))
        }
        Operator::In => contains(&left, &right, budget).map(Value::Bool),
        Operator::Add => add(left, right, budget),
        Operator::Subtract | Operator::Multiply | Operator::Divide | Operator::Modulo => {
            arithmetic(operator, left, right)
        }
    }
}

fn contains(left: &Value, right: &Value, budget: &Budget<'_>) -> Result<bool, EvaluationError> {
    match right {
        Value::List(items) => {
            for item in items.iter() {
                if equal(item, left, budget)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => match (total::as_map(right), left.clone().try_into()) {
            (Some((map, _)), Ok(key)) => Ok(map.get(&key as &Key).is_some()),
            _ => Err(no_overload(Operator::In, left, right)),
        },
    }
}

fn add(left: Value, right: Value, budget: &Budget<'_>) -> Result<Value, EvaluationError> {
    match (left, right) {
        (Value::String(left), Value::String(right)) => {
            let length = left.len() + right.len();
            text_fits(length)?;
            budget.charge(1 + length / 4)?;
            let mut text = String::with_capacity(length);
            text.push_str(&left);
            text.push_str(&right);
            Ok(Value::String(Arc::new(text)))
        }
        (Value::Bytes(left), Value::Bytes(right)) => {
            text_fits(left.len() + right.len())?;
            budget.charge(1 + (left.len() + right.len()) / 4)?;
            Ok(Value::Bytes(Arc::new([left.as_slice(), right.as_slice()].concat())))
        }
        (Value::List(left), Value::List(right)) => {
            budget.charge(ELEMENT_COST * (left.len() + right.len()))?;
            Ok(Value::List(Arc::new(left.iter().chain(right.iter()).cloned().collect())))
        }
        (left, right) => arithmetic(Operator::Add, left, right),
    }
}

/// Refuses texts that would be too long.
pub(super) fn text_fits(length: usize) -> Result<(), EvaluationError> {
    match length > MAX_TEXT {
        true => Err(EvaluationError::Function(format!("text is longer than {MAX_TEXT} bytes"))),
        false => Ok(()),
    }
}

fn arithmetic(operator: Operator, left: Value, right: Value) -> Result<Value, EvaluationError> {
    use kube_cel::cel::ExecutionError;
    let refused = no_overload(operator, &left, &right);
    let result = match operator {
        Operator::Add => left + right,
        Operator::Subtract => left - right,
        Operator::Multiply => left * right,
        Operator::Divide => left / right,
        _ => left % right,
    };
    result.map_err(|error| match error {
        ExecutionError::DivisionByZero(_) => EvaluationError::Function("divide by zero".into()),
        ExecutionError::RemainderByZero(_) => EvaluationError::Function("modulus by zero".into()),
        ExecutionError::Overflow(..) => EvaluationError::Function("integer overflow".into()),
        _ => refused,
    })
}

/// The value with its sign changed.
pub(super) fn negate(value: Value) -> Result<Value, EvaluationError> {
    match value {
        Value::Int(number) => {
            let negated = number.checked_neg().map(Value::Int);
            negated.ok_or_else(|| EvaluationError::Function("integer overflow".into()))
        }
        Value::Float(number) => Ok(Value::Float(-number)),
        other => Err(EvaluationError::NoSuchOverload(format!("'-_' applied to '({})'", type_name(&other)))),
    }
}

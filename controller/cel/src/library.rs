//! Functions. What is simple, or unsafe to leave to others, is done here; the Kubernetes libraries come from
//! `kube-cel`, whose functions are called only after their cost is paid and their arguments are checked.
use super::ast::Call;
use super::budget::Budget;
use super::check::{TYPE_NAMES, Type};
use super::evaluate::{none, optional, some};
use super::operator::{self, ELEMENT_COST, text_fits, type_name};
use super::{EvaluationError, Value, pattern};
use kube_cel::KubeCelExt as _;
use kube_cel::cel::objects::{Opaque, ValueType};
use kube_cel::cel::{Context, ExecutionError};
use std::sync::Arc;

/// Functions that answer a bool.
const PREDICATES: [&str; 37] = [
    "bool",
    "contains",
    "containsCIDR",
    "containsIP",
    "endsWith",
    "hasValue",
    "ip.isCanonical",
    "isCIDR",
    "isGlobalUnicast",
    "isGreaterThan",
    "isIP",
    "isInteger",
    "isLessThan",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isLoopback",
    "isQuantity",
    "isSemver",
    "isSorted",
    "isURL",
    "isUnspecified",
    "matches",
    "math.isFinite",
    "math.isInf",
    "math.isNaN",
    "sets.contains",
    "sets.equivalent",
    "sets.intersects",
    "startsWith",
    "isCIDRv4",
    "isCIDRv6",
    "isIPv4",
    "isIPv6",
    "allowed",
    "errored",
    "isCanonical",
    "isMasked",
];
/// Functions that answer text.
const TEXTS: [&str; 21] = [
    "base64.encode",
    "charAt",
    "error",
    "find",
    "format",
    "getEscapedPath",
    "getHost",
    "getHostname",
    "getPort",
    "getScheme",
    "join",
    "jsonpatch.escapeKey",
    "lowerAscii",
    "reason",
    "replace",
    "reverse",
    "string",
    "strings.quote",
    "substring",
    "trim",
    "upperAscii",
];
/// Every other function.
const OTHERS: [&str; 99] = [
    "add",
    "asApproximateFloat",
    "asInteger",
    "base64.decode",
    "bytes",
    "cidr",
    "compareTo",
    "distinct",
    "double",
    "duration",
    "dyn",
    "family",
    "findAll",
    "first",
    "flatten",
    "format.byte",
    "format.date",
    "format.datetime",
    "format.dns1035Label",
    "format.dns1035LabelPrefix",
    "format.dns1123Label",
    "format.dns1123LabelPrefix",
    "format.dns1123Subdomain",
    "format.dns1123SubdomainPrefix",
    "format.labelValue",
    "format.named",
    "format.qualifiedName",
    "format.uri",
    "format.uuid",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getQuery",
    "getSeconds",
    "indexOf",
    "int",
    "ip",
    "last",
    "lastIndexOf",
    "lists.range",
    "major",
    "masked",
    "math.abs",
    "math.bitAnd",
    "math.bitNot",
    "math.bitOr",
    "math.bitShiftLeft",
    "math.bitShiftRight",
    "math.bitXor",
    "math.ceil",
    "math.floor",
    "math.greatest",
    "math.least",
    "math.round",
    "math.sign",
    "math.sqrt",
    "math.trunc",
    "max",
    "min",
    "minor",
    "optional.none",
    "optional.of",
    "optional.ofNonZeroValue",
    "or",
    "orValue",
    "patch",
    "prefixLength",
    "quantity",
    "semver",
    "sign",
    "size",
    "slice",
    "sort",
    "split",
    "sub",
    "sum",
    "timestamp",
    "type",
    "uint",
    "url",
    "validate",
    "value",
    "unwrapOpt",
    // Methods of the authorizer.
    "check",
    "fieldSelector",
    "group",
    "labelSelector",
    "name",
    "namespace",
    "path",
    "resource",
    "serviceAccount",
    "subresource",
];
/// A function of a library copies lists and maps that it is given; each element costs so much.
const COPY_COST: usize = 20;
/// More digits than this are never asked for in earnest.
const MAX_PRECISION: usize = 100;
/// Longest quantity whose arithmetic stays within 128 bits.
const MAX_QUANTITY: usize = 20;
const MAX_QUANTITY_EXPONENT: i32 = 18;

/// Whether there is such a function.
pub(super) fn is_known(function: &str) -> bool {
    PREDICATES.contains(&function) || TEXTS.contains(&function) || OTHERS.contains(&function)
}

pub(super) fn result_type(function: &str) -> Type {
    match function {
        "size" | "indexOf" | "lastIndexOf" => Type::Number,
        "reverse" => Type::Dyn,
        name if PREDICATES.contains(&name) => Type::Bool,
        name if TEXTS.contains(&name) => Type::String,
        _ => Type::Dyn,
    }
}

/// A type as a value.
#[derive(Debug, PartialEq, Eq)]
struct TypeValue(&'static str);

impl Opaque for TypeValue {
    fn runtime_type_name(&self) -> &str {
        "type"
    }
}

/// The value of a type's name.
pub(super) fn type_value(name: &str) -> Option<Value> {
    let name = TYPE_NAMES.into_iter().find(|known| *known == name)?;
    Some(Value::Opaque(Arc::new(TypeValue(name))))
}

/// Carries out a call.
pub(super) fn call(
    call: &Call,
    target: Option<Value>,
    arguments: Vec<Value>,
    budget: &Budget<'_>,
) -> Result<Value, EvaluationError> {
    let receiver = target.as_ref().or_else(|| arguments.first());
    let refused = || {
        let types: Vec<&str> = target.iter().chain(&arguments).map(type_name).collect();
        EvaluationError::NoSuchOverload(format!("'{}' applied to '({})'", call.function, types.join(", ")))
    };
    let receiver = match receiver {
        Some(receiver) => receiver,
        None if call.function == "optional.none" => return Ok(none()),
        None if call.function.starts_with("format.") => return borrowed(call, None, arguments, budget),
        None => return Err(refused()),
    };
    // A method's arguments, or those behind the first of a function.
    let others = if target.is_some() { arguments.as_slice() } else { arguments.get(1..).unwrap_or_default() };
    match (call.function.as_str(), receiver, others) {
        ("size", value, []) => return size(value).ok_or_else(refused),
        ("dyn", value, []) => return Ok(value.clone()),
        ("type", value, []) => return Ok(Value::Opaque(Arc::new(TypeValue(type_name(value))))),
        ("bool", Value::Bool(_), []) => return Ok(receiver.clone()),
        ("bool", Value::String(text), []) => {
            return match text.as_str() {
                "true" | "True" | "TRUE" | "t" | "1" => Ok(Value::Bool(true)),
                "false" | "False" | "FALSE" | "f" | "0" => Ok(Value::Bool(false)),
                _ => Err(EvaluationError::Function("type conversion error from 'string' to 'bool'".into())),
            };
        }
        ("string", Value::Bool(value), []) => return Ok(Value::String(Arc::new(value.to_string()))),
        ("string", Value::Timestamp(time), []) => {
            return Ok(Value::String(Arc::new(time.to_rfc3339().replace("+00:00", "Z"))));
        }
        ("matches", Value::String(text), [Value::String(source)]) => {
            budget.charge(1 + source.len() / 4 + text.len() / 10)?;
            return pattern::compiled(source, budget).map(|pattern| Value::Bool(pattern.is_match(text)));
        }
        ("contains", Value::String(text), [Value::String(part)]) => {
            budget.charge(1 + text.len() / 10)?;
            return Ok(Value::Bool(text.contains(part.as_str())));
        }
        ("startsWith", Value::String(text), [Value::String(part)]) => {
            return Ok(Value::Bool(text.starts_with(part.as_str())));
        }
        ("endsWith", Value::String(text), [Value::String(part)]) => {
            return Ok(Value::Bool(text.ends_with(part.as_str())));
        }
        ("contains" | "startsWith" | "endsWith" | "matches", ..) => return Err(refused()),
        ("sum", Value::List(items), []) => {
            budget.charge(items.len())?;
            let mut sum = items.first().cloned().unwrap_or(Value::Int(0));
            for item in items.iter().skip(1) {
                sum = operator::binary(super::ast::Operator::Add, sum, item.clone(), budget)?;
            }
            return Ok(sum);
        }
        ("optional.of", value, []) => return Ok(some(value.clone())),
        ("optional.ofNonZeroValue", value, []) => {
            return Ok(if value.is_zero() || *value == Value::Null { none() } else { some(value.clone()) });
        }
        ("hasValue", value, []) => return optional(value).map(|held| Value::Bool(held.is_some())).ok_or_else(refused),
        ("value", value, []) => {
            let held = optional(value).ok_or_else(refused)?;
            return held.ok_or_else(|| EvaluationError::Function("optional.none() dereference".into()));
        }
        _ => {}
    }
    check(&call.function, receiver, others, budget)?;
    borrowed(call, target, arguments, budget)
}

fn size(value: &Value) -> Option<Value> {
    let size = match value {
        Value::String(text) => text.chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(items) => items.len(),
        Value::Map(map) => map.map.len(),
        _ => return None,
    };
    i64::try_from(size).ok().map(Value::Int)
}

/// Pays for what a function will do, and refuses what would make it grow without bound or fail badly.
fn check(function: &str, receiver: &Value, others: &[Value], budget: &Budget<'_>) -> Result<(), EvaluationError> {
    let refuse = |message: String| Err(EvaluationError::Function(message));
    budget.charge(20)?;
    match (function, receiver, others) {
        ("lists.range", Value::Int(count), _) => {
            budget.charge(usize::try_from(*count).unwrap_or(0).saturating_mul(COPY_COST))
        }
        ("replace", Value::String(text), [Value::String(old), Value::String(new), ..]) => {
            budget.charge(text.len() / 4)?;
            let length = text.len().saturating_add(text.matches(old.as_str()).count().saturating_mul(new.len()));
            text_fits(length)?;
            budget.charge(length / 4)
        }
        ("split", Value::String(text), [Value::String(separator), ..]) => {
            budget.charge(text.len() / 4)?;
            budget.charge(COPY_COST * text.matches(separator.as_str()).count())
        }
        ("join", Value::List(items), _) => {
            let separator = match others {
                [Value::String(separator)] => separator.len(),
                _ => 0,
            };
            budget.charge(items.len())?;
            let text = |item: &Value| if let Value::String(text) = item { text.len() } else { 0 };
            let length: usize = items.iter().map(|item| text(item).saturating_add(separator)).sum();
            text_fits(length)?;
            budget.charge(length / 4)
        }
        ("format", Value::String(text), _) => match precision_of(text) {
            Some(digits) if digits > MAX_PRECISION => refuse(format!("precision {digits} is above {MAX_PRECISION}")),
            _ => budget.charge(text.len()),
        },
        ("quantity" | "isQuantity", Value::String(text), _) if !is_safe_quantity(text) => {
            refuse(format!("{text:?} is no quantity that can be computed with"))
        }
        ("sort" | "isSorted" | "min" | "max", Value::List(items), _) => {
            budget.charge(items.len().saturating_mul(16))?;
            match items.first().map(type_name) {
                Some(kind) if !items.iter().all(|item| type_name(item) == kind && is_ordered(item)) => {
                    refuse(format!("{function}: elements must be of one comparable type"))
                }
                _ => Ok(()),
            }
        }
        ("distinct" | "indexOf" | "lastIndexOf", Value::List(items), _) => {
            budget.charge(items.len().saturating_mul(items.len().min(100)))
        }
        ("sets.contains" | "sets.equivalent" | "sets.intersects", Value::List(left), [Value::List(right)]) => {
            budget.charge(left.len().saturating_mul(right.len()))
        }
        ("find" | "findAll", Value::String(text), [Value::String(source), ..]) => {
            budget.charge(2_000 + 20 * source.len() + text.len())?;
            pattern::compiled(source, budget).map(drop)
        }
        ("math.bitShiftLeft" | "math.bitShiftRight", _, [Value::Int(by)]) if *by < 0 => {
            refuse(format!("{function}() negative offset: {by}"))
        }
        ("math.abs", Value::Int(i64::MIN), _) => refuse("integer overflow".into()),
        _ => Ok(()),
    }
}

fn is_ordered(value: &Value) -> bool {
    match value {
        Value::Float(number) => !number.is_nan(),
        other => matches!(
            other.type_of(),
            ValueType::Int
                | ValueType::UInt
                | ValueType::String
                | ValueType::Bool
                | ValueType::Duration
                | ValueType::Timestamp
        ),
    }
}

/// The largest precision in a format, as 3 in `%.3f`.
fn precision_of(format: &str) -> Option<usize> {
    let digits = format.split("%.").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest.get(..end).unwrap_or_default()
    });
    digits.map(|digits| if digits.is_empty() { 0 } else { digits.parse().unwrap_or(usize::MAX) }).max()
}

fn is_safe_quantity(text: &str) -> bool {
    let exponent = text.split_once(['e', 'E']).map(|(_, exponent)| exponent.parse::<i32>());
    let exponent_fits = match exponent {
        Some(Ok(exponent)) => exponent.abs() <= MAX_QUANTITY_EXPONENT,
        _ => true,
    };
    text.len() <= MAX_QUANTITY && exponent_fits
}

thread_local! {
    /// The functions of `kube-cel`, registered once; a context cannot be shared between threads.
    static LIBRARY: Context<'static> = Context::default().with_all();
}

/// Calls a function of `kube-cel`: its arguments are variables of a scope in which the call's template stands.
fn borrowed(
    call: &Call,
    target: Option<Value>,
    arguments: Vec<Value>,
    budget: &Budget<'_>,
) -> Result<Value, EvaluationError> {
    for value in target.iter().chain(&arguments) {
        operator::charge_copy(value, COPY_COST, budget)?;
    }
    let result = LIBRARY.with(|library| {
        let mut scope = library.new_inner_scope();
        if let Some(target) = target {
            scope.add_variable_from_value("@t", target);
        }
        for (index, argument) in arguments.into_iter().enumerate() {
            scope.add_variable_from_value(format!("@{index}"), argument);
        }
        scope.resolve(&call.template)
    });
    let value = result.map_err(|error| match error {
        ExecutionError::FunctionError { message, .. } => EvaluationError::Function(message),
        ExecutionError::NoSuchKey(key) => EvaluationError::NoSuchKey(key.to_string()),
        ExecutionError::UndeclaredReference(name) => EvaluationError::NoSuchOverload(format!("'{name}'")),
        ExecutionError::UnexpectedType { got, want } => {
            EvaluationError::NoSuchOverload(format!("'{}': got '{got}', want '{want}'", call.function))
        }
        _ => EvaluationError::NoSuchOverload(format!("'{}'", call.function)),
    })?;
    match &value {
        Value::String(text) => text_fits(text.len()).and_then(|()| budget.charge(text.len() / 4))?,
        Value::List(items) => budget.charge(items.len().saturating_mul(ELEMENT_COST))?,
        _ => {}
    }
    Ok(value)
}

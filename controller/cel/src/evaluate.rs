//! Walks the syntax tree. Every node costs, so that no expression runs for long.
use super::ast::{Bind, Call, Entry, Expr, Field, Operator};
use super::authorizer::{self, Authorize};
use super::budget::Budget;
use super::operator::{self, ELEMENT_COST, type_name};
use super::{EvaluationError, Program, comprehension, convert, library, total};
use kube_cel::cel::Value;
use kube_cel::cel::objects::{Key, KeyRef, OptionalValue};
use std::cell::{Cell, OnceCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The values of variables during an evaluation.
#[derive(Default)]
pub struct Activation<'a> {
    values: BTreeMap<String, Value>,
    lazy: BTreeMap<String, BTreeMap<String, Lazy<'a>>>,
    authorize: Option<&'a Authorize<'a>>,
    depth: Cell<usize>,
}

struct Lazy<'a> {
    program: &'a Program,
    value: OnceCell<Result<Value, EvaluationError>>,
}

/// A check looks through the rules of a user; upstream charges 350,000 of 10,000,000.
const AUTHORIZATION_COST: usize = 10_000;

/// How many lazy variables may wait for each other.
const MAX_LAZY_DEPTH: usize = 16;

impl<'a> Activation<'a> {
    /// Gives a variable its value.
    pub fn set(&mut self, name: &str, value: Value) {
        self.values.insert(name.to_owned(), value);
    }

    /// Gives a variable the value of some JSON.
    pub fn set_json(&mut self, name: &str, json: &serde_json::Value) {
        self.set(name, convert::from_json(json));
    }

    /// Makes `variable.field` the value of a program, evaluated when it is first asked for and then kept: the
    /// `variables` of admission policies. The program may use whatever is set here.
    pub fn set_lazy(&mut self, variable: &str, field: &str, program: &'a Program) {
        let lazy = Lazy { program, value: OnceCell::new() };
        self.lazy.entry(variable.to_owned()).or_default().insert(field.to_owned(), lazy);
    }

    /// Who decides about the checks of the variable `authorizer`.
    pub fn set_authorizer(&mut self, authorize: &'a Authorize<'a>) {
        self.authorize = Some(authorize);
    }

    /// The value of `variable.field` if it is lazy.
    fn lazy(&self, variable: &str, field: &str, budget: &Budget<'_>) -> Option<Result<Value, EvaluationError>> {
        let lazy = self.lazy.get(variable)?.get(field)?;
        if let Some(value) = lazy.value.get() {
            return Some(value.clone());
        }
        if self.depth.get() >= MAX_LAZY_DEPTH {
            return Some(Err(EvaluationError::Function(format!("{variable}.{field} depends on too many others"))));
        }
        self.depth.set(self.depth.get() + 1);
        let mut scope = Scope { activation: self, budget, locals: Vec::new() };
        let value = scope.value(&lazy.program.expr);
        self.depth.set(self.depth.get() - 1);
        Some(lazy.value.get_or_init(|| value).clone())
    }
}

pub(super) fn run(expr: &Expr, activation: &Activation<'_>, budget: &Budget<'_>) -> Result<Value, EvaluationError> {
    budget.begin();
    Scope { activation, budget, locals: Vec::new() }.value(expr)
}

/// One evaluation.
pub(super) struct Scope<'a, 'e> {
    activation: &'a Activation<'a>,
    pub(super) budget: &'a Budget<'a>,
    /// Variables of macros, the innermost last.
    pub(super) locals: Vec<(&'e str, Value)>,
}

impl<'e> Scope<'_, 'e> {
    pub(super) fn value(&mut self, expr: &'e Expr) -> Result<Value, EvaluationError> {
        self.budget.charge(1)?;
        match expr {
            Expr::Literal(value) => Ok(value.clone()),
            Expr::Ident(name, _) => self.variable(name),
            Expr::Select { operand, field, optional } => self.select(operand, field, *optional),
            Expr::Has { operand, field } => self.has(operand, field),
            Expr::Index { operand, index, optional } => self.index(operand, index, *optional),
            Expr::List(items) => self.list(items),
            Expr::Map(entries) => self.map(entries),
            Expr::Message { fields, .. } => self.message(fields),
            Expr::Call(call) => self.call(call),
            Expr::Not(operand) => match self.value(operand)? {
                Value::Bool(value) => Ok(Value::Bool(!value)),
                other => Err(no_overload("!_", &other)),
            },
            Expr::Negate(operand) => operator::negate(self.value(operand)?),
            Expr::And(parts) => self.logical(parts, false),
            Expr::Or(parts) => self.logical(parts, true),
            Expr::Chain { first, rest } => self.chain(first, rest),
            Expr::Conditional(parts) => {
                let [condition, then, other] = &**parts;
                match self.value(condition)? {
                    Value::Bool(true) => self.value(then),
                    Value::Bool(false) => self.value(other),
                    value => Err(no_overload("_?_:_", &value)),
                }
            }
            Expr::Comprehension(it) => comprehension::run(self, it),
            Expr::Bind(bind) => {
                let value = self.value(&bind.value)?;
                self.with(&bind.variable, value, &bind.body)
            }
            Expr::OptionalMap { bind, flat } => self.optional_map(bind, *flat),
        }
    }

    /// The value of a body in which a variable has a value.
    fn with(&mut self, variable: &'e str, value: Value, body: &'e Expr) -> Result<Value, EvaluationError> {
        self.locals.push((variable, value));
        let result = self.value(body);
        self.locals.pop();
        result
    }

    fn variable(&self, name: &str) -> Result<Value, EvaluationError> {
        if let Some((_, value)) = self.locals.iter().rev().find(|(local, _)| *local == name) {
            return Ok(value.clone());
        }
        if let Some(value) = self.activation.values.get(name) {
            return Ok(value.clone());
        }
        library::type_value(name).ok_or_else(|| EvaluationError::NoSuchAttribute(name.to_owned()))
    }

    fn select(&mut self, operand: &'e Expr, field: &Field, optional: bool) -> Result<Value, EvaluationError> {
        if let Expr::Ident(name, _) = operand
            && !self.locals.iter().any(|(local, _)| local == name)
            && let Some(value) = self.activation.lazy(name, &field.name, self.budget)
        {
            return value;
        }
        let operand = self.value(operand)?;
        let (value, optional) = match unwrapped(operand, optional) {
            Some(pair) => pair,
            None => return Ok(none()),
        };
        let found = match (total::as_map(&value), &value) {
            (Some((map, absent)), _) => lookup(map, field).or(absent).cloned(),
            (None, Value::Null) if optional => None,
            (None, other) => match authorizer::field(other, &field.name) {
                Some(value) => Some(value),
                None => return Err(EvaluationError::NoSuchOverload(format!("select on {}", type_name(other)))),
            },
        };
        match (found, optional) {
            (Some(value), true) => Ok(some(value)),
            (None, true) => Ok(none()),
            (Some(value), false) => Ok(value),
            (None, false) => Err(EvaluationError::NoSuchKey(field.name.clone())),
        }
    }

    fn has(&mut self, operand: &'e Expr, field: &Field) -> Result<Value, EvaluationError> {
        if let Expr::Ident(name, _) = operand
            && self.activation.lazy.get(name).is_some_and(|fields| fields.contains_key(&field.name))
        {
            return Ok(Value::Bool(true));
        }
        let operand = self.value(operand)?;
        let Some((value, _)) = unwrapped(operand, false) else { return Ok(Value::Bool(false)) };
        match total::as_map(&value) {
            Some((map, _)) => Ok(Value::Bool(lookup(map, field).is_some())),
            None => Err(EvaluationError::NoSuchOverload(format!("has() on {}", type_name(&value)))),
        }
    }

    fn index(&mut self, operand: &'e Expr, index: &'e Expr, optional: bool) -> Result<Value, EvaluationError> {
        let operand = self.value(operand)?;
        let index = self.value(index)?;
        let (value, optional) = match unwrapped(operand, optional) {
            Some(pair) => pair,
            None => return Ok(none()),
        };
        let found = match &value {
            Value::List(items) => {
                let place = match &index {
                    Value::Int(n) => usize::try_from(*n).ok(),
                    Value::UInt(n) => usize::try_from(*n).ok(),
                    Value::Float(n) if n.fract() == 0.0 && *n >= 0.0 => Some(*n as usize),
                    other => return Err(no_overload("_[_]", other)),
                };
                let found = place.and_then(|place| items.get(place));
                found.cloned().ok_or_else(|| EvaluationError::Function(format!("index out of bounds: {index:?}")))
            }
            other => {
                let Some((map, absent)) = total::as_map(other) else { return Err(no_overload("_[_]", other)) };
                let Some(key) = Key::try_from_value(&index) else { return Err(no_overload("_[_]", &index)) };
                map.get(&key).or(absent).cloned().ok_or_else(|| EvaluationError::NoSuchKey(key.to_string()))
            }
        };
        match (found, optional) {
            (Ok(value), true) => Ok(some(value)),
            (Err(_), true) => Ok(none()),
            (found, false) => found,
        }
    }

    fn list(&mut self, items: &'e [(Expr, bool)]) -> Result<Value, EvaluationError> {
        self.budget.charge(ELEMENT_COST * items.len())?;
        let mut list = Vec::with_capacity(items.len());
        for (item, optional) in items {
            let value = self.value(item)?;
            list.extend(if *optional { optional_part(value)? } else { Some(value) });
        }
        Ok(Value::List(Arc::new(list)))
    }

    fn map(&mut self, entries: &'e [Entry]) -> Result<Value, EvaluationError> {
        self.budget.charge(ELEMENT_COST * entries.len())?;
        let mut map = HashMap::with_capacity(entries.len());
        for entry in entries {
            let key = self.value(&entry.key)?;
            let key = Key::try_from_value(&key)
                .ok_or_else(|| EvaluationError::NoSuchOverload(format!("unsupported key type {}", type_name(&key))))?;
            let value = self.value(&entry.value)?;
            let Some(value) = (if entry.optional { optional_part(value)? } else { Some(value) }) else { continue };
            if map.contains_key(&key) {
                return Err(EvaluationError::Function(format!("Failed with repeated key: {key}")));
            }
            map.insert(key, value);
        }
        Ok(convert::map_of(map))
    }

    fn message(&mut self, fields: &'e [(Field, Expr, bool)]) -> Result<Value, EvaluationError> {
        self.budget.charge(ELEMENT_COST * fields.len())?;
        let mut map = HashMap::with_capacity(fields.len());
        for (field, value, optional) in fields {
            let value = self.value(value)?;
            let name = field.unescaped.as_ref().unwrap_or(&field.name);
            if let Some(value) = if *optional { optional_part(value)? } else { Some(value) } {
                map.insert(Key::from(name.as_str()), value);
            }
        }
        Ok(convert::map_of(map))
    }

    fn call(&mut self, call: &'e Call) -> Result<Value, EvaluationError> {
        let target = call.target.as_ref().map(|target| self.value(target)).transpose()?;
        // `optional.or` and `orValue` need their argument only when there is nothing.
        if let (Some(target), [other]) = (&target, call.arguments.as_slice())
            && let Some(held) = optional(target)
        {
            match call.function.as_str() {
                "orValue" => return held.map_or_else(|| self.value(other), Ok),
                "or" if held.is_some() => return Ok(target.clone()),
                "or" => return self.value(other),
                _ => {}
            }
        }
        let mut arguments = Vec::with_capacity(call.arguments.len());
        for argument in &call.arguments {
            arguments.push(self.value(argument)?);
        }
        if let Some(target) = &target
            && let Some(result) = authorizer::call(&call.function, target, &arguments, self.activation.authorize)
        {
            self.budget.charge(AUTHORIZATION_COST)?;
            return result;
        }
        library::call(call, target, arguments, self.budget)
    }

    /// `&&` and `||`: an error counts only where the other parts do not decide.
    fn logical(&mut self, parts: &'e [Expr], decisive: bool) -> Result<Value, EvaluationError> {
        let mut failed = None;
        for part in parts {
            match self.value(part) {
                Ok(Value::Bool(value)) if value == decisive => return Ok(Value::Bool(decisive)),
                Ok(Value::Bool(_)) => {}
                Ok(other) => {
                    failed.get_or_insert_with(|| no_overload(if decisive { "_||_" } else { "_&&_" }, &other));
                }
                Err(error) if error.ends_everything() => return Err(error),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    fn chain(&mut self, first: &'e Expr, rest: &'e [(Operator, Expr)]) -> Result<Value, EvaluationError> {
        let mut left = self.value(first)?;
        for (operator, right) in rest {
            let right = self.value(right)?;
            left = operator::binary(*operator, left, right, self.budget)?;
        }
        Ok(left)
    }

    fn optional_map(&mut self, bind: &'e Bind, flat: bool) -> Result<Value, EvaluationError> {
        let target = self.value(&bind.value)?;
        let Some(held) = optional(&target) else { return Err(no_overload("optMap", &target)) };
        let Some(held) = held else { return Ok(target) };
        let result = self.with(&bind.variable, held, &bind.body)?;
        match flat {
            true if optional(&result).is_none() => Err(no_overload("optFlatMap", &result)),
            true => Ok(result),
            false => Ok(some(result)),
        }
    }
}

impl EvaluationError {
    /// Whether no other part of the expression can make up for it.
    pub(super) fn ends_everything(&self) -> bool {
        matches!(self, Self::CostExceeded | Self::TimeExceeded)
    }
}

/// What makes a key of a map.
trait TryFromValue: Sized {
    fn try_from_value(value: &Value) -> Option<Self>;
}

impl TryFromValue for Key {
    fn try_from_value(value: &Value) -> Option<Self> {
        match value {
            // A double that is a whole number finds the key that it equals.
            Value::Float(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(Self::Int(*number as i64)),
            other => other.clone().try_into().ok(),
        }
    }
}

fn lookup<'m>(map: &'m kube_cel::cel::objects::Map, field: &Field) -> Option<&'m Value> {
    let get = |name: &str| map.get(&KeyRef::String(name));
    get(&field.name).or_else(|| field.unescaped.as_deref().and_then(get))
}

pub(super) fn no_overload(function: &str, value: &Value) -> EvaluationError {
    EvaluationError::NoSuchOverload(format!("'{function}' applied to '({})'", type_name(value)))
}

pub(super) fn some(value: Value) -> Value {
    Value::Opaque(Arc::new(OptionalValue::of(value)))
}

pub(super) fn none() -> Value {
    Value::Opaque(Arc::new(OptionalValue::none()))
}

/// What an optional holds. `None`: the value is no optional.
pub(super) fn optional(value: &Value) -> Option<Option<Value>> {
    match value {
        Value::Opaque(opaque) => opaque.downcast_ref::<OptionalValue>().map(|optional| optional.value().cloned()),
        _ => None,
    }
}

/// Selections on an optional are optional themselves. `None`: there is nothing to select from.
fn unwrapped(value: Value, selects_optional: bool) -> Option<(Value, bool)> {
    match optional(&value) {
        Some(Some(held)) => Some((held, true)),
        Some(None) => None,
        None => Some((value, selects_optional)),
    }
}

fn optional_part(value: Value) -> Result<Option<Value>, EvaluationError> {
    optional(&value).ok_or_else(|| no_overload("?", &value))
}

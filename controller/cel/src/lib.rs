//! The Common Expression Language as Kubernetes uses it: rules of custom resources, admission policies, match
//! conditions, selectors of devices. Parser and evaluator are ours because they must be bounded; values and the Kubernetes
//! libraries come from `kube-cel` (`docs/decisions/2026-11-25-cel.md`). Never does IO, reads no clock, knows no object.
//! Start reading at [`compile`].
//!
//! ```text
//! use controller_cel::{Activation, Budget, Environment, compile};
//! let program = compile("object.spec.replicas <= 5", &Environment::new(&["object"])).unwrap();
//! let object = serde_json::json!({"spec": {"replicas": 3}});
//! let mut variables = Activation::default();
//! variables.set_json("object", &object);
//! assert!(program.evaluate_bool(&variables, &Budget::default()).unwrap());
//! ```
mod ast;
pub mod authorizer;
mod budget;
mod check;
mod comprehension;
mod convert;
mod evaluate;
mod lexer;
mod library;
mod operator;
mod parser;
pub mod pattern;
#[cfg(test)]
mod tests;
mod total;

pub use budget::{Budget, EXPRESSION_COST_LIMIT, REQUEST_COST_LIMIT};
pub use check::Type;
pub use convert::{bytes, duration, from_json, list, map, optional, quantity, semver, timestamp};
pub use evaluate::Activation;
/// A value of the language.
pub use kube_cel::cel::Value;
pub use total::total;

use ast::Expr;
use std::collections::BTreeSet;

/// Longest source, in bytes. cel-go takes 100,000 code points; no expression in a 3 MiB object needs more.
pub const MAX_SOURCE: usize = 64 * 1024;
/// Deepest nesting of an expression. cel-go takes 250; the stack of a request's task is smaller than Go's.
pub const MAX_DEPTH: usize = 100;

/// Which names an expression may use.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeSet<String>,
    messages: bool,
}

impl Environment {
    /// These variables, and no message types.
    pub fn new(variables: &[&str]) -> Self {
        Self { variables: variables.iter().map(|name| (*name).to_owned()).collect(), messages: false }
    }

    /// Lets expressions make `Object{...}`, `Object.spec{...}` and `JSONPatch{...}` (mutating policies).
    pub fn with_messages(mut self) -> Self {
        self.messages = true;
        self
    }
}

/// Why a source is no program; in the form of kube-apiserver, `compilation failed: ERROR: <input>:1:5: ...`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compilation failed: ERROR: <input>:{line}:{column}: {message}\n | {snippet}\n | {pointer}^")]
pub struct CompileError {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    snippet: String,
    pointer: String,
}

impl CompileError {
    fn new(source: &str, at: usize, message: impl Into<String>) -> Self {
        let at = source.floor_char_boundary(at.min(source.len()));
        let before = source.get(..at).unwrap_or_default();
        let start = before.rfind('\n').map_or(0, |i| i + 1);
        let column = before.get(start..).unwrap_or_default().chars().count();
        let snippet = source.get(start..).unwrap_or_default().lines().next().unwrap_or_default();
        Self {
            line: before.matches('\n').count() + 1,
            column: column + 1,
            message: message.into(),
            snippet: snippet.chars().take(200).collect(),
            pointer: ".".repeat(column.min(200)),
        }
    }
}

/// Why an evaluation has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// A field or key is absent.
    #[error("no such key: {0}")]
    NoSuchKey(String),
    /// An operator or function does not take these types.
    #[error("no such overload: {0}")]
    NoSuchOverload(String),
    /// A variable is declared and was not given.
    #[error("no such attribute(s): {0}")]
    NoSuchAttribute(String),
    /// The budget is used up.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostExceeded,
    /// The time is used up.
    #[error("operation cancelled: evaluation took too long")]
    TimeExceeded,
    /// The result has another type than the place needs.
    #[error("expression must evaluate to {want}, got {got}")]
    ResultType {
        /// The type that is needed.
        want: &'static str,
        /// The type of the result.
        got: &'static str,
    },
    /// A function refused its arguments.
    #[error("{0}")]
    Function(String),
}

/// A checked expression.
#[derive(Clone, Debug)]
pub struct Program {
    source: String,
    expr: Expr,
}

/// Parses an expression and checks that it uses only names that `environment` has.
pub fn compile(source: &str, environment: &Environment) -> Result<Program, CompileError> {
    if source.len() > MAX_SOURCE {
        let message =
            format!("expression code point size exceeds limit: size: {}, limit {MAX_SOURCE}", source.chars().count());
        return Err(CompileError::new("", 0, message));
    }
    let expr = parser::parse(source)?;
    check::names(source, &expr, environment)?;
    Ok(Program { source: source.to_owned(), expr })
}

impl Program {
    /// The text that was compiled.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What the result surely is; [`Type::Dyn`] where only evaluation tells.
    pub fn result_type(&self) -> Type {
        check::result_type(&self.expr)
    }

    /// Whether the expression may be a bool. kube-apiserver refuses rules that cannot: "must evaluate to bool".
    pub fn may_be_bool(&self) -> bool {
        matches!(self.result_type(), Type::Bool | Type::Dyn)
    }

    /// Whether the expression may be a string.
    pub fn may_be_string(&self) -> bool {
        matches!(self.result_type(), Type::String | Type::Dyn)
    }

    /// Whether the variable occurs free in the expression.
    pub fn uses(&self, variable: &str) -> bool {
        check::uses(&self.expr, variable)
    }

    /// The chains of fields that are selected from a variable, as `["spec", "replicas"]` for `self.spec.replicas`.
    pub fn selections(&self, variable: &str) -> Vec<Vec<String>> {
        check::selections(&self.expr, variable)
    }

    /// The value of the expression.
    pub fn evaluate(&self, variables: &Activation<'_>, budget: &Budget<'_>) -> Result<Value, EvaluationError> {
        evaluate::run(&self.expr, variables, budget)
    }

    /// The value of an expression that must be a bool.
    pub fn evaluate_bool(&self, variables: &Activation<'_>, budget: &Budget<'_>) -> Result<bool, EvaluationError> {
        match self.evaluate(variables, budget)? {
            Value::Bool(value) => Ok(value),
            other => Err(EvaluationError::ResultType { want: "bool", got: operator::type_name(&other) }),
        }
    }

    /// The value of an expression that must be a string.
    pub fn evaluate_string(&self, variables: &Activation<'_>, budget: &Budget<'_>) -> Result<String, EvaluationError> {
        match self.evaluate(variables, budget)? {
            Value::String(value) => Ok(value.to_string()),
            other => Err(EvaluationError::ResultType { want: "string", got: operator::type_name(&other) }),
        }
    }

    /// The value as JSON: objects that a mutating policy makes, audit annotations.
    pub fn evaluate_json(
        &self,
        variables: &Activation<'_>,
        budget: &Budget<'_>,
    ) -> Result<serde_json::Value, EvaluationError> {
        let value = self.evaluate(variables, budget)?;
        operator::charge_copy(&value, operator::ELEMENT_COST, budget)?;
        convert::to_json(&value)
    }
}

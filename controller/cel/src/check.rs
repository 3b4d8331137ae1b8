//! What can be said of an expression before it is evaluated: names that exist, the type of the result.
use super::ast::{Expr, Operator, Position};
use super::{CompileError, Environment, library};
use kube_cel::cel::Value;

/// The type of an expression, as far as it is sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Only evaluation tells.
    Dyn,
    /// `true` or `false`.
    Bool,
    /// Text.
    String,
    /// A number of some kind.
    Number,
    /// A list.
    List,
    /// A map or message.
    Map,
    /// Anything else.
    Other,
}

/// Names of types, which are values too: `type(x) == string`.
pub(super) const TYPE_NAMES: [&str; 12] =
    ["bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "string", "type", "uint", "optional_type"];

/// Refuses variables, functions and messages that do not exist.
pub(super) fn names(source: &str, expr: &Expr, environment: &Environment) -> Result<(), CompileError> {
    walk(source, expr, environment, &mut Vec::new())
}

fn walk<'a>(
    source: &str,
    expr: &'a Expr,
    environment: &Environment,
    scope: &mut Vec<&'a str>,
) -> Result<(), CompileError> {
    let undeclared = |name: &str, at: Position| {
        Err(CompileError::new(source, at, format!("undeclared reference to '{name}' (in container '')")))
    };
    match expr {
        Expr::Ident(name, at) => {
            let known = scope.contains(&name.as_str())
                || environment.variables.contains(name)
                || TYPE_NAMES.contains(&name.as_str());
            if !known {
                return undeclared(name, *at);
            }
        }
        Expr::Call(call) if !library::is_known(&call.function) => return undeclared(&call.function, call.at),
        Expr::Message { name, at, .. } => {
            let known =
                environment.messages && (name == "Object" || name.starts_with("Object.") || name == "JSONPatch");
            if !known {
                return undeclared(name, *at);
            }
        }
        _ => {}
    }
    for (child, variables) in expr.children() {
        let outer = scope.len();
        scope.extend(variables);
        walk(source, child, environment, scope)?;
        scope.truncate(outer);
    }
    Ok(())
}

/// Whether a variable occurs free.
pub(super) fn uses(expr: &Expr, variable: &str) -> bool {
    matches!(expr, Expr::Ident(name, _) if name == variable)
        || expr.children().iter().any(|(child, inner)| !inner.contains(&variable) && uses(child, variable))
}

/// The chains of fields that are selected from a variable, the longest ones.
pub(super) fn selections(expr: &Expr, variable: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    collect(expr, variable, &mut found);
    found
}

fn collect(expr: &Expr, variable: &str, found: &mut Vec<Vec<String>>) {
    if let Some(path) = path_from(expr, variable) {
        found.push(path);
        return;
    }
    for (child, inner) in expr.children() {
        if !inner.contains(&variable) {
            collect(child, variable, found);
        }
    }
}

fn path_from(expr: &Expr, variable: &str) -> Option<Vec<String>> {
    match expr {
        Expr::Ident(name, _) => (name == variable).then(Vec::new),
        Expr::Select { operand, field, .. } | Expr::Has { operand, field } => {
            let mut path = path_from(operand, variable)?;
            path.push(field.unescaped.as_ref().unwrap_or(&field.name).clone());
            Some(path)
        }
        _ => None,
    }
}

/// What the result surely is.
pub(super) fn result_type(expr: &Expr) -> Type {
    match expr {
        Expr::Literal(value) => match value {
            Value::Bool(_) => Type::Bool,
            Value::String(_) => Type::String,
            Value::Int(_) | Value::UInt(_) | Value::Float(_) => Type::Number,
            _ => Type::Other,
        },
        Expr::Has { .. } | Expr::Not(_) | Expr::And(_) | Expr::Or(_) => Type::Bool,
        Expr::List(_) => Type::List,
        Expr::Map(_) | Expr::Message { .. } => Type::Map,
        Expr::Negate(_) => Type::Number,
        Expr::Chain { first, rest } => chain_type(first, rest),
        Expr::Conditional(parts) => {
            let [_, then, other] = &**parts;
            let (then, other) = (result_type(then), result_type(other));
            if then == other { then } else { Type::Dyn }
        }
        Expr::Comprehension(it) => {
            use super::ast::Macro;
            match it.kind {
                Macro::All | Macro::Exists | Macro::ExistsOne => Type::Bool,
                Macro::Filter | Macro::Map | Macro::TransformList => Type::List,
                Macro::TransformMap | Macro::TransformMapEntry => Type::Map,
            }
        }
        Expr::Bind(bind) => result_type(&bind.body),
        Expr::Call(call) => library::result_type(&call.function),
        Expr::Ident(name, _) if TYPE_NAMES.contains(&name.as_str()) => Type::Other,
        Expr::Ident(..) | Expr::Select { .. } | Expr::Index { .. } | Expr::OptionalMap { .. } => Type::Dyn,
    }
}

fn chain_type(first: &Expr, rest: &[(Operator, Expr)]) -> Type {
    match rest.last().map(|(operator, _)| operator) {
        Some(Operator::Multiply | Operator::Divide | Operator::Modulo) => Type::Number,
        Some(Operator::Add | Operator::Subtract) | None => result_type(first),
        Some(_) => Type::Bool,
    }
}

//! Admission policies in CEL, and the match conditions that webhooks share with them: compiled once, evaluated for each
//! request. admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy and MutatingAdmissionPolicy.
mod mutating;
mod scope;
mod typecheck;
mod validating;

pub use mutating::{Change, Mutating, applied};
pub use scope::{Conditions, ParamKind, Scope};
pub use typecheck::warnings;
pub use validating::{Failure, Outcome, Validating};

use crate::tree::list;
use controller_cel::{CompileError, Environment, Program, compile};
use serde_json::Value;

/// What an expression is for, which says what it may use and what it must give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// `matchConditions`: a bool, without `variables`.
    Condition,
    /// `variables`: anything.
    Variable,
    /// `validations`: a bool.
    Validation,
    /// `messageExpression`: text, without `authorizer`.
    Message,
    /// `auditAnnotations`: text or null.
    Annotation,
    /// `applyConfiguration`: an object.
    ApplyConfiguration,
    /// `jsonPatch`: a list of operations.
    JsonPatch,
}

/// Compiles an expression for a purpose. `params`: the policy has parameters.
pub(crate) fn compiled(source: &str, purpose: Purpose, params: bool) -> Result<Program, String> {
    let mut names = vec!["object", "oldObject", "request", "namespaceObject"];
    if params {
        names.push("params");
    }
    if purpose != Purpose::Message {
        names.push("authorizer");
    }
    if purpose != Purpose::Condition {
        names.push("variables");
    }
    let mut environment = Environment::new(&names);
    if matches!(purpose, Purpose::ApplyConfiguration | Purpose::JsonPatch | Purpose::Variable) {
        environment = environment.with_messages();
    }
    let program = compile(source, &environment).map_err(|error: CompileError| error.to_string())?;
    let (fits, wanted) = match purpose {
        Purpose::Condition | Purpose::Validation => (program.may_be_bool(), "must evaluate to bool"),
        Purpose::Message => (program.may_be_string(), "must evaluate to string"),
        Purpose::Annotation => {
            (program.may_be_string() || source.trim() == "null", "must evaluate to one of [string null_type]")
        }
        Purpose::ApplyConfiguration => (is_one_of(&program, controller_cel::Type::Map), "must evaluate to Object"),
        Purpose::JsonPatch => (is_one_of(&program, controller_cel::Type::List), "must evaluate to list(JSONPatch)"),
        Purpose::Variable => (true, ""),
    };
    if fits { Ok(program) } else { Err(wanted.to_owned()) }
}

/// Compiles the expressions of one policy.
struct Compiler {
    has_params: bool,
    /// What is wrong with the first expression that could not be compiled, though the policy was stored.
    broken: Option<String>,
}

impl Compiler {
    fn new(has_params: bool) -> Self {
        Self { has_params, broken: None }
    }

    fn program(&mut self, source: &str, purpose: Purpose) -> Option<Program> {
        match compiled(source, purpose, self.has_params) {
            Ok(program) => Some(program),
            Err(error) => {
                self.broken.get_or_insert(error);
                None
            }
        }
    }

    /// `spec.variables`, by name.
    fn variables(&mut self, spec: &Value) -> Vec<(String, Program)> {
        let all = list(spec, &["variables"]).iter();
        all.filter_map(|one| {
            Some((text(one, "name").to_owned(), self.program(text(one, "expression"), Purpose::Variable)?))
        })
        .collect()
    }
}

fn is_one_of(program: &Program, wanted: controller_cel::Type) -> bool {
    let found = program.result_type();
    found == wanted || found == controller_cel::Type::Dyn
}

/// The text at a key; empty when absent.
fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests;

//! ValidatingAdmissionPolicy: what its expressions say of a request.
use super::scope::{Conditions, ParamKind, Scope, failed};
use super::{Compiler, Purpose, text};
use crate::tree::list;
use controller_cel::Program;
use serde_json::Value;

/// The longest message that an expression may make, in bytes.
const LONGEST_MESSAGE: usize = 5 * 1024;

/// A policy, compiled.
#[derive(Clone, Debug)]
pub struct Validating {
    /// Whether an error refuses the request.
    pub fails_closed: bool,
    /// The kind of its parameters.
    pub params: Option<ParamKind>,
    conditions: Conditions,
    variables: Vec<(String, Program)>,
    validations: Vec<Validation>,
    annotations: Vec<(String, Program)>,
    /// What could not be compiled, though it was stored.
    broken: Option<String>,
}

#[derive(Clone, Debug)]
struct Validation {
    program: Program,
    message: String,
    message_program: Option<Program>,
    reason: String,
}

/// One validation that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For people.
    pub message: String,
    /// The reason of the refusal; empty: `Invalid`.
    pub reason: String,
}

/// What a policy says of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Validations that do not hold; the binding says what follows.
    pub failures: Vec<Failure>,
    /// What could not be evaluated; refuses the request where the policy fails closed.
    pub errors: Vec<String>,
    /// For the audit log.
    pub annotations: Vec<(String, String)>,
}

impl Validating {
    /// Compiles a policy.
    pub fn read(policy: &Value) -> Self {
        let spec = &policy["spec"];
        let params = ParamKind::read(spec);
        let has_params = params.is_some();
        let mut compiler = Compiler::new(has_params);
        let variables = compiler.variables(spec);
        let validations = list(spec, &["validations"]).iter().filter_map(|one| {
            let message_source = text(one, "messageExpression");
            Some(Validation {
                program: compiler.program(text(one, "expression"), Purpose::Validation)?,
                message: text(one, "message").trim().to_owned(),
                message_program: match message_source.trim() {
                    "" => None,
                    source => compiler.program(source, Purpose::Message),
                },
                reason: text(one, "reason").to_owned(),
            })
        });
        let validations = validations.collect();
        let annotations = list(spec, &["auditAnnotations"]).iter().filter_map(|one| {
            Some((
                text(one, "key").to_owned(),
                compiler.program(text(one, "valueExpression").trim(), Purpose::Annotation)?,
            ))
        });
        let annotations = annotations.collect();
        Self {
            fails_closed: text(spec, "failurePolicy") != "Ignore",
            conditions: Conditions::read(spec, has_params),
            params,
            variables,
            validations,
            annotations,
            broken: compiler.broken,
        }
    }

    /// What the policy says of a request with one set of parameters.
    pub fn evaluate(&self, scope: &Scope<'_>, params: Option<&Value>) -> Outcome {
        let mut outcome = Outcome::default();
        if let Some(broken) = &self.broken {
            outcome.errors.push(broken.clone());
            return outcome;
        }
        match self.conditions.hold(scope, params) {
            Ok(true) => {}
            Ok(false) => return outcome,
            Err(error) => {
                outcome.errors.push(error);
                return outcome;
            }
        }
        let activation = scope.activation(params, &self.variables);
        for validation in &self.validations {
            match validation.program.evaluate_bool(&activation, scope.budget()) {
                Ok(true) => {}
                Ok(false) => {
                    let made = validation.message_program.as_ref();
                    let made = made.and_then(|program| program.evaluate_string(&activation, scope.budget()).ok());
                    outcome.failures.push(validation.failure(made));
                }
                Err(error) => outcome.errors.push(failed(validation.program.source(), &error)),
            }
        }
        for (key, program) in &self.annotations {
            match program.evaluate_json(&activation, scope.budget()) {
                Ok(Value::String(value)) if !value.is_empty() => outcome.annotations.push((key.clone(), value)),
                Ok(_) => {}
                Err(error) => outcome.errors.push(failed(program.source(), &error)),
            }
        }
        outcome
    }
}

impl Validation {
    /// `made` is what the message expression gave; one that is no good gives way to the fixed message.
    fn failure(&self, made: Option<String>) -> Failure {
        let made = made.map(|text| text.trim().to_owned());
        let made =
            made.filter(|text| !text.is_empty() && text.len() <= LONGEST_MESSAGE && !text.contains(['\n', '\r']));
        let fixed = Some(self.message.clone()).filter(|text| !text.is_empty());
        let message = made.or(fixed);
        Failure {
            message: message.unwrap_or_else(|| format!("failed expression: {}", self.program.source().trim())),
            reason: self.reason.clone(),
        }
    }
}

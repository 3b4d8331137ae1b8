//! ValidatingAdmissionPolicy: every policy that is bound and meant judges; the first refusal is told.

use controller_object::policy::{Failure, Outcome, Validating};
use controller_object::status::{About, Cause, CauseReason, Reason, Status};
use serde_json::{Value, json};

use super::binding::{Binding, Policy};
use super::params::collect;
use crate::admit::attributes::Attributes;
use crate::admit::expression;
use crate::admit::version::seen;

/// The annotation that tells the audit log of a failed validation.
const VALIDATION_FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";

/// Asks all policies. `object` is absent for deletions.
pub(crate) async fn validate(attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
    let (policies, bindings) = attributes.state.policies.validating();
    let mut refusals = Vec::new();
    for policy in policies.iter() {
        let Some(bindings) = bindings.get(&policy.name) else { continue };
        let Some(shown) = policy.criteria.matches(attributes, object)? else { continue };
        let seen = seen(attributes, &shown, object).await?;
        for binding in bindings {
            let is_meant = match &binding.criteria {
                Some(criteria) => criteria.restricts(attributes, object)?,
                None => true,
            };
            if !is_meant {
                continue;
            }
            let params = match collect(attributes, policy.compiled.params.as_ref(), binding.params.as_ref()).await {
                Ok(params) => params,
                Err(problem) => {
                    let error = format!("failed to configure binding: {problem}");
                    refusals.extend(judged(attributes, policy, binding, error_alone(error)));
                    continue;
                }
            };
            let outcomes = expression::evaluate(attributes, &shown, &seen, true, |scope| {
                let evaluated = params.iter().map(|params| policy.compiled.evaluate(scope, params.as_ref()));
                evaluated.collect::<Vec<Outcome>>()
            });
            for outcome in outcomes {
                refusals.extend(judged(attributes, policy, binding, outcome));
            }
        }
    }
    refusals.into_iter().next().map_or(Ok(()), Err)
}

fn error_alone(error: String) -> Outcome {
    Outcome { errors: vec![error], ..Outcome::default() }
}

/// What an outcome comes to: refusals, warnings, or a line for the audit log.
fn judged(
    attributes: &Attributes<'_>,
    policy: &Policy<Validating>,
    binding: &Binding,
    outcome: Outcome,
) -> Vec<Status> {
    let mut refusals = Vec::new();
    for (key, value) in &outcome.annotations {
        attributes.annotations.add(format!("{}/{key}", policy.name), value.as_str());
    }
    for error in outcome.errors {
        match policy.compiled.fails_closed {
            true => {
                refusals.push(refusal(attributes, policy, binding, &Failure { message: error, reason: String::new() }))
            }
            false => tracing::warn!(hop = "admission", policy = policy.name, error, "ignored"),
        }
    }
    for failure in outcome.failures {
        for action in &binding.actions {
            match action.as_str() {
                "Deny" => refusals.push(refusal(attributes, policy, binding, &failure)),
                "Warn" => attributes.warnings.add(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                    policy.name, binding.name, failure.message
                )),
                _ => {
                    let told = json!([{"message": failure.message, "policy": policy.name, "binding": binding.name,
                        "validationActions": binding.actions}]);
                    attributes.annotations.add(VALIDATION_FAILURE, told.to_string());
                }
            }
        }
    }
    refusals
}

fn refusal(attributes: &Attributes<'_>, policy: &Policy<Validating>, binding: &Binding, failure: &Failure) -> Status {
    let detail = format!(
        "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}",
        policy.name, binding.name, failure.message
    );
    let mut status = Status::forbidden(About::resource(attributes.resource, attributes.name), &detail);
    status.reason = match failure.reason.as_str() {
        "Forbidden" => Reason::Forbidden,
        "RequestEntityTooLarge" => Reason::RequestEntityTooLarge,
        _ => Reason::Invalid,
    };
    // What kubectl shows of an invalid object.
    status.with_cause(Cause { reason: CauseReason::Unstated, message: detail, field: String::new() })
}

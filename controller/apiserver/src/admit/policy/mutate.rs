//! MutatingAdmissionPolicy: every policy that is bound and meant changes the object; each sees what those before it made.

use controller_object::policy::{self, Mutating};
use controller_object::status::{About, Status};
use controller_object::{decode, defaulting};
use serde_json::Value;

use super::binding::{Binding, Policy};
use super::params::collect;
use crate::admit::attributes::Attributes;
use crate::admit::expression;
use crate::admit::matching::Shown;
use crate::admit::reinvocation::Reinvocation;
use crate::admit::version::{back, seen};

/// Lets all policies change the object. Says whether anything changed; `again` asks only those that are due.
pub(crate) async fn mutate(
    attributes: &Attributes<'_>,
    object: &mut Value,
    reinvocation: &mut Reinvocation,
    again: bool,
) -> Result<bool, Status> {
    let (policies, bindings) = attributes.state.policies.mutating();
    if policies.is_empty() {
        return Ok(false);
    }
    if again {
        reinvocation.begin(Some(object));
    }
    let mut anything = false;
    for policy in policies.iter() {
        for binding in bindings.get(&policy.name).into_iter().flatten() {
            let id = format!("{}/{}", policy.name, binding.name);
            if again && !reinvocation.is_due(&id) {
                continue;
            }
            let Some(shown) = policy.criteria.matches(attributes, Some(object))? else { continue };
            let is_meant = match &binding.criteria {
                Some(criteria) => criteria.restricts(attributes, Some(object))?,
                None => true,
            };
            if !is_meant {
                continue;
            }
            let before = object.clone();
            if let Err(problem) = apply(attributes, policy, binding, &shown, object).await {
                *object = before;
                if policy.compiled.fails_closed {
                    let detail =
                        format!("policy '{}' with binding '{}' denied request: {problem}", policy.name, binding.name);
                    return Err(Status::forbidden(About::resource(attributes.resource, attributes.name), &detail));
                }
                tracing::warn!(hop = "admission", policy = policy.name, problem, "ignored");
                continue;
            }
            if *object != before {
                anything = true;
                reinvocation.changed();
            }
            if policy.compiled.reinvoked {
                reinvocation.asked(&id);
            }
        }
    }
    reinvocation.end(Some(object));
    Ok(anything)
}

fn told(status: Status) -> String {
    status.message
}

/// Every mutation of a policy, with every set of parameters.
async fn apply(
    attributes: &Attributes<'_>,
    policy: &Policy<Mutating>,
    binding: &Binding,
    shown: &Shown,
    object: &mut Value,
) -> Result<(), String> {
    let compiled = &policy.compiled;
    let params = collect(attributes, compiled.params.as_ref(), binding.params.as_ref())
        .await
        .map_err(|problem| format!("failed to configure binding: {problem}"))?;
    for params in &params {
        let before = seen(attributes, shown, Some(object)).await.map_err(told)?;
        let is_meant =
            expression::evaluate(attributes, shown, &before, true, |scope| compiled.is_meant(scope, params.as_ref()));
        if !is_meant? {
            continue;
        }
        for index in 0..compiled.len() {
            let now = seen(attributes, shown, Some(object)).await.map_err(told)?;
            let change = expression::evaluate(attributes, shown, &now, true, |scope| {
                compiled.change(index, scope, params.as_ref())
            });
            let (Some(change), Some(object_now)) = (change?, &now.object) else { continue };
            let exchanges = attributes.subresource.is_some_and(|sub| sub.kind().is_some());
            if exchanges && matches!(change, policy::Change::Apply(_)) {
                return Err("ApplyConfiguration is not for objects that are only exchanged; use JSONPatch".into());
            }
            let changed = policy::applied(&shown.resource, object_now, &change)?;
            let mut changed = back(attributes, shown, changed).await.map_err(told)?;
            if !exchanges {
                decode::conform(attributes.resource, &mut changed, decode::FieldValidation::Ignore).map_err(told)?;
                defaulting::default(attributes.resource, &mut changed);
            }
            *object = changed;
        }
    }
    Ok(())
}

//! Asking webhooks, and what their answers and failures come to.

use std::sync::Arc;

use controller_object::status::{About, Status};
use controller_object::{decode, defaulting, patch};
use serde_json::{Value, json};

use super::hook::Hook;
use super::review::{self, Verdict};
use crate::admit::attributes::Attributes;
use crate::admit::expression;
use crate::admit::matching::Shown;
use crate::admit::reinvocation::Reinvocation;
use crate::admit::version::{back, seen};

/// The annotations that tell which webhook changed an object.
const MUTATION: &str = "mutation.webhook.admission.k8s.io/";

/// Why a webhook gave no verdict.
enum Failure {
    /// It could not be asked, or its answer is none.
    Calling(String),
    /// The request cannot be put to it at all.
    Request(Status),
}

/// Asks the mutating webhooks one after another; each sees what those before it made. Says whether anything changed.
/// `again` asks only those that are due to be asked again.
pub(crate) async fn mutate(
    attributes: &Attributes<'_>,
    mut object: Option<&mut Value>,
    reinvocation: &mut Reinvocation,
    again: bool,
) -> Result<bool, Status> {
    let hooks = attributes.state.hooks.mutating();
    if hooks.is_empty() {
        return Ok(false);
    }
    if again {
        reinvocation.begin(object.as_deref());
    }
    let mut anything = false;
    for (index, hook) in hooks.iter().enumerate() {
        if again && !reinvocation.is_due(&hook.id) {
            continue;
        }
        let Some(shown) = selected(attributes, hook, object.as_deref()).await? else { continue };
        let verdict = match ask(attributes, hook, &shown, object.as_deref(), true).await {
            Ok(verdict) => verdict,
            Err(failure) => {
                failed(hook, failure)?;
                continue;
            }
        };
        if !verdict.allowed {
            return Err(review::refusal(&hook.name, verdict.result.as_ref()));
        }
        let mut mutated = false;
        if !verdict.patch.is_empty() {
            let Some(object) = object.as_deref_mut() else {
                return Err(Status::internal_error(format!(
                    "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                    hook.name
                )));
            };
            mutated = apply(attributes, &shown, &verdict.patch, object).await?;
            if mutated {
                anything = true;
                reinvocation.changed();
            }
        }
        let told = json!({"configuration": hook.configuration(), "webhook": hook.name, "mutated": mutated});
        attributes.annotations.add(format!("{MUTATION}round_{}_index_{index}", u8::from(again)), told.to_string());
        if hook.reinvoked {
            reinvocation.asked(&hook.id);
        }
    }
    reinvocation.end(object.as_deref());
    Ok(anything)
}

/// Asks all validating webhooks at once; the first refusal in their order counts.
pub(crate) async fn validate(attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
    let hooks = attributes.state.hooks.validating();
    let mut asked: Vec<(&Arc<Hook>, Shown)> = Vec::new();
    for hook in hooks.iter() {
        if let Some(shown) = selected(attributes, hook, object).await? {
            asked.push((hook, shown));
        }
    }
    let verdicts = asked.iter().map(|(hook, shown)| ask(attributes, hook, shown, object, false));
    let verdicts = futures::future::join_all(verdicts).await;
    for ((hook, _), verdict) in asked.iter().zip(verdicts) {
        match verdict {
            Ok(verdict) if verdict.allowed => {}
            Ok(verdict) => return Err(review::refusal(&hook.name, verdict.result.as_ref())),
            Err(failure) => failed(hook, failure)?,
        }
    }
    Ok(())
}

/// How a request is shown to a webhook, if it is for it. A condition that cannot be evaluated ends the request, unless
/// the webhook's failures are ignored: then it is not asked.
async fn selected(attributes: &Attributes<'_>, hook: &Hook, object: Option<&Value>) -> Result<Option<Shown>, Status> {
    let Some(shown) = hook.criteria.matches(attributes, object)? else { return Ok(None) };
    if hook.conditions.is_empty() {
        return Ok(Some(shown));
    }
    let seen = seen(attributes, &shown, object).await?;
    let holds = expression::evaluate(attributes, &shown, &seen, false, |scope| hook.conditions.hold(scope, None));
    match holds {
        Ok(true) => Ok(Some(shown)),
        Ok(false) => Ok(None),
        Err(problem) if hook.fails_closed => {
            Err(Status::forbidden(About::resource(attributes.resource, attributes.name), &problem))
        }
        Err(problem) => {
            tracing::warn!(hop = "admission", webhook = hook.name, problem, "not asked");
            Ok(None)
        }
    }
}

/// Puts the request to one webhook.
async fn ask(
    attributes: &Attributes<'_>,
    hook: &Hook,
    shown: &Shown,
    object: Option<&Value>,
    mutates: bool,
) -> Result<Verdict, Failure> {
    if attributes.dry_run && !hook.takes_dry_runs {
        let message = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Failure::Request(Status::bad_request(message)));
    }
    let seen = seen(attributes, shown, object).await.map_err(Failure::Request)?;
    let uid = uuid::Uuid::new_v4().to_string();
    let question = review::question(hook, &uid, attributes, shown, &seen);
    let answer = attributes.state.registry.webhooks.call(&hook.client, &question, hook.timeout).await;
    let answer = answer.map_err(|error| Failure::Calling(format!("failed to call webhook: {error}")))?;
    let verdict = review::verdict(hook, &uid, mutates, &answer)
        .map_err(|problem| Failure::Calling(format!("received invalid webhook response: {problem}")))?;
    for warning in &verdict.warnings {
        attributes.warnings.add(warning.as_str());
    }
    for (key, value) in &verdict.annotations {
        attributes.annotations.add(format!("{}/{key}", hook.name), value.as_str());
    }
    Ok(verdict)
}

/// What a failure means: the end of the request, or nothing where the webhook's policy ignores it.
fn failed(hook: &Hook, failure: Failure) -> Result<(), Status> {
    match failure {
        Failure::Request(status) => Err(status),
        Failure::Calling(problem) => {
            let problem = format!("failed calling webhook {:?}: {problem}", hook.name);
            if hook.fails_closed {
                return Err(Status::internal_error(problem));
            }
            tracing::warn!(hop = "admission", problem, "ignored");
            Ok(())
        }
    }
}

/// Patches the object in the version that the webhook saw, and gives it its structure and defaults again.
async fn apply(
    attributes: &Attributes<'_>,
    shown: &Shown,
    operations: &[Value],
    object: &mut Value,
) -> Result<bool, Status> {
    let seen = seen(attributes, shown, Some(object)).await?;
    let patched = patch::json_patch(seen.object.as_deref().unwrap_or(object), &Value::Array(operations.to_vec()))
        .map_err(|status| Status::internal_error(status.message))?;
    let mut patched = back(attributes, shown, patched).await?;
    // A path below an object that exchanges another kind has no schema of its own here; its handler reads it strictly.
    if attributes.subresource.is_none_or(|sub| sub.kind().is_none()) {
        decode::conform(attributes.resource, &mut patched, decode::FieldValidation::Ignore)
            .map_err(|status| Status::internal_error(status.message))?;
        defaulting::default(attributes.resource, &mut patched);
    }
    let changed = patched != *object;
    *object = patched;
    Ok(changed)
}

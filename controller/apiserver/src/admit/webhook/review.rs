//! The question and the answer: admission.k8s.io/v1 AdmissionReview, and v1beta1 for webhooks that know only that.

use base64::Engine as _;
use controller_object::status::{Reason, Status};
use serde_json::{Map, Value, json};

use super::hook::Hook;
use crate::admit::attributes::Attributes;
use crate::admit::matching::Shown;
use crate::admit::version::Seen;

/// What a webhook said.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    pub(super) allowed: bool,
    /// The Status of a refusal.
    pub(super) result: Option<Value>,
    /// JSON Patch operations.
    pub(super) patch: Vec<Value>,
    pub(super) warnings: Vec<String>,
    pub(super) annotations: Vec<(String, String)>,
}

/// The question about a request that is shown as `shown`.
pub(super) fn question(hook: &Hook, uid: &str, attributes: &Attributes<'_>, shown: &Shown, seen: &Seen<'_>) -> Value {
    let mut request = attributes.request(shown);
    request["uid"] = uid.into();
    request["object"] = json!(seen.object.as_deref());
    request["oldObject"] = json!(seen.old.as_deref());
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{}", hook.review), "request": request})
}

/// What the answer says, or what is wrong with it.
pub(super) fn verdict(hook: &Hook, uid: &str, mutates: bool, answer: &Value) -> Result<Verdict, String> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind) = (text(answer, "apiVersion"), text(answer, "kind"));
    let expected = format!("admission.k8s.io/{}", hook.review);
    // v1beta1 was answered without these by many.
    let is_old = hook.review == "v1beta1" && version.is_empty() && kind.is_empty();
    if !is_old && (version != expected || kind != "AdmissionReview") {
        return Err(format!(
            "expected webhook response of {expected}, Kind=AdmissionReview, got {version}, Kind={kind}"
        ));
    }
    let Some(response) = answer.get("response").filter(|response| response.is_object()) else {
        return Err("webhook response was absent".into());
    };
    let given = text(response, "uid");
    if hook.review == "v1" && given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let allowed = match response.get("allowed") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(allowed)) => *allowed,
        Some(other) => return Err(format!("response.allowed: expected a boolean, got {other}")),
    };
    let patch = text(response, "patch");
    let patch_type = text(response, "patchType");
    if patch.is_empty() && !patch_type.is_empty() && hook.review == "v1" {
        return Err("webhook returned response.patchType but not response.patch".into());
    }
    if !patch.is_empty() {
        if !mutates && hook.review == "v1" {
            return Err("validating webhook may not return response.patch".into());
        }
        if patch_type.is_empty() && hook.review == "v1" {
            return Err("webhook returned response.patch but not response.patchType".into());
        }
        if !patch_type.is_empty() && patch_type != "JSONPatch" {
            return Err(format!("invalid value of response.patchType {patch_type:?}, expected \"JSONPatch\""));
        }
    }
    let strings = |key: &str| -> Vec<String> {
        let list = response.get(key).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let annotations = response.get("auditAnnotations").and_then(Value::as_object).cloned().unwrap_or_default();
    Ok(Verdict {
        allowed,
        result: response.get("status").filter(|status| status.is_object()).cloned(),
        patch: if mutates { operations(&patch)? } else { Vec::new() },
        warnings: strings("warnings"),
        annotations: annotations
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.as_str()?.to_owned())))
            .collect(),
    })
}

/// The operations of a patch in base64.
fn operations(patch: &str) -> Result<Vec<Value>, String> {
    if patch.is_empty() {
        return Ok(Vec::new());
    }
    let undecodable = |problem: String| format!("received undecodable patch in webhook response: {problem}");
    let bytes = base64::engine::general_purpose::STANDARD.decode(patch);
    let bytes = bytes.map_err(|error| undecodable(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| undecodable(error.to_string()))
}

/// The refusal of a webhook: its own status, with code and reason, and who said it.
pub(super) fn refusal(name: &str, result: Option<&Value>) -> Status {
    let empty = Value::Object(Map::new());
    let result = result.unwrap_or(&empty);
    let text = |key: &str| result.get(key).and_then(Value::as_str).unwrap_or_default();
    let denied = format!("admission webhook {name:?} denied the request");
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    // A refusal is never told as a success.
    let code = result.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| (400..600).contains(code)).unwrap_or(400);
    Status::new(Reason::BadRequest, message).told_as(code, text("reason"), result.get("details"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(review: &'static str) -> Hook {
        Hook {
            id: "c/h".into(),
            name: "h.example.com".into(),
            client: Default::default(),
            criteria: Default::default(),
            conditions: Default::default(),
            fails_closed: true,
            takes_dry_runs: true,
            timeout: std::time::Duration::from_secs(1),
            review,
            reinvoked: false,
        }
    }

    #[test]
    fn answers_must_be_what_was_asked_for() {
        let patch = base64::engine::general_purpose::STANDARD.encode(r#"[{"op":"remove","path":"/a"}]"#);
        let answer = |response: Value| json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
        let read = |mutates, response: Value| verdict(&hook("v1"), "u", mutates, &answer(response));
        let good = read(true, json!({"uid": "u", "allowed": true, "patch": patch, "patchType": "JSONPatch"})).unwrap();
        assert!(good.allowed && good.patch == [json!({"op": "remove", "path": "/a"})]);
        for (mutates, response, problem) in [
            (true, json!(null), "webhook response was absent"),
            (true, json!({"uid": "x", "allowed": true}), "expected response.uid=\"u\", got \"x\""),
            (true, json!({"uid": "u", "patch": patch}), "webhook returned response.patch but not response.patchType"),
            (false, json!({"uid": "u", "patch": patch, "patchType": "JSONPatch"}), "validating webhook may not return"),
            (true, json!({"uid": "u", "patch": "e30", "patchType": "JSONPatch"}), "received undecodable patch"),
            (true, json!({"uid": "u", "patch": patch, "patchType": "Merge"}), "invalid value of response.patchType"),
            (true, json!({"uid": "u", "patchType": "JSONPatch"}), "webhook returned response.patchType but not"),
        ] {
            let error = read(mutates, response.clone()).unwrap_err();
            assert!(error.starts_with(problem), "{response}: {error}");
        }
        let old = json!({"response": {"allowed": true, "patch": patch}});
        assert!(verdict(&hook("v1"), "u", true, &old).is_err());
        assert_eq!(verdict(&hook("v1beta1"), "u", true, &old).map(|v| v.patch.len()), Ok(1));
    }

    #[test]
    fn refusals_name_the_webhook_and_keep_its_status() {
        let status = refusal("h", Some(&json!({"code": 409, "reason": "Busy", "message": "not now"})));
        assert_eq!(status.message, "admission webhook \"h\" denied the request: not now");
        assert_eq!(status.to_value(400)["code"], 409);
        assert_eq!(status.to_value(400)["reason"], "Busy");
        let bare = refusal("h", Some(&json!({"code": 200})));
        assert_eq!(bare.message, "admission webhook \"h\" denied the request without explanation");
        assert_eq!(bare.to_value(400)["code"], 400);
        assert!(bare.to_value(400).get("reason").is_none());
    }
}

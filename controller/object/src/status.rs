//! `metav1.Status`: how every failure is told, with the messages of Kubernetes. HTTP codes live in the API server.
use serde_json::{Value, json};

/// Why a request failed, machine-readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The request is malformed.
    BadRequest,
    /// The client is not known.
    Unauthorized,
    /// The client may not.
    Forbidden,
    /// There is no such object or resource.
    NotFound,
    /// The verb is not for this resource.
    MethodNotAllowed,
    /// No acceptable media type.
    NotAcceptable,
    /// The name is taken.
    AlreadyExists,
    /// The object changed meanwhile, or its fields belong to others.
    Conflict,
    /// It was there and is no more.
    Gone,
    /// The resourceVersion or continue token is too old.
    Expired,
    /// The body is too large.
    RequestEntityTooLarge,
    /// The body's media type is not understood.
    UnsupportedMediaType,
    /// The object breaks its rules.
    Invalid,
    /// Slow down.
    TooManyRequests,
    /// A fault of the server.
    InternalError,
    /// The server cannot do it now.
    ServiceUnavailable,
    /// Not done in time; it may still happen.
    Timeout,
    /// Not done in time by the server.
    ServerTimeout,
}

impl Reason {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Expired => "Expired",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::Invalid => "Invalid",
            Self::TooManyRequests => "TooManyRequests",
            Self::InternalError => "InternalError",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::Timeout => "Timeout",
            Self::ServerTimeout => "ServerTimeout",
        }
    }
}

/// Why one field is to blame, machine-readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CauseReason {
    /// It must be there.
    Required,
    /// Its value breaks a rule.
    Invalid,
    /// Its value is none of those allowed.
    NotSupported,
    /// Its value is used twice.
    Duplicate,
    /// It may not be set here.
    Forbidden,
    /// It is too long.
    TooLong,
    /// It has too many elements.
    TooMany,
    /// What it refers to is not there.
    NotFound,
    /// It has the wrong type.
    TypeInvalid,
    /// It belongs to another field manager.
    FieldManagerConflict,
    /// The resourceVersion asked for lies ahead.
    ResourceVersionTooLarge,
    /// The namespace is being deleted.
    NamespaceTerminating,
    /// A budget stands against it.
    DisruptionBudget,
    /// The server's answer was not understood.
    UnexpectedServerResponse,
    /// Said by a policy, which has only words.
    Unstated,
}

impl CauseReason {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::FieldManagerConflict => "FieldManagerConflict",
            Self::ResourceVersionTooLarge => "ResourceVersionTooLarge",
            Self::NamespaceTerminating => "NamespaceTerminating",
            Self::DisruptionBudget => "DisruptionBudget",
            Self::UnexpectedServerResponse => "UnexpectedServerResponse",
            Self::Unstated => "",
        }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The kind of fault.
    pub reason: CauseReason,
    /// What is wrong, without the field.
    pub message: String,
    /// Path of the field; may be empty.
    pub field: String,
}

impl Cause {
    fn new(reason: CauseReason, field: impl Into<String>, message: String) -> Self {
        Self { reason, message, field: field.into() }
    }

    /// `Required value: detail`
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        Self::new(CauseReason::Required, field, suffixed("Required value", detail))
    }

    /// `Invalid value: value: detail`; text is quoted.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::new(CauseReason::Invalid, field, suffixed(&format!("Invalid value: {}", shown(value)), detail))
    }

    /// `Unsupported value: value: supported values: ...`
    pub fn unsupported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let message = format!("Unsupported value: {}: supported values: {}", shown(value), list.join(", "));
        Self::new(CauseReason::NotSupported, field, message)
    }

    /// `Duplicate value: value`
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self::new(CauseReason::Duplicate, field, format!("Duplicate value: {}", shown(value)))
    }

    /// `Forbidden: detail`
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::new(CauseReason::Forbidden, field, suffixed("Forbidden", detail))
    }

    /// `Too long: may not be more than N bytes`
    pub fn too_long(field: impl Into<String>, max: usize) -> Self {
        Self::new(CauseReason::TooLong, field, format!("Too long: may not be more than {max} bytes"))
    }

    /// `Too many: N: must have at most M items`
    pub fn too_many(field: impl Into<String>, count: usize, max: usize) -> Self {
        Self::new(CauseReason::TooMany, field, format!("Too many: {count}: must have at most {max} items"))
    }

    /// `Not found: value`
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self::new(CauseReason::NotFound, field, format!("Not found: {}", shown(value)))
    }

    /// The field and the message, as they stand in the whole message.
    pub fn describe(&self) -> String {
        if self.field.is_empty() { self.message.clone() } else { format!("{}: {}", self.field, self.message) }
    }
}

fn suffixed(message: &str, detail: &str) -> String {
    if detail.is_empty() { message.to_owned() } else { format!("{message}: {detail}") }
}

/// A value in a message: text in quotes, long things cut.
fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > 512 {
        let mut end = 512;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// What the failure is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its resource or kind.
    pub kind: String,
    /// Its uid.
    pub uid: String,
    /// Every fault.
    pub causes: Vec<Cause>,
    /// When to try again.
    pub retry_after_seconds: Option<u32>,
}

/// A failure as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// Machine-readable.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
    /// With a list that expired: the token that goes on with the rest, inconsistently.
    pub continue_token: Option<String>,
    /// How somebody else wants it told.
    pub told: Option<Box<Told>>,
}

/// A failure that a server of others decided, with the code and the words that it chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The HTTP code.
    pub code: u16,
    /// The reason, which may be none that is known here; may be empty.
    pub reason: String,
    /// The details as they came.
    pub details: Option<Value>,
}

/// The object a failure is about: resource (or kind), group, and name.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// API group.
    pub group: &'a str,
    /// Plural of the resource, or the kind.
    pub kind: &'a str,
    /// Name of the object.
    pub name: &'a str,
}

impl<'a> About<'a> {
    /// About an object of a resource.
    pub fn resource(resource: &'a crate::resource::Resource, name: &'a str) -> Self {
        Self { group: &resource.group, kind: &resource.plural, name }
    }

    fn qualified(&self) -> String {
        if self.group.is_empty() { self.kind.to_owned() } else { format!("{}.{}", self.kind, self.group) }
    }

    fn details(&self) -> Option<Box<Details>> {
        Some(Box::new(Details {
            name: self.name.to_owned(),
            group: self.group.to_owned(),
            kind: self.kind.to_owned(),
            ..Details::default()
        }))
    }
}

impl Status {
    /// A failure with a message and nothing more.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), details: None, continue_token: None, told: None }
    }

    fn about(reason: Reason, about: About<'_>, message: String) -> Self {
        Self { reason, message, details: about.details(), continue_token: None, told: None }
    }

    fn details_mut(&mut self) -> &mut Details {
        self.details.get_or_insert_default()
    }

    /// The same, telling the client when to come back.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.details_mut().retry_after_seconds = Some(seconds);
        self
    }

    /// The same, with one more cause.
    #[must_use]
    pub fn with_cause(mut self, cause: Cause) -> Self {
        self.details_mut().causes.push(cause);
        self
    }

    /// No such object.
    pub fn not_found(about: About<'_>) -> Self {
        Self::about(Reason::NotFound, about, format!("{} {:?} not found", about.qualified(), about.name))
    }

    /// No such path.
    pub fn path_not_found() -> Self {
        let mut status = Self::new(Reason::NotFound, "the server could not find the requested resource");
        status.details = Some(Box::default());
        status
    }

    /// The verb is not for this resource now.
    pub fn method_not_allowed(message: &str) -> Self {
        Self::new(Reason::MethodNotAllowed, message)
    }

    /// The name is taken.
    pub fn already_exists(about: About<'_>) -> Self {
        Self::about(Reason::AlreadyExists, about, format!("{} {:?} already exists", about.qualified(), about.name))
    }

    /// `generateName` hit a taken name.
    pub fn generate_name_conflict(about: About<'_>) -> Self {
        let message = format!(
            "{} {:?} already exists, the server was not able to generate a unique name for the object",
            about.qualified(),
            about.name
        );
        Self::about(Reason::AlreadyExists, about, message).retry_after(1)
    }

    /// The object changed meanwhile, or a precondition does not hold.
    pub fn conflict(about: About<'_>, detail: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {:?}: {detail}", about.qualified(), about.name);
        Self::about(Reason::Conflict, about, message)
    }

    /// The usual conflict: another writer was faster.
    pub fn modified(about: About<'_>) -> Self {
        Self::conflict(
            about,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// Fields belong to other managers.
    pub fn apply_conflict(causes: Vec<Cause>) -> Self {
        let plural = if causes.len() == 1 { "conflict" } else { "conflicts" };
        let mut message = format!("Apply failed with {} {plural}: ", causes.len());
        message.push_str(&conflict_summary(&causes));
        let mut status = Self::new(Reason::Conflict, message);
        status.details_mut().causes = causes;
        status
    }

    /// The object breaks its rules.
    pub fn invalid(resource: &crate::resource::Resource, name: &str, causes: Vec<Cause>) -> Self {
        Self::invalid_about(About { group: &resource.group, kind: &resource.kind, name }, causes)
    }

    /// The same for what is no object of a resource: options of a request.
    pub fn invalid_about(about: About<'_>, causes: Vec<Cause>) -> Self {
        let mut told: Vec<String> = Vec::new();
        for cause in &causes {
            let text = cause.describe();
            if !told.contains(&text) {
                told.push(text);
            }
        }
        let all = match told.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} {:?} is invalid: {all}", about.qualified(), about.name);
        let mut status = Self::about(Reason::Invalid, about, message);
        status.details_mut().causes = causes;
        status
    }

    /// The request is malformed.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// The client may not.
    pub fn forbidden(about: About<'_>, detail: &str) -> Self {
        let message = match (about.kind, about.name) {
            ("", _) => format!("forbidden: {detail}"),
            (_, "") => format!("{} is forbidden: {detail}", about.qualified()),
            (_, name) => format!("{} {name:?} is forbidden: {detail}", about.qualified()),
        };
        Self::about(Reason::Forbidden, about, message)
    }

    /// The client is not known.
    pub fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }

    /// The verb is not for this resource.
    pub fn method_not_supported(about: About<'_>, verb: &str) -> Self {
        let message = format!("{verb} is not supported on resources of kind {:?}", about.qualified());
        Self::about(Reason::MethodNotAllowed, about, message)
    }

    /// The body's media type is not understood.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(Reason::UnsupportedMediaType, message)
    }

    /// No acceptable media type.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(Reason::NotAcceptable, message)
    }

    /// The resourceVersion or continue token is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// It was there and is no more.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(Reason::Gone, message)
    }

    /// The body is too large.
    pub fn request_entity_too_large(detail: &str) -> Self {
        Self::new(Reason::RequestEntityTooLarge, format!("Request entity too large: {detail}"))
    }

    /// Not done in time.
    pub fn timeout(detail: &str) -> Self {
        Self::new(Reason::Timeout, format!("Timeout: {detail}"))
    }

    /// The resourceVersion asked for lies ahead of the store.
    pub fn resource_version_too_large(asked: u64, current: u64) -> Self {
        Self::new(Reason::Timeout, format!("Timeout: Too large resource version: {asked}, current: {current}"))
            .retry_after(1)
            .with_cause(Cause::new(CauseReason::ResourceVersionTooLarge, "", "Too large resource version".to_owned()))
    }

    /// Slow down; with 0 seconds clients are not told when to ask again, and tell their user instead.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let status = Self::new(Reason::TooManyRequests, message);
        if retry_after_seconds == 0 { status } else { status.retry_after(retry_after_seconds) }
    }

    /// A fault of the server.
    pub fn internal_error(detail: impl std::fmt::Display) -> Self {
        let mut status = Self::new(Reason::InternalError, format!("Internal error occurred: {detail}"));
        let cause =
            Cause { reason: CauseReason::UnexpectedServerResponse, message: detail.to_string(), field: String::new() };
        status.details_mut().causes.push(cause);
        status
    }

    /// The server cannot do it now.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(Reason::ServiceUnavailable, message)
    }

    /// The same, as a server of others (a webhook) wants it told.
    #[must_use]
    pub fn told_as(mut self, code: u16, reason: &str, details: Option<&Value>) -> Self {
        self.told = Some(Box::new(Told { code, reason: reason.to_owned(), details: details.cloned() }));
        self
    }

    /// The wire form. `code` is the HTTP code that the API server chose.
    pub fn to_value(&self, code: u16) -> Value {
        let mut value = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason.as_str(), "code": code,
        });
        if let Some(token) = &self.continue_token {
            value["metadata"]["continue"] = token.as_str().into();
        }
        if let Some(details) = &self.details {
            value["details"] = details.to_value();
        }
        if let Some(told) = &self.told {
            value["code"] = told.code.into();
            match told.reason.as_str() {
                "" => drop(value.as_object_mut().and_then(|map| map.remove("reason"))),
                reason => value["reason"] = reason.into(),
            }
            if let Some(details) = &told.details {
                value["details"] = details.clone();
            }
        }
        value
    }
}

fn conflict_summary(causes: &[Cause]) -> String {
    if let [one] = causes {
        return format!("{}: {}", one.message, one.field);
    }
    let mut managers: Vec<&str> = causes.iter().map(|c| c.message.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let mut text = String::new();
    for (i, manager) in managers.into_iter().enumerate() {
        if i > 0 {
            text.push('\n');
        }
        text.push_str(&manager.replacen("conflict with", "conflicts with", 1));
        text.push(':');
        for cause in causes.iter().filter(|c| c.message == manager) {
            text.push_str("\n- ");
            text.push_str(&cause.field);
        }
    }
    text
}

impl Details {
    fn to_value(&self) -> Value {
        let mut value = json!({});
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !text.is_empty() {
                value[key] = text.as_str().into();
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(|c| {
                let mut cause = json!({"message": c.message});
                if c.reason != CauseReason::Unstated {
                    cause["reason"] = c.reason.as_str().into();
                }
                if !c.field.is_empty() {
                    cause["field"] = c.field.as_str().into();
                }
                cause
            });
            value["causes"] = causes.collect();
        }
        if let Some(seconds) = self.retry_after_seconds {
            value["retryAfterSeconds"] = seconds.into();
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Table;

    #[test]
    fn messages_are_those_of_kubernetes() {
        let deployment = Table::builtin().find("apps", "v1", "deployments").unwrap();
        let about = About::resource(deployment, "web");
        assert_eq!(Status::not_found(about).message, "deployments.apps \"web\" not found");
        assert_eq!(Status::already_exists(about).message, "deployments.apps \"web\" already exists");
        assert!(
            Status::modified(about)
                .message
                .starts_with("Operation cannot be fulfilled on deployments.apps \"web\": the object")
        );
        assert_eq!(Status::forbidden(about, "no").message, "deployments.apps \"web\" is forbidden: no");
        let one = Status::invalid(deployment, "web", vec![Cause::required("spec.selector", "")]);
        assert_eq!(one.message, "Deployment.apps \"web\" is invalid: spec.selector: Required value");
        let two = Status::invalid(
            deployment,
            "web",
            vec![Cause::required("a", ""), Cause::unsupported("b", &"x".into(), &["y", "z"])],
        );
        assert_eq!(
            two.message,
            "Deployment.apps \"web\" is invalid: [a: Required value, b: Unsupported value: \"x\": supported values: \"y\", \"z\"]"
        );
        let value = two.to_value(422);
        assert_eq!(value["details"]["causes"][1]["reason"], "FieldValueNotSupported");
        assert_eq!(value["code"], 422);
    }

    #[test]
    fn apply_conflicts_name_manager_and_field() {
        let cause = |field: &str| Cause {
            reason: CauseReason::FieldManagerConflict,
            message: "conflict with \"kubectl\" using apps/v1".to_owned(),
            field: field.to_owned(),
        };
        let one = Status::apply_conflict(vec![cause(".spec.replicas")]);
        assert_eq!(
            one.message,
            "Apply failed with 1 conflict: conflict with \"kubectl\" using apps/v1: .spec.replicas"
        );
        let two = Status::apply_conflict(vec![cause(".a"), cause(".b")]);
        assert_eq!(two.message, "Apply failed with 2 conflicts: conflicts with \"kubectl\" using apps/v1:\n- .a\n- .b");
    }
}

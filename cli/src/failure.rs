//! What a verb says when it fails: on standard error, in kubectl's words.

use std::error::Error;
use std::fmt;

pub(crate) use api::causes::chain;
use serde_json::Value;

/// A failure as people read it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Words, with their `error: ` where they are ours.
    Plain(String),
    /// What the API server answered.
    Server(Box<Refusal>),
    /// Nobody reads our output any more; that is a normal end.
    OutputClosed,
}

/// The parts of a `Status` that people are shown.
#[derive(Debug, Default, Clone)]
pub(crate) struct Refusal {
    /// The HTTP status code.
    pub(crate) code: u16,
    /// The machine's word for it, such as `NotFound`.
    pub(crate) reason: String,
    /// The sentence.
    pub(crate) message: String,
    /// Kind and name of the object, where the server says them.
    about: Option<(String, String)>,
    /// Field and complaint, where the server says them.
    causes: Vec<(String, String)>,
    /// What was being done, such as `error when creating "x.yaml"`.
    doing: Option<String>,
}

impl Failure {
    /// A failure in plain words.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::Plain(message.into())
    }

    /// A failure in words that follow `error: `.
    pub(crate) fn error(message: impl fmt::Display) -> Self {
        Self::Plain(format!("error: {message}"))
    }

    /// An error with its causes.
    pub(crate) fn of(error: &dyn Error) -> Self {
        Self::Plain(format!("error: {}", chain(error)))
    }

    /// What the server answered with `code` and `body`.
    pub(crate) fn answered(code: u16, body: &Value) -> Self {
        Self::Server(Box::new(Refusal::of(code, body)))
    }

    /// The server's answer, if it is one.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Server(refusal) => Some(refusal),
            Self::Plain(_) | Self::OutputClosed => None,
        }
    }

    /// Whether the server said that one may not.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.code == 403)
    }

    /// Whether the server said that the object does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.code == 404)
    }

    /// The same failure with what was being done.
    pub(crate) fn while_doing(self, what: impl Into<String>) -> Self {
        match self {
            Self::Server(mut refusal) => {
                refusal.doing = Some(what.into());
                Self::Server(refusal)
            }
            other => other,
        }
    }
}

impl Refusal {
    fn of(code: u16, body: &Value) -> Self {
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let details = body.get("details");
        let about = details.map(|_| (text("/details/kind"), text("/details/name")));
        let mut causes = Vec::new();
        for cause in details.and_then(|details| details.get("causes")?.as_array()).into_iter().flatten() {
            let part = |key: &str| cause.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let cause = (part("field"), part("message"));
            if !causes.contains(&cause) {
                causes.push(cause);
            }
        }
        let message = match body.get("message").and_then(Value::as_str) {
            Some(message) => message.to_owned(),
            None => format!("the server answered with HTTP status {code}"),
        };
        Self { code, reason: text("/reason"), message, about, causes, doing: None }
    }

    /// The field managers that an apply is in conflict with (`conflict with "NAME" using ...`), nobody where this
    /// is another failure.
    pub(crate) fn managers(&self) -> Vec<&str> {
        if self.code != 409 || !self.message.starts_with("Apply failed") {
            return Vec::new();
        }
        let name = |(_, message): &'_ (String, String)| -> Option<std::ops::Range<usize>> {
            let start = message.find("conflict with \"")? + "conflict with \"".len();
            Some(start..start + message[start..].find('"')?)
        };
        self.causes.iter().map(|cause| name(cause).map_or("", |range| &cause.1[range])).collect()
    }

    /// An object that breaks the rules: kubectl lists what is wrong, field by field.
    fn invalid(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.about {
            Some((kind, name)) if !kind.is_empty() || !name.is_empty() => {
                write!(f, "The {kind} \"{}\" is invalid", name.escape_default())?;
            }
            _ if self.causes.is_empty() => return write!(f, "The request is invalid: {}", self.message),
            _ => write!(f, "The request is invalid")?,
        }
        let line = |(field, message): &(String, String)| match field.as_str() {
            "" => message.clone(),
            field => format!("{field}: {message}"),
        };
        match self.causes.as_slice() {
            [] => Ok(()),
            [one] => write!(f, ": {}", line(one)),
            several => {
                write!(f, ": ")?;
                several.iter().try_for_each(|cause| write!(f, "\n* {}", line(cause)))
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason == "Invalid" {
            return self.invalid(f);
        }
        if self.reason == "Unauthorized" {
            return write!(f, "error: You must be logged in to the server ({})", self.message);
        }
        match self.reason.as_str() {
            "" => write!(f, "Error from server: ")?,
            reason => write!(f, "Error from server ({reason}): ")?,
        }
        if let Some(doing) = &self.doing {
            write!(f, "{doing}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(text) => f.write_str(text),
            Self::Server(refusal) => refusal.fmt(f),
            Self::OutputClosed => f.write_str("error: standard output is closed"),
        }
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::of(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn server_answers_are_told_in_kubectls_words() {
        let body =
            json!({"reason": "NotFound", "message": "pods \"x\" not found", "details": {"kind": "pods", "name": "x"}});
        assert_eq!(Failure::answered(404, &body).to_string(), "Error from server (NotFound): pods \"x\" not found");
        let body = json!({"reason": "Invalid", "message": "m", "details": {"kind": "Pod", "name": "x", "causes": [
            {"field": "spec.a", "message": "Required value"}]}});
        assert_eq!(Failure::answered(422, &body).to_string(), "The Pod \"x\" is invalid: spec.a: Required value");
        assert_eq!(
            Failure::answered(500, &json!("boom")).to_string(),
            "Error from server: the server answered with HTTP status 500"
        );
    }
}

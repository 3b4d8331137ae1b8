//! The `authorizer` of admission expressions: a check is put together by methods and asked by `check(verb)`.
//! Kubernetes documentation, "CEL in Kubernetes", authorizer library (k8s.io/apiserver/pkg/cel/library/authz.go).
use super::EvaluationError;
use kube_cel::cel::Value;
use kube_cel::cel::objects::Opaque;
use std::sync::Arc;

/// What is asked, as far as it is put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// As whom: namespace and name of a service account; `None`: who made the request.
    pub service_account: Option<(String, String)>,
    /// A path that is no resource.
    pub path: Option<String>,
    /// A group; with `resource` a resource of it.
    pub group: String,
    /// The plural of a resource.
    pub resource: String,
    /// The path below an object.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The name of one object.
    pub name: String,
}

/// A check on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Partial {
    check: Check,
    step: Step,
    /// What the request itself is about: `authorizer.requestResource`.
    request: Option<Check>,
}

/// How far a check is put together, which says what methods it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Authorizer,
    Path,
    Group,
    Resource,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may be done.
    pub allowed: bool,
    /// Why not.
    pub reason: String,
}

/// Decides about a verb and a check.
pub type Authorize<'a> = dyn Fn(&str, &Check) -> Decision + 'a;

impl Opaque for Partial {
    fn runtime_type_name(&self) -> &str {
        match self.step {
            Step::Authorizer => "kubernetes.authorization.Authorizer",
            Step::Path => "kubernetes.authorization.PathCheck",
            Step::Group => "kubernetes.authorization.GroupCheck",
            Step::Resource => "kubernetes.authorization.ResourceCheck",
        }
    }
}

impl Opaque for Decision {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.authorization.Decision"
    }
}

impl Check {
    /// The value of the variable `authorizer` in a request about `request`.
    pub fn authorizer(request: Check) -> Value {
        let start = Partial { check: Self::default(), step: Step::Authorizer, request: Some(request) };
        Value::Opaque(Arc::new(start))
    }
}

/// The field of an authorizer. `None`: the value is none, or has no such field.
pub(super) fn field(value: &Value, name: &str) -> Option<Value> {
    let Value::Opaque(opaque) = value else { return None };
    let start = opaque.downcast_ref::<Partial>()?;
    let check = start.request.clone().filter(|_| name == "requestResource" && start.step == Step::Authorizer)?;
    Some(Value::Opaque(Arc::new(Partial { check, step: Step::Resource, request: None })))
}

/// A method of a check or a decision. `None`: the target is neither, or has no such method.
pub(super) fn call(
    function: &str,
    target: &Value,
    arguments: &[Value],
    authorize: Option<&Authorize<'_>>,
) -> Option<Result<Value, EvaluationError>> {
    let Value::Opaque(opaque) = target else { return None };
    if let Some(decision) = opaque.downcast_ref::<Decision>() {
        return match function {
            "allowed" => Some(Ok(Value::Bool(decision.allowed))),
            "reason" => Some(Ok(Value::String(Arc::new(decision.reason.clone())))),
            // Looking a rule up does not fail here.
            "errored" => Some(Ok(Value::Bool(false))),
            "error" => Some(Ok(Value::String(Arc::default()))),
            _ => None,
        };
    }
    let Partial { mut check, mut step, request } = opaque.downcast_ref::<Partial>()?.clone();
    let texts: Option<Vec<&str>> = arguments
        .iter()
        .map(|argument| match argument {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    match (step, function, texts?.as_slice()) {
        (Step::Path | Step::Resource, "check", [verb]) => {
            let Some(authorize) = authorize else {
                return Some(Err(EvaluationError::NoSuchAttribute("authorizer".into())));
            };
            return Some(Ok(Value::Opaque(Arc::new(authorize(verb, &check)))));
        }
        (Step::Authorizer, "path", [path]) => {
            (check.path, step) = (Some((*path).to_owned()), Step::Path);
        }
        (Step::Authorizer, "group", [group]) => {
            (check.group, step) = ((*group).to_owned(), Step::Group);
        }
        (Step::Authorizer, "serviceAccount", [namespace, name]) => {
            check.service_account = Some(((*namespace).to_owned(), (*name).to_owned()));
        }
        (Step::Group, "resource", [resource]) => {
            (check.resource, step) = ((*resource).to_owned(), Step::Resource);
        }
        (Step::Resource, "subresource", [name]) => check.subresource = (*name).to_owned(),
        (Step::Resource, "namespace", [name]) => check.namespace = (*name).to_owned(),
        (Step::Resource, "name", [name]) => check.name = (*name).to_owned(),
        // Rules do not look at selectors here; a check with one is answered as the one without, which asks for more.
        (Step::Resource, "fieldSelector" | "labelSelector", [_]) => {}
        _ => return None,
    }
    Some(Ok(Value::Opaque(Arc::new(Partial { check, step, request }))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Budget, Environment, compile};

    #[test]
    fn checks_are_put_together_and_asked() {
        let seen = std::cell::RefCell::new(Vec::new());
        let authorize = |verb: &str, check: &Check| {
            seen.borrow_mut().push((verb.to_owned(), check.clone()));
            Decision { allowed: check.name == "a" || check.path.is_some(), reason: "no".into() }
        };
        let request = Check { resource: "pods".into(), name: "a".into(), ..Check::default() };
        let ask = |source: &str| {
            let program = compile(source, &Environment::new(&["authorizer"])).map_err(|error| error.to_string())?;
            let mut variables = Activation::default();
            variables.set("authorizer", Check::authorizer(request.clone()));
            variables.set_authorizer(&authorize);
            program.evaluate_bool(&variables, &Budget::default()).map_err(|error| error.to_string())
        };
        assert_eq!(ask("authorizer.requestResource.check('delete').allowed()"), Ok(true));
        assert_eq!(ask("authorizer.path('/healthz').check('get').allowed()"), Ok(true));
        let long = "authorizer.serviceAccount('n', 's').group('apps').resource('deployments').subresource('scale')\
            .namespace('default').name('b').check('update')";
        assert_eq!(ask(&format!("{long}.allowed()")), Ok(false));
        assert_eq!(ask(&format!("{long}.reason() == 'no' && !{long}.errored()")), Ok(true));
        let (verb, check) = seen.borrow()[2].clone();
        assert_eq!((verb.as_str(), check.group.as_str(), check.subresource.as_str()), ("update", "apps", "scale"));
        assert_eq!(check.service_account, Some(("n".into(), "s".into())));
        assert!(ask("authorizer.check('get').allowed()").unwrap_err().contains("no such overload"));
        assert!(ask("authorizer.group('a').allowed()").unwrap_err().contains("no such overload"));
        assert!(ask("authorizer.resource").is_err());
    }
}

//! What expressions see of a request, and conditions on it.
use super::{Purpose, compiled, text};
use crate::tree::list;
use controller_cel::authorizer::{Authorize, Check};
use controller_cel::{self as cel, Activation, Budget, EvaluationError, Program};
use serde_json::Value;

/// A request, as expressions see it.
pub struct Scope<'a> {
    object: cel::Value,
    old: cel::Value,
    request: cel::Value,
    namespace: cel::Value,
    authorizer: cel::Value,
    authorize: &'a Authorize<'a>,
    budget: &'a Budget<'a>,
}

impl<'a> Scope<'a> {
    /// `request` is an AdmissionRequest without the objects, `check` what the request itself is about.
    pub fn new(
        object: Option<&Value>,
        old: Option<&Value>,
        request: &Value,
        check: Check,
        authorize: &'a Authorize<'a>,
        budget: &'a Budget<'a>,
    ) -> Self {
        let value = |json: Option<&Value>| json.map_or(cel::Value::Null, cel::from_json);
        Self {
            object: value(object),
            old: value(old),
            request: cel::from_json(request),
            namespace: cel::Value::Null,
            authorizer: Check::authorizer(check),
            authorize,
            budget,
        }
    }

    /// The same in a namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: Option<&Value>) -> Self {
        self.namespace = namespace.map_or(cel::Value::Null, cel::from_json);
        self
    }

    /// Every variable, with the parameters of one evaluation.
    pub(super) fn activation<'p>(&self, params: Option<&Value>, variables: &'p [(String, Program)]) -> Activation<'p>
    where
        'a: 'p,
    {
        let mut activation = Activation::default();
        activation.set("object", self.object.clone());
        activation.set("oldObject", self.old.clone());
        activation.set("request", self.request.clone());
        activation.set("namespaceObject", self.namespace.clone());
        activation.set("authorizer", self.authorizer.clone());
        activation.set("params", params.map_or(cel::Value::Null, cel::from_json));
        activation.set_authorizer(self.authorize);
        for (name, program) in variables {
            activation.set_lazy("variables", name, program);
        }
        activation
    }

    pub(super) fn budget(&self) -> &Budget<'a> {
        self.budget
    }
}

/// `expression 'x' resulted in error: ...`
pub(super) fn failed(source: &str, error: &EvaluationError) -> String {
    format!("expression '{source}' resulted in error: {error}")
}

/// The kind of a policy's parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamKind {
    /// `apps/v1`
    pub api_version: String,
    /// `Deployment`
    pub kind: String,
}

impl ParamKind {
    /// Of a policy's spec.
    pub fn read(spec: &Value) -> Option<Self> {
        let kind = spec.get("paramKind").filter(|kind| !kind.is_null())?;
        Some(Self { api_version: text(kind, "apiVersion").to_owned(), kind: text(kind, "kind").to_owned() })
    }
}

/// `matchConditions`: all must hold.
#[derive(Clone, Debug, Default)]
pub struct Conditions(Vec<Result<Program, String>>);

impl Conditions {
    /// Of a webhook or of a policy's spec. `params`: the policy has parameters.
    pub fn read(holder: &Value, params: bool) -> Self {
        let conditions = list(holder, &["matchConditions"]).iter();
        Self(conditions.map(|one| compiled(text(one, "expression").trim(), Purpose::Condition, params)).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold. One that does not decides, whatever happened to the others.
    pub fn hold(&self, scope: &Scope<'_>, params: Option<&Value>) -> Result<bool, String> {
        let mut errors = Vec::new();
        let activation = scope.activation(params, &[]);
        for condition in &self.0 {
            match condition {
                Ok(program) => match program.evaluate_bool(&activation, scope.budget()) {
                    Ok(true) => {}
                    Ok(false) => return Ok(false),
                    Err(error) => errors.push(failed(program.source(), &error)),
                },
                Err(error) => errors.push(error.clone()),
            }
        }
        match errors.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

//! MutatingAdmissionPolicy: what its expressions change.
use super::scope::{Conditions, ParamKind, Scope, failed};
use super::{Compiler, Purpose, text};
use crate::resource::Resource;
use crate::tree::list;
use crate::{apply, decode, patch};
use controller_cel::Program;
use serde_json::Value;

/// A policy, compiled.
#[derive(Clone, Debug)]
pub struct Mutating {
    /// Whether an error refuses the request.
    pub fails_closed: bool,
    /// Whether it wants to see the object again when others changed it.
    pub reinvoked: bool,
    /// The kind of its parameters.
    pub params: Option<ParamKind>,
    conditions: Conditions,
    variables: Vec<(String, Program)>,
    mutations: Vec<Mutation>,
    broken: Option<String>,
}

#[derive(Clone, Debug)]
enum Mutation {
    ApplyConfiguration(Program),
    JsonPatch(Program),
}

/// What one mutation wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// These fields, as by server-side apply.
    Apply(Value),
    /// These operations.
    Patch(Value),
}

impl Mutating {
    /// Compiles a policy.
    pub fn read(policy: &Value) -> Self {
        let spec = &policy["spec"];
        let params = ParamKind::read(spec);
        let has_params = params.is_some();
        let mut compiler = Compiler::new(has_params);
        let variables = compiler.variables(spec);
        let mutations = list(spec, &["mutations"]).iter().filter_map(|one| match text(one, "patchType") {
            "ApplyConfiguration" => {
                let source = text(&one["applyConfiguration"], "expression");
                compiler.program(source, Purpose::ApplyConfiguration).map(Mutation::ApplyConfiguration)
            }
            _ => compiler.program(text(&one["jsonPatch"], "expression"), Purpose::JsonPatch).map(Mutation::JsonPatch),
        });
        let mutations = mutations.collect();
        Self {
            fails_closed: text(spec, "failurePolicy") != "Ignore",
            reinvoked: text(spec, "reinvocationPolicy") == "IfNeeded",
            conditions: Conditions::read(spec, has_params),
            params,
            variables,
            mutations,
            broken: compiler.broken,
        }
    }

    /// Whether the policy is for this request at all.
    pub fn is_meant(&self, scope: &Scope<'_>, params: Option<&Value>) -> Result<bool, String> {
        match &self.broken {
            Some(broken) => Err(broken.clone()),
            None => self.conditions.hold(scope, params),
        }
    }

    /// How many mutations it has; each sees what those before it made.
    pub fn len(&self) -> usize {
        self.mutations.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.mutations.is_empty()
    }

    /// What one mutation wants of the object as it is in `scope`.
    pub fn change(&self, index: usize, scope: &Scope<'_>, params: Option<&Value>) -> Result<Option<Change>, String> {
        let Some(mutation) = self.mutations.get(index) else { return Ok(None) };
        let activation = scope.activation(params, &self.variables);
        let (Mutation::ApplyConfiguration(program) | Mutation::JsonPatch(program)) = mutation;
        let value = program.evaluate_json(&activation, scope.budget());
        let value = value.map_err(|error| failed(program.source(), &error))?;
        match (mutation, &value) {
            (Mutation::ApplyConfiguration(_), Value::Object(_)) => Ok(Some(Change::Apply(value))),
            (Mutation::ApplyConfiguration(_), _) => Err("ApplyConfiguration expression must return an Object".into()),
            (Mutation::JsonPatch(_), Value::Array(_)) => Ok(Some(Change::Patch(value))),
            (Mutation::JsonPatch(_), _) => Err("JSONPatch expression must return a list of JSONPatch".into()),
        }
    }
}

/// The object with a change.
pub fn applied(resource: &Resource, object: &Value, change: &Change) -> Result<Value, String> {
    match change {
        Change::Patch(operations) => {
            patch::json_patch(object, operations).map_err(|status| format!("JSON Patch: {}", status.message))
        }
        Change::Apply(wanted) => {
            let mut wanted = wanted.clone();
            decode::conform(resource, &mut wanted, decode::FieldValidation::Strict)
                .map_err(|status| format!("error applying patch: {}", status.message))?;
            for key in ["apiVersion", "kind"] {
                let own = object.get(key);
                if wanted.get(key).is_some_and(|given| Some(given) != own) {
                    return Err(format!("error applying patch: {key} may not be changed"));
                }
            }
            if let Some(path) = apply::atomic_path(resource, &wanted) {
                return Err(format!(
                    "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {path}"
                ));
            }
            Ok(apply::merged(resource, object, &wanted))
        }
    }
}

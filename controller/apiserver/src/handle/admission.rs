//! What each verb tells admission, and what happens between its two phases: defaults, validation, allocation.

use controller_object::resource::{Resource, Subresource, Table};
use controller_object::status::{Cause, Status};
use controller_object::{apply, decode, defaulting, policy, scale, validation};
use serde_json::{Value, json};

use super::Context;
use crate::admit::{self, Attributes, Charge, Operation};
use crate::registry::names;
use crate::service::{World, allocate};

/// The resource whose status says what is wrong with its expressions.
const POLICIES: (&str, &str) = ("admissionregistration.k8s.io", "validatingadmissionpolicies");

impl Context {
    /// The options of a create, update or patch, as their own kinds name them.
    fn options(&self) -> Result<Value, Status> {
        let mut options = json!({});
        if self.query.dry_run()? {
            options["dryRun"] = json!(["All"]);
        }
        for key in ["fieldManager", "fieldValidation"] {
            if let Some(value) = self.query.get(key) {
                options[key] = value.into();
            }
        }
        Ok(options)
    }

    fn attributes<'a>(
        &'a self,
        operation: Operation,
        name: &'a str,
        old: Option<&'a Value>,
        options: &'a Value,
    ) -> Attributes<'a> {
        let dry_run = options.get("dryRun").and_then(Value::as_array).is_some_and(|stages| !stages.is_empty());
        // A namespace is in itself, as the paths below it are.
        let namespace = if self.resource.is("", "namespaces") { Some(name) } else { self.namespace() };
        Attributes {
            state: &self.state,
            user: &self.user,
            resource: &self.resource,
            subresource: self.subresource,
            operation,
            namespace: namespace.filter(|namespace| !namespace.is_empty()),
            name,
            old,
            options,
            dry_run,
            warnings: &self.warnings,
            annotations: &self.annotations,
        }
    }

    /// Both phases of admission for an object that will be stored, with validation between them. `prepare` puts in what
    /// the server itself writes; it is asked again after others changed the object. What the
    /// object costs goes with the commit that stores it.
    pub(super) async fn admit(
        &self,
        old: Option<&Value>,
        object: &mut Value,
        prepare: impl Fn(&mut Value),
    ) -> Result<Charge, Status> {
        if self.request.subresource.as_deref() == Some(Subresource::Scale.as_str()) {
            return self.admit_scale(old, object, prepare).await;
        }
        let operation = if old.is_none() { Operation::Create } else { Operation::Update };
        let (options, name) = (self.options()?, names(object).1.to_owned());
        let attributes = self.attributes(operation, &name, old, &options);
        let managed = object.pointer("/metadata/managedFields").cloned();
        let changed = admit::mutate(&attributes, Some(object)).await?;
        if changed {
            self.settle_identity(object)?;
            keep_managed(object, managed);
            if object.to_string().len() > decode::MAX_BYTES {
                let detail = format!("admission made the object larger than {} bytes", decode::MAX_BYTES);
                return Err(Status::request_entity_too_large(&detail));
            }
            apply::settle(&self.resource, object);
        }
        // What a pod asks for decides its class.
        if changed || attributes.creates("", "pods") {
            defaulting::default(&self.resource, object);
            prepare(object);
        }
        self.check(old, object)?;
        admit::validate(&attributes, Some(object)).await
    }

    /// The same for a change of replicas: admission sees the Scale, what is checked and stored is the parent.
    async fn admit_scale(
        &self,
        old: Option<&Value>,
        object: &mut Value,
        prepare: impl Fn(&mut Value),
    ) -> Result<Charge, Status> {
        let missing = || Status::internal_error("the object has no scale");
        let options = self.options()?;
        let before = old.and_then(|old| scale::scale_of(&self.resource, old));
        let mut shown = scale::scale_of(&self.resource, object).ok_or_else(missing)?;
        let attributes = self.attributes(Operation::Update, self.name(), before.as_ref(), &options);
        let attributes = Attributes { subresource: Some(Subresource::Scale), ..attributes };
        if admit::mutate(&attributes, Some(&mut shown)).await? {
            scale::set_replicas(&self.resource, object, &shown)?;
            prepare(object);
        }
        self.check(old, object)?;
        admit::validate(&attributes, Some(&shown)).await
    }

    /// Everything that is wrong with an object that will be stored; Services get their addresses here.
    fn check(&self, old: Option<&Value>, object: &mut Value) -> Result<(), Status> {
        let causes = match old {
            None => validation::validate_create(&self.resource, object),
            Some(old) => validation::validate_update(&self.resource, old, object, self.subresource),
        };
        self.refuse_invalid(object, causes)?;
        if self.resource.is(POLICIES.0, POLICIES.1) && self.subresource.is_none() {
            tell_of_types(&self.state.registry.table(), object);
        }
        if self.resource.custom.is_some() {
            controller_object::custom::finalizer_warnings(old, object)
                .into_iter()
                .for_each(|warning| self.warnings.add(warning));
        }
        if self.resource.is("", "services") && self.subresource.is_none() {
            let registry = &self.state.registry;
            let is_taken = |key: &bytes::Bytes| registry.store.get(key).is_some();
            let world = World { old, is_taken: &is_taken, random: rand::random() };
            let causes = allocate(registry.ranges, &world, object);
            return self.refuse_invalid(object, causes);
        }
        Ok(())
    }

    fn refuse_invalid(&self, object: &Value, causes: Vec<Cause>) -> Result<(), Status> {
        match causes.is_empty() {
            true => Ok(()),
            false => Err(Status::invalid(&self.resource, names(object).1, causes)),
        }
    }

    /// Both phases for the object of a subresource that is acted on and not stored: Binding, Eviction, TokenRequest.
    pub(super) async fn admit_exchanged(&self, object: &mut Value) -> Result<(), Status> {
        let (options, name) = (self.options()?, self.name().to_owned());
        let name = if name.is_empty() { names(object).1.to_owned() } else { name };
        let attributes = self.attributes(Operation::Create, &name, None, &options);
        if admit::mutate(&attributes, Some(object)).await? {
            self.settle_identity(object)?;
        }
        admit::validate(&attributes, Some(object)).await.map(drop)
    }

    /// Both phases for a deletion; `options` are its DeleteOptions.
    pub(super) async fn admit_deletion(&self, object: &Value, options: &Value) -> Result<(), Status> {
        let attributes = self.attributes(Operation::Delete, names(object).1, Some(object), options);
        admit::mutate(&attributes, None).await?;
        admit::validate(&attributes, None).await.map(drop)
    }

    /// Both phases for a connection, which admission sees as the options that its query says.
    pub(crate) async fn admit_connection(&self, subresource: Subresource) -> Result<(), Status> {
        let mut object = connection(&self.resource, subresource, self);
        let options = json!({});
        let attributes = self.attributes(Operation::Connect, self.name(), None, &options);
        admit::mutate(&attributes, Some(&mut object)).await?;
        admit::validate(&attributes, Some(&object)).await.map(drop)
    }
}

/// `PodExecOptions`, `PodAttachOptions`, `PodPortForwardOptions` and the options of proxies.
fn connection(resource: &Resource, subresource: Subresource, context: &Context) -> Value {
    let all = |name: &str| -> Vec<String> {
        let pairs = context.query.pairs().iter().filter(|(own, value)| own == name && !value.is_empty());
        pairs.map(|(_, value)| value.clone()).collect()
    };
    let kind = match subresource {
        Subresource::Exec => "PodExecOptions".to_owned(),
        Subresource::Attach => "PodAttachOptions".to_owned(),
        Subresource::PortForward => "PodPortForwardOptions".to_owned(),
        _ => format!("{}ProxyOptions", resource.kind),
    };
    let mut object = json!({"apiVersion": "v1", "kind": kind});
    match subresource {
        Subresource::PortForward => {
            let ports: Vec<i64> = all("ports").iter().filter_map(|port| port.parse().ok()).collect();
            if !ports.is_empty() {
                object["ports"] = json!(ports);
            }
        }
        Subresource::Exec | Subresource::Attach => {
            for flag in ["stdin", "stdout", "stderr", "tty"] {
                if context.query.flag(flag) {
                    object[flag] = true.into();
                }
            }
            if let Some(container) = context.query.get("container") {
                object["container"] = container.into();
            }
            let command = all("command");
            if !command.is_empty() {
                object["command"] = json!(command);
            }
        }
        _ if !context.request.rest.is_empty() => object["path"] = context.request.rest.as_str().into(),
        _ => {}
    }
    object
}

/// What a look at its expressions tells of a ValidatingAdmissionPolicy stands in its status from the start.
fn tell_of_types(table: &Table, policy: &mut Value) {
    let warnings = policy::warnings(table, policy);
    let checking = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    let generation = policy["metadata"]["generation"].clone();
    let status = policy.as_object_mut().map(|map| map.entry("status").or_insert_with(|| json!({})));
    if let Some(status) = status.filter(|status| status.is_object()) {
        status["observedGeneration"] = generation;
        status["typeChecking"] = checking;
    }
}

/// Whose fields these are is not for others to say.
fn keep_managed(object: &mut Value, managed: Option<Value>) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    match managed {
        Some(managed) => drop(metadata.insert("managedFields".into(), managed)),
        None => drop(metadata.remove("managedFields")),
    }
}
